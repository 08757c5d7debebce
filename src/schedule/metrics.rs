//! Metrics of schedules. Their names are part of the API (docs/metrics.md).

use prewarmer_api::schedule::ExecutionStatus;
use prometheus::{IntCounterVec, Registry, register_int_counter_vec_with_registry};

/// Final statuses of an execution. Their series exist from the start, because `increase()` and
/// `rate()` do not see a series' first value.
const ENDED: [ExecutionStatus; 4] = [
    ExecutionStatus::Success,
    ExecutionStatus::Failed,
    ExecutionStatus::Skipped,
    ExecutionStatus::Timeout,
];

/// Metrics of schedules. Clones share them.
#[derive(Clone)]
pub(crate) struct ScheduleMetrics {
    /// Ended executions of schedules, by status.
    pub runs: IntCounterVec,
}

impl ScheduleMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let runs = register_int_counter_vec_with_registry!(
            "prewarm_schedule_runs_total",
            "Ended executions of schedules, by status.",
            &["status"],
            registry
        )?;
        for status in ENDED {
            runs.with_label_values(&[status.as_str()]);
        }
        Ok(Self { runs })
    }
}
