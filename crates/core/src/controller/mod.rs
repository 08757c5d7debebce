//! Task controller: what is done for every open `PrewarmTask`.
//!
//! ```text
//!   observations (tasks, plans, nodes, Jobs, pods, results of effects)  ->  ClusterState
//!                                                                               |
//!                                      TaskReconciler::reconcile, one task at a time
//!                                                                               |
//!                                                     effects and measurements  <-+
//! ```
//!
//! Inputs: observations, and the time. Outputs: effects for the API server, and measurements. A new
//! leader continues from the objects in the API server. A panic in the work on one task fails that
//! task. May use `node`, `task` and `worker`.

// Values written by others must not cause a panic: sums saturate, and lookups return `Option`.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

#[cfg(any(test, feature = "test-util"))]
mod batch_fixture;
mod capacity;
mod cluster_state;
mod conditions;
mod dispatch;
mod effect;
mod evaluate;
#[cfg(test)]
mod fault_injection;
mod foreign;
mod gc;
#[cfg(any(test, feature = "test-util"))]
mod harness;
mod measurement;
mod node_check;
mod observation;
mod observe;
mod plan;
mod plan_reconciler;
mod queue;
mod reap;
mod registry_breaker;
mod results;
mod snapshot;
mod status;
mod task_reconciler;
#[cfg(test)]
mod tests;
mod tracker;
mod warm_images;

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

#[cfg(any(test, feature = "test-util"))]
pub use self::{
    batch_fixture::BatchFixture,
    harness::{ControllerHarness, RecordedRequest, SimulatedResponse, sample_settings},
};
use self::{
    capacity::{Capacity, RegistryBudgets, WorkerLimits, WorkerSlot},
    cluster_state::{ClusterState, ObservationReport, RateLimitNotice},
    snapshot::{QueueDecision, Snapshot},
    task_reconciler::TaskReconciler,
    warm_images::WarmImageCache,
};
pub use self::{
    effect::{
        ApplyError, Effect, EffectOutput, PhaseEvent, StatusWrite, TaskRef, WorkerCreation,
        WorkerDeletion,
    },
    foreign::ForeignObject,
    measurement::{Gauges, InternalError, Measurement},
    node_check::{CheckInput, NodeCandidate},
    observation::{
        EffectFinished, Observation, OwnedPlan, Ownership, WatchChange, WatchSource, WorkerPod,
        classify_job, classify_plan, classify_pod, task_of,
    },
};
use crate::{
    task::{
        PrewarmTask,
        caps::{self, Caps},
        plan::BatchSizeBreaker,
    },
    worker::{WorkerInfo, WorkerSettings, retry_after},
};

/// Interval of garbage collection: times to live, retained workers and orphaned workers.
const GC_INTERVAL: SignedDuration = SignedDuration::from_secs(5);
/// Time for which workers of an inactive task still count against the limits, because they are
/// being deleted. A worker that exists for longer, for example because of another controller's
/// finalizer, does not reduce the capacity for other tasks.
const INACTIVE_WORKERS_COUNT_FOR: SignedDuration = SignedDuration::from_secs(60);

/// Namespace in which workers are created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WorkerNamespace {
    /// Namespace of the task, with the task's pull credentials.
    #[default]
    Workload,
    /// Prewarmer's own namespace, for tasks that need no credentials of their namespace.
    Own,
    /// Prewarmer's own namespace, for tasks whose namespace rejects workers and that need no
    /// credentials of it.
    Fallback,
}

/// Limits that keep the tasks of one namespace from delaying those of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FairnessLimits {
    /// Maximum number of tasks of one namespace that run at the same time.
    pub tasks_per_namespace: usize,
    /// Maximum number of workers of all tasks of one namespace.
    pub workers_per_namespace: usize,
    /// Time for which a pulling worker occupies its node exclusively.
    pub exclusive_node_time: Duration,
    /// Number of nodes on which a registry must fail before its concurrency is reduced.
    pub registry_failure_threshold: usize,
    /// Upper bounds of what a task's spec may request.
    pub caps: Arc<Caps>,
}

