//! Task as clients of REST send it, and its conversion into a spec and back. Pure: no client, no
//! clock, no I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use prewarmer_core::{
    duration,
    task::{
        Amount, BatchPolicy, FailurePolicy, LocalReference, Notification, PrewarmTaskSpec,
        PullMethod, PullPolicy, RetrySpec, RetryStrategy, SecretKeyReference, UrlSource,
        WorkerKind,
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{
    ToSchema,
    openapi::{
        extensions::ExtensionsBuilder,
        schema::{ObjectBuilder, OneOfBuilder, Schema, Type},
    },
};

use crate::{api::decode::EXPECTED, task_view::RetryGrowth};

/// Largest number of nodes that `nodes` accepts.
const MAX_NODE_COUNT: u32 = 999_999;

/// Builds the schema of an integer from 1 to `most`, a string of a pattern, or null.
fn number_or_text(most: u32, pattern: &str, expected: &str, description: &str) -> Schema {
    let of = |kind: Type| ObjectBuilder::new().schema_type(kind);
    let number = of(Type::Integer).minimum(Some(1)).maximum(Some(most));
    OneOfBuilder::new()
        .item(number)
        .item(of(Type::String).pattern(Some(pattern)))
        .item(of(Type::Null))
        .description(Some(description))
        .extensions(Some(ExtensionsBuilder::new().add(EXPECTED, expected).build()))
        .build()
        .into()
}

fn batch_size_schema() -> Schema {
    number_or_text(
        100,
        "^(100|[1-9][0-9]?)%$",
        "1 to 100, or a percentage from 1% to 100%",
        "Number of nodes per batch: 1 to 100, or a percentage such as `25%`; 10 by default.",
    )
}

fn nodes_schema() -> Schema {
    number_or_text(
        MAX_NODE_COUNT,
        "^(all|auto|(100|[1-9][0-9]?)%|[1-9][0-9]{0,5})$",
        "all, auto, 1 to 999999, or a percentage from 1% to 100%",
        "Number of matching nodes to warm: `all` (default), `auto`, a number, or a percentage such as `25%`.",
    )
}

/// Key of a Secret in the task's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SecretKeyReference)]
pub(in crate::api) struct SecretKeyRequest {
    /// Name of the Secret.
    #[serde(default)]
    #[schema(required = true)]
    name: String,
    /// Key in the Secret's data.
    #[serde(default)]
    #[schema(required = true)]
    key: String,
}

/// Source of a URL, read when the URL is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = UrlSource)]
pub(in crate::api) struct UrlSourceRequest {
    /// Key of a Secret in the task's namespace whose value is the URL. The server needs `get` on
    /// that Secret.
    #[serde(default)]
    #[schema(required = true)]
    secret_key_ref: SecretKeyRequest,
}

/// Notification of the end of a task. Exactly one of `url` and `urlFrom` is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct NotifyRequest {
    /// Address that receives the notification, `http` or `https`. Every user who may read the task
    /// can read it: use `urlFrom` for an address that contains a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://hooks.example.com/prewarm", max_length = 2048)]
    pub url: Option<String>,
    /// Key of a Secret in the task's namespace whose value is the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_from: Option<UrlSourceRequest>,
    /// Format of the body: `json` (default), `cloudevents`, `slack`, `dingtalk` or `alertmanager`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        pattern = "^(json|cloudevents|slack|dingtalk|alertmanager)$",
        extensions(("x-expected" = json!("one of json, cloudevents, slack, dingtalk, alertmanager")))
    )]
    pub format: Option<String>,
    /// Name of a Secret in the task's namespace whose `key` signs the notification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Task to create.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct TaskRequest {
    /// Image references, 1 to 100, as in a pod.
    #[serde(default)]
    #[schema(
        required = true,
        min_items = 1,
        max_items = 100,
        example = json!(["nginx:1.27", "redis:7.4"])
    )]
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
    /// Treatment of a failed node: `Skip`, or `Retry`, with 3 retries when `maxRetries` is absent.
    /// By default `Retry` when `maxRetries` is at least 1, otherwise `Skip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<FailurePolicy>,
    /// Number of retries of a failed node, 0 to 5; 0 by default, and 3 with `strategy: Retry`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 5)]
    pub max_retries: Option<u32>,
    /// Growth of the delay between retries: `linear` (default) or `exponential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_strategy: Option<RetryGrowth>,
    /// Alias of `retryStrategy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryGrowth>,
    /// Delay before the first retry, in seconds; 30 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 86400)]
    pub retry_delay: Option<u32>,
    /// Timeout per node, such as `10m` (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 20,
        pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$",
        extensions(("x-expected" = json!("a duration such as 30s, 10m or 1h30m")))
    )]
    pub timeout: Option<String>,
    /// Timeout of the entire task, such as `1h`; by default that of `--default-deadline`, 2 h.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 20,
        pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$",
        extensions(("x-expected" = json!("a duration such as 30s, 10m or 1h30m")))
    )]
    pub deadline: Option<String>,
    /// Share of nodes that must be warm for the task to complete; `90%` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        pattern = "^(100|[1-9]?[0-9])%$",
        extensions(("x-expected" = json!("a percentage from 0% to 100%")))
    )]
    pub success_threshold: Option<String>,
    /// Names of pull secrets in the task's namespace, for private registries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<String>>,
    /// Name of the service account in the task's namespace whose pull secrets are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Pull policy: `IfNotPresent`, or `Always` to resolve a mutable tag again. By default that of
    /// each image as in a pod: `Always` for the tag `latest` and for an image without tag and
    /// digest, otherwise `IfNotPresent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Time for which finished worker pods are kept, such as `30m`. While they exist, the kubelet
    /// keeps their images.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 20,
        pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$",
        extensions(("x-expected" = json!("a duration such as 30s, 10m or 1h30m")))
    )]
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
    #[schema(
        pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        extensions(("x-expected" = json!("a namespace name")))
    )]
    pub namespace: Option<String>,
}

