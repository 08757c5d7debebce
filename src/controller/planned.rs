//! The nodes of a task that has been planned, and all that is remembered of them. *Pure.*

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;

use super::{Settings, WorkerNamespace, record::Record, registries::Registries};
use crate::{
    task::{
        PrewarmPlanSpec, PrewarmTaskStatus,
        batches::{NodeState, batches},
        validate::ValidTask,
    },
    worker::{ImageOutcome, Reason, WorkerFacts},
};

/// A worker whose creation was acknowledged is in the watch within milliseconds; after this long without it, in
/// milliseconds, it was deleted before it was seen, and is made again.
const UNSEEN_MS: i64 = 30_000;
/// A deletion shows in the watch within milliseconds too; after this long, in milliseconds, it is asked for again.
const DELETION_MS: i64 = 5_000;
/// So many nodes must be refused by the API server, and none have got a pod, before the rest are not asked for.
const REFUSED_NODES: u32 = 3;
/// What the API server said of a worker holds for this long, in milliseconds; then it is asked again.
const REFUSAL_MS: i64 = 15_000;

/// What the API server said of a worker that it did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) at: Timestamp,
}

/// A worker that was asked for and is not in the watch.
#[derive(Debug)]
struct Unseen {
    name: String,
    /// Its batch's label.
    label: u32,
    since: Timestamp,
    /// Whether the API server has taken it.
    taken: bool,
}

/// The nodes of a task, and what was done about them.
pub(super) struct Planned {
    pub(super) spec: Arc<PrewarmPlanSpec>,
    index: HashMap<String, usize>,
    pub(super) record: Record,
    /// By the node's index.
    unseen: HashMap<usize, Unseen>,
    /// When the present try of a node began, by its index: a worker that somebody deletes gets no time beyond it.
    begun: HashMap<usize, Timestamp>,
    /// The identity of a node when a worker of its present try was first seen, by its index.
    met: HashMap<usize, u64>,
    /// Parts of nodes that came to an end whose worker had to go before the node's next part, by the node's index: they are
    /// not recorded, and repeated after a crash.
    settled: HashMap<usize, HashMap<u16, Vec<ImageOutcome>>>,
    /// How many workers were alive at the last look.
    pub(super) seen_alive: usize,
    /// Deletions that were asked for lately, by their effect's key.
    deletions: HashMap<String, Timestamp>,
    /// When a failed node may be tried again.
    pub(super) retry_at: HashMap<usize, Timestamp>,
    /// The nodes that are tried again now, with the number of their try.
    pub(super) retry_batch: BTreeMap<usize, u8>,
    /// How many batches of further tries there were.
    pub(super) retry_batches: u32,
    /// Why workers go to our own namespace.
    pub(super) away: Option<String>,
    /// Why the API server took no worker lately.
    pub(super) refused: Option<Refused>,
    pub(super) probed_at: Option<Timestamp>,
    /// Which of its registries do not answer.
    pub(super) registries: Registries,
    /// How many nodes were refused.
    refusals: u32,
    /// Whether a worker has had a pod.
    taken: bool,
}

impl Planned {
    pub(super) fn new(
        valid: &ValidTask,
        spec: Arc<PrewarmPlanSpec>,
        status: &PrewarmTaskStatus,
        registry_failures: usize,
        now: Timestamp,
    ) -> Self {
        let index = spec.nodes.iter().enumerate().map(|(index, node)| (node.clone(), index)).collect();
        let record = Record::restore(spec.nodes.len(), &valid.images, status);
        let at_once = at_once(&spec, valid);
        let first = batches(record.letters(), valid.batch_policy, at_once).total;
        // When a predecessor's retry would have been due is not known: its delay begins anew.
        let retry = |index: usize| match record.state(index) {
            NodeState::Retrying(tries) => (index, after(now, valid.retry.delay(tries))),
            _ => (index, now),
        };
        Self {
            retry_at: record.retrying().map(retry).collect(),
            index,
            record,
            unseen: HashMap::new(),
            begun: HashMap::new(),
            met: HashMap::new(),
            settled: HashMap::new(),
            seen_alive: 0,
            deletions: HashMap::new(),
            retry_batch: BTreeMap::new(),
            retry_batches: status.total_batches.saturating_sub(first),
            away: None,
            refused: None,
            probed_at: None,
            registries: Registries::new(&valid.images, registry_failures),
            refusals: 0,
            taken: false,
            spec,
        }
    }

