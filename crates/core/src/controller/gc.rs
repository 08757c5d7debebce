//! Garbage collection: decides which workers and tasks to delete after tasks have ended. Pure: no
//! client, no clock, no I/O.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    cluster_state::EndedTask,
    effect::{Effect, WorkersDeletion},
    propagation::Propagation,
    time::add_duration,
    worker_cache::{Pods, Workers, may_pull},
};

use crate::worker::WorkerInfo;

/// Age of the youngest worker from which workers without a known task are orphans. The watch of
/// tasks can be behind that of workers, but not by this much.
const ORPHAN_AGE: SignedDuration = SignedDuration::from_secs(60);

/// Returns the deletion of all workers: as one collection per namespace, and one by one in
/// namespaces where a collection could match foreign objects.
pub(super) fn delete_workers(
    workers: Option<&Workers>,
    pods: &Pods,
    contested: impl Fn(&str) -> bool,
) -> Vec<Effect> {
    let all = || workers.into_iter().flat_map(Workers::values);
    let left = || all().filter(|worker| !worker.deleting);
    let places: BTreeSet<_> =
        left().map(|worker| (worker.kind, worker.namespace.as_str())).collect();
    let mut effects = Vec::new();
    for (kind, namespace) in places {
        let there = |worker: &&WorkerInfo| worker.kind == kind && worker.namespace == namespace;
        if contested(namespace) {
            let one = |worker| Effect::delete_worker(worker, pods);
            effects.extend(left().filter(there).map(one));
        } else {
            // A request in the background for a Job that is being deleted in the foreground would
            // delete it before its pods, so that all matching workers decide.
            effects.push(Effect::DeleteWorkers(WorkersDeletion {
                kind,
                namespace: namespace.to_owned(),
                batch: None,
                propagation: Propagation::for_workers(all().filter(there), pods),
            }));
        }
    }
    effects
}

/// Returns the time at which an ended task without workers is deleted: when its time to live and the
/// retention time of its workers are over, and all notifications were sent. `None` if it is not.
pub(super) fn expiry(task: &EndedTask) -> Option<Timestamp> {
    let ttl = Duration::from_secs(task.ttl_seconds?.into());
    (!task.has_pending_notifications).then(|| end_after(task, ttl.max(task.retain)))
}

/// Returns the time at which this span after the end of a task is over: the earliest if its end is
/// unknown.
fn end_after(task: &EndedTask, span: Duration) -> Timestamp {
    task.completion_time.map_or(Timestamp::MIN, |end| add_duration(end, span))
}

