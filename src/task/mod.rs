//! `PrewarmTask`: the custom resources, validation of specs and planning. Pure: no client, no
//! clock, no I/O.
//!
//! Inputs: specs and nodes, as values. Outputs: the custom resources, validated tasks, and the
//! nodes of a task in batches. May use `image` and `node`.

// Values come from users and must not stop the process: sums saturate, and elements are accessed by
// checked lookups.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

pub mod batches;
pub mod bounds;
pub mod caps;
mod field_error;
pub mod plan;
pub mod resource;
mod retry;
mod rules;
pub mod validate;

pub use field_error::FieldError;
pub use resource::{
    AbandonedImage, Amount, BatchPolicy, Condition, Delivery, FailedNode, FailurePolicy,
    IgnoredNode, ImageStatus, LocalReference, Notification, Phase, PrewarmPlan, PrewarmPlanSpec,
    PrewarmTask, PrewarmTaskSpec, PrewarmTaskStatus, PullMethod, PullPolicy, RetrySpec,
    RetryStrategy, SecretKeyReference, UrlSource, WorkerKind,
};
pub use retry::{node_states, nodes_not_warm, retry_spec};
pub use rules::FORMATS as NOTIFICATION_FORMATS;

/// Label of a task with its origin: `admission`, `rest`, `schedule` or `user`.
pub const ORIGIN_LABEL: &str = "prewarm.io/origin";
/// Prefix of every annotation.
pub const PREFIX: &str = "prewarm.io/";
/// Annotation of an obsolete task with the reason. No new workers are started for it; running ones
/// may finish.
pub const OBSOLETE_ANNOTATION: &str = "prewarm.io/obsolete";
