//! Compact state of the cluster, updated from watch events. Pure: no client, no clock, no I/O.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    node::NodeInfo,
    task::{PrewarmPlanSpec, PrewarmTask, WorkerKind},
    worker::{
        ContainerState, PodInfo, WorkerInfo, is_registry_rate_limit,
        provenance::{ProvenanceError, verify_against_job, verify_against_task},
    },
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    foreign::{ForeignIndex, ForeignObject, PendingObjects},
    observation::{Observation, OwnedPlan, Ownership, WatchChange, WatchSource, WorkerPod},
};

/// Workers of one task, by `namespace/name`.
pub(super) type Workers = BTreeMap<String, WorkerInfo>;
/// Pods by `namespace/worker`. Holds the newest pod where a Job has had several.
pub(super) type Pods = HashMap<String, PodInfo>;

/// Maximum number of workers of one task: 5,000 nodes with two retained parts each. A worker takes
/// 0.5 KB.
const MAX_WORKERS_OF_TASK: usize = 10_000;
/// Maximum number of workers of a deleted task that count against the limits. Its plan is deleted
/// with it, and a batch is rarely larger.
const MAX_ACTIVE_OF_DELETED_TASK: usize = 100;
/// Maximum number of plans kept whose task is not in the cache. A plan takes 250 KB for 5,000
/// nodes. Plans are created after their tasks, and the watches differ by moments only.
const MAX_PENDING_PLANS: usize = 16;

/// Request of a registry to slow down, received in the answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RateLimitNotice {
    pub(super) task_uid: String,
    /// Index of the image in the task.
    pub(super) image: u16,
    pub(super) message: String,
}

/// Changes that one observation causes outside of the cluster state.
#[derive(Debug, Default)]
pub(super) struct ObservationReport {
    pub(super) rate_limits: Vec<RateLimitNotice>,
    /// Foreign object that was not known before, with its kind.
    pub(super) new_foreign: Option<(&'static str, ForeignObject)>,
}

/// Tasks, plans, nodes, workers and pods as the informers last saw them.
///
/// Contains only workers and pods whose provenance is verified, see `worker::provenance`. All
/// limits and results are computed from them.
pub(super) struct ClusterState {
    tasks: HashMap<String, Arc<PrewarmTask>>,
    /// Plans by namespace and UID of the task.
    plans: HashMap<(String, String), OwnedPlan>,
    nodes: BTreeMap<String, NodeInfo>,
    workers: HashMap<String, Workers>,
    pods: Pods,
    foreign: ForeignIndex,
    /// Workers whose task is not in the cache.
    pending_workers: PendingObjects<WorkerInfo>,
    /// Pods whose Job is not in the cache.
    pending_pods: PendingObjects<Box<WorkerPod>>,
    synced: HashSet<WatchSource>,
    /// Number of watches.
    watch_count: usize,
}

impl ClusterState {
    /// Creates an empty state that is complete after `sources` watches have delivered their first
    /// lists.
    pub(super) fn new(sources: usize) -> Self {
        Self {
            tasks: HashMap::new(),
            plans: HashMap::new(),
            nodes: BTreeMap::new(),
            workers: HashMap::new(),
            pods: Pods::new(),
            foreign: ForeignIndex::default(),
            pending_workers: PendingObjects::default(),
            pending_pods: PendingObjects::default(),
            synced: HashSet::new(),
            watch_count: sources,
        }
    }

    /// Reports whether every watch has delivered its first list. No decision may be made before.
    pub(super) fn is_synced(&self) -> bool {
        self.synced.len() >= self.watch_count
    }

    /// Applies a watch event at the time `now` of the controller's clock.
    pub(super) fn apply(&mut self, observation: Observation, now: Timestamp) -> ObservationReport {
        let mut news = ObservationReport::default();
        match observation {
            Observation::Task(change) => self.apply_tasks(change, now, &mut news),
            Observation::Plan(source, change) => self.apply_plans(&source, change, &mut news),
            Observation::Node(change) => self.apply_nodes(change, now),
            Observation::Job(source, change) => self.apply_jobs(&source, change, now, &mut news),
            Observation::Pod(source, change) => self.apply_pods(&source, change, now, &mut news),
            Observation::EffectFinished(_) => {}
        }
        news
    }

