//! Conversion of the JSON of a schedule into its spec, and back. Pure: no client, no clock, no I/O.

use std::sync::LazyLock;

use jiff::Timestamp;
use kube::ResourceExt;
use prewarmer_core::{
    annotations::CREATED_BY_ANNOTATION,
    duration::elapsed,
    schedule::{
        Cron, ExecutionStatus, OverlapPolicy, PrewarmSchedule, PrewarmScheduleSpec,
        PrewarmScheduleStatus, Trigger, validate_spec,
    },
    task::PrewarmTaskSpec,
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    decode::{Problems, TypeSchema, decode},
    error::Detail,
    request::{ParsedTask, TaskRequest, check_task},
};
use crate::notify::NotificationPolicy;

/// Schema of a schedule.
static SCHEMA: LazyLock<TypeSchema> = LazyLock::new(TypeSchema::of::<ScheduleRequest>);

/// Policy for an execution that is due while another one is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Overlap {
    /// The new execution is skipped.
    Skip,
    /// Both executions run.
    Allow,
    /// The new execution waits.
    Queue,
}

impl From<OverlapPolicy> for Overlap {
    fn from(policy: OverlapPolicy) -> Self {
        match policy {
            OverlapPolicy::Skip => Self::Skip,
            OverlapPolicy::Allow => Self::Allow,
            OverlapPolicy::Queue => Self::Queue,
        }
    }
}

impl From<Overlap> for OverlapPolicy {
    fn from(overlap: Overlap) -> Self {
        match overlap {
            Overlap::Skip => Self::Skip,
            Overlap::Allow => Self::Allow,
            Overlap::Queue => Self::Queue,
        }
    }
}

/// Schedule to create.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ScheduleRequest {
    /// Display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200, example = "nightly")]
    pub name: Option<String>,
    /// Description of the schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000)]
    pub description: Option<String>,
    /// Cron expression of five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[serde(default)]
    #[schema(required = true, max_length = 200, example = "30 2 * * *")]
    pub cron_expr: String,
    /// Time zone of the cron expression, an IANA name; UTC by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100, example = "Europe/Berlin")]
    pub timezone: Option<String>,
    /// False to disable the schedule; true by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Task that each execution creates.
    #[serde(default)]
    #[schema(required = true)]
    pub task_config: TaskRequest,
    /// Policy for an execution that is due while another one is running: `skip` (default), `allow`
    /// or `queue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_policy: Option<Overlap>,
    /// Time after which an execution is cancelled, in seconds; 0 or absent for no timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub timeout_seconds: Option<u32>,
    /// Largest delay with which an execution may start, in seconds; unlimited by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub starting_deadline_seconds: Option<u32>,
    /// Number of executions that are kept, with their tasks; 10 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub history_limit: Option<u32>,
    /// Namespace of the schedule and of its tasks; the server's default namespace when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        extensions(("x-expected" = json!("a namespace name")))
    )]
    pub namespace: Option<String>,
}

/// Schedule.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScheduleView {
    /// Name of its `PrewarmSchedule`.
    pub id: String,
    /// Namespace of the schedule and of its tasks.
    pub namespace: String,
    /// Display name; the name of the object when it has none.
    pub name: String,
    /// Description of the schedule.
    pub description: String,
    /// Cron expression.
    pub cron_expr: String,
    /// Time zone of the cron expression.
    pub timezone: String,
    /// False when the schedule is disabled.
    pub enabled: bool,
    /// Task that each execution creates.
    pub task_config: TaskRequest,
    /// Overlap policy: `skip`, `allow` or `queue`.
    pub overlap_policy: Overlap,
    /// Time after which an execution is cancelled, in seconds; null for no timeout.
    pub timeout_seconds: Option<u32>,
    /// Largest delay with which an execution may start, in seconds; null for no limit.
    pub starting_deadline_seconds: Option<u32>,
    /// Number of executions that are kept.
    pub history_limit: u32,
    /// Time of the last execution that was not skipped, RFC 3339.
    pub last_execution_at: Option<String>,
    /// Time of the next execution, RFC 3339; null when the schedule is disabled.
    pub next_execution_at: Option<String>,
    /// Name of the user that created the schedule by REST, otherwise `kubectl`.
    pub created_by: String,
    /// Creation time, RFC 3339.
    pub created_at: Option<String>,
    /// Time of the last change of the spec or the metadata, RFC 3339.
    pub updated_at: Option<String>,
    /// Same as `id`, in the response to a call that enables or disables the schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// Result of a call that enables or disables the schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ChangeStatus>,
    /// First problem of the spec. When it is valid: the result of a call that enables or disables
    /// the schedule, otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Result of a change of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ChangeStatus {
    /// The change is done.
    Success,
    /// The triggered execution waits for the running one.
    Queued,
}

