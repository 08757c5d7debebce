//! From the JSON of a schedule to its spec, and back. *Pure.*

use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    error::Detail,
    fields::Fields,
    request::{TaskRequest, is_label, read_fields},
    tasks::CREATED_BY_ANNOTATION,
};
use crate::{
    notify::Guard,
    schedule::{Cron, ExecutionStatus, OverlapPolicy, PrewarmSchedule, PrewarmScheduleSpec, Trigger, problems},
};

/// Longest span in seconds that Kubernetes' numbers hold.
const MAX_SECONDS: u32 = i32::MAX.unsigned_abs();
const OVERLAPS: [(&str, OverlapPolicy); 3] =
    [("skip", OverlapPolicy::Skip), ("allow", OverlapPolicy::Allow), ("queue", OverlapPolicy::Queue)];

/// What happens when a run is due while one is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is left out.
    Skip,
    /// Both run.
    Allow,
    /// It waits.
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

/// A schedule that is asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "it is read field by field; this is its documentation, and a test compares the two")]
pub struct ScheduleRequest {
    /// A name for people.
    #[schema(max_length = 200, example = "nightly")]
    pub name: Option<String>,
    /// What it is for.
    #[schema(max_length = 2000)]
    pub description: Option<String>,
    /// Five fields of cron, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[schema(max_length = 200, example = "30 2 * * *")]
    pub cron_expr: String,
    /// The time zone in which they are meant; UTC by default.
    #[schema(max_length = 100, example = "Europe/Berlin")]
    pub timezone: Option<String>,
    /// Whether there are runs at all; yes by default.
    pub enabled: Option<bool>,
    /// What each run asks for.
    pub task_config: TaskRequest,
    /// What happens when a run is due while one is at work: `skip` (default), `allow` or `queue`.
    pub overlap_policy: Option<Overlap>,
    /// Seconds after which a run is cancelled; 0 for never, as by default.
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub timeout_seconds: Option<u32>,
    /// How many seconds late a run may begin; any by default.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub starting_deadline_seconds: Option<u32>,
    /// How many runs are remembered, with their tasks; 10 by default.
    #[schema(minimum = 1, maximum = 100)]
    pub history_limit: Option<u32>,
    /// The schedule's namespace, and that of its tasks; the server's own by default.
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    pub namespace: Option<String>,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleView {
    /// The name of its `PrewarmSchedule`.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name for people.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// When.
    pub cron_expr: String,
    /// In which time zone.
    pub timezone: String,
    /// Whether there are runs at all.
    pub enabled: bool,
    /// What each run asks for.
    pub task_config: TaskRequest,
    /// `skip`, `allow` or `queue`.
    pub overlap_policy: Overlap,
    /// Seconds after which a run is cancelled.
    pub timeout_seconds: Option<u32>,
    /// How many seconds late a run may begin.
    pub starting_deadline_seconds: Option<u32>,
    /// How many runs are remembered.
    pub history_limit: u32,
    /// RFC 3339.
    pub last_execution_at: Option<String>,
    /// RFC 3339.
    pub next_execution_at: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// RFC 3339.
    pub updated_at: Option<String>,
    /// What is wrong with it, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A run of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionView {
    /// Counted from 1, for each schedule.
    pub id: u32,
    /// The schedule.
    pub scheduled_task_id: String,
    /// Its task, if it has one.
    pub task_id: Option<String>,
    /// What became of it.
    pub status: ExecutionStatus,
    /// `schedule` or `manual`.
    #[schema(value_type = String)]
    pub trigger: Trigger,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// From its start to its end.
    pub duration_seconds: Option<i64>,
    /// Why, where it did not succeed.
    pub error_message: Option<String>,
    /// The tick, or when it was asked for, RFC 3339.
    pub triggered_at: String,
}

/// What was read of a schedule.
#[derive(Debug)]
pub(super) struct WantedSchedule {
    pub(super) namespace: Option<String>,
    pub(super) spec: PrewarmScheduleSpec,
}

/// Reads a schedule; every mistake is told.
pub(super) fn read(body: Value, guard: &Guard) -> Result<WantedSchedule, Vec<Detail>> {
    let mut fields = Fields::of(body).map_err(|detail| vec![detail])?;
    let schedule = fields.needed("cronExpr");
    let mut namespace = fields.text("namespace");
    if let Some(name) = namespace.as_deref().filter(|name| !is_label(name)) {
        fields.wrong("namespace", format!("{name:?}: expected the name of a namespace"));
    }
    let mut spec = PrewarmScheduleSpec::new(schedule, crate::task::PrewarmTaskSpec::default());
    let had = fields.problems.len();
    match fields.object("taskConfig") {
        Some(inner) => {
            let (wanted, wrong) = read_fields(inner, guard);
            fields.problems.extend(wrong);
            spec.task_template.spec = wanted.spec;
            match (&namespace, wanted.namespace) {
                (Some(one), Some(other)) if *one != other => {
                    fields.wrong(
                        "taskConfig.namespace",
                        format!("{other}: the schedule's namespace is {one}, and its tasks are there"),
                    );
                }
                (None, other) => namespace = other,
                _ => {}
            }
        }
        None if fields.problems.len() == had => fields.wrong("taskConfig", "is needed"),
        None => {}
    }
    spec.display_name = fields.short("name", 200);
    spec.description = fields.short("description", 2000);
    spec.time_zone = fields.short("timezone", 100).filter(|zone| !zone.is_empty());
    spec.enabled = fields.flag("enabled").unwrap_or(spec.enabled);
    spec.overlap_policy = fields.choice("overlapPolicy", &OVERLAPS).unwrap_or_default();
    // In these clients nought means that there is no limit.
    spec.timeout_seconds = fields.number("timeoutSeconds", 0..=MAX_SECONDS).filter(|seconds| *seconds > 0);
    spec.starting_deadline_seconds = fields.number("startingDeadlineSeconds", 1..=MAX_SECONDS);
    spec.history_limit = fields.number("historyLimit", 1..=100).unwrap_or(spec.history_limit);
    for problem in problems(&spec) {
        let name = match problem.field.as_str() {
            "spec.schedule" => "cronExpr",
            "spec.timeZone" => "timezone",
            // Those of the task were told already, under their own names.
            _ => continue,
        };
        if fields.problems.iter().all(|known| known.field != name) {
            fields.wrong(name, Detail::from(problem).message);
        }
    }
    let wrong = fields.done();
    if wrong.is_empty() { Ok(WantedSchedule { namespace, spec }) } else { Err(wrong) }
}

impl ScheduleView {
    /// A schedule as it is.
    pub(super) fn of(schedule: &PrewarmSchedule, now: Timestamp) -> Self {
        let (spec, status) = (&schedule.spec, schedule.status.clone().unwrap_or_default());
        let zone = spec.time_zone.clone().unwrap_or_else(|| "UTC".into());
        let next = Cron::parse(&spec.schedule, &zone).ok().filter(|_| spec.enabled).and_then(|cron| cron.next(now));
        let name = schedule.name_any();
        let namespace = schedule.namespace().unwrap_or_default();
        let created = schedule.creation_timestamp().map(|time| time.0.to_string());
        let changes = schedule.managed_fields().iter().filter(|entry| entry.subresource.is_none());
        let updated = changes.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
        let wrong = problems(spec);
        Self {
            namespace: namespace.clone(),
            name: spec.display_name.clone().unwrap_or_else(|| name.clone()),
            id: name,
            description: spec.description.clone().unwrap_or_default(),
            cron_expr: spec.schedule.clone(),
            timezone: zone,
            enabled: spec.enabled,
            task_config: TaskRequest::of(&spec.task_template.spec, &namespace),
            overlap_policy: spec.overlap_policy.into(),
            timeout_seconds: spec.timeout_seconds,
            starting_deadline_seconds: spec.starting_deadline_seconds,
            history_limit: spec.history_limit,
            last_execution_at: status.last_schedule_time,
            next_execution_at: next.map(|time| time.to_string()),
            created_by: schedule.annotations().get(CREATED_BY_ANNOTATION).cloned().unwrap_or_else(|| "kubectl".into()),
            updated_at: updated.map(|time| time.to_string()).or_else(|| created.clone()),
            created_at: created,
            message: wrong.first().map(ToString::to_string),
        }
    }
}

impl ExecutionView {
    /// The remembered runs of a schedule, newest first.
    pub(super) fn all(schedule: &PrewarmSchedule) -> Vec<Self> {
        let time = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        let id = schedule.name_any();
        let runs = schedule.status.as_ref().map_or(&[][..], |status| &status.executions);
        let view = |run: &crate::schedule::Execution| Self {
            id: run.number,
            scheduled_task_id: id.clone(),
            task_id: run.task.clone(),
            status: run.status,
            trigger: run.trigger,
            started_at: run.start_time.clone(),
            finished_at: run.completion_time.clone(),
            duration_seconds: time(&run.start_time)
                .zip(time(&run.completion_time))
                .map(|(a, b)| b.duration_since(a).as_secs()),
            error_message: run.message.clone(),
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
    fn what_clients_send() {
        let body = json!({"name": "nightly", "cronExpr": "30 2 * * *", "timezone": "Europe/Berlin", "enabled": false,
            "taskConfig": {"images": ["a:1"], "batchSize": 5, "namespace": "shop"}, "overlapPolicy": "queue",
            "timeoutSeconds": 60});
        let wanted = read(body, &Guard::default()).unwrap();
        assert_eq!(wanted.namespace.as_deref(), Some("shop"));
        assert_eq!((wanted.spec.overlap_policy, wanted.spec.enabled), (OverlapPolicy::Queue, false));
        let schedule = PrewarmSchedule::new("s", wanted.spec);
        let view = ScheduleView::of(&schedule, Timestamp::UNIX_EPOCH);
        assert_eq!((view.overlap_policy, view.next_execution_at), (Overlap::Queue, None));
    }

    #[test]
    fn every_bad_field_is_named() {
        let fields = |body: Value| {
            let mut fields: Vec<String> =
                read(body, &Guard::default()).unwrap_err().into_iter().map(|detail| detail.field).collect();
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
    fn the_documented_fields_are_the_fields() {
        let schema = serde_json::to_value(<ScheduleRequest as utoipa::PartialSchema>::schema()).unwrap();
        let names = schema["properties"].as_object().unwrap().keys();
        let body: serde_json::Map<String, Value> = names.map(|name| (name.clone(), json!([]))).collect();
        assert_eq!(body.len(), 11);
        let wrong = read(Value::Object(body), &Guard::default()).unwrap_err();
        assert!(wrong.iter().all(|detail| detail.message != "there is no such field"), "{wrong:?}");
    }
}
