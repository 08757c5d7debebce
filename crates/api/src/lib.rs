//! Resources of Prewarmer, for programs that create or read them.
//!
//! [`task::PrewarmTask`] pulls images to nodes once, [`task::PrewarmPlan`] stores the nodes of a
//! task, and [`schedule::PrewarmSchedule`] creates tasks at the times of a cron expression. The
//! types are `kube` resources: `kube::Api<PrewarmTask>` works with them.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

pub mod annotations;
pub mod dns;
pub mod duration;
mod field_error;
pub mod image;
pub mod labels;
pub mod schedule;
pub mod task;
pub mod timestamp;

pub use field_error::FieldError;
