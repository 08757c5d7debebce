//! Every metric, once. Names are promises (docs/metrics.md); labels never carry image, node or task names.

use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::supervise::Work;

/// Admission answers in microseconds to milliseconds; the webhook's own time-out is 2 s.
const ADMISSION_BUCKETS: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0];
/// Reads come from memory; what writes waits for the API server.
const API_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
/// From an image that is there already to the longest time-out in common use, 1 h.
const PULL_BUCKETS: &[f64] = &[0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

/// From a pod right behind its image to one that comes the next day.
const LEAD_BUCKETS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];

/// The process's metrics, registered with a registry of their own.
pub struct Metrics {
    registry: Registry,
    /// Tasks that ended, by final phase in lower case.
    pub tasks: IntCounterVec,
    /// From a task's start to its end.
    pub task_duration: Histogram,
    /// Nodes that ended, by result.
    pub nodes: IntCounterVec,
    /// Tasks that are begun and not ended.
    pub active_tasks: IntGauge,
    /// Tasks, by state: `running`, `waiting` for a place, or `parked` (begun, and without a pull under way).
    pub task_places: IntGaugeVec,
    /// Nodes put behind the others of their task because they were at work for another.
    pub nodes_deferred: IntCounter,
    /// Registries that do not answer, of tasks that run.
    pub registries_unreachable: IntGauge,
    /// Images that ended on a node, by result.
    pub images: IntCounterVec,
    /// Images that failed on a node, by reason.
    pub image_failures: IntCounterVec,
    /// Registries that get fewer pulls than they might, because they asked for it.
    pub registries_limited: IntGauge,
    /// Time the webhook took, by kind and verdict.
    pub admission_duration: HistogramVec,
    /// Hints, by what became of them: `queued`, `duplicate`, `opted_out`, `unidentified`, `limited`, `dropped`, `not_stored`,
    /// `forbidden`.
    pub hints: IntCounterVec,
    /// Reviews that were allowed unread, by why: `budget_full`, `pool_full`, `deadline`.
    pub unexamined: IntCounterVec,
    /// Workloads that the leader's watch found and no hint had brought.
    pub recovered: IntCounter,
    /// Hints that wait.
    pub queue_depth: IntGauge,
    /// From a worker pod's start to its last image.
    pub pull_duration: Histogram,
    /// Worker Jobs and pods alive.
    pub jobs_active: IntGauge,
    /// Objects with the labels of workers that others made, by kind and what is wrong with them.
    pub foreign_objects: IntGaugeVec,
    /// Requests to the API server, by verb and resource.
    pub kube_requests: IntCounterVec,
    /// Time to answer a REST call, by method, route and status.
    pub api_duration: HistogramVec,
    /// Watchers of tasks by REST.
    pub api_watchers: IntGauge,
    /// Tries to tell the end of a task, by result: `delivered`, `failed` or `given_up`.
    pub notifications: IntCounterVec,
    /// Tries that failed, by what was wrong, such as `timeout`, `denied` or `status`.
    pub notification_errors: IntCounterVec,
    /// Images looked up at registries, by result: `found`, or what was wrong.
    pub registry_lookups: IntCounterVec,
    /// Runs of schedules that ended, by status.
    pub schedule_runs: IntCounterVec,
    /// Containers of watched workloads that started, by whether their image was there: `warm` or `cold`.
    pub pod_starts: IntCounterVec,
    /// How long an image of ours had been on a node before the first container there that needed it.
    pub lead_time: Histogram,
    /// What those containers would have waited for their images.
    pub seconds_saved: Counter,
    /// 1 on the replica that leads.
    pub leader: IntGauge,
    /// Internal errors that ended the work on one object, by the kind of work.
    pub internal_errors: IntCounterVec,
    /// Objects that a watch delivered and that could not be read, by resource.
    pub unreadable: IntCounterVec,
    /// When the controller last completed a round, in seconds since 1970; 0 on a replica that has not led.
    pub last_reconcile: IntGauge,
    /// Seconds until the serving certificate expires.
    pub certificate_expiry: Gauge,
    /// Seconds since the Secret of API tokens was seen last.
    pub api_tokens_age: Gauge,
}

