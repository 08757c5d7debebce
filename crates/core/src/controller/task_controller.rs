//! Controller of all tasks: passes observations to the cluster state and to the reconciler of each
//! task, and collects the effects of one reconcile of all open tasks.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    cluster_state::{CachedTask, ClusterState, ObservationReport, RateLimitNotice},
    containment::{TaskDisplay, contain},
    context::ReconcileContext,
    effect::{Effect, TaskRef},
    measurement::{Gauges, Measurement},
    observation::{EffectFinished, Observation},
    settings::ControllerSettings,
    snapshot::{QueueDecision, Snapshot},
    task_state::TaskReconciler,
    watch::WatchChange,
};
use crate::{task::PrewarmTask, worker::retry_after};

/// Interval of garbage collection: times to live, retained workers and orphaned workers.
const GC_INTERVAL: SignedDuration = SignedDuration::from_secs(5);

/// Task controller.
pub struct Controller {
    pub(super) state: ClusterState,
    /// Reconcilers of open tasks, by task UID.
    pub(super) reconcilers: HashMap<String, TaskReconciler>,
    pub(super) context: ReconcileContext,
    pub(super) actions: Vec<(TaskRef, Vec<Effect>)>,
    /// Time at which a task with workers became inactive, by task UID.
    pub(super) inactive_since: HashMap<String, Timestamp>,
    /// Tasks that are no longer reconciled because ending them panicked too, by UID, with their
    /// generation. Our status writes do not change the generation.
    pub(super) abandoned: HashMap<String, Option<i64>>,
    pub(super) last_gc: Option<Timestamp>,
    /// Earliest time at which an ended task expires, of those at the last garbage collection.
    pub(super) next_expiry: Timestamp,
    /// Numbers of tasks by state, from the last reconcile.
    pub(super) task_counts: TaskCounts,
}

/// Numbers of tasks by state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TaskCounts {
    pub(super) running: usize,
    pub(super) parked: usize,
    pub(super) waiting: usize,
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
            next_expiry: Timestamp::MIN,
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
                if let Some(task) = self.state.task(&uid).and_then(CachedTask::open).cloned() {
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
                foreign_claim: &|namespace| self.state.foreign_claim(namespace, uid),
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
}
