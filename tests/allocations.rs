//! Upper bounds of the heap allocations of a review, and of the memory that the server keeps for
//! each object. A test program of its own, since its allocator counts those of the entire process.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use k8s_openapi::jiff::Timestamp;
use prewarmer::cluster_context::ClusterContextStore;
use prewarmer_core::{
    admission::{AdmissionReview, decide_workload, serialize_answer},
    controller::{Controller, Observation, WatchChange, sample_settings},
    intake::DedupKey,
    node::{Interner, NodeInfo},
    slim::SlimNode,
    task::PrewarmTask,
    workload::Policy,
    workload_watch::{
        ImageRefs,
        index::{WorkloadId, WorkloadIndex},
    },
};
use prewarmer_kube::store::TaskStore;
use serde_json::{from_value, json};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Serializes the tests of this program, which share the counters of the allocator.
static COUNTERS: Mutex<()> = Mutex::new(());

fn lock_counters() -> MutexGuard<'static, ()> {
    COUNTERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Recorded reviews of `tests/fuzz/corpus/review`, with the upper bounds of the number of allocations
/// and of their bytes, from the bytes of the request to those of the response.
const BOUNDS: [(&str, u64, u64); 5] = [
    ("create-deployment-web", 135, 16_000),
    ("update-deployment-web", 285, 31_500),
    ("update-replicaset-web-6f9fbd67db", 68, 6_700),
    ("create-pod-web-6d6575f59b", 62, 6_000),
    ("update-statefulset-db", 52, 8_300),
];

fn answer(bytes: &[u8], policy: &Policy, context: &ClusterContextStore) -> Vec<u8> {
    let review = AdmissionReview::parse_workload(bytes, policy).unwrap();
    let (verdict, _) = decide_workload(&review, policy, context, usize::MAX).unwrap();
    serialize_answer(&review, &verdict)
}

#[test]
fn allocations_of_a_review_are_bounded() {
    let _guard = lock_counters();
    let (policy, context) = (Policy::default(), ClusterContextStore::default());
    let _profiler = dhat::Profiler::builder().testing().build();
    let mut exceeded = Vec::new();
    for (name, most_blocks, most_bytes) in BOUNDS {
        let file = format!("tests/fuzz/corpus/review/{name}.json");
        let review = std::fs::read(&file).unwrap();
        drop(answer(&review, &policy, &context));
        // The least of several rounds, since the test harness may allocate at the same time.
        let rounds = (0..5).map(|_| {
            let before = dhat::HeapStats::get();
            let answer = answer(&review, &policy, &context);
            let after = dhat::HeapStats::get();
            drop(answer);
            (after.total_blocks - before.total_blocks, after.total_bytes - before.total_bytes)
        });
        let (blocks, bytes) = rounds.min().unwrap();
        println!("{name} ({} bytes): {blocks} allocations of {bytes} bytes", review.len());
        if blocks > most_blocks || bytes > most_bytes {
            exceeded.push(format!("{name}: {blocks} allocations of {bytes} bytes"));
        }
    }
    assert!(exceeded.is_empty(), "more than the bounds: {exceeded:#?}");
}

/// Number of objects whose memory is measured. Tables that double their size hold 1,792 entries
/// before they grow, so that their unused half is a part of each object's share.
const OBJECTS: usize = 1_800;

/// Returns the bytes that are still allocated for each of [`OBJECTS`] after `store` has stored them
/// in what it returns.
fn kept_bytes<T>(store: impl FnOnce() -> T) -> u64 {
    let before = dhat::HeapStats::get().curr_bytes;
    let stored = store();
    let kept = dhat::HeapStats::get().curr_bytes.saturating_sub(before) / OBJECTS;
    drop(stored);
    kept as u64
}

/// Returns a finished task of three images on 100 nodes.
fn finished_task(index: usize) -> PrewarmTask {
    let images = [1, 2, 3].map(|part| format!("registry.example/team/app-{index}-{part}:1.0.0"));
    let results =
        images.clone().map(|image| json!({"image": image, "succeeded": 100, "failed": 0}));
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "AllNodesSucceeded",
            "message": "100 of 100 nodes are warm", "lastTransitionTime": "2026-11-21T00:10:00Z"})
    };
    from_value(json!({
        "metadata": {"namespace": "shop", "name": format!("auto-web-{index}"),
            "uid": format!("00000000-0000-4000-8000-{index:012}"), "resourceVersion": "123456",
            "creationTimestamp": "2026-11-21T00:00:00Z"},
        "spec": {"images": images, "ttlSecondsAfterFinished": 3600},
        "status": {"phase": "Completed", "totalNodes": 100, "succeededNodes": 100,
            "totalBatches": 10, "progress": "100/100 Nodes", "nodeStates": "s".repeat(100),
            "startTime": "2026-11-21T00:00:00Z", "completionTime": "2026-11-21T00:10:00Z",
            "images": results, "conditions": [condition("Progressing"), condition("Complete")]},
    }))
    .unwrap()
}