    fn apply_tasks(
        &mut self,
        change: WatchChange<Arc<PrewarmTask>>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        let uid = |task: &PrewarmTask| task.uid().unwrap_or_default();
        match change {
            WatchChange::Applied(task) => {
                let arrives = self.tasks.insert(uid(&task), Arc::clone(&task)).is_none();
                if arrives {
                    self.add_pending_workers(&task, now, news);
                }
            }
            WatchChange::Deleted(task) => {
                let uid = uid(&task);
                self.tasks.remove(&uid);
                self.plans.remove(&(task.namespace().unwrap_or_default(), uid));
            }
            WatchChange::Restarted(tasks) => {
                let before = std::mem::take(&mut self.tasks);
                self.tasks = tasks.into_iter().map(|task| (uid(&task), task)).collect();
                let new: Vec<Arc<PrewarmTask>> = self
                    .tasks
                    .iter()
                    .filter(|(uid, _)| !before.contains_key(*uid))
                    .map(|(_, task)| Arc::clone(task))
                    .collect();
                for task in new {
                    self.add_pending_workers(&task, now, news);
                }
                self.synced.insert(WatchSource::all("tasks"));
            }
        }
    }

    /// Adds the pending workers of a task that has just arrived.
    fn add_pending_workers(
        &mut self,
        task: &PrewarmTask,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        let uid = task.uid().unwrap_or_default();
        for worker in self
            .pending_workers
            .take_matching(&task.namespace().unwrap_or_default(), |worker| worker.task_uid == uid)
        {
            let source = self.watch_source(worker.kind, &worker.namespace);
            self.add_worker(&source, worker, None, now, news);
        }
    }

    /// Returns the watch that delivers objects of a kind in a namespace.
    fn watch_source(&self, kind: WorkerKind, namespace: &str) -> WatchSource {
        let plural = plural(kind);
        let shows = |source: &&WatchSource| source.kind == plural && source.covers(namespace);
        self.synced.iter().find(shows).cloned().unwrap_or_else(|| WatchSource::all(plural))
    }

    fn apply_plans(
        &mut self,
        source: &WatchSource,
        change: WatchChange<Ownership<OwnedPlan>>,
        news: &mut ObservationReport,
    ) {
        match change {
            WatchChange::Applied(plan) => self.apply_plan(source, plan, news),
            WatchChange::Deleted(Ownership::Ours(plan)) => {
                drop(self.plans.remove(&(plan.namespace, plan.task_uid)));
            }
            WatchChange::Deleted(Ownership::Foreign(stranger)) => {
                self.foreign.remove(source, &stranger.key);
            }
            WatchChange::Restarted(plans) => {
                self.plans.clear();
                self.foreign.clear(source);
                for plan in plans {
                    self.apply_plan(source, plan, news);
                }
                self.synced.insert(source.clone());
            }
        }
    }

    fn apply_plan(
        &mut self,
        source: &WatchSource,
        plan: Ownership<OwnedPlan>,
        news: &mut ObservationReport,
    ) {
        let plan = match plan {
            Ownership::Ours(plan) => plan,
            Ownership::Foreign(stranger) => return self.add_foreign(source, stranger, news),
        };
        let reason = match self.tasks.get(&plan.task_uid).map(|task| &task.metadata) {
            Some(meta) if meta.namespace.as_ref() != Some(&plan.namespace) => {
                Some(ProvenanceError::Namespace)
            }
            Some(meta) => {
                (meta.name.as_ref() != Some(&plan.task)).then_some(ProvenanceError::Owner)
            }
            None => {
                let waiting =
                    self.plans.keys().filter(|(_, uid)| !self.tasks.contains_key(uid)).count();
                (waiting >= MAX_PENDING_PLANS).then_some(ProvenanceError::UnknownTask)
            }
        };
        if let Some(reason) = reason {
            let name = plan_name(&plan.task_uid);
            return self.add_foreign(
                source,
                ForeignObject::new(&plan.namespace, &name, &plan.task_uid, reason),
                news,
            );
        }
        self.plans.insert((plan.namespace.clone(), plan.task_uid.clone()), plan);
    }

    fn apply_nodes(&mut self, change: WatchChange<NodeInfo>, now: Timestamp) {
        match change {
            WatchChange::Applied(node) => self.apply_node(node, now),
            WatchChange::Deleted(node) => drop(self.nodes.remove(&node.name)),
            WatchChange::Restarted(nodes) => {
                let before = std::mem::take(&mut self.nodes);
                for node in nodes {
                    let since = before.get(&node.name).and_then(|node| node.unready_since);
                    self.insert_node(node, since, now);
                }
                self.synced.insert(WatchSource::all("nodes"));
            }
        }
    }

    fn apply_node(&mut self, node: NodeInfo, now: Timestamp) {
        let since = self.nodes.get(&node.name).and_then(|node| node.unready_since);
        self.insert_node(node, since, now);
    }

