//! Custom resources `PrewarmTask` and `PrewarmPlan` (`prewarm.io/v1alpha1`).
//!
//! The doc comments of fields become the descriptions that `kubectl explain` prints.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeSelector, Toleration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{CustomResource, KubeSchema, Resource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
#[cfg(feature = "openapi")]
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};

/// Failed nodes listed in a status; further ones are only counted.
pub const MAX_FAILED_NODES: usize = 100;
/// Ignored nodes listed in a status; further ones are only counted.
pub const MAX_IGNORED_NODES: usize = 100;
/// Ends of batches listed in a status.
pub const MAX_BATCH_ENDS: usize = 1000;
/// Upper bound of `retry.limit`.
pub const MAX_RETRIES: u32 = 5;

/// Whole number, or percentage such as `25%`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// Whole number.
    Count(u32),
    /// `N%`, or one of the keywords that the field allows.
    Text(String),
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Amount {
    /// Returns the `OpenAPI` schema of an amount: a whole number or a string.
    #[cfg(feature = "openapi")]
    #[must_use]
    pub fn schema(description: &str) -> Schema {
        let of = |kind: Type| ObjectBuilder::new().schema_type(kind);
        let both =
            OneOfBuilder::new().item(of(Type::Integer).minimum(Some(1))).item(of(Type::String));
        both.description(Some(description)).build().into()
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IntOrString".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

/// Order in which batches of nodes follow one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BatchPolicy {
    /// The next batch starts when every node of the last one has ended.
    #[default]
    Barrier,
    /// Sliding window of `batchSize` nodes.
    Rolling,
    /// Batches start at one node and double up to `batchSize` while they succeed. A batch with a
    /// failed node is followed by one of the same size.
    Doubling,
}

/// Treatment of a failed node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// The node stays failed.
    #[default]
    Skip,
    /// The node is retried in a later batch as `retry` defines, unless the failure is permanent: an
    /// image that does not exist is not requested again.
    Retry,
}

/// Growth of the delay between retries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryStrategy {
    /// `delay`, 2 × `delay`, 3 × `delay`.
    #[default]
    Linear,
    /// `delay`, 2 × `delay`, 4 × `delay`.
    Exponential,
}

/// Method that pulls an image on a node.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PullMethod {
    /// `ImageVolume` where the node supports it, else `Helper`.
    #[default]
    Auto,
    /// The helper's container mounts the image as a volume. The image is never run.
    ImageVolume,
    /// The image's container runs a copied static helper in place of its own program.
    Helper,
}

/// Condition under which the kubelet contacts the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PullPolicy {
    /// Only where the image is not present on the node.
    #[default]
    IfNotPresent,
    /// On every pull, so that a tag that has moved is pulled again.
    Always,
}

impl PullPolicy {
    /// Returns the value of a container's `imagePullPolicy`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
        }
    }
}

/// Kind of the object that pulls on a node.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WorkerKind {
    /// One Job per node.
    #[default]
    Job,
    /// One pod without a Job per node, which needs fewer API writes.
    Pod,
}

/// Phase of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not started: waiting in the queue, or suspended.
    #[default]
    Pending,
    /// The nodes are being selected and recorded in the plan.
    Snapshotting,
    /// The nodes are being warmed.
    Running,
    /// Every node has ended; the remaining workers are being deleted.
    Finalizing,
    /// The images are warm on at least `successThreshold` of the nodes.
    Completed,
    /// Ended without success.
    Failed,
    /// Cancelled by `cancel`.
    Cancelled,
}

impl Phase {
    /// Reports whether the phase is final: `Completed`, `Failed` or `Cancelled`.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Returns the name of the phase as in `status.phase`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Snapshotting => "Snapshotting",
            Self::Running => "Running",
            Self::Finalizing => "Finalizing",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Name of an object in the task's namespace.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct LocalReference {
    /// Name of the object.
    #[serde(default)]
    pub name: String,
}

/// Retries of a task with `failurePolicy: Retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Number of retries of a failed node, 0 to 5. Default: 3.
    #[schemars(range(min = 0, max = 5))]
    #[serde(default = "default_retry_limit")]
    pub limit: u32,
    /// Growth of the delay: `Linear` or `Exponential`. Default: `Linear`.
    #[serde(default)]
    pub strategy: RetryStrategy,
    /// Delay before the first retry, a duration such as `1m`, from `0s` to `24h`. Default: `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub delay: Option<String>,
}

