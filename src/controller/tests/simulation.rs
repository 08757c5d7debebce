//! A cluster of values: it does what effects ask for, and asserts what must hold at every moment.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::json;

use super::super::{
    Settings, Shared, WorkerNamespace,
    effect::{Creation, Effect, Refusal, Written},
    limits::{Most, Room, Seat},
    observation::{Change, Observation, Source},
    run::Run,
    view::{Turn, View},
    watches::{see_job, see_pod},
    world::{Pods, Workers, World, is_alive, may_pull},
};
use crate::{
    metrics::Metrics,
    node::{Facts, Interner},
    task::{
        BatchPolicy, Phase, PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec, WorkerKind, batches::NodeState,
        plan::Breaker,
    },
    worker::{
        Assignment, ContainerFacts, ContainerState, PodFacts, PodPhase, Worker, WorkerFacts, WorkerSettings, build,
        provenance::{self, Places},
    },
};

/// What a worker's pod comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All its images are there.
    Good,
    /// Its images with an even index do not exist.
    Hopeless,
    /// The registry of its images with an even index does not answer.
    Passing,
    /// The kubelet does not take it.
    Refused,
}

pub(super) struct Simulation {
    pub(super) task: PrewarmTask,
    pub(super) nodes: BTreeMap<String, Facts>,
    pub(super) workers: Workers,
    pub(super) pods: Pods,
    pub(super) plan: Option<Arc<PrewarmPlanSpec>>,
    pub(super) run: Run,
    pub(super) shared: Shared,
    pub(super) now: Timestamp,
    pub(super) lose_answers: bool,
    /// How the API server answers creations, where it refuses them.
    pub(super) refusal: Option<Refusal>,
    /// Which writes the API server does not store: `plan`, `status` that has results, any `end`.
    pub(super) unstorable: Vec<&'static str>,
    /// How many writes were asked for that the API server did not store.
    pub(super) not_stored: usize,
    /// Nodes at work for another task.
    pub(super) taken: HashSet<String>,
    /// Nodes that have been so.
    once_taken: HashSet<String>,
    /// Whether Jobs get pods.
    pub(super) makes_pods: bool,
    /// How often each worker was made, less how often somebody else deleted it.
    created: HashMap<String, usize>,
    /// When each try on a node began: its time-out counts from there, whatever the parts of its images.
    begun: HashMap<(String, u8), Timestamp>,
    /// All creations, in order, with the batch's label.
    pub(super) history: Vec<(String, u32)>,
    pub(super) events: Vec<Phase>,
    pub(super) writes: Vec<Timestamp>,
    /// What judges the objects of others.
    world: World,
    forged: u64,
    version: u64,
    order: u64,
}

impl Simulation {
    pub(super) fn new(nodes: usize, spec: PrewarmTaskSpec) -> Self {
        Self::with(nodes, spec, settings())
    }

