//! Reap: deletes the workers whose results are stored in the API server.

use std::collections::BTreeMap;

use super::{
    cluster_state::ForeignClaim,
    effect::{Effect, WorkersDeletion},
    plan_reconciler::PlanReconciler,
    propagation::Propagation,
    worker_cache::may_pull,
};
use crate::{
    task::{BatchPolicy, batches::NodeState},
    worker::WorkerInfo,
};

impl PlanReconciler<'_> {
    /// Deletes workers whose results are stored in the API server. Workers of failed nodes are
    /// deleted at once, because their pods would wait forever; the others together with their
    /// batch, by collection. Retained workers stay.
    pub(super) fn reap(&mut self, effects: &mut Vec<Effect>) {
        let mut groups: BTreeMap<(&str, u32), Vec<&WorkerInfo>> = BTreeMap::new();
        for worker in self.snapshot.workers().filter(|worker| !self.is_retained(worker)) {
            groups.entry((&worker.namespace, worker.batch)).or_default().push(worker);
        }
        let mut wanted = Vec::new();
        for ((namespace, batch), workers) in groups {
            let foreign = self.foreign_claim(namespace);
            let singly = !self.valid.retain.is_zero() || foreign == Some(ForeignClaim::Lasting);
            let left = || workers.iter().copied().filter(|worker| !worker.deleting);
            if !singly
                && foreign.is_none()
                && left().next().is_some()
                && left().all(|worker| self.is_done(worker))
                && !self.may_gain_workers(batch)
                && let Some(whole) = self.batch_deletion(namespace, batch, &workers)
            {
                wanted.push(whole);
                continue;
            }
            let deleted = left().filter(|worker| {
                self.is_in_wrong_namespace(worker)
                    || self.is_done(worker) && (singly || may_pull(worker, self.snapshot.pods))
            });
            let pods = self.snapshot.pods;
            wanted.extend(deleted.map(|worker| Effect::delete_worker(worker, pods)));
        }
        let now = self.snapshot.now;
        effects.extend(
            wanted.into_iter().filter(|effect| self.tracker.should_delete(effect.key(), now)),
        );
    }

    /// Returns which foreign objects a deletion by collection could match. A pod can arrive before
    /// its Job: the collection waits for that moment, and such an object counts as lasting after
    /// [`SETTLE_TIMEOUT_MS`](super::tracker::SETTLE_TIMEOUT_MS).
    fn foreign_claim(&mut self, namespace: &str) -> Option<ForeignClaim> {
        let claim = (self.snapshot.foreign_claim)(namespace);
        if claim != Some(ForeignClaim::Transient) {
            self.tracker.end_wait(namespace);
            return claim;
        }
        let lasts = self.tracker.has_waited(namespace.to_owned(), self.snapshot.now);
        Some(if lasts { ForeignClaim::Lasting } else { ForeignClaim::Transient })
    }

    /// Returns the deletion of a complete batch, once it can be in the background: when its Jobs
    /// are finished, and those of failed nodes, which are deleted one by one, are gone. It is in
    /// the foreground where that costs fewer writes, and after
    /// [`SETTLE_TIMEOUT_MS`](super::tracker::SETTLE_TIMEOUT_MS).
    ///
    /// With `e` ended Jobs and `p` that may pull, the foreground costs `1 + 2e + 2p` writes: one
    /// request, and two of the garbage collector for each. The other way costs `3p + 2`: a request
    /// more for each that may pull, and two requests for all that have ended.
    fn batch_deletion(
        &mut self,
        namespace: &str,
        batch: u32,
        workers: &[&WorkerInfo],
    ) -> Option<Effect> {
        let propagation = Propagation::for_workers(workers.iter().copied(), self.snapshot.pods);
        let whole = Effect::DeleteWorkers(WorkersDeletion {
            kind: self.valid.worker,
            namespace: namespace.to_owned(),
            batch: Some(batch),
            propagation,
        });
        let left = || workers.iter().filter(|worker| !worker.deleting);
        let pulling = left().filter(|worker| may_pull(worker, self.snapshot.pods)).count();
        let ended = left().count().saturating_sub(pulling);
        let costs_less = ended.saturating_mul(2) <= pulling.saturating_add(1);
        let due = propagation == Propagation::Background
            || costs_less
            || self.tracker.has_waited(whole.key(), self.snapshot.now);
        due.then_some(whole)
    }

    /// Reports whether the result of the worker's attempt is stored in the API server.
    fn is_done(&self, worker: &WorkerInfo) -> bool {
        self.tracker.is_recorded(worker, self.written_states)
    }

    /// Reports whether workers with this batch label may still be created.
    fn may_gain_workers(&self, label: u32) -> bool {
        let current =
            self.batches().current_batch.is_some_and(|batch| match self.valid.batch_policy {
                BatchPolicy::Rolling => batch.nodes.clone().any(|index| {
                    self.batch_label(batch.index, index) == label
                        && self.state(index) == NodeState::Waiting
                }),
                BatchPolicy::Barrier | BatchPolicy::Doubling => batch.index == label,
            });
        let retrying = !self.tracker.retry_batch.is_empty() && self.retry_batch_label() == label;
        current || retrying || self.tracker.expects_batch(label)
    }

    /// Reports whether the worker waits in the task's namespace, which rejects pods, while others
    /// run in our own.
    fn is_in_wrong_namespace(&self, worker: &WorkerInfo) -> bool {
        self.tracker.own_namespace_reason.is_some()
            && worker.namespace == self.target.namespace
            && !self.snapshot.pods.contains_key(&worker.key())
            && !worker.finished
    }

    /// Reports whether the worker is retained, to protect its images from the kubelet's garbage
    /// collection.
    pub(super) fn is_retained(&self, worker: &WorkerInfo) -> bool {
        let good = |index: usize| self.state(index) == NodeState::Succeeded;
        !self.valid.retain.is_zero()
            && !may_pull(worker, self.snapshot.pods)
            && self.tracker.index_of(&worker.node).is_some_and(good)
    }

    /// Reports whether workers are left that must be deleted.
    pub(super) fn has_workers_left(&self) -> bool {
        self.snapshot.workers().any(|worker| !self.is_retained(worker))
            || self.tracker.has_expectations()
    }
}