/// Key of a Secret in the task's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Source of a URL, read when the URL is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UrlSource {
    /// Key of a Secret in the task's namespace whose value is the URL. The server needs `get` on
    /// that Secret.
    pub secret_key_ref: SecretKeyReference,
}

/// Receiver of a notification about the end of a task. Exactly one of `url` and `urlFrom` must be
/// set.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.url) != has(self.urlFrom)").message("exactly one of url and urlFrom must be set"))]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// `http` or `https` URL that receives the POST request, at most 2,048 bytes. Every user who
    /// may read the task can read it: a URL that contains a token belongs in a Secret, referenced
    /// by `urlFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub url: Option<String>,
    /// Source of the URL, read when the notification is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_from: Option<UrlSource>,
    /// Secret in the task's namespace whose key `key` signs the notification (HMAC-SHA256).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Format of the notification: `json`, `cloudevents`, `slack`, `dingtalk` or `alertmanager`.
    /// Default: `json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

// Durations: the rules limit the digits of each unit and the length to 20 characters, so that CEL's
// `duration()` cannot overflow (292 years). An expression that fails to evaluate would also refuse
// every write of the status, and ratcheting does not prevent that.

/// Images to pull to nodes, and the way to pull them.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "prewarm.io",
    version = "v1alpha1",
    kind = "PrewarmTask",
    plural = "prewarmtasks",
    singular = "prewarmtask",
    shortname = "pwt",
    category = "prewarm",
    namespaced,
    status = "PrewarmTaskStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Pulls container images to nodes before pods need them.",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.progress"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failedNodeCount"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("self.images == oldSelf.images").message("images cannot be changed after creation; create another task"))]