    /// Inserts a node, not ready since the time at which the controller first saw it so. The time
    /// in the node's own condition comes from another clock.
    fn insert_node(&mut self, mut node: NodeInfo, since: Option<Timestamp>, now: Timestamp) {
        node.unready_since = (!node.ready).then(|| since.unwrap_or(now));
        self.nodes.insert(node.name.clone(), node);
    }

    fn apply_jobs(
        &mut self,
        source: &WatchSource,
        change: WatchChange<Ownership<WorkerInfo>>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        match change {
            WatchChange::Applied(Ownership::Ours(worker)) => {
                let before = self.remove_worker(&worker).map(PreviousWorker::verified);
                self.add_worker(source, worker, before, now, news);
            }
            WatchChange::Applied(Ownership::Foreign(stranger)) => {
                self.remove_invalidated(WorkerKind::Job, &stranger);
                self.add_foreign(source, stranger, news);
            }
            WatchChange::Deleted(Ownership::Ours(worker)) => {
                self.remove_worker(&worker);
                self.pending_workers.remove(&worker.namespace, &worker.key());
                self.foreign.remove(source, &worker.key());
            }
            WatchChange::Deleted(Ownership::Foreign(stranger)) => {
                self.remove_invalidated(WorkerKind::Job, &stranger);
                self.foreign.remove(source, &stranger.key);
            }
            WatchChange::Restarted(workers) => {
                let before = self.clear_source(WorkerKind::Job, source);
                self.pending_workers.clear(source);
                let first = !self.synced.contains(source);
                for worker in workers {
                    match worker {
                        Ownership::Ours(worker) => {
                            let known = PreviousWorker::from_list(
                                before.get(&worker.key()),
                                &worker,
                                first,
                                now,
                            );
                            self.add_worker(source, worker, known, now, news);
                        }
                        Ownership::Foreign(stranger) => self.add_foreign(source, stranger, news),
                    }
                }
                self.synced.insert(source.clone());
            }
        }
    }

    fn apply_pods(
        &mut self,
        source: &WatchSource,
        change: WatchChange<Ownership<Box<WorkerPod>>>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        match change {
            WatchChange::Applied(Ownership::Ours(pod)) => {
                let bare = pod.claim.job.is_none();
                let before = bare
                    .then(|| self.remove_worker(&pod.claim.worker))
                    .flatten()
                    .map(PreviousWorker::verified);
                self.add_pod(source, pod, before, now, news);
            }
            WatchChange::Applied(Ownership::Foreign(stranger)) => {
                self.remove_invalidated(WorkerKind::Pod, &stranger);
                self.add_foreign(source, stranger, news);
            }
            WatchChange::Deleted(Ownership::Ours(pod)) => {
                let id = pod.id();
                if pod.claim.job.is_none() {
                    self.remove_worker(&pod.claim.worker);
                    self.pending_workers.remove(&pod.info.namespace, &id);
                }
                self.pending_pods.remove(&pod.info.namespace, &id);
                self.foreign.remove(source, &id);
                self.remove_pod(&pod.info);
            }
            WatchChange::Deleted(Ownership::Foreign(stranger)) => {
                self.remove_invalidated(WorkerKind::Pod, &stranger);
                self.foreign.remove(source, &stranger.key);
            }
            WatchChange::Restarted(pods) => {
                let before = self.clear_source(WorkerKind::Pod, source);
                self.pending_pods.clear(source);
                self.pods.retain(|_, pod| !source.covers(&pod.namespace));
                let first = !self.synced.contains(source);
                // A list repeats rate limit messages that were counted before.
                let mut repeated = ObservationReport::default();
                for pod in pods {
                    match pod {
                        Ownership::Ours(pod) => {
                            let known = PreviousWorker::from_list(
                                before.get(&pod.id()),
                                &pod.claim.worker,
                                first,
                                now,
                            );
                            self.add_pod(source, pod, known, now, &mut repeated);
                        }
                        Ownership::Foreign(stranger) => self.add_foreign(source, stranger, news),
                    }
                }
                self.synced.insert(source.clone());
            }
        }
    }

    fn add_foreign(
        &mut self,
        source: &WatchSource,
        stranger: ForeignObject,
        news: &mut ObservationReport,
    ) {
        if self.foreign.insert(source, &stranger) {
            news.new_foreign = Some((source.kind, stranger));
        }
    }

