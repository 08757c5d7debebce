//! Task controller: reconciles every open `PrewarmTask` on the leader.
//!
//! ```text
//!   watches (tasks, plans, nodes, Jobs, pods)  ->  ClusterState
//!                                                       |
//!                    TaskReconciler::reconcile (pure), one task at a time
//!                                                       |
//!   Executor (the only code that writes)  <-- effects --+
//!        '--> results of effects, next to the events of the watches
//! ```
//!
//! Inputs: watch events and results of effects. Outputs: plans, workers, statuses, Events and
//! deletions. A new leader continues from the objects in the API server.
//!
//! May call `health`, `leader`, `node`, `task` and `worker`.

// Values written by others must not cause a panic: sums saturate, and lookups return `Option`.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod batch_fixture;
mod capacity;
mod clock;
mod cluster_state;
mod conditions;
mod credential_check;
mod effect;
mod evaluate;
mod executor;
#[cfg(test)]
mod fault_injection;
mod foreign;
mod gc;
mod harness;
mod observation;
mod plan_reconciler;
mod queue;
mod registry_breaker;
mod results;
mod snapshot;
mod task_reconciler;
#[cfg(test)]
mod tests;
mod tracker;
mod warm_images;
mod watches;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Client, ResourceExt};
use prewarmer_core::{
    task::{
        PrewarmTask,
        caps::{self, Caps},
        plan::BatchSizeBreaker,
    },
    worker::{WorkerInfo, WorkerSettings, retry_after},
};
use tokio::{sync::mpsc, time::Instant};

#[doc(hidden)]
pub use self::{
    batch_fixture::BatchFixture,
    harness::{ControllerHarness, RecordedRequest, SimulatedResponse},
};
use self::{
    capacity::{Capacity, RegistryBudgets, WorkerLimits, WorkerSlot},
    clock::ServerClock,
    cluster_state::{ClusterState, ObservationReport, RateLimitNotice},
    effect::{Effect, TaskRef},
    executor::{ApiExecutor, Executor},
    observation::{EffectFinished, Observation, WatchChange},
    snapshot::{QueueDecision, Snapshot},
    task_reconciler::TaskReconciler,
    warm_images::WarmImageCache,
};
use crate::{
    egress,
    leader::{Heartbeat, Term},
    metrics::Metrics,
    node_checks::NodeChecks,
    supervise::{ComponentFailure, WorkKind, catch_panic},
};

/// Time during which arriving events are coalesced before a reconcile. 100 pods of a batch change
/// within it.
const COALESCE_WINDOW: Duration = Duration::from_millis(50);
/// Interval of reconciles while tasks are active, for timeouts and delayed writes. A reconcile
/// without changes sends no request.
const ACTIVE_INTERVAL: Duration = Duration::from_millis(250);
/// Interval of reconciles without active tasks and events, for the heartbeat. Sends no request.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of garbage collection: times to live, retained workers and orphaned workers.
const GC_INTERVAL: Duration = Duration::from_secs(5);
/// Time for which workers of an inactive task still count against the limits, because they are
/// being deleted. A worker that exists for longer, for example because of another controller's
/// finalizer, does not reduce the capacity for other tasks.
const INACTIVE_WORKERS_COUNT_FOR: SignedDuration = SignedDuration::from_secs(60);
/// Shortest interval between two log messages about foreign objects.
const FOREIGN_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Interval at which node addresses are passed to `egress`. One update takes 2 ms for 5,000 nodes.
const ADDRESS_REFRESH_INTERVAL: Duration = Duration::from_secs(15);
/// Capacity of the event queue. A re-list of 5,000 nodes and their pods is a single event.
const EVENT_QUEUE_CAPACITY: usize = 10_000;

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
    /// Receiver of the addresses of nodes and their pods, for the egress policy.
    pub egress_cluster: egress::ClusterNetworks,
}

