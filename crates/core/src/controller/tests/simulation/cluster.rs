//! Simulated cluster with several tasks: the complete controller, whose effects are applied to
//! objects in memory. Asserts the limits over all tasks, and that no work is repeated.

mod deletions;
mod events;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    super::super::{
        Controller,
        classify::{classify_job, classify_plan, classify_pod},
        effect::{ApplyError, Effect, EffectOutput, TaskRef},
        measurement::Measurement,
        observation::{EffectFinished, Observation, Ownership, WorkerPod},
        settings::{ControllerSettings, FairnessLimits},
        task_object::plan_name,
        watch::{WatchChange, WatchSource},
    },
    PodResult,
    garbage_collector::GarbageCollector,
    settings,
};
use crate::{
    node::{Interner, NodeInfo},
    task::{PrewarmTask, WorkerKind, batches::NodeState},
    worker::{TASK_UID_LABEL, WorkerInfo, provenance::AllowedNamespaces},
};

/// Label of a worker's batch.
const BATCH_LABEL: &str = "prewarm.io/batch";
/// Label of a worker's attempt.
const ATTEMPT_LABEL: &str = "prewarm.io/attempt";
/// Annotation with the name of a worker's node.
const NODE_ANNOTATION: &str = "prewarm.io/node-name";

/// Arrival of the responses of the API server, which applies all effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Responses {
    InTime,
    /// After the watch events of the same changes, and a reconcile.
    Late,
    /// Never: the effects are reported as failed.
    Lost,
}

/// Worker: a Job with its pod, or a bare pod.
struct SimWorker {
    kind: WorkerKind,
    /// Job, or bare pod.
    object: Value,
    /// Pod of the Job, or the bare pod itself.
    pod: Value,
    /// True when the Job's pod was deleted before it.
    pod_deleted: bool,
}

impl SimWorker {
    fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn task_uid(&self) -> &str {
        self.object["metadata"]["labels"][TASK_UID_LABEL].as_str().unwrap()
    }

    fn node(&self) -> &str {
        self.object["metadata"]["annotations"][NODE_ANNOTATION].as_str().unwrap()
    }

    fn is_active(&self) -> bool {
        !["Succeeded", "Failed"].contains(&self.pod["status"]["phase"].as_str().unwrap_or_default())
    }

    fn is_being_deleted(&self) -> bool {
        self.object.pointer("/metadata/deletionTimestamp").is_some()
    }

    /// Reports whether a container has no result yet.
    fn is_pulling(&self) -> bool {
        let states = self.pod["status"]["containerStatuses"].as_array().unwrap();
        let creating = |state: &Value| state["state"]["waiting"]["reason"] == "ContainerCreating";
        self.is_active() && states.iter().any(creating)
    }
}

/// Object that waits for the garbage collector.
enum Terminating {
    /// UID of a worker that is deleted after its pod.
    Worker(String),
    /// Pod of a Job that was deleted before it.
    Pod(SimWorker),
}

/// Controller with several tasks.
pub(in super::super) struct ClusterSimulation {
    controller: Controller,
    settings: Arc<ControllerSettings>,
    /// Tasks by UID, with their plans.
    tasks: BTreeMap<String, (PrewarmTask, Option<Value>)>,
    nodes: BTreeMap<String, NodeInfo>,
    /// Workers in the order of their creation.
    workers: Vec<SimWorker>,
    /// Workers that are deleted after their pods, by UID, and pods that outlive their Job.
    garbage_collector: GarbageCollector<Terminating>,
    /// Pulled images: UID of the task, node, reference.
    pulled: HashSet<(String, String, String)>,
    now: Timestamp,
    /// Responses of the API server in the next round.
    responses: Responses,
    /// Results of effects that arrive after the next reconcile.
    late: Vec<EffectFinished>,
    /// Numbers of measured ends, by UID of the task.
    ends: BTreeMap<String, usize>,
    has_crashed: bool,
    internal_errors: usize,
    sequence: u64,
}

