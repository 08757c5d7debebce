//! Names and annotations of a task's objects.

use kube::ResourceExt;

use crate::task::{OBSOLETE_ANNOTATION, PrewarmTask};

/// Annotation that marks an object in memory as unreadable; its value is the reason. Objects from
/// watches carry only the annotations that the controller uses, so no client can set it.
pub(super) const UNREADABLE_ANNOTATION: &str = "prewarm.io/unreadable";

/// Returns why the object cannot be decoded, if so.
pub(super) fn unreadable_reason(task: &PrewarmTask) -> Option<&str> {
    task.annotations().get(UNREADABLE_ANNOTATION).map(String::as_str)
}

/// Returns why the task is obsolete, if so.
pub(super) fn obsolete_reason(task: &PrewarmTask) -> Option<&str> {
    task.annotations().get(OBSOLETE_ANNOTATION).map(String::as_str)
}

/// Returns the name of a task's plan.
pub(super) fn plan_name(uid: &str) -> String {
    format!("plan-{uid}")
}
