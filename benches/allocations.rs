//! Counts heap allocations of one admission review, from the bytes of the request to those of the
//! response.
//!
//! usage: allocations REVIEW.json

use anyhow::Context;
use prewarmer::{cluster_context::ClusterContextStore, webhook::review_roundtrip};
use prewarmer_core::workload::Policy;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Reviews that are averaged. One-time allocations do not affect the result at this number.
const ROUNDS: u64 = 1000;

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).context("usage: allocations REVIEW.json")?;
    let review = std::fs::read(&file).context(file)?;
    let (policy, around) = (Policy::default(), ClusterContextStore::default());
    anyhow::ensure!(
        !review_roundtrip(&review, &policy, &around).is_empty(),
        "the file contains no admission review"
    );
    let _profiler = dhat::Profiler::builder().testing().build();
    let before = dhat::HeapStats::get();
    for _ in 0..ROUNDS {
        drop(review_roundtrip(&review, &policy, &around));
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