#[x_kube(validation = Rule::new("has(self.nodeSelector) == has(oldSelf.nodeSelector) && (!has(self.nodeSelector) || self.nodeSelector == oldSelf.nodeSelector)").message("nodeSelector cannot be changed after creation"))]
#[x_kube(validation = Rule::new("has(self.nodeAffinity) == has(oldSelf.nodeAffinity) && (!has(self.nodeAffinity) || self.nodeAffinity == oldSelf.nodeAffinity)").message("nodeAffinity cannot be changed after creation"))]
#[x_kube(validation = Rule::new("has(self.tolerations) == has(oldSelf.tolerations) && (!has(self.tolerations) || self.tolerations == oldSelf.tolerations)").message("tolerations cannot be changed after creation"))]
#[x_kube(validation = Rule::new("self.nodes == oldSelf.nodes && self.batchSize == oldSelf.batchSize && self.batchPolicy == oldSelf.batchPolicy").message("nodes, batchSize and batchPolicy cannot be changed after creation"))]
#[x_kube(validation = Rule::new("self.timeout == oldSelf.timeout && self.failurePolicy == oldSelf.failurePolicy && self.successThreshold == oldSelf.successThreshold").message("timeout, failurePolicy and successThreshold cannot be changed after creation"))]
#[x_kube(validation = Rule::new("has(self.retry) == has(oldSelf.retry) && (!has(self.retry) || self.retry == oldSelf.retry) && has(self.deadline) == has(oldSelf.deadline) && (!has(self.deadline) || self.deadline == oldSelf.deadline)").message("retry and deadline cannot be changed after creation"))]
#[x_kube(validation = Rule::new("has(self.imagePullSecrets) == has(oldSelf.imagePullSecrets) && (!has(self.imagePullSecrets) || self.imagePullSecrets == oldSelf.imagePullSecrets) && has(self.serviceAccountName) == has(oldSelf.serviceAccountName) && (!has(self.serviceAccountName) || self.serviceAccountName == oldSelf.serviceAccountName)").message("imagePullSecrets and serviceAccountName cannot be changed after creation"))]
#[x_kube(validation = Rule::new("self.imagePullPolicy == oldSelf.imagePullPolicy && self.worker == oldSelf.worker && self.pullMethod == oldSelf.pullMethod && has(self.retain) == has(oldSelf.retain) && (!has(self.retain) || self.retain == oldSelf.retain)").message("imagePullPolicy, worker, pullMethod and retain cannot be changed after creation"))]
#[x_kube(validation = Rule::new("has(self.notify) == has(oldSelf.notify) && (!has(self.notify) || self.notify == oldSelf.notify)").message("notify cannot be changed after creation"))]
#[x_kube(validation = Rule::new("!oldSelf.cancel || self.cancel").message("cancel cannot be set back to false; create another task"))]
#[serde(rename_all = "camelCase")]
pub struct PrewarmTaskSpec {
    /// Images to pull, 1 to 100, as in a pod: with tag, digest or both. Each must name another
    /// image.
    #[x_kube(validation = Rule::new("self.size() >= 1 && self.size() <= 100").message("images must list 1 to 100 references"))]
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 520)))]
    pub images: Vec<String>,
    /// Labels that a node must have, at most 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.all(key, key.size() <= 317)").message("keys of nodeSelector have at most 317 characters"))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Required node affinity, as `requiredDuringSchedulingIgnoredDuringExecution` of a pod: one of
    /// the terms must match. At most 20 terms with 20 expressions each; at most 1,000 values in all
    /// `matchExpressions` and 5,000 in all `matchFields`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.nodeSelectorTerms.map(t, has(t.matchExpressions) ? t.matchExpressions.map(r, has(r.values) ? r.values.size() : 0).sum() : 0).sum() <= 1000").message("all matchExpressions of nodeAffinity together have at most 1000 values"))]
    #[x_kube(validation = Rule::new("self.nodeSelectorTerms.map(t, has(t.matchFields) ? t.matchFields.map(r, has(r.values) ? r.values.size() : 0).sum() : 0).sum() <= 5000").message("all matchFields of nodeAffinity together have at most 5000 values"))]
    pub node_affinity: Option<NodeSelector>,
    /// Taints of nodes that are tolerated, as in a pod, at most 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Number of matching nodes to warm: `all`, `auto` (all, but at most 100), a number from 1, or
    /// a percentage from `1%` to `100%`. Default: `all`.
    #[serde(default = "default_nodes")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 1 : self.matches('^(all|auto|(100|[1-9][0-9]?)%|[1-9][0-9]{0,5})$')").message("nodes must be all, auto, a number from 1 or a percentage from 1% to 100%"))]
    pub nodes: Amount,
    /// Number of nodes worked on at the same time: 1 to 100, or a percentage of the selected nodes
    /// from `1%` to `100%`. Default: 10.
    #[serde(default = "default_batch_size")]
    #[x_kube(validation = Rule::new("type(self) == int ? (self >= 1 && self <= 100) : self.matches('^(100|[1-9][0-9]?)%$')").message("batchSize must be a number from 1 to 100 or a percentage from 1% to 100%"))]
    pub batch_size: Amount,
    /// Order in which batches follow one another: `Barrier`, `Rolling` or `Doubling`. Default:
    /// `Barrier`.
    #[serde(default)]
    pub batch_policy: BatchPolicy,
    /// Time limit for each node, a duration from `1s` to `24h`. Default: `10m`.
    #[serde(default = "default_timeout")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(\\\\.[0-9]{1,9})?h|[0-9]{1,7}(\\\\.[0-9]{1,9})?m|[0-9]{1,9}(\\\\.[0-9]{1,9})?s|[0-9]{1,12}(\\\\.[0-9]{1,9})?ms)+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("timeout must be a duration from 1s to 24h, such as 10m"))]
    pub timeout: String,
    /// Time limit for the task, a duration from `1s` to `168h`, such as `1h`. Default: the server's
    /// `--default-deadline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(\\\\.[0-9]{1,9})?h|[0-9]{1,7}(\\\\.[0-9]{1,9})?m|[0-9]{1,9}(\\\\.[0-9]{1,9})?s|[0-9]{1,12}(\\\\.[0-9]{1,9})?ms)+$') && duration(self) >= duration('1s') && duration(self) <= duration('168h')").message("deadline must be a duration from 1s to 168h, such as 1h"))]
    pub deadline: Option<String>,
    /// Priority among waiting tasks, 1 to 10; higher values start first. Default: 5.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 1, max = 10))]
    pub priority: u32,
    /// Treatment of a failed node: `Skip` or `Retry`. Default: `Skip`.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// Retries of failed nodes with `failurePolicy: Retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.delay) || (self.delay.matches('^([0-9]{1,6}(\\\\.[0-9]{1,9})?h|[0-9]{1,7}(\\\\.[0-9]{1,9})?m|[0-9]{1,9}(\\\\.[0-9]{1,9})?s|[0-9]{1,12}(\\\\.[0-9]{1,9})?ms)+$') && duration(self.delay) <= duration('24h'))").message("retry.delay must be a duration up to 24h, such as 30s"))]
    pub retry: Option<RetrySpec>,
    /// Share of nodes on which every image must be warm for the task to complete, `0%` to `100%`.
    /// Default: `90%`.
    #[serde(default = "default_success_threshold")]
    #[schemars(length(max = 4))]
    #[x_kube(validation = Rule::new("self.matches('^(100|[1-9]?[0-9])%$')").message("successThreshold must be a percentage from 0% to 100%"))]
    pub success_threshold: String,
    /// Secrets in the task's namespace for private registries, as in a pod, at most 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<LocalReference>>,
    /// Service account in the task's namespace whose pull secrets are used, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Treatment of a tag that is already present on the node: `IfNotPresent` or `Always`. Default:
    /// `IfNotPresent`.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Time for which finished worker pods are kept, a duration such as `1h`, up to `24h`. While
    /// they exist, the kubelet's garbage collection does not delete their images. Default: `0s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(\\\\.[0-9]{1,9})?h|[0-9]{1,7}(\\\\.[0-9]{1,9})?m|[0-9]{1,9}(\\\\.[0-9]{1,9})?s|[0-9]{1,12}(\\\\.[0-9]{1,9})?ms)+$') && duration(self) <= duration('24h')").message("retain must be a duration up to 24h, such as 30m"))]
    pub retain: Option<String>,
    /// Kind of the object that pulls on a node: `Job` or `Pod`. Default: `Job`.
    #[serde(default)]
    pub worker: WorkerKind,
    /// Method that pulls the images: `Auto`, `ImageVolume` or `Helper`. Default: `Auto`.
    #[serde(default)]
    pub pull_method: PullMethod,
    /// Seconds after its end until the task is deleted, 0 to 31,536,000 (a year). Default: the task
    /// is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<u32>,
    /// Suspends the task: no new workers are started while it is true. Default: false.
    #[serde(default)]
    pub suspend: bool,
    /// Cancels the task: its workers are deleted and its phase becomes `Cancelled`. Cannot be
    /// reset. Default: false.
    #[serde(default)]
    pub cancel: bool,
    /// Receivers of a notification when the task ends, at most 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub notify: Option<Vec<Notification>>,
}

