//! A task as the REST API shows it. *Pure.*

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use utoipa::{ToSchema, openapi::schema::Schema};

use crate::{
    duration,
    task::{Amount, FailedNode, FailurePolicy, ORIGIN_LABEL, Phase, PrewarmTask, RetryStrategy},
};

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not begun.
    Pending,
    /// At work.
    Running,
    /// Enough nodes are warm.
    Completed,
    /// It ended otherwise.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing follows it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl From<Phase> for Status {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Pending => Self::Pending,
            Phase::Snapshotting | Phase::Running | Phase::Finalizing => Self::Running,
            Phase::Completed => Self::Completed,
            Phase::Failed => Self::Failed,
            Phase::Cancelled => Self::Cancelled,
        }
    }
}

/// How the time between tries grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetryGrowth {
    /// Once, twice, three times the first delay.
    Linear,
    /// Once, twice, four times the first delay.
    Exponential,
}

impl From<RetryStrategy> for RetryGrowth {
    fn from(strategy: RetryStrategy) -> Self {
        match strategy {
            RetryStrategy::Linear => Self::Linear,
            RetryStrategy::Exponential => Self::Exponential,
        }
    }
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// How many nodes were chosen.
    pub total_nodes: u32,
    /// On how many of them every image is warm.
    pub completed_nodes: u32,
    /// How many failed.
    pub failed_nodes: u32,
    /// The batch at work, from 1; 0 before the first.
    pub current_batch: u32,
    /// How many batches there are.
    pub total_batches: u32,
    /// 100 × `completedNodes` / `totalNodes`, with one decimal.
    pub percentage: f64,
}

/// An image that could not be had on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedNodeDetail {
    /// The node.
    pub node_name: String,
    /// The image; empty where the failure is the node's.
    pub image: String,
    /// One word of a closed set, such as `ImageNotFound`.
    pub reason: String,
    /// The words of the kubelet, the API server or the controller.
    pub message: String,
    /// When it was seen, RFC 3339.
    pub timestamp: String,
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// The word for why.
    pub reason: String,
    /// The image; empty where the failures are the nodes'.
    pub image: String,
    /// The nodes, by name, each once.
    pub nodes: BTreeSet<String>,
    /// What was said first.
    pub message: String,
}

/// Failures by reason and image, most frequent first.
#[must_use]
pub fn failure_groups(failures: &[FailedNodeDetail]) -> Vec<FailureGroup> {
    let mut groups: Vec<FailureGroup> = Vec::new();
    for failure in failures {
        let same = groups.iter_mut().find(|group| group.reason == failure.reason && group.image == failure.image);
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

/// What became of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetail {
    /// The image.
    pub image: String,
    /// On how many nodes it is warm.
    pub completed_nodes: u32,
    /// On how many nodes it could not be had.
    pub failed_nodes: u32,
    /// Its digest, where the nodes have told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    /// The name of its `PrewarmTask`.
    pub task_id: String,
    /// Its namespace.
    pub namespace: String,
    /// Where it stands.
    pub status: Status,
    /// The images.
    pub images: Vec<String>,
    /// How many nodes at once: a number, or a percentage such as `25%`.
    #[schema(schema_with = amount_schema)]
    pub batch_size: Amount,
    /// Labels that its nodes carry.
    pub node_selector: BTreeMap<String, String>,
    /// 1 to 10; higher goes first.
    pub priority: u32,
    /// How many further tries a failed node gets.
    pub max_retries: u32,
    /// How the time between tries grows.
    pub retry_strategy: RetryGrowth,
    /// Seconds before the first further try.
    pub retry_delay: u64,
    /// Who made it: `rest`, `admission`, `schedule` or `user`.
    pub origin: String,
    /// How far it is.
    pub progress: Progress,
    /// What became of each image.
    pub image_details: Vec<ImageDetail>,
    /// The failures; at most 100, of which `progress.failedNodes` counts all.
    pub failed_node_details: Vec<FailedNodeDetail>,
    /// What it is doing, or why it ended as it did.
    pub message: String,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// RFC 3339; absent before it is begun.
    pub started_at: Option<String>,
    /// RFC 3339; absent before its end.
    pub finished_at: Option<String>,
    /// RFC 3339; when it may end at the present pace.
    pub estimated_completion: Option<String>,
}

/// A whole number, or a text.
#[must_use]
pub fn amount_schema() -> Schema {
    Amount::schema("How many nodes at once: a number, or a percentage such as `25%`.")
}

/// The delay before a further try where a task names none, in seconds.
const RETRY_DELAY: u64 = 30;

impl TaskView {
    /// A task as it is.
    #[must_use]
    pub fn of(task: &PrewarmTask) -> Self {
        let (spec, status) = (&task.spec, task.status.clone().unwrap_or_default());
        let retry = spec.retry.clone().filter(|_| spec.failure_policy == FailurePolicy::Retry);
        let delay = retry.as_ref().and_then(|rule| duration::parse(rule.delay.as_deref()?).ok());
        let begun = status.total_batches > 0;
        Self {
            task_id: task.name_any(),
            namespace: task.namespace().unwrap_or_default(),
            status: status.phase.into(),
            images: spec.images.clone(),
            batch_size: spec.batch_size.clone(),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            priority: spec.priority,
            max_retries: retry.as_ref().map_or(0, |rule| rule.limit),
            retry_strategy: retry.as_ref().map(|rule| rule.strategy).unwrap_or_default().into(),
            retry_delay: delay.map_or(RETRY_DELAY, |delay| delay.as_secs()),
            origin: task.labels().get(ORIGIN_LABEL).cloned().unwrap_or_else(|| "user".into()),
            progress: Progress {
                total_nodes: status.total_nodes,
                completed_nodes: status.succeeded_nodes,
                failed_nodes: status.failed_node_count,
                current_batch: if begun {
                    status.current_batch_index.saturating_add(1).min(status.total_batches)
                } else {
                    0
                },
                total_batches: status.total_batches,
                percentage: percentage(status.succeeded_nodes, status.total_nodes),
            },
            image_details: status.images.iter().map(image).collect(),
            failed_node_details: status.failed_nodes.into_iter().map(FailedNodeDetail::from).collect(),
            message: status.conditions.iter().find(|one| one.type_ == "Progressing").map_or_else(String::new, |one| {
                if one.message.is_empty() { one.reason.clone() } else { one.message.clone() }
            }),
            created_at: task.creation_timestamp().map(|time| time.0.to_string()),
            started_at: status.start_time,
            finished_at: status.completion_time,
            estimated_completion: status.estimated_completion,
        }
    }
}

fn percentage(part: u32, whole: u32) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (f64::from(part) * 1000.0 / f64::from(whole)).round() / 10.0
}

fn image(status: &crate::task::ImageStatus) -> ImageDetail {
    ImageDetail {
        image: status.image.clone(),
        completed_nodes: status.succeeded,
        failed_nodes: status.failed,
        digest: status.digest.clone(),
    }
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
