//! Tracker of the nodes of a planned task: results, expected workers, deletions, retries and
//! rejections. Kept in memory; rebuilt from the `PrewarmPlan` and the status after a restart. Pure:
//! no client, no clock, no I/O.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    task::{
        PrewarmPlanSpec, PrewarmTaskStatus,
        batches::{NodeState, divide_into_batches},
        validate::ValidTask,
    },
    worker::{FailureReason, WorkerInfo},
};
use k8s_openapi::jiff::Timestamp;

use super::{
    registry_breaker::RegistryBreakers,
    results::{PartOutcomes, Results},
    settings::{ControllerSettings, WorkerNamespace},
    time::{add_duration, add_millis},
};

/// Time after which a created worker that is still not in the cache counts as deleted and is
/// created again, in milliseconds. An acknowledged creation normally reaches the cache within
/// milliseconds.
const EXPECTATION_TIMEOUT_MS: i64 = 30_000;
/// Time after which a deletion that is not in the cache is requested again, in milliseconds. It
/// normally reaches the cache within milliseconds.
const DELETION_TIMEOUT_MS: i64 = 5_000;
/// Time for which the deletion of a complete batch waits until nothing of it can pull, in
/// milliseconds. By default kube-controller-manager sends 20 requests per second, so that the Jobs
/// of a batch of 100 are finished within 25 s, at 5 writes each. The next batch waits for that too.
/// Also the time after which a pod whose Job has not arrived counts as foreign.
pub(super) const SETTLE_TIMEOUT_MS: i64 = 30_000;
/// Number of nodes whose workers must be rejected, while no worker has had a pod, before no more
/// are created.
const MAX_REJECTED_NODES: u32 = 3;
/// Validity of a rejection by the API server, in milliseconds. Then creation is tried again.
const REJECTION_TTL_MS: i64 = 15_000;

/// Rejection of a worker by the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkerRejection {
    pub(super) reason: FailureReason,
    pub(super) message: String,
    pub(super) at: Timestamp,
}

/// Expectation: a worker that was created and is not yet in the cache.
#[derive(Debug)]
struct Expectation {
    name: String,
    /// Batch label of the worker.
    batch_label: u32,
    since: Timestamp,
    /// True when the API server has acknowledged the creation.
    acknowledged: bool,
}

/// Nodes of a planned task, and the actions taken on them.
pub(super) struct NodeTracker {
    pub(super) spec: Arc<PrewarmPlanSpec>,
    index_by_node: HashMap<String, usize>,
    pub(super) results: Results,
    /// Expected workers, by node index.
    expectations: HashMap<usize, Expectation>,
    /// Start of a node's current attempt, by node index. A worker created again after a foreign
    /// deletion gets no additional time.
    attempt_starts: HashMap<usize, Timestamp>,
    /// Identity of a node when a worker of its current attempt was first observed, by node index.
    identities: HashMap<usize, u64>,
    /// Outcomes of completed parts whose worker was deleted before the node's next part, by node
    /// index. They are not stored, and are repeated after a crash.
    finished_parts: HashMap<usize, HashMap<u16, PartOutcomes>>,
    /// Number of live workers in the last snapshot.
    pub(super) observed_alive: usize,
    /// Recently requested deletions, by the key of their effect.
    deletions: HashMap<String, Timestamp>,
    /// Start of the wait of the deletions that wait until nothing of a batch can pull, by the key
    /// of their effect, and of the waits for the owners of objects, by namespace. At most one per
    /// batch and namespace.
    waits: HashMap<String, Timestamp>,
    /// Earliest time of a failed node's retry, by node index.
    pub(super) retry_at: HashMap<usize, Timestamp>,
    /// Nodes of the current retry batch, with their attempt number.
    pub(super) retry_batch: BTreeMap<usize, u8>,
    /// Number of retry batches so far.
    pub(super) retry_batches: u32,
    /// Reason why workers are created in our own namespace; none if they are not.
    pub(super) own_namespace_reason: Option<String>,
    /// Last rejection of a worker by the API server, while it is valid.
    pub(super) rejection: Option<WorkerRejection>,
    pub(super) probed_at: Option<Timestamp>,
    /// Breakers of the task's registries.
    pub(super) registries: RegistryBreakers,
    /// Number of nodes that ended by a rejection.
    rejected_nodes: u32,
    /// True when a worker has had a pod.
    has_had_pod: bool,
}

