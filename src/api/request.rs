//! From the JSON of a task to its spec, and back. *Pure.*

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use serde::Serialize;
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type},
};

use super::{
    error::Detail,
    fields::{Fields, whole_number},
};
use crate::{
    catalog::RetryGrowth,
    duration,
    notify::Guard,
    task::{
        Amount, BatchPolicy, FailurePolicy, LocalReference, NOTIFICATION_FORMATS, Notification, PrewarmTaskSpec,
        PullMethod, PullPolicy, Retry, RetryStrategy, SecretKeyReference, UrlSource, WorkerKind, resource::MAX_RETRIES,
        validate::validate,
    },
};

/// Longest delay before a further try, in seconds: a day.
const MAX_DELAY: u32 = 24 * 3600;
/// The most nodes that a number names.
const MAX_COUNT: u32 = 999_999;
/// Longest life of a task after its end, in seconds.
const MAX_TTL: u32 = i32::MAX.unsigned_abs();

/// A whole number in a range, a text of a pattern, or nothing.
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
        "How many nodes at once: 1 to 100, or a percentage such as `25%`; 10 by default.",
    )
}

fn nodes_schema() -> Schema {
    number_or_text(
        MAX_COUNT,
        "^(all|auto|(100|[1-9][0-9]?)%|[1-9][0-9]{0,5})$",
        "How many of the matching nodes: `all` (default), `auto`, a number, or a percentage such as `25%`.",
    )
}

/// Who is told of a task's end: exactly one of `url` and `urlFrom`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NotifyRequest {
    /// `http` or `https`. Everybody who may read the task can read it: give an address that carries a token by `urlFrom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://hooks.example.com/prewarm", max_length = 2048)]
    pub url: Option<String>,
    /// The key of a Secret of the task's namespace whose value is the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_from: Option<UrlSource>,
    /// `json` (default), `cloudevents`, `slack`, `dingtalk` or `alertmanager`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(json|cloudevents|slack|dingtalk|alertmanager)$")]
    pub format: Option<String>,
    /// A Secret of the task's namespace whose `key` signs the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A task that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskRequest {
    /// 1 to 100 references, as a pod would name them.
    #[schema(min_items = 1, max_items = 100, example = json!(["nginx:1.27", "redis:7.4"]))]
    pub images: Vec<String>,
    /// How many nodes at once: 1 to 100, or a percentage such as `25%`; 10 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = batch_size_schema)]
    pub batch_size: Option<Amount>,
    /// Labels that a node must carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that are accepted, as in a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<serde_json::Value>>)]
    pub tolerations: Option<Vec<Toleration>>,
    /// How many of the matching nodes: `all` (default), `auto`, a number, or a percentage such as `25%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = nodes_schema)]
    pub nodes: Option<Amount>,
    /// How batches follow one another: `Barrier` (default), `Rolling` or `Doubling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_policy: Option<BatchPolicy>,
    /// 1 to 10; higher goes first; 5 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10)]
    pub priority: Option<u32>,
    /// How many further tries a failed node gets; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 5)]
    pub max_retries: Option<u32>,
    /// How the time between tries grows: `linear` (default) or `exponential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_strategy: Option<RetryGrowth>,
    /// Seconds before the first further try; 30 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 86400)]
    pub retry_delay: Option<u32>,
    /// How long a node may take, such as `10m` (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 20, pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$")]
    pub timeout: Option<String>,
    /// How long the whole task may take, such as `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 20, pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$")]
    pub deadline: Option<String>,
    /// The share of nodes that must be warm for the task to count as completed; `90%` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(100|[1-9]?[0-9])%$")]
    pub success_threshold: Option<String>,
    /// Names of Secrets of the task's namespace, for private registries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<String>>,
    /// The service account of the task's namespace whose pull secrets count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// `IfNotPresent` (default), or `Always` to check a tag that may have moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// How long finished worker pods hold the images, such as `30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 20, pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$")]
    pub retain: Option<String>,
    /// `Job` (default) or `Pod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerKind>,
    /// `Auto` (default), `ImageVolume` or `Helper`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_method: Option<PullMethod>,
    /// Seconds after its end until the task is deleted; kept by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub ttl_seconds_after_finished: Option<u32>,
    /// Who is told of the end by a POST of JSON; `notify` can say more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://hooks.example.com/prewarm")]
    pub webhook_url: Option<String>,
    /// Who is told of the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 10)]
    pub notify: Option<Vec<NotifyRequest>>,
    /// The task's namespace; the server's own by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    pub namespace: Option<String>,
}

/// What was read of a task: its namespace, if it names one, and its spec.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) namespace: Option<String>,
    pub(super) spec: PrewarmTaskSpec,
}

