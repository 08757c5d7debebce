//! Tests of pages, subscriptions and freshness.

use bytes::Bytes;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt;
use prewarmer_core::task::{Notification, Phase, PrewarmTaskSpec, PrewarmTaskStatus, Status};

use super::*;

/// Creates a store that renders tasks as their names.
fn task_store() -> TaskStore {
    TaskStore::new(|task| serde_json::to_vec(&task.name_any()).unwrap().into())
}

fn task(namespace: &str, name: &str, second: i64, phase: Phase) -> PrewarmTask {
    let mut task = PrewarmTask::new(name, PrewarmTaskSpec::new(vec!["a:1".into()]));
    task.metadata.namespace = Some(namespace.into());
    task.metadata.uid = Some(format!("uid-{name}"));
    task.metadata.resource_version = Some(second.to_string());
    task.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
    task.status = Some(PrewarmTaskStatus { phase, ..PrewarmTaskStatus::default() });
    task
}

fn names(catalog: &TaskStore, filter: &TaskFilter<'_>) -> (Vec<String>, usize) {
    let page = catalog.list(filter);
    let name = |json: &Bytes| -> String { serde_json::from_slice(json).unwrap() };
    (page.tasks.iter().map(name).collect(), page.total)
}

fn all<'a>() -> TaskFilter<'a> {
    TaskFilter { status: None, search: None, visible: &|_| true, until: None, limit: 2, offset: 0 }
}

#[test]
fn pages_are_newest_first_and_stable_while_tasks_are_created() {
    let catalog = task_store();
    for (name, second) in [("a", 1), ("b", 2), ("c", 2), ("d", 3)] {
        catalog.put(&task("shop", name, second, Phase::Running));
    }
    assert_eq!(names(&catalog, &all()), (vec!["d".into(), "c".into()], 4));
    let until = catalog.list(&all()).newest;
    catalog.put(&task("shop", "e", 9, Phase::Running));
    let second = TaskFilter { offset: 2, until, ..all() };
    assert_eq!(names(&catalog, &second), (vec!["b".into(), "a".into()], 4));
    let beyond = TaskFilter { offset: 50, ..all() };
    assert_eq!(names(&catalog, &beyond), (vec![], 5));
}

#[test]
fn list_filters_by_status_and_namespace() {
    let catalog = task_store();
    catalog.put(&task("shop", "a", 1, Phase::Completed));
    catalog.put(&task("shop", "b", 2, Phase::Finalizing));
    catalog.put(&task("bank", "c", 3, Phase::Running));
    let running = TaskFilter { status: Some(Status::Running), ..all() };
    assert_eq!(names(&catalog, &running), (vec!["c".into(), "b".into()], 2));
    let shop = TaskFilter { visible: &|namespace| namespace == "shop", ..running };
    assert_eq!(names(&catalog, &shop), (vec!["b".into()], 1));
    assert_eq!(catalog.counts(&|_| true)[&Status::Completed], 1);
    catalog.put(&task("bank", "b", 3, Phase::Running));
    let spaces: Vec<_> =
        catalog.by_name("b").iter().map(|entry| entry.key.namespace.to_string()).collect();
    assert_eq!(spaces, ["bank", "shop"]);
    assert!(catalog.by_name("bb").is_empty());
}

#[test]
fn an_older_version_replaces_no_newer_one() {
    let catalog = task_store();
    catalog.put(&task("shop", "a", 5, Phase::Completed));
    let mut old = task("shop", "a", 5, Phase::Running);
    old.metadata.resource_version = Some("4".into());
    catalog.put(&old);
    let key = NamespacedName::new("shop", "a");
    assert_eq!(catalog.get(&key).unwrap().status, Status::Completed);
    // A task with the same name and another UID replaces it.
    old.metadata.uid = Some("other".into());
    catalog.put(&old);
    assert_eq!(catalog.get(&key).unwrap().status, Status::Running);
    catalog.remove(&task("shop", "a", 5, Phase::Completed));
    assert!(
        catalog.get(&key).is_some(),
        "the deletion of an earlier task with the same name must not remove it"
    );
    catalog.retain_listed(&std::collections::HashSet::new());
    assert!(catalog.get(&key).is_none() && catalog.list(&all()).total == 0);
}

#[tokio::test]
async fn a_subscription_receives_the_end_of_the_task() {
    let catalog = task_store();
    let key = NamespacedName::new("shop", "a");
    assert!(catalog.subscribe(&key).is_none());
    catalog.put(&task("shop", "a", 1, Phase::Running));
    let mut watcher = catalog.subscribe(&key).unwrap();
    assert_eq!(watcher.borrow_and_update().as_ref().unwrap().status, Status::Running);
    catalog.put(&task("shop", "a", 2, Phase::Completed));
    watcher.changed().await.unwrap();
    assert_eq!(watcher.borrow_and_update().as_ref().unwrap().status, Status::Completed);
    assert!(watcher.changed().await.is_err(), "nothing follows the end");
    let late = catalog.subscribe(&key).unwrap();
    assert_eq!(late.borrow().as_ref().unwrap().status, Status::Completed);
    catalog.put(&task("shop", "b", 1, Phase::Running));
    let mut watcher = catalog.subscribe(&NamespacedName::new("shop", "b")).unwrap();
    catalog.remove(&task("shop", "b", 1, Phase::Running));
    assert!(watcher.wait_for(Option::is_none).await.is_ok());
}

