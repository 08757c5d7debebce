//! Nodes and the times of their creation.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::recording::Recording;

/// Nodes of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    /// Times of creation in milliseconds since 1970, by name.
    created: HashMap<String, i64>,
    /// Number of nodes, where their times are not known.
    seen: Option<u32>,
}

impl Nodes {
    /// Adds a node. Its name is bounded by the API server.
    pub fn add(&mut self, metadata: &ObjectMeta) {
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0.as_millisecond());
        if let (Some(name), Some(created)) = (&metadata.name, created) {
            self.insert(name, created);
        }
    }

    pub(super) fn insert(&mut self, name: &str, created: i64) {
        self.created.insert(name.to_owned(), created);
    }

    /// Returns the nodes that the starts name, whose times of creation are not known.
    pub(super) fn seen_in(recording: &Recording) -> Self {
        let nodes: HashSet<&str> = recording.starts.iter().map(|start| &*start.node).collect();
        Self::of_count(u32::try_from(nodes.len()).unwrap_or(u32::MAX))
    }

    /// Returns this number of nodes with unknown names and times.
    pub(super) fn of_count(count: u32) -> Self {
        Self { created: HashMap::new(), seen: Some(count) }
    }

    /// Returns the number of nodes.
    pub(super) fn count(&self) -> u32 {
        self.seen.unwrap_or_else(|| u32::try_from(self.created.len()).unwrap_or(u32::MAX))
    }

    /// Reports whether a node existed at a time in milliseconds since 1970. Where no times are known,
    /// all nodes did; a node that is deleted did not.
    pub(super) fn existed(&self, name: &str, at: i64) -> bool {
        self.seen.is_some() || self.created.get(name).is_some_and(|created| *created <= at)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, created: Option<&str>) -> ObjectMeta {
        serde_json::from_value(json!({"name": name, "creationTimestamp": created})).unwrap()
    }

    #[test]
    fn nodes_exist_since_their_creation() {
        let mut nodes = Nodes::default();
        nodes.add(&node("a", Some("1970-01-01T00:01:40Z")));
        nodes.add(&node("b", None));
        assert_eq!(nodes.count(), 1);
        assert!(nodes.existed("a", 100_000) && !nodes.existed("a", 99_999));
        assert!(!nodes.existed("b", i64::MAX));
    }

    #[test]
    fn unknown_nodes_exist_always() {
        let nodes = Nodes::seen_in(&Recording::of_pod("shop", "web-1"));
        assert_eq!((nodes.count(), nodes.existed("other", i64::MIN)), (1, true));
    }
}