/// Execution of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecutionView {
    /// Number of the execution, from 1, per schedule.
    pub id: u32,
    /// Name of the schedule.
    pub scheduled_task_id: String,
    /// Name of its task; null when it has none.
    pub task_id: Option<String>,
    /// Status of the execution.
    pub status: ExecutionStatus,
    /// Trigger of the execution: `schedule` or `manual`.
    #[schema(value_type = String)]
    pub trigger: Trigger,
    /// Start time, RFC 3339.
    pub started_at: Option<String>,
    /// End time, RFC 3339.
    pub finished_at: Option<String>,
    /// Time from start to end, in seconds.
    #[serde(serialize_with = "whole_seconds")]
    pub duration_seconds: Option<f64>,
    /// Reason why it did not succeed; empty while it runs and when it succeeded.
    #[schema(required = false)]
    pub error_message: String,
    /// Scheduled time, or the time of a manual trigger, RFC 3339.
    pub triggered_at: String,
}

/// Parsed request: spec of the schedule, and its namespace when the body names one.
#[derive(Debug)]
pub(super) struct ParsedSchedule {
    pub(super) namespace: Option<String>,
    pub(super) spec: PrewarmScheduleSpec,
}

/// Parses a schedule. The error lists every problem.
pub(super) fn parse(
    body: Value,
    guard: &NotificationPolicy,
) -> Result<ParsedSchedule, Vec<Detail>> {
    let (request, mut problems) = decode::<ScheduleRequest>(&SCHEMA, body);
    let parsed = request.map(|request| check_schedule(request, guard, &mut problems));
    problems.finish(parsed)
}

/// Converts a schedule, and adds the rules that it violates.
fn check_schedule(
    mut request: ScheduleRequest,
    guard: &NotificationPolicy,
    problems: &mut Problems,
) -> ParsedSchedule {
    let own = request.namespace.take();
    let task = std::mem::take(&mut request.task_config);
    let ParsedTask { namespace, spec: task } = check_task(task, "taskConfig.", guard, problems);
    if let (Some(own), Some(other)) = (&own, &namespace)
        && own != other
    {
        problems.add(
            "taskConfig.namespace",
            format!("{other}: expected {own}, the namespace of the schedule"),
        );
    }
    let spec = request.into_spec(task);
    for problem in validate_spec(&spec) {
        let field = match problem.field.as_str() {
            "spec.schedule" => "cronExpr",
            "spec.timeZone" => "timezone",
            // The problems of the task are recorded already, under their own names.
            _ => continue,
        };
        problems.add(field, Detail::from(problem).message);
    }
    ParsedSchedule { namespace: own.or(namespace), spec }
}

impl ScheduleRequest {
    /// Builds the request that would create a schedule of this spec, without the namespace.
    pub(super) fn from_spec(spec: &PrewarmScheduleSpec) -> Self {
        let task = TaskRequest::from_spec(&spec.task_template.spec, "");
        Self {
            name: spec.display_name.clone(),
            description: spec.description.clone(),
            cron_expr: spec.schedule.clone(),
            timezone: spec.time_zone.clone(),
            enabled: Some(spec.enabled),
            task_config: TaskRequest { namespace: None, ..task },
            overlap_policy: Some(spec.overlap_policy.into()),
            timeout_seconds: spec.timeout_seconds,
            starting_deadline_seconds: spec.starting_deadline_seconds,
            history_limit: Some(spec.history_limit),
            namespace: None,
        }
    }

