//! Hints: deduplication, coalescing, queue and rate limits.
//!
//! Input: hints of workloads, the time, and the outcomes of requests. Output: lookups and tasks that
//! are due. May use `task` and `workload`.

pub mod coalesce;
pub mod dedup_index;
pub mod dedup_keys;
pub mod fair_queue;
pub mod hint;
pub mod queue;
pub mod rate_limit;

pub use self::{
    coalesce::{CoalescedTasks, TaskDraft, coalesce_hints},
    dedup_index::{DedupIndex, TaskName, TrackedTask, workloads_of},
    dedup_keys::{DedupKey, dedup_keys, dedup_keys_of_all},
    hint::{ConfirmedHint, Hint},
    queue::OfferOutcome,
    rate_limit::{BURST_SECONDS, RateLimits},
};