impl NodeTracker {
    pub(super) fn new(
        valid: &ValidTask,
        spec: Arc<PrewarmPlanSpec>,
        status: &PrewarmTaskStatus,
        registry_failures: usize,
        now: Timestamp,
    ) -> Self {
        let index =
            spec.nodes.iter().enumerate().map(|(index, node)| (node.clone(), index)).collect();
        let record = Results::restore(spec.nodes.len(), &valid.images, status);
        let at_once = max_concurrent_nodes(&spec, valid);
        let first = divide_into_batches(record.node_states(), valid.batch_policy, at_once).total;
        // The due time of a predecessor's retry is unknown, so its delay starts again.
        let retry = |index: usize| match record.state(index) {
            NodeState::Retrying(tries) => (index, add_duration(now, valid.retry.delay(tries))),
            _ => (index, now),
        };
        Self {
            retry_at: record.retrying_nodes().map(retry).collect(),
            index_by_node: index,
            results: record,
            expectations: HashMap::new(),
            attempt_starts: HashMap::new(),
            identities: HashMap::new(),
            finished_parts: HashMap::new(),
            observed_alive: 0,
            deletions: HashMap::new(),
            waits: HashMap::new(),
            retry_batch: BTreeMap::new(),
            retry_batches: status.total_batches.saturating_sub(first),
            own_namespace_reason: None,
            rejection: None,
            probed_at: None,
            registries: RegistryBreakers::new(&valid.images, registry_failures),
            rejected_nodes: 0,
            has_had_pod: false,
            spec,
        }
    }

    pub(super) fn index_of(&self, node: &str) -> Option<usize> {
        self.index_by_node.get(node).copied()
    }

    /// Returns the name of the node at an index.
    pub(super) fn node(&self, index: usize) -> &str {
        self.spec.nodes.get(index).map_or("", String::as_str)
    }

    /// Reports whether the node's worker was created and is not yet in the cache.
    pub(super) fn is_expected(&self, index: usize) -> bool {
        self.expectations.contains_key(&index)
    }

    /// Returns the number of live workers, including those created since the last snapshot.
    pub(super) fn alive_workers(&self) -> usize {
        self.observed_alive.saturating_add(self.expectations.len())
    }

    /// Reports whether any created worker is not yet in the cache.
    pub(super) fn has_expectations(&self) -> bool {
        !self.expectations.is_empty()
    }

    /// Reports whether the result of the worker's attempt is among `letters`, the node states
    /// stored in the API server.
    pub(super) fn is_recorded(&self, worker: &WorkerInfo, letters: &[u8]) -> bool {
        let Some(index) = self.index_of(&worker.node) else { return true };
        let state =
            letters.get(index).map_or(NodeState::Waiting, |letter| NodeState::from_byte(*letter));
        state.is_final() || state.attempt() > worker.attempt
    }

    /// Returns the nodes whose worker was created and is not yet in the cache.
    pub(super) fn expected_nodes(&self) -> impl Iterator<Item = &str> {
        self.expectations.keys().map(|index| self.node(*index))
    }

    /// Reports whether a created worker with this batch label is not yet in the cache.
    pub(super) fn expects_batch(&self, label: u32) -> bool {
        self.expectations.values().any(|unseen| unseen.batch_label == label)
    }

    pub(super) fn expect(&mut self, index: usize, worker: &str, label: u32, now: Timestamp) {
        self.expectations.insert(
            index,
            Expectation {
                name: worker.to_owned(),
                batch_label: label,
                since: now,
                acknowledged: false,
            },
        );
        self.attempt_starts.entry(index).or_insert(now);
    }

