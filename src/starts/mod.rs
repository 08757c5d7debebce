//! How pods start: whether their containers find their images on the node, and what that was worth.
//!
//! In: the kubelet's events of the reason `Pulled`, as they come; the images
//! that watched workloads ask for. Out: the outcome figures among the metrics.
//! Runs on the leader only. May call `image`, `rollout` and `worker`.
//!
//! The figures count from the start of a process. Their sums since the
//! installation go from leader to leader, and to the replicas that only show
//! them, by an annotation of the Lease: it is written every second anyway.
//!
//! An event is read and forgotten: no pod is watched and none is kept. What is
//! remembered is which images our own workers have pulled to which nodes, how
//! long each pull took and when it ended.

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod event;
mod judge;
mod totals;
mod watch;

pub use totals::{ANNOTATION, Sums, Totals};
pub use watch::{Watcher, run};
