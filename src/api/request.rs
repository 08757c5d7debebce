//! Conversion of the JSON of a task into its spec, and back. Pure: no client, no clock, no I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use prewarmer_core::{
    duration,
    task::{
        Amount, BatchPolicy, FailurePolicy, LocalReference, MAX_RETRIES, NOTIFICATION_FORMATS,
        Notification, PrewarmTaskSpec, PullMethod, PullPolicy, RetrySpec, RetryStrategy,
        SecretKeyReference, UrlSource, WorkerKind, validate::validate,
    },
};
use serde::Serialize;
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type},
};

use super::{
    error::Detail,
    fields::{Fields, as_integer},
};
use crate::{notify::NotificationPolicy, task_view::RetryGrowth};

/// Longest delay before the first retry, in seconds: one day.
const MAX_DELAY: u32 = 24 * 3600;
/// Largest number of nodes that `nodes` accepts.
const MAX_NODE_COUNT: u32 = 999_999;
/// Longest time to live of a finished task, in seconds.
const MAX_TTL: u32 = i32::MAX.unsigned_abs();

/// Builds the schema of an integer from 1 to `most`, a string of a pattern, or null.
fn number_or_text(most: u32, pattern: &str, description: &str) -> Schema {
    let of = |kind: Type| ObjectBuilder::new().schema_type(kind);
    let number = of(Type::Integer).minimum(Some(1)).maximum(Some(most));
    OneOfBuilder::new()
        .item(number)
        .item(of(Type::String).pattern(Some(pattern)))
        .item(of(Type::Null))
        .description(Some(description))
        .build()
        .into()
}

fn batch_size_schema() -> Schema {
    number_or_text(
        100,
        "^(100|[1-9][0-9]?)%$",
        "Number of nodes per batch: 1 to 100, or a percentage such as `25%`; 10 by default.",
    )
}

fn nodes_schema() -> Schema {
    number_or_text(
        MAX_NODE_COUNT,
        "^(all|auto|(100|[1-9][0-9]?)%|[1-9][0-9]{0,5})$",
        "Number of matching nodes to warm: `all` (default), `auto`, a number, or a percentage such as `25%`.",
    )
}

/// Notification of the end of a task. Exactly one of `url` and `urlFrom` is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NotifyRequest {
    /// Address that receives the notification, `http` or `https`. Every user who may read the task
    /// can read it: use `urlFrom` for an address that contains a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://hooks.example.com/prewarm", max_length = 2048)]
    pub url: Option<String>,
    /// Key of a Secret in the task's namespace whose value is the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_from: Option<UrlSource>,
    /// Format of the body: `json` (default), `cloudevents`, `slack`, `dingtalk` or `alertmanager`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(json|cloudevents|slack|dingtalk|alertmanager)$")]
    pub format: Option<String>,
    /// Name of a Secret in the task's namespace whose `key` signs the notification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Task to create.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TaskRequest {
    /// Image references, 1 to 100, as in a pod.
    #[schema(min_items = 1, max_items = 100, example = json!(["nginx:1.27", "redis:7.4"]))]
    pub images: Vec<String>,
    /// Number of nodes per batch: 1 to 100, or a percentage such as `25%`; 10 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = batch_size_schema)]
    pub batch_size: Option<Amount>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Tolerations, as in a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<serde_json::Value>>)]
    pub tolerations: Option<Vec<Toleration>>,
    /// Number of matching nodes to warm: `all` (default), `auto`, a number, or a percentage such as
    /// `25%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = nodes_schema)]
    pub nodes: Option<Amount>,
    /// Order of batches: `Barrier` (default), `Rolling` or `Doubling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_policy: Option<BatchPolicy>,
    /// Priority among waiting tasks, 1 to 10, higher first; 5 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10)]
    pub priority: Option<u32>,
    /// Number of retries of a failed node, 0 to 5; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 5)]
    pub max_retries: Option<u32>,
    /// Growth of the delay between retries: `linear` (default) or `exponential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_strategy: Option<RetryGrowth>,
    /// Delay before the first retry, in seconds; 30 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 86400)]
    pub retry_delay: Option<u32>,
    /// Timeout per node, such as `10m` (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 20, pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$")]
    pub timeout: Option<String>,
    /// Timeout of the entire task, such as `1h`; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 20, pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$")]
    pub deadline: Option<String>,
    /// Share of nodes that must be warm for the task to complete; `90%` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(100|[1-9]?[0-9])%$")]
    pub success_threshold: Option<String>,
    /// Names of pull secrets in the task's namespace, for private registries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<String>>,
    /// Name of the service account in the task's namespace whose pull secrets are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Pull policy: `IfNotPresent` (default), or `Always` to resolve a mutable tag again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Time for which finished worker pods are kept, such as `30m`. While they exist, the kubelet
    /// keeps their images.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 20, pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$")]
    pub retain: Option<String>,
    /// Kind of the workers: `Job` (default) or `Pod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerKind>,
    /// Pull method: `Auto` (default), `ImageVolume` or `Helper`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_method: Option<PullMethod>,
    /// Time after its end at which the task is deleted, in seconds; never by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub ttl_seconds_after_finished: Option<u32>,
    /// Address that receives a notification as JSON when the task ends; `notify` has more options.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://hooks.example.com/prewarm")]
    pub webhook_url: Option<String>,
    /// Notifications of the end of the task, at most 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 10)]
    pub notify: Option<Vec<NotifyRequest>>,
    /// Namespace of the task; the server's default namespace when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    pub namespace: Option<String>,
}