    /// Removes the expectation of a worker that is in the cache.
    pub(super) fn observed(&mut self, index: usize, worker: &str) {
        if self.expectations.get(&index).is_some_and(|unseen| unseen.name == worker) {
            self.expectations.remove(&index);
        }
    }

    /// Records the identity of the node while a worker of its current attempt is in the cache. Only
    /// the first call of an attempt has an effect.
    pub(super) fn record_identity(&mut self, index: usize, identity: u64) {
        self.identities.entry(index).or_insert(identity);
    }

    /// Returns the identity of the node when a worker of its current attempt was first observed.
    pub(super) fn identity(&self, index: usize) -> Option<u64> {
        self.identities.get(&index).copied()
    }

    /// Records that a worker has a pod, which means that the API server accepts them.
    pub(super) fn pod_observed(&mut self) {
        self.has_had_pod = true;
    }

    /// Returns the start of the node's current attempt.
    pub(super) fn attempt_start(&self, index: usize) -> Option<Timestamp> {
        self.attempt_starts.get(&index).copied()
    }

    /// Reports whether workers of the task count against the namespace's quota.
    pub(super) fn uses_quota(&self) -> bool {
        self.observed_alive > 0 || self.expectations.values().any(|unseen| unseen.acknowledged)
    }

    /// Stores the outcomes of a completed part of a node.
    pub(super) fn finish_part(&mut self, index: usize, part: u16, outcomes: PartOutcomes) {
        self.finished_parts.entry(index).or_default().insert(part, outcomes);
    }

    /// Returns the outcomes of a completed part of a node, one per image of the part.
    pub(super) fn finished_part(&self, index: usize, part: u16) -> Option<&PartOutcomes> {
        self.finished_parts.get(&index)?.get(&part)
    }

    /// Clears the state of the node's current attempt after its end.
    pub(super) fn finish_attempt(&mut self, index: usize) {
        self.attempt_starts.remove(&index);
        self.identities.remove(&index);
        self.finished_parts.remove(&index);
        self.registries.release_probes(index);
    }

    /// Removes the expectation of a worker, by its name, and returns its node's index.
    pub(super) fn cancel_expectation(&mut self, worker: &str) -> Option<usize> {
        let index = self
            .expectations
            .iter()
            .find(|(_, unseen)| unseen.name == worker)
            .map(|(index, _)| *index)?;
        self.expectations.remove(&index);
        Some(index)
    }

    /// Restarts the timeout of an expectation when the API server has acknowledged the creation.
    pub(super) fn creation_acknowledged(&mut self, worker: &str, now: Timestamp) {
        if let Some(unseen) = self.expectations.values_mut().find(|unseen| unseen.name == worker) {
            (unseen.since, unseen.acknowledged) = (now, true);
        }
    }

    /// Records a rejection of the task's workers by the API server.
    pub(super) fn set_rejection(&mut self, reason: FailureReason, message: String, now: Timestamp) {
        self.rejection = Some(WorkerRejection { reason, message, at: now });
    }

    /// Counts a node that ended by a rejection.
    pub(super) fn count_rejected_node(&mut self) {
        self.rejected_nodes = self.rejected_nodes.saturating_add(1);
    }

    /// Returns the rejection because of which no further workers are created, if any.
    pub(super) fn blocking_rejection(&self) -> Option<&WorkerRejection> {
        self.rejection
            .as_ref()
            .filter(|_| !self.has_had_pod && self.rejected_nodes >= MAX_REJECTED_NODES)
    }

    /// Switches to our own namespace for the following workers, and clears the rejections.
    pub(super) fn use_own_namespace(&mut self, why: String) {
        (self.own_namespace_reason, self.rejection, self.rejected_nodes) = (Some(why), None, 0);
    }

