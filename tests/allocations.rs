//! Upper bounds of the heap allocations of a review. A test program of its own, since its allocator
//! counts those of the entire process.

#![allow(clippy::unwrap_used)]

use prewarmer::{
    cluster_context::ClusterContextStore,
    webhook::{AdmissionReview, decide_workload, serialize_answer},
};
use prewarmer_core::workload::Policy;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

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