    pub(super) fn with(nodes: usize, spec: PrewarmTaskSpec, settings: Settings) -> Self {
        let node = |n: usize| {
            let name = format!("n{n:02}");
            let facts = Facts::sample(&name);
            (name, facts)
        };
        let mut task = PrewarmTask::new("t", spec);
        task.metadata.uid = Some("uid".into());
        task.metadata.namespace = Some("shop".into());
        task.metadata.resource_version = Some("1".into());
        let metrics = Arc::new(Metrics::new().unwrap());
        Self {
            run: Run::resume(&task, &settings),
            task,
            nodes: (0..nodes).map(node).collect(),
            workers: Workers::new(),
            pods: Pods::new(),
            plan: None,
            shared: Shared::new(Arc::new(settings), metrics),
            now: Timestamp::from_second(1_000_000).unwrap(),
            lose_answers: false,
            refusal: None,
            unstorable: Vec::new(),
            not_stored: 0,
            taken: HashSet::new(),
            once_taken: HashSet::new(),
            makes_pods: true,
            created: HashMap::new(),
            begun: HashMap::new(),
            history: Vec::new(),
            events: Vec::new(),
            writes: Vec::new(),
            world: World::new(5),
            forged: 0,
            version: 1,
            order: 0,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.task.phase()
    }

    pub(super) fn letters(&self) -> &str {
        self.task.status.as_ref().map_or("", |status| &status.node_states)
    }

    pub(super) fn is_at_work(&self, key: &str) -> bool {
        is_alive(&self.workers[key])
    }

    pub(super) fn at_work(&self) -> usize {
        self.workers.keys().filter(|key| self.is_at_work(key)).count()
    }

    /// One look of the controller, and all that it asks for.
    pub(super) fn step(&mut self) {
        if self.phase().is_terminal() {
            return;
        }
        // What is being deleted goes between two looks.
        let gone: Vec<String> =
            self.workers.iter().filter(|(_, worker)| worker.deleting).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.workers.remove(&key);
            self.pods.remove(&key);
        }
        self.run.see(&self.task);
        let Settings { max_workers, limits, .. } = &*self.shared.settings;
        let most = Most { all: *max_workers, per_namespace: limits.workers_per_namespace };
        let pulling = self.run.hosts().iter().map(|host| (host.clone(), self.at_work())).collect();
        let alone = SignedDuration::try_from(limits.yield_after).unwrap();
        let mut seats = self.run.seats(Some(&self.workers), &self.pods, self.now, alone, usize::MAX);
        let other = |node| Seat { node, namespace: "bank", task: "other", holds: true };
        seats.extend(self.taken.iter().map(String::as_str).map(other));
        self.shared.room = Room::new(seats, most, pulling, &self.shared.budgets, self.now);
        let view = View {
            nodes: &self.nodes,
            workers: Some(&self.workers),
            pods: &self.pods,
            plan: self.plan.as_ref(),
            contested: &|namespace| self.world.is_contested(namespace, "uid"),
            turn: Turn::Now,
            now: self.now,
        };
        let effects = self.run.step(&self.task, &view, &mut self.shared);
        for effect in effects {
            let result = self.perform(&effect);
            let lost = self.lose_answers && result.is_ok();
            let result = if lost { Err(Refusal::Passing("lost".into())) } else { result };
            self.run.done(&effect, result, &mut self.shared, self.now);
        }
        self.lose_answers = false;
        self.assert_limits();
        self.finish_workers(WorkerKind::Job);
    }

    fn assert_limits(&self) {
        let Some(plan) = &self.plan else { return };
        assert!(self.at_work() <= plan.at_once as usize, "{} workers at work", self.at_work());
        let nodes: Vec<&str> = self.workers.values().filter(|w| is_alive(w)).map(|w| w.node.as_str()).collect();
        let distinct: HashSet<&str> = nodes.iter().copied().collect();
        assert_eq!(distinct.len(), nodes.len(), "two at work on one node: {nodes:?}");
    }

    /// Whether the API server refuses to store this.
    fn is_unstorable(&self, effect: &Effect) -> bool {
        let has = |what: &str| self.unstorable.contains(&what);
        match effect {
            Effect::CreatePlan(_) => has("plan"),
            Effect::WriteStatus(write) if write.status.phase.is_terminal() => has("end"),
            Effect::WriteStatus(write) => has("status") && !write.status.node_states.is_empty(),
            _ => false,
        }
    }

    fn perform(&mut self, effect: &Effect) -> Result<Written, Refusal> {
        if self.is_unstorable(effect) {
            self.not_stored += 1;
            return Err(Refusal::Unstorable("spec: Too long".into()));
        }
        match effect {
            Effect::Examine(_) => unreachable!("there are no checks"),
            Effect::CreatePlan(plan) => {
                self.plan.get_or_insert_with(|| Arc::clone(plan));
            }
            Effect::Create(worker) => return self.create(worker),
            Effect::Probe(_) => return self.refusal.clone().map_or(Ok(Written::default()), Err),
            Effect::Delete(doomed) => {
                let super::super::effect::Doomed { namespace, name, uid, .. } = &**doomed;
                self.delete(|worker| (&worker.namespace, &worker.name, &worker.uid) == (namespace, name, uid));
            }
            Effect::DeleteMany(_, namespace, batch) => {
                self.delete(|worker| worker.namespace == *namespace && batch.is_none_or(|batch| worker.batch == batch));
            }
            Effect::WriteStatus(write) => return Ok(self.write(write)),
            Effect::DeleteTask(_) => unreachable!("a run never deletes its task"),
        }
        Ok(Written::default())
    }

