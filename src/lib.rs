//! Prewarmer: a pod should never wait for its image.
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
//! A folder is a room with one job; its `mod.rs` says what comes in, what goes
//! out and whom it may call. Rooms marked *pure* import no client and do no I/O.
//!
//! | room | job |
//! |---|---|
//! | [`serve`] | puts the running service together |
//! | [`config`], [`duration`], [`telemetry`] | every setting, once; durations; logs |
//! | [`image`] | what an image reference is (pure) |
//! | [`workload`] | what a workload tells us: images, placement, credentials, annotations (pure) |
//! | [`surroundings`] | what decides with a workload: namespaces, runtime classes, autoscalers |
//! | [`task`] | `PrewarmTask`: resource, validation, plan, status, conditions (pure) |
//! | [`node`] | which nodes exist and which are eligible (pure) |
//! | [`reduced`] | objects as watches deliver them, without what nobody reads (pure) |
//! | `scope` | objects of one namespace, or of all |
//! | [`egress`] | where requests to the outside may go |
//! | [`health`] | opinions on nodes: Prometheus, disks, platforms |
//! | [`worker`] | the Job or pod that pulls, and how it is read (pure) |
//! | [`intake`] | hints in, deduplicated and coalesced `PrewarmTask`s out |
//! | [`controller`] | snapshot, plan, dispatch, observe, status, reap |
//! | [`rollout`] | the workloads as they are: what hints missed, what nobody needs any more |
//! | [`starts`] | what it was good for: whether containers found their images |
//! | [`webhook`] | admission: review in, verdict out |
//! | [`catalog`] | the tasks and schedules as this replica knows them |
//! | [`api`] | REST, over the same resources, and the pages at `/ui` |
//! | [`schedule`] | tasks at times of day |
//! | [`notify`] | the end of a task, told to the outside |
//! | [`token`] | makes API tokens |
//! | [`leader`] | which replica leads |
//! | [`supervise`] | parts of the service that must not end before shutdown |
//! | [`server`] | listeners, TLS, certificates, registration, graceful shutdown |
//! | [`doctor`] | looks at a cluster from outside, and says what is wrong |
//! | [`plugin`], [`terminal`] | `kubectl prewarm`; tables and colours |
//! | [`manifests`] | the objects of a complete install (pure) |
//! | [`metrics`], [`trace`] | every metric, once; spans |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result))]

pub mod api;
pub mod catalog;
pub mod config;
pub mod controller;
pub mod doctor;
pub mod duration;
pub mod egress;
pub mod health;
pub mod image;
pub mod intake;
pub mod leader;
pub mod manifests;
pub mod metrics;
pub mod node;
pub mod notify;
pub mod plugin;
pub mod reduced;
pub mod rollout;
pub mod schedule;
mod scope;
pub mod serve;
pub mod server;
pub mod starts;
pub mod supervise;
pub mod surroundings;
pub mod task;
pub mod telemetry;
pub mod terminal;
pub mod token;
pub mod trace;
pub mod webhook;
pub mod worker;
pub mod workload;

/// Bytes as lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Items between commas, without the white space around them; empty ones are none.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}
