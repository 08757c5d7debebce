//! One pass over the nodes of a planned task within a reconcile: observes results, reaps finished
//! workers, and dispatches new ones. Input: the node tracker, a snapshot and the capacity. Output:
//! effects, updates of the tracker, metrics and trace spans. Sends no requests, reads no clock.

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc};

use crate::{
    node::NodeInfo,
    task::{
        BatchPolicy, PrewarmTaskStatus,
        batches::{Batches, NodeState, divide_into_batches},
        validate::ValidTask,
    },
    worker::{
        Assignment, FailureReason, ImageOutcome, WorkerInfo, WorkerObject, build, pull_method_for,
    },
};
use k8s_openapi::jiff::Timestamp;

use super::{
    ControllerSettings, ReconcileContext, WorkerNamespace,
    capacity::CapacityLimit,
    cluster_state::{is_active, may_pull},
    effect::{Effect, TaskRef, WorkerCreation},
    evaluate::{NodeEvaluator, WorkerStatus},
    measurement::Measurement,
    results::NodeOutcome,
    snapshot::Snapshot,
    tracker::{NodeTracker, add_duration, add_millis, max_concurrent_nodes, may_use_own_namespace},
    warm_images::CredentialScope,
};

/// Minimum interval between dry runs that find out why a Job has no pod, in milliseconds. Short
/// enough that a rejection is known within seconds, at one request for all nodes of the task.
const PROBE_INTERVAL_MS: i64 = 5_000;

/// Maximum number of retry batches that may end in one reconcile: 5,000 nodes in batches of one.
const MAX_BATCHES_AT_ONCE: usize = 5_000;

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
    target: &'a TaskRef,
    valid: &'a ValidTask,
    tracker: &'a mut NodeTracker,
    snapshot: &'a Snapshot<'a>,
    shared: &'a mut ReconcileContext,
    /// Node states as stored in the API server.
    written_states: &'a [u8],
    hosts: &'a [String],
    at_once: usize,
    /// Workers of the current attempt, by node index.
    workers_by_node: BTreeMap<usize, Vec<&'a WorkerInfo>>,
    /// Batches at the start of the reconcile.
    initial_batches: Batches,
    urgent: bool,
    /// Limit of the cluster or the namespace that prevented a further worker.
    limit_reached: Option<CapacityLimit>,
}

