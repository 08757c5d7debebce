//! Extraction of images, placement, pull credentials and options from workloads. Pure: no client,
//! no clock, no I/O (`extract` alone reads a monotonic clock, for its time limit).
//!
//! Input: the JSON of an object with a pod template, and the cluster context. Output: the decision
//! whether the object is warmed, with one `Workload` for each template, and warnings about invalid
//! values. Objects are parsed into a partial view: fields that are not used are skipped without
//! allocation and may have any shape. May use `task` and
//! `worker` (its label only).

// Input from other parties must not cause a panic: arithmetic saturates and indexing is checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod annotations;
mod context;
mod decision;
mod definition;
mod extract;
mod kinds;
mod manifest;
mod one_shot;
mod policy;
mod pull_policy;
mod references;
mod rewritten;
#[cfg(test)]
mod table;
mod view;

pub use annotations::WarmOptions;
pub use context::{
    ClusterContext, EmptyContext, RuntimeClassScheduling, VisibleContext, WorkloadIdentity,
};
pub use decision::WarmDecision;
pub use definition::{Placement, PullCredentials, Workload};
pub use extract::{DEFAULT_NAMESPACE, Extracted, Extraction, extract_documents};
pub use kinds::{KindError, WorkloadKind, WorkloadKinds};
pub use manifest::{
    DocumentError, DocumentWarning, ExtractError, Finding, ManifestLimits, ParsedManifest, Place,
};
pub use one_shot::{OneShotMode, OneShotReason, OwnerKind};
pub(crate) use policy::SYSTEM_NAMESPACES;
pub use policy::{DefaultMode, Policy, PolicySettings};
pub use references::MAX_IMAGES;
pub use rewritten::rewritten_images;
pub use view::{ConditionView, MetadataView, ObjectSeed, ObjectView, Owner, StatusView};
