//! What the watches have told, in compact form.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    foreign::{Foreign, Stranger, Waiting},
    observation::{Change, Observation, OwnedPlan, SeenPod, Sighting, Source},
};
use crate::{
    node::Facts,
    task::{PrewarmPlanSpec, PrewarmTask, WorkerKind},
    worker::{
        ContainerState, PodFacts, WorkerFacts,
        provenance::{Rejection, check_job, check_task},
        throttles,
    },
};

/// Workers of a task, by namespace and name.
pub(super) type Workers = BTreeMap<String, WorkerFacts>;
/// Pods by namespace and worker; the newest where a Job has had several.
pub(super) type Pods = HashMap<String, PodFacts>;

/// Workers that one task can have: 5,000 nodes, and all of them in two parts, retained. Half a kilobyte each.
const MAX_WORKERS_OF_TASK: usize = 10_000;
/// Workers of a deleted task that count in the limits: its plan is gone with it, and a batch is rarely larger.
const MOST_OF_DELETED: usize = 100;
/// Plans whose task is not known: 250 KB each at 5,000 nodes. Plans come after their tasks, and the watches differ by moments.
const MAX_PLANS_WAITING: usize = 16;

/// A registry asked for fewer requests, in its answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) task_uid: String,
    /// The image's index in the task.
    pub(super) image: u16,
    pub(super) message: String,
}

/// What an observation comes to beyond the world itself.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) complaints: Vec<Complaint>,
    /// An object with our labels that does not count, and was not known before: kind, and what it is.
    pub(super) stranger: Option<(&'static str, Stranger)>,
}

/// Everything known of the cluster.
///
/// Of workers and their pods only those are in it whose provenance is verified: see `worker::provenance`. All limits and results are
/// computed from these.
pub(super) struct World {
    tasks: HashMap<String, Arc<PrewarmTask>>,
    /// By namespace and the task's UID.
    plans: HashMap<(String, String), OwnedPlan>,
    nodes: BTreeMap<String, Facts>,
    workers: HashMap<String, Workers>,
    pods: Pods,
    foreign: Foreign,
    /// Workers whose task is not known.
    orphans: Waiting<WorkerFacts>,
    /// Pods whose Job is not known.
    podlings: Waiting<Box<SeenPod>>,
    complete: HashSet<Source>,
    /// How many watches there are.
    sources: usize,
}

impl World {
    /// Nothing is known before `sources` watches have delivered.
    pub(super) fn new(sources: usize) -> Self {
        Self {
            tasks: HashMap::new(),
            plans: HashMap::new(),
            nodes: BTreeMap::new(),
            workers: HashMap::new(),
            pods: Pods::new(),
            foreign: Foreign::default(),
            orphans: Waiting::default(),
            podlings: Waiting::default(),
            complete: HashSet::new(),
            sources,
        }
    }