    /// Adds a worker that is consistent in itself if it also matches its task. Reports whether it
    /// was added.
    fn add_worker(
        &mut self,
        source: &WatchSource,
        worker: WorkerInfo,
        before: Option<PreviousWorker>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) -> bool {
        let key = worker.key();
        let before = before.filter(|before| before.uid == worker.uid);
        let counted = before.as_ref().is_some_and(|before| before.was_verified);
        if let Err(reason) = self.verify_worker(&worker, counted) {
            self.add_foreign(
                source,
                ForeignObject::new(&worker.namespace, &worker.name, &worker.task_uid, reason),
                news,
            );
            if reason == ProvenanceError::UnknownTask {
                self.pending_workers.insert(worker);
            }
            return false;
        }
        self.foreign.remove(source, &key);
        self.pending_workers.remove(&worker.namespace, &key);
        let since = before.and_then(|before| before.since).or(Some(now));
        let (namespace, is_job) = (worker.namespace.clone(), worker.kind == WorkerKind::Job);
        let worker = WorkerInfo { first_seen: since, ..worker };
        self.workers.entry(worker.task_uid.clone()).or_default().insert(key.clone(), worker);
        if is_job {
            for pod in
                self.pending_pods.take_matching(&namespace, |pod| pod.info.worker_key() == key)
            {
                let source = self.watch_source(WorkerKind::Pod, &namespace);
                self.add_pod(&source, pod, None, now, news);
            }
        }
        true
    }

    /// Verifies a worker. Of a deleted task, a worker is accepted if it `counted` before the
    /// deletion or is in Prewarmer's namespace, where only Prewarmer creates workers: such workers
    /// must be deleted. The garbage collector of Kubernetes deletes the others, because their owner
    /// no longer exists.
    fn verify_worker(&self, worker: &WorkerInfo, counted: bool) -> Result<(), ProvenanceError> {
        match self.tasks.get(&worker.task_uid) {
            Some(task) => verify_against_task(worker, task)?,
            None if counted || worker.is_outside_task_namespace() => {}
            None => return Err(ProvenanceError::UnknownTask),
        }
        let full = self
            .workers
            .get(&worker.task_uid)
            .is_some_and(|workers| workers.len() >= MAX_WORKERS_OF_TASK);
        if full { Err(ProvenanceError::TooMany) } else { Ok(()) }
    }

    /// Removes a worker and returns its previous state. Its name is derived from the task, so it
    /// belongs to no other task.
    fn remove_worker(&mut self, worker: &WorkerInfo) -> Option<WorkerInfo> {
        let workers = self.workers.get_mut(&worker.task_uid)?;
        let key = worker.key();
        let taken =
            if workers.get(&key)?.kind == worker.kind { workers.remove(&key) } else { None };
        if workers.is_empty() {
            self.workers.remove(&worker.task_uid);
        }
        taken
    }

    /// Removes an object that was verified before and was changed so that it is foreign now.
    fn remove_invalidated(&mut self, kind: WorkerKind, stranger: &ForeignObject) {
        let key = &stranger.key;
        let has =
            |workers: &&mut Workers| workers.get(key).is_some_and(|worker| worker.kind == kind);
        if let Some(worker) =
            self.workers.values_mut().find(has).and_then(|workers| workers.remove(key))
        {
            self.workers.retain(|uid, workers| *uid != worker.task_uid || !workers.is_empty());
        }
        let Some((namespace, name)) = key.split_once('/') else { return };
        match kind {
            WorkerKind::Job => self.pending_workers.remove(namespace, key),
            WorkerKind::Pod => {
                self.pending_pods.remove(namespace, key);
                self.pods.retain(|_, pod| pod.name != name || pod.namespace != namespace);
            }
        }
    }

    /// Removes and returns all workers of a kind that a watch delivered, because the watch
    /// restarts.
    fn clear_source(&mut self, kind: WorkerKind, source: &WatchSource) -> Workers {
        let mut known = Workers::new();
        for workers in self.workers.values_mut() {
            let (old, kept) =
                std::mem::take(workers).into_iter().partition::<Workers, _>(|(_, worker)| {
                    worker.kind == kind && source.covers(&worker.namespace)
                });
            *workers = kept;
            known.extend(old);
        }
        self.workers.retain(|_, workers| !workers.is_empty());
        self.foreign.clear(source);
        known
    }