    /// Converts the request. Absent fields get their defaults.
    fn into_spec(self, task: PrewarmTaskSpec) -> PrewarmScheduleSpec {
        let mut spec = PrewarmScheduleSpec::new(self.cron_expr, task);
        spec.display_name = self.name;
        spec.description = self.description;
        spec.time_zone = self.timezone.filter(|zone| !zone.is_empty());
        spec.enabled = self.enabled.unwrap_or(spec.enabled);
        spec.overlap_policy = self.overlap_policy.map(OverlapPolicy::from).unwrap_or_default();
        // Existing clients send zero for no limit.
        spec.timeout_seconds = self.timeout_seconds.filter(|seconds| *seconds > 0);
        spec.starting_deadline_seconds = self.starting_deadline_seconds;
        spec.history_limit = self.history_limit.unwrap_or(spec.history_limit);
        spec
    }
}

impl ScheduleView {
    /// Builds the view of a schedule. `now` determines the time of the next execution.
    pub(super) fn from_schedule(schedule: &PrewarmSchedule, now: Timestamp) -> Self {
        let (spec, status) = (&schedule.spec, schedule.status.clone().unwrap_or_default());
        let zone = spec.time_zone.clone().unwrap_or_else(|| "UTC".into());
        let next = Cron::parse(&spec.schedule, &zone)
            .ok()
            .filter(|_| spec.enabled)
            .and_then(|cron| cron.next_time(now));
        let name = schedule.name_any();
        let namespace = schedule.namespace().unwrap_or_default();
        let created = schedule.creation_timestamp().map(|time| time.0.to_string());
        let changes = schedule.managed_fields().iter().filter(|entry| entry.subresource.is_none());
        let updated = changes.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
        let wrong = validate_spec(spec);
        Self {
            namespace: namespace.clone(),
            name: spec.display_name.clone().unwrap_or_else(|| name.clone()),
            id: name,
            description: spec.description.clone().unwrap_or_default(),
            cron_expr: spec.schedule.clone(),
            timezone: zone,
            enabled: spec.enabled,
            task_config: TaskRequest::from_spec(&spec.task_template.spec, &namespace),
            overlap_policy: spec.overlap_policy.into(),
            timeout_seconds: spec.timeout_seconds,
            starting_deadline_seconds: spec.starting_deadline_seconds,
            history_limit: spec.history_limit,
            last_execution_at: last_execution(&status),
            next_execution_at: next.map(|time| time.to_string()),
            created_by: schedule
                .annotations()
                .get(CREATED_BY_ANNOTATION)
                .cloned()
                .unwrap_or_else(|| "kubectl".into()),
            updated_at: updated.map(|time| time.to_string()).or_else(|| created.clone()),
            created_at: created,
            task_id: None,
            status: None,
            message: wrong.first().map(ToString::to_string),
        }
    }

    /// Adds the result of a change, which `message` describes unless the spec has a problem.
    pub(super) fn with_change(mut self, message: &str) -> Self {
        self.task_id = Some(self.id.clone());
        self.status = Some(ChangeStatus::Success);
        self.message.get_or_insert_with(|| message.to_owned());
        self
    }
}

/// Returns the time of the last execution that was not skipped. Without one in the history, it is
/// the last scheduled time.
fn last_execution(status: &PrewarmScheduleStatus) -> Option<String> {
    let runs = status.executions.iter().filter(|run| run.status != ExecutionStatus::Skipped);
    let last = runs.max_by_key(|run| run.number).map(|run| run.scheduled_time.clone());
    last.or_else(|| status.last_schedule_time.clone())
}

