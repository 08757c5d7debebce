//! Custom resources `PrewarmTask` and `PrewarmPlan` (`prewarm.io/v1alpha1`).
//!
//! The doc comments of fields become the descriptions that `kubectl explain` prints.

mod amount;
mod notification;
mod options;
mod plan;
mod spec;
mod status;

pub use self::{
    amount::Amount,
    notification::{Delivery, Notification, SecretKeyReference, UrlSource},
    options::{
        BatchPolicy, FailurePolicy, LocalReference, MAX_RETRIES, PullMethod, PullPolicy, RetrySpec,
        RetryStrategy, WorkerKind,
    },
    plan::{PrewarmPlan, PrewarmPlanSpec},
    spec::{PrewarmTask, PrewarmTaskSpec, owner_reference},
    status::{
        AbandonedImage, Condition, FailedNode, IgnoredNode, ImageStatus, MAX_BATCH_ENDS,
        MAX_FAILED_NODES, MAX_IGNORED_NODES, Phase, PrewarmTaskStatus,
    },
};
