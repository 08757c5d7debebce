//! Simulator of a fleet of nodes: kubelets, their image stores, the network and registries.
//!
//! It is *pure*: no client, no async runtime, no clock, no I/O. The same seed and inputs give the same
//! outputs.

// Pod specs are input of other parties and must not cause a panic: arithmetic saturates and indexing
// is checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

mod ids;
pub mod image;
pub mod network;
mod random;
pub mod registry;
pub mod store;
mod time;

pub use self::{
    ids::{NodeId, RegistryId},
    random::{Quantile, Random},
    time::{SimTime, go_duration},
};
