//! Decoding of the JSON of a task into its spec. Pure: no client, no clock, no I/O.

mod task;

use std::sync::LazyLock;

use prewarmer_core::task::{
    FailurePolicy, PrewarmTaskSpec, bounds::MAX_NOTIFICATIONS, validate::validate,
};
use serde_json::Value;

use self::task::NotifyRequest;
pub(super) use self::task::TaskRequest;
use super::{
    decode::{Problems, TypeSchema, decode},
    error::Detail,
};
use crate::notify::NotificationPolicy;

/// Schema of a task.
static SCHEMA: LazyLock<TypeSchema> = LazyLock::new(TypeSchema::of::<TaskRequest>);

/// Parsed request: spec of the task, and its namespace when the body names one.
#[derive(Debug, Default)]
pub(super) struct ParsedTask {
    pub(super) namespace: Option<String>,
    pub(super) spec: PrewarmTaskSpec,
}

/// Parses a task. The error lists every problem.
pub(super) fn parse(body: Value, guard: &NotificationPolicy) -> Result<ParsedTask, Vec<Detail>> {
    let (request, mut problems) = decode::<TaskRequest>(&SCHEMA, body);
    let parsed = request.map(|request| check_task(request, "", guard, &mut problems));
    problems.finish(parsed)
}

/// Converts a task, and adds the rules that it violates: those of notifications, and those of the
/// task controller under the field names of the request. `at` precedes the field names.
pub(super) fn check_task(
    mut request: TaskRequest,
    at: &str,
    guard: &NotificationPolicy,
    problems: &mut Problems,
) -> ParsedTask {
    check_notifications(&request, at, guard, problems);
    check_retries(&request, at, problems);
    let has_webhook_url = request.webhook_url.is_some();
    let namespace = request.namespace.take();
    let spec = PrewarmTaskSpec::from(request);
    for problem in validate(&spec).err().unwrap_or_default() {
        let detail = Detail::from(problem);
        let field = request_field(&detail.field, has_webhook_url);
        problems.add_violation(&format!("{at}{field}"), detail.message);
    }
    ParsedTask { namespace, spec }
}

/// Checks that each notification has one address, to which notifications may go.
fn check_notifications(
    request: &TaskRequest,
    at: &str,
    guard: &NotificationPolicy,
    problems: &mut Problems,
) {
    if let Some(url) = &request.webhook_url {
        check_url(&format!("{at}webhookUrl"), url, guard, problems);
    }
    let all = request.notify.iter().flatten().enumerate().take(MAX_NOTIFICATIONS);
    for (index, NotifyRequest { url, url_from, .. }) in all {
        let (url_at, source_at) =
            (format!("{at}notify[{index}].url"), format!("{at}notify[{index}].urlFrom"));
        match (url, url_from) {
            (Some(url), None) => check_url(&url_at, url, guard, problems),
            (Some(_), Some(_)) => problems.add(&source_at, "must not be set together with url"),
            (None, None) if !problems.contains(&source_at) => {
                problems.add(&url_at, "is required: set url or urlFrom");
            }
            _ => {}
        }
    }
}

/// Checks that `strategy` and the other fields about retries agree.
fn check_retries(request: &TaskRequest, at: &str, problems: &mut Problems) {
    match (request.strategy, request.max_retries) {
        (Some(FailurePolicy::Skip), Some(1..)) => {
            let message = "Skip: permits no retries, but maxRetries is set: set only one of them";
            problems.add(&format!("{at}strategy"), message);
        }
        (Some(FailurePolicy::Retry), Some(0)) => {
            let message = "Retry: needs at least one retry, but maxRetries is 0";
            problems.add(&format!("{at}strategy"), message);
        }
        _ => {}
    }
    if request.retry_policy.zip(request.retry_strategy).is_some_and(|(alias, name)| alias != name) {
        let message = "differs from retryStrategy, of which it is an alias: set only one of them";
        problems.add(&format!("{at}retryPolicy"), message);
    }
}

fn check_url(field: &str, url: &str, guard: &NotificationPolicy, problems: &mut Problems) {
    if let Err(reason) = guard.parse(url) {
        problems.add(field, reason.to_string());
    }
}

