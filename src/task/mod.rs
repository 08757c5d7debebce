//! `PrewarmTask`: the resource, what is valid in it, its plan and its status. *Pure.*
//!
//! In: specs, node names and outcomes, as values. Out: the custom resources,
//! validated tasks, batches, status and conditions. May call `image`.

pub mod resource;

pub use resource::{
    Amount, BatchPolicy, Condition, FailedNode, FailurePolicy, IgnoredNode, ImageStatus, LocalReference, Notification,
    Phase, PrewarmPlan, PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec, PrewarmTaskStatus, PullMethod, PullPolicy,
    Retry, RetryStrategy, WorkerKind,
};
