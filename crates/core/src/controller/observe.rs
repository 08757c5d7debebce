//! Observe: reads the results of workers into the node tracker, and ends nodes.

use super::{
    evaluate::WorkerStatus,
    plan_reconciler::PlanReconciler,
    results::NodeOutcome,
    tracker::{NodeTracker, may_use_own_namespace},
};
use crate::worker::FailureReason;

impl PlanReconciler<'_> {
    /// Evaluates the workers and records the nodes that have ended.
    pub(super) fn observe(&mut self, overdue: bool) {
        self.observe_registries();
        let open: Vec<usize> = self
            .workers_by_node
            .keys()
            .copied()
            .filter(|index| !self.state(*index).is_final())
            .collect();
        let mut dismissed = false;
        for index in open {
            match self.evaluate(index) {
                WorkerStatus::Ended(end) => self.finish_node(index, end, !overdue),
                WorkerStatus::Rejected(refused)
                    if !dismissed
                        && may_use_own_namespace(
                            &self.shared.settings,
                            self.valid,
                            self.tracker,
                            (refused.reason, &refused.message),
                        ) =>
                {
                    self.tracker.use_own_namespace(refused.message);
                    dismissed = true;
                }
                WorkerStatus::Rejected(_) if dismissed => {}
                WorkerStatus::Rejected(refused) => {
                    self.tracker.count_rejected_node();
                    self.finish_node(
                        index,
                        NodeOutcome::NodeFailed(refused.reason, refused.message),
                        !overdue,
                    );
                }
                WorkerStatus::InProgress
                | WorkerStatus::NoPod
                | WorkerStatus::StartWorker(..)
                | WorkerStatus::PartFinished(..) => {}
            }
        }
        if overdue {
            self.finish_open_nodes();
        }
    }

    /// Fails all nodes that have not ended, because the deadline has passed.
    fn finish_open_nodes(&mut self) {
        let nodes = 0..self.tracker.spec.nodes.len();
        let open: Vec<usize> = nodes.filter(|index| !self.state(*index).is_final()).collect();
        for index in open {
            let message = "the task's deadline has passed".to_owned();
            let end = NodeOutcome::NodeFailed(FailureReason::Timeout, message);
            self.finish_node(index, end, false);
        }
    }

    /// Updates the registry breakers from the states of the pods.
    fn observe_registries(&mut self) {
        let NodeTracker { results: record, registries, .. } = &mut *self.tracker;
        for (index, workers) in &self.workers_by_node {
            let state = record.state(*index);
            if state.is_final() {
                continue;
            }
            for pod in workers.iter().filter_map(|worker| self.snapshot.pods.get(&worker.key())) {
                registries.observe_pod(*index, state.attempt(), pod, &self.valid.images);
            }
        }
        // When a breaker has just tripped, some of the nodes that already pull from its registry
        // continue as probes.
        if registries.probes_left().is_some() {
            for (index, workers) in &self.workers_by_node {
                let state = record.state(*index);
                let asked: Vec<usize> = workers
                    .iter()
                    .flat_map(|worker| worker.images.iter())
                    .map(|image| usize::from(*image))
                    .collect();
                let may =
                    asked.iter().all(|image| !registries.defers(*image, *index, state.attempt()));
                if may && !state.is_final() {
                    registries.start_probe(*index, asked);
                }
            }
        }
    }

    /// Skips the idle nodes of an obsolete task. Nodes with a worker continue to their end.
    pub(super) fn skip_idle_nodes(&mut self) {
        let idle = |index: &usize| {
            !self.state(*index).is_final()
                && !self.workers_by_node.contains_key(index)
                && !self.tracker.is_expected(*index)
        };
        let left: Vec<usize> = (0..self.tracker.spec.nodes.len()).filter(idle).collect();
        for index in left {
            self.finish_node(index, NodeOutcome::Abandoned, false);
        }
    }
}
