//! Metrics of this crate. Each struct registers itself; the process that serves the metrics owns the
//! registry. Names are part of the API (docs/metrics.md).

use prometheus::{
    IntCounterVec, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_gauge_with_registry,
};

use crate::work_kind::WorkKind;

/// Metrics of the requests to the API server.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    /// Requests, by component, verb, resource and status code.
    pub requests: IntCounterVec,
}

impl RequestMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            requests: register_int_counter_vec_with_registry!(
                "prewarm_kube_requests_total",
                "Requests to the API server, by component, verb, resource and status code.",
                &["component", "verb", "resource", "code"],
                registry
            )?,
        })
    }
}

/// Metrics of errors that ended the processing of one object.
#[derive(Debug, Clone)]
pub struct ObjectErrorMetrics {
    /// Panics that ended the processing of one object, by kind of work.
    pub internal_errors: IntCounterVec,
    /// Objects that a watch delivered and that could not be decoded, by resource.
    pub unreadable_objects: IntCounterVec,
}

impl ObjectErrorMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let internal_errors = register_int_counter_vec_with_registry!(
            "prewarm_internal_errors_total",
            "Internal errors that ended the processing of one object.",
            &["part"],
            registry
        )?;
        // An alert detects an increase only if the series existed before, so all series start at
        // zero.
        for kind in WorkKind::ALL {
            internal_errors.with_label_values(&[kind.as_str()]).reset();
        }
        let unreadable_objects = register_int_counter_vec_with_registry!(
            "prewarm_unreadable_objects_total",
            "Objects delivered by a watch that could not be decoded, by resource.",
            &["resource"],
            registry
        )?;
        Ok(Self { internal_errors, unreadable_objects })
    }
}

/// Metrics of the leader election.
#[derive(Debug, Clone)]
pub struct LeaseMetrics {
    /// 1 on the leader, 0 on other replicas.
    pub leader: IntGauge,
}

impl LeaseMetrics {
    /// Creates and registers the metrics. Fails when the registry contains one of their names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            leader: register_int_gauge_with_registry!(
                "prewarm_leader",
                "1 on the leader, 0 on other replicas.",
                registry
            )?,
        })
    }
}
