//! What the watches have told, in compact form.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use kube::ResourceExt;

use super::watches::{Change, Observation};
use crate::{
    node::Facts,
    task::{PrewarmPlanSpec, PrewarmTask},
    worker::{JobFacts, PodFacts},
};

/// Jobs by name.
pub(super) type Jobs = BTreeMap<String, JobFacts>;
/// Pods by namespace and Job; the newest where a Job has had several.
pub(super) type Pods = HashMap<(String, String), PodFacts>;

/// A plan and the task that it belongs to.
#[derive(Debug, Clone)]
pub(super) struct OwnedPlan {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) task_uid: String,
    pub(super) spec: Arc<PrewarmPlanSpec>,
}

/// Everything known of the cluster.
#[derive(Default)]
pub(super) struct World {
    tasks: HashMap<String, Arc<PrewarmTask>>,
    plans: HashMap<(String, String), OwnedPlan>,
    nodes: BTreeMap<String, Facts>,
    jobs: HashMap<String, Jobs>,
    pods: Pods,
    complete: HashSet<&'static str>,
}

/// How many kinds are watched.
const KINDS: usize = 5;

impl World {
    /// Whether every watch has delivered its first list: before that, nothing may be decided.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.len() == KINDS
    }

    pub(super) fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Task(change) => self.tasks(change),
            Observation::Plan(change) => {
                self.apply("plan", change, |w| w.plans.clear(), World::put_plan, World::drop_plan);
            }
            Observation::Node(change) => self.apply(
                "node",
                change,
                |w| w.nodes.clear(),
                |w, node| {
                    w.nodes.insert(node.name.clone(), node);
                },
                |w, node| {
                    w.nodes.remove(&node.name);
                },
            ),
            Observation::Job(change) => self.apply("job", change, |w| w.jobs.clear(), World::put_job, World::drop_job),
            Observation::Pod(change) => self.apply("pod", change, |w| w.pods.clear(), World::put_pod, World::drop_pod),
            Observation::Done(_) => {}
        }
    }

    fn apply<T>(
        &mut self,
        kind: &'static str,
        change: Change<T>,
        clear: impl Fn(&mut Self),
        put: impl Fn(&mut Self, T),
        drop: impl Fn(&mut Self, T),
    ) {
        match change {
            Change::Put(item) => put(self, item),
            Change::Drop(item) => drop(self, item),
            Change::Replace(items) => {
                clear(self);
                for item in items {
                    put(self, item);
                }
                self.complete.insert(kind);
            }
        }
    }

    fn tasks(&mut self, change: Change<Arc<PrewarmTask>>) {
        let uid = |task: &PrewarmTask| task.uid().unwrap_or_default();
        self.apply(
            "task",
            change,
            |w| w.tasks.clear(),
            |w, task| {
                w.tasks.insert(uid(&task), task);
            },
            |w, task| {
                w.tasks.remove(&uid(&task));
            },
        );
    }

    fn put_plan(&mut self, plan: OwnedPlan) {
        self.plans.insert((plan.namespace.clone(), plan.name.clone()), plan);
    }

    #[allow(clippy::needless_pass_by_value, reason = "the form that apply() takes")]
    fn drop_plan(&mut self, plan: OwnedPlan) {
        self.plans.remove(&(plan.namespace.clone(), plan.name.clone()));
    }

    fn put_job(&mut self, job: JobFacts) {
        self.jobs.entry(job.task_uid.clone()).or_default().insert(job.name.clone(), job);
    }

    #[allow(clippy::needless_pass_by_value, reason = "the form that apply() takes")]
    fn drop_job(&mut self, job: JobFacts) {
        if let Some(jobs) = self.jobs.get_mut(&job.task_uid) {
            jobs.remove(&job.name);
            if jobs.is_empty() {
                self.jobs.remove(&job.task_uid);
            }
        }
    }

    fn put_pod(&mut self, pod: PodFacts) {
        let key = (pod.namespace.clone(), pod.job.clone());
        let newer = self.pods.get(&key).is_none_or(|known| known.name == pod.name || known.created <= pod.created);
        if newer {
            self.pods.insert(key, pod);
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "the form that apply() takes")]
    fn drop_pod(&mut self, pod: PodFacts) {
        let key = (pod.namespace.clone(), pod.job.clone());
        if self.pods.get(&key).is_some_and(|known| known.name == pod.name) {
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

    pub(super) fn nodes(&self) -> &BTreeMap<String, Facts> {
        &self.nodes
    }

    pub(super) fn pods(&self) -> &Pods {
        &self.pods
    }

    pub(super) fn jobs_of(&self, uid: &str) -> Option<&Jobs> {
        self.jobs.get(uid)
    }

    pub(super) fn job_count(&self) -> usize {
        self.jobs.values().map(BTreeMap::len).sum()
    }

    pub(super) fn plan_of(&self, uid: &str) -> Option<&Arc<PrewarmPlanSpec>> {
        self.plans.values().find(|plan| plan.task_uid == uid).map(|plan| &plan.spec)
    }

    /// Nodes with a worker: no second one may stand in front of user pods there.
    pub(super) fn busy_nodes(&self) -> HashSet<String> {
        self.jobs.values().flat_map(BTreeMap::values).map(|job| job.node.clone()).collect()
    }
}