/// Returns the field of the request that a field of the spec is converted from.
fn request_field(field: &str, has_webhook_url: bool) -> String {
    let field = field.trim_start_matches("spec").trim_start_matches('.');
    let (list, rest) = field.split_once('[').unwrap_or((field, ""));
    let Some((index, part)) = rest.split_once(']') else {
        return field.replace("retry.delay", "retryDelay");
    };
    match (list, index.parse::<usize>()) {
        ("imagePullSecrets", Ok(index)) => format!("imagePullSecrets[{index}]"),
        ("notify", Ok(index)) => match index.checked_sub(usize::from(has_webhook_url)) {
            Some(index) => format!("notify[{index}]{}", part.replace("secretRef.name", "secret")),
            None => "webhookUrl".to_owned(),
        },
        _ => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use prewarmer_core::task::{Amount, RetryStrategy};
    use serde_json::json;

    use super::*;

    fn invalid_fields(body: Value) -> Vec<String> {
        let details = parse(body, &NotificationPolicy::default()).unwrap_err();
        details.into_iter().map(|detail| detail.field).collect()
    }

    #[test]
    fn request_of_existing_clients_is_parsed() {
        let body = json!({"images": ["nginx:1.27"], "batchSize": 10, "nodeSelector": {"a": "b"}, "priority": 7,
            "maxRetries": 3, "retryStrategy": "exponential", "retryDelay": 30,
            "webhookUrl": "https://hooks.example.com/x", "namespace": "shop"});
        let wanted = parse(body, &NotificationPolicy::default()).unwrap();
        let spec = &wanted.spec;
        assert_eq!((wanted.namespace.as_deref(), spec.priority), (Some("shop"), 7));
        let rule = spec.retry.as_ref().unwrap();
        assert_eq!(
            (rule.limit, rule.strategy, rule.delay.as_deref()),
            (3, RetryStrategy::Exponential, Some("30s"))
        );
        assert_eq!(
            (spec.effective_failure_policy(), &spec.batch_size),
            (FailurePolicy::Retry, &Amount::Count(10))
        );
        assert_eq!(
            spec.notify.as_ref().unwrap()[0].url.as_deref(),
            Some("https://hooks.example.com/x")
        );
    }

    #[test]
    fn spec_survives_a_round_trip() {
        let body = json!({"images": ["a:1"], "batchSize": "25%", "nodes": 3, "batchPolicy": "Rolling", "maxRetries": 2,
            "retryDelay": 5, "timeout": "1m", "deadline": "1h", "successThreshold": "50%", "imagePullSecrets": ["s"],
            "serviceAccountName": "x", "imagePullPolicy": "Always", "retain": "5m", "worker": "Pod", "pullMethod": "Helper",
            "ttlSecondsAfterFinished": 5, "webhookUrl": "https://a.example.com/", "tolerations": [{"operator": "Exists"}],
            "notify": [{"url": "https://b.example.com/", "format": "slack", "secret": "k"},
                       {"urlFrom": {"secretKeyRef": {"name": "hook", "key": "url"}}}], "namespace": "shop"});
        let first = parse(body, &NotificationPolicy::default()).unwrap();
        let written = serde_json::to_value(TaskRequest::from_spec(&first.spec, "shop")).unwrap();
        assert_eq!(parse(written, &NotificationPolicy::default()).unwrap().spec, first.spec);
    }

    /// The documented fields and the fields that are read are the same.
    #[test]
    fn documented_fields_are_parsed() {
        let schema =
            serde_json::to_value(<TaskRequest as utoipa::PartialSchema>::schema()).unwrap();
        let names: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        let body: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).clone(), json!(true))).collect();
        let wrong = parse(Value::Object(body.clone()), &NotificationPolicy::default()).unwrap_err();
        assert!(wrong.iter().all(|detail| detail.message != "unknown field"), "{wrong:?}");
        assert!(names.len() > 20);
    }

    #[test]
    fn strategy_and_retry_policy_are_parsed() {
        let rule = |fields: Value| {
            let mut body = json!({"images": ["a:1"]});
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let spec = parse(body, &NotificationPolicy::default()).unwrap().spec;
            let limit = validate(&spec).unwrap().retry.limit;
            (limit, spec.retry.unwrap_or_default().strategy)
        };
        assert_eq!(rule(json!({"strategy": "Retry"})), (3, RetryStrategy::Linear));
        assert_eq!(rule(json!({"strategy": "Skip"})), (0, RetryStrategy::Linear));
        assert_eq!(rule(json!({"strategy": "Skip", "maxRetries": 0})), (0, RetryStrategy::Linear));
        assert_eq!(
            rule(json!({"strategy": "Retry", "maxRetries": 1, "retryPolicy": "exponential"})),
            (1, RetryStrategy::Exponential)
        );
        let same = json!({"maxRetries": 2, "retryPolicy": "linear", "retryStrategy": "linear"});
        assert_eq!(rule(same), (2, RetryStrategy::Linear));
        for (wrong, field) in [
            (json!({"strategy": "Skip", "maxRetries": 1}), "strategy"),
            (json!({"strategy": "Retry", "maxRetries": 0}), "strategy"),
            (json!({"strategy": "retry"}), "strategy"),
            (json!({"retryPolicy": "linear", "retryStrategy": "exponential"}), "retryPolicy"),
        ] {
            let mut body = json!({"images": ["a:1"]});
            body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
            assert_eq!(invalid_fields(body), [field]);
        }
    }

    #[test]
    fn url_and_url_from_are_exclusive() {
        let at = |notify: Value| {
            invalid_fields(
                json!({"images": ["a:1"], "webhookUrl": "https://a.example.com/", "notify": [notify]}),
            )
        };
        let source = json!({"secretKeyRef": {"name": "hook", "key": "url"}});
        assert_eq!(
            at(json!({"url": "https://b.example.com/", "urlFrom": source})),
            ["notify[0].urlFrom"]
        );
        assert_eq!(at(json!({"format": "slack"})), ["notify[0].url"]);
        assert_eq!(at(json!({"urlFrom": {}})), ["notify[0].urlFrom.secretKeyRef"]);
        assert_eq!(
            at(json!({"urlFrom": {"secretKeyRef": {"name": "hook"}}})),
            ["notify[0].urlFrom.secretKeyRef.key"]
        );
        assert_eq!(
            at(json!({"urlFrom": {"secretKeyRef": {"name": "hook", "key": "url"}, "x": 1}})),
            ["notify[0].urlFrom.x"]
        );
        let bad_key = json!({"urlFrom": {"secretKeyRef": {"name": "hook", "key": "a/b"}}});
        assert_eq!(at(bad_key), ["notify[0].urlFrom.secretKeyRef.key"]);
        assert_eq!(
            at(json!({"url": "https://b.example.com/", "secret": "No Name"})),
            ["notify[0].secret"]
        );
    }

    #[test]
    fn every_invalid_field_is_reported() {
        assert_eq!(invalid_fields(json!({})), ["images"]);
        assert_eq!(invalid_fields(json!({"images": "nginx"})), ["images"]);
        assert_eq!(invalid_fields(json!({"images": []})), ["images"]);
        assert_eq!(invalid_fields(json!([])), [""]);
        let many = json!({"images": ["UPPER/x", 5], "batchSize": 101, "priority": 11, "maxRetries": 6, "retryStrategy": "no",
            "retryDelay": -1, "webhookUrl": "http://169.254.169.254/", "namespace": "No", "batchsize": 1,
            "nodeSelector": {"a": 1}, "timeout": "soon", "notify": [{"format": "x"}, 3]});
        let mut found = invalid_fields(many);
        found.sort();
        assert_eq!(
            found,
            [
                "batchSize",
                "batchsize",
                "images[0]",
                "images[1]",
                "maxRetries",
                "namespace",
                "nodeSelector.a",
                "notify[0].format",
                "notify[0].url",
                "notify[1]",
                "priority",
                "retryDelay",
                "retryStrategy",
                "timeout",
                "webhookUrl"
            ]
        );
    }

    /// Problems of a body as pointers and messages.
    fn problems(body: Value) -> Vec<(String, String)> {
        let details = parse(body, &NotificationPolicy::default()).unwrap_err().into_iter();
        let mut found: Vec<_> =
            details.map(|one| (one.pointer.unwrap_or_default(), one.message)).collect();
        found.sort();
        found
    }

    #[test]
    fn problems_of_nested_objects_have_pointers() {
        let body = json!({"images": ["nginx:1.27", null], "batchSize": true, "nodes": "some",
            "nodeSelector": {"a/b": 1, "-": "x"}, "tolerations": [{"operator": "Exists"}, {"tolerationSeconds": "x"}, 5],
            "notify": [{"urlFrom": {"secretKeyRef": {"name": 5, "other": 1}}, "format": "x"}],
            "imagePullSecrets": ["ok", "Not ok"], "timeout": "soon", "worker": "Cat", "pullMethod": 1});
        let found = problems(body);
        let expected = [
            ("/batchSize", "true: expected 1 to 100, or a percentage from 1% to 100%"),
            ("/images/1", "expected a string, got null"),
            ("/nodeSelector/a~1b", "expected a string, got a number"),
            (
                "/nodes",
                "\"some\": expected all, auto, 1 to 999999, or a percentage from 1% to 100%",
            ),
            (
                "/notify/0/format",
                "\"x\": expected one of json, cloudevents, slack, dingtalk, alertmanager",
            ),
            ("/notify/0/urlFrom/secretKeyRef/key", "is required"),
            ("/notify/0/urlFrom/secretKeyRef/name", "expected a string, got a number"),
            ("/notify/0/urlFrom/secretKeyRef/other", "unknown field"),
            ("/pullMethod", "expected one of Auto, ImageVolume, Helper, got a number"),
            ("/timeout", "\"soon\": expected a duration such as 30s, 10m or 1h30m"),
            ("/worker", "\"Cat\": expected one of Job, Pod"),
        ];
        for (pointer, message) in expected {
            let is_found = found.iter().any(|one| one.0 == pointer && one.1 == message);
            assert!(is_found, "{pointer}: {message} in {found:#?}");
        }
        // Only serde and the rules of the task controller detect the others.
        let pointers: Vec<&str> = found.iter().map(|one| one.0.as_str()).collect();
        for pointer in [
            "/imagePullSecrets/1",
            "/nodeSelector/-",
            "/tolerations/1/tolerationSeconds",
            "/tolerations/2",
        ] {
            assert!(pointers.contains(&pointer), "{pointer} in {found:#?}");
        }
        assert_eq!(found.len(), expected.len() + 4, "{found:#?}");
    }

    #[test]
    fn null_is_the_same_as_an_absent_field() {
        let schema =
            serde_json::to_value(<TaskRequest as utoipa::PartialSchema>::schema()).unwrap();
        let names = schema["properties"].as_object().unwrap().keys();
        let mut body: serde_json::Map<String, Value> =
            names.map(|name| (name.clone(), Value::Null)).collect();
        let example = "is required, such as [\"nginx:1.27\",\"redis:7.4\"]";
        let missing = [("/images".to_owned(), example.to_owned())];
        assert_eq!(problems(Value::Object(body.clone())), missing);
        assert_eq!(problems(json!({})), missing);
        body.insert("images".into(), json!(["nginx"]));
        let parsed = parse(Value::Object(body), &NotificationPolicy::default()).unwrap();
        let defaults = PrewarmTaskSpec::new(vec!["nginx".into()]);
        let failure_policy = Some(FailurePolicy::Skip);
        assert_eq!(parsed.spec, PrewarmTaskSpec { failure_policy, ..defaults });
    }

    #[test]
    fn whole_numbers_may_have_a_fraction_of_zero() {
        let body = json!({"images": ["a:1"], "batchSize": 5.0, "priority": 7.0, "nodes": 1e3});
        let spec = parse(body, &NotificationPolicy::default()).unwrap().spec;
        assert_eq!((spec.batch_size, spec.priority), (Amount::Count(5), 7));
        assert_eq!(spec.nodes, Amount::Count(1000));
    }

    /// The address of a notification may contain a token.
    #[test]
    fn addresses_are_not_repeated() {
        let secret = "https://hooks.example.com/".to_owned() + &"secret".repeat(400);
        for url in [json!(secret), json!("secret"), json!(["secret"]), json!({"secret": 1})] {
            let body = json!({"images": ["a:1"], "webhookUrl": url, "notify": [{"url": url}]});
            let found = problems(body);
            assert!(found.iter().all(|one| !one.1.contains("secret")), "{found:?}");
        }
    }

    #[test]
    fn indices_are_those_of_the_body() {
        let body = json!({"images": ["a:1"], "webhookUrl": "https://a.example.com/",
            "notify": [1, {"url": "https://b.example.com/", "secret": "No Name"}]});
        let fields: Vec<String> = problems(body).into_iter().map(|one| one.0).collect();
        assert_eq!(fields, ["/notify/0", "/notify/1/secret"]);
    }
}
