//! Jobs and pods that pull images, and evaluation of their state. Pure: no client, no clock, no
//! I/O.
//!
//! Inputs: a validated task and a node; workers and pods from the API server. Outputs: the worker
//! to create; the outcome of each image of a worker pod. May use `node`, `slim` and `task`.

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
pub use names::{event_name, is_worker_pod_name};
pub use outcome::{ImageOutcome, PodOutcome, pod_outcome};
pub use prewarmer_api::{
    annotations::{IMAGES_ANNOTATION, NODE_ANNOTATION, TASK_NAMESPACE_ANNOTATION},
    labels::{
        ATTEMPT_LABEL, BATCH_LABEL, MANAGED_BY, NODE_LABEL, PART_LABEL, TASK_LABEL, TASK_UID_LABEL,
    },
};
pub use reason::{FailureReason, Retry, classify, is_registry_rate_limit, retry_after};
