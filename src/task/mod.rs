//! `PrewarmTask`: the resource, what is valid in it, and its plan. *Pure.*
//!
//! In: specs and nodes, as values. Out: the custom resources, validated tasks
//! and the nodes of a task in batches. May call `image` and `node`.

pub mod batches;
pub mod plan;
pub mod resource;
pub mod validate;

pub use resource::{
    Amount, BatchPolicy, Condition, FailedNode, FailurePolicy, GivenUp, IgnoredNode, ImageStatus, LocalReference,
    Notification, Phase, PrewarmPlan, PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec, PrewarmTaskStatus, PullMethod,
    PullPolicy, Retry, RetryStrategy, WorkerKind,
};
