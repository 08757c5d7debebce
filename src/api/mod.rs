//! REST API over the same resources that kubectl shows, and the interface for the web pages
//! (`pages`), which the binary contains. Both decode a request, call an operation of `service`, and
//! render its result.
//!
//! Input: HTTP requests. Output: `PrewarmTask`s and `PrewarmSchedule`s, written for callers that
//! the API server authenticates and authorizes; lists and watches, served from the store without a
//! request to the API server. May use `cluster_context`, `notify` (for the addresses that
//! notifications may go to), `pod_start` (for the outcome figures), `server` (for memory budgets and
//! connection slots) and `task_view`.

pub mod auth;
mod body;
mod bounded_json;
mod budgets;
mod call_middleware;
mod cluster;
mod components;
mod creation;
mod decode;
mod docs;
mod error;
mod etag;
mod executions;
mod extract;
mod field_path;
mod idempotency;
mod metrics;
mod node_cache;
mod openapi;
pub mod pages;
mod params;
mod paths;
mod permissions;
mod plan_cache;
mod recent_objects;
mod request;
mod router;
mod samples;
mod schedule_request;
mod schedule_update;
mod schedules;
mod service;
mod settings;
mod state;
mod static_response;
mod store_response;
mod tasks;
mod unread_body;
mod watch;

pub(crate) use self::metrics::ApiMetrics;
pub use self::{
    budgets::CallerLimits,
    components::{ApiInner, ApiSettings},
    idempotency::collect_expired_keys,
    openapi::{document, document_text},
    paths::BASE_PATH,
    router::{router, router_with},
    settings::{ApiArgs, ApiConfig, PageArgs},
    state::Api,
};

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod fake_cluster;
#[cfg(test)]
mod permission_tests;
#[cfg(test)]
mod router_calls;
#[cfg(test)]
mod tests;
