//! Custom resource `PrewarmTask` and its spec.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeSelector, Toleration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{CustomResource, KubeSchema, Resource};
use serde::{Deserialize, Serialize};

use super::{
    amount::Amount,
    notification::Notification,
    options::{
        BatchPolicy, FailurePolicy, LocalReference, PullMethod, PullPolicy, RetrySpec, WorkerKind,
    },
    status::{Phase, PrewarmTaskStatus},
};

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
#[x_kube(validation = Rule::new("self.timeout == oldSelf.timeout && self.successThreshold == oldSelf.successThreshold && (has(self.failurePolicy) ? self.failurePolicy : has(self.strategy) ? self.strategy : 'Skip') == (has(oldSelf.failurePolicy) ? oldSelf.failurePolicy : has(oldSelf.strategy) ? oldSelf.strategy : 'Skip')").message("timeout, failurePolicy (strategy) and successThreshold cannot be changed after creation"))]
#[x_kube(validation = Rule::new("!has(self.failurePolicy) || !has(self.strategy) || self.failurePolicy == self.strategy").message("strategy is an alias of failurePolicy: set one of them, or both to the same value"))]
#[x_kube(validation = Rule::new("has(self.retry) == has(oldSelf.retry) && (!has(self.retry) || self.retry == oldSelf.retry) && has(self.deadline) == has(oldSelf.deadline) && (!has(self.deadline) || self.deadline == oldSelf.deadline)").message("retry and deadline cannot be changed after creation"))]
#[x_kube(validation = Rule::new("has(self.imagePullSecrets) == has(oldSelf.imagePullSecrets) && (!has(self.imagePullSecrets) || self.imagePullSecrets == oldSelf.imagePullSecrets) && has(self.serviceAccountName) == has(oldSelf.serviceAccountName) && (!has(self.serviceAccountName) || self.serviceAccountName == oldSelf.serviceAccountName)").message("imagePullSecrets and serviceAccountName cannot be changed after creation"))]
#[x_kube(validation = Rule::new("has(self.imagePullPolicy) == has(oldSelf.imagePullPolicy) && (!has(self.imagePullPolicy) || self.imagePullPolicy == oldSelf.imagePullPolicy) && self.worker == oldSelf.worker && self.pullMethod == oldSelf.pullMethod && has(self.retain) == has(oldSelf.retain) && (!has(self.retain) || self.retain == oldSelf.retain)").message("imagePullPolicy, worker, pullMethod and retain cannot be changed after creation"))]
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
    /// Treatment of a failed node: `Skip` or `Retry`. Default: `strategy`, else `Skip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "failure_policy_schema")]
    pub failure_policy: Option<FailurePolicy>,
    /// Alias of `failurePolicy`, for clients of image prewarm services: `Skip` or `Retry`. If both
    /// are set, they must be equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "failure_policy_schema")]
    pub strategy: Option<FailurePolicy>,
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
    /// Treatment of a tag that is already present on the node: `IfNotPresent`, or `Always` to
    /// resolve it at the registry again. Default, for each image as in a pod: `Always` for the tag
    /// `latest` and for an image without tag and digest, otherwise `IfNotPresent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pull_policy_schema")]
    pub image_pull_policy: Option<PullPolicy>,
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

    /// Returns the treatment of a failed node: `failurePolicy`, else its alias `strategy`, else
    /// `Skip`.
    #[must_use]
    pub fn effective_failure_policy(&self) -> FailurePolicy {
        self.failure_policy.or(self.strategy).unwrap_or_default()
    }
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

/// Returns the schema of a failure policy. Unlike that of an option it permits no null, which CEL
/// would not regard as absent.
fn failure_policy_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names = [FailurePolicy::Skip, FailurePolicy::Retry].map(FailurePolicy::as_str);
    schemars::json_schema!({"type": "string", "enum": names})
}

/// Returns the schema of a pull policy, which permits no null for the same reason.
fn pull_policy_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names = [PullPolicy::IfNotPresent, PullPolicy::Always].map(PullPolicy::as_str);
    schemars::json_schema!({"type": "string", "enum": names})
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
