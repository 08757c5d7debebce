//! What is left of tasks that have ended, and when it has to go. *Pure.*

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    effect::Effect,
    planned::after,
    world::{Pods, Workers, may_pull},
};
use kube::ResourceExt;

use crate::{duration, task::PrewarmTask, worker::WorkerFacts};

/// Workers of a task that is not known are orphans when the youngest has been seen for this long: the watch of tasks may be behind that of
/// workers, but never by so much.
const ORPHANED: SignedDuration = SignedDuration::from_secs(60);

/// The deletion of all workers: by collection, and one by one in namespaces where a collection may contain what others made.
pub(super) fn delete_all(workers: Option<&Workers>, contested: impl Fn(&str) -> bool) -> Vec<Effect> {
    let left = || workers.into_iter().flat_map(Workers::values).filter(|worker| !worker.deleting);
    let places: BTreeSet<_> = left().map(|worker| (worker.kind, worker.namespace.as_str())).collect();
    let mut effects = Vec::new();
    for (kind, namespace) in places {
        if contested(namespace) {
            let there = |worker: &&WorkerFacts| worker.kind == kind && worker.namespace == namespace;
            effects.extend(left().filter(there).map(Effect::delete));
        } else {
            effects.push(Effect::DeleteMany(kind, namespace.to_owned(), None));
        }
    }
    effects
}

/// What an ended task has to lose: its workers when they need not be retained any longer, those that still wait at once,
/// and the task itself when its time to live is over, nothing is retained and everybody was told.
pub(super) fn ended(
    task: &PrewarmTask,
    workers: Option<&Workers>,
    pods: &Pods,
    contested: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Vec<Effect> {
    let completed =
        task.status.as_ref().and_then(|s| s.completion_time.as_deref()).and_then(|t| t.parse::<Timestamp>().ok());
    let is_over = |span: Duration| completed.is_none_or(|end| after(end, span) <= now);
    let retain = task.spec.retain.as_deref().and_then(|text| duration::parse(text).ok()).unwrap_or_default();
    if is_over(retain) {
        let deletions = delete_all(workers, contested);
        let outlived = task.spec.ttl_seconds_after_finished.is_some_and(|ttl| is_over(Duration::from_secs(ttl.into())));
        let none_left = workers.is_none_or(Workers::is_empty);
        return if none_left && outlived && !task.has_untold_end() {
            vec![Effect::DeleteTask(task.resource_version())]
        } else {
            deletions
        };
    }
    let stuck = |worker: &&WorkerFacts| !worker.deleting && may_pull(worker, pods);
    workers.into_iter().flat_map(Workers::values).filter(stuck).map(Effect::delete).collect()
}

/// Whether workers of a task that nobody knows have been there for long enough to be sure of it.
pub(super) fn are_orphans(workers: &Workers, now: Timestamp) -> bool {
    let youngest = workers.values().filter_map(|worker| worker.since).max();
    youngest.is_none_or(|since| now.duration_since(since) >= ORPHANED)
}

/// The oldest of the finished workers, beyond `most`.
pub(super) fn excess(mut finished: Vec<&WorkerFacts>, most: usize) -> Vec<&WorkerFacts> {
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
    use crate::task::{Phase, PrewarmTaskSpec, PrewarmTaskStatus, WorkerKind};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn worker(name: &str, kind: WorkerKind, finished: bool, created: i64) -> WorkerFacts {
        WorkerFacts {
            kind,
            namespace: "shop".into(),
            name: name.into(),
            finished,
            created: Some(at(created)),
            since: Some(at(created)),
            ..WorkerFacts::default()
        }
    }

    fn workers(list: Vec<WorkerFacts>) -> Workers {
        list.into_iter().map(|worker| (worker.key(), worker)).collect()
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
    fn finished_workers_stay_as_long_as_they_are_retained() {
        let left = workers(vec![worker("a", WorkerKind::Job, true, 50), worker("b", WorkerKind::Job, false, 60)]);
        let ended = |retain, now| ended(&task(retain, Some(0)), Some(&left), &Pods::new(), |_| false, at(now));
        assert_eq!(ended(Some("1m"), 159), [Effect::delete(&left["shop/b"])]);
        let all = [Effect::DeleteMany(WorkerKind::Job, "shop".into(), None)];
        assert_eq!(ended(Some("1m"), 160), all);
        assert_eq!(ended(None, 100), all);
    }

    #[test]
    fn where_others_made_workers_of_that_label_each_goes_by_its_uid() {
        let mut away = worker("c", WorkerKind::Job, true, 50);
        away.namespace = "own".into();
        let left = workers(vec![worker("a", WorkerKind::Job, true, 50), worker("b", WorkerKind::Job, true, 60), away]);
        let single = |key: &str| Effect::delete(&left[key]);
        let many = Effect::DeleteMany(WorkerKind::Job, "own".into(), None);
        assert_eq!(delete_all(Some(&left), |place| place == "shop"), [many, single("shop/a"), single("shop/b")]);
    }

    #[test]
    fn a_task_goes_after_its_workers() {
        let ended = |retain, ttl, now| ended(&task(retain, ttl), None, &Pods::new(), |_| false, at(now));
        assert_eq!(ended(None, Some(10), 109), []);
        assert_eq!(ended(None, Some(10), 110), [Effect::DeleteTask(None)]);
        assert_eq!(ended(Some("1m"), Some(10), 110), []);
        assert_eq!(ended(None, None, 9999), []);
    }

    #[test]
    fn orphans_are_old() {
        let left = workers(vec![worker("a", WorkerKind::Pod, false, 0), worker("b", WorkerKind::Pod, false, 50)]);
        assert!(!are_orphans(&left, at(109)));
        assert!(are_orphans(&left, at(110)));
    }

    #[test]
    fn the_oldest_go_first() {
        let all = [3, 1, 2].map(|created| worker(&format!("w{created}"), WorkerKind::Job, true, created));
        let names = |most| excess(all.iter().collect(), most).iter().map(|w| w.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(1), ["w1", "w2"]);
        assert!(names(3).is_empty());
    }
}
