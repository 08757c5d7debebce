//! Form of a task in the REST API, on the pages and in notifications. Pure: no client, no clock, no
//! I/O.

use std::collections::BTreeMap;

use bytes::Bytes;
use kube::ResourceExt;
use prewarmer_core::{
    duration,
    image::ImageRef,
    task::{
        Amount, FailedNodeDetail, FailurePolicy, IgnoredNode, ImageStatus, ORIGIN_LABEL,
        PrewarmTask, PullPolicy, RetryStrategy, Status,
    },
};
use prewarmer_kube::store::TaskEntry;
use serde::{Deserialize, Serialize};
use utoipa::{ToSchema, openapi::schema::Schema};

/// Growth of the delay between retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetryGrowth {
    /// One, two, three times the first delay.
    Linear,
    /// One, two, four times the first delay.
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

impl From<RetryGrowth> for RetryStrategy {
    fn from(growth: RetryGrowth) -> Self {
        match growth {
            RetryGrowth::Linear => Self::Linear,
            RetryGrowth::Exponential => Self::Exponential,
        }
    }
}

/// Progress of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Number of planned nodes.
    pub total_nodes: u32,
    /// Number of nodes on which every image is warm.
    pub completed_nodes: u32,
    /// Number of failed nodes.
    pub failed_nodes: u32,
    /// Number of the current batch, from 1; 0 before the first.
    pub current_batch: u32,
    /// Number of batches.
    pub total_batches: u32,
    /// Completed nodes in percent: 100 × `completedNodes` / `totalNodes`, with one decimal.
    pub percentage: f64,
}

/// Results of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetail {
    /// Image reference.
    pub image: String,
    /// Number of nodes on which the image is warm.
    pub completed_nodes: u32,
    /// Number of nodes on which the image failed.
    pub failed_nodes: u32,
    /// Digest of the image, when the nodes have reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Pull policy that applies to the image: that of the task, or else that of its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
}

/// Node that was left out of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IgnoredNodeDetail {
    /// Name of the node.
    pub node_name: String,
    /// Reason, such as `NotReady`.
    pub reason: String,
}

/// Task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    /// Name of its `PrewarmTask`.
    pub task_id: String,
    /// Namespace of the task.
    pub namespace: String,
    /// Status of the task.
    pub status: Status,
    /// Image references.
    pub images: Vec<String>,
    /// Number of nodes per batch: a number, or a percentage such as `25%`.
    #[schema(schema_with = amount_schema)]
    pub batch_size: Amount,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Priority among waiting tasks, 1 to 10, higher first.
    pub priority: u32,
    /// Number of retries of a failed node.
    pub max_retries: u32,
    /// Growth of the delay between retries.
    pub retry_strategy: RetryGrowth,
    /// Delay before the first retry, in seconds.
    pub retry_delay: u64,
    /// Origin of the task: `rest`, `admission`, `schedule` or `user`.
    pub origin: String,
    /// Progress of the task.
    pub progress: Progress,
    /// Results of each image.
    pub image_details: Vec<ImageDetail>,
    /// Failures, at most 100; `progress.failedNodes` counts all failed nodes.
    pub failed_node_details: Vec<FailedNodeDetail>,
    /// Number of planned nodes that were not tried: they left the cluster, or the task ended before.
    #[serde(default)]
    pub skipped_nodes: u32,
    /// Nodes that match the placement and were left out of the plan, at most 100;
    /// `ignoredNodeCount` counts all of them.
    #[serde(default)]
    pub ignored_nodes: Vec<IgnoredNodeDetail>,
    /// Number of nodes that match the placement and were left out of the plan.
    #[serde(default)]
    pub ignored_node_count: u32,
    /// Largest number of retries that a node has needed so far.
    #[serde(default)]
    pub current_retry: u32,
    /// Current activity, or the reason for the result.
    pub message: String,
    /// Creation time, RFC 3339.
    pub created_at: Option<String>,
    /// Start time, RFC 3339; null before the start.
    pub started_at: Option<String>,
    /// End time, RFC 3339; null before the end.
    pub finished_at: Option<String>,
    /// Estimated end time at the current rate, RFC 3339.
    pub estimated_completion: Option<String>,
}

/// Builds the schema of an integer or a string.
#[must_use]
pub(crate) fn amount_schema() -> Schema {
    Amount::schema("Number of nodes per batch: a number, or a percentage such as `25%`.")
}