impl Metrics {
    /// All metrics at zero. An error means that two share a name.
    #[allow(clippy::too_many_lines, reason = "a line for each metric")]
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let admission_duration = HistogramVec::new(
            HistogramOpts::new("prewarm_admission_duration_seconds", "Time to answer an admission review.")
                .buckets(ADMISSION_BUCKETS.to_vec()),
            &["kind", "verdict"],
        )?;
        registry.register(Box::new(admission_duration.clone()))?;
        let api_duration = HistogramVec::new(
            HistogramOpts::new("prewarm_api_request_duration_seconds", "Time to answer a REST call.")
                .buckets(API_BUCKETS.to_vec()),
            &["method", "route", "status"],
        )?;
        registry.register(Box::new(api_duration.clone()))?;
        let certificate_expiry =
            Gauge::new("prewarm_certificate_expiry_seconds", "Seconds until the serving certificate expires.")?;
        registry.register(Box::new(certificate_expiry.clone()))?;
        let api_tokens_age =
            Gauge::new("prewarm_api_tokens_age_seconds", "Seconds since the Secret of API tokens was seen last.")?;
        registry.register(Box::new(api_tokens_age.clone()))?;
        let foreign_objects = IntGaugeVec::new(
            Opts::new("prewarm_foreign_objects", "Objects with Prewarmer's labels that Prewarmer did not make."),
            &["kind", "reason"],
        )?;
        registry.register(Box::new(foreign_objects.clone()))?;
        let recovered =
            IntCounter::new("prewarm_workloads_recovered_total", "Workloads that were found and no hint had brought.")?;
        registry.register(Box::new(recovered.clone()))?;
        let task_places = IntGaugeVec::new(
            Opts::new("prewarm_task_places", "Tasks that run, that wait for a place, and that run without one."),
            &["state"],
        )?;
        registry.register(Box::new(task_places.clone()))?;
        let nodes_deferred = IntCounter::new(
            "prewarm_nodes_deferred_total",
            "Nodes put behind the others of their task because they were at work for another.",
        )?;
        registry.register(Box::new(nodes_deferred.clone()))?;
        let seconds_saved =
            Counter::new("prewarm_seconds_saved_total", "Seconds that containers would have waited for their images.")?;
        registry.register(Box::new(seconds_saved.clone()))?;
        let internal_errors =
            counter("prewarm_internal_errors_total", "Internal errors that ended the work on one object.", &["part"])?;
        // An alert sees an increase only where there was a value before.
        for kind in Work::ALL {
            internal_errors.with_label_values(&[kind.as_str()]).reset();
        }
        Ok(Self {
            internal_errors,
            unreadable: counter(
                "prewarm_unreadable_objects_total",
                "Objects that were delivered by a watch and could not be read, by resource.",
                &["resource"],
            )?,
            tasks: counter("prewarm_tasks_total", "Tasks that ended, by status.", &["status"])?,
            task_duration: histogram("prewarm_task_duration_seconds", "From a task's start to its end.", PULL_BUCKETS)?,
            nodes: counter("prewarm_nodes_processed_total", "Nodes that ended, by result.", &["result"])?,
            active_tasks: gauge("prewarm_active_tasks", "Tasks that are begun and not ended.")?,
            images: counter("prewarm_images_total", "Images that ended on a node, by result.", &["result"])?,
            image_failures: counter(
                "prewarm_image_failures_total",
                "Images that failed on a node, by reason.",
                &["reason"],
            )?,
            registries_limited: gauge(
                "prewarm_registries_limited",
                "Registries that get fewer pulls because they asked for it.",
            )?,
            task_places,
            nodes_deferred,
            registries_unreachable: gauge(
                "prewarm_registries_unreachable",
                "Registries that do not answer, of tasks that run.",
            )?,
            admission_duration,
            hints: counter("prewarm_admission_hints_total", "Hints from admission, by outcome.", &["outcome"])?,
            unexamined: counter(
                "prewarm_admission_unexamined_total",
                "Reviews that were allowed unread, by reason.",
                &["reason"],
            )?,
            recovered,
            queue_depth: gauge("prewarm_queue_depth", "Hints that wait to be turned into tasks.")?,
            pull_duration: histogram(
                "prewarm_pull_duration_seconds",
                "From a worker pod's start to its end.",
                PULL_BUCKETS,
            )?,
            foreign_objects,
            jobs_active: gauge("prewarm_jobs_active", "Worker Jobs alive.")?,
            kube_requests: counter(
                "prewarm_kube_requests_total",
                "Requests to the API server, by verb and resource.",
                &["verb", "resource"],
            )?,
            api_duration,
            api_watchers: gauge("prewarm_api_watchers", "Watchers of tasks by REST.")?,
            notifications: counter(
                "prewarm_notifications_total",
                "Tries to tell the end of a task, by result.",
                &["result"],
            )?,
            notification_errors: counter(
                "prewarm_notification_errors_total",
                "Notifications that could not be delivered, by what was wrong.",
                &["reason"],
            )?,
            registry_lookups: counter(
                "prewarm_registry_lookups_total",
                "Images looked up at registries, by result.",
                &["result"],
            )?,
            schedule_runs: counter(
                "prewarm_schedule_runs_total",
                "Runs of schedules that ended, by status.",
                &["status"],
            )?,
            pod_starts: counter(
                "prewarm_pod_starts_total",
                "Containers of watched workloads that started, by whether their image was there.",
                &["image"],
            )?,
            lead_time: histogram(
                "prewarm_lead_time_seconds",
                "How long an image had been on a node before the first container that needed it.",
                LEAD_BUCKETS,
            )?,
            seconds_saved,
            leader: gauge("prewarm_leader", "1 on the replica that leads.")?,
            last_reconcile: gauge(
                "prewarm_last_reconcile_timestamp_seconds",
                "When the controller last completed a round, in seconds since 1970.",
            )?,
            certificate_expiry,
            api_tokens_age,
            registry,
        })
    }

    /// The metrics in Prometheus' text format.
    pub fn encode(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_is_encoded() {
        let metrics = Metrics::new().unwrap();
        metrics.hints.with_label_values(&["queued"]).inc();
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        assert!(text.contains("prewarm_admission_hints_total{outcome=\"queued\"} 1"), "{text}");
        assert!(text.contains("# HELP prewarm_queue_depth "));
    }

    /// The rules of Prometheus' own linter (promtool check metrics).
    #[test]
    fn names_and_units_are_as_prometheus_wants_them() {
        let metrics = Metrics::new().unwrap();
        for family in metrics.registry.gather() {
            let (name, kind) = (family.name(), family.get_field_type());
            assert!(family.help().ends_with('.') && family.help().len() > 10, "{name}: {}", family.help());
            assert!(name.starts_with("prewarm_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(kind == prometheus::proto::MetricType::COUNTER, name.ends_with("_total"), "{name}");
            for unit in ["milliseconds", "minutes", "kilobytes", "percent", "_ms", "_count", "_sum", "_bucket"] {
                assert!(!name.contains(unit), "{name}: {unit}");
            }
            if kind == prometheus::proto::MetricType::HISTOGRAM {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
    }

    #[test]
    fn the_dashboard_asks_for_metrics_that_there_are() {
        let metrics = Metrics::new().unwrap();
        metrics.hints.with_label_values(&["queued"]).inc();
        metrics.admission_duration.with_label_values(&["Pod", "hinted"]).observe(0.1);
        metrics.api_duration.with_label_values(&["GET", "/api/v1/tasks", "200"]).observe(0.1);
        metrics.schedule_runs.with_label_values(&["success"]).inc();
        metrics.notifications.with_label_values(&["delivered"]).inc();
        for vector in [&metrics.tasks, &metrics.nodes, &metrics.images] {
            vector.with_label_values(&["failed"]).inc();
        }
        metrics.pod_starts.with_label_values(&["warm"]).inc();
        metrics.image_failures.with_label_values(&["TLS"]).inc();
        metrics.kube_requests.with_label_values(&["list", "pods"]).inc();
        let known = String::from_utf8(metrics.encode().unwrap()).unwrap();
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
