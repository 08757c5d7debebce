//! Labels of the objects of Prewarmer, and labels of Kubernetes that it selects by.

/// Label of all objects that Prewarmer creates, with its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "prewarmer");
/// The same label of tasks and schedules that the kubectl plugin creates.
pub const MANAGED_BY_PLUGIN: (&str, &str) = (MANAGED_BY.0, "kubectl-prewarm");
/// Label of the objects of an installation, set by the chart, with its value.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "prewarmer");
/// Label of every namespace with its name, set by the API server.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Label of a task with its origin: `admission`, `rest`, `schedule` or `user`.
pub const ORIGIN_LABEL: &str = "prewarm.io/origin";

/// Label of a worker with the name of the task.
pub const TASK_LABEL: &str = "prewarm.io/task";
/// Label of a worker with the UID of the task, by which workers are selected.
pub const TASK_UID_LABEL: &str = "prewarm.io/task-uid";
/// Label of a worker with the name of the node, shortened where necessary.
pub const NODE_LABEL: &str = "prewarm.io/node";
/// Label of a worker with the index of the batch.
pub const BATCH_LABEL: &str = "prewarm.io/batch";
/// Label of a worker with the attempt on the node, from 0.
pub const ATTEMPT_LABEL: &str = "prewarm.io/attempt";
/// Label of a worker with the part of the task's images that it pulls, from 0.
pub const PART_LABEL: &str = "prewarm.io/part";

/// Returns the selector of the objects with this key and value.
#[must_use]
pub fn selector((key, value): (&str, &str)) -> String {
    format!("{key}={value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selector_has_the_syntax_of_kubectl() {
        assert_eq!(selector(MANAGED_BY), "app.kubernetes.io/managed-by=prewarmer");
    }
}
