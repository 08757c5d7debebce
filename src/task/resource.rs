//! The custom resources `PrewarmTask` and `PrewarmPlan` (`prewarm.io/v1alpha1`).
//!
//! Field docs become the descriptions that `kubectl explain` prints.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeSelector, Toleration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{CustomResource, KubeSchema, Resource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type},
};

/// How many failed nodes a status spells out; the rest are counted.
pub const MAX_FAILED_NODES: usize = 100;
/// How many ignored nodes a status spells out; the rest are counted.
pub const MAX_IGNORED_NODES: usize = 100;
/// How many ends of batches a status has.
pub const MAX_BATCH_ENDS: usize = 1000;
/// The most tries that `retry.limit` may add.
pub const MAX_RETRIES: u32 = 5;

/// A whole number, or a percentage such as `25%`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// A whole number.
    Count(u32),
    /// `N%`, or one of the words that the field allows.
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
    /// An amount in the `OpenAPI` document: a whole number, or a text.
    #[must_use]
    pub fn schema(description: &str) -> Schema {
        let of = |kind: Type| ObjectBuilder::new().schema_type(kind);
        let both = OneOfBuilder::new().item(of(Type::Integer).minimum(Some(1))).item(of(Type::String));
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

/// How batches of nodes follow one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub enum BatchPolicy {
    /// The next batch starts when the last has ended.
    #[default]
    Barrier,
    /// A sliding window of `batchSize` nodes.
    Rolling,
    /// Batches start at one node and double up to `batchSize` while they succeed: one with a failed node is followed by
    /// one of the same size.
    Doubling,
}

/// What a failed node gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// It stays failed.
    #[default]
    Skip,
    /// It is tried again in a later batch, by `retry`, unless nothing but time could not help: an image that does not
    /// exist is not asked for again.
    Retry,
}

/// How the delay between tries grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryStrategy {
    /// `delay`, 2 × `delay`, 3 × `delay`.
    #[default]
    Linear,
    /// `delay`, 2 × `delay`, 4 × `delay`.
    Exponential,
}

/// Which method pulls an image on a node.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ToSchema,
)]
pub enum PullMethod {
    /// `ImageVolume` where the node supports it, else `Helper`.
    #[default]
    Auto,
    /// The helper's container mounts the image as a volume; the image is never run.
    ImageVolume,
    /// The image's container runs a copied static helper in place of its own program.
    Helper,
}

/// When the kubelet asks the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub enum PullPolicy {
    /// Only when the image is not on the node.
    #[default]
    IfNotPresent,
    /// Always: checks a tag that may have moved.
    Always,
}

impl PullPolicy {
    /// The value of a container's `imagePullPolicy`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
        }
    }
}

/// What kind of object pulls on a node.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ToSchema,
)]
pub enum WorkerKind {
    /// One Job per node.
    #[default]
    Job,
    /// One bare pod per node: fewer API writes.
    Pod,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not begun: waiting for a turn, or suspended.
    #[default]
    Pending,
    /// Its nodes are being chosen and recorded.
    Snapshotting,
    /// Its nodes are being warmed.
    Running,
    /// Every node has ended; what is left of its Jobs is being removed.
    Finalizing,
    /// Warm on at least `successThreshold` of its nodes.
    Completed,
    /// Ended otherwise.
    Failed,
    /// Ended by `cancel`.
    Cancelled,
}

impl Phase {
    /// Whether the phase is final.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The phase's name, as the status shows it.
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

/// The name of an object in the task's own namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct LocalReference {
    /// The object's name.
    #[serde(default)]
    pub name: String,
}

/// The retry rule of a task with `failurePolicy: Retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How many further tries a failed node gets.
    #[schemars(range(min = 0, max = 5))]
    #[serde(default = "default_retry_limit")]
    pub limit: u32,
    /// How the delay grows.
    #[serde(default)]
    pub strategy: RetryStrategy,
    /// The first delay, such as `1m`, up to 24 hours; 30 seconds by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub delay: Option<String>,
}

