//! The custom resource `PrewarmSchedule` (`prewarm.io/v1alpha1`).
//!
//! Field docs become the descriptions that `kubectl explain` prints.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::task::{Condition, PrewarmTaskSpec};

/// What happens when a run is due while an earlier one is still at work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OverlapPolicy {
    /// The new run is left out, and recorded as skipped.
    #[default]
    Skip,
    /// Both run.
    Allow,
    /// One run waits for the end of the others; a further one is left out, and recorded as skipped.
    Queue,
}

/// The task that a run creates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskTemplate {
    /// The task's spec.
    pub spec: PrewarmTaskSpec,
}

/// Tasks at times of day.
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
    doc = "Creates a PrewarmTask at each tick of a cron expression.",
    printcolumn = r#"{"name":"Schedule","type":"string","jsonPath":".spec.schedule"}"#,
    printcolumn = r#"{"name":"Time zone","type":"string","jsonPath":".spec.timeZone"}"#,
    printcolumn = r#"{"name":"Enabled","type":"boolean","jsonPath":".spec.enabled"}"#,
    printcolumn = r#"{"name":"Last","type":"date","jsonPath":".status.lastScheduleTime"}"#,
    printcolumn = r#"{"name":"Next","type":"string","jsonPath":".status.nextScheduleTime"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PrewarmScheduleSpec {
    /// Five fields of cron (minute, hour, day of the month, month, day of the week), with names, ranges, lists and steps,
    /// or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[schemars(length(min = 1, max = 200))]
    pub schedule: String,
    /// The time zone in which the fields are meant, such as `Europe/Berlin`; UTC by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub time_zone: Option<String>,
    /// Whether there are runs at all. Ticks that pass meanwhile are not made up for.
    #[serde(default = "default_enabled")]
    pub enabled: bool,
    /// What happens when a run is due while an earlier one is still at work.
    #[serde(default)]
    pub overlap_policy: OverlapPolicy,
    /// Seconds after which a run that has not ended is cancelled, and recorded as timed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub timeout_seconds: Option<u32>,
    /// How many seconds late a run may still begin, when nobody was there at its tick. Any by default. Of several missed
    /// ticks only the last one is made up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub starting_deadline_seconds: Option<u32>,
    /// How many runs are remembered, with their tasks.
    #[serde(default = "default_history_limit")]
    #[schemars(range(min = 1, max = 100))]
    pub history_limit: u32,
    /// A name for people; the object's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub display_name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2000))]
    pub description: Option<String>,
    /// The task that each run creates, in the schedule's namespace.
    pub task_template: TaskTemplate,
}

fn default_enabled() -> bool {
    true
}

fn default_history_limit() -> u32 {
    10
}

impl PrewarmScheduleSpec {
    /// A spec with every other field at its default.
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

/// Who asked for a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// The clock.
    #[default]
    Schedule,
    /// Somebody, by hand.
    Manual,
}

/// What became of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionStatus {
    /// Its task has not ended.
    #[default]
    Running,
    /// Its task completed.
    Success,
    /// Its task failed, was cancelled, or could not be created.
    Failed,
    /// It was left out.
    Skipped,
    /// It was cancelled because it took longer than `timeoutSeconds`.
    Timeout,
}

impl ExecutionStatus {
    /// The word that the status shows.
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

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// Counted from 1.
    pub number: u32,
    /// The tick, RFC 3339; of a run by hand, when it was asked for.
    pub scheduled_time: String,
    /// Who asked for it.
    #[serde(default)]
    pub trigger: Trigger,
    /// The name of its task, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// What became of it.
    pub status: ExecutionStatus,
    /// When its task was begun, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<String>,
    /// Why, where it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A run that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueuedRun {
    /// The tick, RFC 3339; of a run by hand, when it was asked for.
    pub scheduled_time: String,
    /// Who asked for it.
    #[serde(default)]
    pub trigger: Trigger,
}

/// What a schedule has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PrewarmScheduleStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The expression and time zone that were last worked by; empty while not enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_schedule: Option<String>,
    /// Since when they are worked by, RFC 3339: ticks up to then are not made up for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The last tick that was acted on, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<String>,
    /// The next tick, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<String>,
    /// The names of the tasks at work.
    pub active: Vec<String>,
    /// The run that waits for them, with `overlapPolicy: Queue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<QueuedRun>,
    /// How many runs there were.
    pub execution_count: u32,
    /// The last runs, newest first.
    pub executions: Vec<Execution>,
    /// `Ready`: whether the schedule can be worked by.
    pub conditions: Vec<Condition>,
}
