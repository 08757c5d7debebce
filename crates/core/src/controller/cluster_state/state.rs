//! Content of the cluster state, and queries on it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    super::{
        foreign_object::ForeignObject,
        observation::{OwnedPlan, WorkerPod},
        watch::WatchSource,
        worker_cache::{Pods, Workers, is_active},
    },
    cached_task::{CachedTask, EndedTask},
    foreign::{ForeignClaim, ForeignIndex},
    pending::PendingObjects,
    report::ObservationReport,
};
use crate::{
    node::NodeInfo,
    shrink_sparse,
    task::{PrewarmPlanSpec, PrewarmTask, WorkerKind},
    worker::{
        WorkerInfo,
        provenance::{ProvenanceError, WorkerOwner},
    },
};

/// Maximum number of workers of a deleted task that count against the limits. Its plan is deleted
/// with it, and a batch is rarely larger.
const MAX_ACTIVE_OF_DELETED_TASK: usize = 100;

/// Tasks, plans, nodes, workers and pods as the informers last saw them.
///
/// Contains only workers and pods whose provenance is verified, see `worker::provenance`. All
/// limits and results are computed from them.
pub(in crate::controller) struct ClusterState {
    pub(super) tasks: HashMap<String, CachedTask>,
    /// True when a task has changed since [`Self::take_task_changes`].
    pub(super) tasks_changed: bool,
    /// Plans by namespace and UID of the task.
    pub(super) plans: HashMap<(String, String), OwnedPlan>,
    pub(super) nodes: BTreeMap<String, NodeInfo>,
    pub(super) workers: HashMap<String, Workers>,
    pub(super) pods: Pods,
    pub(super) foreign: ForeignIndex,
    /// Workers whose task is not in the cache.
    pub(super) pending_workers: PendingObjects<WorkerInfo>,
    /// Pods whose Job is not in the cache.
    pub(super) pending_pods: PendingObjects<Box<WorkerPod>>,
    pub(super) synced: HashSet<WatchSource>,
    /// Number of watches.
    pub(super) watch_count: usize,
}

impl ClusterState {
    /// Creates an empty state that is complete after `sources` watches have delivered their first
    /// lists.
    pub(in crate::controller) fn new(sources: usize) -> Self {
        Self {
            tasks: HashMap::new(),
            tasks_changed: false,
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
    pub(in crate::controller) fn is_synced(&self) -> bool {
        self.synced.len() >= self.watch_count
    }

    /// Returns the watch that delivers objects of a kind in a namespace.
    pub(super) fn watch_source(&self, kind: WorkerKind, namespace: &str) -> WatchSource {
        let plural = plural(kind);
        let shows = |source: &&WatchSource| source.kind == plural && source.covers(namespace);
        self.synced.iter().find(shows).cloned().unwrap_or_else(|| WatchSource::all(plural))
    }

    pub(super) fn add_foreign(
        &mut self,
        source: &WatchSource,
        stranger: ForeignObject,
        news: &mut ObservationReport,
    ) {
        if self.foreign.insert(source, &stranger) {
            news.new_foreign = Some((source.kind, stranger));
        }
    }

    /// Returns the number of foreign objects by kind and reason.
    pub(in crate::controller) fn foreign_counts(
        &self,
    ) -> BTreeMap<(&'static str, ProvenanceError), usize> {
        self.foreign.counts()
    }

    /// Returns which foreign objects a delete-collection request for the task's workers in the
    /// namespace could match.
    pub(in crate::controller) fn foreign_claim(
        &self,
        namespace: &str,
        uid: &str,
    ) -> Option<ForeignClaim> {
        self.foreign.claim(namespace, uid)
    }

    /// Reports whether a task has changed since the last call.
    pub(in crate::controller) fn take_task_changes(&mut self) -> bool {
        std::mem::take(&mut self.tasks_changed)
    }

    /// Returns the unused memory of the tables, after objects were removed.
    pub(in crate::controller) fn shrink(&mut self) {
        shrink_sparse(&mut self.tasks);
        shrink_sparse(&mut self.plans);
        shrink_sparse(&mut self.workers);
        shrink_sparse(&mut self.pods);
    }

    /// Returns the tasks that have not ended, by UID.
    pub(in crate::controller) fn open_tasks(&self) -> BTreeMap<String, Arc<PrewarmTask>> {
        let open = self.tasks.iter().filter_map(|(uid, task)| Some((uid, task.open()?)));
        let kept = open.filter(|(_, task)| task.metadata.deletion_timestamp.is_none());
        kept.map(|(uid, task)| (uid.clone(), Arc::clone(task))).collect()
    }

    /// Returns the tasks that have ended, by UID.
    pub(in crate::controller) fn ended_tasks(&self) -> impl Iterator<Item = (&String, &EndedTask)> {
        let kept = self.tasks.iter().filter(|(_, task)| !task.is_deleted());
        kept.filter_map(|(uid, task)| Some((uid, task.ended()?)))
    }

    pub(in crate::controller) fn task(&self, uid: &str) -> Option<&CachedTask> {
        self.tasks.get(uid)
    }

    pub(in crate::controller) fn nodes(&self) -> &BTreeMap<String, NodeInfo> {
        &self.nodes
    }

    pub(in crate::controller) fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Returns all workers, by task UID.
    pub(in crate::controller) fn workers(&self) -> &HashMap<String, Workers> {
        &self.workers
    }

    pub(in crate::controller) fn workers_of(&self, uid: &str) -> Option<&Workers> {
        self.workers.get(uid)
    }

    pub(in crate::controller) fn plan_of(&self, uid: &str) -> Option<&Arc<PrewarmPlanSpec>> {
        let namespace = WorkerOwner::from(self.tasks.get(uid)?).namespace.to_owned();
        self.plans.get(&(namespace, uid.to_owned())).map(|plan| &plan.spec)
    }

    /// Returns the maximum number of workers of a task that count against the limits: the task's
    /// own concurrency, regardless of how many exist. Zero for a task without a plan.
    pub(in crate::controller) fn max_active_workers(&self, uid: &str) -> usize {
        let most = self.plan_of(uid).map_or(0, |plan| {
            if plan.at_once > 0 { plan.at_once as usize } else { plan.nodes.len() }
        });
        if self.tasks.contains_key(uid) { most } else { MAX_ACTIVE_OF_DELETED_TASK }
    }

    /// Returns the nodes on which workers of a task are active.
    pub(in crate::controller) fn active_nodes(&self, uid: &str) -> impl Iterator<Item = &str> {
        let workers = self.workers.get(uid).into_iter().flat_map(BTreeMap::values);
        workers.filter(|worker| is_active(worker)).map(|worker| worker.node.as_str())
    }
}

fn plural(kind: WorkerKind) -> &'static str {
    if kind == WorkerKind::Job { "jobs" } else { "pods" }
}
