//! Metrics of the process. Each component registers its own, in its `metrics.rs`; this module
//! registers those of all components with one registry, and encodes them.
//!
//! Names are part of the API (docs/metrics.md). Labels never contain names of images, nodes or tasks.

use prewarmer_kube::metrics::{LeaseMetrics, ObjectErrorMetrics, RequestMetrics};
use prometheus::{Encoder, Registry, TextEncoder};

use crate::{
    api::ApiMetrics, controller::ControllerMetrics, intake::IntakeMetrics,
    node_checks::NodeCheckMetrics, notify::NotifyMetrics, pod_start::PodStartMetrics,
    schedule::ScheduleMetrics, server::metrics::CertificateMetrics, webhook::WebhookMetrics,
    workload_watch::WorkloadWatchMetrics,
};

/// Metrics of the process. The assembly of the service gives each component its own.
pub(crate) struct Metrics {
    /// Registry of all metrics.
    pub(crate) registry: Registry,
    /// Metrics of the REST API.
    pub(crate) api: ApiMetrics,
    /// Metrics of the serving certificate.
    pub(crate) certificates: CertificateMetrics,
    /// Metrics of the controller.
    pub(crate) controller: ControllerMetrics,
    /// Metrics of intake.
    pub(crate) intake: IntakeMetrics,
    /// Metrics of node checks.
    pub(crate) node_checks: NodeCheckMetrics,
    /// Metrics of notifications.
    pub(crate) notify: NotifyMetrics,
    /// Metrics of pod starts.
    pub(crate) pod_start: PodStartMetrics,
    /// Metrics of schedules.
    pub(crate) schedule: ScheduleMetrics,
    /// Metrics of the webhook.
    pub(crate) webhook: WebhookMetrics,
    /// Metrics of the workload watch.
    pub(crate) workload_watch: WorkloadWatchMetrics,
    /// Metrics of the requests to the API server.
    pub(crate) kube_requests: RequestMetrics,
    /// Metrics of the leader election.
    pub(crate) lease: LeaseMetrics,
    /// Metrics of errors that ended the processing of one object.
    pub(crate) object_errors: ObjectErrorMetrics,
}

impl Metrics {
    /// Creates and registers all metrics without the label `image`.
    #[cfg(test)]
    pub(crate) fn new() -> prometheus::Result<Self> {
        Self::with_image_labels(0)
    }

    /// Creates and registers all metrics with value zero, and with this number of values of the
    /// label `image`; 0 for no such label. Fails when two metrics have the same name.
    pub(crate) fn with_image_labels(images: usize) -> prometheus::Result<Self> {
        let registry = Registry::new();
        Ok(Self {
            api: ApiMetrics::register(&registry)?,
            certificates: CertificateMetrics::register(&registry)?,
            controller: ControllerMetrics::register(&registry, images)?,
            intake: IntakeMetrics::register(&registry)?,
            node_checks: NodeCheckMetrics::register(&registry)?,
            notify: NotifyMetrics::register(&registry)?,
            pod_start: PodStartMetrics::register(&registry)?,
            schedule: ScheduleMetrics::register(&registry)?,
            webhook: WebhookMetrics::register(&registry)?,
            workload_watch: WorkloadWatchMetrics::register(&registry)?,
            object_errors: ObjectErrorMetrics::register(&registry)?,
            kube_requests: RequestMetrics::register(&registry)?,
            lease: LeaseMetrics::register(&registry)?,
            registry,
        })
    }
}

