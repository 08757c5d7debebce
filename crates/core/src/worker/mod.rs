//! Jobs and pods that pull images, and evaluation of their state. Pure: no client, no clock, no
//! I/O.
//!
//! Inputs: a validated task and a node; workers and pods from the API server. Outputs: the worker
//! to create; the outcome of each image of a worker pod. May call `image`, `node` and `task`.

// Values written by others must not cause a panic: sums saturate, and lookups return `Option`.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod assignment;
mod build;
mod info;
mod names;
mod outcome;
mod pod;
pub mod provenance;
mod reason;
mod remedy;

pub use assignment::{Assignment, WorkerSettings};
pub use build::{WorkerObject, build, pull_method_for};
pub use info::{ContainerInfo, ContainerState, PodInfo, PodPhase, WorkerInfo};
pub use names::event_name;
pub use names::is_worker_pod_name;
pub use outcome::{ImageOutcome, PodOutcome, pod_outcome};
pub use reason::{FailureReason, Retry, classify, is_registry_rate_limit, retry_after};

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
