//! Metrics of the serving certificate. Their names are part of the API (docs/metrics.md).

use prometheus::{Gauge, Registry, register_gauge_with_registry};

/// Metrics of the serving certificate. Clones share them.
#[derive(Clone)]
pub(crate) struct CertificateMetrics {
    /// Seconds until the serving certificate expires.
    pub expiry: Gauge,
}

impl CertificateMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            expiry: register_gauge_with_registry!(
                "prewarm_certificate_expiry_seconds",
                "Seconds until the serving certificate expires.",
                registry
            )?,
        })
    }
}