/// A key of a Secret in the task's own namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct SecretKeyReference {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Where an address is read from when it is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UrlSource {
    /// The key of a Secret of the task's namespace whose value is the address. The server needs `get` on that Secret.
    pub secret_key_ref: SecretKeyReference,
}

/// Where the end of a task is told: exactly one of `url` and `urlFrom`.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.url) != has(self.urlFrom)").message("give exactly one of url and urlFrom"))]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// The `http` or `https` address that gets the POST. Everybody who may read the task can read it: an address that
    /// carries a token belongs into a Secret, by `urlFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub url: Option<String>,
    /// Where the address is read from, when the message is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_from: Option<UrlSource>,
    /// A Secret of the task's namespace whose key `key` signs the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// The message's shape: `json` (default), `cloudevents`, `slack`, `dingtalk` or `alertmanager`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

// Durations: with at most so many digits for each unit, and 20 characters in all, CEL's `duration()` cannot overflow (292 years).
// An expression that fails to be evaluated would refuse every write of the status too, which ratcheting does not help.

/// Images to have on nodes, and how to get them there.
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
    doc = "Images to have on nodes before pods need them.",
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
#[x_kube(validation = Rule::new("!oldSelf.cancel || self.cancel").message("a cancelled task cannot be taken up again; create another task"))]
#[serde(rename_all = "camelCase")]
pub struct PrewarmTaskSpec {
    /// The images, as a pod would name them: tag, digest or both. Each names another image.
    #[x_kube(validation = Rule::new("self.size() >= 1 && self.size() <= 100").message("images must list 1 to 100 references"))]
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 520)))]
    pub images: Vec<String>,
    /// Labels that a node must carry, up to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.all(key, key.size() <= 317)").message("keys of nodeSelector have at most 317 characters"))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Required node affinity, as `requiredDuringSchedulingIgnoredDuringExecution` of a pod: one of its terms must match.
    /// Up to 20 terms of 20 rules; all `matchExpressions` together have up to 1,000 values, all `matchFields` up to 5,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.nodeSelectorTerms.map(t, has(t.matchExpressions) ? t.matchExpressions.map(r, has(r.values) ? r.values.size() : 0).sum() : 0).sum() <= 1000").message("all matchExpressions of nodeAffinity together have at most 1000 values"))]
    #[x_kube(validation = Rule::new("self.nodeSelectorTerms.map(t, has(t.matchFields) ? t.matchFields.map(r, has(r.values) ? r.values.size() : 0).sum() : 0).sum() <= 5000").message("all matchFields of nodeAffinity together have at most 5000 values"))]
    pub node_affinity: Option<NodeSelector>,
    /// Taints of nodes that are accepted, as in a pod, up to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// How many of the matching nodes: `all`, `auto` (all up to 100), a number, or a percentage such as `25%`.
    #[serde(default = "default_nodes")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 1 : self.matches('^(all|auto|(100|[1-9][0-9]?)%|[1-9][0-9]{0,5})$')").message("nodes must be all, auto, a number from 1 or a percentage from 1% to 100%"))]
    pub nodes: Amount,
    /// How many nodes at once: 1 to 100, or a percentage of the chosen nodes from `1%` to `100%`.
    #[serde(default = "default_batch_size")]
    #[x_kube(validation = Rule::new("type(self) == int ? (self >= 1 && self <= 100) : self.matches('^(100|[1-9][0-9]?)%$')").message("batchSize must be a number from 1 to 100 or a percentage from 1% to 100%"))]
    pub batch_size: Amount,
    /// How batches follow one another.
    #[serde(default)]
    pub batch_policy: BatchPolicy,
    /// How long a node may take, such as `10m`, from 1 second to 24 hours.
    #[serde(default = "default_timeout")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(\\\\.[0-9]{1,9})?h|[0-9]{1,7}(\\\\.[0-9]{1,9})?m|[0-9]{1,9}(\\\\.[0-9]{1,9})?s|[0-9]{1,12}(\\\\.[0-9]{1,9})?ms)+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("timeout must be a duration from 1s to 24h, such as 10m"))]
    pub timeout: String,
    /// How long the whole task may take, such as `1h`, from 1 second to 168 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(\\\\.[0-9]{1,9})?h|[0-9]{1,7}(\\\\.[0-9]{1,9})?m|[0-9]{1,9}(\\\\.[0-9]{1,9})?s|[0-9]{1,12}(\\\\.[0-9]{1,9})?ms)+$') && duration(self) >= duration('1s') && duration(self) <= duration('168h')").message("deadline must be a duration from 1s to 168h, such as 1h"))]
    pub deadline: Option<String>,
    /// The order among waiting tasks, 1 to 10, higher first.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 1, max = 10))]
    pub priority: u32,
    /// What a failed node gets.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// The rule of `failurePolicy: Retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.delay) || (self.delay.matches('^([0-9]{1,6}(\\\\.[0-9]{1,9})?h|[0-9]{1,7}(\\\\.[0-9]{1,9})?m|[0-9]{1,9}(\\\\.[0-9]{1,9})?s|[0-9]{1,12}(\\\\.[0-9]{1,9})?ms)+$') && duration(self.delay) <= duration('24h'))").message("retry.delay must be a duration up to 24h, such as 30s"))]
    pub retry: Option<Retry>,
    /// The share of nodes that must be warm for the task to count as completed, `0%` to `100%`.
    #[serde(default = "default_success_threshold")]
    #[schemars(length(max = 4))]
    #[x_kube(validation = Rule::new("self.matches('^(100|[1-9]?[0-9])%$')").message("successThreshold must be a percentage from 0% to 100%"))]
    pub success_threshold: String,
    /// Secrets of the task's namespace for private registries, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<LocalReference>>,
    /// The service account of the task's namespace whose pull secrets count, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Whether a tag that is on the node already is checked again.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// How long finished worker pods stay, such as `1h`, up to 24 hours: while they exist the kubelet spares their images.
    /// None by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(\\\\.[0-9]{1,9})?h|[0-9]{1,7}(\\\\.[0-9]{1,9})?m|[0-9]{1,9}(\\\\.[0-9]{1,9})?s|[0-9]{1,12}(\\\\.[0-9]{1,9})?ms)+$') && duration(self) <= duration('24h')").message("retain must be a duration up to 24h, such as 30m"))]
    pub retain: Option<String>,
    /// What kind of object pulls on a node.
    #[serde(default)]
    pub worker: WorkerKind,
    /// Which method pulls.
    #[serde(default)]
    pub pull_method: PullMethod,
    /// Seconds after its end until the task itself is deleted, up to a year; kept when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<u32>,
    /// Holds the task: nothing new is started while it is true.
    #[serde(default)]
    pub suspend: bool,
    /// Ends the task: its Jobs are deleted and it counts as cancelled.
    #[serde(default)]
    pub cancel: bool,
    /// Who is told of the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub notify: Option<Vec<Notification>>,
}

