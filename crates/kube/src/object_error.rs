//! Errors that end the processing of one object: a panic of the code that processes it, or content
//! that cannot be decoded. They are logged and counted, and the work on other objects goes on.

use std::{any::Any, fmt::Display};

use kube::api::ObjectMeta;
use prewarmer_core::controller::{contain, panic_message};

use crate::metrics::ObjectErrorMetrics;
pub use crate::work_kind::WorkKind;

/// Runs `work` on one object and catches a panic: it is counted and logged with the object, and
/// `None` is returned. State that `work` has changed partially must not be used afterwards.
pub fn catch_panic<T>(
    metrics: &ObjectErrorMetrics,
    kind: WorkKind,
    object: impl Display,
    work: impl FnOnce() -> T,
) -> Option<T> {
    let result = contain(object, work);
    result.map_err(|error| record_internal_error(metrics, kind, error.object, &error.message)).ok()
}

/// Counts and logs a caught panic.
pub fn record_panic(
    metrics: &ObjectErrorMetrics,
    kind: WorkKind,
    object: impl Display,
    payload: &(dyn Any + Send),
) {
    record_internal_error(metrics, kind, object, &panic_message(payload));
}

/// Counts and logs an internal error.
pub fn record_internal_error(
    metrics: &ObjectErrorMetrics,
    kind: WorkKind,
    object: impl Display,
    message: &str,
) {
    metrics.internal_errors.with_label_values(&[kind.as_str()]).inc();
    tracing::error!(work = kind.as_str(), %object, message, "internal error: processing of this object was aborted");
}

/// Logs and counts an object that cannot be decoded. `kind` is the plural name of its kind.
pub fn report_undecodable(
    kind: &str,
    metadata: &ObjectMeta,
    error: &str,
    metrics: &ObjectErrorMetrics,
) {
    metrics.unreadable_objects.with_label_values(&[kind]).inc();
    let (namespace, name) = (&metadata.namespace, &metadata.name);
    tracing::warn!(kind, namespace, name, error, "the object cannot be decoded");
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn a_panic_on_one_object_is_caught_and_counted() {
        let metrics = ObjectErrorMetrics::register(&Registry::new()).unwrap();
        assert_eq!(catch_panic(&metrics, WorkKind::Task, "shop/a", || 7), Some(7));
        let nothing: Option<u32> = catch_panic(&metrics, WorkKind::Task, "shop/b", || panic!("no"));
        assert_eq!(nothing, None);
        let count =
            |kind: WorkKind| metrics.internal_errors.with_label_values(&[kind.as_str()]).get();
        assert_eq!((count(WorkKind::Task), count(WorkKind::Watch)), (1, 0));
    }
}
