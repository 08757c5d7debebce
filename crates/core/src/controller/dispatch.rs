//! Dispatch: starts the next workers, within the batch and the capacity.

use std::ops::Range;

use super::{
    capacity::CapacityLimit,
    effect::{Effect, WorkerCreation},
    evaluate::WorkerStatus,
    measurement::Measurement,
    plan_reconciler::PlanReconciler,
    results::{NodeOutcome, PartOutcomes},
    settings::{ControllerSettings, WorkerNamespace},
    time::add_millis,
    tracker::NodeTracker,
};
use crate::{
    task::{BatchPolicy, batches::NodeState},
    worker::{Assignment, FailureReason, WorkerObject, build, pull_method_for},
};

/// Minimum interval between dry runs that find out why a Job has no pod, in milliseconds. Short
/// enough that a rejection is known within seconds, at one request for all nodes of the task.
const PROBE_INTERVAL_MS: i64 = 5_000;

/// Maximum number of retry batches that may end in one reconcile: 5,000 nodes in batches of one.
const MAX_BATCHES_AT_ONCE: usize = 5_000;

impl PlanReconciler<'_> {
    /// Creates the workers that may start now.
    pub(super) fn dispatch(&mut self, effects: &mut Vec<Effect>) {
        self.probe_podless(effects);
        // Nodes that end without a worker may end entire batches. There are at most as many rounds
        // as batches.
        while let Some(batch) = self.batches().current_batch {
            for index in batch.nodes.clone() {
                let label = self.batch_label(batch.index, index);
                // A sliding window passes over a busy node by itself.
                if self.start_worker(index, label, effects) == StartResult::NodeBusy
                    && self.valid.batch_policy != BatchPolicy::Rolling
                {
                    self.defer(index);
                }
            }
            if self.has_waiting(&batch.nodes) {
                return;
            }
            self.urgent = true;
        }
        // The next retry batch follows each one that ends at once. No node comes twice in one
        // reconcile, because retried nodes wait first.
        for _ in 0..MAX_BATCHES_AT_ONCE {
            if !self.dispatch_retries(effects) {
                return;
            }
        }
    }

    /// Defers a node that is in use by another task, unless its own attempt has started. The batch
    /// continues without it.
    fn defer(&mut self, index: usize) {
        if self.workers_by_node.contains_key(&index)
            || self.tracker.attempt_start(index).is_some()
            || self.state(index) != NodeState::Waiting
        {
            return;
        }
        self.tracker.results.defer(index);
        self.shared.measurements.push(Measurement::NodeDeferred);
        self.urgent = true;
    }

    fn has_waiting(&self, nodes: &Range<usize>) -> bool {
        nodes.clone().any(|index| self.state(index) == NodeState::Waiting)
    }

    /// Returns the batch label of a node's worker. A sliding window is labelled in sections of one
    /// batch size, so that its workers can also be deleted by one request.
    pub(super) fn batch_label(&self, batch: u32, index: usize) -> u32 {
        let stretch = || {
            index
                .checked_div(self.at_once)
                .and_then(|stretch| u32::try_from(stretch).ok())
                .unwrap_or(u32::MAX)
        };
        if self.valid.batch_policy == BatchPolicy::Rolling { stretch() } else { batch }
    }

    /// Dispatches the failed and deferred nodes, in batches of their own. Reports whether such a
    /// batch has ended at once.
    fn dispatch_retries(&mut self, effects: &mut Vec<Effect>) -> bool {
        let NodeTracker { results: record, retry_batch, .. } = &mut *self.tracker;
        retry_batch.retain(|index, attempt| record.state(*index) == NodeState::Retrying(*attempt));
        if retry_batch.is_empty() {
            let next = self.next_retry_batch();
            if next.is_empty() {
                return false;
            }
            let NodeTracker { results: record, retry_batch, retry_batches, .. } =
                &mut *self.tracker;
            retry_batch
                .extend(next.into_iter().map(|index| (index, record.state(index).attempt())));
            *retry_batches = retry_batches.saturating_add(1);
            self.urgent = true;
        }
        let nodes: Vec<usize> = self.tracker.retry_batch.keys().copied().collect();
        let label = self.retry_batch_label();
        for index in nodes {
            if self.start_worker(index, label, effects) == StartResult::NodeBusy {
                // A busy node is tried again when it is free.
                self.tracker.retry_batch.remove(&index);
            }
        }
        let NodeTracker { results: record, retry_batch, .. } = &mut *self.tracker;
        retry_batch.retain(|index, attempt| record.state(*index) == NodeState::Retrying(*attempt));
        retry_batch.is_empty()
    }

    /// Returns the nodes of the next retry batch. Those with the fewest attempts come first, and
    /// wait for one another. Nodes in use by another task are left out. When a registry breaker is
    /// tripped, the batch is limited to the free probes.
    fn next_retry_batch(&self) -> Vec<usize> {
        let NodeTracker { results: record, retry_at, registries, .. } = &*self.tracker;
        let attempt = |index: usize| record.state(index).attempt();
        let most = registries.probes_left().unwrap_or(self.at_once).min(self.at_once);
        let (task, namespace) = (&*self.target.uid, &*self.target.namespace);
        let free = |index: &usize| {
            let node = self.tracker.spec.nodes.get(*index).map(String::as_str).unwrap_or_default();
            self.shared.capacity.check_node(node, task, namespace) != Err(CapacityLimit::Node)
        };
        let mut levels: Vec<u8> = record.retrying_nodes().map(attempt).collect();
        levels.sort_unstable();
        levels.dedup();
        for level in levels {
            let next: Vec<usize> = record
                .retrying_nodes()
                .filter(|index| attempt(*index) == level)
                .filter(free)
                .take(most)
                .collect();
            let due = |index: &usize| retry_at.get(index).is_none_or(|at| *at <= self.snapshot.now);
            if !next.iter().all(due) {
                return Vec::new();
            }
            if !next.is_empty() {
                return next;
            }
        }
        Vec::new()
    }

    /// Starts a node's next worker if one is due and capacity allows it. Ends the node if nothing
    /// needs to be pulled.
    fn start_worker(&mut self, index: usize, batch: u32, effects: &mut Vec<Effect>) -> StartResult {
        if self.state(index).is_final() || self.tracker.is_expected(index) {
            return StartResult::Done;
        }
        if let Some(end) = self.ineligible(index) {
            self.finish_node(index, end, false);
            return StartResult::Done;
        }
        let Some((part, images)) = self.due_part(index, effects) else {
            return StartResult::Done;
        };
        if let Some(refused) = self.tracker.blocking_rejection().cloned() {
            self.finish_node(index, NodeOutcome::NodeFailed(refused.reason, refused.message), true);
            return StartResult::Done;
        }
        if self.tracker.alive_workers() >= self.at_once {
            return StartResult::Done;
        }
        match self.reserve_capacity(index) {
            Ok(()) => self.create_worker(index, batch, part, images, effects),
            Err(CapacityLimit::Node) => return StartResult::NodeBusy,
            Err(CapacityLimit::SameTask) => {}
            Err(limit) => self.limit_reached = Some(limit),
        }
        StartResult::Done
    }

    /// Returns the part for which a worker is due, and its images. Ends the node or its part where
    /// no worker is due any more.
    fn due_part(&mut self, index: usize, effects: &mut Vec<Effect>) -> Option<(u16, Vec<usize>)> {
        match self.evaluate(index) {
            WorkerStatus::StartWorker(part, images) => return Some((part, images)),
            WorkerStatus::Ended(end) => self.finish_node(index, end, true),
            WorkerStatus::PartFinished(part, outcomes) => {
                self.finish_part(index, part, outcomes, effects);
            }
            WorkerStatus::InProgress | WorkerStatus::NoPod | WorkerStatus::Rejected(_) => {}
        }
        None
    }

    /// Reserves the capacity for a worker on the node.
    fn reserve_capacity(&mut self, index: usize) -> Result<(), CapacityLimit> {
        self.shared.capacity.try_reserve(
            self.tracker.node(index),
            &self.target.uid,
            &self.target.namespace,
            self.hosts,
        )
    }

    /// Creates a worker for a part of the node's images. Fails the node if the worker cannot be
    /// serialized.
    fn create_worker(
        &mut self,
        index: usize,
        batch: u32,
        part: u16,
        images: Vec<usize>,
        effects: &mut Vec<Effect>,
    ) {
        let worker = self.build_worker(index, &self.worker_namespace(), batch, part, &images);
        match WorkerCreation::new(&worker) {
            Ok(creation) => {
                self.tracker.registries.start_probe(index, images);
                self.tracker.expect(index, &creation.name, batch, self.snapshot.now);
                effects.push(Effect::CreateWorker(Box::new(creation)));
            }
            Err(error) => {
                let end = NodeOutcome::NodeFailed(FailureReason::Unknown, error.to_string());
                self.finish_node(index, end, false);
            }
        }
    }

    /// Stores the outcomes of a part and deletes its worker.
    fn finish_part(
        &mut self,
        index: usize,
        part: u16,
        outcomes: PartOutcomes,
        effects: &mut Vec<Effect>,
    ) {
        let workers = self
            .workers_by_node
            .get(&index)
            .into_iter()
            .flatten()
            .filter(|worker| worker.part == part);
        let pods = self.snapshot.pods;
        effects.extend(workers.map(|worker| Effect::delete_worker(worker, pods)));
        self.tracker.finish_part(index, part, outcomes);
    }

    /// Returns the outcome of a node that has become ineligible since planning. A node with a
    /// worker is not checked.
    fn ineligible(&self, index: usize) -> Option<NodeOutcome> {
        if self.workers_by_node.contains_key(&index) {
            return None;
        }
        let first = self.state(index).attempt() == 0;
        let end = |reason, message: String| {
            Some(if first {
                NodeOutcome::Skipped(reason, message)
            } else {
                NodeOutcome::NodeFailed(reason, message)
            })
        };
        let Some(facts) = self.snapshot.nodes.get(self.tracker.node(index)) else {
            return end(
                FailureReason::NodeLost,
                "the node was deleted before its batch started".into(),
            );
        };
        let obstacle = self.valid.requirements.ineligible(facts)?;
        end(
            FailureReason::NodeRefused,
            format!("the node became ineligible before its batch started: {}", obstacle.as_str()),
        )
    }

    /// Returns the namespace in which workers are created.
    fn worker_namespace(&self) -> String {
        let ControllerSettings { worker_namespace, own_namespace, .. } = &*self.shared.settings;
        let own = *worker_namespace == WorkerNamespace::Own && !self.valid.has_credentials();
        if own || self.tracker.own_namespace_reason.is_some() {
            own_namespace.clone()
        } else {
            self.target.namespace.clone()
        }
    }

    fn build_worker(
        &self,
        index: usize,
        namespace: &str,
        batch: u32,
        part: u16,
        asked: &[usize],
    ) -> WorkerObject {
        let node = self.tracker.node(index);
        let method = self
            .snapshot
            .nodes
            .get(node)
            .map_or(self.valid.pull_method, |facts| pull_method_for(self.valid, facts));
        let at = Assignment {
            namespace,
            task_namespace: &self.target.namespace,
            task: &self.target.name,
            task_uid: &self.target.uid,
            batch,
            node,
            attempt: self.state(index).attempt(),
            part,
            images: asked,
            method,
        };
        build(self.valid, &at, &self.shared.settings.worker)
    }

    /// Requests a dry run that finds out why a Job has no pod, if any Job has none.
    fn probe_podless(&mut self, effects: &mut Vec<Effect>) {
        let due = self
            .tracker
            .probed_at
            .and_then(|at| add_millis(at, PROBE_INTERVAL_MS))
            .is_none_or(|at| at <= self.snapshot.now);
        if !due || self.tracker.alive_workers() == 0 {
            return;
        }
        // The pods of ended nodes are deleted before their Jobs.
        let podless = self.workers_by_node.iter().find(|(index, _)| {
            !self.state(**index).is_final() && self.evaluate(**index) == WorkerStatus::NoPod
        });
        let Some((index, worker)) =
            podless.and_then(|(index, workers)| Some((*index, *workers.last()?)))
        else {
            return;
        };
        let asked: Vec<usize> = worker.images.iter().map(|index| usize::from(*index)).collect();
        let built = self.build_worker(index, &worker.namespace, worker.batch, worker.part, &asked);
        self.tracker.probed_at = Some(self.snapshot.now);
        effects.push(Effect::DryRun(Box::new(built.to_pod())));
    }
}

/// Result of an attempt to start a node's worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StartResult {
    /// Worker started, not needed, or waiting for a transient condition.
    Done,
    /// Node in use by another task.
    NodeBusy,
}
