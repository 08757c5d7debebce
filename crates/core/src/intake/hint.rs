//! Hints: unverified statements of admission reviews that an object needs images; and confirmed
//! hints, which rest on an object that was read from the API server.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;

use super::dedup_keys::{DedupKey, dedup_keys_of_all, is_satisfied};
use crate::{
    dns,
    workload::{ObjectView, Workload, WorkloadKind},
};

/// Maximum length of a UID. UIDs of Kubernetes are UUIDs with 36 characters.
const MAX_UID: usize = 64;

/// Unverified statement of an admission review about an object. Any client that reaches the
/// webhook's port can send reviews. The only effect of a hint is a lookup of the object by
/// namespace and name, whose UID must match.
#[derive(Debug, Clone, PartialEq)]
pub struct Hint {
    /// Kind of the object.
    pub kind: Arc<WorkloadKind>,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object. The API server assigns it before it calls validating webhooks.
    pub uid: String,
    /// `resourceVersion` of the object before the admitted change; `None` for a new object.
    pub replaced_version: Option<String>,
    /// Set if the object of the review has a `nodeName`. The scheduler sets that of a stored pod.
    pub is_placed_by_name: bool,
    /// Time at which the review was received.
    pub since: Timestamp,
    /// Keys that the object needs and did not need before; `None` if the review was not parsed so
    /// far.
    new_keys: Option<Vec<DedupKey>>,
    /// Keys that the object needed before the change. Their images count as present.
    pub kept: Vec<DedupKey>,
}

impl Hint {
    /// Creates a hint for an object of a review in `namespace`, from the object's identity only.
    /// Returns `None` if the object has no valid namespace, name or UID and so cannot be looked up.
    #[must_use]
    pub fn new(kind: &Arc<WorkloadKind>, namespace: &str, object: &ObjectView) -> Option<Self> {
        let metadata = &object.metadata;
        let same = metadata.namespace.is_empty() || metadata.namespace == namespace;
        let valid = same
            && dns::is_label(namespace)
            && dns::is_subdomain(&metadata.name)
            && is_uid(&metadata.uid);
        valid.then(|| Self {
            kind: Arc::clone(kind),
            namespace: namespace.to_owned(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            replaced_version: None,
            is_placed_by_name: object.is_placed_by_name(),
            since: Timestamp::now(),
            new_keys: None,
            kept: Vec::new(),
        })
    }

    /// Returns the hint with the `resourceVersion` of the object before its change.
    #[must_use]
    pub fn with_replaced_version(self, version: &str) -> Self {
        Self { replaced_version: Some(version.to_owned()), ..self }
    }

    /// Returns the hint with the keys of `workloads`, and with those needed before the change.
    #[must_use]
    pub fn with_workloads(self, workloads: &[Workload], kept: Vec<DedupKey>) -> Self {
        Self { new_keys: Some(difference(&dedup_keys_of_all(workloads), &kept)), kept, ..self }
    }

    /// Reports whether both hints have the same UID, replaced version and keys.
    #[must_use]
    pub fn is_equal_hint(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.replaced_version == other.replaced_version
            && self.new_keys == other.new_keys
            && self.kept == other.kept
    }

    /// Returns the keys that are new in the hint, or `None` if the review was not parsed so far.
    #[must_use]
    pub fn new_keys(&self) -> Option<&[DedupKey]> {
        self.new_keys.as_deref()
    }
}

/// Hint whose object was read from the API server. It is created from our own watch, or within
/// intake by a lookup of the object.
#[derive(Debug, Clone)]
pub struct ConfirmedHint {
    /// Namespace of the object.
    pub namespace: String,
    /// Time at which the change of the object was received.
    pub since: Timestamp,
    /// Workloads read from the object.
    pub workloads: Vec<Workload>,
    /// Keys that the object needed before the change. Their images count as present.
    pub kept: Vec<DedupKey>,
    new_keys: Vec<DedupKey>,
}

impl ConfirmedHint {
    /// Creates a hint of a stored object, whose images it already had are `kept`.
    #[must_use]
    pub fn from_stored(
        namespace: &str,
        since: Timestamp,
        workloads: Vec<Workload>,
        kept: Vec<DedupKey>,
    ) -> Self {
        let fresh = difference(&dedup_keys_of_all(&workloads), &kept);
        Self { namespace: namespace.to_owned(), since, workloads, kept, new_keys: fresh }
    }

    /// Returns the keys that are new in the hint.
    #[must_use]
    pub fn new_keys(&self) -> &[DedupKey] {
        &self.new_keys
    }

    /// Returns the keys that the object needed before the change.
    #[must_use]
    pub fn into_previous_keys(self) -> Vec<DedupKey> {
        self.kept
    }
}

/// Returns the keys that are not in `kept`, and neither those of their images with `Always`.
fn difference(keys: &[DedupKey], kept: &[DedupKey]) -> Vec<DedupKey> {
    if kept.is_empty() {
        return keys.to_vec();
    }
    let kept: HashSet<&DedupKey> = kept.iter().collect();
    keys.iter().filter(|key| !is_satisfied(key, &kept)).copied().collect()
}

fn is_uid(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !text.is_empty() && text.len() <= MAX_UID && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::workload::WorkloadKinds;

    fn hint(namespace: &str, metadata: &serde_json::Value) -> Option<Hint> {
        let kinds = WorkloadKinds::default();
        let kind = kinds.find_by_api_version("apps/v1", "Deployment").unwrap();
        Hint::new(kind, namespace, &kind.parse_value(json!({"metadata": metadata})).unwrap())
    }

    #[test]
    fn hint_requires_valid_namespace_name_and_uid() {
        assert!(hint("shop", &json!({"name": "web-1.v2", "uid": "0d6f-1"})).is_some());
        assert!(hint("shop", &json!({"name": "web", "namespace": "shop", "uid": "u"})).is_some());
        for (namespace, metadata) in [
            ("shop", json!({"generateName": "x-", "uid": "u"})),
            ("shop", json!({"name": "web"})),
            ("shop", json!({"name": "web", "uid": ""})),
            ("shop", json!({"name": "web", "uid": "a/b"})),
            ("shop", json!({"name": "web", "namespace": "bank", "uid": "u"})),
            ("", json!({"name": "web", "uid": "u"})),
            ("shop/../bank", json!({"name": "web", "uid": "u"})),
            ("Shop", json!({"name": "web", "uid": "u"})),
            ("a.b", json!({"name": "web", "uid": "u"})),
            (&"a".repeat(64), json!({"name": "web", "uid": "u"})),
        ] {
            assert_eq!(hint(namespace, &metadata), None, "{namespace} {metadata}");
        }
    }

    #[test]
    fn difference_takes_linear_time() {
        let key = |n: u32| {
            let mut key = DedupKey::default();
            key[..4].copy_from_slice(&n.to_be_bytes());
            key
        };
        let (all, kept): (Vec<DedupKey>, Vec<DedupKey>) =
            ((0..200_000).map(key).collect(), (1..200_000).map(key).collect());
        let begun = Instant::now();
        assert_eq!(difference(&all, &kept), [key(0)]);
        // A comparison of each key with each other key takes minutes.
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }
}