    fn add_pod(
        &mut self,
        source: &WatchSource,
        pod: Box<WorkerPod>,
        before: Option<PreviousWorker>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        if pod.claim.job.is_none() {
            if !self.add_worker(source, pod.claim.worker.clone(), before, now, news) {
                return self.remove_pod(&pod.info);
            }
        } else if let Err(reason) = self.verify_job_pod(&pod) {
            let PodInfo { namespace, name, task_uid, .. } = &pod.info;
            self.add_foreign(source, ForeignObject::new(namespace, name, task_uid, reason), news);
            if reason == ProvenanceError::UnknownJob {
                self.pending_pods.insert(pod);
            }
            return;
        } else {
            self.foreign.remove(source, &pod.id());
            self.pending_pods.remove(&pod.info.namespace, &pod.id());
        }
        let (key, WorkerPod { info: pod, pulled_images: pulls, .. }) =
            (pod.info.worker_key(), *pod);
        let known = self.pods.get(&key);
        if known.is_some_and(|known| known.name != pod.name && known.created > pod.created) {
            return;
        }
        let task = self.tasks.get(&pod.task_uid);
        // A rate limit counts for a registry only where the pod pulls exactly the image that the
        // task names.
        let is_meant = |complaint: &RateLimitNotice| {
            let named = task.and_then(|task| task.spec.images.get(usize::from(complaint.image)));
            let pulled = pulls.iter().find(|(index, _)| *index == complaint.image);
            named.zip(pulled).is_some_and(|(named, (_, pulled))| **named == **pulled)
        };
        news.rate_limits.extend(rate_limit_notices(known, &pod).into_iter().filter(is_meant));
        self.pods.insert(key, pod);
    }

    /// Verifies a pod of a Job: its Job must be verified. A pod that was verified before stays so
    /// after its Job is deleted.
    fn verify_job_pod(&self, pod: &WorkerPod) -> Result<(), ProvenanceError> {
        let key = pod.info.worker_key();
        let job =
            self.workers.get(&pod.claim.worker.task_uid).and_then(|workers| workers.get(&key));
        match job {
            Some(job) => verify_against_job(&pod.claim, job),
            None if self.pods.get(&key).is_some_and(|known| known.name == pod.info.name) => Ok(()),
            None => Err(ProvenanceError::UnknownJob),
        }
    }

    fn remove_pod(&mut self, pod: &PodInfo) {
        let key = pod.worker_key();
        if self.pods.get(&key).is_some_and(|known| known.name == pod.name) {
            self.pods.remove(&key);
        }
    }

    /// Returns the number of foreign objects by kind and reason.
    pub(super) fn foreign_counts(&self) -> BTreeMap<(&'static str, ProvenanceError), usize> {
        self.foreign.counts()
    }

    /// Reports whether a delete-collection request for the task's workers in the namespace could
    /// match foreign objects.
    pub(super) fn has_foreign_objects(&self, namespace: &str, uid: &str) -> bool {
        self.foreign.may_claim(namespace, uid)
    }

    /// Returns the tasks that have not ended, by UID.
    pub(super) fn open_tasks(&self) -> BTreeMap<String, Arc<PrewarmTask>> {
        let open = |task: &PrewarmTask| {
            !task.phase().is_terminal() && task.metadata.deletion_timestamp.is_none()
        };
        self.tasks
            .iter()
            .filter(|(_, task)| open(task))
            .map(|(uid, task)| (uid.clone(), Arc::clone(task)))
            .collect()
    }

    /// Returns the tasks that have ended, by UID.
    pub(super) fn ended_tasks(&self) -> impl Iterator<Item = (&String, &Arc<PrewarmTask>)> {
        let ended = |task: &PrewarmTask| {
            task.phase().is_terminal() && task.metadata.deletion_timestamp.is_none()
        };
        self.tasks.iter().filter(move |(_, task)| ended(task))
    }

    pub(super) fn task(&self, uid: &str) -> Option<&Arc<PrewarmTask>> {
        self.tasks.get(uid)
    }

    pub(super) fn nodes(&self) -> &BTreeMap<String, NodeInfo> {
        &self.nodes
    }

    pub(super) fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Returns all workers, by task UID.
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

    /// Returns the maximum number of workers of a task that count against the limits: the task's
    /// own concurrency, regardless of how many exist. Zero for a task without a plan.
    pub(super) fn max_active_workers(&self, uid: &str) -> usize {
        let most = self.plan_of(uid).map_or(0, |plan| {
            if plan.at_once > 0 { plan.at_once as usize } else { plan.nodes.len() }
        });
        if self.tasks.contains_key(uid) { most } else { MAX_ACTIVE_OF_DELETED_TASK }
    }

