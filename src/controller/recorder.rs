//! Records the measurements of the controller as metrics, trace spans and log messages.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use prewarmer_core::controller::{ForeignObject, Gauges, InternalError, Measurement, TaskRef};
use prewarmer_kube::{
    metrics::ObjectErrorMetrics,
    object_error::{WorkKind, record_internal_error},
};

use super::metrics::ControllerMetrics;
use crate::trace::{self, Span};

/// Shortest interval between two log messages about foreign objects.
const FOREIGN_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Destination of measurements.
pub(super) struct Recorder {
    object_errors: ObjectErrorMetrics,
    metrics: ControllerMetrics,
    /// Time of the last log message about a foreign object.
    last_foreign_log: Option<Instant>,
}

impl Recorder {
    pub(super) fn new(object_errors: ObjectErrorMetrics, metrics: ControllerMetrics) -> Self {
        Self { object_errors, metrics, last_foreign_log: None }
    }

    /// Records what a reconcile has measured, and the gauges after it.
    pub(super) fn record(&mut self, measurements: Vec<Measurement>, gauges: &Gauges) {
        for measurement in measurements {
            self.record_one(measurement);
        }
        self.set_gauges(gauges);
        self.metrics.last_reconcile.set(Timestamp::now().as_second());
    }

    fn record_one(&mut self, measurement: Measurement) {
        let ControllerMetrics { tasks, nodes, .. } = &self.metrics;
        match measurement {
            Measurement::TaskEnded { task, phase, start, end } => {
                let phase = phase.as_str().to_lowercase();
                tasks.ended.with_label_values(&[&phase]).inc();
                if let Some(start) = start {
                    let duration = tasks.duration.with_label_values(&[&phase]);
                    duration.observe(end.duration_since(start).as_secs_f64());
                    let attributes =
                        [("namespace", &*task.namespace), ("task", &task.name), ("phase", &phase)];
                    record_span("task", &task, (start, end), &attributes);
                }
            }
            Measurement::AttemptEnded { state, images, reasons } => {
                nodes.processed.with_label_values(&[state.as_str()]).inc();
                for (image, warm) in &images {
                    nodes.images.record(image, *warm);
                }
                for (reason, images) in reasons {
                    nodes.image_failures.with_label_values(&[reason.as_str()]).inc_by(images);
                }
            }
            Measurement::PullEnded { task, node, state, start, end } => {
                nodes.pull_duration.observe(end.duration_since(start).as_secs_f64());
                let attributes =
                    [("namespace", &*task.namespace), ("node", &node), ("state", state.as_str())];
                record_span("pull", &task, (start, end), &attributes);
            }
            Measurement::NodeDeferred => nodes.deferred.inc(),
            Measurement::ForeignObject { kind, object } => self.log_foreign_object(kind, &object),
            Measurement::FinalStatusRejected { task, message } => tracing::error!(
                task = task.name,
                namespace = task.namespace,
                message,
                "the API server rejected the task's final status; the task is left unchanged until it changes"
            ),
            Measurement::InternalError(InternalError { object, message }) => {
                record_internal_error(&self.object_errors, WorkKind::Task, object, &message);
            }
        }
    }

    fn log_foreign_object(&mut self, kind: &str, object: &ForeignObject) {
        if self.last_foreign_log.is_some_and(|at| at.elapsed() < FOREIGN_LOG_INTERVAL) {
            return;
        }
        self.last_foreign_log = Some(Instant::now());
        tracing::warn!(
            kind,
            object = object.key,
            reason = object.reason.as_str(),
            "{}: ignored an object with the labels of Prewarmer's workers that Prewarmer did not create; `prewarmer doctor` lists all such objects",
            object.reason.description()
        );
    }

    fn set_gauges(&self, gauges: &Gauges) {
        let metrics = &self.metrics;
        let (tasks, nodes) = (&metrics.tasks, &metrics.nodes);
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for (state, number) in [
            ("running", gauges.running_tasks),
            ("parked", gauges.parked_tasks),
            ("waiting", gauges.waiting_tasks),
        ] {
            tasks.by_state.with_label_values(&[state]).set(count(number));
        }
        tasks.active.set(count(gauges.active_tasks));
        metrics.registries_unreachable.set(count(gauges.unreachable_registries));
        metrics.registries_limited.set(count(gauges.limited_registries));
        metrics.foreign_objects.reset();
        for ((kind, reason), number) in &gauges.foreign_objects {
            metrics
                .foreign_objects
                .with_label_values(&[*kind, reason.as_str()])
                .set(count(*number));
        }
        nodes.active_workers.set(count(gauges.active_nodes));
    }
}

fn record_span(
    name: &'static str,
    task: &TaskRef,
    (start, end): (Timestamp, Timestamp),
    attributes: &[(&'static str, &str)],
) {
    trace::record(&Span { name, task_uid: &task.uid, start, end, attributes });
}
