//! `PrewarmTask`: the resource, what is valid in it, and its plan. *Pure.*
//!
//! In: specs and nodes, as values. Out: the custom resources, validated tasks
//! and the nodes of a task in batches. May call `image` and `node`.

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod again;
pub mod batches;
pub mod bounds;
pub mod caps;
pub mod plan;
mod problem;
pub mod resource;
mod rules;
pub mod validate;

pub use again::{again, nodes, not_warm};
pub use problem::Problem;
pub use resource::{
    Amount, BatchPolicy, Condition, Delivery, FailedNode, FailurePolicy, GivenUp, IgnoredNode, ImageStatus,
    LocalReference, Notification, Phase, PrewarmPlan, PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec, PrewarmTaskStatus,
    PullMethod, PullPolicy, Retry, RetryStrategy, SecretKeyReference, UrlSource, WorkerKind,
};
pub use rules::FORMATS as NOTIFICATION_FORMATS;

/// On a task: who made it: `admission`, `rest` or `schedule`.
pub const ORIGIN_LABEL: &str = "prewarm.io/origin";
/// The prefix of every annotation.
pub const PREFIX: &str = "prewarm.io/";
/// Says of a task that it is not needed any more, and why: nothing new is begun for it, and what is at work may end.
pub const OBSOLETE_ANNOTATION: &str = "prewarm.io/obsolete";