impl PrewarmTask {
    /// Whether somebody is still to be told of the task's end.
    #[must_use]
    pub fn has_untold_end(&self) -> bool {
        let told = self.status.as_ref().map_or(&[][..], |status| &status.notifications);
        let is_told = |index: usize| told.get(index).is_some_and(|delivery| delivery.done);
        self.spec.notify.iter().flatten().enumerate().any(|(index, _)| !is_told(index))
    }

    /// Where the task stands; `Pending` where no status was written yet.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }
}

/// The reference by which what belongs to a task goes with it.
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

impl Default for Retry {
    fn default() -> Self {
        Self { limit: default_retry_limit(), strategy: RetryStrategy::default(), delay: None }
    }
}

impl PrewarmTaskSpec {
    /// A spec for these images with every other field at its default.
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

/// One aspect of a task's state, in the form of Kubernetes' conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Progressing`, `Complete` or `Failed`; `Limited`, `Throttled`, `NodesChecked` and
    /// `WorkersElsewhere` where there is something to say.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When `status` last changed, RFC 3339.
    pub last_transition_time: String,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The generation of the spec that it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// An image that could not be had on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedNode {
    /// The node's name.
    pub node: String,
    /// The image; empty where the failure is the node's and not one image's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// One of a closed set, such as `ImageNotFound`.
    pub reason: String,
    /// The words of the kubelet, the API server or the controller.
    pub message: String,
    /// When it was seen, RFC 3339.
    pub time: String,
}

