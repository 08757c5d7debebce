//! Metrics of intake. Their names are part of the API (docs/metrics.md).

use prewarmer_core::workload::OneShotReason;
use prometheus::{
    IntCounterVec, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_gauge_with_registry,
};

/// Metrics of intake. Clones share them.
#[derive(Clone)]
pub(crate) struct IntakeMetrics {
    /// Hints, by outcome: `queued`, `duplicate`, `opted_out`, `unidentified`, `limited`, `dropped`,
    /// `not_stored`, `forbidden`.
    pub hints: IntCounterVec,
    /// Admitted pods and Jobs that count as one-shot and are not warmed, by reason.
    pub one_shot: IntCounterVec,
    /// Hints in the intake queue.
    pub queue_depth: IntGauge,
}

impl IntakeMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let one_shot = register_int_counter_vec_with_registry!(
            "prewarm_admission_one_shot_total",
            "Admitted pods and Jobs that run once and are not warmed, by reason.",
            &["reason"],
            registry
        )?;
        for reason in OneShotReason::ALL {
            one_shot.with_label_values(&[reason.as_str()]);
        }
        Ok(Self {
            one_shot,
            hints: register_int_counter_vec_with_registry!(
                "prewarm_admission_hints_total",
                "Hints from admission, by outcome.",
                &["outcome"],
                registry
            )?,
            queue_depth: register_int_gauge_with_registry!(
                "prewarm_queue_depth",
                "Hints in the intake queue.",
                registry
            )?,
        })
    }
}
