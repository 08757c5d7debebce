//! Garbage collection over all tasks: closed and ended tasks, orphaned workers and excess retained
//! workers. The decisions are in `gc`.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;

use super::{
    cluster_state::CachedTask,
    containment::contain,
    effect::{Effect, TaskRef},
    gc,
    measurement::Measurement,
    task_controller::Controller,
    worker_cache::is_active,
};
use crate::{shrink_sparse, task::PrewarmTask, worker::WorkerInfo};

impl Controller {
    /// Removes the reconcilers of tasks that are not open any more, and deletes the workers of
    /// deleted tasks. Garbage collection of Kubernetes would do so in the task's namespace, but not
    /// in Prewarmer's own.
    pub(super) fn remove_closed(&mut self, open: &BTreeMap<String, Arc<PrewarmTask>>) {
        let gone: Vec<String> =
            self.reconcilers.keys().filter(|uid| !open.contains_key(*uid)).cloned().collect();
        self.abandoned.retain(|uid, _| open.contains_key(uid));
        for uid in gone {
            let Some(mut run) = self.reconcilers.remove(&uid) else { continue };
            let task = self.state.task(&uid);
            if task.is_some_and(|task| task.ended().is_some()) {
                self.context.measurements.extend(run.pending_end.take());
            }
            if task.is_none_or(CachedTask::is_deleted) {
                let (workers, pods) = (self.state.workers_of(&uid), self.state.pods());
                let effects = gc::delete_workers(workers, pods, self.has_foreign_objects(&uid));
                self.act(run.target(), effects);
            }
        }
    }

    /// Adds effects to those that [`Self::take_actions`] returns.
    fn act(&mut self, target: &TaskRef, effects: Vec<Effect>) {
        if !effects.is_empty() {
            self.actions.push((target.clone(), effects));
        }
    }

    /// Returns a predicate that reports whether a namespace has foreign objects with the labels of
    /// this task's workers.
    fn has_foreign_objects(&self, uid: &str) -> impl Fn(&str) -> bool {
        |namespace| self.state.foreign_claim(namespace, uid).is_some()
    }

    /// Collects garbage: ended tasks, their workers, orphaned workers, excess retained workers and
    /// expired entries of the warm image cache.
    pub(super) fn collect_garbage(&mut self, now: Timestamp) {
        let settings = &self.context.settings;
        let nodes =
            self.state.nodes().values().filter(|node| node.ready && !node.has_disk_pressure());
        let spared: HashSet<u64> = nodes.map(|node| node.identity).collect();
        self.context.warm_images.prune(now, |node| spared.contains(&node));
        shrink_sparse(&mut self.reconcilers);
        self.state.shrink();
        let mut actions = Vec::new();
        for (uid, task) in self.state.ended_tasks() {
            let (workers, pods) = (self.state.workers_of(uid), self.state.pods());
            let ended =
                || gc::collect_ended(task, workers, pods, self.has_foreign_objects(uid), now);
            match contain(&task.target, ended) {
                Ok(effects) => actions.push((task.target.clone(), effects)),
                Err(error) => self.context.measurements.push(Measurement::InternalError(error)),
            }
        }
        for (uid, workers) in
            self.state.workers().iter().filter(|(uid, _)| self.state.task(uid).is_none())
        {
            if gc::are_orphans(workers, now) {
                let target = TaskRef { uid: uid.clone(), ..TaskRef::default() };
                let foreign = self.has_foreign_objects(uid);
                let pods = self.state.pods();
                actions.push((target, gc::delete_workers(Some(workers), pods, foreign)));
            }
        }
        let mut finished = Vec::new();
        for (uid, workers) in self.state.workers() {
            let run = self.reconcilers.get(uid);
            let may_go = |worker: &&WorkerInfo| {
                let recorded = run.is_none_or(|run| run.is_recorded(worker));
                recorded && !worker.deleting && !is_active(worker)
            };
            finished.extend(workers.values().filter(may_go));
        }
        for worker in gc::excess_retained(finished, settings.max_retained_workers) {
            let target = TaskRef { uid: worker.task_uid.clone(), ..TaskRef::default() };
            actions.push((target, vec![Effect::delete_worker(worker, self.state.pods())]));
        }
        actions.retain(|(_, effects)| !effects.is_empty());
        self.actions.extend(actions);
    }
}