/// State that all tasks share.
struct ReconcileContext {
    capacity: Capacity,
    budgets: RegistryBudgets,
    warm_images: WarmImageCache,
    metrics: Arc<Metrics>,
    settings: Arc<ControllerSettings>,
}

impl ReconcileContext {
    fn new(settings: Arc<ControllerSettings>, metrics: Arc<Metrics>) -> Self {
        Self {
            capacity: Capacity::default(),
            budgets: RegistryBudgets::new(settings.registry_concurrency),
            warm_images: WarmImageCache::new(settings.warm_image_ttl),
            metrics,
            settings,
        }
    }
}

/// Reconciles tasks until the term ends, and sends a heartbeat after each pass. Returns when all
/// watches have stopped and all requests have completed or were aborted. Fails when a watch stops
/// before the end of the term.
pub async fn run(
    client: Client,
    settings: ControllerSettings,
    checks: Arc<NodeChecks>,
    metrics: Arc<Metrics>,
    heartbeat: Heartbeat,
    term: Term,
) -> Result<(), ComponentFailure> {
    let settings = Arc::new(settings);
    let (events, mut inbox) = mpsc::channel(EVENT_QUEUE_CAPACITY);
    let mut watches = watches::start(&client, &settings, &events, &metrics, term.cancellation());
    let asked = async {
        tokio::join!(
            ServerClock::from_api_server(&client),
            credential_check::warn_about_pull_secrets(&client, &settings)
        )
        .0
    };
    let Some(clock) = term.run(asked).await else {
        watches.stopped().await;
        return Ok(());
    };
    let cluster = ApiExecutor::new(client, events, Arc::clone(&metrics), checks, term.clone());
    let executor = Executor::Api(Box::new(cluster));
    let mut controller = Controller::new(executor, watches.count, settings, metrics, clock);
    let result = loop {
        let event = tokio::select! {
            () = term.cancellation().cancelled() => break Ok(()),
            failure = watches.failed() => break if term.is_active() { Err(failure) } else { Ok(()) },
            event = inbox.recv() => event,
            () = tokio::time::sleep(ACTIVE_INTERVAL), if !controller.reconcilers.is_empty() => None,
            () = tokio::time::sleep(IDLE_INTERVAL) => None,
        };
        if let Some(event) = event {
            controller.handle(event);
            tokio::time::sleep(COALESCE_WINDOW).await;
        }
        while let Ok(event) = inbox.try_recv() {
            controller.handle(event);
        }
        if !term.is_active() {
            break Ok(());
        }
        if controller.state.is_synced() {
            controller.reconcile_all();
        }
        heartbeat.beat();
        controller.context.metrics.last_reconcile.set(Timestamp::now().as_second());
    };
    term.end();
    controller.executor.drained().await;
    watches.stopped().await;
    result
}

struct Controller {
    executor: Executor,
    state: ClusterState,
    /// Reconcilers of open tasks, by task UID.
    reconcilers: HashMap<String, TaskReconciler>,
    context: ReconcileContext,
    clock: ServerClock,
    /// Time at which a task with workers became inactive, by task UID.
    inactive_since: HashMap<String, Timestamp>,
    /// Tasks that are no longer reconciled because ending them panicked too, by UID, with their
    /// generation. Our status writes do not change the generation.
    abandoned: HashMap<String, Option<i64>>,
    last_gc: Instant,
    /// Time of the last log message about a foreign object.
    last_foreign_log: Option<Instant>,
    last_address_refresh: Option<Instant>,
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
    fn new(
        executor: Executor,
        sources: usize,
        settings: Arc<ControllerSettings>,
        metrics: Arc<Metrics>,
        clock: ServerClock,
    ) -> Self {
        Self {
            executor,
            state: ClusterState::new(sources),
            reconcilers: HashMap::new(),
            context: ReconcileContext::new(settings, metrics),
            clock,
            inactive_since: HashMap::new(),
            abandoned: HashMap::new(),
            last_gc: Instant::now(),
            last_foreign_log: None,
            last_address_refresh: None,
        }
    }

