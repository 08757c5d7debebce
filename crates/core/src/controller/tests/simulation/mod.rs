//! Simulated cluster: applies effects to values in memory, and asserts the invariants that hold at
//! any time.

mod api_server;
mod cluster;
mod events;
mod garbage_collector;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::super::{
    capacity::{Capacity, WorkerLimits, WorkerSlot},
    cluster_state::ClusterState,
    context::ReconcileContext,
    effect::ApplyError,
    harness::sample_settings,
    propagation::Propagation,
    settings::{ControllerSettings, WorkerNamespace},
    snapshot::{QueueDecision, Snapshot},
    task_state::TaskReconciler,
    worker_cache::{Pods, Workers, is_active},
};
use crate::{
    node::NodeInfo,
    task::{Phase, PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec, WorkerKind},
    worker::{PodInfo, WorkerInfo, WorkerSettings},
};

use self::garbage_collector::GarbageCollector;

pub(super) use self::cluster::{ClusterSimulation, Responses};

/// Object that waits for the garbage collector.
#[derive(Debug, Clone)]
enum Terminating {
    /// Worker that is deleted after its pod, by its key.
    Worker(String),
    /// Pod of a Job that was deleted before it, with the Job.
    Pod(Box<WorkerInfo>, Box<PodInfo>),
}

/// Result of a worker's pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PodResult {
    /// All images pulled.
    Success,
    /// Images with an even index do not exist.
    Permanent,
    /// Registry of the images with an even index does not answer.
    Transient,
    /// Pod rejected by the kubelet.
    Rejected,
}

pub(super) struct Simulation {
    pub(super) task: PrewarmTask,
    pub(super) nodes: BTreeMap<String, NodeInfo>,
    pub(super) workers: Workers,
    pub(super) pods: Pods,
    pub(super) plan: Option<Arc<PrewarmPlanSpec>>,
    pub(super) reconciler: TaskReconciler,
    pub(super) shared: ReconcileContext,
    pub(super) now: Timestamp,
    pub(super) lose_responses: bool,
    /// Rejection of creations by the API server, if any.
    pub(super) rejection: Option<ApplyError>,
    /// Writes that the API server does not store: `plan`, `status` (with results), `end` (any final
    /// status).
    pub(super) unstorable: Vec<&'static str>,
    /// Number of requested writes that the API server did not store.
    pub(super) unstored_writes: usize,
    /// Nodes in use by another task.
    pub(super) busy_nodes: HashSet<String>,
    /// Nodes that a later batch may overtake: they were in use by another task, their Job got its pod
    /// only after the node had ended because pods were rejected, or they were deleted while their
    /// worker ran.
    overtaken_nodes: HashSet<String>,
    /// Images that pods have pulled: node, and index of the image.
    pub(super) pulled: HashSet<(String, u16)>,
    /// True when Jobs get pods.
    pub(super) creates_pods: bool,
    /// Number of creations of each worker, less the deletions by other users.
    creations: HashMap<String, usize>,
    /// Start of each attempt on a node. The timeout counts from it, for all parts of the images.
    attempt_starts: HashMap<(String, u8), Timestamp>,
    garbage_collector: GarbageCollector<Terminating>,
    /// Requests that delete one worker, by its node, or many workers.
    pub(super) deletions: Vec<(Option<String>, Propagation)>,
    /// Number of dry runs that were requested.
    pub(super) dry_runs: usize,
    /// True when no Job becomes finished.
    pub(super) job_controller_stopped: bool,
    /// All creations in order: node, and batch label.
    pub(super) history: Vec<(String, u32)>,
    pub(super) events: Vec<Phase>,
    pub(super) writes: Vec<Timestamp>,
    /// Cluster state that checks the provenance of forged objects.
    cluster_state: ClusterState,
    forged: u64,
    version: u64,
    sequence: u64,
}

impl Simulation {
    pub(super) fn new(nodes: usize, spec: PrewarmTaskSpec) -> Self {
        Self::with_settings(nodes, spec, settings())
    }