impl Default for FairnessLimits {
    /// Returns the defaults of the command-line settings.
    fn default() -> Self {
        Self {
            tasks_per_namespace: 10,
            workers_per_namespace: 270,
            exclusive_node_time: Duration::from_secs(60),
            registry_failure_threshold: 3,
            caps: Arc::default(),
        }
    }
}

/// Settings of the task controller.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// Settings from which workers are built.
    pub worker: WorkerSettings,
    /// Maximum number of tasks that run at the same time.
    pub max_concurrent_tasks: usize,
    /// Only namespace that is watched. `None` watches all namespaces.
    pub namespace: Option<String>,
    /// Namespace in which Prewarmer itself runs.
    pub own_namespace: String,
    /// Namespace in which workers are created.
    pub worker_namespace: WorkerNamespace,
    /// With `Fallback`: also create workers in Prewarmer's namespace when a policy rejects them,
    /// not only for a quota or a `LimitRange`.
    pub fallback_on_policy: bool,
    /// Thresholds above which the number of nodes that a task works on at the same time is reduced.
    pub breaker: BatchSizeBreaker,
    /// Enables node checks before nodes are chosen.
    pub node_checks_enabled: bool,
    /// Maximum number of active workers in the cluster.
    pub max_workers: usize,
    /// Limits per namespace.
    pub limits: FairnessLimits,
    /// Maximum number of workers that pull from one registry at the same time.
    pub registry_concurrency: usize,
    /// Time for which a pulled image counts as present on its node.
    pub warm_image_ttl: Duration,
    /// Hosts of registries that allow anonymous pulls of all images. Their images on nodes count as
    /// warm for every namespace.
    pub public_registries: Vec<String>,
    /// Maximum number of retained finished workers in the cluster.
    pub max_retained_workers: usize,
}

/// State that all tasks share.
struct ReconcileContext {
    capacity: Capacity,
    budgets: RegistryBudgets,
    warm_images: WarmImageCache,
    measurements: Vec<Measurement>,
    settings: Arc<ControllerSettings>,
}

impl ReconcileContext {
    fn new(settings: Arc<ControllerSettings>) -> Self {
        Self {
            capacity: Capacity::default(),
            budgets: RegistryBudgets::new(settings.registry_concurrency),
            warm_images: WarmImageCache::new(settings.warm_image_ttl),
            measurements: Vec::new(),
            settings,
        }
    }
}

/// Maximum length of a recorded panic message, in characters.
const MAX_PANIC_MESSAGE: usize = 500;

/// Returns the message of a panic, cut to a bounded length.
#[must_use]
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(MAX_PANIC_MESSAGE).collect()
}

/// Does the work on one object. A panic ends that work only. Values that the work has changed before
/// the panic must not be used again.
pub fn contain<T>(object: impl fmt::Display, work: impl FnOnce() -> T) -> Result<T, InternalError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| InternalError {
        object: object.to_string(),
        message: panic_message(payload.as_ref()),
    })
}

/// Task controller.
pub struct Controller {
    state: ClusterState,
    /// Reconcilers of open tasks, by task UID.
    reconcilers: HashMap<String, TaskReconciler>,
    context: ReconcileContext,
    actions: Vec<(TaskRef, Vec<Effect>)>,
    /// Time at which a task with workers became inactive, by task UID.
    inactive_since: HashMap<String, Timestamp>,
    /// Tasks that are no longer reconciled because ending them panicked too, by UID, with their
    /// generation. Our status writes do not change the generation.
    abandoned: HashMap<String, Option<i64>>,
    last_gc: Option<Timestamp>,
    /// Numbers of tasks by state, from the last reconcile.
    task_counts: TaskCounts,
}

/// Numbers of tasks by state.
#[derive(Debug, Clone, Copy, Default)]
struct TaskCounts {
    running: usize,
    parked: usize,
    waiting: usize,
}