    fn write(&mut self, write: &super::super::effect::StatusWrite) -> Written {
        assert!(!self.phase().is_terminal(), "a final phase was left for {:?}", write.status.phase);
        for (index, letter) in self.letters().bytes().enumerate() {
            // A short status has none.
            let Some(after) = write.status.node_states.as_bytes().get(index).copied() else { continue };
            let is_final = NodeState::from_letter(letter).is_final();
            assert!(!is_final || after == letter, "node {index} ended as {} and as {}", letter as char, after as char);
        }
        if let Some(last) = self.writes.last() {
            assert!(self.now.duration_since(*last).as_millis() >= 1000, "two writes within a second");
        }
        self.writes.push(self.now);
        for told in &write.told {
            if !self.events.contains(&told.phase) {
                self.events.push(told.phase);
            }
        }
        self.version += 1;
        self.task.status = Some(write.status.clone());
        self.task.metadata.resource_version = Some(self.version.to_string());
        Written { resource_version: self.task.resource_version(), findings: None }
    }

    fn create(&mut self, creation: &Creation) -> Result<Written, Refusal> {
        let is_job = creation.kind == WorkerKind::Job;
        let places = Places { own: Some(self.shared.settings.own_namespace.clone()) };
        let facts = if is_job {
            provenance::of_job(&serde_json::from_slice(&creation.body).unwrap(), &places).unwrap()
        } else {
            provenance::of_pod(&serde_json::from_slice(&creation.body).unwrap(), &places).unwrap().worker
        };
        provenance::check_task(&facts, &self.task).unwrap();
        if let Some(refusal) = self.refusal.clone().filter(|_| !is_job && facts.namespace == "shop") {
            return Err(refusal);
        }
        let key = facts.key();
        if self.workers.contains_key(&key) {
            return Ok(Written::default());
        }
        self.assert_may_create(&facts);
        self.history.push((facts.node.clone(), facts.batch));
        self.begun.entry((facts.node.clone(), facts.attempt)).or_insert(self.now);
        *self.created.entry(key.clone()).or_default() += 1;
        assert_eq!(self.created[&key], 1, "{key} was made twice");
        if self.makes_pods || facts.namespace != "shop" {
            self.order += 1;
            let container = |image: &u16| ContainerFacts {
                image: *image,
                state: ContainerState::waiting("ContainerCreating", ""),
                image_id: None,
            };
            let pod = PodFacts {
                namespace: facts.namespace.clone(),
                name: format!("{:06}", self.order),
                worker: facts.name.clone(),
                task_uid: facts.task_uid.clone(),
                containers: facts.asked.iter().map(container).collect(),
                ..PodFacts::default()
            };
            self.pods.insert(key.clone(), pod);
        }
        self.order += 1;
        let uid = format!("worker-{}", self.order).into();
        self.workers.insert(key, WorkerFacts { created: Some(self.now), since: Some(self.now), uid, ..facts });
        Ok(Written::default())
    }

    /// A node that has ended is not begun again, and a batch waits for the one before it.
    fn assert_may_create(&self, worker: &WorkerFacts) {
        let plan = self.plan.as_ref().expect("workers come after the plan");
        let index = plan.nodes.iter().position(|node| *node == worker.node).expect("a node of the plan");
        let letter = self.letters().as_bytes().get(index).map_or(NodeState::Waiting, |l| NodeState::from_letter(*l));
        assert!(!letter.is_final(), "{} was warmed again after its result was recorded", worker.node);
        assert!(!self.taken.contains(&worker.node), "{} is at work for another task", worker.node);
        let in_line = |node: &String| !self.once_taken.contains(node);
        if self.task.spec.batch_policy == BatchPolicy::Barrier && worker.attempt == 0 && in_line(&worker.node) {
            let first = index / plan.at_once as usize * plan.at_once as usize;
            let earlier = |other: &&WorkerFacts| {
                other.attempt == 0
                    && in_line(&other.node)
                    && plan.nodes[..first].contains(&other.node)
                    && !other.deleting
            };
            let open = |other: &WorkerFacts| {
                let pod = &self.pods.get(&other.key());
                pod.is_some_and(|pod| {
                    pod.containers.iter().all(|c| c.state == ContainerState::waiting("ContainerCreating", ""))
                }) && self.nodes.get(&other.node).is_some_and(|node| node.unready_since.is_none())
            };
            // A node may have run out of time instead.
            let in_time = |other: &&WorkerFacts| {
                let begun = self.begun[&(other.node.clone(), other.attempt)];
                self.now.duration_since(begun).as_secs() < 60
            };
            let mut at_work = self.workers.values().filter(earlier).filter(in_time);
            let begun = at_work.find(|other| may_pull(other, &self.pods) && open(other));
            assert!(begun.is_none(), "{} was begun while {begun:?} was at work", worker.node);
        }
    }