    pub(super) fn index_of(&self, node: &str) -> Option<usize> {
        self.index.get(node).copied()
    }

    /// The name of the node at an index.
    pub(super) fn node(&self, index: usize) -> &str {
        self.spec.nodes.get(index).map_or("", String::as_str)
    }

    /// Whether the node's worker was asked for and has not been seen.
    pub(super) fn is_unseen(&self, index: usize) -> bool {
        self.unseen.contains_key(&index)
    }

    /// How many workers are alive, with those that were asked for since the last look.
    pub(super) fn alive(&self) -> usize {
        self.seen_alive.saturating_add(self.unseen.len())
    }

    /// Whether workers were asked for that have not been seen.
    pub(super) fn has_unseen(&self) -> bool {
        !self.unseen.is_empty()
    }

    /// Whether the result of the worker's try is among `letters`, those that the API server has.
    pub(super) fn is_recorded(&self, worker: &WorkerFacts, letters: &[u8]) -> bool {
        let Some(index) = self.index_of(&worker.node) else { return true };
        let state = letters.get(index).map_or(NodeState::Waiting, |letter| NodeState::from_letter(*letter));
        state.is_final() || state.attempt() > worker.attempt
    }

    /// Nodes whose worker was asked for and has not been seen.
    pub(super) fn claimed(&self) -> impl Iterator<Item = &str> {
        self.unseen.keys().map(|index| self.node(*index))
    }

    /// Whether a worker of the batch with this label was asked for and has not been seen.
    pub(super) fn expects(&self, label: u32) -> bool {
        self.unseen.values().any(|unseen| unseen.label == label)
    }

    pub(super) fn asked_for(&mut self, index: usize, worker: &str, label: u32, now: Timestamp) {
        self.unseen.insert(index, Unseen { name: worker.to_owned(), label, since: now, taken: false });
        self.begun.entry(index).or_insert(now);
    }

    /// The worker is in the watch.
    pub(super) fn seen(&mut self, index: usize, worker: &str) {
        if self.unseen.get(&index).is_some_and(|unseen| unseen.name == worker) {
            self.unseen.remove(&index);
        }
    }

    /// A worker of the node's present try is in the watch, while the node has this identity.
    pub(super) fn meet(&mut self, index: usize, identity: u64) {
        self.met.entry(index).or_insert(identity);
    }

    /// The identity that the node had when a worker of its present try was first seen.
    pub(super) fn met(&self, index: usize) -> Option<u64> {
        self.met.get(&index).copied()
    }

    /// A worker has a pod: the API server takes them.
    pub(super) fn has_pod(&mut self) {
        self.taken = true;
    }

    /// When the node's present try began.
    pub(super) fn begun(&self, index: usize) -> Option<Timestamp> {
        self.begun.get(&index).copied()
    }

    /// Whether workers of the task take from the namespace's quota.
    pub(super) fn takes_quota(&self) -> bool {
        self.seen_alive > 0 || self.unseen.values().any(|unseen| unseen.taken)
    }

    /// Keeps what a part of a node has come to.
    pub(super) fn settle(&mut self, index: usize, part: u16, outcomes: Vec<ImageOutcome>) {
        self.settled.entry(index).or_default().insert(part, outcomes);
    }

    /// What a part of a node has come to: one outcome per image of the part.
    pub(super) fn settled(&self, index: usize, part: u16) -> Option<&Vec<ImageOutcome>> {
        self.settled.get(&index)?.get(&part)
    }

    /// The node's present try has ended.
    pub(super) fn try_ended(&mut self, index: usize) {
        self.begun.remove(&index);
        self.met.remove(&index);
        self.settled.remove(&index);
        self.registries.dismiss(index);
    }

    /// The index of the node whose worker of this name was asked for, which is forgotten.
    pub(super) fn forget(&mut self, worker: &str) -> Option<usize> {
        let index = self.unseen.iter().find(|(_, unseen)| unseen.name == worker).map(|(index, _)| *index)?;
        self.unseen.remove(&index);
        Some(index)
    }

    /// The API server took the worker: from now on it should be seen.
    pub(super) fn acknowledged(&mut self, worker: &str, now: Timestamp) {
        if let Some(unseen) = self.unseen.values_mut().find(|unseen| unseen.name == worker) {
            (unseen.since, unseen.taken) = (now, true);
        }
    }

