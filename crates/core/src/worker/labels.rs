//! Labels and annotations of workers.

/// Label of all objects that Prewarmer creates.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "prewarmer");
/// Label with the name of the task.
pub const TASK_LABEL: &str = "prewarm.io/task";
/// Label with the UID of the task, by which workers are selected.
pub const TASK_UID_LABEL: &str = "prewarm.io/task-uid";
/// Label with the name of the node, shortened where necessary.
pub const NODE_LABEL: &str = "prewarm.io/node";
/// Label with the index of the batch.
pub const BATCH_LABEL: &str = "prewarm.io/batch";
/// Label with the attempt on the node, from 0.
pub const ATTEMPT_LABEL: &str = "prewarm.io/attempt";
/// Label with the part of the task's images that the worker pulls, from 0.
pub const PART_LABEL: &str = "prewarm.io/part";
/// Annotation with the full name of the node.
pub const NODE_ANNOTATION: &str = "prewarm.io/node-name";
/// Annotation with the namespace of the task, which can differ from the worker's.
pub const TASK_NAMESPACE_ANNOTATION: &str = "prewarm.io/task-namespace";
/// Annotation with the images that the worker pulls, by index in the task, separated by commas.
pub const IMAGES_ANNOTATION: &str = "prewarm.io/images";
