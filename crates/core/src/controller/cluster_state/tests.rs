//! Tests of the cluster state: watch events in any order.

use std::sync::Arc;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{
    super::{
        foreign_object::ForeignObject,
        observation::{Observation, Ownership, WorkerPod},
        watch::{WatchChange, WatchSource},
    },
    CachedTask, ClusterState, ObservationReport,
};
use crate::{
    node::NodeInfo,
    task::{Phase, PrewarmTask, PrewarmTaskSpec, PrewarmTaskStatus, WorkerKind},
    worker::{
        ContainerInfo, ContainerState, PodInfo, PodPhase, WorkerInfo,
        provenance::{PodClaim, ProvenanceError},
    },
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
        apply_pod(&mut world, pod(worker("shop", "a", WorkerKind::Pod), words)).rate_limits.len()
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
    let task = Arc::clone(world.task("u").and_then(CachedTask::open).unwrap());
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

/// The worker with the label of another kind or of an image that the task does not have is refused
/// after the task's end as before.
#[test]
fn an_ended_task_is_kept_in_part_and_still_verifies_its_workers() {
    let mut world = state_with_task(WorkerKind::Job);
    apply_job(&mut world, worker("shop", "a", WorkerKind::Job));
    let mut task = PrewarmTask::clone(world.task("u").and_then(CachedTask::open).unwrap());
    task.status = Some(PrewarmTaskStatus { phase: Phase::Failed, ..PrewarmTaskStatus::default() });
    world.apply(Observation::Task(WatchChange::Applied(Arc::new(task.clone()))), now());
    assert!(world.open_tasks().is_empty());
    assert_eq!(world.ended_tasks().count(), 1);
    assert_eq!(world.workers_of("u").unwrap().len(), 1);

    let other_image = WorkerInfo { images: [1].into(), ..worker("shop", "b", WorkerKind::Job) };
    for refused in [other_image, worker("other", "c", WorkerKind::Pod)] {
        apply_job(&mut world, refused);
    }
    assert_eq!(world.foreign_counts()[&("jobs", ProvenanceError::Task)], 2);
    apply_job(&mut world, worker("shop", "d", WorkerKind::Job));
    assert_eq!(world.workers_of("u").unwrap().len(), 2);

    task.metadata.deletion_timestamp = Some(Time(now()));
    world.apply(Observation::Task(WatchChange::Restarted(vec![Arc::new(task)])), now());
    assert_eq!((world.open_tasks().len(), world.ended_tasks().count()), (0, 0));
    assert!(world.task("u").is_some_and(CachedTask::is_deleted));
}

/// A Job was deleted in the background, and its pod is left.
#[test]
fn pod_that_has_ended_is_not_foreign_without_its_job() {
    let mut world = state_with_task(WorkerKind::Job);
    let job = || worker("shop", "a", WorkerKind::Job);
    let with_phase = |phase| {
        let mut pod = pod(job(), ("ContainerCreating", ""));
        pod.info.phase = phase;
        pod
    };
    let ended = || with_phase(PodPhase::Succeeded);
    let change = |change| Observation::Pod(WatchSource::all("pods"), change);
    apply_job(&mut world, job());
    apply_pod(&mut world, ended());
    let gone = WatchChange::Deleted(Ownership::Ours(job()));
    world.apply(Observation::Job(WatchSource::all("jobs"), gone), now());
    assert_eq!((world.workers_of("u"), world.pods().len()), (None, 1));
    let list = || WatchChange::Restarted(vec![Ownership::Ours(ended())]);
    world.apply(change(list()), now());
    assert_eq!((world.pods().len(), world.pending_pods.len()), (0, 1));
    assert!(world.foreign_claim("shop", "u").is_none());
    assert!(world.foreign_counts().is_empty());
    world.apply(change(WatchChange::Deleted(Ownership::Ours(ended()))), now());
    assert_eq!(world.pending_pods.len(), 0, "the pod was deleted");
    apply_pod(&mut world, with_phase(PodPhase::Running));
    assert!(world.foreign_claim("shop", "u").is_some(), "it may pull");
    apply_pod(&mut world, ended());
    assert!(world.foreign_claim("shop", "u").is_none(), "it has ended");
    let mut forged = ended();
    forged.claim.worker.task = "other".into();
    apply_pod(&mut world, forged);
    assert!(world.foreign_claim("shop", "u").is_some(), "it does not agree with its task");
}

#[test]
fn workers_of_a_deleted_task_count_until_deleted() {
    let job = || worker("shop", "a", WorkerKind::Job);
    let mut world = state_with_task(WorkerKind::Job);
    apply_job(&mut world, job());
    let task = Arc::clone(world.task("u").and_then(CachedTask::open).unwrap());
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
    assert!(
        world.foreign_claim("shop", "u").is_some() && world.foreign_claim("own", "u").is_none()
    );
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
    assert!(world.foreign_claim("shop", "u").is_none());
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