/// Renders the JSON of a task's [`TaskView`], for the task store.
#[must_use]
pub(crate) fn render(task: &PrewarmTask) -> Bytes {
    // A view consists of text, numbers and lists of them, so that serialization does not fail.
    // A boxed slice has no spare capacity; that of a Vec would be as large as the text.
    let json = serde_json::to_vec(&TaskView::from_task(task)).unwrap_or_default();
    json.into_boxed_slice().into()
}

/// Default delay before the first retry, in seconds.
const RETRY_DELAY: u64 = 30;

impl TaskView {
    /// Returns the view of a stored task, which [`render`] has written.
    #[must_use]
    pub fn from_entry(entry: &TaskEntry) -> Option<Self> {
        serde_json::from_slice(&entry.json()).ok()
    }

    /// Builds the view of a task.
    #[must_use]
    pub(crate) fn from_task(task: &PrewarmTask) -> Self {
        let (spec, status) = (&task.spec, task.status.clone().unwrap_or_default());
        let retry =
            spec.retry.clone().filter(|_| spec.effective_failure_policy() == FailurePolicy::Retry);
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
            image_details: status
                .images
                .iter()
                .map(|image| image_detail(image, spec.image_pull_policy))
                .collect(),
            failed_node_details: status
                .failed_nodes
                .into_iter()
                .map(FailedNodeDetail::from)
                .collect(),
            skipped_nodes: status.skipped_nodes,
            ignored_nodes: status.ignored_nodes.into_iter().map(ignored_node).collect(),
            ignored_node_count: status.ignored_node_count,
            current_retry: status.current_retry,
            message: status.conditions.iter().find(|one| one.type_ == "Progressing").map_or_else(
                String::new,
                |one| {
                    if one.message.is_empty() { one.reason.clone() } else { one.message.clone() }
                },
            ),
            created_at: task.creation_timestamp().map(|time| time.0.to_string()),
            started_at: status.start_time,
            finished_at: status.completion_time,
            estimated_completion: status.estimated_completion,
        }
    }
}

fn percentage(part: u32, total: u32) -> f64 {
    if total == 0 {
        return 0.0;
    }
    (f64::from(part) * 1000.0 / f64::from(total)).round() / 10.0
}

fn ignored_node(node: IgnoredNode) -> IgnoredNodeDetail {
    IgnoredNodeDetail { node_name: node.node, reason: node.reason }
}

fn image_detail(status: &ImageStatus, declared: Option<PullPolicy>) -> ImageDetail {
    let image = status.image.parse::<ImageRef>().ok();
    ImageDetail {
        image: status.image.clone(),
        completed_nodes: status.succeeded,
        failed_nodes: status.failed,
        digest: status.digest.clone(),
        pull_policy: image.map(|image| PullPolicy::effective(declared, &image)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use prewarmer_core::task::{Phase, PrewarmTaskSpec, PrewarmTaskStatus};
    use rstest::rstest;

    use super::*;

    /// Returns a task that was created at this second since the Unix epoch.
    fn task(second: i64, phase: Phase) -> PrewarmTask {
        let mut task = PrewarmTask::new("a", PrewarmTaskSpec::new(vec!["a:1".into()]));
        task.metadata.namespace = Some("shop".into());
        task.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
        task.status = Some(PrewarmTaskStatus { phase, ..PrewarmTaskStatus::default() });
        task
    }

    #[rstest]
    #[case(45, 100, "45.0")]
    #[case(1, 3, "33.3")]
    #[case(2, 3, "66.7")]
    #[case(0, 0, "0.0")]
    fn percentage_has_one_decimal(#[case] warm: u32, #[case] total: u32, #[case] expected: &str) {
        let mut task = task(1, Phase::Running);
        let status = task.status.as_mut().unwrap();
        (
            status.succeeded_nodes,
            status.total_nodes,
            status.total_batches,
            status.current_batch_index,
        ) = (warm, total, 3, 1);
        let view = serde_json::to_value(TaskView::from_task(&task)).unwrap();
        assert_eq!(view["progress"]["percentage"].to_string(), expected);
        assert_eq!(view["progress"]["currentBatch"], 2);
    }

    #[test]
    fn task_view_json() {
        let mut task = task(1_795_000_000, Phase::Pending);
        task.spec.batch_size = Amount::Text("25%".into());
        insta::assert_json_snapshot!(TaskView::from_task(&task));
    }
}
