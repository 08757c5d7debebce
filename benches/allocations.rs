//! Counts what a review costs the allocator, from the bytes of the request to those of the answer.
//!
//! usage: allocations REVIEW.json

use anyhow::Context;
use prewarmer::{surroundings::Surroundings, webhook::rehearse, workload::Policy};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Enough that what is allocated once does not show.
const ROUNDS: u64 = 1000;

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).context("usage: allocations REVIEW.json")?;
    let review = std::fs::read(&file).context(file)?;
    let (policy, around) = (Policy::default(), Surroundings::default());
    anyhow::ensure!(!rehearse(&review, &policy, &around).is_empty(), "this is no review");
    let _profiler = dhat::Profiler::builder().testing().build();
    let before = dhat::HeapStats::get();
    for _ in 0..ROUNDS {
        drop(rehearse(&review, &policy, &around));
    }
    let after = dhat::HeapStats::get();
    println!(
        "a review of {} bytes: {} allocations, {} bytes in all",
        review.len(),
        (after.total_blocks - before.total_blocks) / ROUNDS,
        (after.total_bytes - before.total_bytes) / ROUNDS
    );
    Ok(())
}
