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
        let nodes =
            self.state.nodes().values().filter(|node| node.ready && !node.has_disk_pressure());
        let spared: HashSet<u64> = nodes.map(|node| node.identity).collect();
        self.context.warm_images.prune(now, |node| spared.contains(&node));
        shrink_sparse(&mut self.reconcilers);
        self.state.shrink();
        let mut actions = self.collect_ended(now);
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
        let most = self.context.settings.max_retained_workers;
        for worker in gc::excess_retained(finished, most) {
            let target = TaskRef { uid: worker.task_uid.clone(), ..TaskRef::default() };
            actions.push((target, vec![Effect::delete_worker(worker, self.state.pods())]));
        }
        actions.retain(|(_, effects)| !effects.is_empty());
        self.actions.extend(actions);
    }

    /// Returns the deletions for all ended tasks. They are examined only when something is due: a
    /// task has changed, workers exist, or a task expires.
    fn collect_ended(&mut self, now: Timestamp) -> Vec<(TaskRef, Vec<Effect>)> {
        let mut actions = Vec::new();
        let has_changed = self.state.take_task_changes();
        if !has_changed && self.state.workers().is_empty() && now < self.next_expiry {
            return actions;
        }
        self.next_expiry = Timestamp::MAX;
        for (uid, task) in self.state.ended_tasks() {
            self.next_expiry = gc::expiry(task).unwrap_or(Timestamp::MAX).min(self.next_expiry);
            let (workers, pods) = (self.state.workers_of(uid), self.state.pods());
            let ended =
                || gc::collect_ended(task, workers, pods, self.has_foreign_objects(uid), now);
            match contain(&task.target, ended) {
                Ok(effects) if effects.is_empty() => {}
                Ok(effects) => actions.push((task.target.clone(), effects)),
                Err(error) => self.context.measurements.push(Measurement::InternalError(error)),
            }
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::{super::harness::sample_settings, *};
    use crate::{
        controller::{Observation, WatchChange},
        task::{Phase, PrewarmTaskSpec, PrewarmTaskStatus},
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Returns a task that ended at 100 s and lives for 60 s after that.
    fn ended_task() -> PrewarmTask {
        let mut spec = PrewarmTaskSpec::new(vec!["a:1".into()]);
        spec.ttl_seconds_after_finished = Some(60);
        let mut task = PrewarmTask::new("t", spec);
        task.metadata.uid = Some("uid".into());
        task.status = Some(PrewarmTaskStatus {
            phase: Phase::Completed,
            completion_time: Some(at(100).to_string()),
            ..PrewarmTaskStatus::default()
        });
        task
    }

    /// Returns the number of requested deletions at a time.
    fn deletions(controller: &mut Controller, second: i64) -> usize {
        controller.reconcile_all(at(second));
        controller.take_actions().len()
    }

    #[test]
    fn a_task_that_nothing_changes_is_deleted_when_it_expires() {
        let mut controller = Controller::new(1, Arc::new(sample_settings()));
        let task = Arc::new(ended_task());
        controller.handle(Observation::Task(WatchChange::Applied(task)), at(100));
        let requested = [100, 110, 120, 155].map(|second| deletions(&mut controller, second));
        assert_eq!((requested, controller.next_expiry), ([0; 4], at(160)));
        assert_eq!(deletions(&mut controller, 160), 1);
        assert_eq!(deletions(&mut controller, 170), 1, "again, if the request failed");
    }

    #[test]
    fn a_shorter_time_to_live_takes_effect() {
        let mut controller = Controller::new(1, Arc::new(sample_settings()));
        let mut task = ended_task();
        let apply = |controller: &mut Controller, task: &PrewarmTask, second| {
            let change = WatchChange::Applied(Arc::new(task.clone()));
            controller.handle(Observation::Task(change), at(second));
        };
        apply(&mut controller, &task, 100);
        assert_eq!([100, 110].map(|second| deletions(&mut controller, second)), [0, 0]);
        task.spec.ttl_seconds_after_finished = Some(5);
        apply(&mut controller, &task, 111);
        assert_eq!(deletions(&mut controller, 120), 1);
    }
}