    /// Returns the nodes on which workers of a task are active.
    pub(super) fn active_nodes(&self, uid: &str) -> impl Iterator<Item = &str> {
        let workers = self.workers.get(uid).into_iter().flat_map(BTreeMap::values);
        workers.filter(|worker| is_active(worker)).map(|worker| worker.node.as_str())
    }
}

/// Reports whether the worker counts against the limits. A Job counts until the Job controller has
/// marked it as finished, a moment after its pod has ended. A worker that is only retained does not
/// count.
pub(super) fn is_active(worker: &WorkerInfo) -> bool {
    !worker.finished
}

/// Reports whether the worker pulls, or may still start to pull.
pub(super) fn may_pull(worker: &WorkerInfo, pods: &Pods) -> bool {
    !worker.finished && !pods.get(&worker.key()).is_some_and(|pod| pod.phase.is_final())
}

/// Reports whether the worker occupies its node exclusively: while it pulls, for `alone` at most,
/// and not while all its remaining images are in the kubelet's backoff, in which nothing is pulled
/// for minutes.
pub(super) fn occupies_node(
    worker: &WorkerInfo,
    pods: &Pods,
    now: Timestamp,
    alone: SignedDuration,
) -> bool {
    let waits = || pods.get(&worker.key()).is_some_and(PodInfo::is_in_backoff);
    let young = worker.first_seen.is_none_or(|since| now.duration_since(since) < alone);
    is_active(worker) && young && !waits()
}

/// Returns the name of a task's plan.
pub(super) fn plan_name(uid: &str) -> String {
    format!("plan-{uid}")
}

fn plural(kind: WorkerKind) -> &'static str {
    if kind == WorkerKind::Job { "jobs" } else { "pods" }
}

/// State of a worker before an observation.
struct PreviousWorker {
    uid: Box<str>,
    since: Option<Timestamp>,
    /// Set if the worker was verified before.
    was_verified: bool,
}

impl PreviousWorker {
    fn verified(worker: WorkerInfo) -> Self {
        Self { uid: worker.uid, since: worker.first_seen, was_verified: true }
    }

    /// Returns the previous state of a worker of a list. In the `first` list nothing is known: such
    /// a worker counts as started at its creation.
    fn from_list(
        before: Option<&WorkerInfo>,
        worker: &WorkerInfo,
        first: bool,
        now: Timestamp,
    ) -> Option<Self> {
        let made = || worker.created.map(|created| created.min(now));
        match before {
            Some(before) => Some(Self::verified(before.clone())),
            None => {
                first.then(|| Self { uid: worker.uid.clone(), since: made(), was_verified: false })
            }
        }
    }
}