/// Result of an attempt to start a node's worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StartResult {
    /// Worker started, not needed, or waiting for a transient condition.
    Done,
    /// Node in use by another task.
    NodeBusy,
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

    fn batches(&self) -> Batches {
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
            let left = 0..self.tracker.spec.nodes.len();
            for index in left
                .filter(|index| !self.tracker.results.state(*index).is_final())
                .collect::<Vec<_>>()
            {
                let message = "the task's deadline has passed".to_owned();
                self.finish_node(
                    index,
                    NodeOutcome::NodeFailed(FailureReason::Timeout, message),
                    false,
                );
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

    fn state(&self, index: usize) -> NodeState {
        self.tracker.results.state(index)
    }

    fn evaluate(&self, index: usize) -> WorkerStatus {
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

    fn finish_node(&mut self, index: usize, end: NodeOutcome, again: bool) {
        let since = self
            .workers_by_node
            .get(&index)
            .and_then(|workers| workers.iter().filter_map(|worker| worker.first_seen).min());
        if let NodeOutcome::Images(outcomes) | NodeOutcome::Deferred(outcomes) = &end {
            self.cache_warm_images(index, outcomes);
        }
        let state = finish_attempt(
            self.tracker,
            self.valid,
            self.shared,
            index,
            end,
            again,
            self.snapshot.now,
        );
        if let Some(since) = since {
            self.shared.measurements.push(Measurement::PullEnded {
                task: self.target.clone(),
                node: self.tracker.node(index).to_owned(),
                state,
                start: since,
                end: self.snapshot.now,
            });
        }
        self.workers_by_node.remove(&index);
        // Workers of failed nodes are deleted only after the failure is in the stored status, and
        // other nodes wait for that.
        self.urgent |= !matches!(state, NodeState::Succeeded | NodeState::AlreadyWarm);
    }

    /// Records in the warm image cache which images are on a node now, if it is still the machine
    /// on which the workers were observed, and which images the namespace has access to.
    fn cache_warm_images(&mut self, index: usize, outcomes: &[ImageOutcome]) {
        let (now, scope) =
            (self.snapshot.now, CredentialScope::new(&self.target.namespace, self.valid));
        let node =
            self.tracker.spec.nodes.get(index).and_then(|node| self.snapshot.nodes.get(node));
        let same = |node: &&NodeInfo| {
            node.ready && self.tracker.identity(index).is_none_or(|met| met == node.identity)
        };
        let node = node.filter(same).map(|node| node.identity);
        let workers = self.workers_by_node.get(&index).map_or(&[][..], Vec::as_slice);
        for (at, (image, outcome)) in (0u16..).zip(self.valid.images.iter().zip(outcomes)) {
            if !matches!(outcome, ImageOutcome::Warm(_)) {
                continue;
            }
            if let Some(node) = node {
                self.shared.warm_images.insert(scope, node, image, now);
            }
            if let Some(worker) = workers.iter().find(|worker| worker.images.contains(&at)) {
                // Workers in our own namespace have no credentials.
                let of = if worker.is_outside_task_namespace() {
                    CredentialScope::PUBLIC
                } else {
                    scope
                };
                self.shared.warm_images.record_access(of, image, now);
            }
        }
    }

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

    /// Returns the label of the current retry batch. Labels of retries follow those of all first
    /// attempts.
    fn retry_batch_label(&self) -> u32 {
        let first = match self.valid.batch_policy {
            BatchPolicy::Barrier => self.batches().total,
            // The sizes of these batches depend on the results.
            BatchPolicy::Rolling | BatchPolicy::Doubling => {
                u32::try_from(self.tracker.spec.nodes.len()).unwrap_or(u32::MAX)
            }
        };
        first.saturating_add(self.tracker.retry_batches).saturating_sub(1)
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
    fn is_retained(&self, worker: &WorkerInfo) -> bool {
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
    fn batch_label(&self, batch: u32, index: usize) -> u32 {
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
        let (part, asked) = match self.evaluate(index) {
            WorkerStatus::StartWorker(part, asked) => (part, asked),
            WorkerStatus::Ended(end) => {
                self.finish_node(index, end, true);
                return StartResult::Done;
            }
            WorkerStatus::PartFinished(part, outcomes) => {
                self.finish_part(index, part, outcomes, effects);
                return StartResult::Done;
            }
            WorkerStatus::InProgress | WorkerStatus::NoPod | WorkerStatus::Rejected(_) => {
                return StartResult::Done;
            }
        };
        if let Some(refused) = self.tracker.blocking_rejection().cloned() {
            self.finish_node(index, NodeOutcome::NodeFailed(refused.reason, refused.message), true);
            return StartResult::Done;
        }
        let namespace = self.worker_namespace();
        let node = self.tracker.node(index).to_owned();
        if self.tracker.alive_workers() >= self.at_once {
            return StartResult::Done;
        }
        match self.shared.capacity.try_reserve(
            &node,
            &self.target.uid,
            &self.target.namespace,
            self.hosts,
        ) {
            Ok(()) => {}
            Err(CapacityLimit::Node) => return StartResult::NodeBusy,
            Err(full) => {
                self.limit_reached = Some(full)
                    .filter(|full| *full != CapacityLimit::SameTask)
                    .or(self.limit_reached);
                return StartResult::Done;
            }
        }
        let creation =
            match WorkerCreation::new(&self.build_worker(index, &namespace, batch, part, &asked)) {
                Ok(creation) => creation,
                Err(error) => {
                    self.finish_node(
                        index,
                        NodeOutcome::NodeFailed(FailureReason::Unknown, error.to_string()),
                        false,
                    );
                    return StartResult::Done;
                }
            };
        self.tracker.registries.start_probe(index, asked);
        self.tracker.expect(index, &creation.name, batch, self.snapshot.now);
        effects.push(Effect::CreateWorker(Box::new(creation)));
        StartResult::Done
    }

    /// Stores the outcomes of a part and deletes its worker.
    fn finish_part(
        &mut self,
        index: usize,
        part: u16,
        outcomes: Vec<ImageOutcome>,
        effects: &mut Vec<Effect>,
    ) {
        let workers = self
            .workers_by_node
            .get(&index)
            .into_iter()
            .flatten()
            .filter(|worker| worker.part == part);
        effects.extend(workers.map(|worker| Effect::delete_worker(worker)));
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
        let podless = self
            .workers_by_node
            .iter()
            .find(|(index, _)| self.evaluate(**index) == WorkerStatus::NoPod);
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

/// Records the end of an attempt on a node, and schedules a retry where `again` and the retry rule
/// allow one. Returns the resulting state of the node.
#[allow(clippy::too_many_arguments, reason = "the two callers borrow different parts of a task")]
pub(super) fn finish_attempt(
    planned: &mut NodeTracker,
    valid: &ValidTask,
    shared: &mut ReconcileContext,
    index: usize,
    end: NodeOutcome,
    again: bool,
    now: Timestamp,
) -> NodeState {
    let spec = Arc::clone(&planned.spec);
    let node = spec.nodes.get(index).map_or("", String::as_str);
    let attempt = planned.results.state(index).attempt();
    let behind = matches!(end, NodeOutcome::Deferred(_));
    let again = again && (behind || attempt < valid.retry.limit);
    let mut warm = 0;
    if let NodeOutcome::Images(outcomes) = &end {
        let tries = u32::from(valid.retry.limit).saturating_add(1);
        for (image, reason, message) in
            planned.registries.finish_attempt(index, attempt, outcomes, tries)
        {
            planned.results.abandon_image(image, reason, &message);
        }
    }
    if let NodeOutcome::Images(outcomes) | NodeOutcome::Deferred(outcomes) = &end {
        warm = outcomes.iter().filter(|outcome| matches!(outcome, ImageOutcome::Warm(_))).count();
    }
    let all = valid.images.len();
    planned.finish_attempt(index);
    let reasons = failure_reasons(&end, all);
    let state = planned.results.finish_attempt(index, node, end, again, now);
    let (succeeded, failed) = match state {
        NodeState::Retrying(tries) => {
            let due = if behind { now } else { add_duration(now, valid.retry.delay(tries)) };
            planned.retry_at.insert(index, due);
            (0, 0)
        }
        NodeState::Succeeded | NodeState::AlreadyWarm => (all, 0),
        NodeState::Skipped => (0, 0),
        NodeState::Failed | NodeState::Waiting => (warm, all.saturating_sub(warm)),
    };
    let reasons = if failed > 0 { reasons } else { Vec::new() };
    shared.measurements.push(Measurement::AttemptEnded { state, succeeded, failed, reasons });
    state
}

/// Returns the failure reasons of a node's images, with the number of images of each.
fn failure_reasons(end: &NodeOutcome, all: usize) -> Vec<(FailureReason, u64)> {
    match end {
        NodeOutcome::Images(outcomes) | NodeOutcome::Deferred(outcomes) => outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                ImageOutcome::Failed(reason, _) | ImageOutcome::Pending(Some((reason, _))) => {
                    Some((*reason, 1))
                }
                ImageOutcome::Pending(None) => Some((FailureReason::Unknown, 1)),
                ImageOutcome::Warm(_) => None,
            })
            .collect(),
        NodeOutcome::NodeFailed(reason, _) => vec![(*reason, all as u64)],
        NodeOutcome::AlreadyWarm | NodeOutcome::Skipped(..) | NodeOutcome::Abandoned => Vec::new(),
    }
}
