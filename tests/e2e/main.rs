//! Tests that need a cluster: the real control plane, and a real kubelet where the machine can run
//! one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a scenario is read from top to bottom, and a test that meets what it did not expect fails there"
)]

use prewarmer_test_support::cluster::Cluster;

mod admission;
mod api_writes;
mod audit;
mod availability;
mod chaos;
mod chart;
mod created_by;
mod dashboard;
mod engine;
mod existing_clients;
mod failure_reasons;
mod fairness;
mod faults;
mod fence;
mod fleet;
mod foreign;
mod forged;
mod frozen;
mod handover;
mod hostile;
mod idle;
mod installed;
mod invalid_tasks;
mod moving_tags;
mod node_checks;
mod notifications;
mod one_shot;
mod pipelines;
mod plugin;
mod pod_start;
mod real_node;
mod rest;
mod rest_errors;
mod rest_lists;
mod rest_watch;
mod schedules;
mod smoke;
mod soak;
mod workload_watch;

/// Clusters whose servers run the program that Cargo built for these tests. Cargo passes its path
/// only to this crate.
trait TestCluster {
    /// Returns the cluster of `PREWARMER_TEST_CLUSTER`, or starts one that ends with this process.
    fn shared() -> &'static Self;

    /// Starts a cluster for one test that would disturb others. It ends with the process.
    fn dedicated(fake_nodes: usize) -> &'static Self;

    /// Starts a cluster with one real node for one test that would disturb others. It ends with the
    /// process.
    fn dedicated_with_real_node() -> &'static Self;
}

impl TestCluster for Cluster {
    fn shared() -> &'static Self {
        Self::shared_for(env!("CARGO_BIN_EXE_prewarmer"))
    }

    fn dedicated(fake_nodes: usize) -> &'static Self {
        Self::dedicated_for(env!("CARGO_BIN_EXE_prewarmer"), fake_nodes, 0)
    }

    fn dedicated_with_real_node() -> &'static Self {
        Self::dedicated_for(env!("CARGO_BIN_EXE_prewarmer"), 0, 1)
    }
}