/// Returns the deletions for an ended task. Workers are deleted when their retention time is over,
/// and those that may still pull at once. The task is deleted at its [`expiry`], when no worker
/// remains.
pub(super) fn collect_ended(
    task: &EndedTask,
    workers: Option<&Workers>,
    pods: &Pods,
    contested: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Vec<Effect> {
    if end_after(task, task.retain) <= now {
        let deletions = delete_workers(workers, pods, contested);
        let none_left = workers.is_none_or(Workers::is_empty);
        return if none_left && expiry(task).is_some_and(|at| at <= now) {
            vec![Effect::DeleteTask(task.resource_version.clone())]
        } else {
            deletions
        };
    }
    let stuck = |worker: &&WorkerInfo| !worker.deleting && may_pull(worker, pods);
    let deletion = |worker| Effect::delete_worker(worker, pods);
    workers.into_iter().flat_map(Workers::values).filter(stuck).map(deletion).collect()
}

/// Reports whether workers of an unknown task are old enough to count as orphans.
pub(super) fn are_orphans(workers: &Workers, now: Timestamp) -> bool {
    let youngest = workers.values().filter_map(|worker| worker.first_seen).max();
    youngest.is_none_or(|since| now.duration_since(since) >= ORPHAN_AGE)
}

/// Returns the oldest of the finished workers beyond the limit `most`.
pub(super) fn excess_retained(mut finished: Vec<&WorkerInfo>, most: usize) -> Vec<&WorkerInfo> {
    let beyond = finished.len().saturating_sub(most);
    if beyond > 0 {
        finished.sort_by_key(|worker| (worker.created, worker.key()));
    }
    finished.truncate(beyond);
    finished
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Phase, PrewarmTask, PrewarmTaskSpec, PrewarmTaskStatus, WorkerKind};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn worker(name: &str, kind: WorkerKind, finished: bool, created: i64) -> WorkerInfo {
        WorkerInfo {
            kind,
            namespace: "shop".into(),
            name: name.into(),
            finished,
            created: Some(at(created)),
            first_seen: Some(at(created)),
            ..WorkerInfo::default()
        }
    }

    fn workers(list: Vec<WorkerInfo>) -> Workers {
        list.into_iter().map(|worker| (worker.key(), worker)).collect()
    }

    fn all_jobs(namespace: &str, propagation: Propagation) -> Effect {
        let (kind, namespace) = (WorkerKind::Job, namespace.to_owned());
        Effect::DeleteWorkers(WorkersDeletion { kind, namespace, batch: None, propagation })
    }

    fn task(retain: Option<&str>, ttl: Option<u32>) -> PrewarmTask {
        let spec = PrewarmTaskSpec {
            retain: retain.map(str::to_owned),
            ttl_seconds_after_finished: ttl,
            ..PrewarmTaskSpec::new(vec!["a:1".into()])
        };
        let status = PrewarmTaskStatus {
            phase: Phase::Completed,
            completion_time: Some(at(100).to_string()),
            ..PrewarmTaskStatus::default()
        };
        PrewarmTask { status: Some(status), ..PrewarmTask::new("t", spec) }
    }

    #[test]
    fn finished_workers_are_kept_while_retained() {
        let left = workers(vec![
            worker("a", WorkerKind::Job, true, 50),
            worker("b", WorkerKind::Job, false, 60),
        ]);
        let ended = |retain, now| {
            collect_ended(
                &EndedTask::new(&task(retain, Some(0))),
                Some(&left),
                &Pods::new(),
                |_| false,
                at(now),
            )
        };
        let pods = Pods::new();
        assert_eq!(ended(Some("1m"), 159), [Effect::delete_worker(&left["shop/b"], &pods)]);
        let all = [all_jobs("shop", Propagation::Foreground)];
        assert_eq!(ended(Some("1m"), 160), all);
        assert_eq!(ended(None, 100), all);
    }

    #[test]
    fn workers_next_to_foreign_objects_are_deleted_one_by_one() {
        let mut away = worker("c", WorkerKind::Job, true, 50);
        away.namespace = "own".into();
        let left = workers(vec![
            worker("a", WorkerKind::Job, true, 50),
            worker("b", WorkerKind::Job, true, 60),
            away,
        ]);
        let pods = Pods::new();
        let single = |key: &str| Effect::delete_worker(&left[key], &pods);
        assert_eq!(
            delete_workers(Some(&left), &pods, |place| place == "shop"),
            [all_jobs("own", Propagation::Background), single("shop/a"), single("shop/b")]
        );
    }

    #[test]
    fn job_that_is_being_deleted_keeps_the_collection_in_the_foreground() {
        let open = WorkerInfo { deleting: true, ..worker("b", WorkerKind::Job, false, 60) };
        let left = workers(vec![worker("a", WorkerKind::Job, true, 50), open]);
        assert_eq!(
            delete_workers(Some(&left), &Pods::new(), |_| false),
            [all_jobs("shop", Propagation::Foreground)]
        );
    }

    #[test]
    fn task_is_deleted_after_its_workers() {
        let ended = |retain, ttl, now| {
            collect_ended(
                &EndedTask::new(&task(retain, ttl)),
                None,
                &Pods::new(),
                |_| false,
                at(now),
            )
        };
        assert_eq!(ended(None, Some(10), 109), []);
        assert_eq!(ended(None, Some(10), 110), [Effect::DeleteTask(None)]);
        assert_eq!(ended(Some("1m"), Some(10), 110), []);
        assert_eq!(ended(Some("1m"), Some(10), 160), [Effect::DeleteTask(None)]);
        assert_eq!(ended(None, None, 9999), []);
    }

    #[test]
    fn young_workers_are_not_orphans() {
        let left = workers(vec![
            worker("a", WorkerKind::Pod, false, 0),
            worker("b", WorkerKind::Pod, false, 50),
        ]);
        assert!(!are_orphans(&left, at(109)));
        assert!(are_orphans(&left, at(110)));
    }

    #[test]
    fn oldest_retained_workers_are_deleted_first() {
        let all =
            [3, 1, 2].map(|created| worker(&format!("w{created}"), WorkerKind::Job, true, created));
        let names = |most| {
            excess_retained(all.iter().collect(), most)
                .iter()
                .map(|w| w.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["w1", "w2"]);
        assert!(names(3).is_empty());
    }
}
