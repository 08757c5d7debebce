//! Metrics of the workload watch. Their names are part of the API (docs/metrics.md).

use prometheus::{IntCounter, Registry, register_int_counter_with_registry};

/// Metrics of the workload watch. Clones share them.
#[derive(Clone)]
pub(crate) struct WorkloadWatchMetrics {
    /// Workloads that the leader's watch found and that no hint had reported.
    pub recovered: IntCounter,
}

impl WorkloadWatchMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            recovered: register_int_counter_with_registry!(
                "prewarm_workloads_recovered_total",
                "Workloads found by a watch that no hint had reported.",
                registry
            )?,
        })
    }
}
