//! Tests that need a cluster: the real control plane, and a real kubelet where the machine can have one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets what it did not expect fails there"
)]

mod admission;
mod caller;
mod chaos;
mod chart;
mod checks;
mod created_by;
mod engine;
mod fair;
mod faults;
mod fence;
mod foreign;
mod forged;
mod frozen;
mod harness;
mod hostile;
mod installed;
mod notifications;
mod observed;
mod plugin;
mod poisoned;
mod polite;
mod real_node;
mod reasons;
mod rest;
mod rest_lists;
mod rest_refusals;
mod rest_watch;
mod schedules;
mod soak;
mod starts;
mod truth;
mod walk;
mod watched;
