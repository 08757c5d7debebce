//! Decisions of Prewarmer, as functions of values: no client, no async runtime, no clock, no
//! metrics.
//!
//! | module | decisions |
//! |---|---|
//! | [`task`] | validation of `PrewarmTask`s, selection of nodes, batches |
//! | [`schedule`] | times of `PrewarmSchedule`s, and their next action |
//! | [`audit`] | how long containers waited for images, and what would have been spared |
//! | [`admission`] | reviews of workloads, tasks and schedules, and their answers |
//! | [`workload`] | images, placement, credentials and options of a workload |
//! | [`intake`] | deduplication and coalescing of hints, queues and rate limits |
//! | [`workload_watch`] | images that workloads need, progress of rollouts |
//! | [`node`] | nodes and their eligibility |
//! | [`worker`] | the Job or pod that pulls images, and the evaluation of its state |
//! | [`pod_start`] | pod starts, classified as warm or cold |
//! | [`settings`] | checks of settings, and default names of an installation |
//! | [`slim`] | API objects with only the fields that are used |

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

pub mod admission;
pub mod audit;
pub mod controller;
mod counts;
pub mod intake;
pub mod node;
pub mod pod_start;
pub mod schedule;
pub mod settings;
pub mod slim;
mod tables;
pub mod task;
mod text;
pub mod worker;
pub mod workload;
pub mod workload_watch;

pub use counts::count_values;
pub use prewarmer_api::{annotations, dns, duration, image, labels, timestamp};
pub use tables::shrink_sparse;
pub use text::{comma_separated, hex};