impl ClusterSimulation {
    /// Creates a cluster whose garbage collector takes up to `collector_delay` rounds.
    pub(in super::super) fn new(
        nodes: u8,
        max_workers: usize,
        max_tasks: usize,
        collector_delay: u8,
    ) -> Self {
        let limits = FairnessLimits::default();
        let settings = Arc::new(ControllerSettings {
            max_workers,
            max_concurrent_tasks: max_tasks,
            limits,
            ..settings()
        });
        let node = |n: u8| (node_name(n), NodeInfo::sample(&node_name(n)));
        let mut simulation = Self {
            controller: Controller::new(5, Arc::clone(&settings)),
            settings,
            tasks: BTreeMap::new(),
            nodes: (0..nodes).map(node).collect(),
            workers: Vec::new(),
            garbage_collector: GarbageCollector::new(collector_delay),
            pulled: HashSet::new(),
            now: Timestamp::from_second(1_780_000_000).unwrap(),
            responses: Responses::InTime,
            late: Vec::new(),
            ends: BTreeMap::new(),
            has_crashed: false,
            internal_errors: 0,
            sequence: 0,
        };
        simulation.deliver_lists();
        simulation
    }

    /// Returns how often the end of the task with this UID was measured.
    pub(in super::super) fn measured_ends(&self, uid: &str) -> usize {
        self.ends.get(uid).copied().unwrap_or_default()
    }

    pub(in super::super) fn has_crashed(&self) -> bool {
        self.has_crashed
    }

    pub(in super::super) fn tasks(&self) -> impl Iterator<Item = &PrewarmTask> {
        self.tasks.values().map(|(task, _)| task)
    }

    pub(in super::super) fn planned_nodes(&self, task: &PrewarmTask) -> impl Iterator<Item = &str> {
        let plan = &self.tasks[task.metadata.uid.as_ref().unwrap()].1;
        let nodes = plan.iter().flat_map(|plan| plan["spec"]["nodes"].as_array().unwrap());
        nodes.map(|node| node.as_str().unwrap())
    }

    /// Reports whether any task has pulled the image to the node.
    pub(in super::super) fn has_pulled(&self, node: &str, image: &str) -> bool {
        self.tasks.keys().any(|uid| self.has_pulled_itself(uid, node, image))
    }

    /// Reports whether the task with this UID has pulled the image to the node.
    pub(in super::super) fn has_pulled_itself(&self, uid: &str, node: &str, image: &str) -> bool {
        self.pulled.contains(&(uid.to_owned(), node.to_owned(), image.to_owned()))
    }

    pub(in super::super) fn active_workers(&self) -> usize {
        self.workers.iter().filter(|worker| worker.is_active()).count()
    }

    pub(in super::super) fn internal_errors(&self) -> usize {
        self.internal_errors
    }

    pub(in super::super) fn advance_time(&mut self, milliseconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_millis(milliseconds)).unwrap();
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn handle(&mut self, observation: Observation) {
        self.controller.handle(observation, self.now);
    }

    fn deliver_lists(&mut self) {
        let tasks = self.tasks().cloned().map(Arc::new).collect();
        let plans: Vec<Value> = self.tasks.values().filter_map(|(_, plan)| plan.clone()).collect();
        let plans =
            plans.into_iter().map(|plan| classify_plan(serde_json::from_value(plan).unwrap()));
        let plans = WatchChange::Restarted(plans.collect());
        self.handle(Observation::Task(WatchChange::Restarted(tasks)));
        self.handle(Observation::Plan(WatchSource::all("prewarmplans"), plans));
        let nodes = self.nodes.values().cloned().collect();
        self.handle(Observation::Node(WatchChange::Restarted(nodes)));
        let jobs = self.workers.iter().filter(|worker| worker.kind == WorkerKind::Job);
        let jobs = jobs.map(|worker| job_of(&worker.object)).collect();
        let pods = self.workers.iter().filter(|worker| !worker.pod_deleted);
        let pods = pods.chain(self.orphans()).map(|worker| pod_of(&worker.pod)).collect();
        let (of_jobs, of_pods) = (WatchSource::all("jobs"), WatchSource::all("pods"));
        self.handle(Observation::Job(of_jobs, WatchChange::Restarted(jobs)));
        self.handle(Observation::Pod(of_pods, WatchChange::Restarted(pods)));
        assert!(self.controller.is_synced());
    }

    fn deliver_task(&mut self, uid: &str) {
        let task = Arc::new(self.tasks[uid].0.clone());
        self.handle(Observation::Task(WatchChange::Applied(task)));
    }

    fn deliver_worker(&mut self, at: usize) {
        let worker = &self.workers[at];
        let (job, pod) = (job_of(&worker.object), pod_of(&worker.pod));
        let pod_deleted = worker.pod_deleted;
        if worker.kind == WorkerKind::Job {
            self.handle(Observation::Job(WatchSource::all("jobs"), WatchChange::Applied(job)));
        }
        if !pod_deleted {
            self.handle(Observation::Pod(WatchSource::all("pods"), WatchChange::Applied(pod)));
        }
    }

