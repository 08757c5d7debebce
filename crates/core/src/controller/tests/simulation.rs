//! Simulated cluster: applies effects to values in memory, and asserts the invariants that hold at
//! any time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    node::{Interner, NodeInfo},
    task::{
        BatchPolicy, Phase, PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec, WorkerKind,
        batches::NodeState,
    },
    worker::{
        Assignment, ContainerInfo, ContainerState, PodInfo, PodPhase, WorkerInfo, WorkerObject,
        WorkerSettings, build,
        provenance::{self, AllowedNamespaces},
    },
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::json;

use super::super::{
    ControllerSettings, WorkerNamespace,
    capacity::{Capacity, WorkerLimits, WorkerSlot},
    classify::{classify_job, classify_pod},
    cluster_state::ClusterState,
    context::ReconcileContext,
    effect::{ApplyError, Effect, EffectOutput, WorkerCreation},
    observation::Observation,
    sample_settings,
    snapshot::{QueueDecision, Snapshot},
    task_state::TaskReconciler,
    watch::{WatchChange, WatchSource},
    worker_cache::{Pods, Workers, is_active, may_pull},
};

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
    /// Nodes that were ever in use by another task.
    ever_busy_nodes: HashSet<String>,
    /// True when Jobs get pods.
    pub(super) creates_pods: bool,
    /// Number of creations of each worker, less the deletions by other users.
    creations: HashMap<String, usize>,
    /// Start of each attempt on a node. The timeout counts from it, for all parts of the images.
    attempt_starts: HashMap<(String, u8), Timestamp>,
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
            ever_busy_nodes: HashSet::new(),
            creates_pods: true,
            creations: HashMap::new(),
            attempt_starts: HashMap::new(),
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
        // Objects with a deletion timestamp are removed between two reconciles.
        let gone: Vec<String> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.deleting)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.workers.remove(&key);
            self.pods.remove(&key);
        }
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
            has_foreign_objects: &|namespace| {
                self.cluster_state.has_foreign_objects(namespace, "uid")
            },
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
        self.mark_finished(WorkerKind::Job);
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

    /// Reports whether the API server refuses to store the effect.
    fn is_unstorable(&self, effect: &Effect) -> bool {
        let has = |what: &str| self.unstorable.contains(&what);
        match effect {
            Effect::CreatePlan(_) => has("plan"),
            Effect::WriteStatus(write) if write.status.phase.is_terminal() => has("end"),
            Effect::WriteStatus(write) => has("status") && !write.status.node_states.is_empty(),
            _ => false,
        }
    }

    fn apply_effect(&mut self, effect: &Effect) -> Result<EffectOutput, ApplyError> {
        if self.is_unstorable(effect) {
            self.unstored_writes += 1;
            return Err(ApplyError::Unstorable("spec: Too long".into()));
        }
        match effect {
            Effect::CheckNodes(_) => unreachable!("the settings enable no node checks"),
            Effect::CreatePlan(plan) => {
                self.plan.get_or_insert_with(|| Arc::clone(plan));
            }
            Effect::CreateWorker(worker) => return self.create_worker(worker),
            Effect::DryRun(_) => {
                return self.rejection.clone().map_or(Ok(EffectOutput::default()), Err);
            }
            Effect::DeleteWorker(doomed) => {
                let super::super::effect::WorkerDeletion { namespace, name, uid, .. } = &**doomed;
                self.delete_workers(|worker| {
                    (&worker.namespace, &worker.name, &worker.uid) == (namespace, name, uid)
                });
            }
            Effect::DeleteWorkers(_, namespace, batch) => {
                self.delete_workers(|worker| {
                    worker.namespace == *namespace
                        && batch.is_none_or(|batch| worker.batch == batch)
                });
            }
            Effect::WriteStatus(write) => return Ok(self.write_status(write)),
            Effect::DeleteTask(_) => unreachable!("a reconcile never deletes its task"),
        }
        Ok(EffectOutput::default())
    }

    fn write_status(&mut self, write: &super::super::effect::StatusWrite) -> EffectOutput {
        assert!(!self.phase().is_terminal(), "a final phase changed to {:?}", write.status.phase);
        for (index, letter) in self.node_states().bytes().enumerate() {
            // A short status has no node states.
            let Some(after) = write.status.node_states.as_bytes().get(index).copied() else {
                continue;
            };
            let is_final = NodeState::from_byte(letter).is_final();
            assert!(
                !is_final || after == letter,
                "node {index} ended as {} and as {}",
                letter as char,
                after as char
            );
        }
        if let Some(last) = self.writes.last() {
            assert!(
                self.now.duration_since(*last).as_millis() >= 1000,
                "two writes within a second"
            );
        }
        self.writes.push(self.now);
        for told in &write.events {
            if !self.events.contains(&told.phase) {
                self.events.push(told.phase);
            }
        }
        self.version += 1;
        self.task.status = Some(write.status.clone());
        self.task.metadata.resource_version = Some(self.version.to_string());
        EffectOutput { resource_version: self.task.resource_version(), check_results: None }
    }

    fn create_worker(&mut self, creation: &WorkerCreation) -> Result<EffectOutput, ApplyError> {
        let is_job = creation.kind == WorkerKind::Job;
        let places = AllowedNamespaces { own: Some(self.shared.settings.own_namespace.clone()) };
        let facts = if is_job {
            provenance::verify_job(&serde_json::from_slice(&creation.body).unwrap(), &places)
                .unwrap()
        } else {
            provenance::verify_pod(&serde_json::from_slice(&creation.body).unwrap(), &places)
                .unwrap()
                .worker
        };
        provenance::verify_against_task(&facts, &self.task).unwrap();
        if let Some(refusal) =
            self.rejection.clone().filter(|_| !is_job && facts.namespace == "shop")
        {
            return Err(refusal);
        }
        let key = facts.key();
        if self.workers.contains_key(&key) {
            return Ok(EffectOutput::default());
        }
        self.assert_may_create(&facts);
        self.history.push((facts.node.clone(), facts.batch));
        self.attempt_starts.entry((facts.node.clone(), facts.attempt)).or_insert(self.now);
        *self.creations.entry(key.clone()).or_default() += 1;
        assert_eq!(self.creations[&key], 1, "{key} was created twice");
        if self.creates_pods || facts.namespace != "shop" {
            self.sequence += 1;
            let container = |image: &u16| ContainerInfo {
                image_index: *image,
                state: ContainerState::waiting("ContainerCreating", ""),
                image_id: None,
            };
            let pod = PodInfo {
                namespace: facts.namespace.clone(),
                name: format!("{:06}", self.sequence),
                worker: facts.name.clone(),
                task_uid: facts.task_uid.clone(),
                containers: facts.images.iter().map(container).collect(),
                ..PodInfo::default()
            };
            self.pods.insert(key.clone(), pod);
        }
        self.sequence += 1;
        let uid = format!("worker-{}", self.sequence).into();
        self.workers.insert(
            key,
            WorkerInfo { created: Some(self.now), first_seen: Some(self.now), uid, ..facts },
        );
        Ok(EffectOutput::default())
    }

    /// Asserts that no ended node is started again, and that a batch waits for the one before it.
    fn assert_may_create(&self, worker: &WorkerInfo) {
        let plan = self.plan.as_ref().expect("the plan precedes the workers");
        let index = plan
            .nodes
            .iter()
            .position(|node| *node == worker.node)
            .expect("the node is in the plan");
        let letter = self
            .node_states()
            .as_bytes()
            .get(index)
            .map_or(NodeState::Waiting, |l| NodeState::from_byte(*l));
        assert!(
            !letter.is_final(),
            "{} was warmed again after its result was recorded",
            worker.node
        );
        assert!(
            !self.busy_nodes.contains(&worker.node),
            "{} is in use by another task",
            worker.node
        );
        let in_line = |node: &String| !self.ever_busy_nodes.contains(node);
        if self.task.spec.batch_policy == BatchPolicy::Barrier
            && worker.attempt == 0
            && in_line(&worker.node)
        {
            let first = index / plan.at_once as usize * plan.at_once as usize;
            let earlier = |other: &&WorkerInfo| {
                other.attempt == 0
                    && in_line(&other.node)
                    && plan.nodes[..first].contains(&other.node)
                    && !other.deleting
            };
            let open = |other: &WorkerInfo| {
                let pod = &self.pods.get(&other.key());
                pod.is_some_and(|pod| {
                    pod.containers
                        .iter()
                        .all(|c| c.state == ContainerState::waiting("ContainerCreating", ""))
                }) && self.nodes.get(&other.node).is_some_and(|node| node.unready_since.is_none())
            };
            // Nodes that have timed out do not count.
            let in_time = |other: &&WorkerInfo| {
                let begun = self.attempt_starts[&(other.node.clone(), other.attempt)];
                self.now.duration_since(begun).as_secs() < 60
            };
            let mut at_work = self.workers.values().filter(earlier).filter(in_time);
            let begun = at_work.find(|other| may_pull(other, &self.pods) && open(other));
            assert!(begun.is_none(), "{} was started while {begun:?} was running", worker.node);
        }
    }

    fn delete_workers(&mut self, which: impl Fn(&WorkerInfo) -> bool) {
        let letters = self.node_states().as_bytes().to_vec();
        let nodes = self.plan.as_ref().map(|plan| plan.nodes.clone()).unwrap_or_default();
        for worker in self.workers.values_mut().filter(|worker| which(worker)) {
            let index = nodes.iter().position(|node| *node == worker.node);
            let letter = index
                .and_then(|index| letters.get(index))
                .map_or(NodeState::Waiting, |l| NodeState::from_byte(*l));
            let recorded = letter.is_final() || letter.attempt() > worker.attempt;
            let elsewhere = self.shared.settings.worker_namespace == WorkerNamespace::Fallback;
            // A worker that conflicts with the node's further parts is deleted earlier. A crash
            // then repeats its part.
            let in_parts = self.task.spec.images.len() > self.shared.settings.worker.images_per_pod;
            assert!(
                recorded || self.task.spec.cancel || elsewhere || in_parts,
                "{} was deleted before its result was recorded",
                worker.node
            );
            if !recorded {
                self.creations.remove(&worker.key());
            }
            worker.deleting = true;
        }
    }

    /// Lets every newly created pod reach the same result.
    pub(super) fn finish_new_pods(&mut self, outcome: PodResult) {
        let new = |pod: &&PodInfo| {
            pod.containers
                .iter()
                .all(|c| c.state == ContainerState::waiting("ContainerCreating", ""))
        };
        let mut names: Vec<String> =
            self.pods.values().filter(new).map(|pod| pod.name.clone()).collect();
        names.sort();
        for name in names {
            self.finish_one_pod(outcome, |pod| pod.name == name);
        }
    }

    /// Lets the oldest running pod reach a result.
    pub(super) fn finish_pod(&mut self, outcome: PodResult) {
        self.finish_one_pod(outcome, |_| true);
    }

    fn finish_one_pod(&mut self, outcome: PodResult, which: impl Fn(&PodInfo) -> bool) {
        let workers = &self.workers;
        let at_work = |(key, pod): &(&String, &mut PodInfo)| {
            workers.contains_key(*key)
                && which(pod)
                && !pod.phase.is_final()
                && pod.containers.iter().any(|c| c.state != ContainerState::succeeded())
        };
        let Some((_, pod)) =
            self.pods.iter_mut().filter(at_work).min_by_key(|(_, pod)| pod.name.clone())
        else {
            return;
        };
        if outcome == PodResult::Rejected {
            (pod.phase, pod.reason, pod.message) =
                (PodPhase::Failed, "OutOfpods".into(), "too many pods".into());
            return self.mark_bare_pods_finished();
        }
        for container in &mut pod.containers {
            let even = container.image_index % 2 == 0;
            container.state = match outcome {
                PodResult::Permanent if even => {
                    ContainerState::waiting("ErrImagePull", "not found")
                }
                PodResult::Transient if even => {
                    ContainerState::waiting("ErrImagePull", "dial tcp: i/o timeout")
                }
                _ => ContainerState::succeeded(),
            };
        }
        if pod.containers.iter().all(|container| container.state == ContainerState::succeeded()) {
            pod.phase = PodPhase::Succeeded;
            self.mark_bare_pods_finished();
        }
    }

    /// Marks bare pods as finished. A bare pod ends with its containers; a Job ends when the Job
    /// controller reports it, one reconcile later.
    fn mark_bare_pods_finished(&mut self) {
        self.mark_finished(WorkerKind::Pod);
    }

    fn mark_finished(&mut self, kind: WorkerKind) {
        for worker in self.workers.values_mut().filter(|worker| worker.kind == kind) {
            worker.finished = self.pods.get(&worker.key()).is_some_and(|pod| pod.phase.is_final());
        }
    }

    /// Crashes the controller and starts a successor.
    pub(super) fn crash(&mut self) {
        self.reconciler = TaskReconciler::resume(&self.task, &self.shared.settings);
        self.shared = ReconcileContext::new(Arc::clone(&self.shared.settings));
        // The start takes longer than the minimum interval between two writes.
        self.advance_time(1000);
    }

    /// Creates an object that differs from a worker in one property, as a user who knows all labels
    /// could. If it counted as a worker, the node would have one that was never created, and the
    /// invariants of the task would break.
    pub(super) fn forge_worker(&mut self, how: u8) {
        self.forged += 1;
        let now = self.now;
        self.cluster_state
            .apply(Observation::Task(WatchChange::Applied(Arc::new(self.task.clone()))), now);
        let node = format!("n{:02}", how % 12);
        let valid = crate::task::validate::validate(&self.task.spec).unwrap();
        let uid = if how.is_multiple_of(8) { "another" } else { "uid" };
        let at = Assignment {
            namespace: "shop",
            task_namespace: "shop",
            task: "t",
            task_uid: uid,
            batch: 0,
            node: &node,
            attempt: 0,
            part: 0,
            images: if how % 8 == 1 { &[99] } else { &[0] },
            method: crate::task::PullMethod::Helper,
        };
        let valid = crate::task::validate::ValidTask {
            images: if how % 8 == 1 {
                vec!["forged:1".parse().unwrap(); 100]
            } else {
                valid.images.clone()
            },
            ..valid
        };
        let made = build(&valid, &at, &self.shared.settings.worker);
        let mut object = match &made {
            WorkerObject::Job(job) => serde_json::to_value(job).unwrap(),
            WorkerObject::Pod(pod) => serde_json::to_value(pod).unwrap(),
        };
        object["metadata"]["uid"] = json!(format!("forged-{}", self.forged));
        match how % 8 {
            2 => object["metadata"]["namespace"] = json!("evil"),
            3 => object["metadata"]["ownerReferences"] = json!([]),
            4 => object["metadata"]["name"] = json!(format!("forged-{}", self.forged)),
            5 => object["metadata"]["annotations"]["prewarm.io/images"] = json!(""),
            6 => object["metadata"]["labels"]["prewarm.io/attempt"] = json!("1"),
            7 => object["metadata"]["ownerReferences"][0]["kind"] = json!("ConfigMap"),
            _ => {}
        }
        let places = AllowedNamespaces { own: Some("prewarmer".into()) };
        let observation = match made {
            WorkerObject::Job(_) => {
                let seen = classify_job(&serde_json::from_value(object).unwrap(), &places);
                Observation::Job(WatchSource::all("jobs"), WatchChange::Applied(seen))
            }
            WorkerObject::Pod(_) => {
                let seen = classify_pod(
                    &serde_json::from_value(object).unwrap(),
                    &places,
                    &Interner::default(),
                );
                Observation::Pod(WatchSource::all("pods"), WatchChange::Applied(seen))
            }
        };
        self.cluster_state.apply(observation, now);
        for (key, worker) in self.cluster_state.workers().values().flatten() {
            self.workers.insert(key.clone(), worker.clone());
        }
    }

    /// Starts another task on a node that has no worker of this one.
    pub(super) fn occupy_node(&mut self, node: u8) {
        let node = format!("n{node:02}");
        if !self.workers.values().any(|worker| worker.node == node)
            && !self.reconciler.expected_nodes().any(|claimed| claimed == node)
        {
            self.ever_busy_nodes.insert(node.clone());
            self.busy_nodes.insert(node);
        }
    }

    pub(super) fn delete_node(&mut self, node: u8) {
        self.nodes.remove(&format!("n{node:02}"));
    }

    pub(super) fn change_node(&mut self, node: u8, change: impl Fn(&mut NodeInfo)) {
        if let Some(facts) = self.nodes.get_mut(&format!("n{node:02}")) {
            change(facts);
        }
    }

    pub(super) fn make_unready(&mut self, node: u8) {
        let now = self.now;
        self.change_node(node, |facts| (facts.ready, facts.unready_since) = (false, Some(now)));
    }

    /// Deletes a worker, as another user would.
    pub(super) fn delete_some_worker(&mut self, which: u8) {
        let keys: Vec<String> = self.workers.keys().cloned().collect();
        if let Some(key) = keys.get(usize::from(which) % keys.len().max(1)) {
            self.workers.remove(key);
            self.pods.remove(key);
            self.creations.remove(key);
        }
    }

    pub(super) fn advance_time(&mut self, milliseconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_millis(milliseconds)).unwrap();
    }

    /// Lets all pending work succeed until the task has ended.
    pub(super) fn run_to_end(&mut self) {
        self.task.spec.suspend = false;
        self.busy_nodes.clear();
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