    fn delete(&mut self, which: impl Fn(&WorkerFacts) -> bool) {
        let letters = self.letters().as_bytes().to_vec();
        let nodes = self.plan.as_ref().map(|plan| plan.nodes.clone()).unwrap_or_default();
        for worker in self.workers.values_mut().filter(|worker| which(worker)) {
            let index = nodes.iter().position(|node| *node == worker.node);
            let letter =
                index.and_then(|index| letters.get(index)).map_or(NodeState::Waiting, |l| NodeState::from_letter(*l));
            let recorded = letter.is_final() || letter.attempt() > worker.attempt;
            let elsewhere = self.shared.settings.worker_namespace == WorkerNamespace::Fallback;
            // One that stands in the way of the node's further parts goes before; a crash then repeats its part.
            let in_parts = self.task.spec.images.len() > self.shared.settings.worker.images_per_pod;
            assert!(
                recorded || self.task.spec.cancel || elsewhere || in_parts,
                "{} was deleted before its result was recorded",
                worker.node
            );
            if !recorded {
                self.created.remove(&worker.key());
            }
            worker.deleting = true;
        }
    }

    /// Every pod that has just begun comes to the same.
    pub(super) fn end_new_pods(&mut self, outcome: Outcome) {
        let new = |pod: &&PodFacts| {
            pod.containers.iter().all(|c| c.state == ContainerState::waiting("ContainerCreating", ""))
        };
        let mut names: Vec<String> = self.pods.values().filter(new).map(|pod| pod.name.clone()).collect();
        names.sort();
        for name in names {
            self.end_one(outcome, |pod| pod.name == name);
        }
    }

    /// The oldest pod at work comes to something.
    pub(super) fn end_pod(&mut self, outcome: Outcome) {
        self.end_one(outcome, |_| true);
    }

    fn end_one(&mut self, outcome: Outcome, which: impl Fn(&PodFacts) -> bool) {
        let workers = &self.workers;
        let at_work = |(key, pod): &(&String, &mut PodFacts)| {
            workers.contains_key(*key)
                && which(pod)
                && !pod.phase.is_final()
                && pod.containers.iter().any(|c| c.state != ContainerState::done())
        };
        let Some((_, pod)) = self.pods.iter_mut().filter(at_work).min_by_key(|(_, pod)| pod.name.clone()) else {
            return;
        };
        if outcome == Outcome::Refused {
            (pod.phase, pod.reason, pod.message) = (PodPhase::Failed, "OutOfpods".into(), "too many pods".into());
            return self.finish_bare_pods();
        }
        for container in &mut pod.containers {
            let even = container.image % 2 == 0;
            container.state = match outcome {
                Outcome::Hopeless if even => ContainerState::waiting("ErrImagePull", "not found"),
                Outcome::Passing if even => ContainerState::waiting("ErrImagePull", "dial tcp: i/o timeout"),
                _ => ContainerState::done(),
            };
        }
        if pod.containers.iter().all(|container| container.state == ContainerState::done()) {
            pod.phase = PodPhase::Succeeded;
            self.finish_bare_pods();
        }
    }

    /// A bare pod has ended when its containers have; a Job when the Job controller says so, which is a look later.
    fn finish_bare_pods(&mut self) {
        self.finish_workers(WorkerKind::Pod);
    }

    fn finish_workers(&mut self, kind: WorkerKind) {
        for worker in self.workers.values_mut().filter(|worker| worker.kind == kind) {
            worker.finished = self.pods.get(&worker.key()).is_some_and(|pod| pod.phase.is_final());
        }
    }

    /// The controller dies, and a successor takes over.
    pub(super) fn crash(&mut self) {
        self.run = Run::resume(&self.task, &self.shared.settings);
        self.shared = Shared::new(Arc::clone(&self.shared.settings), Arc::clone(&self.shared.metrics));
        // It takes longer to begin than two writes must be apart.
        self.pass(1000);
    }