    /// Runs one round of the controller and applies its effects.
    pub(in super::super) fn round(&mut self) {
        self.controller.reconcile_all(self.now);
        for finished in std::mem::take(&mut self.late) {
            self.handle(Observation::EffectFinished(finished));
        }
        for (target, effects) in self.controller.take_actions() {
            for effect in effects {
                let written = self.apply(&target, &effect);
                let result = if self.responses == Responses::Lost {
                    Err(ApplyError::Transient("lost".into()))
                } else {
                    Ok(written)
                };
                let task_uid = target.uid.clone();
                let finished = EffectFinished { task_uid, effect, result };
                if self.responses == Responses::Late {
                    self.late.push(finished);
                } else {
                    self.handle(Observation::EffectFinished(finished));
                }
            }
        }
        self.responses = Responses::InTime;
        self.collect_garbage();
        self.assert_cached_pods();
        let measurements = self.controller.take_measurements();
        for measurement in &measurements {
            if let Measurement::TaskEnded { task, .. } = measurement {
                *self.ends.entry(task.uid.clone()).or_default() += 1;
            }
        }
        let is_error = |one: &&Measurement| matches!(one, Measurement::InternalError(_));
        self.internal_errors += measurements.iter().filter(is_error).count();
        // Workers in the kubelet's backoff count only above the limit.
        let most = self.settings.max_workers;
        let names = |workers: Vec<&SimWorker>| workers.into_iter().map(name_of).collect::<Vec<_>>();
        let active: Vec<&SimWorker> = self.workers.iter().filter(|one| one.is_active()).collect();
        let holding: Vec<&SimWorker> =
            self.workers.iter().filter(|one| self.occupies_node(one)).collect();
        assert!(holding.len() <= most, "more than {most} pull: {:?}", names(holding));
        assert!(active.len() <= 2 * most, "more than twice {most}: {:?}", names(active));
    }

    /// Reports whether a worker pulls and has not used up its time of exclusive use.
    fn occupies_node(&self, worker: &SimWorker) -> bool {
        let created: Timestamp = worker.text("/metadata/creationTimestamp").parse().unwrap();
        let alone = SignedDuration::try_from(self.settings.limits.exclusive_node_time).unwrap();
        worker.is_pulling() && self.now.duration_since(created) < alone
    }