impl PrewarmTask {
    /// Reports whether a notification about the task's end is still pending.
    #[must_use]
    pub fn has_pending_notifications(&self) -> bool {
        let told = self.status.as_ref().map_or(&[][..], |status| &status.notifications);
        let is_told = |index: usize| told.get(index).is_some_and(|delivery| delivery.done);
        self.spec.notify.iter().flatten().enumerate().any(|(index, _)| !is_told(index))
    }

    /// Returns the phase; `Pending` where no status has been written yet.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }
}

/// Returns the owner reference by which dependents are deleted with their task.
#[must_use]
pub fn owner_reference(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: PrewarmTask::api_version(&()).into_owned(),
        kind: PrewarmTask::kind(&()).into_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

fn default_nodes() -> Amount {
    Amount::Text("all".into())
}

fn default_batch_size() -> Amount {
    Amount::Count(10)
}

fn default_timeout() -> String {
    "10m".into()
}

fn default_priority() -> u32 {
    5
}

fn default_success_threshold() -> String {
    "90%".into()
}

fn default_retry_limit() -> u32 {
    3
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self { limit: default_retry_limit(), strategy: RetryStrategy::default(), delay: None }
    }
}

impl PrewarmTaskSpec {
    /// Creates a spec for these images with defaults in all other fields.
    #[must_use]
    pub fn new(images: Vec<String>) -> Self {
        Self {
            images,
            nodes: default_nodes(),
            batch_size: default_batch_size(),
            timeout: default_timeout(),
            priority: default_priority(),
            success_threshold: default_success_threshold(),
            ..Self::default()
        }
    }
}

impl Default for Amount {
    fn default() -> Self {
        Self::Count(0)
    }
}

/// Condition of a task, in the form of Kubernetes conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Progressing`, `Complete` or `Failed`; `Limited`, `Throttled`, `NodesChecked` and
    /// `WorkersInFallbackNamespace` only where they apply.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Time of the last change of `status`, RFC 3339.
    pub last_transition_time: String,
    /// Machine-readable reason, one word in camel case.
    pub reason: String,
    /// Human-readable description.
    pub message: String,
    /// Generation of the spec that the condition refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Image that could not be pulled to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedNode {
    /// Name of the node.
    pub node: String,
    /// Image reference; empty where the failure concerns the node and not a single image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Reason from a closed set, such as `ImageNotFound`.
    pub reason: String,
    /// Original message of the kubelet, the API server or the controller.
    pub message: String,
    /// Time at which the failure was observed, RFC 3339.
    pub time: String,
}