/// Writes whole seconds as an integer, which clients read that expect an integer or a float.
#[allow(clippy::ref_option, reason = "serde calls it with this type")]
#[allow(clippy::cast_possible_truncation, reason = "a time span has no more seconds")]
fn whole_seconds<S: Serializer>(seconds: &Option<f64>, out: S) -> Result<S::Ok, S::Error> {
    match seconds {
        Some(seconds) if seconds.fract() == 0.0 => out.serialize_i64(*seconds as i64),
        other => other.serialize(out),
    }
}

impl ExecutionView {
    /// Returns the kept executions of a schedule, newest first.
    pub(super) fn list(schedule: &PrewarmSchedule) -> Vec<Self> {
        let id = schedule.name_any();
        let runs = schedule.status.as_ref().map_or(&[][..], |status| &status.executions);
        let view = |run: &prewarmer_core::schedule::Execution| Self {
            id: run.number,
            scheduled_task_id: id.clone(),
            task_id: run.task.clone(),
            status: run.status,
            trigger: run.trigger,
            started_at: run.start_time.clone(),
            finished_at: run.completion_time.clone(),
            duration_seconds: elapsed(run.start_time.as_deref(), run.completion_time.as_deref())
                .map(|took| took.as_secs_f64()),
            error_message: run.message.clone().unwrap_or_default(),
            triggered_at: run.scheduled_time.clone(),
        };
        runs.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn request_of_existing_clients_is_parsed() {
        let body = json!({"name": "nightly", "cronExpr": "30 2 * * *", "timezone": "Europe/Berlin", "enabled": false,
            "taskConfig": {"images": ["a:1"], "batchSize": 5, "namespace": "shop"}, "overlapPolicy": "queue",
            "timeoutSeconds": 60});
        let wanted = parse(body, &NotificationPolicy::default()).unwrap();
        assert_eq!(wanted.namespace.as_deref(), Some("shop"));
        assert_eq!(
            (wanted.spec.overlap_policy, wanted.spec.enabled),
            (OverlapPolicy::Queue, false)
        );
        let schedule = PrewarmSchedule::new("s", wanted.spec);
        let view = ScheduleView::from_schedule(&schedule, Timestamp::UNIX_EPOCH);
        assert_eq!((view.overlap_policy, view.next_execution_at), (Overlap::Queue, None));
    }

    #[test]
    fn every_invalid_field_is_reported() {
        let fields = |body: Value| {
            let mut fields: Vec<String> = parse(body, &NotificationPolicy::default())
                .unwrap_err()
                .into_iter()
                .map(|detail| detail.field)
                .collect();
            fields.sort();
            fields
        };
        assert_eq!(fields(json!({})), ["cronExpr", "taskConfig"]);
        let body = json!({"cronExpr": "x", "timezone": "Mars", "taskConfig": {"images": ["UPPER/x"], "priority": 0, "namespace": "b"},
            "namespace": "a", "overlapPolicy": "no", "timeoutSeconds": -1, "historyLimit": 0, "Name": 1});
        assert_eq!(
            fields(body),
            [
                "Name",
                "cronExpr",
                "historyLimit",
                "overlapPolicy",
                "taskConfig.images[0]",
                "taskConfig.namespace",
                "taskConfig.priority",
                "timeoutSeconds",
                "timezone"
            ]
        );
    }

    #[test]
    fn documented_fields_are_parsed() {
        let schema =
            serde_json::to_value(<ScheduleRequest as utoipa::PartialSchema>::schema()).unwrap();
        let names = schema["properties"].as_object().unwrap().keys();
        let body: serde_json::Map<String, Value> =
            names.map(|name| (name.clone(), json!([]))).collect();
        assert_eq!(body.len(), 11);
        let wrong = parse(Value::Object(body), &NotificationPolicy::default()).unwrap_err();
        assert!(wrong.iter().all(|detail| detail.message != "unknown field"), "{wrong:?}");
    }
}
