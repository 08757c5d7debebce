//! Partial update of a schedule: the body of a `PUT` over the current spec. Pure: no client, no
//! clock, no I/O.

use prewarmer_core::{schedule::PrewarmScheduleSpec, task::PrewarmTaskSpec};
use serde_json::{Map, Value};

use super::{
    error::Detail,
    schedule_request::{self, ParsedSchedule, ScheduleRequest},
};
use crate::notify::NotificationPolicy;

/// Field of a schedule that contains the task.
const TASK: &str = "taskConfig";
/// Fields of a task's spec that are kept or replaced together, because REST merges them into
/// `maxRetries`, `retryStrategy` and `retryDelay`.
const RETRY_FIELDS: [&str; 3] = ["failurePolicy", "strategy", "retry"];

/// Parses a change of a schedule. Fields that the body does not have, also those of `taskConfig`,
/// keep their values; null sets a field to its default. The error lists every problem.
pub(super) fn parse_update(
    current: &PrewarmScheduleSpec,
    body: &Value,
    guard: &NotificationPolicy,
) -> Result<ParsedSchedule, Vec<Detail>> {
    let before = ScheduleRequest::from_spec(current);
    // A request consists of text, numbers and lists of them, so that it can be serialized.
    let base = serde_json::to_value(&before).unwrap_or_default();
    let mut parsed = schedule_request::parse(merged(base, body), guard)?;
    let before = PrewarmTaskSpec::from(before.task_config);
    let task = &mut parsed.spec.task_template.spec;
    *task = keep_unchanged(&current.task_template.spec, &before, std::mem::take(task));
    Ok(parsed)
}

/// Returns the current request with the fields of the body.
fn merged(mut base: Value, body: &Value) -> Value {
    let (Value::Object(current), Value::Object(changes)) = (&mut base, body) else {
        return body.clone();
    };
    for (name, value) in changes {
        match (current.get_mut(name), value) {
            (Some(Value::Object(task)), Value::Object(changes)) if name == TASK => {
                remove_replaced(task, changes);
                task.extend(changes.clone());
            }
            _ => drop(current.insert(name.clone(), value.clone())),
        }
    }
    base
}

/// Removes the current values that contradict an alias in the changes.
fn remove_replaced(task: &mut Map<String, Value>, changes: &Map<String, Value>) {
    let has = |name: &str| changes.get(name).is_some_and(|value| !value.is_null());
    if has("retryPolicy") && !has("retryStrategy") {
        task.remove("retryStrategy");
    }
    let is_without_retries = task.get("maxRetries") == Some(&Value::from(0));
    if has("strategy") && (is_without_retries || changes["strategy"] == "Skip") {
        task.remove("maxRetries");
    }
}

/// Returns the wanted spec with the current value of each field that the update does not change, so
/// that fields which a request cannot express, such as `nodeAffinity`, are kept. `before` is the
/// current spec as a request expresses it.
fn keep_unchanged(
    current: &PrewarmTaskSpec,
    before: &PrewarmTaskSpec,
    wanted: PrewarmTaskSpec,
) -> PrewarmTaskSpec {
    let fields = |spec: &PrewarmTaskSpec| match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (current, before, mut merged) = (fields(current), fields(before), fields(&wanted));
    let keeps_retries = RETRY_FIELDS.into_iter().all(|name| before.get(name) == merged.get(name));
    let names: Vec<String> = current.keys().chain(merged.keys()).cloned().collect();
    for name in names {
        let is_kept = if RETRY_FIELDS.contains(&name.as_str()) {
            keeps_retries
        } else {
            before.get(&name) == merged.get(&name)
        };
        match (is_kept, current.get(&name)) {
            (true, Some(value)) => drop(merged.insert(name, value.clone())),
            (true, None) => drop(merged.remove(&name)),
            (false, _) => {}
        }
    }
    serde_json::from_value(Value::Object(merged)).unwrap_or(wanted)
}

#[cfg(test)]
mod tests {
    use prewarmer_core::{
        schedule::OverlapPolicy,
        task::{Amount, FailurePolicy, RetryStrategy, validate::validate},
    };
    use serde_json::json;

    use super::*;

