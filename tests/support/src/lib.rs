//! Support of the end-to-end tests: the cluster, a namespace and a server per test, the objects
//! that several tests create, and waits that report the observed state when they fail.
//!
//! All functions panic where the cluster does not do what they need: the calling test fails there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test that meets what it did not expect fails there"
)]

pub mod cluster;
pub mod fixtures;
pub mod images;
pub mod job_recorder;
pub mod misuses;
pub mod namespace;
pub mod not_run;
pub mod outcome;
pub mod process;
pub mod rest;
pub mod server;
pub mod wait;
