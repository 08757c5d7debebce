//! One pass over the nodes of a planned task within a reconcile: observes results, reaps finished
//! workers, and dispatches new ones. Input: the node tracker, a snapshot and the capacity. Output:
//! effects, updates of the tracker and measurements. The steps are in `observe`, `reap` and `dispatch`.

use std::{collections::BTreeMap, fmt};

use super::{
    capacity::CapacityLimit,
    context::ReconcileContext,
    effect::TaskRef,
    evaluate::{NodeEvaluator, WorkerStatus},
    snapshot::Snapshot,
    tracker::{NodeTracker, max_concurrent_nodes},
    warm_images::CredentialScope,
    worker_cache::is_active,
};
use crate::{
    task::{
        BatchPolicy, PrewarmTaskStatus,
        batches::{Batches, NodeState, divide_into_batches},
        validate::ValidTask,
    },
    worker::WorkerInfo,
};

/// Position of the task in its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchPosition {
    pub(super) current: u32,
    pub(super) total: u32,
    retrying: bool,
}

impl fmt::Display for BatchPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.retrying { "retry batch" } else { "batch" };
        write!(f, "{what} {} of {}", self.current.saturating_add(1), self.total)
    }
}

/// Working state for the nodes of a task, within one reconcile.
pub(super) struct PlanReconciler<'a> {
    pub(super) target: &'a TaskRef,
    pub(super) valid: &'a ValidTask,
    pub(super) tracker: &'a mut NodeTracker,
    pub(super) snapshot: &'a Snapshot<'a>,
    pub(super) shared: &'a mut ReconcileContext,
    /// Node states as stored in the API server.
    pub(super) written_states: &'a [u8],
    pub(super) hosts: &'a [String],
    pub(super) at_once: usize,
    /// Workers of the current attempt, by node index.
    pub(super) workers_by_node: BTreeMap<usize, Vec<&'a WorkerInfo>>,
    /// Batches at the start of the reconcile.
    pub(super) initial_batches: Batches,
    pub(super) urgent: bool,
    /// Limit of the cluster or the namespace that prevented a further worker.
    pub(super) limit_reached: Option<CapacityLimit>,
}

impl<'a> PlanReconciler<'a> {
    pub(super) fn new(
        target: &'a TaskRef,
        valid: &'a ValidTask,
        planned: &'a mut NodeTracker,
        view: &'a Snapshot<'a>,
        shared: &'a mut ReconcileContext,
        written: &'a PrewarmTaskStatus,
        hosts: &'a [String],
    ) -> Self {
        planned.expire(view.now);
        let at_once = max_concurrent_nodes(&planned.spec, valid);
        let begun = divide_into_batches(planned.results.node_states(), valid.batch_policy, at_once);
        let mut at: BTreeMap<usize, Vec<&WorkerInfo>> = BTreeMap::new();
        for worker in view.workers() {
            let Some(index) = planned.index_of(&worker.node) else { continue };
            planned.observed(index, &worker.name);
            if let Some(node) = view.nodes.get(&worker.node) {
                planned.record_identity(index, node.identity);
            }
            if view.pods.contains_key(&worker.key()) {
                planned.pod_observed();
            }
            if planned.results.state(index).attempt() == worker.attempt {
                at.entry(index).or_default().push(worker);
            }
        }
        planned.observed_alive = view.workers().filter(|worker| is_active(worker)).count();
        let recorded = written.node_states.as_bytes();
        Self {
            target,
            valid,
            tracker: planned,
            snapshot: view,
            shared,
            written_states: recorded,
            hosts,
            at_once,
            workers_by_node: at,
            initial_batches: begun,
            urgent: false,
            limit_reached: None,
        }
    }

    /// Reports whether something waits for a write of the status.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent || self.batches() != self.initial_batches
    }

    pub(super) fn batches(&self) -> Batches {
        divide_into_batches(
            self.tracker.results.node_states(),
            self.valid.batch_policy,
            self.at_once,
        )
    }

    /// Returns the position of the task in its batches.
    pub(super) fn position(&self) -> BatchPosition {
        let batches = self.batches();
        let total = batches.total.saturating_add(self.tracker.retry_batches);
        let current = batches.current_batch.map_or(total.saturating_sub(1), |batch| batch.index);
        BatchPosition { current, total, retrying: self.tracker.retry_batches > 0 }
    }

    /// Returns the limit of the cluster or the namespace that prevents further workers.
    pub(super) fn limit_reached(&self) -> Option<CapacityLimit> {
        self.limit_reached
    }

    pub(super) fn state(&self, index: usize) -> NodeState {
        self.tracker.results.state(index)
    }

    /// Evaluates a node from the workers of its current attempt.
    pub(super) fn evaluate(&self, index: usize) -> WorkerStatus {
        let judge = NodeEvaluator {
            valid: self.valid,
            tracker: self.tracker,
            snapshot: self.snapshot,
            settings: &self.shared.settings,
            warm_images: &self.shared.warm_images,
            scope: CredentialScope::new(&self.target.namespace, self.valid),
        };
        judge.evaluate(index, self.workers_by_node.get(&index).map_or(&[], Vec::as_slice))
    }

    /// Returns the label of the current retry batch. Labels of retries follow those of all first
    /// attempts.
    pub(super) fn retry_batch_label(&self) -> u32 {
        let first = match self.valid.batch_policy {
            BatchPolicy::Barrier => self.batches().total,
            // The sizes of these batches depend on the results.
            BatchPolicy::Rolling | BatchPolicy::Doubling => {
                u32::try_from(self.tracker.spec.nodes.len()).unwrap_or(u32::MAX)
            }
        };
        first.saturating_add(self.tracker.retry_batches).saturating_sub(1)
    }
}