/// Task identification for log messages.
struct TaskDisplay<'a>(&'a PrewarmTask);

impl fmt::Display for TaskDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
        let meta = &self.0.metadata;
        write!(
            f,
            "PrewarmTask {}/{} ({})",
            text(&meta.namespace),
            text(&meta.name),
            text(&meta.uid)
        )
    }
}

impl Controller {
    /// Creates a controller that reconciles nothing until `sources` watches have delivered their
    /// first lists.
    #[must_use]
    pub fn new(sources: usize, settings: Arc<ControllerSettings>) -> Self {
        Self {
            state: ClusterState::new(sources),
            reconcilers: HashMap::new(),
            context: ReconcileContext::new(settings),
            actions: Vec::new(),
            inactive_since: HashMap::new(),
            abandoned: HashMap::new(),
            last_gc: None,
            task_counts: TaskCounts::default(),
        }
    }

    /// Reports whether every watch has delivered its first list. No decision may be made before.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.state.is_synced()
    }

    /// Reports whether tasks are open.
    #[must_use]
    pub fn has_open_tasks(&self) -> bool {
        !self.reconcilers.is_empty()
    }

    /// Returns the effects decided on since the last call.
    #[must_use]
    pub fn take_actions(&mut self) -> Vec<(TaskRef, Vec<Effect>)> {
        std::mem::take(&mut self.actions)
    }

    /// Returns the measurements since the last call.
    #[must_use]
    pub fn take_measurements(&mut self) -> Vec<Measurement> {
        std::mem::take(&mut self.context.measurements)
    }

    /// Returns the networks of all nodes and their pods.
    #[must_use]
    pub fn node_networks(&self) -> Vec<IpNet> {
        self.state.nodes().values().flat_map(|node| node.networks.iter().copied()).collect()
    }

    /// Adds effects to those that [`Self::take_actions`] returns.
    fn act(&mut self, target: &TaskRef, effects: Vec<Effect>) {
        if !effects.is_empty() {
            self.actions.push((target.clone(), effects));
        }
    }

    /// Passes the newest state of an open task to its reconciler, which is created if needed.
    fn update_task(&mut self, uid: &str, task: &PrewarmTask) {
        if self.abandoned.get(uid).is_some_and(|generation| *generation == task.metadata.generation)
        {
            return;
        }
        let (reconcilers, settings) = (&mut self.reconcilers, &self.context.settings);
        let observe = || {
            reconcilers
                .entry(uid.to_owned())
                .or_insert_with(|| TaskReconciler::resume(task, settings))
                .observe_task(task);
        };
        if let Err(error) = contain(TaskDisplay(task), observe) {
            self.context.measurements.push(Measurement::InternalError(error));
            self.fail_task(uid, task);
        }
    }

    /// Fails a task whose reconcile panicked. If failing it panics too, the task is ignored until
    /// its spec changes. A task thus causes two internal errors at most and never affects other
    /// tasks.
    fn fail_task(&mut self, uid: &str, task: &PrewarmTask) {
        let again = self.reconcilers.remove(uid).is_some_and(|run| run.is_broken());
        let broken = contain(TaskDisplay(task), || (!again).then(|| TaskReconciler::broken(task)));
        match broken {
            Ok(Some(run)) => drop(self.reconcilers.insert(uid.to_owned(), run)),
            Ok(None) => drop(self.abandoned.insert(uid.to_owned(), task.metadata.generation)),
            Err(error) => {
                self.context.measurements.push(Measurement::InternalError(error));
                self.abandoned.insert(uid.to_owned(), task.metadata.generation);
            }
        }
    }

    /// Applies a watch event or the result of an effect.
    pub fn handle(&mut self, observation: Observation, now: Timestamp) {
        if let Observation::EffectFinished(EffectFinished { task_uid: uid, effect, result }) =
            observation
        {
            let Some(run) = self.reconcilers.get_mut(&uid) else { return };
            let shared = &mut self.context;
            let done = contain(&uid, || run.effect_finished(&effect, result, shared, now));
            if let Err(error) = done {
                self.context.measurements.push(Measurement::InternalError(error));
                if let Some(task) = self.state.task(&uid).cloned() {
                    self.fail_task(&uid, &task);
                }
            }
            return;
        }
        if let Observation::Node(WatchChange::Applied(node)) = &observation
            && !node.ready
        {
            self.context.warm_images.remove_node(node.identity);
        }
        let ObservationReport { rate_limits, new_foreign } = self.state.apply(observation, now);
        for RateLimitNotice { task_uid, image, message } in rate_limits {
            if let Some(host) =
                self.reconcilers.get(&task_uid).and_then(|run| run.registry_of(image))
            {
                self.context.budgets.reduce(host, retry_after(&message), now);
            }
        }
        // Transient rejections appear in the gauges while they last, and `doctor` lists them. A log
        // message would be a false alarm.
        if let Some((kind, object)) = new_foreign
            && !object.reason.is_transient()
            && self.state.is_synced()
        {
            self.context.measurements.push(Measurement::ForeignObject { kind, object });
        }
    }

    /// Reconciles all open tasks, and collects garbage when it is due.
    pub fn reconcile_all(&mut self, now: Timestamp) {
        let open = self.state.open_tasks();
        self.remove_closed(&open);
        for (uid, task) in &open {
            self.update_task(uid, task);
        }
        self.context.budgets.recover(now);
        self.track_inactive(now);
        self.context.capacity = self.compute_capacity(now);
        let (order, mut turns, counts) = self.admission_order(&open, now);
        self.task_counts = counts;
        let mut failed = Vec::new();
        for uid in order {
            let (Some(task), Some(run)) = (open.get(uid), self.reconcilers.get_mut(uid)) else {
                continue;
            };
            let view = Snapshot {
                nodes: self.state.nodes(),
                workers: self.state.workers_of(uid),
                pods: self.state.pods(),
                plan: self.state.plan_of(uid),
                has_foreign_objects: &|namespace| self.state.has_foreign_objects(namespace, uid),
                queue_decision: turns.remove(uid).unwrap_or(QueueDecision::Admitted),
                now,
            };
            let shared = &mut self.context;
            match contain(TaskDisplay(task), || run.reconcile(task, &view, shared)) {
                Ok(effects) if effects.is_empty() => {}
                Ok(effects) => self.actions.push((run.target().clone(), effects)),
                Err(error) => {
                    self.context.measurements.push(Measurement::InternalError(error));
                    failed.push((uid, task));
                }
            }
        }
        for (uid, task) in failed {
            self.fail_task(uid, task);
        }
        let last_gc = *self.last_gc.get_or_insert(now);
        if now.duration_since(last_gc) >= GC_INTERVAL {
            self.last_gc = Some(now);
            self.collect_garbage(now);
        }
    }

    /// Removes the reconcilers of tasks that are not open any more, and deletes the workers of
    /// deleted tasks. Garbage collection of Kubernetes would do so in the task's namespace, but not
    /// in Prewarmer's own.
    fn remove_closed(&mut self, open: &BTreeMap<String, Arc<PrewarmTask>>) {
        let gone: Vec<String> =
            self.reconcilers.keys().filter(|uid| !open.contains_key(*uid)).cloned().collect();
        self.abandoned.retain(|uid, _| open.contains_key(uid));
        for uid in gone {
            let Some(run) = self.reconcilers.remove(&uid) else { continue };
            if self.state.task(&uid).is_none_or(|task| task.metadata.deletion_timestamp.is_some()) {
                let workers = self.state.workers_of(&uid);
                let effects = gc::delete_workers(workers, self.has_foreign_objects(&uid));
                self.act(run.target(), effects);
            }
        }
    }

    /// Returns a predicate that reports whether a namespace has foreign objects with the labels of
    /// this task's workers.
    fn has_foreign_objects(&self, uid: &str) -> impl Fn(&str) -> bool {
        |namespace| self.state.has_foreign_objects(namespace, uid)
    }

    /// Records since when tasks that have workers are inactive.
    fn track_inactive(&mut self, now: Timestamp) {
        let idle = |uid: &&String| !self.reconcilers.contains_key(*uid);
        self.inactive_since.retain(|uid, _| self.state.workers().contains_key(uid) && idle(&uid));
        for uid in self.state.workers().keys().filter(idle) {
            if !self.inactive_since.contains_key(uid) {
                self.inactive_since.insert(uid.clone(), now);
            }
        }
    }

    /// Computes the capacity for this reconcile, and records for each task whether one of its
    /// workers pulls.
    fn compute_capacity(&mut self, now: Timestamp) -> Capacity {
        let limits = &self.context.settings.limits;
        let alone =
            SignedDuration::try_from(limits.exclusive_node_time).unwrap_or(SignedDuration::MAX);
        let (workers, pods) = (self.state.workers(), self.state.pods());
        let mut seats: Vec<WorkerSlot<'_>> = Vec::new();
        let mut pulling: HashMap<String, usize> = HashMap::new();
        let lingers = |since: &Timestamp| now.duration_since(*since) < INACTIVE_WORKERS_COUNT_FOR;
        let mut at_work = HashSet::new();
        for (uid, _) in self.inactive_since.iter().filter(|(_, since)| lingers(since)) {
            let left = workers.get(uid).into_iter().flat_map(BTreeMap::values);
            let alive = left.filter_map(|worker| {
                task_reconciler::worker_slot(uid, &worker.namespace, worker, pods, now, alone)
            });
            seats.extend(alive.take(self.state.max_active_workers(uid)));
        }
        for (uid, run) in &self.reconcilers {
            let own = run.worker_slots(
                workers.get(uid),
                pods,
                now,
                alone,
                self.state.max_active_workers(uid),
            );
            let nodes: HashSet<&str> = own.iter().map(|seat| seat.node).collect();
            for host in run.hosts() {
                let pulls = pulling.entry(host.clone()).or_default();
                *pulls = pulls.saturating_add(nodes.len());
            }
            if own.iter().any(|seat| seat.holds_node) {
                at_work.insert(uid.clone());
            }
            seats.extend(own);
        }
        let most = WorkerLimits {
            all: self.context.settings.max_workers,
            per_namespace: limits.workers_per_namespace,
        };
        let room = Capacity::new(seats, most, pulling, &self.context.budgets, now);
        for (uid, run) in &mut self.reconcilers {
            run.record_pulling(at_work.contains(uid), now);
        }
        room
    }

    /// Returns all open tasks in the order in which they are reconciled, and the tasks that must
    /// wait to start. A suspended task does not count against the maximum number of tasks.
    fn admission_order<'a>(
        &self,
        open: &'a BTreeMap<String, Arc<PrewarmTask>>,
        now: Timestamp,
    ) -> (Vec<&'a str>, HashMap<&'a str, QueueDecision>, TaskCounts) {
        let limits = &self.context.settings.limits;
        let waiting = |(uid, task): (&'a String, &'a Arc<PrewarmTask>)| queue::QueuedTask {
            uid,
            namespace: task.metadata.namespace.as_deref().unwrap_or_default(),
            priority: caps::effective_priority(&limits.caps, task.spec.priority).0,
            created: task.creation_timestamp().map(|time| time.0),
        };
        let places = queue::TaskLimits {
            all: self.context.settings.max_concurrent_tasks,
            per_namespace: limits.tasks_per_namespace,
        };
        let (mut running, mut candidates) = (Vec::new(), Vec::new());
        for (uid, task) in open.iter().filter(|(_, task)| !task.spec.suspend) {
            let Some(run) = self.reconcilers.get(uid) else { continue };
            if run.takes_task_slot() {
                let namespace = task.metadata.namespace.as_deref().unwrap_or_default();
                running.push(queue::RunningTask { namespace, parked: run.is_parked(now) });
            } else if !run.has_started() {
                candidates.push(waiting((uid, task)));
            }
        }
        let held: Vec<(&str, &str)> =
            candidates.iter().map(|task| (task.uid, task.namespace)).collect();
        let (begin, why) = queue::admit(candidates, &running, places, now);
        let turn = |(uid, namespace): (&'a str, &str)| {
            Some((uid, QueueDecision::Queued(*why.get(namespace)?)))
        };
        let turns: HashMap<&str, QueueDecision> =
            held.into_iter().filter(|(uid, _)| !begin.contains(uid)).filter_map(turn).collect();
        let parked = running.iter().filter(|task| task.parked).count();
        let counts = TaskCounts {
            running: running.len().saturating_sub(parked),
            parked,
            waiting: turns.len(),
        };
        (
            queue::admission_order(
                open.iter().map(waiting).collect(),
                &self.context.capacity.workers_by_namespace(),
                now,
            ),
            turns,
            counts,
        )
    }

    /// Returns the current values of the gauges.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let unreachable: HashSet<&str> =
            self.reconcilers.values().flat_map(TaskReconciler::unreachable_registries).collect();
        let workers = self.state.workers().keys();
        Gauges {
            active_tasks: self.reconcilers.values().filter(|run| run.has_started()).count(),
            running_tasks: self.task_counts.running,
            parked_tasks: self.task_counts.parked,
            waiting_tasks: self.task_counts.waiting,
            unreachable_registries: unreachable.len(),
            limited_registries: self.context.budgets.reduced_count(),
            foreign_objects: self.state.foreign_counts(),
            active_nodes: workers.map(|uid| self.state.active_nodes(uid).count()).sum(),
        }
    }

    /// Collects garbage: ended tasks, their workers, orphaned workers, excess retained workers and
    /// expired entries of the warm image cache.
    fn collect_garbage(&mut self, now: Timestamp) {
        let settings = &self.context.settings;
        let nodes =
            self.state.nodes().values().filter(|node| node.ready && !node.has_disk_pressure());
        let spared: HashSet<u64> = nodes.map(|node| node.identity).collect();
        self.context.warm_images.prune(now, |node| spared.contains(&node));
        let mut actions = Vec::new();
        for (uid, task) in self.state.ended_tasks() {
            let (workers, pods) = (self.state.workers_of(uid), self.state.pods());
            let ended =
                || gc::collect_ended(task, workers, pods, self.has_foreign_objects(uid), now);
            match contain(TaskDisplay(task), ended) {
                Ok(effects) => actions.push((task_reconciler::target(task), effects)),
                Err(error) => self.context.measurements.push(Measurement::InternalError(error)),
            }
        }
        for (uid, workers) in
            self.state.workers().iter().filter(|(uid, _)| self.state.task(uid).is_none())
        {
            if gc::are_orphans(workers, now) {
                let target = TaskRef { uid: uid.clone(), ..TaskRef::default() };
                let foreign = self.has_foreign_objects(uid);
                actions.push((target, gc::delete_workers(Some(workers), foreign)));
            }
        }
        let mut finished = Vec::new();
        for (uid, workers) in self.state.workers() {
            let run = self.reconcilers.get(uid);
            let may_go = |worker: &&WorkerInfo| {
                let recorded = run.is_none_or(|run| run.is_recorded(worker));
                recorded && !worker.deleting && !cluster_state::is_active(worker)
            };
            finished.extend(workers.values().filter(may_go));
        }
        for worker in gc::excess_retained(finished, settings.max_retained_workers) {
            let target = TaskRef { uid: worker.task_uid.clone(), ..TaskRef::default() };
            actions.push((target, vec![Effect::delete_worker(worker)]));
        }
        actions.retain(|(_, effects)| !effects.is_empty());
        self.actions.extend(actions);
    }
}