/// Parsed request: spec of the task, and its namespace when the body names one.
#[derive(Debug, Default)]
pub(super) struct ParsedTask {
    pub(super) namespace: Option<String>,
    pub(super) spec: PrewarmTaskSpec,
}

/// Parses a task. The error lists every problem.
pub(super) fn parse(body: Value, guard: &NotificationPolicy) -> Result<ParsedTask, Vec<Detail>> {
    let fields = Fields::from_body(body).map_err(|detail| vec![detail])?;
    let (wanted, problems) = parse_fields(fields, guard);
    if problems.is_empty() { Ok(wanted) } else { Err(problems) }
}

/// Parses a task from the fields of an object. The problems have paths that begin with the object's
/// own.
pub(super) fn parse_fields(
    mut fields: Fields,
    guard: &NotificationPolicy,
) -> (ParsedTask, Vec<Detail>) {
    let namespace = fields.string("namespace");
    if let Some(name) = namespace.as_deref().filter(|name| !is_dns_label(name)) {
        fields.add_problem("namespace", format!("{name:?}: expected a namespace name"));
    }
    let had = fields.problems.len();
    let images = fields.string_list("images");
    if images.is_none() && fields.problems.len() == had {
        fields.add_problem(
            "images",
            "is required: list at least one image, such as [\"nginx:1.27\"]",
        );
    }
    let mut spec = PrewarmTaskSpec::new(images.unwrap_or_default());
    parse_placement(&mut fields, &mut spec);
    parse_retry(&mut fields, &mut spec);
    let fixed = |slot: &mut String, text: Option<String>| {
        if let Some(text) = text {
            *slot = text;
        }
    };
    fixed(&mut spec.timeout, fields.bounded_string("timeout", 20));
    fixed(&mut spec.success_threshold, fields.bounded_string("successThreshold", 4));
    spec.deadline = fields.bounded_string("deadline", 20);
    spec.retain = fields.bounded_string("retain", 20);
    spec.priority = fields.integer("priority", 1..=10).unwrap_or(spec.priority);
    let secrets = fields.string_list("imagePullSecrets");
    spec.image_pull_secrets =
        secrets.map(|names| names.into_iter().map(|name| LocalReference { name }).collect());
    spec.service_account_name = fields.string("serviceAccountName");
    let policies = [("IfNotPresent", PullPolicy::IfNotPresent), ("Always", PullPolicy::Always)];
    spec.image_pull_policy = fields.choice("imagePullPolicy", &policies).unwrap_or_default();
    spec.worker = fields
        .choice("worker", &[("Job", WorkerKind::Job), ("Pod", WorkerKind::Pod)])
        .unwrap_or_default();
    let methods = [
        ("Auto", PullMethod::Auto),
        ("ImageVolume", PullMethod::ImageVolume),
        ("Helper", PullMethod::Helper),
    ];
    spec.pull_method = fields.choice("pullMethod", &methods).unwrap_or_default();
    spec.ttl_seconds_after_finished = fields.integer("ttlSecondsAfterFinished", 0..=MAX_TTL);
    let has_webhook_url = fields.contains("webhookUrl");
    spec.notify = parse_notify(&mut fields, guard);
    if spec.images.len() > 100 {
        fields.add_problem("images", "expected at most 100 images");
    }
    // The rules of the task controller, reported under the field names of the request.
    for problem in validate(&spec).err().unwrap_or_default() {
        let detail = Detail::from(problem);
        let name = detail.field.trim_start_matches("spec.").replace("retry.delay", "retryDelay");
        if let Some(name) = name.strip_prefix("notify[") {
            add_notify_problem(&mut fields, has_webhook_url, name, detail.message);
            continue;
        }
        if fields.problems.iter().all(|known| !known.field.ends_with(&name)) {
            fields.add_problem(&name, detail.message);
        }
    }
    (ParsedTask { namespace, spec }, fields.finish())
}