/// Reads a task; every mistake is told.
pub(super) fn read(body: Value, guard: &Guard) -> Result<Wanted, Vec<Detail>> {
    let fields = Fields::of(body).map_err(|detail| vec![detail])?;
    let (wanted, problems) = read_fields(fields, guard);
    if problems.is_empty() { Ok(wanted) } else { Err(problems) }
}

/// The same within an object; the paths of what is wrong begin with its own.
pub(super) fn read_fields(mut fields: Fields, guard: &Guard) -> (Wanted, Vec<Detail>) {
    let namespace = fields.text("namespace");
    if let Some(name) = namespace.as_deref().filter(|name| !is_label(name)) {
        fields.wrong("namespace", format!("{name:?}: expected the name of a namespace"));
    }
    let had = fields.problems.len();
    let images = fields.texts("images");
    if images.is_none() && fields.problems.len() == had {
        fields.wrong("images", "is needed: list at least one image, such as [\"nginx:1.27\"]");
    }
    let mut spec = PrewarmTaskSpec::new(images.unwrap_or_default());
    placement(&mut fields, &mut spec);
    retry(&mut fields, &mut spec);
    let fixed = |slot: &mut String, text: Option<String>| {
        if let Some(text) = text {
            *slot = text;
        }
    };
    fixed(&mut spec.timeout, fields.short("timeout", 20));
    fixed(&mut spec.success_threshold, fields.short("successThreshold", 4));
    spec.deadline = fields.short("deadline", 20);
    spec.retain = fields.short("retain", 20);
    spec.priority = fields.number("priority", 1..=10).unwrap_or(spec.priority);
    let secrets = fields.texts("imagePullSecrets");
    spec.image_pull_secrets = secrets.map(|names| names.into_iter().map(|name| LocalReference { name }).collect());
    spec.service_account_name = fields.text("serviceAccountName");
    let policies = [("IfNotPresent", PullPolicy::IfNotPresent), ("Always", PullPolicy::Always)];
    spec.image_pull_policy = fields.choice("imagePullPolicy", &policies).unwrap_or_default();
    spec.worker = fields.choice("worker", &[("Job", WorkerKind::Job), ("Pod", WorkerKind::Pod)]).unwrap_or_default();
    let methods =
        [("Auto", PullMethod::Auto), ("ImageVolume", PullMethod::ImageVolume), ("Helper", PullMethod::Helper)];
    spec.pull_method = fields.choice("pullMethod", &methods).unwrap_or_default();
    spec.ttl_seconds_after_finished = fields.number("ttlSecondsAfterFinished", 0..=MAX_TTL);
    let has_webhook_url = fields.has("webhookUrl");
    spec.notify = notify(&mut fields, guard);
    if spec.images.len() > 100 {
        fields.wrong("images", "expected at most 100");
    }
    // The engine's own rules, under the names of these fields.
    for problem in validate(&spec).err().unwrap_or_default() {
        let detail = Detail::from(problem);
        let name = detail.field.trim_start_matches("spec.").replace("retry.delay", "retryDelay");
        if let Some(name) = name.strip_prefix("notify[") {
            notify_problem(&mut fields, has_webhook_url, name, detail.message);
            continue;
        }
        if fields.problems.iter().all(|known| !known.field.ends_with(&name)) {
            fields.wrong(&name, detail.message);
        }
    }
    (Wanted { namespace, spec }, fields.done())
}

/// Whether it can be the name of a namespace.
pub(super) fn is_label(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(good) && !name.starts_with('-') && !name.ends_with('-')
}

fn placement(fields: &mut Fields, spec: &mut PrewarmTaskSpec) {
    spec.node_selector = fields.map("nodeSelector");
    spec.tolerations = fields.typed("tolerations");
    if let Some(amount) = amount(fields, "batchSize") {
        if matches!(amount, Amount::Count(0 | 101..)) {
            fields.wrong("batchSize", format!("{amount}: expected 1 to 100, or a percentage from 1% to 100%"));
        }
        spec.batch_size = amount;
    }
    if let Some(amount) = amount(fields, "nodes") {
        if matches!(amount, Amount::Count(0 | 1_000_000..)) {
            fields.wrong("nodes", format!("{amount}: expected all, auto, 1 to {MAX_COUNT}, or a percentage"));
        }
        spec.nodes = amount;
    }
    let policies =
        [("Barrier", BatchPolicy::Barrier), ("Rolling", BatchPolicy::Rolling), ("Doubling", BatchPolicy::Doubling)];
    spec.batch_policy = fields.choice("batchPolicy", &policies).unwrap_or_default();
}

fn amount(fields: &mut Fields, name: &str) -> Option<Amount> {
    match fields.any(name)? {
        Value::String(text) => Some(Amount::Text(text)),
        value => {
            let whole = whole_number(&value);
            if whole.is_none() {
                fields.wrong(name, format!("{value}: expected a whole number, or a percentage such as \"25%\""));
            }
            whole.map(Amount::Count)
        }
    }
}

