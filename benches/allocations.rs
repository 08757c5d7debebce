//! Counts heap allocations of one admission review of a workload, from the bytes of the request to those of the
//! response.
//!
//! usage: allocations REVIEW.json

use anyhow::Context;
use prewarmer::cluster_context::ClusterContextStore;
use prewarmer_core::{
    admission::{AdmissionReview, decide_workload, serialize_answer},
    workload::Policy,
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Reviews that are averaged. One-time allocations do not affect the result at this number.
const ROUNDS: u64 = 1000;

/// Returns the answer to a review of a workload.
fn answer(bytes: &[u8], policy: &Policy, context: &ClusterContextStore) -> anyhow::Result<Vec<u8>> {
    let review = AdmissionReview::parse_workload(bytes, policy)
        .context("the file contains no admission review")?;
    let decided = decide_workload(&review, policy, context, usize::MAX);
    Ok(serialize_answer(&review, &decided.unwrap_or_default().0))
}

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).context("usage: allocations REVIEW.json")?;
    let review = std::fs::read(&file).context(file)?;
    let (policy, context) = (Policy::default(), ClusterContextStore::default());
    drop(answer(&review, &policy, &context)?);
    let _profiler = dhat::Profiler::builder().testing().build();
    let before = dhat::HeapStats::get();
    for _ in 0..ROUNDS {
        drop(answer(&review, &policy, &context)?);
    }
    let after = dhat::HeapStats::get();
    println!(
        "a review of {} bytes: {} allocations, {} bytes in total",
        review.len(),
        (after.total_blocks - before.total_blocks) / ROUNDS,
        (after.total_bytes - before.total_bytes) / ROUNDS
    );
    Ok(())
}