/// Reports whether a name is a DNS label (RFC 1123), as namespace names are.
pub(super) fn is_dns_label(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= 63
        && name.chars().all(good)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn parse_placement(fields: &mut Fields, spec: &mut PrewarmTaskSpec) {
    spec.node_selector = fields.string_map("nodeSelector");
    spec.tolerations = fields.deserialize("tolerations");
    if let Some(amount) = parse_amount(fields, "batchSize") {
        if matches!(amount, Amount::Count(0 | 101..)) {
            fields.add_problem(
                "batchSize",
                format!("{amount}: expected 1 to 100, or a percentage from 1% to 100%"),
            );
        }
        spec.batch_size = amount;
    }
    if let Some(amount) = parse_amount(fields, "nodes") {
        if matches!(amount, Amount::Count(0 | 1_000_000..)) {
            fields.add_problem(
                "nodes",
                format!("{amount}: expected all, auto, 1 to {MAX_NODE_COUNT}, or a percentage"),
            );
        }
        spec.nodes = amount;
    }
    let policies = [
        ("Barrier", BatchPolicy::Barrier),
        ("Rolling", BatchPolicy::Rolling),
        ("Doubling", BatchPolicy::Doubling),
    ];
    spec.batch_policy = fields.choice("batchPolicy", &policies).unwrap_or_default();
}

fn parse_amount(fields: &mut Fields, name: &str) -> Option<Amount> {
    match fields.value(name)? {
        Value::String(text) => Some(Amount::Text(text)),
        value => {
            let whole = as_integer(&value);
            if whole.is_none() {
                fields.add_problem(
                    name,
                    format!("{value}: expected an integer, or a percentage such as \"25%\""),
                );
            }
            whole.map(Amount::Count)
        }
    }
}

fn parse_retry(fields: &mut Fields, spec: &mut PrewarmTaskSpec) {
    let limit = fields.integer("maxRetries", 0..=MAX_RETRIES).unwrap_or(0);
    let strategies =
        [("linear", RetryStrategy::Linear), ("exponential", RetryStrategy::Exponential)];
    let strategy = fields.choice("retryStrategy", &strategies).unwrap_or_default();
    let delay = fields.integer("retryDelay", 0..=MAX_DELAY).map(|seconds| format!("{seconds}s"));
    if limit > 0 {
        spec.failure_policy = FailurePolicy::Retry;
        spec.retry = Some(RetrySpec { limit, strategy, delay });
    }
}

/// Records a problem of a notification under its field in the request: `webhookUrl` is the first
/// item of the spec's list. It is left out when a problem of notifications is recorded already.
fn add_notify_problem(fields: &mut Fields, has_webhook_url: bool, at: &str, message: String) {
    let Some((index, field)) = at.split_once(']') else { return };
    let Ok(index) = index.parse::<usize>() else { return };
    let before = usize::from(has_webhook_url);
    let name = match index.checked_sub(before) {
        Some(index) => format!("notify[{index}]{}", field.replace("secretRef.name", "secret")),
        None => "webhookUrl".to_owned(),
    };
    if !fields
        .problems
        .iter()
        .any(|known| known.field.starts_with("notify") || known.field.ends_with("webhookUrl"))
    {
        fields.add_problem(&name, message);
    }
}

fn parse_notify(fields: &mut Fields, guard: &NotificationPolicy) -> Option<Vec<Notification>> {
    let mut all = Vec::new();
    if let Some(url) = fields.string("webhookUrl") {
        if let Err(reason) = guard.parse(&url) {
            fields.add_problem("webhookUrl", reason.to_string());
        }
        all.push(Notification { url: Some(url), ..Notification::default() });
    }
    for (index, item) in fields.list("notify").unwrap_or_default().into_iter().enumerate() {
        let at = format!("notify[{index}]");
        let mut one = match Fields::from_body(item) {
            Ok(one) => one,
            Err(detail) => {
                fields.add_problem(&at, detail.message);
                continue;
            }
        };
        let (url, url_from) = (one.string("url"), parse_url_source(&mut one));
        match (&url, &url_from) {
            (Some(url), None) => {
                if let Err(reason) = guard.parse(url) {
                    one.add_problem("url", reason.to_string());
                }
            }
            (None, None) if one.problems.is_empty() => {
                one.add_problem("url", "is required: set url or urlFrom");
            }
            (Some(_), Some(_)) => one.add_problem("urlFrom", "must not be set together with url"),
            _ => {}
        }
        let words = NOTIFICATION_FORMATS.map(|word| (word, word));
        let format = one.choice("format", &words).map(str::to_owned);
        let secret_ref = one.string("secret").map(|name| LocalReference { name });
        all.push(Notification { url, url_from, secret_ref, format });
        for detail in one.finish() {
            fields.add_problem(&format!("{at}.{}", detail.field), detail.message);
        }
    }
    if all.len() > 10 {
        fields.add_problem("notify", "expected at most 10 notifications");
    }
    (!all.is_empty()).then_some(all)
}

/// Reads `urlFrom: {secretKeyRef: {name, key}}`.
fn parse_url_source(fields: &mut Fields) -> Option<UrlSource> {
    let mut source = fields.object("urlFrom")?;
    let mut reference = source.object("secretKeyRef");
    let found = reference.as_mut().map(|one| SecretKeyReference {
        name: one.required_string("name"),
        key: one.required_string("key"),
    });
    if found.is_none() && source.problems.is_empty() {
        source.add_problem("secretKeyRef", "is required");
    }
    fields.problems.extend(reference.map(Fields::finish).unwrap_or_default());
    fields.problems.extend(source.finish());
    found.map(|secret_key_ref| UrlSource { secret_key_ref })
}

impl TaskRequest {
    /// Builds the request that would create a task of this spec.
    #[must_use]
    pub(super) fn from_spec(spec: &PrewarmTaskSpec, namespace: &str) -> Self {
        let rule = spec.retry.clone().filter(|_| spec.failure_policy == FailurePolicy::Retry);
        let delay = rule.as_ref().and_then(|rule| duration::parse(rule.delay.as_deref()?).ok());
        let to_request = |one: &Notification| NotifyRequest {
            url: one.url.clone(),
            url_from: one.url_from.clone(),
            format: one.format.clone(),
            secret: one.secret_ref.as_ref().map(|secret| secret.name.clone()),
        };
        let all: Vec<NotifyRequest> = spec.notify.iter().flatten().map(to_request).collect();
        let simple = |one: &NotifyRequest| one.format.is_none() && one.secret.is_none();
        let first = all.first().filter(|one| simple(one)).and_then(|one| one.url.clone());
        let rest: Vec<NotifyRequest> = all.into_iter().skip(usize::from(first.is_some())).collect();
        Self {
            images: spec.images.clone(),
            batch_size: Some(spec.batch_size.clone()),
            node_selector: spec.node_selector.clone(),
            tolerations: spec.tolerations.clone(),
            nodes: Some(spec.nodes.clone()),
            batch_policy: Some(spec.batch_policy),
            priority: Some(spec.priority),
            max_retries: Some(rule.as_ref().map_or(0, |rule| rule.limit)),
            retry_strategy: rule.as_ref().map(|rule| rule.strategy.into()),
            retry_delay: delay.and_then(|delay| u32::try_from(delay.as_secs()).ok()),
            timeout: Some(spec.timeout.clone()),
            deadline: spec.deadline.clone(),
            success_threshold: Some(spec.success_threshold.clone()),
            image_pull_secrets: spec
                .image_pull_secrets
                .as_ref()
                .map(|all| all.iter().map(|one| one.name.clone()).collect()),
            service_account_name: spec.service_account_name.clone(),
            image_pull_policy: Some(spec.image_pull_policy),
            retain: spec.retain.clone(),
            worker: Some(spec.worker),
            pull_method: Some(spec.pull_method),
            ttl_seconds_after_finished: spec.ttl_seconds_after_finished,
            webhook_url: first,
            notify: (!rest.is_empty()).then_some(rest),
            namespace: Some(namespace.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
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
            (spec.failure_policy, &spec.batch_size),
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
}