fn retry(fields: &mut Fields, spec: &mut PrewarmTaskSpec) {
    let limit = fields.number("maxRetries", 0..=MAX_RETRIES).unwrap_or(0);
    let strategies = [("linear", RetryStrategy::Linear), ("exponential", RetryStrategy::Exponential)];
    let strategy = fields.choice("retryStrategy", &strategies).unwrap_or_default();
    let delay = fields.number("retryDelay", 0..=MAX_DELAY).map(|seconds| format!("{seconds}s"));
    if limit > 0 {
        spec.failure_policy = FailurePolicy::Retry;
        spec.retry = Some(Retry { limit, strategy, delay });
    }
}

/// Adds a problem of a notification under its place in the request: `webhookUrl` is the first of the spec's list. What is
/// known to be wrong there is not repeated.
fn notify_problem(fields: &mut Fields, has_webhook_url: bool, at: &str, message: String) {
    let Some((index, field)) = at.split_once(']') else { return };
    let Ok(index) = index.parse::<usize>() else { return };
    let before = usize::from(has_webhook_url);
    let name = match index.checked_sub(before) {
        Some(index) => format!("notify[{index}]{}", field.replace("secretRef.name", "secret")),
        None => "webhookUrl".to_owned(),
    };
    if !fields.problems.iter().any(|known| known.field.starts_with("notify") || known.field.ends_with("webhookUrl")) {
        fields.wrong(&name, message);
    }
}

fn notify(fields: &mut Fields, guard: &Guard) -> Option<Vec<Notification>> {
    let mut all = Vec::new();
    if let Some(url) = fields.text("webhookUrl") {
        if let Err(reason) = guard.check(&url) {
            fields.wrong("webhookUrl", reason);
        }
        all.push(Notification { url: Some(url), ..Notification::default() });
    }
    for (index, item) in fields.list("notify").unwrap_or_default().into_iter().enumerate() {
        let at = format!("notify[{index}]");
        let mut one = match Fields::of(item) {
            Ok(one) => one,
            Err(detail) => {
                fields.wrong(&at, detail.message);
                continue;
            }
        };
        let (url, url_from) = (one.text("url"), url_source(&mut one));
        match (&url, &url_from) {
            (Some(url), None) => {
                if let Err(reason) = guard.check(url) {
                    one.wrong("url", reason);
                }
            }
            (None, None) if one.problems.is_empty() => one.wrong("url", "is needed: give url, or urlFrom"),
            (Some(_), Some(_)) => one.wrong("urlFrom", "give either url or urlFrom"),
            _ => {}
        }
        let words = NOTIFICATION_FORMATS.map(|word| (word, word));
        let format = one.choice("format", &words).map(str::to_owned);
        let secret_ref = one.text("secret").map(|name| LocalReference { name });
        all.push(Notification { url, url_from, secret_ref, format });
        for detail in one.done() {
            fields.wrong(&format!("{at}.{}", detail.field), detail.message);
        }
    }
    if all.len() > 10 {
        fields.wrong("notify", "expected at most 10");
    }
    (!all.is_empty()).then_some(all)
}

/// Reads `urlFrom: {secretKeyRef: {name, key}}`.
fn url_source(fields: &mut Fields) -> Option<UrlSource> {
    let mut source = fields.object("urlFrom")?;
    let mut reference = source.object("secretKeyRef");
    let found = reference.as_mut().map(|one| SecretKeyReference { name: one.needed("name"), key: one.needed("key") });
    if found.is_none() && source.problems.is_empty() {
        source.wrong("secretKeyRef", "is needed");
    }
    fields.problems.extend(reference.map(Fields::done).unwrap_or_default());
    fields.problems.extend(source.done());
    found.map(|secret_key_ref| UrlSource { secret_key_ref })
}

