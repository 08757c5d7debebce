//! `PrewarmTask`: validation of specs, selection of nodes and batches.
//!
//! Inputs: specs and nodes, as values. Outputs: validated tasks, and the nodes of a task in batches.
//! May use `node`.

// Values come from users and must not stop the process: sums saturate, and elements are accessed by
// checked lookups.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

pub mod batches;
pub mod bounds;
pub mod caps;
mod failures;
pub mod plan;
mod retry;
mod rules;
mod status;
pub mod validate;

pub use failures::{FailedNodeDetail, FailureGroup, failure_groups};
pub use prewarmer_api::{
    FieldError,
    annotations::{OBSOLETE_ANNOTATION, PREFIX},
    labels::ORIGIN_LABEL,
    task::*,
};
pub use retry::{node_states, nodes_not_warm, retry_spec};
pub use rules::FORMATS as NOTIFICATION_FORMATS;
pub use status::Status;