    fn apply(&mut self, target: &TaskRef, effect: &Effect) -> EffectOutput {
        match effect {
            Effect::CheckNodes(_) => unreachable!("the settings enable no node checks"),
            Effect::DryRun(_) => {}
            Effect::CreatePlan(spec) => {
                let owner = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask",
                    "controller": true, "name": target.name, "uid": target.uid});
                let metadata = json!({"name": plan_name(&target.uid), "namespace": target.namespace,
                    "ownerReferences": [owner]});
                let plan = json!({"metadata": metadata, "spec": **spec});
                let stored = &mut self.tasks.get_mut(&target.uid).unwrap().1;
                let plan = stored.get_or_insert(plan).clone();
                let plan = classify_plan(serde_json::from_value(plan).unwrap());
                let source = WatchSource::all("prewarmplans");
                self.handle(Observation::Plan(source, WatchChange::Applied(plan)));
            }
            Effect::CreateWorker(creation) => {
                let object = serde_json::from_slice(&creation.body).unwrap();
                self.create_worker(target, creation.kind, object);
            }
            Effect::DeleteWorker(deletion) => {
                let uid = deletion.uid.to_string();
                self.delete_workers(
                    |worker| worker.text("/metadata/uid") == uid,
                    deletion.propagation,
                );
            }
            Effect::DeleteWorkers(deletion) => self.delete_collection(target, deletion),
            Effect::WriteStatus(write) => {
                let version = self.next().to_string();
                let (task, _) = self.tasks.get_mut(&target.uid).unwrap();
                assert!(!task.phase().is_terminal(), "a final phase changed");
                task.status = Some(write.status.clone());
                task.metadata.resource_version = Some(version.clone());
                self.deliver_task(&target.uid);
                return EffectOutput { resource_version: Some(version), check_results: None };
            }
            Effect::DeleteTask(_) => unreachable!("no task has a time to live"),
        }
        EffectOutput::default()
    }

    fn create_worker(&mut self, target: &TaskRef, kind: WorkerKind, mut object: Value) {
        let id = |object: &Value| {
            (object["metadata"]["namespace"].clone(), object["metadata"]["name"].clone())
        };
        if self.workers.iter().any(|other| id(&other.object) == id(&object)) {
            return;
        }
        let number = self.next();
        object["metadata"]["uid"] = json!(format!("worker-{number}"));
        object["metadata"]["creationTimestamp"] = json!(self.now.to_string());
        let mut pod = object.clone();
        if kind == WorkerKind::Job {
            pod = object["spec"]["template"].clone();
            let name = object["metadata"]["name"].as_str().unwrap();
            pod["metadata"]["name"] = json!(format!("{name}-pod"));
            pod["metadata"]["namespace"] = object["metadata"]["namespace"].clone();
            pod["metadata"]["uid"] = json!(format!("pod-{number}"));
            pod["metadata"]["creationTimestamp"] = json!(self.now.to_string());
            pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] = json!(name);
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name,
                "uid": object["metadata"]["uid"], "controller": true}]);
        }
        let creating = |container: &Value| {
            json!({"name": container["name"], "image": "", "imageID": "",
                "state": {"waiting": {"reason": "ContainerCreating", "message": ""}}})
        };
        let containers = pod["spec"]["containers"].as_array().unwrap();
        let states: Vec<Value> = containers.iter().map(creating).collect();
        pod["status"] = json!({"phase": "Pending", "containerStatuses": states});
        let worker = SimWorker { kind, object, pod, pod_deleted: false };
        self.assert_may_create(target, &worker);
        self.workers.push(worker);
        self.deliver_worker(self.workers.len() - 1);
    }

    /// Asserts that the node has not ended, and that no other worker pulls on it.
    fn assert_may_create(&self, target: &TaskRef, worker: &SimWorker) {
        let (task, plan) = &self.tasks[&target.uid];
        let nodes = plan.as_ref().expect("the plan precedes the workers")["spec"]["nodes"].clone();
        let planned = nodes.as_array().unwrap().iter().position(|node| node == worker.node());
        let index = planned.expect("the node is in the plan");
        let states = task.status.as_ref().map_or("", |status| status.node_states.as_str());
        let state =
            states.as_bytes().get(index).map_or(NodeState::Waiting, |l| NodeState::from_byte(*l));
        assert!(!state.is_final(), "{} was warmed again after its result", worker.node());
        let attempt = worker.object["metadata"]["labels"][ATTEMPT_LABEL].as_str().unwrap();
        assert!(
            attempt.parse::<u8>().unwrap() >= state.attempt(),
            "attempt {attempt} on {} is repeated",
            worker.node()
        );
        let mut others = self.workers.iter().filter(|other| other.node() == worker.node());
        let other = others.find(|other| self.occupies_node(other));
        assert!(
            other.is_none(),
            "{} was started while {:?} pulls on {}",
            name_of(worker),
            other.map(name_of),
            worker.node()
        );
        let orphan =
            self.orphans().find(|orphan| orphan.node() == worker.node() && orphan.is_active());
        assert!(orphan.is_none(), "{} was started next to an orphan", name_of(worker));
    }

    /// Lets all pending work succeed until all tasks have ended, with these responses in each round.
    pub(in super::super) fn run_to_end(&mut self, responses: Responses) {
        for which in 0..self.tasks.len() {
            self.change_task(u8::try_from(which).unwrap(), |spec| spec.suspend = false);
        }
        for _ in 0..5000 {
            if self.tasks().all(|task| task.phase().is_terminal()) {
                // Garbage is collected every five seconds.
                self.advance_time(6000);
                return self.round();
            }
            self.finish_pod(0, PodResult::Success);
            self.advance_time(600);
            self.responses = responses;
            self.round();
        }
        let open: Vec<_> = self.tasks().filter(|task| !task.phase().is_terminal()).collect();
        panic!("tasks did not end: {open:#?}");
    }
}

/// Returns task, node, name and creation time of a worker.
fn name_of(worker: &SimWorker) -> String {
    let (name, at) = (worker.text("/metadata/name"), worker.text("/metadata/creationTimestamp"));
    format!("{}/{}/{name} of {at}", worker.task_uid(), worker.node())
}

fn node_name(node: u8) -> String {
    format!("n{node:02}")
}

fn job_of(object: &Value) -> Ownership<WorkerInfo> {
    classify_job(&serde_json::from_value(object.clone()).unwrap(), &places())
}

fn pod_of(object: &Value) -> Ownership<Box<WorkerPod>> {
    let pod = serde_json::from_value(object.clone()).unwrap();
    classify_pod(&pod, &places(), &Interner::default())
}

fn places() -> AllowedNamespaces {
    AllowedNamespaces { own: Some("prewarmer".into()) }
}
