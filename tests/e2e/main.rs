//! Tests that need a cluster: the real control plane, and a real kubelet where the machine can run
//! one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a scenario is read from top to bottom, and a test that meets what it did not expect fails there"
)]

mod admission;
mod availability;
mod chaos;
mod chart;
mod created_by;
mod dashboard;
mod engine;
mod failure_reasons;
mod fairness;
mod faults;
mod fence;
mod foreign;
mod forged;
mod frozen;
mod harness;
mod hostile;
mod installed;
mod invalid_tasks;
mod job_recorder;
mod node_checks;
mod notifications;
mod plugin;
mod pod_start;
mod real_node;
mod rest;
mod rest_client;
mod rest_errors;
mod rest_lists;
mod rest_watch;
mod schedules;
mod smoke;
mod soak;
mod workload_watch;