    /// The API server takes no worker of the task.
    pub(super) fn refuse(&mut self, reason: Reason, message: String, now: Timestamp) {
        self.refused = Some(Refused { reason, message, at: now });
    }

    /// A node has ended by a refusal.
    pub(super) fn count_refusal(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
    }

    /// Why no further worker is asked for, where the API server takes none of the task's.
    pub(super) fn barred(&self) -> Option<&Refused> {
        self.refused.as_ref().filter(|_| !self.taken && self.refusals >= REFUSED_NODES)
    }

    /// Gives the workers another namespace, where nothing was refused yet.
    pub(super) fn go_away(&mut self, why: String) {
        (self.away, self.refused, self.refusals) = (Some(why), None, 0);
    }

    /// Forgets what was asked for long ago and did not come.
    pub(super) fn tire(&mut self, now: Timestamp) {
        self.unseen.retain(|_, unseen| later(unseen.since, UNSEEN_MS).is_some_and(|limit| now < limit));
        if self.refused.as_ref().is_some_and(|refused| later(refused.at, REFUSAL_MS).is_none_or(|end| end <= now)) {
            (self.refused, self.refusals) = (None, 0);
        }
        self.deletions.retain(|_, since| later(*since, DELETION_MS).is_some_and(|limit| now < limit));
    }

    /// Whether the deletion should be asked for now; if so, that is noted.
    pub(super) fn delete_now(&mut self, key: String, now: Timestamp) -> bool {
        let new = !self.deletions.contains_key(&key);
        if new {
            self.deletions.insert(key, now);
        }
        new
    }
}

/// Whether a refused worker may be tried in our own namespace: where that is allowed and nothing of the task's namespace is
/// needed. A policy of the task's namespace is not by-passed, unless a setting says so: only a lack of room is.
pub(super) fn may_go_away(
    settings: &Settings,
    valid: &ValidTask,
    planned: &Planned,
    (reason, message): (Reason, &str),
) -> bool {
    settings.worker_namespace == WorkerNamespace::Fallback
        && !valid.has_credentials()
        && planned.away.is_none()
        && (settings.fallback_on_policy || lacks_room(reason, message))
}

/// Whether a `ResourceQuota` or a `LimitRange` has refused, by the words of Kubernetes' own admission plugins. A webhook or a policy, whose
/// words others choose, is announced by other words before its own.
fn lacks_room(reason: Reason, message: &str) -> bool {
    let of_policy = ["admission webhook", "ValidatingAdmissionPolicy", "violates PodSecurity", "denied the request"];
    let of_room = ["exceeded quota:", "failed quota:", " usage per ", "max limit to request ratio per "];
    !of_policy.iter().any(|words| message.contains(words))
        && (reason == Reason::QuotaExceeded || of_room.iter().any(|words| message.contains(words)))
}

/// How many nodes at once.
pub(super) fn at_once(spec: &PrewarmPlanSpec, valid: &ValidTask) -> usize {
    if spec.at_once > 0 { spec.at_once as usize } else { valid.batch_size.of(spec.nodes.len()) }
}

/// A time some milliseconds later.
pub(super) fn later(time: Timestamp, milliseconds: i64) -> Option<Timestamp> {
    time.checked_add(k8s_openapi::jiff::SignedDuration::from_millis(milliseconds)).ok()
}

/// A time some while later; the time itself where that is beyond all calendars.
pub(super) fn after(time: Timestamp, span: std::time::Duration) -> Timestamp {
    i64::try_from(span.as_millis()).ok().and_then(|ms| later(time, ms)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        Reason::QuotaExceeded,
        "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2",
        true
    )]
    #[case(Reason::Forbidden, "pods \"x\" is forbidden: failed quota: q: must specify limits.cpu", true)]
    #[case(
        Reason::Forbidden,
        "pods \"x\" is forbidden: minimum cpu usage per Container is 10m, but request is 1m",
        true
    )]
    #[case(Reason::Forbidden, "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"", false)]
    #[case(Reason::Forbidden, "admission webhook \"p\" denied the request: exceeded quota: of ours", false)]
    #[case(Reason::QuotaExceeded, "ValidatingAdmissionPolicy 'p' denied request: exceeded quota: x", false)]
    #[case(Reason::Forbidden, "serviceaccount \"x\" not found", false)]
    fn only_a_lack_of_room_sends_workers_elsewhere(#[case] reason: Reason, #[case] message: &str, #[case] room: bool) {
        assert_eq!(lacks_room(reason, message), room);
    }
}
