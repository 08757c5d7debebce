//! Metrics of the REST API. Their names are part of the API (docs/metrics.md).

use prometheus::{
    Gauge, HistogramVec, IntGauge, Registry, register_gauge_with_registry,
    register_histogram_vec_with_registry, register_int_gauge_with_registry,
};

/// Buckets of REST durations, in seconds. Reads are served from memory; writes wait for the API
/// server.
/// They contain the default buckets of Prometheus clients.
const API_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Metrics of the REST API. Clones share them.
#[derive(Clone)]
pub struct ApiMetrics {
    /// Seconds to answer a REST request, by method, route and status.
    pub(crate) request_duration: HistogramVec,
    /// Open REST watches of tasks.
    pub(crate) watchers: IntGauge,
    /// Seconds since the Secret of API tokens was last read.
    pub(crate) tokens_age: Gauge,
}

impl ApiMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            request_duration: register_histogram_vec_with_registry!(
                "prewarm_api_request_duration_seconds",
                "Time to answer a REST request.",
                &["method", "route", "status"],
                API_BUCKETS.to_vec(),
                registry
            )?,
            watchers: register_int_gauge_with_registry!(
                "prewarm_api_watchers",
                "Open REST watches of tasks.",
                registry
            )?,
            tokens_age: register_gauge_with_registry!(
                "prewarm_api_tokens_age_seconds",
                "Seconds since the Secret of API tokens was last read.",
                registry
            )?,
        })
    }
}