    fn current() -> PrewarmScheduleSpec {
        let spec = json!({
            "schedule": "0 0 * * *", "timeZone": "Europe/Berlin", "enabled": false,
            "overlapPolicy": "Queue", "timeoutSeconds": 60, "startingDeadlineSeconds": 5,
            "historyLimit": 7, "displayName": "nightly", "description": "what for",
            "taskTemplate": {"spec": {
                "images": ["a:1"], "batchSize": 5, "nodeSelector": {"pool": "gpu"},
                "strategy": "Retry", "retry": {"limit": 2, "strategy": "Exponential", "delay": "1500ms"},
                "suspend": true, "worker": "Pod",
                "nodeAffinity": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]},
                "notify": [{"url": "https://hooks.example.com/a"}, {"url": "https://hooks.example.com/b", "format": "slack"}],
            }},
        });
        serde_json::from_value(spec).unwrap()
    }

    fn updated(body: &Value) -> PrewarmScheduleSpec {
        parse_update(&current(), body, &NotificationPolicy::default()).unwrap().spec
    }

    fn fields(body: &Value) -> Vec<String> {
        let details = parse_update(&current(), body, &NotificationPolicy::default()).unwrap_err();
        details.into_iter().map(|detail| detail.field).collect()
    }

    #[test]
    fn absent_fields_keep_their_values() {
        assert_eq!(updated(&json!({})), current());
        let mut expected = current();
        expected.enabled = true;
        assert_eq!(updated(&json!({"enabled": true})), expected);
        let mut expected = current();
        expected.display_name = Some("other".into());
        expected.schedule = "0 6 * * *".into();
        expected.overlap_policy = OverlapPolicy::Allow;
        expected.task_template.spec.images = vec!["nginx:latest".into()];
        let body = json!({"name": "other", "cronExpr": "0 6 * * *", "overlapPolicy": "allow",
            "taskConfig": {"images": ["nginx:latest"]}});
        assert_eq!(updated(&body), expected);
    }

    #[test]
    fn null_sets_a_field_to_its_default() {
        let spec = updated(&json!({"description": null, "timezone": null, "timeoutSeconds": 0,
            "taskConfig": {"nodeSelector": null, "batchSize": null, "webhookUrl": null}}));
        assert_eq!((spec.description, spec.time_zone, spec.timeout_seconds), (None, None, None));
        let task = spec.task_template.spec;
        assert_eq!((task.node_selector, task.batch_size), (None, Amount::Count(10)));
        assert_eq!(task.notify.unwrap().len(), 1);
        assert!(task.node_affinity.is_some() && task.suspend);
        assert_eq!(fields(&json!({"cronExpr": null})), ["cronExpr"]);
    }

    #[test]
    fn objects_other_than_the_task_are_replaced() {
        let spec = updated(&json!({"taskConfig": {"nodeSelector": {"zone": "a"}}}));
        let selector = spec.task_template.spec.node_selector.unwrap();
        assert_eq!(selector, [("zone".to_owned(), "a".to_owned())].into());
    }

    /// The fields about retries depend on one another.
    #[test]
    fn retries_are_replaced_together() {
        let task = |body: Value| updated(&json!({"taskConfig": body})).task_template.spec;
        let rule = |body: Value| {
            let spec = task(body);
            let limit = validate(&spec).unwrap().retry.limit;
            (limit, spec.retry.unwrap_or_default().strategy)
        };
        assert_eq!(task(json!({"batchSize": 9})).retry.unwrap().delay.as_deref(), Some("1500ms"));
        assert_eq!(rule(json!({"maxRetries": 0})), (0, RetryStrategy::Linear));
        assert_eq!(rule(json!({"maxRetries": 4})), (4, RetryStrategy::Exponential));
        assert_eq!(rule(json!({"strategy": "Skip"})), (0, RetryStrategy::Linear));
        assert_eq!(rule(json!({"strategy": "Retry"})), (2, RetryStrategy::Exponential));
        assert_eq!(rule(json!({"retryPolicy": "linear"})), (2, RetryStrategy::Linear));
        let mut without = current();
        without.task_template.spec.strategy = Some(FailurePolicy::Skip);
        let body = json!({"taskConfig": {"strategy": "Retry"}});
        let spec = parse_update(&without, &body, &NotificationPolicy::default()).unwrap().spec;
        assert_eq!(validate(&spec.task_template.spec).unwrap().retry.limit, 3);
    }

    #[test]
    fn problems_have_the_fields_of_the_body() {
        let body =
            json!({"enabled": 1, "other": 2, "taskConfig": {"images": ["UPPER/x"], "priority": 0}});
        let mut found = fields(&body);
        found.sort();
        assert_eq!(found, ["enabled", "other", "taskConfig.images[0]", "taskConfig.priority"]);
        assert_eq!(fields(&json!([])), [""]);
        assert_eq!(fields(&json!({"taskConfig": []})), ["taskConfig"]);
    }
}
