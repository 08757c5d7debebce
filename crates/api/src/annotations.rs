//! Annotations of the objects of Prewarmer, and of the workloads that it warms.

/// Prefix of every annotation. Workloads have the options of their tasks under it, such as
/// `prewarm.io/nodes`.
pub const PREFIX: &str = "prewarm.io/";
/// Annotation of a workload or a Namespace with the number of nodes to warm.
pub const NODES_ANNOTATION: &str = "prewarm.io/nodes";
/// Annotation of a Namespace, set by its administrator: its workloads may request all nodes, and
/// nodes with any taint.
pub const ALLOW_ALL_NODES_ANNOTATION: &str = "prewarm.io/allow-all-nodes";

/// Annotation of an obsolete task with the reason. No new workers are started for it; running ones
/// may finish.
pub const OBSOLETE_ANNOTATION: &str = "prewarm.io/obsolete";
/// Annotation with the workloads of a task as `Kind/name`, separated by commas.
pub const WORKLOADS_ANNOTATION: &str = "prewarm.io/workloads";
/// Annotation of a task with the number of workloads that exceed the limit of
/// [`WORKLOADS_ANNOTATION`].
pub const MORE_WORKLOADS_ANNOTATION: &str = "prewarm.io/more-workloads";
/// Annotation that marks a task in the memory of the controller as unreadable; its value is the
/// reason. Objects from watches carry only the annotations that the controller uses, so no client
/// can set it.
pub const UNREADABLE_ANNOTATION: &str = "prewarm.io/unreadable";
/// Annotation that explains that another webhook rewrites the images of the task's workloads.
pub const REWRITTEN_ANNOTATION: &str = "prewarm.io/rewritten-images";
/// Annotation of a task or a schedule: name of the caller that created it by REST.
pub const CREATED_BY_ANNOTATION: &str = "prewarm.io/created-by";
/// Annotation of a task with the scheduled time that it was created for, RFC 3339.
pub const SCHEDULED_AT_ANNOTATION: &str = "prewarm.io/scheduled-at";
/// Annotation of a task with the origin of its execution: `schedule` or `manual`.
pub const TRIGGER_ANNOTATION: &str = "prewarm.io/trigger";

/// Annotation of a worker with the full name of the node.
pub const NODE_ANNOTATION: &str = "prewarm.io/node-name";
/// Annotation of a worker with the namespace of the task, which can differ from the worker's.
pub const TASK_NAMESPACE_ANNOTATION: &str = "prewarm.io/task-namespace";
/// Annotation of a worker with the images that it pulls, by index in the task, separated by commas.
pub const IMAGES_ANNOTATION: &str = "prewarm.io/images";
