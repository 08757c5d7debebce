//! Prewarmer pulls container images to the nodes of a Kubernetes cluster before pods need them.
//!
//! ```text
//!  kubectl apply Deployment            curl (api, every replica)   kubectl apply PrewarmTask   schedule (leader)
//!         |                                          |                        |                    |
//!    webhook (every replica): review -> hint         |                        |                    |
//!         |                                          |                        |                    |
//!    intake: dedupe, coalesce ------> creates PrewarmTask <-------------------+--------------------+
//!                                         |   (the API server is the only store)
//!                                         v
//!    controller (leader only): snapshot -> plan -> observe -> reap -> dispatch -> status
//!                               nodes      pods       old      new         one writer
//! ```
//!
//! The decisions are in [`prewarmer_core`], which does no I/O. Each module here has one purpose; its
//! `mod.rs` states its inputs, its outputs and the modules it may use.
//! `docs/develop/architecture.md` lists them.
#![deny(unreachable_pub)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

pub mod api;
pub mod cluster_context;
pub mod config;
mod controller;
mod egress;
mod intake;
pub mod manifests;
mod metrics;
mod node_checks;
mod notify;
mod pod_start;
mod schedule;
pub mod serve;
mod server;
pub mod supervise;
mod task_view;
pub mod telemetry;
pub mod token;
pub mod trace;
pub mod webhook;
mod workload_watch;

use prewarmer_cli::scope;

/// Returns the time of the runtime's clock, which tests can pause.
fn runtime_now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