    pub(super) fn with_settings(
        nodes: usize,
        spec: PrewarmTaskSpec,
        settings: ControllerSettings,
    ) -> Self {
        let node = |n: usize| {
            let name = format!("n{n:02}");
            let facts = NodeInfo::sample(&name);
            (name, facts)
        };
        let mut task = PrewarmTask::new("t", spec);
        task.metadata.uid = Some("uid".into());
        task.metadata.namespace = Some("shop".into());
        task.metadata.resource_version = Some("1".into());
        Self {
            reconciler: TaskReconciler::resume(&task, &settings),
            task,
            nodes: (0..nodes).map(node).collect(),
            workers: Workers::new(),
            pods: Pods::new(),
            plan: None,
            shared: ReconcileContext::new(Arc::new(settings)),
            now: Timestamp::from_second(1_000_000).unwrap(),
            lose_responses: false,
            rejection: None,
            unstorable: Vec::new(),
            unstored_writes: 0,
            busy_nodes: HashSet::new(),
            overtaken_nodes: HashSet::new(),
            pulled: HashSet::new(),
            creates_pods: true,
            creations: HashMap::new(),
            attempt_starts: HashMap::new(),
            garbage_collector: GarbageCollector::new(0),
            deletions: Vec::new(),
            dry_runs: 0,
            job_controller_stopped: false,
            history: Vec::new(),
            events: Vec::new(),
            writes: Vec::new(),
            cluster_state: ClusterState::new(5),
            forged: 0,
            version: 1,
            sequence: 0,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.task.phase()
    }

    pub(super) fn node_states(&self) -> &str {
        self.task.status.as_ref().map_or("", |status| &status.node_states)
    }

    pub(super) fn is_running(&self, key: &str) -> bool {
        is_active(&self.workers[key])
    }

    pub(super) fn running_workers(&self) -> usize {
        self.workers.keys().filter(|key| self.is_running(key)).count()
    }

    /// Runs one reconcile and applies its effects.
    pub(super) fn reconcile(&mut self) {
        if self.phase().is_terminal() {
            return;
        }
        self.collect_garbage();
        self.reconciler.observe_task(&self.task);
        let ControllerSettings { max_workers, limits, .. } = &*self.shared.settings;
        let most = WorkerLimits { all: *max_workers, per_namespace: limits.workers_per_namespace };
        let pulling = self
            .reconciler
            .hosts()
            .iter()
            .map(|host| (host.clone(), self.running_workers()))
            .collect();
        let alone = SignedDuration::try_from(limits.exclusive_node_time).unwrap();
        let mut seats = self.reconciler.worker_slots(
            Some(&self.workers),
            &self.pods,
            self.now,
            alone,
            usize::MAX,
        );
        let other = |node| WorkerSlot { node, namespace: "bank", task: "other", holds_node: true };
        seats.extend(self.busy_nodes.iter().map(String::as_str).map(other));
        self.shared.capacity = Capacity::new(seats, most, pulling, &self.shared.budgets, self.now);
        let view = Snapshot {
            nodes: &self.nodes,
            workers: Some(&self.workers),
            pods: &self.pods,
            plan: self.plan.as_ref(),
            foreign_claim: &|namespace| self.cluster_state.foreign_claim(namespace, "uid"),
            queue_decision: QueueDecision::Admitted,
            now: self.now,
        };
        let effects = self.reconciler.reconcile(&self.task, &view, &mut self.shared);
        for effect in effects {
            let result = self.apply_effect(&effect);
            let lost = self.lose_responses && result.is_ok();
            let result = if lost { Err(ApplyError::Transient("lost".into())) } else { result };
            self.reconciler.effect_finished(&effect, result, &mut self.shared, self.now);
        }
        self.lose_responses = false;
        self.assert_limits();
        if !self.job_controller_stopped {
            self.mark_finished(WorkerKind::Job);
        }
    }

    /// Removes objects between two reconciles, some rounds after the request to delete them.
    fn collect_garbage(&mut self) {
        for object in self.garbage_collector.end_round() {
            match object {
                Terminating::Worker(key) => {
                    if self.workers.get(&key).is_some_and(|worker| worker.deleting) {
                        self.workers.remove(&key);
                        self.pods.remove(&key);
                    }
                }
                Terminating::Pod(job, pod) => {
                    let key = job.key();
                    if self.pods.get(&key).is_some_and(|known| known.name == pod.name) {
                        self.pods.remove(&key);
                    }
                }
            }
        }
    }

    /// Delays the garbage collector by up to this number of reconciles for each object.
    pub(super) fn delay_garbage_collector(&mut self, reconciles: u8) {
        self.garbage_collector = GarbageCollector::new(reconciles);
    }

    fn assert_limits(&self) {
        let Some(plan) = &self.plan else { return };
        assert!(
            self.running_workers() <= plan.at_once as usize,
            "{} running workers",
            self.running_workers()
        );
        let nodes: Vec<&str> =
            self.workers.values().filter(|w| is_active(w)).map(|w| w.node.as_str()).collect();
        let distinct: HashSet<&str> = nodes.iter().copied().collect();
        assert_eq!(distinct.len(), nodes.len(), "two workers on one node: {nodes:?}");
    }

    pub(super) fn advance_time(&mut self, milliseconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_millis(milliseconds)).unwrap();
    }

    /// Lets all pending work succeed until the task has ended.
    pub(super) fn run_to_end(&mut self) {
        self.task.spec.suspend = false;
        self.busy_nodes.clear();
        self.accept_pods();
        for _ in 0..3000 {
            if self.phase().is_terminal() {
                return;
            }
            self.finish_pod(PodResult::Success);
            self.advance_time(600);
            self.reconcile();
        }
        panic!("the task did not end: {:#?}\n{:#?}", self.task.status, self.workers);
    }

    /// Reconciles repeatedly for some seconds, in which no pod reaches a result.
    pub(super) fn wait(&mut self, seconds: i64) {
        for _ in 0..seconds * 4 {
            self.advance_time(250);
            self.reconcile();
        }
    }
}

/// Returns the settings of the tests.
pub(in crate::controller) fn settings() -> ControllerSettings {
    let samples = sample_settings();
    ControllerSettings {
        worker: WorkerSettings { images_per_pod: 2, ..samples.worker },
        worker_namespace: WorkerNamespace::Workload,
        public_registries: Vec::new(),
        ..samples
    }
}
