//! Observed state of a task.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::notification::Delivery;

/// Failed nodes listed in a status; further ones are only counted.
pub const MAX_FAILED_NODES: usize = 100;
/// Ignored nodes listed in a status; further ones are only counted.
pub const MAX_IGNORED_NODES: usize = 100;
/// Ends of batches listed in a status.
pub const MAX_BATCH_ENDS: usize = 1000;

/// Phase of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not started: waiting in the queue, or suspended.
    #[default]
    Pending,
    /// The nodes are being selected and recorded in the plan.
    Snapshotting,
    /// The nodes are being warmed.
    Running,
    /// Every node has ended; the remaining workers are being deleted.
    Finalizing,
    /// The images are warm on at least `successThreshold` of the nodes.
    Completed,
    /// Ended without success.
    Failed,
    /// Cancelled by `cancel`.
    Cancelled,
}

impl Phase {
    /// Reports whether the phase is final: `Completed`, `Failed` or `Cancelled`.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Returns the name of the phase as in `status.phase`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Snapshotting => "Snapshotting",
            Self::Running => "Running",
            Self::Finalizing => "Finalizing",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Condition of a task, in the form of Kubernetes conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Progressing`, `Complete` or `Failed`; `Limited`, `Throttled`, `NodesChecked` and
    /// `WorkersInFallbackNamespace` only where they apply.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Time of the last change of `status`, RFC 3339.
    pub last_transition_time: String,
    /// Machine-readable reason, one word in camel case.
    pub reason: String,
    /// Human-readable description.
    pub message: String,
    /// Generation of the spec that the condition refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Image that could not be pulled to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedNode {
    /// Name of the node.
    pub node: String,
    /// Image reference; empty where the failure concerns the node and not a single image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Reason from a closed set, such as `ImageNotFound`.
    pub reason: String,
    /// Original message of the kubelet, the API server or the controller.
    pub message: String,
    /// Time at which the failure was observed, RFC 3339.
    pub time: String,
}

/// Node that matched the placement and was excluded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IgnoredNode {
    /// Name of the node.
    pub node: String,
    /// Reason for the exclusion, such as `NotReady`.
    pub reason: String,
}

/// Result of one image over all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Image reference as in the spec.
    pub image: String,
    /// Number of nodes on which the image is warm.
    pub succeeded: u32,
    /// Number of nodes on which the pull failed.
    pub failed: u32,
    /// Digest that the nodes reported, where the pull method reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Reason why the image is not pulled to further nodes, which count as failed: no node could
    /// pull it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<AbandonedImage>,
}

/// Reason why the pull of an image was abandoned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AbandonedImage {
    /// Reason from the closed set, such as `ImageNotFound`.
    pub reason: String,
    /// Original message of the kubelet.
    pub message: String,
}

/// Observed state of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PrewarmTaskStatus {
    /// Phase of the task.
    pub phase: Phase,
    /// Conditions `Progressing`, `Complete` and `Failed`, and further ones where they apply.
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status refers to.
    pub observed_generation: Option<i64>,
    /// Human-readable progress, such as `45/100 Nodes`.
    pub progress: Option<String>,
    /// Number of selected nodes.
    pub total_nodes: u32,
    /// Number of nodes on which every image is warm.
    pub succeeded_nodes: u32,
    /// Number of those nodes on which every image was already warm, so that nothing was pulled.
    pub already_warm_nodes: u32,
    /// Number of failed nodes.
    pub failed_node_count: u32,
    /// Number of selected nodes that were not tried.
    pub skipped_nodes: u32,
    /// Largest number of retries that a node has needed so far.
    pub current_retry: u32,
    /// Index of the current batch, from 0.
    pub current_batch_index: u32,
    /// Number of batches.
    pub total_batches: u32,
    /// Time at which each batch ended, in seconds after `startTime`, with the delay before retries;
    /// at most the first 1,000 batches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub batch_ends: Vec<u32>,
    /// Failures, at most 100; `failedNodeCount` and `images` count all of them.
    pub failed_nodes: Vec<FailedNode>,
    /// Nodes that matched and were excluded, at most 100; `ignoredNodeCount` counts all of them.
    pub ignored_nodes: Vec<IgnoredNode>,
    /// Number of excluded nodes.
    pub ignored_node_count: u32,
    /// Results per image.
    pub images: Vec<ImageStatus>,
    /// State of each node of the plan, one character each in the plan's order: `.` waiting, `0`
    /// postponed, `1` to `5` failed that many times and to be retried, `s` succeeded, `w` already
    /// warm, `f` failed, `k` skipped. A restarted controller continues from this record.
    pub node_states: String,
    /// Time at which the first node was started, RFC 3339.
    pub start_time: Option<String>,
    /// Time at which the task ended, RFC 3339.
    pub completion_time: Option<String>,
    /// Estimated end of the task at the current rate, RFC 3339.
    pub estimated_completion: Option<String>,
    /// State of the notifications, in the order of `spec.notify`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<Delivery>,
}
