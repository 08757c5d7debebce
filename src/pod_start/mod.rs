//! Pod starts: whether containers find their images on the node, and the waiting time saved.
//!
//! Input: events of the kubelet with the reason `Pulled`, and the images that watched workloads
//! need. Output: the outcome figures among the metrics. Runs on the leader only. Uses no other
//! component.
//!
//! The metrics count from the start of a process. Their sums since the installation are stored in
//! an annotation of the Lease, which passes them to the next leader and to the replicas that only
//! display them; the Lease is written every second in any case.
//!
//! Events are counted and discarded; no pod is watched or stored. Only the pulls of workers are
//! kept: image, node, duration and end.

// Input from other parties must not cause a panic: arithmetic saturates and indexing is checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod metrics;
mod totals;
mod watch;

pub(crate) use metrics::PodStartMetrics;
pub(crate) use totals::{OutcomeSums, OutcomeTotals, SUMS_ANNOTATION};
pub(crate) use watch::{PodStartWatcher, run};
