//! Controller of `PrewarmSchedule`s: creates, cancels and deletes the tasks that
//! `prewarmer_core::schedule` decides on, and writes the status with the resource version that the
//! decision was based on.
//!
//! Inputs: schedules and their tasks, from the stores (`prewarmer_kube::store`).

mod metrics;
mod run;

pub(crate) use self::{metrics::ScheduleMetrics, run::run};
