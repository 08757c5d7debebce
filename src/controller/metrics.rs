//! Metrics of the controller. Their names are part of the API (docs/metrics.md).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use prewarmer_core::{task::batches::NodeState, worker::FailureReason};
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    register_histogram_vec_with_registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
    register_int_gauge_vec_with_registry, register_int_gauge_with_registry,
};

/// Buckets of task durations, in seconds: from a task whose images are already present to 1 h. They
/// contain those that dashboards of image prewarm services use, 30 to 3,600.
const TASK_BUCKETS: &[f64] =
    &[0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];
/// Final statuses of a task: values of the label `status`. Their series exist from the start, like
/// those of results and reasons: `increase()` and `rate()` do not see a series' first value.
const STATUSES: [&str; 3] = ["completed", "failed", "cancelled"];
/// Values of the label `result` of images.
const IMAGE_SUCCEEDED: &str = "succeeded";
const IMAGE_FAILED: &str = "failed";
/// Value of the label `image` for images beyond the limit.
const OTHER_IMAGES: &str = "other";
/// Buckets of pull durations, in seconds: from an image that is already present to 1 h, the longest
/// timeout in common use.
const PULL_BUCKETS: &[f64] =
    &[0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

/// Metrics of the controller. Clones share them.
#[derive(Clone)]
pub(crate) struct ControllerMetrics {
    /// Metrics of tasks.
    pub tasks: TaskMetrics,
    /// Metrics of the nodes of tasks, and of the workers on them.
    pub nodes: NodeMetrics,
    /// Registries with reduced pull concurrency because they answered that they are overloaded.
    pub registries_limited: IntGauge,
    /// Unreachable registries of running tasks.
    pub registries_unreachable: IntGauge,
    /// Foreign objects with the labels of workers, by kind and by the check that they fail.
    pub foreign_objects: IntGaugeVec,
    /// Time of the last completed iteration of the controller loop, in seconds since the Unix
    /// epoch; 0 on a replica that has not led.
    pub last_reconcile: IntGauge,
}

impl ControllerMetrics {
    /// Creates and registers the metrics, with this number of values of the label `image`. Fails
    /// when the registry contains one of their names.
    pub(crate) fn register(registry: &Registry, images: usize) -> prometheus::Result<Self> {
        Ok(Self {
            tasks: TaskMetrics::register(registry)?,
            nodes: NodeMetrics::register(registry, images)?,
            registries_limited: register_int_gauge_with_registry!(
                "prewarm_registries_limited",
                "Registries with reduced pull concurrency because they answered 429 or 503.",
                registry
            )?,
            registries_unreachable: register_int_gauge_with_registry!(
                "prewarm_registries_unreachable",
                "Unreachable registries of running tasks.",
                registry
            )?,
            foreign_objects: register_int_gauge_vec_with_registry!(
                "prewarm_foreign_objects",
                "Objects with Prewarmer labels that Prewarmer did not create.",
                &["kind", "reason"],
                registry
            )?,
            last_reconcile: register_int_gauge_with_registry!(
                "prewarm_last_reconcile_timestamp_seconds",
                "Time of the last completed iteration of the controller loop, in seconds since the Unix epoch.",
                registry
            )?,
        })
    }
}

/// Metrics of tasks.
#[derive(Clone)]
pub(crate) struct TaskMetrics {
    /// Ended tasks, by final phase in lower case.
    pub ended: IntCounterVec,
    /// Seconds from the start of a task to its end, by final phase in lower case.
    pub duration: HistogramVec,
    /// Tasks that have started and not ended.
    pub active: IntGauge,
    /// Tasks, by state: `running`, `waiting` for capacity, or `parked` (started, without a pull in
    /// progress).
    pub by_state: IntGaugeVec,
}

impl TaskMetrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let duration = register_histogram_vec_with_registry!(
            "prewarm_task_duration_seconds",
            "Time from the start of a task to its end, by status.",
            &["status"],
            TASK_BUCKETS.to_vec(),
            registry
        )?;
        let ended = register_int_counter_vec_with_registry!(
            "prewarm_tasks_total",
            "Ended tasks, by status.",
            &["status"],
            registry
        )?;
        for status in STATUSES {
            duration.with_label_values(&[status]);
            ended.with_label_values(&[status]);
        }
        Ok(Self {
            ended,
            duration,
            active: register_int_gauge_with_registry!(
                "prewarm_active_tasks",
                "Tasks that have started and not ended.",
                registry
            )?,
            by_state: register_int_gauge_vec_with_registry!(
                "prewarm_task_places",
                "Tasks by state: running, waiting for capacity, or parked.",
                &["state"],
                registry
            )?,
        })
    }
}

