//! Metrics of schedules. Their names are part of the API (docs/metrics.md).

use prometheus::{IntCounterVec, Registry, register_int_counter_vec_with_registry};

/// Metrics of schedules. Clones share them.
#[derive(Clone)]
pub(crate) struct ScheduleMetrics {
    /// Ended executions of schedules, by status.
    pub runs: IntCounterVec,
}

impl ScheduleMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            runs: register_int_counter_vec_with_registry!(
                "prewarm_schedule_runs_total",
                "Ended executions of schedules, by status.",
                &["status"],
                registry
            )?,
        })
    }
}
