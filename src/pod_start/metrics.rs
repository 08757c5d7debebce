//! Metrics of pod starts. Their names are part of the API (docs/metrics.md).

use prometheus::{
    Counter, Histogram, IntCounterVec, Registry, register_counter_with_registry,
    register_histogram_with_registry, register_int_counter_vec_with_registry,
};

/// Buckets of lead times, in seconds: from a pod that starts directly after the pull to one that
/// starts the next day.
const LEAD_BUCKETS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];

/// Values of the label `image`.
pub(super) const WARM: &str = "warm";
pub(super) const COLD: &str = "cold";

/// Metrics of pod starts. Clones share them.
#[derive(Clone)]
pub(crate) struct PodStartMetrics {
    /// Started containers of watched workloads, by presence of their image: `warm` or `cold`.
    pub pod_starts: IntCounterVec,
    /// Seconds from the pull of an image by a worker to the first start of a container on that node
    /// that needs it.
    pub lead_time: Histogram,
    /// Seconds that those containers would have waited for their images.
    pub seconds_saved: Counter,
}

impl PodStartMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let pod_starts = register_int_counter_vec_with_registry!(
            "prewarm_pod_starts_total",
            "Started containers of watched workloads, by image presence (warm or cold).",
            &["image"],
            registry
        )?;
        for image in [WARM, COLD] {
            pod_starts.with_label_values(&[image]);
        }
        Ok(Self {
            pod_starts,
            lead_time: register_histogram_with_registry!(
                "prewarm_lead_time_seconds",
                "Time from the pull of an image to the start of the first container that needs it on that node.",
                LEAD_BUCKETS.to_vec(),
                registry
            )?,
            seconds_saved: register_counter_with_registry!(
                "prewarm_seconds_saved_total",
                "Seconds that containers would have waited for their images.",
                registry
            )?,
        })
    }
}