    /// Whether every watch has delivered its first list: before that, nothing may be decided.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.len() >= self.sources
    }

    /// Takes up what a watch tells, at `now` by the controller's clock.
    pub(super) fn observe(&mut self, observation: Observation, now: Timestamp) -> News {
        let mut news = News::default();
        match observation {
            Observation::Task(change) => self.see_tasks(change, now, &mut news),
            Observation::Plan(source, change) => self.see_plans(&source, change, &mut news),
            Observation::Node(change) => self.see_nodes(change, now),
            Observation::Job(source, change) => self.see_jobs(&source, change, now, &mut news),
            Observation::Pod(source, change) => self.see_pods(&source, change, now, &mut news),
            Observation::Done(_) => {}
        }
        news
    }

    fn see_tasks(&mut self, change: Change<Arc<PrewarmTask>>, now: Timestamp, news: &mut News) {
        let uid = |task: &PrewarmTask| task.uid().unwrap_or_default();
        match change {
            Change::Put(task) => {
                let arrives = self.tasks.insert(uid(&task), Arc::clone(&task)).is_none();
                if arrives {
                    self.adopt(&task, now, news);
                }
            }
            Change::Drop(task) => {
                let uid = uid(&task);
                self.tasks.remove(&uid);
                self.plans.remove(&(task.namespace().unwrap_or_default(), uid));
            }
            Change::Replace(tasks) => {
                let before = std::mem::take(&mut self.tasks);
                self.tasks = tasks.into_iter().map(|task| (uid(&task), task)).collect();
                let new: Vec<Arc<PrewarmTask>> = self
                    .tasks
                    .iter()
                    .filter(|(uid, _)| !before.contains_key(*uid))
                    .map(|(_, task)| Arc::clone(task))
                    .collect();
                for task in new {
                    self.adopt(&task, now, news);
                }
                self.complete.insert(Source::all("tasks"));
            }
        }
    }

    /// A task has come: workers that were seen before it may be its own.
    fn adopt(&mut self, task: &PrewarmTask, now: Timestamp, news: &mut News) {
        let uid = task.uid().unwrap_or_default();
        for worker in self.orphans.take(&task.namespace().unwrap_or_default(), |worker| worker.task_uid == uid) {
            let source = self.source_of(worker.kind, &worker.namespace);
            self.put(&source, worker, None, now, news);
        }
    }

    /// The watch that shows objects of a kind in a namespace.
    fn source_of(&self, kind: WorkerKind, namespace: &str) -> Source {
        let plural = plural(kind);
        let shows = |source: &&Source| source.kind == plural && source.covers(namespace);
        self.complete.iter().find(shows).cloned().unwrap_or_else(|| Source::all(plural))
    }

    fn see_plans(&mut self, source: &Source, change: Change<Sighting<OwnedPlan>>, news: &mut News) {
        match change {
            Change::Put(plan) => self.see_plan(source, plan, news),
            Change::Drop(Sighting::Ours(plan)) => drop(self.plans.remove(&(plan.namespace, plan.task_uid))),
            Change::Drop(Sighting::Foreign(stranger)) => self.foreign.remove(source, &stranger.key),
            Change::Replace(plans) => {
                self.plans.clear();
                self.foreign.clear(source);
                for plan in plans {
                    self.see_plan(source, plan, news);
                }
                self.complete.insert(source.clone());
            }
        }
    }

    fn see_plan(&mut self, source: &Source, plan: Sighting<OwnedPlan>, news: &mut News) {
        let plan = match plan {
            Sighting::Ours(plan) => plan,
            Sighting::Foreign(stranger) => return self.refuse(source, stranger, news),
        };
        let reason = match self.tasks.get(&plan.task_uid).map(|task| &task.metadata) {
            Some(meta) if meta.namespace.as_ref() != Some(&plan.namespace) => Some(Rejection::Namespace),
            Some(meta) => (meta.name.as_ref() != Some(&plan.task)).then_some(Rejection::Owner),
            None => {
                let waiting = self.plans.keys().filter(|(_, uid)| !self.tasks.contains_key(uid)).count();
                (waiting >= MAX_PLANS_WAITING).then_some(Rejection::UnknownTask)
            }
        };
        if let Some(reason) = reason {
            let name = plan_name(&plan.task_uid);
            return self.refuse(source, Stranger::new(&plan.namespace, &name, &plan.task_uid, reason), news);
        }
        self.plans.insert((plan.namespace.clone(), plan.task_uid.clone()), plan);
    }

    fn see_nodes(&mut self, change: Change<Facts>, now: Timestamp) {
        match change {
            Change::Put(node) => self.put_node(node, now),
            Change::Drop(node) => drop(self.nodes.remove(&node.name)),
            Change::Replace(nodes) => {
                let before = std::mem::take(&mut self.nodes);
                for node in nodes {
                    let since = before.get(&node.name).and_then(|node| node.unready_since);
                    self.insert_node(node, since, now);
                }
                self.complete.insert(Source::all("nodes"));
            }
        }
    }

    fn put_node(&mut self, node: Facts, now: Timestamp) {
        let since = self.nodes.get(&node.name).and_then(|node| node.unready_since);
        self.insert_node(node, since, now);
    }

    /// A node is not ready since we have seen it so: its own time is by another clock.
    fn insert_node(&mut self, mut node: Facts, since: Option<Timestamp>, now: Timestamp) {
        node.unready_since = (!node.ready).then(|| since.unwrap_or(now));
        self.nodes.insert(node.name.clone(), node);
    }

    fn see_jobs(&mut self, source: &Source, change: Change<Sighting<WorkerFacts>>, now: Timestamp, news: &mut News) {
        match change {
            Change::Put(Sighting::Ours(worker)) => {
                let before = self.withdraw(&worker).map(Known::counted);
                self.put(source, worker, before, now, news);
            }
            Change::Put(Sighting::Foreign(stranger)) => {
                self.expel(WorkerKind::Job, &stranger);
                self.refuse(source, stranger, news);
            }
            Change::Drop(Sighting::Ours(worker)) => {
                self.withdraw(&worker);
                self.orphans.remove(&worker.namespace, &worker.key());
                self.foreign.remove(source, &worker.key());
            }
            Change::Drop(Sighting::Foreign(stranger)) => {
                self.expel(WorkerKind::Job, &stranger);
                self.foreign.remove(source, &stranger.key);
            }
            Change::Replace(workers) => {
                let before = self.forget(WorkerKind::Job, source);
                self.orphans.clear(source);
                let first = !self.complete.contains(source);
                for worker in workers {
                    match worker {
                        Sighting::Ours(worker) => {
                            let known = Known::of(before.get(&worker.key()), &worker, first, now);
                            self.put(source, worker, known, now, news);
                        }
                        Sighting::Foreign(stranger) => self.refuse(source, stranger, news),
                    }
                }
                self.complete.insert(source.clone());
            }
        }
    }

    fn see_pods(&mut self, source: &Source, change: Change<Sighting<Box<SeenPod>>>, now: Timestamp, news: &mut News) {
        match change {
            Change::Put(Sighting::Ours(pod)) => {
                let bare = pod.claim.job.is_none();
                let before = bare.then(|| self.withdraw(&pod.claim.worker)).flatten().map(Known::counted);
                self.put_pod(source, pod, before, now, news);
            }
            Change::Put(Sighting::Foreign(stranger)) => {
                self.expel(WorkerKind::Pod, &stranger);
                self.refuse(source, stranger, news);
            }
            Change::Drop(Sighting::Ours(pod)) => {
                let id = pod.id();
                if pod.claim.job.is_none() {
                    self.withdraw(&pod.claim.worker);
                    self.orphans.remove(&pod.facts.namespace, &id);
                }
                self.podlings.remove(&pod.facts.namespace, &id);
                self.foreign.remove(source, &id);
                self.remove_pod(&pod.facts);
            }
            Change::Drop(Sighting::Foreign(stranger)) => {
                self.expel(WorkerKind::Pod, &stranger);
                self.foreign.remove(source, &stranger.key);
            }
            Change::Replace(pods) => {
                let before = self.forget(WorkerKind::Pod, source);
                self.podlings.clear(source);
                self.pods.retain(|_, pod| !source.covers(&pod.namespace));
                let first = !self.complete.contains(source);
                // A list repeats what registries have complained of before.
                let mut repeated = News::default();
                for pod in pods {
                    match pod {
                        Sighting::Ours(pod) => {
                            let known = Known::of(before.get(&pod.id()), &pod.claim.worker, first, now);
                            self.put_pod(source, pod, known, now, &mut repeated);
                        }
                        Sighting::Foreign(stranger) => self.refuse(source, stranger, news),
                    }
                }
                self.complete.insert(source.clone());
            }
        }
    }

    fn refuse(&mut self, source: &Source, stranger: Stranger, news: &mut News) {
        if self.foreign.put(source, &stranger) {
            news.stranger = Some((source.kind, stranger));
        }
    }

    /// Takes up a worker that agrees with itself, if it agrees with its task. Whether it counts.
    fn put(
        &mut self,
        source: &Source,
        worker: WorkerFacts,
        before: Option<Known>,
        now: Timestamp,
        news: &mut News,
    ) -> bool {
        let key = worker.key();
        let before = before.filter(|before| before.uid == worker.uid);
        let counted = before.as_ref().is_some_and(|before| before.counted);
        if let Err(reason) = self.check(&worker, counted) {
            self.refuse(source, Stranger::new(&worker.namespace, &worker.name, &worker.task_uid, reason), news);
            if reason == Rejection::UnknownTask {
                self.orphans.put(worker);
            }
            return false;
        }
        self.foreign.remove(source, &key);
        self.orphans.remove(&worker.namespace, &key);
        let since = before.and_then(|before| before.since).or(Some(now));
        let (namespace, is_job) = (worker.namespace.clone(), worker.kind == WorkerKind::Job);
        let worker = WorkerFacts { since, ..worker };
        self.workers.entry(worker.task_uid.clone()).or_default().insert(key.clone(), worker);
        if is_job {
            for pod in self.podlings.take(&namespace, |pod| pod.facts.key() == key) {
                let source = self.source_of(WorkerKind::Pod, &namespace);
                self.put_pod(&source, pod, None, now, news);
            }
        }
        true
    }

    /// Whether the worker counts. Of a task that is gone, those do that `counted` while it was there, and those in our own namespace,
    /// where only we make any: they are to be removed. Kubernetes removes the others, whose owner is gone.
    fn check(&self, worker: &WorkerFacts, counted: bool) -> Result<(), Rejection> {
        match self.tasks.get(&worker.task_uid) {
            Some(task) => check_task(worker, task)?,
            None if counted || worker.is_away() => {}
            None => return Err(Rejection::UnknownTask),
        }
        let full = self.workers.get(&worker.task_uid).is_some_and(|workers| workers.len() >= MAX_WORKERS_OF_TASK);
        if full { Err(Rejection::TooMany) } else { Ok(()) }
    }

    /// Takes out what is known of a worker. Its name follows from the task, so it is nowhere else.
    fn withdraw(&mut self, worker: &WorkerFacts) -> Option<WorkerFacts> {
        let workers = self.workers.get_mut(&worker.task_uid)?;
        let key = worker.key();
        let taken = if workers.get(&key)?.kind == worker.kind { workers.remove(&key) } else { None };
        if workers.is_empty() {
            self.workers.remove(&worker.task_uid);
        }
        taken
    }

    /// An object that counted may have been changed so that it does not any more.
    fn expel(&mut self, kind: WorkerKind, stranger: &Stranger) {
        let key = &stranger.key;
        let has = |workers: &&mut Workers| workers.get(key).is_some_and(|worker| worker.kind == kind);
        if let Some(worker) = self.workers.values_mut().find(has).and_then(|workers| workers.remove(key)) {
            self.workers.retain(|uid, workers| *uid != worker.task_uid || !workers.is_empty());
        }
        let Some((namespace, name)) = key.split_once('/') else { return };
        match kind {
            WorkerKind::Job => self.orphans.remove(namespace, key),
            WorkerKind::Pod => {
                self.podlings.remove(namespace, key);
                self.pods.retain(|_, pod| pod.name != name || pod.namespace != namespace);
            }
        }
    }

    /// Forgets all that a watch has shown of a kind of worker: it begins anew. What was known.
    fn forget(&mut self, kind: WorkerKind, source: &Source) -> Workers {
        let mut known = Workers::new();
        for workers in self.workers.values_mut() {
            let (old, kept) = std::mem::take(workers)
                .into_iter()
                .partition::<Workers, _>(|(_, worker)| worker.kind == kind && source.covers(&worker.namespace));
            *workers = kept;
            known.extend(old);
        }
        self.workers.retain(|_, workers| !workers.is_empty());
        self.foreign.clear(source);
        known
    }

    fn put_pod(&mut self, source: &Source, pod: Box<SeenPod>, before: Option<Known>, now: Timestamp, news: &mut News) {
        if pod.claim.job.is_none() {
            if !self.put(source, pod.claim.worker.clone(), before, now, news) {
                return self.remove_pod(&pod.facts);
            }
        } else if let Err(reason) = self.check_pod(&pod) {
            let PodFacts { namespace, name, task_uid, .. } = &pod.facts;
            self.refuse(source, Stranger::new(namespace, name, task_uid, reason), news);
            if reason == Rejection::UnknownJob {
                self.podlings.put(pod);
            }
            return;
        } else {
            self.foreign.remove(source, &pod.id());
            self.podlings.remove(&pod.facts.namespace, &pod.id());
        }
        let (key, SeenPod { facts: pod, pulls, .. }) = (pod.facts.key(), *pod);
        let known = self.pods.get(&key);
        if known.is_some_and(|known| known.name != pod.name && known.created > pod.created) {
            return;
        }
        let task = self.tasks.get(&pod.task_uid);
        // A registry is meant only where the pod pulls the very image that the task names.
        let is_meant = |complaint: &Complaint| {
            let named = task.and_then(|task| task.spec.images.get(usize::from(complaint.image)));
            let pulled = pulls.iter().find(|(index, _)| *index == complaint.image);
            named.zip(pulled).is_some_and(|(named, (_, pulled))| **named == **pulled)
        };
        news.complaints.extend(complaints(known, &pod).into_iter().filter(is_meant));
        self.pods.insert(key, pod);
    }

    /// Whether a Job's pod counts: its Job does. One that counted already goes on so when its Job is gone.
    fn check_pod(&self, pod: &SeenPod) -> Result<(), Rejection> {
        let key = pod.facts.key();
        let job = self.workers.get(&pod.claim.worker.task_uid).and_then(|workers| workers.get(&key));
        match job {
            Some(job) => check_job(&pod.claim, job),
            None if self.pods.get(&key).is_some_and(|known| known.name == pod.facts.name) => Ok(()),
            None => Err(Rejection::UnknownJob),
        }
    }

    fn remove_pod(&mut self, pod: &PodFacts) {
        let key = pod.key();
        if self.pods.get(&key).is_some_and(|known| known.name == pod.name) {
            self.pods.remove(&key);
        }
    }

    /// How many objects with our labels do not count, by kind and reason.
    pub(super) fn foreign(&self) -> BTreeMap<(&'static str, Rejection), usize> {
        self.foreign.counts()
    }

    /// Whether a collection of the task's workers in the namespace may contain what others made.
    pub(super) fn is_contested(&self, namespace: &str, uid: &str) -> bool {
        self.foreign.names(namespace, uid)
    }

    /// Tasks that have not ended, by UID.
    pub(super) fn open_tasks(&self) -> BTreeMap<String, Arc<PrewarmTask>> {
        let open = |task: &PrewarmTask| !task.phase().is_terminal() && task.metadata.deletion_timestamp.is_none();
        self.tasks.iter().filter(|(_, task)| open(task)).map(|(uid, task)| (uid.clone(), Arc::clone(task))).collect()
    }

    /// Tasks that have ended, by UID.
    pub(super) fn ended_tasks(&self) -> impl Iterator<Item = (&String, &Arc<PrewarmTask>)> {
        let ended = |task: &PrewarmTask| task.phase().is_terminal() && task.metadata.deletion_timestamp.is_none();
        self.tasks.iter().filter(move |(_, task)| ended(task))
    }

    pub(super) fn task(&self, uid: &str) -> Option<&Arc<PrewarmTask>> {
        self.tasks.get(uid)
    }

    pub(super) fn nodes(&self) -> &BTreeMap<String, Facts> {
        &self.nodes
    }

    pub(super) fn pods(&self) -> &Pods {
        &self.pods
    }

    /// All workers, by their task's UID.
    pub(super) fn workers(&self) -> &HashMap<String, Workers> {
        &self.workers
    }

    pub(super) fn workers_of(&self, uid: &str) -> Option<&Workers> {
        self.workers.get(uid)
    }

    pub(super) fn plan_of(&self, uid: &str) -> Option<&Arc<PrewarmPlanSpec>> {
        let namespace = self.tasks.get(uid)?.namespace().unwrap_or_default();
        self.plans.get(&(namespace, uid.to_owned())).map(|plan| &plan.spec)
    }

    /// How many workers of a task count in the limits: not more than the task may work on at once, whoever made them. Before it
    /// has a plan it has none.
    pub(super) fn most_at_work(&self, uid: &str) -> usize {
        let most =
            self.plan_of(uid).map_or(0, |plan| if plan.at_once > 0 { plan.at_once as usize } else { plan.nodes.len() });
        if self.tasks.contains_key(uid) { most } else { MOST_OF_DELETED }
    }

    /// The nodes where workers of a task are alive.
    pub(super) fn alive(&self, uid: &str) -> impl Iterator<Item = &str> {
        let workers = self.workers.get(uid).into_iter().flat_map(BTreeMap::values);
        workers.filter(|worker| is_alive(worker)).map(|worker| worker.node.as_str())
    }
}

