//! Metrics of node checks. Their names are part of the API (docs/metrics.md).

use prometheus::{IntCounterVec, Registry, register_int_counter_vec_with_registry};

/// Metrics of node checks. Clones share them.
#[derive(Clone)]
pub(crate) struct NodeCheckMetrics {
    /// Image lookups at registries, by result: `found`, or the class of the error.
    pub registry_lookups: IntCounterVec,
}

impl NodeCheckMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            registry_lookups: register_int_counter_vec_with_registry!(
                "prewarm_registry_lookups_total",
                "Image lookups at registries, by result.",
                &["result"],
                registry
            )?,
        })
    }
}
