//! The Job or pod that pulls, and how it is read. *Pure.*
//!
//! In: a validated task and a node; workers and pods as the API server shows
//! them. Out: the worker to create; for each image of a worker pod what has
//! become of it. May call `image`, `node` and `task`.

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod assignment;
mod build;
mod facts;
mod names;
mod outcome;
mod pod;
pub mod provenance;
mod reason;
mod remedy;

pub use assignment::{Assignment, WorkerSettings};
pub use build::{Worker, build, method_for};
pub use facts::{ContainerFacts, ContainerState, PodFacts, PodPhase, WorkerFacts};
pub(crate) use names::event_name;
pub use names::is_worker;
pub use outcome::{ImageOutcome, PodOutcome, read};
pub use reason::{Reason, Verdict, classify, retry_after, throttles};

/// Label of everything that Prewarmer makes.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "prewarmer");
/// Label: the task's name.
pub const TASK_LABEL: &str = "prewarm.io/task";
/// Label: the task's UID, by which workers are selected.
pub const TASK_UID_LABEL: &str = "prewarm.io/task-uid";
/// Label: the node's name.
pub const NODE_LABEL: &str = "prewarm.io/node";
/// Label: the index of the batch.
pub const BATCH_LABEL: &str = "prewarm.io/batch";
/// Label: which try on the node it is, from 0.
pub const ATTEMPT_LABEL: &str = "prewarm.io/attempt";
/// Label: which part of the task's images it pulls, from 0.
pub const PART_LABEL: &str = "prewarm.io/part";
/// Annotation: the node's whole name.
pub const NODE_ANNOTATION: &str = "prewarm.io/node-name";
/// Annotation: the task's namespace, which is not always the worker's.
pub const TASK_NAMESPACE_ANNOTATION: &str = "prewarm.io/task-namespace";
/// Annotation: the images that it pulls, by their index in the task.
pub const ASKED_ANNOTATION: &str = "prewarm.io/images";
