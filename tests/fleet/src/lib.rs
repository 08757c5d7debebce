//! Simulator of a fleet of nodes: kubelets, their image stores, the network and registries.
//!
//! It answers what a policy of warming images is worth: how long pods wait for images, how many
//! bytes come from registries, and how many of them in vain. A [`Fleet`] is fed with bound and
//! deleted pods and returns what the kubelets report: statuses, Events, and images of nodes. It is
//! *pure*: no client, no async runtime, no clock, no I/O. The same seed and inputs give the same
//! outputs.
//!
//! ```text
//!   Input ──> Fleet ──> Kubelet ──> Output
//!               │          │
//!               │          └──> ImageStore
//!               └──> Network, Registries, Catalog
//! ```
//!
//! A program that connects it with an API server needs the conversions of [`api`], a watch of pods
//! and nodes, and writes of what [`Report`] contains.

// Pod specs are input of other parties and must not cause a panic: arithmetic saturates and indexing
// is checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

pub mod api;
mod counters;
mod fleet;
mod ids;
pub mod image;
pub mod kubelet;
pub mod network;
mod output;
pub mod pod;
mod random;
pub mod registry;
pub mod store;
#[cfg(test)]
mod tests;
mod time;
mod world;

pub use self::{
    counters::{Counters, NodeCounters, PodStart},
    fleet::{Fleet, FleetError, Input, NodeSettings},
    ids::{NodeId, RegistryId},
    output::{Output, Report},
    random::{Quantile, Random},
    time::{SimTime, go_duration},
};