/// Counter of the images processed on a node, by result and, where enabled, by image.
#[derive(Clone)]
pub(crate) struct ImageCounter {
    counter: IntCounterVec,
    /// Largest number of values of the label `image`, besides [`OTHER_IMAGES`]; 0 without the label.
    limit: usize,
    /// Values of the label `image` so far.
    names: Arc<Mutex<HashSet<String>>>,
}

impl ImageCounter {
    fn register(registry: &Registry, limit: usize) -> prometheus::Result<Self> {
        let (help, labels): (_, &[&str]) = if limit == 0 {
            ("Images processed on a node, by result.", &["result"])
        } else {
            ("Images processed on a node, by result and image.", &["result", "image"])
        };
        let counter = register_int_counter_vec_with_registry!(
            "prewarm_images_total",
            help,
            labels,
            registry
        )?;
        if limit == 0 {
            for result in [IMAGE_SUCCEEDED, IMAGE_FAILED] {
                counter.with_label_values(&[result]);
            }
        }
        Ok(Self { counter, limit, names: Arc::default() })
    }

    /// Counts the result of an image on a node: the first images have a value of the label each,
    /// later ones share one.
    pub(crate) fn record(&self, image: &str, warm: bool) {
        let result = if warm { IMAGE_SUCCEEDED } else { IMAGE_FAILED };
        if self.limit == 0 {
            self.counter.with_label_values(&[result]).inc();
            return;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let is_listed =
            names.contains(image) || names.len() < self.limit && names.insert(image.to_owned());
        let image = if is_listed { image } else { OTHER_IMAGES };
        self.counter.with_label_values(&[result, image]).inc();
    }
}

/// Metrics of the nodes of tasks, and of the workers on them.
#[derive(Clone)]
pub(crate) struct NodeMetrics {
    /// Processed nodes, by result.
    pub processed: IntCounterVec,
    /// Nodes moved to the end of the plan of their task because another task was using them.
    pub deferred: IntCounter,
    /// Images processed on a node.
    pub images: ImageCounter,
    /// Images that failed on a node, by reason.
    pub image_failures: IntCounterVec,
    /// Seconds from the start of a worker pod to the end of its last image.
    pub pull_duration: Histogram,
    /// Existing worker Jobs and worker pods.
    pub active_workers: IntGauge,
}

impl NodeMetrics {
    fn register(registry: &Registry, images: usize) -> prometheus::Result<Self> {
        let processed = register_int_counter_vec_with_registry!(
            "prewarm_nodes_processed_total",
            "Processed nodes, by result.",
            &["result"],
            registry
        )?;
        for result in NodeState::ALL_LABELS {
            processed.with_label_values(&[result]);
        }
        let image_failures = register_int_counter_vec_with_registry!(
            "prewarm_image_failures_total",
            "Images that failed on a node, by reason.",
            &["reason"],
            registry
        )?;
        for reason in FailureReason::ALL {
            image_failures.with_label_values(&[reason.as_str()]);
        }
        Ok(Self {
            processed,
            deferred: register_int_counter_with_registry!(
                "prewarm_nodes_deferred_total",
                "Nodes moved to the end of their task's plan because another task was using them.",
                registry
            )?,
            images: ImageCounter::register(registry, images)?,
            image_failures,
            pull_duration: register_histogram_with_registry!(
                "prewarm_pull_duration_seconds",
                "Time from the start of a worker pod to its end.",
                PULL_BUCKETS.to_vec(),
                registry
            )?,
            active_workers: register_int_gauge_with_registry!(
                "prewarm_jobs_active",
                "Existing worker Jobs and worker pods.",
                registry
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users choose the names of images, so that the number of label values must be bounded.
    #[test]
    fn image_label_has_a_bounded_number_of_values() {
        let registry = Registry::new();
        let counter = ImageCounter::register(&registry, 2).unwrap();
        for image in ["nginx", "redis", "nginx", "postgres", "mysql"] {
            counter.record(image, true);
        }
        counter.record("redis", false);
        let text = String::from_utf8(crate::metrics::encode(&registry).unwrap()).unwrap();
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                r#"prewarm_images_total{image="nginx",result="succeeded"} 2"#,
                r#"prewarm_images_total{image="other",result="succeeded"} 2"#,
                r#"prewarm_images_total{image="redis",result="failed"} 1"#,
                r#"prewarm_images_total{image="redis",result="succeeded"} 1"#,
            ]
        );
        let without = Registry::new();
        ImageCounter::register(&without, 0).unwrap().record("nginx", true);
        let text = String::from_utf8(crate::metrics::encode(&without).unwrap()).unwrap();
        assert!(text.contains(r#"prewarm_images_total{result="succeeded"} 1"#), "{text}");
    }
}
