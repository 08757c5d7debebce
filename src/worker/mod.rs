//! The Job that pulls, and how its pod is read. *Pure.*
//!
//! In: a validated task and a node; Jobs and pods as the API server shows them.
//! Out: the Job to create; for each image of a worker pod what has become of
//! it. May call `image`, `node` and `task`.

mod facts;
mod job;
mod outcome;
mod reason;

pub use facts::{ContainerFacts, ContainerState, JobFacts, PodFacts};
pub use job::{Assignment, WorkerSettings, build, method_for};
pub use outcome::{ImageOutcome, PodOutcome, read};
pub use reason::{Reason, Verdict, classify};

/// Label of everything that Prewarmer makes.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "prewarmer");
/// Label: the task's name.
pub const TASK_LABEL: &str = "prewarm.io/task";
/// Label: the task's UID, by which Jobs are selected.
pub const TASK_UID_LABEL: &str = "prewarm.io/task-uid";
/// Label: the node's name.
pub const NODE_LABEL: &str = "prewarm.io/node";
/// Label: the index of the batch.
pub const BATCH_LABEL: &str = "prewarm.io/batch";
/// Annotation: the node's whole name.
pub const NODE_ANNOTATION: &str = "prewarm.io/node-name";