    /// Somebody who knows all of our labels makes an object that differs from a worker in one thing. If it were taken for one, the node
    /// would have a worker that nobody asked for, and all that must hold of a task would break.
    pub(super) fn forge(&mut self, how: u8) {
        self.forged += 1;
        let now = self.now;
        self.world.observe(Observation::Task(Change::Put(Arc::new(self.task.clone()))), now);
        let node = format!("n{:02}", how % 12);
        let valid = crate::task::validate::validate(&self.task.spec).unwrap();
        let uid = if how.is_multiple_of(8) { "another" } else { "uid" };
        let at = Assignment {
            namespace: "shop",
            task_namespace: "shop",
            task: "t",
            uid,
            batch: 0,
            node: &node,
            attempt: 0,
            part: 0,
            asked: if how % 8 == 1 { &[99] } else { &[0] },
            method: crate::task::PullMethod::Helper,
        };
        let valid = crate::task::validate::ValidTask {
            images: if how % 8 == 1 { vec!["forged:1".parse().unwrap(); 100] } else { valid.images.clone() },
            ..valid
        };
        let made = build(&valid, &at, &self.shared.settings.worker);
        let mut object = match &made {
            Worker::Job(job) => serde_json::to_value(job).unwrap(),
            Worker::Pod(pod) => serde_json::to_value(pod).unwrap(),
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
        let places = Places { own: Some("prewarmer".into()) };
        let observation = match made {
            Worker::Job(_) => {
                let seen = see_job(&serde_json::from_value(object).unwrap(), &places);
                Observation::Job(Source::all("jobs"), Change::Put(seen))
            }
            Worker::Pod(_) => {
                let seen = see_pod(&serde_json::from_value(object).unwrap(), &places, &Interner::default());
                Observation::Pod(Source::all("pods"), Change::Put(seen))
            }
        };
        self.world.observe(observation, now);
        for (key, worker) in self.world.workers().values().flatten() {
            self.workers.insert(key.clone(), worker.clone());
        }
    }

    /// Another task begins on a node, where none of ours is at work.
    pub(super) fn take_node(&mut self, node: u8) {
        let node = format!("n{node:02}");
        if !self.workers.values().any(|worker| worker.node == node)
            && !self.run.claimed().any(|claimed| claimed == node)
        {
            self.once_taken.insert(node.clone());
            self.taken.insert(node);
        }
    }

    pub(super) fn drop_node(&mut self, node: u8) {
        self.nodes.remove(&format!("n{node:02}"));
    }

    pub(super) fn change_node(&mut self, node: u8, change: impl Fn(&mut Facts)) {
        if let Some(facts) = self.nodes.get_mut(&format!("n{node:02}")) {
            change(facts);
        }
    }

    pub(super) fn unready(&mut self, node: u8) {
        let now = self.now;
        self.change_node(node, |facts| (facts.ready, facts.unready_since) = (false, Some(now)));
    }

    /// Somebody else deletes a worker.
    pub(super) fn delete_some_worker(&mut self, which: u8) {
        let keys: Vec<String> = self.workers.keys().cloned().collect();
        if let Some(key) = keys.get(usize::from(which) % keys.len().max(1)) {
            self.workers.remove(key);
            self.pods.remove(key);
            self.created.remove(key);
        }
    }

    pub(super) fn pass(&mut self, milliseconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_millis(milliseconds)).unwrap();
    }

    /// Lets everything that waits end well, until the task has ended.
    pub(super) fn finish(&mut self) {
        self.task.spec.suspend = false;
        self.taken.clear();
        for _ in 0..3000 {
            if self.phase().is_terminal() {
                return;
            }
            self.end_pod(Outcome::Good);
            self.pass(600);
            self.step();
        }
        panic!("the task never ended: {:#?}\n{:#?}", self.task.status, self.workers);
    }

    /// Looks again and again for a while, in which no pod comes to anything.
    pub(super) fn wait(&mut self, seconds: i64) {
        for _ in 0..seconds * 4 {
            self.pass(250);
            self.step();
        }
    }
}

/// What the tests start from.
pub(in crate::controller) fn settings() -> Settings {
    Settings {
        worker: WorkerSettings {
            owner: None,
            service_account: None,
            image: "helper:1".into(),
            priority_class: None,
            ttl: Duration::from_secs(3600),
            images_per_pod: 2,
        },
        max_concurrent_tasks: 10,
        namespace: None,
        own_namespace: "prewarmer".into(),
        fallback_on_policy: false,
        worker_namespace: WorkerNamespace::Workload,
        breaker: Breaker { nodes: 5000, at_once: 50 },
        examine: false,
        max_workers: 300,
        limits: super::super::Limits::default(),
        registry_concurrency: 200,
        known_for: Duration::from_secs(600),
        public_registries: Vec::new(),
        max_retained: 8000,
        cluster: crate::egress::Cluster::default(),
    }
}