#[test]
fn ended_tasks_have_pending_notifications_until_delivered() {
    let catalog = task_store();
    let mut notified = task("shop", "a", 1, Phase::Running);
    notified.spec.notify = Some(vec![Notification {
        url: Some("https://example.com".into()),
        ..Notification::default()
    }]);
    catalog.put(&notified);
    assert!(catalog.pending_notifications().is_empty());
    notified.status.as_mut().unwrap().phase = Phase::Failed;
    catalog.put(&notified);
    assert_eq!(catalog.pending_notifications().len(), 1);
    notified.status.as_mut().unwrap().notifications =
        vec![prewarmer_core::task::Delivery { done: true, ..Default::default() }];
    catalog.put(&notified);
    assert!(catalog.pending_notifications().is_empty());
}

#[tokio::test(start_paused = true)]
async fn age_grows_while_the_watch_is_interrupted() {
    let catalog = task_store();
    catalog.put(&task("shop", "a", 7, Phase::Running));
    assert_eq!(catalog.freshness(), Freshness { version: "7".into(), age: Duration::ZERO });
    catalog.mark_interrupted();
    tokio::time::advance(Duration::from_secs(9)).await;
    catalog.mark_interrupted();
    assert_eq!(catalog.freshness().age, Duration::from_secs(9));
    catalog.put(&task("shop", "a", 8, Phase::Running));
    assert_eq!(catalog.freshness().age, Duration::ZERO);
}

/// The response to a write of this replica may arrive after the watch event of the deletion.
#[test]
fn late_response_does_not_restore_a_deleted_task() {
    let catalog = task_store();
    catalog.put(&task("shop", "a", 1, Phase::Running));
    catalog.remove(&task("shop", "a", 3, Phase::Running));
    catalog.put(&task("shop", "a", 2, Phase::Completed));
    assert!(catalog.by_name("a").is_empty() && catalog.list(&all()).total == 0);
}

/// The texts of ended tasks are compressed.
#[test]
fn texts_of_a_task_are_the_same_before_and_after_its_end() {
    let catalog = TaskStore::new(|task| serde_json::to_vec(task).unwrap().into());
    let key = NamespacedName::new("shop", "a");
    for phase in [Phase::Running, Phase::Completed, Phase::Failed] {
        let mut task = task("shop", "a", 1, phase);
        task.spec.images = (0..50).map(|at| format!("registry.example/\u{e9}/{at}:1")).collect();
        task.status.as_mut().unwrap().node_states = "sf".repeat(2_000);
        catalog.put(&task);
        let entry = catalog.get(&key).unwrap();
        assert_eq!(entry.json(), serde_json::to_vec(&task).unwrap());
        assert_eq!(*entry.detail().node_states, *"sf".repeat(2_000));
        assert_eq!(entry.detail().policy, task.spec.batch_policy);
    }
}

#[test]
fn search_matches_names_and_images_case_insensitively() {
    let catalog = task_store();
    catalog.put(&task("shop", "web", 1, Phase::Running));
    let mut other = task("shop", "db", 2, Phase::Running);
    other.spec.images = vec!["registry.example/Postgres:17".into()];
    catalog.put(&other);
    let found = |text| names(&catalog, &TaskFilter { search: Some(text), ..all() }).0;
    assert_eq!(
        (found("POSTGRES"), found("we"), found("image")),
        (vec!["db".into()], vec!["web".into()], vec![])
    );
}

/// A task may contain any owner reference; one to an owner in another namespace is ignored.
#[test]
fn executions_are_limited_to_the_namespace_of_the_schedule() {
    use prewarmer_core::schedule::{
        ExecutionOrigin, PrewarmSchedule, PrewarmScheduleSpec, Trigger, build_task,
    };
    let spec = PrewarmScheduleSpec::new("@daily".into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
    let mut schedule = PrewarmSchedule::new("nightly", spec);
    (schedule.metadata.namespace, schedule.metadata.uid) =
        (Some("bank".into()), Some("schedule".into()));
    let made = ExecutionOrigin { scheduled_at: Timestamp::UNIX_EPOCH, trigger: Trigger::Schedule };
    let catalog = task_store();
    for (namespace, uid) in [("bank", "1"), ("evil", "2")] {
        let mut task = build_task(&schedule, "run", &made);
        (task.metadata.namespace, task.metadata.uid) = (Some(namespace.into()), Some(uid.into()));
        catalog.put(&task);
    }
    let uids = |namespace: &str| -> Vec<Box<str>> {
        catalog.executions_of(namespace, "schedule").iter().map(|entry| entry.uid.clone()).collect()
    };
    assert_eq!(uids("bank"), ["1".into()]);
    catalog.remove(&{
        let mut task = build_task(&schedule, "run", &made);
        (task.metadata.namespace, task.metadata.uid) = (Some("bank".into()), Some("1".into()));
        task
    });
    assert!(uids("bank").is_empty());
}
