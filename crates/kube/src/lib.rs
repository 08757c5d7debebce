//! Code for clients of the API server, shared by the server and the kubectl plugin.
//!
//! | module | purpose |
//! |---|---|
//! | `api_error` | classification of errors |
//! | `conflict` | repetition of changes that conflict |
//! | `list` | lists in pages |
//! | `informer` | list and watch of one kind, with a handler |
//! | `lease` | leader election with a Lease, terms of leadership, heartbeat of the leader |
//! | `object_error` | errors that end the processing of one object: caught, logged, counted |
//! | `object_watch` | watch of one object, whose silence is bounded |
//! | `api_contact` | time of the last response of the API server |
//! | `requests` | clients that count their requests |
//! | `store` | tasks and schedules in the memory of this replica |
//! | `metrics` | metrics of the other modules |
//!
//! All but `api_error`, `conflict` and `list` need the feature `runtime`. The feature `test-util` adds
//! `mock_api`, a scripted API server for tests.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

#[cfg(feature = "runtime")]
pub mod api_contact;
pub mod api_error;
pub mod conflict;
#[cfg(feature = "runtime")]
pub mod informer;
#[cfg(feature = "runtime")]
pub mod lease;
pub mod list;
#[cfg(feature = "runtime")]
pub mod metrics;
#[cfg(all(feature = "runtime", any(test, feature = "test-util")))]
pub mod mock_api;
#[cfg(feature = "runtime")]
pub mod object_error;
#[cfg(feature = "runtime")]
pub mod object_watch;
#[cfg(feature = "runtime")]
pub mod requests;
#[cfg(feature = "runtime")]
pub mod store;
#[cfg(feature = "runtime")]
mod work_kind;
