//! Reap: deletes the workers whose results are stored in the API server.

use std::collections::BTreeMap;

use super::{effect::Effect, plan_reconciler::PlanReconciler, worker_cache::may_pull};
use crate::{
    task::{BatchPolicy, batches::NodeState},
    worker::WorkerInfo,
};

impl PlanReconciler<'_> {
    /// Deletes workers whose results are stored in the API server. Workers of failed nodes are
    /// deleted at once, because their pods would wait forever; the others together with their
    /// batch, by one request. Retained workers stay.
    pub(super) fn reap(&mut self, effects: &mut Vec<Effect>) {
        let mut groups: BTreeMap<(&str, u32), Vec<(&WorkerInfo, bool)>> = BTreeMap::new();
        for worker in
            self.snapshot.workers().filter(|worker| !worker.deleting && !self.is_retained(worker))
        {
            groups
                .entry((&worker.namespace, worker.batch))
                .or_default()
                .push((worker, self.tracker.is_recorded(worker, self.written_states)));
        }
        let retains = !self.valid.retain.is_zero();
        let mut wanted = Vec::new();
        for ((namespace, batch), workers) in groups {
            let whole = !retains
                && !(self.snapshot.has_foreign_objects)(namespace)
                && !self.may_gain_workers(batch)
                && workers.iter().all(|(_, done)| *done);
            if whole {
                wanted.push(Effect::DeleteWorkers(
                    self.valid.worker,
                    namespace.to_owned(),
                    Some(batch),
                ));
                continue;
            }
            let single = workers.into_iter().filter(|(worker, done)| {
                let singly = retains || (self.snapshot.has_foreign_objects)(namespace);
                self.is_in_wrong_namespace(worker)
                    || *done && (singly || may_pull(worker, self.snapshot.pods))
            });
            wanted.extend(single.map(|(worker, _)| Effect::delete_worker(worker)));
        }
        let now = self.snapshot.now;
        effects.extend(
            wanted.into_iter().filter(|effect| self.tracker.should_delete(effect.key(), now)),
        );
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