/// Whether the worker counts against the limits: a Job does until the Job controller has finished it, which is a moment
/// after its pod has ended. What stays only to hold its images does not.
pub(super) fn is_alive(worker: &WorkerFacts) -> bool {
    !worker.finished
}

/// Whether the worker may still pull, or may begin to.
pub(super) fn may_pull(worker: &WorkerFacts, pods: &Pods) -> bool {
    !worker.finished && !pods.get(&worker.key()).is_some_and(|pod| pod.phase.is_final())
}

/// Whether the worker has its node to itself: while it pulls, for `alone` at most, and not while all that it has left waits in
/// the kubelet's back-off, where nothing is pulled for minutes.
pub(super) fn holds_node(worker: &WorkerFacts, pods: &Pods, now: Timestamp, alone: SignedDuration) -> bool {
    let waits = || pods.get(&worker.key()).is_some_and(PodFacts::waits_in_back_off);
    let young = worker.since.is_none_or(|since| now.duration_since(since) < alone);
    is_alive(worker) && young && !waits()
}

/// The name of a task's plan.
pub(super) fn plan_name(uid: &str) -> String {
    format!("plan-{uid}")
}

fn plural(kind: WorkerKind) -> &'static str {
    if kind == WorkerKind::Job { "jobs" } else { "pods" }
}