/// Returns the rate limit messages of a pod that its previous state did not have. During the
/// backoff between two attempts the kubelet repeats the last message without a request; that is not
/// counted.
fn rate_limit_notices(before: Option<&PodInfo>, pod: &PodInfo) -> Vec<RateLimitNotice> {
    let new = |container: &&crate::worker::ContainerInfo| {
        let old = before.and_then(|pod| pod.container(container.image_index));
        old.is_none_or(|old| old.state != container.state)
    };
    let complaint = |container: &crate::worker::ContainerInfo| match &container.state {
        ContainerState::Waiting(Some(words))
            if words.0 != "ImagePullBackOff" && is_registry_rate_limit(&words.1) =>
        {
            Some(RateLimitNotice {
                task_uid: pod.task_uid.clone(),
                image: container.image_index,
                message: words.1.clone(),
            })
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
        worker::{ContainerInfo, PodPhase, provenance::PodClaim},
    };

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    fn worker(namespace: &str, name: &str, kind: WorkerKind) -> WorkerInfo {
        WorkerInfo {
            kind,
            namespace: namespace.into(),
            name: name.into(),
            uid: format!("uid-of-{name}").into(),
            task_uid: "u".into(),
            task: "t".into(),
            task_namespace: "shop".into(),
            created: Some(Timestamp::from_second(900).unwrap()),
            ..WorkerInfo::default()
        }
    }

    fn state_with_task(kind: WorkerKind) -> ClusterState {
        let spec = PrewarmTaskSpec { worker: kind, ..PrewarmTaskSpec::new(vec!["a:1".into()]) };
        let mut task = PrewarmTask::new("t", spec);
        (task.metadata.namespace, task.metadata.uid) = (Some("shop".into()), Some("u".into()));
        let mut world = ClusterState::new(9);
        world.apply(Observation::Task(WatchChange::Applied(Arc::new(task))), now());
        world
    }

    fn pod(worker: WorkerInfo, words: (&str, &str)) -> Box<WorkerPod> {
        let container = ContainerInfo {
            image_index: 0,
            state: ContainerState::waiting(words.0, words.1),
            image_id: None,
        };
        let facts = PodInfo {
            namespace: worker.namespace.clone(),
            name: if worker.kind == WorkerKind::Pod {
                worker.name.clone()
            } else {
                format!("{}-x", worker.name)
            },
            worker: worker.name.clone(),
            task_uid: "u".into(),
            containers: [container].into(),
            ..PodInfo::default()
        };
        let job = (worker.kind == WorkerKind::Job).then(|| worker.uid.clone());
        Box::new(WorkerPod {
            info: facts,
            claim: PodClaim { worker, job },
            pulled_images: [(0, "a:1".into())].into(),
        })
    }

    fn jobs_in(namespace: &str) -> WatchSource {
        WatchSource { kind: "jobs", namespace: Some(namespace.into()) }
    }

    fn apply_pod(world: &mut ClusterState, pod: Box<WorkerPod>) -> ObservationReport {
        world.apply(
            Observation::Pod(WatchSource::all("pods"), WatchChange::Applied(Ownership::Ours(pod))),
            now(),
        )
    }

    fn apply_job(world: &mut ClusterState, job: WorkerInfo) {
        world.apply(
            Observation::Job(WatchSource::all("jobs"), WatchChange::Applied(Ownership::Ours(job))),
            now(),
        );
    }

    #[test]
    fn list_of_one_namespace_keeps_workers_of_others() {
        let mut world = state_with_task(WorkerKind::Job);
        let put = |namespace: &str| {
            WatchChange::Restarted(vec![Ownership::Ours(worker(namespace, "a", WorkerKind::Job))])
        };
        world.apply(Observation::Job(jobs_in("shop"), put("shop")), now());
        world.apply(Observation::Job(jobs_in("own"), put("own")), now());
        assert_eq!(world.workers_of("u").unwrap().len(), 2);
        world.apply(Observation::Job(jobs_in("shop"), WatchChange::Restarted(Vec::new())), now());
        assert_eq!(world.workers_of("u").unwrap().keys().collect::<Vec<_>>(), ["own/a"]);
    }

    #[test]
    fn bare_pod_is_a_worker_until_it_is_deleted() {
        let mut world = state_with_task(WorkerKind::Pod);
        let mut bare = pod(worker("shop", "a", WorkerKind::Pod), ("ContainerCreating", ""));
        apply_pod(&mut world, bare.clone());
        assert_eq!(world.active_nodes("u").count(), 1);
        bare.info.phase = PodPhase::Succeeded;
        bare.claim.worker.finished = true;
        apply_pod(&mut world, bare.clone());
        assert_eq!((world.active_nodes("u").count(), world.workers_of("u").unwrap().len()), (0, 1));
        world.apply(
            Observation::Pod(WatchSource::all("pods"), WatchChange::Deleted(Ownership::Ours(bare))),
            now(),
        );
        assert_eq!((world.workers_of("u"), world.pods().len()), (None, 0));
    }

    #[test]
    fn rate_limit_is_counted_once_per_attempt() {
        let mut world = state_with_task(WorkerKind::Pod);
        let mut put = |words: (&str, &str)| {
            apply_pod(&mut world, pod(worker("shop", "a", WorkerKind::Pod), words))
                .rate_limits
                .len()
        };
        let said = ("ErrImagePull", "429 Too Many Requests");
        assert_eq!(put(("ContainerCreating", "")), 0);
        assert_eq!(put(said), 1);
        assert_eq!(put(said), 0);
        assert_eq!(put(("ImagePullBackOff", "429 Too Many Requests")), 0);
        assert_eq!(put(said), 1, "the next attempt");
        assert_eq!(put(("ErrImagePull", "not found")), 0);
    }

    #[test]
    fn rate_limit_of_another_image_is_ignored() {
        let mut world = state_with_task(WorkerKind::Pod);
        let mut other =
            pod(worker("shop", "a", WorkerKind::Pod), ("ErrImagePull", "429 Too Many Requests"));
        other.pulled_images = [(0, "attacker.example/a:1".into())].into();
        assert_eq!(apply_pod(&mut world, other).rate_limits, []);
    }

    #[test]
    fn task_job_and_pod_may_arrive_in_any_order() {
        let job = || worker("shop", "a", WorkerKind::Job);
        let mut world = state_with_task(WorkerKind::Job);
        let task = Arc::clone(world.task("u").unwrap());
        world.apply(Observation::Task(WatchChange::Deleted(Arc::clone(&task))), now());
        apply_pod(&mut world, pod(job(), ("ContainerCreating", "")));
        apply_job(&mut world, job());
        assert_eq!((world.workers_of("u"), world.pods().len()), (None, 0));
        let counts = world.foreign_counts();
        assert_eq!(
            (
                counts[&("jobs", ProvenanceError::UnknownTask)],
                counts[&("pods", ProvenanceError::UnknownJob)]
            ),
            (1, 1)
        );
        world.apply(Observation::Task(WatchChange::Applied(task)), now());
        assert_eq!((world.workers_of("u").unwrap().len(), world.pods().len()), (1, 1));
        assert_eq!(
            (world.pending_workers.len(), world.pending_pods.len(), world.foreign_counts().len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn workers_of_a_deleted_task_count_until_deleted() {
        let job = || worker("shop", "a", WorkerKind::Job);
        let mut world = state_with_task(WorkerKind::Job);
        apply_job(&mut world, job());
        let task = Arc::clone(world.task("u").unwrap());
        world.apply(Observation::Task(WatchChange::Deleted(task)), now());
        let deleting = WorkerInfo { deleting: true, ..job() };
        apply_job(&mut world, deleting.clone());
        assert!(world.workers_of("u").unwrap()["shop/a"].deleting);
        apply_job(&mut world, WorkerInfo { uid: "another".into(), ..deleting });
        assert_eq!(world.workers_of("u"), None, "a worker with a new UID is not ours");
        apply_job(&mut world, worker("own", "b", WorkerKind::Job));
        assert_eq!(
            world.workers_of("u").unwrap().len(),
            1,
            "only Prewarmer creates workers in its own namespace"
        );
    }

    #[test]
    fn worker_start_is_first_seen_or_creation_in_first_list() {
        let since = |world: &ClusterState, key: &str| {
            world.workers_of("u").unwrap()[key].first_seen.unwrap().as_second()
        };
        let list =
            || WatchChange::Restarted(vec![Ownership::Ours(worker("shop", "a", WorkerKind::Job))]);
        let mut world = state_with_task(WorkerKind::Job);
        world.apply(Observation::Job(WatchSource::all("jobs"), list()), now());
        assert_eq!(since(&world, "shop/a"), 900, "a previous leader created it");
        apply_job(&mut world, worker("shop", "b", WorkerKind::Job));
        assert_eq!(
            since(&world, "shop/b"),
            1000,
            "its creation time by the API server's clock is not used"
        );
        let later = Timestamp::from_second(2_000).unwrap();
        let list = WatchChange::Restarted(vec![
            Ownership::Ours(worker("shop", "b", WorkerKind::Job)),
            Ownership::Ours(worker("shop", "c", WorkerKind::Job)),
        ]);
        world.apply(Observation::Job(WatchSource::all("jobs"), list), later);
        assert_eq!((since(&world, "shop/b"), since(&world, "shop/c")), (1000, 2000));
    }

    #[test]
    fn worker_that_becomes_foreign_is_removed() {
        let mut world = state_with_task(WorkerKind::Job);
        apply_job(&mut world, worker("shop", "a", WorkerKind::Job));
        apply_pod(&mut world, pod(worker("shop", "a", WorkerKind::Job), ("ContainerCreating", "")));
        let foreign = |name: &str| {
            Ownership::Foreign(ForeignObject::new("shop", name, "u", ProvenanceError::Labels))
        };
        world.apply(
            Observation::Job(WatchSource::all("jobs"), WatchChange::Applied(foreign("a"))),
            now(),
        );
        world.apply(
            Observation::Pod(
                WatchSource::all("pods"),
                WatchChange::Applied(Ownership::Foreign(ForeignObject::new(
                    "shop",
                    "a-x",
                    "u",
                    ProvenanceError::Labels,
                ))),
            ),
            now(),
        );
        assert_eq!((world.workers_of("u"), world.pods().len()), (None, 0));
        assert!(world.has_foreign_objects("shop", "u") && !world.has_foreign_objects("own", "u"));
        world.apply(
            Observation::Job(WatchSource::all("jobs"), WatchChange::Deleted(foreign("a"))),
            now(),
        );
        world.apply(
            Observation::Pod(
                WatchSource::all("pods"),
                WatchChange::Deleted(Ownership::Foreign(ForeignObject::new(
                    "shop",
                    "a-x",
                    "u",
                    ProvenanceError::Labels,
                ))),
            ),
            now(),
        );
        assert!(!world.has_foreign_objects("shop", "u"));
    }

    #[test]
    fn unready_since_is_first_seen_time() {
        let mut world = state_with_task(WorkerKind::Job);
        let unready = || {
            let mut node = NodeInfo::sample("n1");
            (node.ready, node.unready_since) = (false, Some(Timestamp::UNIX_EPOCH));
            node
        };
        world.apply(Observation::Node(WatchChange::Applied(unready())), now());
        let later = Timestamp::from_second(2_000).unwrap();
        world.apply(Observation::Node(WatchChange::Applied(unready())), later);
        assert_eq!(world.nodes()["n1"].unready_since, Some(now()));
        world.apply(Observation::Node(WatchChange::Applied(NodeInfo::sample("n1"))), later);
        assert_eq!(world.nodes()["n1"].unready_since, None);
    }
}