/// Encodes the metrics of a registry in the Prometheus text format.
pub(crate) fn encode(registry: &Registry) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_is_encoded() {
        let metrics = Metrics::new().unwrap();
        metrics.intake.hints.with_label_values(&["queued"]).inc();
        let text = encoded(&metrics);
        assert!(text.contains("prewarm_admission_hints_total{outcome=\"queued\"} 1"), "{text}");
        assert!(text.contains("# HELP prewarm_queue_depth "));
    }

    /// Creates a series of each metric with labels, because metrics without series are not encoded.
    fn metrics_with_all_series() -> Metrics {
        let metrics = Metrics::new().unwrap();
        metrics.webhook.admission_duration.with_label_values(&["Pod", "hinted"]);
        metrics.api.request_duration.with_label_values(&["GET", "/api/v1/tasks", "200"]);
        metrics.controller.foreign_objects.with_label_values(&["job", "labels"]);
        metrics.intake.hints.with_label_values(&["queued"]);
        metrics.controller.nodes.image_failures.with_label_values(&["TLS"]);
        metrics.controller.nodes.images.record("nginx", false);
        metrics.kube_requests.requests.with_label_values(&["rest", "list", "pods", "200"]);
        metrics.controller.nodes.processed.with_label_values(&["failed"]);
        metrics.notify.errors.with_label_values(&["timeout"]);
        metrics.notify.attempts.with_label_values(&["delivered"]);
        metrics.pod_start.pod_starts.with_label_values(&["warm"]);
        metrics.node_checks.registry_lookups.with_label_values(&["found"]);
        metrics.webhook.reviews_unexamined.with_label_values(&["deadline"]);
        metrics.schedule.runs.with_label_values(&["success"]);
        metrics.controller.tasks.ended.with_label_values(&["failed"]);
        metrics.controller.tasks.by_state.with_label_values(&["running"]);
        metrics.object_errors.unreadable_objects.with_label_values(&["nodes"]);
        metrics
    }

    fn encoded(metrics: &Metrics) -> String {
        String::from_utf8(encode(&metrics.registry).unwrap()).unwrap()
    }

    /// Names, help texts, labels and buckets are part of the API.
    #[test]
    fn every_metric_has_its_name_help_labels_and_buckets() {
        insta::assert_snapshot!(encoded(&metrics_with_all_series()));
    }

    /// Series that an alert reads exist with the value zero.
    #[test]
    fn series_of_a_new_process_are_zero() {
        insta::assert_snapshot!(encoded(&Metrics::new().unwrap()));
    }

    /// Rules of the Prometheus linter (`promtool check metrics`).
    #[test]
    fn metrics_follow_the_rules_of_the_prometheus_linter() {
        let metrics = Metrics::new().unwrap();
        for family in metrics.registry.gather() {
            let (name, kind) = (family.name(), family.get_field_type());
            assert!(
                family.help().ends_with('.') && family.help().len() > 10,
                "{name}: {}",
                family.help()
            );
            assert!(
                name.starts_with("prewarm_")
                    && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{name}"
            );
            assert_eq!(
                kind == prometheus::proto::MetricType::COUNTER,
                name.ends_with("_total"),
                "{name}"
            );
            for unit in [
                "milliseconds",
                "minutes",
                "kilobytes",
                "percent",
                "_ms",
                "_count",
                "_sum",
                "_bucket",
            ] {
                assert!(!name.contains(unit), "{name}: {unit}");
            }
            if kind == prometheus::proto::MetricType::HISTOGRAM {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
    }

    #[test]
    fn dashboard_queries_refer_to_existing_metrics() {
        let metrics = Metrics::new().unwrap();
        metrics.intake.hints.with_label_values(&["queued"]).inc();
        metrics.webhook.admission_duration.with_label_values(&["Pod", "hinted"]).observe(0.1);
        metrics
            .api
            .request_duration
            .with_label_values(&["GET", "/api/v1/tasks", "200"])
            .observe(0.1);
        metrics.schedule.runs.with_label_values(&["success"]).inc();
        metrics.notify.attempts.with_label_values(&["delivered"]).inc();
        let (tasks, nodes) = (&metrics.controller.tasks, &metrics.controller.nodes);
        nodes.images.record("nginx", false);
        for vector in [&tasks.ended, &nodes.processed] {
            vector.with_label_values(&["failed"]).inc();
        }
        metrics.pod_start.pod_starts.with_label_values(&["warm"]).inc();
        metrics.controller.nodes.image_failures.with_label_values(&["TLS"]).inc();
        metrics.kube_requests.requests.with_label_values(&["rest", "list", "pods", "200"]).inc();
        let known = encoded(&metrics);
        let dashboard: serde_json::Value =
            serde_json::from_str(include_str!("../deploy/chart/files/dashboard.json")).unwrap();
        let panels = dashboard["panels"].as_array().unwrap().iter();
        let queries: Vec<&str> = panels
            .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
            .map(|target| target["expr"].as_str().unwrap())
            .collect();
        assert!(queries.len() >= 7);
        for query in queries {
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let names: Vec<&str> = words.filter(|word| word.starts_with("prewarm_")).collect();
            assert!(!names.is_empty(), "{query}");
            for name in names {
                assert!(known.lines().any(|line| line.starts_with(name)), "{name} in {query}");
            }
        }
    }
}