    /// Passes the newest state of an open task to its reconciler, which is created if needed.
    fn update_task(&mut self, uid: &str, task: &PrewarmTask) {
        if self.abandoned.get(uid).is_some_and(|generation| *generation == task.metadata.generation)
        {
            return;
        }
        let (runs, metrics) = (&mut self.reconcilers, Arc::clone(&self.context.metrics));
        let settings = &self.context.settings;
        let see = || {
            runs.entry(uid.to_owned())
                .or_insert_with(|| TaskReconciler::resume(task, settings))
                .observe_task(task);
        };
        if catch_panic(&metrics, WorkKind::Task, TaskDisplay(task), see).is_none() {
            self.fail_task(uid, task);
        }
    }

    /// Fails a task whose reconcile panicked. If failing it panics too, the task is ignored until
    /// its spec changes. A task thus causes two internal errors at most and never affects other
    /// tasks.
    fn fail_task(&mut self, uid: &str, task: &PrewarmTask) {
        let again = self.reconcilers.remove(uid).is_some_and(|run| run.is_broken());
        let broken = || (!again).then(|| TaskReconciler::broken(task));
        let broken =
            catch_panic(&self.context.metrics, WorkKind::Task, TaskDisplay(task), broken).flatten();
        match broken {
            Some(run) => drop(self.reconcilers.insert(uid.to_owned(), run)),
            None => drop(self.abandoned.insert(uid.to_owned(), task.metadata.generation)),
        }
    }

    fn handle(&mut self, observation: Observation) {
        let now = self.clock.now();
        if let Observation::EffectFinished(EffectFinished { task_uid: uid, effect, result }) =
            observation
        {
            let Some(run) = self.reconcilers.get_mut(&uid) else { return };
            let (metrics, shared) = (Arc::clone(&self.context.metrics), &mut self.context);
            let done = catch_panic(&metrics, WorkKind::Task, &uid, || {
                run.effect_finished(&effect, result, shared, now);
            });
            if let (None, Some(task)) = (done, self.state.task(&uid).cloned()) {
                self.fail_task(&uid, &task);
            }
            return;
        }
        if let Observation::Node(WatchChange::Applied(node)) = &observation
            && !node.ready
        {
            self.context.warm_images.remove_node(node.identity);
        }
        let ObservationReport { rate_limits: complaints, new_foreign: stranger } =
            self.state.apply(observation, now);
        for RateLimitNotice { task_uid, image, message } in complaints {
            if let Some(host) =
                self.reconcilers.get(&task_uid).and_then(|run| run.registry_of(image))
            {
                self.context.budgets.reduce(host, retry_after(&message), now);
            }
        }
        // Transient rejections appear in the metric while they last, and `doctor` lists them. A log
        // message would be a false alarm.
        if let Some((kind, stranger)) = stranger
            && !stranger.reason.is_transient()
            && self.state.is_synced()
            && self.last_foreign_log.is_none_or(|told| told.elapsed() >= FOREIGN_LOG_INTERVAL)
        {
            self.last_foreign_log = Some(Instant::now());
            tracing::warn!(
                kind,
                object = stranger.key,
                reason = stranger.reason.as_str(),
                "{}: ignored an object with the labels of Prewarmer's workers that Prewarmer did not create; `prewarmer doctor` lists all such objects",
                stranger.reason.description()
            );
        }
    }

    /// Passes the addresses of nodes to `egress`, before the first request to a registry.
    fn refresh_addresses(&mut self) {
        if self.last_address_refresh.is_none_or(|at| at.elapsed() >= ADDRESS_REFRESH_INTERVAL) {
            self.last_address_refresh = Some(Instant::now());
            let networks =
                self.state.nodes().values().flat_map(|node| node.networks.iter().copied());
            self.context.settings.egress_cluster.set_nodes(&networks.collect::<Vec<_>>());
        }
    }

