//! Names and annotations of a task's objects.

use kube::ResourceExt;

use crate::{
    annotations::UNREADABLE_ANNOTATION,
    task::{OBSOLETE_ANNOTATION, PrewarmTask},
};

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