/// A node that matched and was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IgnoredNode {
    /// The node's name.
    pub node: String,
    /// Why, such as `NotReady`.
    pub reason: String,
}

/// What became of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// The image, as the spec has it.
    pub image: String,
    /// On how many nodes it is warm.
    pub succeeded: u32,
    /// On how many nodes it could not be had.
    pub failed: u32,
    /// The digest that the nodes reported, where the method tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why the image is not asked for on further nodes, which count it as failed: no node could have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<GivenUp>,
}

/// Why an image is not asked for any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GivenUp {
    /// One of the closed set of reasons, such as `ImageNotFound`.
    pub reason: String,
    /// The words of the kubelet.
    pub message: String,
}

/// How far the telling of a task's end is, for one of `spec.notify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Whether nothing more is tried.
    pub done: bool,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
    /// Whether a receiver has answered at least one of the tries, whatever its answer was.
    #[serde(default, skip_serializing_if = "is_false")]
    pub answered: bool,
    /// When it is tried again, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    /// When it was taken, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<String>,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a task has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PrewarmTaskStatus {
    /// Where the task stands.
    pub phase: Phase,
    /// `Progressing`, `Complete` and `Failed`.
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    pub observed_generation: Option<i64>,
    /// For people: `45/100 Nodes`.
    pub progress: Option<String>,
    /// How many nodes were chosen.
    pub total_nodes: u32,
    /// On how many every image is warm.
    pub succeeded_nodes: u32,
    /// On how many of those every image was known to be there, so that nothing was pulled.
    pub already_warm_nodes: u32,
    /// How many failed.
    pub failed_node_count: u32,
    /// How many were chosen and then not tried.
    pub skipped_nodes: u32,
    /// The batch at work, from 0.
    pub current_batch_index: u32,
    /// How many batches there are.
    pub total_batches: u32,
    /// When each batch had ended, in seconds from `startTime`, with the pause before further tries; the first 1,000 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub batch_ends: Vec<u32>,
    /// The failures, bounded; `failedNodeCount` and `images` count them all.
    pub failed_nodes: Vec<FailedNode>,
    /// The nodes that matched and were left out, bounded.
    pub ignored_nodes: Vec<IgnoredNode>,
    /// How many nodes were left out.
    pub ignored_node_count: u32,
    /// What became of each image.
    pub images: Vec<ImageStatus>,
    /// One letter per node of the plan, in its order: `.` waiting, `0` put behind, `1` to `5` failed that often and to be tried again,
    /// `s` succeeded, `w` already warm, `f` failed, `k` skipped. The record that a restarted controller goes on from.
    pub node_states: String,
    /// When the first node was begun, RFC 3339.
    pub start_time: Option<String>,
    /// When the task ended, RFC 3339.
    pub completion_time: Option<String>,
    /// When the task may end at the present pace, RFC 3339.
    pub estimated_completion: Option<String>,
    /// How far the telling of the end is, in the order of `spec.notify`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<Delivery>,
}

/// The nodes that a task has chosen, in the order of its batches: written once, before the first Job.
///
/// It is an object of its own so that the task's status stays small at thousands of nodes.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "prewarm.io",
    version = "v1alpha1",
    kind = "PrewarmPlan",
    plural = "prewarmplans",
    singular = "prewarmplan",
    namespaced,
    derive = "PartialEq",
    doc = "The nodes that a PrewarmTask has chosen; made and removed with it."
)]
#[serde(rename_all = "camelCase")]
pub struct PrewarmPlanSpec {
    /// The chosen nodes, by name.
    pub nodes: Vec<String>,
    /// How many nodes at once: `batchSize`, as a number of these nodes, or less where the circuit breaker says so.
    #[serde(default)]
    pub at_once: u32,
    /// Why `atOnce` is less than was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<String>,
    /// What the checks of nodes could not find out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<String>,
    /// The nodes that matched and were left out, bounded.
    #[serde(default)]
    pub ignored: Vec<IgnoredNode>,
    /// How many nodes were left out.
    #[serde(default)]
    pub ignored_count: u32,
}