/// Node that matched the placement and was excluded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IgnoredNode {
    /// Name of the node.
    pub node: String,
    /// Reason for the exclusion, such as `NotReady`.
    pub reason: String,
}

/// Result of one image over all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Image reference as in the spec.
    pub image: String,
    /// Number of nodes on which the image is warm.
    pub succeeded: u32,
    /// Number of nodes on which the pull failed.
    pub failed: u32,
    /// Digest that the nodes reported, where the pull method reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Reason why the image is not pulled to further nodes, which count as failed: no node could
    /// pull it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<AbandonedImage>,
}

/// Reason why the pull of an image was abandoned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AbandonedImage {
    /// Reason from the closed set, such as `ImageNotFound`.
    pub reason: String,
    /// Original message of the kubelet.
    pub message: String,
}

/// State of the delivery of one notification of `spec.notify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// True when no further attempt is made.
    pub done: bool,
    /// Number of attempts.
    #[serde(default)]
    pub attempts: u32,
    /// True when the receiver answered at least one attempt, with any status.
    #[serde(default, skip_serializing_if = "is_false")]
    pub answered: bool,
    /// Time of the next attempt, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    /// Time at which the receiver accepted the notification, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<String>,
    /// Error of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Observed state of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PrewarmTaskStatus {
    /// Phase of the task.
    pub phase: Phase,
    /// Conditions `Progressing`, `Complete` and `Failed`, and further ones where they apply.
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status refers to.
    pub observed_generation: Option<i64>,
    /// Human-readable progress, such as `45/100 Nodes`.
    pub progress: Option<String>,
    /// Number of selected nodes.
    pub total_nodes: u32,
    /// Number of nodes on which every image is warm.
    pub succeeded_nodes: u32,
    /// Number of those nodes on which every image was already warm, so that nothing was pulled.
    pub already_warm_nodes: u32,
    /// Number of failed nodes.
    pub failed_node_count: u32,
    /// Number of selected nodes that were not tried.
    pub skipped_nodes: u32,
    /// Index of the current batch, from 0.
    pub current_batch_index: u32,
    /// Number of batches.
    pub total_batches: u32,
    /// Time at which each batch ended, in seconds after `startTime`, with the delay before retries;
    /// at most the first 1,000 batches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub batch_ends: Vec<u32>,
    /// Failures, at most 100; `failedNodeCount` and `images` count all of them.
    pub failed_nodes: Vec<FailedNode>,
    /// Nodes that matched and were excluded, at most 100; `ignoredNodeCount` counts all of them.
    pub ignored_nodes: Vec<IgnoredNode>,
    /// Number of excluded nodes.
    pub ignored_node_count: u32,
    /// Results per image.
    pub images: Vec<ImageStatus>,
    /// State of each node of the plan, one character each in the plan's order: `.` waiting, `0`
    /// postponed, `1` to `5` failed that many times and to be retried, `s` succeeded, `w` already
    /// warm, `f` failed, `k` skipped. A restarted controller continues from this record.
    pub node_states: String,
    /// Time at which the first node was started, RFC 3339.
    pub start_time: Option<String>,
    /// Time at which the task ended, RFC 3339.
    pub completion_time: Option<String>,
    /// Estimated end of the task at the current rate, RFC 3339.
    pub estimated_completion: Option<String>,
    /// State of the notifications, in the order of `spec.notify`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<Delivery>,
}

/// Nodes selected for a task, in the order of its batches. Written once, before the first worker is
/// created.
///
/// Separate from the task, so that the task's status stays small with thousands of nodes.
#[derive(
    CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "prewarm.io",
    version = "v1alpha1",
    kind = "PrewarmPlan",
    plural = "prewarmplans",
    singular = "prewarmplan",
    namespaced,
    derive = "PartialEq",
    doc = "Nodes selected for a PrewarmTask; created and deleted with it."
)]
#[serde(rename_all = "camelCase")]
pub struct PrewarmPlanSpec {
    /// Names of the selected nodes.
    pub nodes: Vec<String>,
    /// Number of nodes worked on at the same time: `batchSize` as a number of these nodes, or less
    /// where `--breaker-batch-size` limits it.
    #[serde(default)]
    pub at_once: u32,
    /// Explanation where `atOnce` is less than `batchSize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<String>,
    /// Facts about nodes or images that the node checks could not determine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<String>,
    /// Nodes that matched and were excluded, at most 100; `ignoredCount` counts all of them.
    #[serde(default)]
    pub ignored: Vec<IgnoredNode>,
    /// Number of excluded nodes.
    #[serde(default)]
    pub ignored_count: u32,
}
