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
//!    controller (leader only): snapshot -> plan -> dispatch -> observe -> status -> reap
//!                               nodes     batches    Jobs       pods     one writer
//! ```
//!
//! Each module has one purpose; its `mod.rs` states its inputs, its outputs and the modules it may
//! call. Modules marked *pure* use no client and do no I/O.
//!
//! | module | purpose |
//! |---|---|
//! | [`serve`] | assembles and runs the service |
//! | [`config`], [`duration`], [`telemetry`] | settings, durations, logging |
//! | [`image`] | image references (pure) |
//! | [`workload`] | images, placement, credentials and annotations of a workload (pure) |
//! | [`cluster_context`] | cluster context of workloads: namespaces, runtime classes, autoscalers |
//! | [`task`] | `PrewarmTask`: resource, validation, plan, status, conditions (pure) |
//! | [`node`] | nodes and their eligibility (pure) |
//! | [`slim`] | watched objects, reduced to the fields that are read (pure) |
//! | `scope` | API clients for one namespace or for all namespaces |
//! | [`egress`] | egress policy of outgoing requests |
//! | [`node_checks`] | node checks: Prometheus, disk, platform |
//! | [`worker`] | the Job or pod that pulls images, and the parsing of its results (pure) |
//! | [`intake`] | hints in, deduplicated and coalesced `PrewarmTask`s out |
//! | [`controller`] | snapshot, plan, dispatch, observe, status, reap |
//! | [`rollout`] | workload watch: workloads that no hint reported, and obsolete tasks |
//! | [`pod_start`] | pod starts, classified as warm or cold |
//! | [`webhook`] | admission: review in, response out |
//! | [`store`] | tasks and schedules in the memory of this replica |
//! | [`api`] | REST API over the same resources, and the web pages at `/ui` |
//! | [`schedule`] | tasks at times of day |
//! | [`notify`] | notifications about ended tasks |
//! | [`token`] | creation of API tokens |
//! | [`leader`] | leader election |
//! | [`supervise`] | supervision of components that must not end before shutdown |
//! | [`server`] | listeners, TLS, certificates, registration, graceful shutdown |
//! | [`doctor`] | diagnosis of a cluster and an installation from outside |
//! | [`plugin`], [`terminal`] | `kubectl prewarm`; tables and colours |
//! | [`manifests`] | objects of a complete installation (pure) |
//! | [`metrics`], [`trace`] | metric definitions; spans |
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

pub mod api;
pub mod cluster_context;
pub mod config;
pub mod controller;
pub mod doctor;
pub mod egress;
pub mod intake;
pub mod leader;
pub mod manifests;
pub mod metrics;
pub mod node_checks;
pub mod notify;
pub mod pod_start;
pub mod schedule;
mod scope;
pub mod serve;
pub mod server;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod token;
pub mod trace;
pub mod webhook;
pub mod workload_watch;