/// Returns a ready node of 20 labels and 50 images.
fn node(index: usize, texts: &Interner) -> NodeInfo {
    let name = format!("ip-10-0-{index}.eu-central-1.compute.internal");
    let mut labels: serde_json::Map<_, _> =
        (0..19).map(|at| (format!("example.com/label-{at}"), json!("shared"))).collect();
    labels.insert("kubernetes.io/hostname".into(), json!(name));
    let image = |at: usize| {
        let repository = format!("registry.example/team/service-{at}");
        let digest = format!("{repository}@sha256:{:064x}", at * 40 + index % 40);
        json!({"names": [digest, format!("{repository}:1.{at}")], "sizeBytes": 1000})
    };
    let node: SlimNode = from_value(json!({
        "metadata": {"name": name, "labels": labels},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": format!("10.0.{}.1", index % 256)}],
            "images": (0..50).map(image).collect::<Vec<_>>()},
    }))
    .unwrap();
    NodeInfo::new(&node, texts)
}

/// Upper bounds of the bytes that the server keeps for an object, by the allocator's requests. The
/// controller exists on the leader only; the store of tasks is that of each replica. In place of the
/// JSON of the REST API it renders here that of the object, which is longer.
const BYTES_KEPT: [(&str, u64); 4] = [
    ("node of the controller", 2_300),
    ("finished task of the controller", 400),
    ("finished task of the store", 1_150),
    ("workload of three images", 400),
];

fn controller_with(observations: impl Iterator<Item = Observation>) -> Controller {
    let mut controller = Controller::new(9, Arc::new(sample_settings()));
    let now = Timestamp::UNIX_EPOCH;
    observations.for_each(|observation| controller.handle(observation, now));
    controller
}

#[test]
fn memory_kept_for_each_object_is_bounded() {
    let _guard = lock_counters();
    let _profiler = dhat::Profiler::builder().testing().build();
    let texts = Interner::default();
    let node_bytes = kept_bytes(|| {
        let node = |index| Observation::Node(WatchChange::Applied(node(index, &texts)));
        controller_with((0..OBJECTS).map(node))
    });
    let task_bytes = kept_bytes(|| {
        let task = |index| Observation::Task(WatchChange::Applied(Arc::new(finished_task(index))));
        controller_with((0..OBJECTS).map(task))
    });
    let entry_bytes = kept_bytes(|| {
        let store = TaskStore::new(|task| serde_json::to_vec(task).unwrap().into());
        (0..OBJECTS).for_each(|index| store.put(&finished_task(index)));
        store
    });
    let workload_bytes = kept_bytes(|| {
        let mut workloads = WorkloadIndex::new(ImageRefs::default());
        for index in 0..OBJECTS {
            let (namespace, name) = ("shop".to_owned(), format!("web-{index}"));
            let images: Vec<u64> = (0..3).map(|image| (index * 3 + image) as u64).collect();
            let keys: Vec<DedupKey> =
                images.iter().map(|key| u128::from(*key).to_be_bytes()).collect();
            workloads.insert(WorkloadId { kind: 0, namespace, name }, keys, images, true);
        }
        workloads
    });
    let kept = [node_bytes, task_bytes, entry_bytes, workload_bytes];
    let exceeded: Vec<String> = BYTES_KEPT
        .iter()
        .zip(kept)
        .inspect(|((name, _), bytes)| println!("{name}: {bytes} bytes"))
        .filter(|((_, most), bytes)| bytes > most)
        .map(|((name, most), bytes)| format!("{name}: {bytes} bytes, expected at most {most}"))
        .collect();
    assert!(exceeded.is_empty(), "{exceeded:#?}");
}

/// Upper bounds of the bytes that stay allocated after objects were removed, for each of [`OBJECTS`].
/// The store keeps 1,000 tombstones, which are 37 bytes for each. A table that kept its capacity would
/// have at least 40 bytes for each in addition.
const BYTES_LEFT: [(&str, u64); 3] = [("controller", 8), ("store", 42), ("workload index", 12)];

#[test]
fn memory_of_removed_objects_is_returned() {
    let _guard = lock_counters();
    let _profiler = dhat::Profiler::builder().testing().build();
    let tasks = || (0..OBJECTS).map(|index| Arc::new(finished_task(index)));
    let controller_bytes = kept_bytes(|| {
        let changes = tasks()
            .map(WatchChange::Applied)
            .chain(tasks().map(WatchChange::Deleted))
            .map(Observation::Task);
        let mut controller = controller_with(changes);
        // Garbage is collected some seconds after the first reconcile.
        for second in [0, 60] {
            controller.reconcile_all(Timestamp::from_second(second).unwrap());
        }
        controller
    });
    let store_bytes = kept_bytes(|| {
        let store = TaskStore::new(|task| serde_json::to_vec(task).unwrap().into());
        tasks().for_each(|task| store.put(&task));
        tasks().for_each(|task| store.remove(&task));
        store
    });
    let workload_bytes = kept_bytes(|| {
        let mut workloads = WorkloadIndex::new(ImageRefs::default());
        let id =
            |index| WorkloadId { kind: 0, namespace: "shop".into(), name: format!("web-{index}") };
        for index in 0..OBJECTS {
            workloads.insert(id(index), vec![[0; 16]], vec![index as u64], true);
        }
        let now = Instant::now();
        // One workload of the namespace stays.
        (1..OBJECTS).for_each(|index| assert!(workloads.remove(&id(index), now)));
        drop(workloads.needed_keys("shop", now));
        workloads
    });
    let left = [controller_bytes, store_bytes, workload_bytes];
    println!("{left:?}");
    assert!(BYTES_LEFT.iter().zip(left).all(|((_, most), bytes)| bytes <= *most), "{left:?}");
}