/// What was known of a worker before an observation.
struct Known {
    uid: Box<str>,
    since: Option<Timestamp>,
    /// Whether it counted.
    counted: bool,
}

impl Known {
    fn counted(worker: WorkerFacts) -> Self {
        Self { uid: worker.uid, since: worker.since, counted: true }
    }

    /// Of a list. In the `first`, nothing was known; then a worker is at work since its creation.
    fn of(before: Option<&WorkerFacts>, worker: &WorkerFacts, first: bool, now: Timestamp) -> Option<Self> {
        let made = || worker.created.map(|created| created.min(now));
        match before {
            Some(before) => Some(Self::counted(before.clone())),
            None => first.then(|| Self { uid: worker.uid.clone(), since: made(), counted: false }),
        }
    }
}

/// What registries complain of in a pod that was not there before. The back-off between two tries repeats the words of the
/// last one, and is no request.
fn complaints(before: Option<&PodFacts>, pod: &PodFacts) -> Vec<Complaint> {
    let new = |container: &&crate::worker::ContainerFacts| {
        let old = before.and_then(|pod| pod.container(container.image));
        old.is_none_or(|old| old.state != container.state)
    };
    let complaint = |container: &crate::worker::ContainerFacts| match &container.state {
        ContainerState::Waiting(Some(words)) if words.0 != "ImagePullBackOff" && throttles(&words.1) => {
            Some(Complaint { task_uid: pod.task_uid.clone(), image: container.image, message: words.1.clone() })
        }
        _ => None,
    };
    pod.containers.iter().filter(new).filter_map(complaint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        task::PrewarmTaskSpec,
        worker::{ContainerFacts, PodPhase, provenance::PodClaim},
    };

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    fn worker(namespace: &str, name: &str, kind: WorkerKind) -> WorkerFacts {
        WorkerFacts {
            kind,
            namespace: namespace.into(),
            name: name.into(),
            uid: format!("uid-of-{name}").into(),
            task_uid: "u".into(),
            task: "t".into(),
            task_namespace: "shop".into(),
            created: Some(Timestamp::from_second(900).unwrap()),
            ..WorkerFacts::default()
        }
    }

    fn world(kind: WorkerKind) -> World {
        let spec = PrewarmTaskSpec { worker: kind, ..PrewarmTaskSpec::new(vec!["a:1".into()]) };
        let mut task = PrewarmTask::new("t", spec);
        (task.metadata.namespace, task.metadata.uid) = (Some("shop".into()), Some("u".into()));
        let mut world = World::new(9);
        world.observe(Observation::Task(Change::Put(Arc::new(task))), now());
        world
    }

    fn pod(worker: WorkerFacts, words: (&str, &str)) -> Box<SeenPod> {
        let container = ContainerFacts { image: 0, state: ContainerState::waiting(words.0, words.1), image_id: None };
        let facts = PodFacts {
            namespace: worker.namespace.clone(),
            name: if worker.kind == WorkerKind::Pod { worker.name.clone() } else { format!("{}-x", worker.name) },
            worker: worker.name.clone(),
            task_uid: "u".into(),
            containers: [container].into(),
            ..PodFacts::default()
        };
        let job = (worker.kind == WorkerKind::Job).then(|| worker.uid.clone());
        Box::new(SeenPod { facts, claim: PodClaim { worker, job }, pulls: [(0, "a:1".into())].into() })
    }

    fn at(namespace: &str) -> Source {
        Source { kind: "jobs", namespace: Some(namespace.into()) }
    }

    fn see_pod(world: &mut World, pod: Box<SeenPod>) -> News {
        world.observe(Observation::Pod(Source::all("pods"), Change::Put(Sighting::Ours(pod))), now())
    }

    fn see_job(world: &mut World, job: WorkerFacts) {
        world.observe(Observation::Job(Source::all("jobs"), Change::Put(Sighting::Ours(job))), now());
    }

    #[test]
    fn a_list_of_one_namespace_leaves_the_others_alone() {
        let mut world = world(WorkerKind::Job);
        let put = |namespace: &str| Change::Replace(vec![Sighting::Ours(worker(namespace, "a", WorkerKind::Job))]);
        world.observe(Observation::Job(at("shop"), put("shop")), now());
        world.observe(Observation::Job(at("own"), put("own")), now());
        assert_eq!(world.workers_of("u").unwrap().len(), 2);
        world.observe(Observation::Job(at("shop"), Change::Replace(Vec::new())), now());
        assert_eq!(world.workers_of("u").unwrap().keys().collect::<Vec<_>>(), ["own/a"]);
    }

    #[test]
    fn a_bare_pod_is_a_worker_until_it_goes() {
        let mut world = world(WorkerKind::Pod);
        let mut bare = pod(worker("shop", "a", WorkerKind::Pod), ("ContainerCreating", ""));
        see_pod(&mut world, bare.clone());
        assert_eq!(world.alive("u").count(), 1);
        bare.facts.phase = PodPhase::Succeeded;
        bare.claim.worker.finished = true;
        see_pod(&mut world, bare.clone());
        assert_eq!((world.alive("u").count(), world.workers_of("u").unwrap().len()), (0, 1));
        world.observe(Observation::Pod(Source::all("pods"), Change::Drop(Sighting::Ours(bare))), now());
        assert_eq!((world.workers_of("u"), world.pods().len()), (None, 0));
    }

    #[test]
    fn a_complaint_counts_once() {
        let mut world = world(WorkerKind::Pod);
        let mut put = |words: (&str, &str)| {
            see_pod(&mut world, pod(worker("shop", "a", WorkerKind::Pod), words)).complaints.len()
        };
        let said = ("ErrImagePull", "429 Too Many Requests");
        assert_eq!(put(("ContainerCreating", "")), 0);
        assert_eq!(put(said), 1);
        assert_eq!(put(said), 0);
        assert_eq!(put(("ImagePullBackOff", "429 Too Many Requests")), 0);
        assert_eq!(put(said), 1, "the next try");
        assert_eq!(put(("ErrImagePull", "not found")), 0);
    }

    #[test]
    fn what_pulls_another_image_says_nothing_of_the_tasks_registry() {
        let mut world = world(WorkerKind::Pod);
        let mut other = pod(worker("shop", "a", WorkerKind::Pod), ("ErrImagePull", "429 Too Many Requests"));
        other.pulls = [(0, "attacker.example/a:1".into())].into();
        assert_eq!(see_pod(&mut world, other).complaints, []);
    }

    #[test]
    fn the_order_of_arrival_is_of_no_matter() {
        let job = || worker("shop", "a", WorkerKind::Job);
        let mut world = world(WorkerKind::Job);
        let task = Arc::clone(world.task("u").unwrap());
        world.observe(Observation::Task(Change::Drop(Arc::clone(&task))), now());
        see_pod(&mut world, pod(job(), ("ContainerCreating", "")));
        see_job(&mut world, job());
        assert_eq!((world.workers_of("u"), world.pods().len()), (None, 0));
        let counts = world.foreign();
        assert_eq!((counts[&("jobs", Rejection::UnknownTask)], counts[&("pods", Rejection::UnknownJob)]), (1, 1));
        world.observe(Observation::Task(Change::Put(task)), now());
        assert_eq!((world.workers_of("u").unwrap().len(), world.pods().len()), (1, 1));
        assert_eq!((world.orphans.len(), world.podlings.len(), world.foreign().len()), (0, 0, 0));
    }

    #[test]
    fn workers_of_a_deleted_task_count_until_they_go() {
        let job = || worker("shop", "a", WorkerKind::Job);
        let mut world = world(WorkerKind::Job);
        see_job(&mut world, job());
        let task = Arc::clone(world.task("u").unwrap());
        world.observe(Observation::Task(Change::Drop(task)), now());
        let deleting = WorkerFacts { deleting: true, ..job() };
        see_job(&mut world, deleting.clone());
        assert!(world.workers_of("u").unwrap()["shop/a"].deleting);
        see_job(&mut world, WorkerFacts { uid: "another".into(), ..deleting });
        assert_eq!(world.workers_of("u"), None, "one that was made since is not ours");
        see_job(&mut world, worker("own", "b", WorkerKind::Job));
        assert_eq!(world.workers_of("u").unwrap().len(), 1, "in our own namespace only we make any");
    }

    #[test]
    fn a_worker_is_at_work_since_we_know_it() {
        let since = |world: &World, key: &str| world.workers_of("u").unwrap()[key].since.unwrap().as_second();
        let list = || Change::Replace(vec![Sighting::Ours(worker("shop", "a", WorkerKind::Job))]);
        let mut world = world(WorkerKind::Job);
        world.observe(Observation::Job(Source::all("jobs"), list()), now());
        assert_eq!(since(&world, "shop/a"), 900, "a predecessor made it");
        see_job(&mut world, worker("shop", "b", WorkerKind::Job));
        assert_eq!(since(&world, "shop/b"), 1000, "its time by another clock is of no matter");
        let later = Timestamp::from_second(2_000).unwrap();
        let list = Change::Replace(vec![
            Sighting::Ours(worker("shop", "b", WorkerKind::Job)),
            Sighting::Ours(worker("shop", "c", WorkerKind::Job)),
        ]);
        world.observe(Observation::Job(Source::all("jobs"), list), later);
        assert_eq!((since(&world, "shop/b"), since(&world, "shop/c")), (1000, 2000));
    }

    #[test]
    fn what_others_change_counts_no_more() {
        let mut world = world(WorkerKind::Job);
        see_job(&mut world, worker("shop", "a", WorkerKind::Job));
        see_pod(&mut world, pod(worker("shop", "a", WorkerKind::Job), ("ContainerCreating", "")));
        let foreign = |name: &str| Sighting::Foreign(Stranger::new("shop", name, "u", Rejection::Labels));
        world.observe(Observation::Job(Source::all("jobs"), Change::Put(foreign("a"))), now());
        world.observe(
            Observation::Pod(
                Source::all("pods"),
                Change::Put(Sighting::Foreign(Stranger::new("shop", "a-x", "u", Rejection::Labels))),
            ),
            now(),
        );
        assert_eq!((world.workers_of("u"), world.pods().len()), (None, 0));
        assert!(world.is_contested("shop", "u") && !world.is_contested("own", "u"));
        world.observe(Observation::Job(Source::all("jobs"), Change::Drop(foreign("a"))), now());
        world.observe(
            Observation::Pod(
                Source::all("pods"),
                Change::Drop(Sighting::Foreign(Stranger::new("shop", "a-x", "u", Rejection::Labels))),
            ),
            now(),
        );
        assert!(!world.is_contested("shop", "u"));
    }

    #[test]
    fn a_node_is_not_ready_since_we_know_it() {
        let mut world = world(WorkerKind::Job);
        let unready = || {
            let mut node = Facts::sample("n1");
            (node.ready, node.unready_since) = (false, Some(Timestamp::UNIX_EPOCH));
            node
        };
        world.observe(Observation::Node(Change::Put(unready())), now());
        let later = Timestamp::from_second(2_000).unwrap();
        world.observe(Observation::Node(Change::Put(unready())), later);
        assert_eq!(world.nodes()["n1"].unready_since, Some(now()));
        world.observe(Observation::Node(Change::Put(Facts::sample("n1"))), later);
        assert_eq!(world.nodes()["n1"].unready_since, None);
    }
}