    fn reconcile_all(&mut self) {
        let now = self.clock.now();
        self.refresh_addresses();
        let open = self.state.open_tasks();
        self.remove_closed(&open);
        for (uid, task) in &open {
            self.update_task(uid, task);
        }
        self.context.budgets.recover(now);
        self.track_inactive(now);
        self.context.capacity = self.compute_capacity(now);
        let (order, mut turns) = self.admission_order(&open, now);
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
            let (metrics, shared) = (Arc::clone(&self.context.metrics), &mut self.context);
            match catch_panic(&metrics, WorkKind::Task, TaskDisplay(task), || {
                run.reconcile(task, &view, shared)
            }) {
                Some(effects) => self.executor.spawn(run.target(), effects),
                None => failed.push((uid, task)),
            }
        }
        for (uid, task) in failed {
            self.fail_task(uid, task);
        }
        self.update_metrics();
        if self.last_gc.elapsed() >= GC_INTERVAL {
            self.last_gc = Instant::now();
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
                self.executor.spawn(
                    run.target(),
                    gc::delete_workers(workers, self.has_foreign_objects(&uid)),
                );
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
    ) -> (Vec<&'a str>, HashMap<&'a str, QueueDecision>) {
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
        let metrics = &self.context.metrics;
        for (state, number) in [
            ("running", running.iter().filter(|task| !task.parked).count()),
            ("parked", running.iter().filter(|task| task.parked).count()),
            ("waiting", turns.len()),
        ] {
            metrics
                .tasks_by_state
                .with_label_values(&[state])
                .set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        (
            queue::admission_order(
                open.iter().map(waiting).collect(),
                &self.context.capacity.workers_by_namespace(),
                now,
            ),
            turns,
        )
    }

    fn update_metrics(&self) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let metrics = &self.context.metrics;
        metrics
            .active_tasks
            .set(count(self.reconcilers.values().filter(|run| run.has_started()).count()));
        let silent: HashSet<&str> =
            self.reconcilers.values().flat_map(TaskReconciler::unreachable_registries).collect();
        metrics.registries_unreachable.set(count(silent.len()));
        metrics.registries_limited.set(count(self.context.budgets.reduced_count()));
        metrics.foreign_objects.reset();
        for ((kind, reason), number) in self.state.foreign_counts() {
            metrics.foreign_objects.with_label_values(&[kind, reason.as_str()]).set(count(number));
        }
        metrics.jobs_active.set(count(
            self.state.workers().keys().map(|uid| self.state.active_nodes(uid).count()).sum(),
        ));
    }

    /// Collects garbage: ended tasks, their workers, orphaned workers, excess retained workers and
    /// expired entries of the warm image cache.
    fn collect_garbage(&mut self, now: Timestamp) {
        let settings = &self.context.settings;
        let nodes =
            self.state.nodes().values().filter(|node| node.ready && !node.has_disk_pressure());
        let spared: HashSet<u64> = nodes.map(|node| node.identity).collect();
        self.context.warm_images.prune(now, |node| spared.contains(&node));
        for (uid, task) in self.state.ended_tasks() {
            let (workers, pods) = (self.state.workers_of(uid), self.state.pods());
            let ended =
                || gc::collect_ended(task, workers, pods, self.has_foreign_objects(uid), now);
            if let Some(effects) =
                catch_panic(&self.context.metrics, WorkKind::Task, TaskDisplay(task), ended)
            {
                self.executor.spawn(&task_reconciler::target(task), effects);
            }
        }
        for (uid, workers) in
            self.state.workers().iter().filter(|(uid, _)| self.state.task(uid).is_none())
        {
            if gc::are_orphans(workers, now) {
                let target = TaskRef { uid: uid.clone(), ..TaskRef::default() };
                self.executor.spawn(
                    &target,
                    gc::delete_workers(Some(workers), self.has_foreign_objects(uid)),
                );
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
            self.executor.spawn(&target, vec![Effect::delete_worker(worker)]);
        }
    }
}
