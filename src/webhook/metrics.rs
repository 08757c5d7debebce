//! Metrics of the webhook. Their names are part of the API (docs/metrics.md).

use prometheus::{
    HistogramVec, IntCounterVec, Registry, register_histogram_vec_with_registry,
    register_int_counter_vec_with_registry,
};

/// Buckets of admission durations, in seconds. Responses take microseconds to milliseconds; the
/// timeout of the webhook is 2 s.
const ADMISSION_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0];

/// Metrics of the webhook. Clones share them.
#[derive(Clone)]
pub struct WebhookMetrics {
    /// Seconds to answer an admission review, by kind and verdict.
    pub(crate) admission_duration: HistogramVec,
    /// Reviews that were allowed without being read, by reason: `budget_full`, `pool_full`,
    /// `deadline`.
    pub(crate) reviews_unexamined: IntCounterVec,
}

impl WebhookMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            admission_duration: register_histogram_vec_with_registry!(
                "prewarm_admission_duration_seconds",
                "Time to answer an admission review.",
                &["kind", "verdict"],
                ADMISSION_BUCKETS.to_vec(),
                registry
            )?,
            reviews_unexamined: register_int_counter_vec_with_registry!(
                "prewarm_admission_unexamined_total",
                "Reviews allowed without being read, by reason.",
                &["reason"],
                registry
            )?,
        })
    }
}
