//! What the watches have told, in compact form.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use kube::ResourceExt;

use super::observation::{Change, Observation, OwnedPlan, SeenPod, Source};
use crate::{
    node::Facts,
    task::{PrewarmPlanSpec, PrewarmTask, WorkerKind},
    worker::{ContainerState, PodFacts, WorkerFacts, throttles},
};

/// Workers of a task, by namespace and name.
pub(super) type Workers = BTreeMap<String, WorkerFacts>;
/// Pods by namespace and worker; the newest where a Job has had several.
pub(super) type Pods = HashMap<String, PodFacts>;

/// A registry asked for fewer requests, in its answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) task_uid: String,
    /// The image's index in the task.
    pub(super) image: u16,
    pub(super) message: String,
}

/// Everything known of the cluster.
pub(super) struct World {
    tasks: HashMap<String, Arc<PrewarmTask>>,
    plans: HashMap<String, OwnedPlan>,
    nodes: BTreeMap<String, Facts>,
    workers: HashMap<String, Workers>,
    pods: Pods,
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
            complete: HashSet::new(),
            sources,
        }
    }

    /// Whether every watch has delivered its first list: before that, nothing may be decided.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.len() >= self.sources
    }

    /// Takes up what a watch tells; what registries complain of in it.
    pub(super) fn observe(&mut self, observation: Observation) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        match observation {
            Observation::Task(change) => {
                let uid = |task: &PrewarmTask| task.uid().unwrap_or_default();
                apply_map(&mut self.tasks, change, |task| uid(task), &mut self.complete, Source::all("tasks"));
            }
            Observation::Plan(change) => {
                let key = |plan: &OwnedPlan| plan.task_uid.clone();
                apply_map(&mut self.plans, change, key, &mut self.complete, Source::all("plans"));
            }
            Observation::Node(change) => match change {
                Change::Put(node) => drop(self.nodes.insert(node.name.clone(), node)),
                Change::Drop(node) => drop(self.nodes.remove(&node.name)),
                Change::Replace(nodes) => {
                    self.nodes = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
                    self.complete.insert(Source::all("nodes"));
                }
            },
            Observation::Job(source, change) => match change {
                Change::Put(worker) => self.put(worker),
                Change::Drop(worker) => self.remove(&worker),
                Change::Replace(workers) => {
                    self.forget(WorkerKind::Job, &source);
                    for worker in workers {
                        self.put(worker);
                    }
                    self.complete.insert(source);
                }
            },
            Observation::Pod(source, change) => match change {
                Change::Put(pod) => complaints = self.put_pod(pod),
                Change::Drop(pod) => self.remove_pod(&pod),
                Change::Replace(pods) => {
                    self.forget(WorkerKind::Pod, &source);
                    self.pods.retain(|_, pod| !source.covers(&pod.namespace));
                    for pod in pods {
                        self.put_pod(pod);
                    }
                    self.complete.insert(source);
                }
            },
            Observation::Done(_) => {}
        }
        complaints
    }

    fn put(&mut self, worker: WorkerFacts) {
        self.workers.entry(worker.task_uid.clone()).or_default().insert(worker.key(), worker);
    }

    fn remove(&mut self, worker: &WorkerFacts) {
        if let Some(workers) = self.workers.get_mut(&worker.task_uid) {
            workers.remove(&worker.key());
            if workers.is_empty() {
                self.workers.remove(&worker.task_uid);
            }
        }
    }

    fn forget(&mut self, kind: WorkerKind, source: &Source) {
        self.workers.retain(|_, workers| {
            workers.retain(|_, worker| worker.kind != kind || !source.covers(&worker.namespace));
            !workers.is_empty()
        });
    }

    fn put_pod(&mut self, pod: Box<SeenPod>) -> Vec<Complaint> {
        if let Some(worker) = pod.worker {
            self.put(worker);
        }
        let (key, pod) = (pod.facts.key(), pod.facts);
        let known = self.pods.get(&key);
        if known.is_some_and(|known| known.name != pod.name && known.created > pod.created) {
            return Vec::new();
        }
        let complaints = complaints(known, &pod);
        self.pods.insert(key, pod);
        complaints
    }

    fn remove_pod(&mut self, pod: &SeenPod) {
        if let Some(worker) = &pod.worker {
            self.remove(worker);
        }
        let key = pod.facts.key();
        if self.pods.get(&key).is_some_and(|known| known.name == pod.facts.name) {
            self.pods.remove(&key);
        }
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
        self.plans.get(uid).map(|plan| &plan.spec)
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

fn apply_map<T>(
    map: &mut HashMap<String, T>,
    change: Change<T>,
    key: impl Fn(&T) -> String,
    complete: &mut HashSet<Source>,
    source: Source,
) {
    match change {
        Change::Put(item) => drop(map.insert(key(&item), item)),
        Change::Drop(item) => drop(map.remove(&key(&item))),
        Change::Replace(items) => {
            *map = items.into_iter().map(|item| (key(&item), item)).collect();
            complete.insert(source);
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
    use crate::worker::{ContainerFacts, PodPhase};

    fn worker(namespace: &str, name: &str, kind: WorkerKind) -> WorkerFacts {
        WorkerFacts {
            kind,
            namespace: namespace.into(),
            name: name.into(),
            task_uid: "u".into(),
            ..WorkerFacts::default()
        }
    }

    fn pod(worker: &str, words: (&str, &str)) -> SeenPod {
        let container = ContainerFacts { image: 0, state: ContainerState::waiting(words.0, words.1), image_id: None };
        let facts = PodFacts {
            namespace: "shop".into(),
            name: worker.into(),
            worker: worker.into(),
            task_uid: "u".into(),
            containers: [container].into(),
            ..PodFacts::default()
        };
        SeenPod { facts, worker: None }
    }

    fn at(namespace: &str) -> Source {
        Source { kind: "jobs", namespace: Some(namespace.into()) }
    }

    #[test]
    fn a_list_of_one_namespace_leaves_the_others_alone() {
        let mut world = World::new(9);
        let put = |namespace: &str| Change::Replace(vec![worker(namespace, "a", WorkerKind::Job)]);
        world.observe(Observation::Job(at("shop"), put("shop")));
        world.observe(Observation::Job(at("own"), put("own")));
        assert_eq!(world.workers_of("u").unwrap().len(), 2);
        world.observe(Observation::Job(at("shop"), Change::Replace(Vec::new())));
        assert_eq!(world.workers_of("u").unwrap().keys().collect::<Vec<_>>(), ["own/a"]);
    }

    #[test]
    fn a_bare_pod_is_a_worker_until_it_goes() {
        let mut world = World::new(9);
        let source = || Source { kind: "pods", namespace: None };
        let mut bare = pod("a", ("ContainerCreating", ""));
        bare.worker = Some(worker("shop", "a", WorkerKind::Pod));
        world.observe(Observation::Pod(source(), Change::Put(Box::new(bare.clone()))));
        assert_eq!(world.alive("u").count(), 1);
        bare.facts.phase = PodPhase::Succeeded;
        bare.worker = bare.worker.map(|worker| WorkerFacts { finished: true, ..worker });
        world.observe(Observation::Pod(source(), Change::Put(Box::new(bare.clone()))));
        assert_eq!((world.alive("u").count(), world.workers_of("u").unwrap().len()), (0, 1));
        world.observe(Observation::Pod(source(), Change::Drop(Box::new(bare))));
        assert_eq!((world.workers_of("u"), world.pods().len()), (None, 0));
    }

    #[test]
    fn a_complaint_counts_once() {
        let mut world = World::new(9);
        let mut put =
            |pod: SeenPod| world.observe(Observation::Pod(Source::all("pods"), Change::Put(Box::new(pod)))).len();
        let said = ("ErrImagePull", "429 Too Many Requests");
        assert_eq!(put(pod("a", ("ContainerCreating", ""))), 0);
        assert_eq!(put(pod("a", said)), 1);
        assert_eq!(put(pod("a", said)), 0);
        assert_eq!(put(pod("a", ("ImagePullBackOff", "429 Too Many Requests"))), 0);
        assert_eq!(put(pod("a", said)), 1, "the next try");
        assert_eq!(put(pod("a", ("ErrImagePull", "not found"))), 0);
    }
}
