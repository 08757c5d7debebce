//! Failures of images on nodes, as users see them.

use std::collections::BTreeSet;

use prewarmer_api::task::FailedNode;
use serde::{Deserialize, Serialize};

/// Failed image on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct FailedNodeDetail {
    /// Name of the node.
    pub node_name: String,
    /// Image reference; empty when the failure concerns the node.
    pub image: String,
    /// Reason, one word of a closed set, such as `ImageNotFound`.
    pub reason: String,
    /// Message of the kubelet, the API server or the controller.
    pub message: String,
    /// Time at which the failure was observed, RFC 3339.
    pub timestamp: String,
}

impl From<FailedNode> for FailedNodeDetail {
    fn from(node: FailedNode) -> Self {
        Self {
            node_name: node.node,
            image: node.image,
            reason: node.reason,
            message: node.message,
            timestamp: node.time,
        }
    }
}

/// Failures with the same reason and image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// Reason of the failures.
    pub reason: String,
    /// Image reference; empty when the failures concern the nodes.
    pub image: String,
    /// Names of the nodes.
    pub nodes: BTreeSet<String>,
    /// Message of the first failure.
    pub message: String,
}

/// Groups failures by reason and image, most nodes first.
#[must_use]
pub fn failure_groups(failures: &[FailedNodeDetail]) -> Vec<FailureGroup> {
    let mut groups: Vec<FailureGroup> = Vec::new();
    for failure in failures {
        let same = groups
            .iter_mut()
            .find(|group| group.reason == failure.reason && group.image == failure.image);
        if let Some(group) = same {
            group.nodes.insert(failure.node_name.clone());
        } else {
            groups.push(FailureGroup {
                reason: failure.reason.clone(),
                image: failure.image.clone(),
                nodes: [failure.node_name.clone()].into(),
                message: failure.message.clone(),
            });
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.nodes.len()));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_grouped_by_reason_and_image() {
        let one = |node: &str, reason: &str| FailedNodeDetail {
            node_name: node.into(),
            image: "a:1".into(),
            reason: reason.into(),
            message: format!("message of {node}"),
            timestamp: String::new(),
        };
        let groups = failure_groups(&[
            one("n3", "Timeout"),
            one("n2", "TLS"),
            one("n1", "TLS"),
            one("n2", "TLS"),
        ]);
        let shown: Vec<(&str, usize, &str)> = groups
            .iter()
            .map(|group| (group.reason.as_str(), group.nodes.len(), group.message.as_str()))
            .collect();
        assert_eq!(shown, [("TLS", 2, "message of n2"), ("Timeout", 1, "message of n3")]);
    }
}
