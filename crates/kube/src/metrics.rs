//! Metrics of this crate. Each struct registers itself; the process that serves the metrics owns the
//! registry. Names are part of the API (docs/metrics.md).

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

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
        let requests = counters(
            registry,
            "prewarm_kube_requests_total",
            "Requests to the API server, by component, verb, resource and status code.",
            &["component", "verb", "resource", "code"],
        )?;
        Ok(Self { requests })
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
        let internal_errors = counters(
            registry,
            "prewarm_internal_errors_total",
            "Internal errors that ended the processing of one object.",
            &["part"],
        )?;
        // An alert detects an increase only if the series existed before, so all series start at
        // zero.
        for kind in WorkKind::ALL {
            internal_errors.with_label_values(&[kind.as_str()]).reset();
        }
        let unreadable_objects = counters(
            registry,
            "prewarm_unreadable_objects_total",
            "Objects delivered by a watch that could not be decoded, by resource.",
            &["resource"],
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
        let leader = IntGauge::new("prewarm_leader", "1 on the leader, 0 on other replicas.")?;
        registry.register(Box::new(leader.clone()))?;
        Ok(Self { leader })
    }
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
