//! Tasks and plans in the cluster state.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::{
    super::{
        foreign_object::ForeignObject,
        observation::{OwnedPlan, Ownership},
        task_object::plan_name,
        watch::{WatchChange, WatchSource},
    },
    report::ObservationReport,
    state::ClusterState,
};
use crate::{
    task::PrewarmTask,
    worker::provenance::{ProvenanceError, WorkerOwner},
};

/// Maximum number of plans kept whose task is not in the cache. A plan takes 250 KB for 5,000
/// nodes. Plans are created after their tasks, and the watches differ by moments only.
const MAX_PENDING_PLANS: usize = 16;

impl ClusterState {
    pub(super) fn apply_tasks(
        &mut self,
        change: WatchChange<Arc<PrewarmTask>>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        let uid = |task: &PrewarmTask| task.uid().unwrap_or_default();
        self.tasks_changed = true;
        match change {
            WatchChange::Applied(task) => {
                let arrives = self.tasks.insert(uid(&task), Arc::clone(&task).into()).is_none();
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
                self.tasks =
                    tasks.iter().map(|task| (uid(task), Arc::clone(task).into())).collect();
                for task in tasks.iter().filter(|task| !before.contains_key(&uid(task))) {
                    self.add_pending_workers(task, now, news);
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

    pub(super) fn apply_plans(
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
        let reason = match self.tasks.get(&plan.task_uid).map(WorkerOwner::from) {
            Some(owner) if owner.namespace != plan.namespace => Some(ProvenanceError::Namespace),
            Some(owner) => (owner.name != plan.task).then_some(ProvenanceError::Owner),
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
}