impl TaskRequest {
    /// The request that would make a task of this spec.
    #[must_use]
    pub fn of(spec: &PrewarmTaskSpec, namespace: &str) -> Self {
        let rule = spec.retry.clone().filter(|_| spec.failure_policy == FailurePolicy::Retry);
        let delay = rule.as_ref().and_then(|rule| duration::parse(rule.delay.as_deref()?).ok());
        let told = |one: &Notification| NotifyRequest {
            url: one.url.clone(),
            url_from: one.url_from.clone(),
            format: one.format.clone(),
            secret: one.secret_ref.as_ref().map(|secret| secret.name.clone()),
        };
        let all: Vec<NotifyRequest> = spec.notify.iter().flatten().map(told).collect();
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

    fn wrong(body: Value) -> Vec<String> {
        let details = read(body, &Guard::default()).unwrap_err();
        details.into_iter().map(|detail| detail.field).collect()
    }

    #[test]
    fn what_clients_send() {
        let body = json!({"images": ["nginx:1.27"], "batchSize": 10, "nodeSelector": {"a": "b"}, "priority": 7,
            "maxRetries": 3, "retryStrategy": "exponential", "retryDelay": 30,
            "webhookUrl": "https://hooks.example.com/x", "namespace": "shop"});
        let wanted = read(body, &Guard::default()).unwrap();
        let spec = &wanted.spec;
        assert_eq!((wanted.namespace.as_deref(), spec.priority), (Some("shop"), 7));
        let rule = spec.retry.as_ref().unwrap();
        assert_eq!((rule.limit, rule.strategy, rule.delay.as_deref()), (3, RetryStrategy::Exponential, Some("30s")));
        assert_eq!((spec.failure_policy, &spec.batch_size), (FailurePolicy::Retry, &Amount::Count(10)));
        assert_eq!(spec.notify.as_ref().unwrap()[0].url.as_deref(), Some("https://hooks.example.com/x"));
    }

    #[test]
    fn what_was_read_is_written_alike() {
        let body = json!({"images": ["a:1"], "batchSize": "25%", "nodes": 3, "batchPolicy": "Rolling", "maxRetries": 2,
            "retryDelay": 5, "timeout": "1m", "deadline": "1h", "successThreshold": "50%", "imagePullSecrets": ["s"],
            "serviceAccountName": "x", "imagePullPolicy": "Always", "retain": "5m", "worker": "Pod", "pullMethod": "Helper",
            "ttlSecondsAfterFinished": 5, "webhookUrl": "https://a.example.com/", "tolerations": [{"operator": "Exists"}],
            "notify": [{"url": "https://b.example.com/", "format": "slack", "secret": "k"},
                       {"urlFrom": {"secretKeyRef": {"name": "hook", "key": "url"}}}], "namespace": "shop"});
        let first = read(body, &Guard::default()).unwrap();
        let written = serde_json::to_value(TaskRequest::of(&first.spec, "shop")).unwrap();
        assert_eq!(read(written, &Guard::default()).unwrap().spec, first.spec);
    }

    /// Every field that the documentation names is read, and no other.
    #[test]
    fn the_documented_fields_are_the_fields() {
        let schema = serde_json::to_value(<TaskRequest as utoipa::PartialSchema>::schema()).unwrap();
        let names: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        let body: serde_json::Map<String, Value> = names.iter().map(|name| ((*name).clone(), json!(true))).collect();
        let wrong = read(Value::Object(body.clone()), &Guard::default()).unwrap_err();
        assert!(wrong.iter().all(|detail| detail.message != "there is no such field"), "{wrong:?}");
        assert!(names.len() > 20);
    }

    #[test]
    fn an_address_is_given_in_one_way() {
        let at = |notify: Value| {
            wrong(json!({"images": ["a:1"], "webhookUrl": "https://a.example.com/", "notify": [notify]}))
        };
        let source = json!({"secretKeyRef": {"name": "hook", "key": "url"}});
        assert_eq!(at(json!({"url": "https://b.example.com/", "urlFrom": source})), ["notify[0].urlFrom"]);
        assert_eq!(at(json!({"format": "slack"})), ["notify[0].url"]);
        assert_eq!(at(json!({"urlFrom": {}})), ["notify[0].urlFrom.secretKeyRef"]);
        assert_eq!(at(json!({"urlFrom": {"secretKeyRef": {"name": "hook"}}})), ["notify[0].urlFrom.secretKeyRef.key"]);
        assert_eq!(
            at(json!({"urlFrom": {"secretKeyRef": {"name": "hook", "key": "url"}, "x": 1}})),
            ["notify[0].urlFrom.x"]
        );
        let bad_key = json!({"urlFrom": {"secretKeyRef": {"name": "hook", "key": "a/b"}}});
        assert_eq!(at(bad_key), ["notify[0].urlFrom.secretKeyRef.key"]);
        assert_eq!(at(json!({"url": "https://b.example.com/", "secret": "No Name"})), ["notify[0].secret"]);
    }

    #[test]
    fn every_bad_field_is_named() {
        assert_eq!(wrong(json!({})), ["images"]);
        assert_eq!(wrong(json!({"images": "nginx"})), ["images"]);
        assert_eq!(wrong(json!({"images": []})), ["images"]);
        assert_eq!(wrong(json!([])), [""]);
        let many = json!({"images": ["UPPER/x", 5], "batchSize": 101, "priority": 11, "maxRetries": 6, "retryStrategy": "no",
            "retryDelay": -1, "webhookUrl": "http://169.254.169.254/", "namespace": "No", "batchsize": 1,
            "nodeSelector": {"a": 1}, "timeout": "soon", "notify": [{"format": "x"}, 3]});
        let mut found = wrong(many);
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