impl From<UrlSource> for UrlSourceRequest {
    fn from(source: UrlSource) -> Self {
        let SecretKeyReference { name, key } = source.secret_key_ref;
        Self { secret_key_ref: SecretKeyRequest { name, key } }
    }
}

impl From<UrlSourceRequest> for UrlSource {
    fn from(source: UrlSourceRequest) -> Self {
        let SecretKeyRequest { name, key } = source.secret_key_ref;
        Self { secret_key_ref: SecretKeyReference { name, key } }
    }
}

impl From<NotifyRequest> for Notification {
    fn from(request: NotifyRequest) -> Self {
        Self {
            url: request.url,
            url_from: request.url_from.map(UrlSource::from),
            secret_ref: request.secret.map(|name| LocalReference { name }),
            format: request.format,
        }
    }
}

impl From<&Notification> for NotifyRequest {
    fn from(notification: &Notification) -> Self {
        Self {
            url: notification.url.clone(),
            url_from: notification.url_from.clone().map(UrlSourceRequest::from),
            format: notification.format.clone(),
            secret: notification.secret_ref.as_ref().map(|secret| secret.name.clone()),
        }
    }
}

impl From<TaskRequest> for PrewarmTaskSpec {
    /// Converts a request. Absent fields get their defaults; `webhookUrl` is the first of the
    /// notifications.
    fn from(request: TaskRequest) -> Self {
        let limit = request.retry_limit();
        let defaults = Self::new(request.images);
        let growth = request.retry_strategy.or(request.retry_policy);
        let retry = RetrySpec {
            limit,
            strategy: growth.map(RetryStrategy::from).unwrap_or_default(),
            delay: request.retry_delay.map(|seconds| format!("{seconds}s")),
        };
        let webhook =
            request.webhook_url.map(|url| NotifyRequest { url: Some(url), ..Default::default() });
        let notify: Vec<Notification> = webhook
            .into_iter()
            .chain(request.notify.into_iter().flatten())
            .map(Notification::from)
            .collect();
        let to_references = |names: Vec<String>| {
            names.into_iter().map(|name| LocalReference { name }).collect::<Vec<_>>()
        };
        Self {
            node_selector: request.node_selector,
            tolerations: request.tolerations,
            nodes: request.nodes.unwrap_or(defaults.nodes),
            batch_size: request.batch_size.unwrap_or(defaults.batch_size),
            batch_policy: request.batch_policy.unwrap_or_default(),
            timeout: request.timeout.unwrap_or(defaults.timeout),
            deadline: request.deadline,
            priority: request.priority.unwrap_or(defaults.priority),
            failure_policy: Some(match limit {
                0 => FailurePolicy::Skip,
                _ => FailurePolicy::Retry,
            }),
            retry: (limit > 0).then_some(retry),
            success_threshold: request.success_threshold.unwrap_or(defaults.success_threshold),
            image_pull_secrets: request.image_pull_secrets.map(to_references),
            service_account_name: request.service_account_name,
            image_pull_policy: request.image_pull_policy,
            retain: request.retain,
            worker: request.worker.unwrap_or_default(),
            pull_method: request.pull_method.unwrap_or_default(),
            ttl_seconds_after_finished: request.ttl_seconds_after_finished,
            notify: (!notify.is_empty()).then_some(notify),
            ..defaults
        }
    }
}

impl TaskRequest {
    /// Returns the number of retries of a failed node.
    fn retry_limit(&self) -> u32 {
        match self.strategy {
            Some(FailurePolicy::Skip) => 0,
            Some(FailurePolicy::Retry) => {
                self.max_retries.unwrap_or_else(|| RetrySpec::default().limit)
            }
            None => self.max_retries.unwrap_or(0),
        }
    }

    /// Builds the request that would create a task of this spec.
    #[must_use]
    pub(in crate::api) fn from_spec(spec: &PrewarmTaskSpec, namespace: &str) -> Self {
        let rule =
            spec.retry.clone().filter(|_| spec.effective_failure_policy() == FailurePolicy::Retry);
        let delay = rule.as_ref().and_then(|rule| duration::parse(rule.delay.as_deref()?).ok());
        let all: Vec<NotifyRequest> =
            spec.notify.iter().flatten().map(NotifyRequest::from).collect();
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
            strategy: None,
            retry_policy: None,
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
            image_pull_policy: spec.image_pull_policy,
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
