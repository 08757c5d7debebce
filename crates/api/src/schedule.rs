//! Custom resource `PrewarmSchedule` (`prewarm.io/v1alpha1`).
//!
//! The doc comments of fields become the descriptions that `kubectl explain` prints.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::task::{Condition, PrewarmTaskSpec};

/// Handling of an execution that is due while an earlier one is still running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OverlapPolicy {
    /// The new execution is skipped and recorded as skipped.
    #[default]
    Skip,
    /// Both executions run.
    Allow,
    /// One execution waits for the end of the running ones; a further one is skipped and recorded
    /// as skipped.
    Queue,
}

/// Template of the task that an execution creates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskTemplate {
    /// Spec of the task.
    pub spec: PrewarmTaskSpec,
}

/// Cron schedule and the task that it creates.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "prewarm.io",
    version = "v1alpha1",
    kind = "PrewarmSchedule",
    plural = "prewarmschedules",
    singular = "prewarmschedule",
    shortname = "pws",
    category = "prewarm",
    namespaced,
    status = "PrewarmScheduleStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Creates a PrewarmTask at each time of a cron expression.",
    printcolumn = r#"{"name":"Schedule","type":"string","jsonPath":".spec.schedule"}"#,
    printcolumn = r#"{"name":"Time zone","type":"string","jsonPath":".spec.timeZone"}"#,
    printcolumn = r#"{"name":"Enabled","type":"boolean","jsonPath":".spec.enabled"}"#,
    printcolumn = r#"{"name":"Last","type":"date","jsonPath":".status.lastScheduleTime"}"#,
    printcolumn = r#"{"name":"Next","type":"string","jsonPath":".status.nextScheduleTime"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PrewarmScheduleSpec {
    /// Cron expression of five fields (minute, hour, day of the month, month, day of the week) with
    /// names, ranges, lists and steps, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`; at
    /// most 200 characters.
    #[schemars(length(min = 1, max = 200))]
    pub schedule: String,
    /// IANA time zone of the cron expression, such as `Europe/Berlin`. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub time_zone: Option<String>,
    /// Starts executions while true. Scheduled times that pass while it is false are not made up
    /// for. Default: true.
    #[serde(default = "default_enabled")]
    pub enabled: bool,
    /// Handling of an execution that is due while an earlier one is still running: `Skip`, `Allow`
    /// or `Queue`. Default: `Skip`.
    #[serde(default)]
    pub overlap_policy: OverlapPolicy,
    /// Seconds after which a running execution is cancelled and recorded with status `timeout`, 1
    /// to 2,147,483,647. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub timeout_seconds: Option<u32>,
    /// Largest delay in seconds with which an execution may still start when no leader was running
    /// at its scheduled time, 1 to 2,147,483,647. Default: no limit. Of several missed times only
    /// the last is made up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub starting_deadline_seconds: Option<u32>,
    /// Number of ended executions kept in the status, with their tasks, 1 to 100. Default: 10.
    #[serde(default = "default_history_limit")]
    #[schemars(range(min = 1, max = 100))]
    pub history_limit: u32,
    /// Human-readable name, at most 200 characters. Default: the object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub display_name: Option<String>,
    /// Human-readable purpose, at most 2,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2000))]
    pub description: Option<String>,
    /// Template of the task that each execution creates in the schedule's namespace.
    pub task_template: TaskTemplate,
}

fn default_enabled() -> bool {
    true
}

fn default_history_limit() -> u32 {
    10
}

impl PrewarmScheduleSpec {
    /// Creates a spec with defaults in all other fields.
    #[must_use]
    pub fn new(schedule: String, task: PrewarmTaskSpec) -> Self {
        Self {
            schedule,
            enabled: default_enabled(),
            history_limit: default_history_limit(),
            task_template: TaskTemplate { spec: task },
            ..Self::default()
        }
    }
}

/// Origin of an execution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// Cron expression.
    #[default]
    Schedule,
    /// Request of a user.
    Manual,
}

/// Status of an execution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ExecutionStatus {
    /// The task has not ended.
    #[default]
    Running,
    /// The task completed.
    Success,
    /// The task failed, was cancelled, or could not be created.
    Failed,
    /// No task was created.
    Skipped,
    /// The task was cancelled because it ran longer than `timeoutSeconds`.
    Timeout,
}

impl ExecutionStatus {
    /// Returns the value used in the status and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Timeout => "timeout",
        }
    }
}

/// Execution of a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// Sequence number, from 1.
    pub number: u32,
    /// Scheduled time, or the time of the request of a manual execution, RFC 3339.
    pub scheduled_time: String,
    /// Origin: `schedule` or `manual`. Default: `schedule`.
    #[serde(default)]
    pub trigger: Trigger,
    /// Name of the task, where one was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Status of the execution.
    pub status: ExecutionStatus,
    /// Start time of the task, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// End time, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<String>,
    /// Reason for any status other than `running` and `success`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Execution that waits for others to end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueuedRun {
    /// Scheduled time, or the time of the request of a manual execution, RFC 3339.
    pub scheduled_time: String,
    /// Origin: `schedule` or `manual`. Default: `schedule`.
    #[serde(default)]
    pub trigger: Trigger,
}

/// Observed state of a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PrewarmScheduleStatus {
    /// Generation of the spec that this status refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Cron expression and time zone currently in effect; empty while the schedule is not enabled
    /// or not valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_schedule: Option<String>,
    /// Time from which they are in effect, RFC 3339. Earlier scheduled times are not made up for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Last scheduled time that was handled, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<String>,
    /// Next scheduled time, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<String>,
    /// Names of the running tasks.
    pub active: Vec<String>,
    /// Execution that waits for the running ones, with `overlapPolicy: Queue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<QueuedRun>,
    /// Number of executions so far.
    pub execution_count: u32,
    /// Latest executions, newest first; the ended ones are limited by `historyLimit`.
    pub executions: Vec<Execution>,
    /// Condition `Ready`: whether the spec is valid.
    pub conditions: Vec<Condition>,
}