    /// Removes timed-out expectations, deletions and rejections.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.expectations.retain(|_, unseen| {
            add_millis(unseen.since, EXPECTATION_TIMEOUT_MS).is_some_and(|limit| now < limit)
        });
        if self.rejection.as_ref().is_some_and(|refused| {
            add_millis(refused.at, REJECTION_TTL_MS).is_none_or(|end| end <= now)
        }) {
            (self.rejection, self.rejected_nodes) = (None, 0);
        }
        self.deletions.retain(|_, since| {
            add_millis(*since, DELETION_TIMEOUT_MS).is_some_and(|limit| now < limit)
        });
    }

    /// Reports whether a deletion has waited for [`SETTLE_TIMEOUT_MS`]. The first call starts the
    /// wait.
    pub(super) fn has_waited(&mut self, key: String, now: Timestamp) -> bool {
        let since = *self.waits.entry(key).or_insert(now);
        add_millis(since, SETTLE_TIMEOUT_MS).is_none_or(|end| end <= now)
    }

    /// Ends a wait. The next call of [`Self::has_waited`] with this key starts it again.
    pub(super) fn end_wait(&mut self, key: &str) {
        self.waits.remove(key);
    }

    /// Reports whether the deletion is to be requested now, and if so, records it.
    pub(super) fn should_delete(&mut self, key: String, now: Timestamp) -> bool {
        let new = !self.deletions.contains_key(&key);
        if new {
            self.deletions.insert(key, now);
        }
        new
    }
}

/// Reports whether a rejected worker may be created in our own namespace: the setting allows it and
/// the task needs no credentials of its namespace. Only a shortage of quota is bypassed, and a
/// policy of the namespace only where `fallback_on_policy` allows it.
pub(super) fn may_use_own_namespace(
    settings: &ControllerSettings,
    valid: &ValidTask,
    planned: &NodeTracker,
    (reason, message): (FailureReason, &str),
) -> bool {
    settings.worker_namespace == WorkerNamespace::Fallback
        && !valid.has_credentials()
        && planned.own_namespace_reason.is_none()
        && (settings.fallback_on_policy || is_quota_rejection(reason, message))
}

/// Reports whether a `ResourceQuota` or a `LimitRange` has rejected the pod, by the messages of
/// Kubernetes' own admission plugins. The API server prefixes the messages of webhooks and
/// policies, whose text is arbitrary, with fixed phrases; those are excluded first.
fn is_quota_rejection(reason: FailureReason, message: &str) -> bool {
    let of_policy = [
        "admission webhook",
        "ValidatingAdmissionPolicy",
        "violates PodSecurity",
        "denied the request",
    ];
    let of_room =
        ["exceeded quota:", "failed quota:", " usage per ", "max limit to request ratio per "];
    !of_policy.iter().any(|words| message.contains(words))
        && (reason == FailureReason::QuotaExceeded
            || of_room.iter().any(|words| message.contains(words)))
}

/// Returns the maximum number of nodes that are worked on at the same time.
pub(super) fn max_concurrent_nodes(spec: &PrewarmPlanSpec, valid: &ValidTask) -> usize {
    if spec.at_once > 0 {
        spec.at_once as usize
    } else {
        valid.batch_size.of_total(spec.nodes.len())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        FailureReason::QuotaExceeded,
        "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2",
        true
    )]
    #[case(
        FailureReason::Forbidden,
        "pods \"x\" is forbidden: failed quota: q: must specify limits.cpu",
        true
    )]
    #[case(
        FailureReason::Forbidden,
        "pods \"x\" is forbidden: minimum cpu usage per Container is 10m, but request is 1m",
        true
    )]
    #[case(
        FailureReason::Forbidden,
        "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"",
        false
    )]
    #[case(
        FailureReason::Forbidden,
        "admission webhook \"p\" denied the request: exceeded quota: of ours",
        false
    )]
    #[case(
        FailureReason::QuotaExceeded,
        "ValidatingAdmissionPolicy 'p' denied request: exceeded quota: x",
        false
    )]
    #[case(FailureReason::Forbidden, "serviceaccount \"x\" not found", false)]
    fn only_quota_rejections_allow_our_own_namespace(
        #[case] reason: FailureReason,
        #[case] message: &str,
        #[case] room: bool,
    ) {
        assert_eq!(is_quota_rejection(reason, message), room);
    }
}
