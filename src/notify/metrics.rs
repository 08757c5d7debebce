//! Metrics of notifications. Their names are part of the API (docs/metrics.md).

use prometheus::{IntCounterVec, Registry, register_int_counter_vec_with_registry};

/// Metrics of notifications about ended tasks. Clones share them.
#[derive(Clone)]
pub(crate) struct NotifyMetrics {
    /// Delivery attempts, by result: `delivered`, `failed` or `given_up`.
    pub attempts: IntCounterVec,
    /// Failed delivery attempts, by reason, such as `timeout`, `denied` or `status`.
    pub errors: IntCounterVec,
}

impl NotifyMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            attempts: register_int_counter_vec_with_registry!(
                "prewarm_notifications_total",
                "Delivery attempts of notifications about ended tasks, by result.",
                &["result"],
                registry
            )?,
            errors: register_int_counter_vec_with_registry!(
                "prewarm_notification_errors_total",
                "Failed delivery attempts of notifications, by reason.",
                &["reason"],
                registry
            )?,
        })
    }
}
