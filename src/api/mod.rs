//! REST API over the same resources that kubectl shows, and the web pages (`ui`). Both decode a
//! request, call an operation of `service`, and render its result.
//!
//! Input: HTTP requests. Output: `PrewarmTask`s and `PrewarmSchedule`s, written for callers that
//! the API server authenticates and authorizes; lists and watches, served from the store without a
//! request to the API server. May call `task_view`, `notify` (for the addresses that notifications
//! may go to), `schedule`, `task` and `workload`.

pub mod auth;
mod body;
mod bounded_json;
mod budgets;
mod call_middleware;
mod cluster;
mod creation;
mod docs;
mod error;
mod executions;
mod extract;
mod fields;
mod idempotency;
mod metrics;
mod openapi;
mod params;
mod recent_tasks;
mod request;
mod samples;
mod schedule_request;
mod schedules;
mod service;
mod settings;
mod static_response;
mod tasks;
mod ui;
mod watch;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    middleware,
    response::IntoResponse,
};
use http::{HeaderValue, Method};
use kube::Client;
use prewarmer_core::workload::Policy;
use prewarmer_kube::store::{ScheduleStore, TaskStore};
use tokio_util::sync::CancellationToken;
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, DefaultPredicate, Predicate},
    cors::{AllowOrigin, Any, CorsLayer},
};

pub(crate) use self::metrics::ApiMetrics;
use self::{
    auth::Auth, budgets::CallerBudgets, cluster::NodeCache, error::ApiError,
    recent_tasks::RecentTasks, ui::PlanCache,
};
pub use self::{
    budgets::CallerLimits,
    idempotency::collect_expired_keys,
    openapi::{document, document_text},
    settings::{ApiArgs, ApiConfig, PageArgs},
};
use crate::{
    cluster_context::ClusterContextStore, notify::NotificationPolicy, pod_start::OutcomeTotals,
};

/// Path prefix of all REST calls.
pub const BASE_PATH: &str = "/api/v1";

/// Settings of the REST API.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Namespace of Prewarmer's own objects, and default namespace of tasks.
    pub namespace: String,
    /// Only namespace that this server watches; `None` for all.
    pub watched_namespace: Option<String>,
    /// Prefix of the names of Prewarmer's own objects.
    pub object_prefix: String,
    /// Origins of web pages that may call the API (CORS); `*` for all.
    pub origins: Vec<String>,
    /// Serve the web pages under `/ui`.
    pub ui: bool,
    /// Limits per caller.
    pub limits: CallerLimits,
}

/// State that the handlers share. Clones share it.
#[derive(Clone)]
pub struct Api {
    inner: Arc<ApiInner>,
    plans: PlanCache,
    recent_tasks: RecentTasks,
    budgets: Arc<CallerBudgets>,
}

/// Components that an [`Api`] is built from.
pub struct ApiInner {
    /// Client of the API server.
    pub client: Client,
    /// Store of the tasks.
    pub catalog: TaskStore,
    /// Store of the schedules.
    pub schedules: ScheduleStore,
    /// Authentication and authorization of callers.
    pub auth: Auth,
    /// Policy that decides which workloads are warmed.
    pub policy: Arc<Policy>,
    /// Cluster context of workloads: namespaces, `RuntimeClasses` and autoscalers.
    pub context: ClusterContextStore,
    /// Check of the addresses that notifications may go to.
    pub guard: NotificationPolicy,
    /// Metrics of the REST API.
    pub metrics: ApiMetrics,
    /// Totals of pod starts, for the overview page.
    pub totals: OutcomeTotals,
    /// Settings of the REST API.
    pub settings: ApiSettings,
    /// Token that ends open watches at shutdown.
    pub stop: CancellationToken,
}

impl std::ops::Deref for Api {
    type Target = ApiInner;

    fn deref(&self) -> &ApiInner {
        &self.inner
    }
}

/// State of the router.
#[derive(Clone)]
struct RouterState {
    api: Api,
    nodes: NodeCache,
}

impl FromRef<RouterState> for Api {
    fn from_ref(state: &RouterState) -> Self {
        state.api.clone()
    }
}

impl FromRef<RouterState> for Auth {
    fn from_ref(state: &RouterState) -> Self {
        state.api.auth.clone()
    }
}

impl FromRef<RouterState> for NodeCache {
    fn from_ref(state: &RouterState) -> Self {
        state.nodes.clone()
    }
}

impl Api {
    /// Creates the shared state from its components.
    #[must_use]
    pub fn new(inner: ApiInner) -> Self {
        let bounds = Arc::new(CallerBudgets::new(inner.settings.limits));
        Self {
            inner: Arc::new(inner),
            plans: PlanCache::default(),
            recent_tasks: RecentTasks::default(),
            budgets: bounds,
        }
    }

    /// Removes the rate limits of callers and addresses that have not called recently.
    pub fn evict_idle(&self) {
        self.auth.evict_idle();
        self.budgets.evict_idle();
    }

    /// Returns the namespace of calls that name none.
    fn default_namespace(&self) -> &str {
        self.settings.watched_namespace.as_deref().unwrap_or(&self.settings.namespace)
    }

    /// Rejects a namespace that this server does not watch: a task created there would never run.
    fn check_namespace(&self, namespace: &str) -> Result<(), ApiError> {
        match &self.settings.watched_namespace {
            Some(watched) if watched != namespace => Err(ApiError::invalid_field(
                "namespace",
                format!("this server manages the namespace {watched} only"),
            )),
            _ => Ok(()),
        }
    }
}

/// Builds the router with all routes and middleware.
pub fn router(api: Api) -> Router {
    let (router, _) = openapi::routes().split_for_parts();
    let state = RouterState { nodes: NodeCache::new(&api), api: api.clone() };
    let (router, first) =
        if api.settings.ui { (router.merge(ui::routes()), ui::HOME) } else { (router, "/docs") };
    let router = router
        .route("/", axum::routing::get(async move || axum::response::Redirect::temporary(first)))
        .route("/docs", axum::routing::get(docs::page))
        .fallback(async || {
            ApiError::new(
                http::StatusCode::NOT_FOUND,
                "no such path: see /docs for the list of calls",
            )
            .into_response()
        })
        .method_not_allowed_fallback(call_middleware::method_not_allowed)
        .with_state(state)
        // Only `body` reads bodies, within its own limits. This limit covers any body that an axum
        // extractor would read.
        .layer(DefaultBodyLimit::max(body::MAX_FORM))
        .layer(middleware::from_fn_with_state(api.clone(), call_middleware::limit_unread_responses))
        .layer(
            CompressionLayer::new()
                .compress_when(DefaultPredicate::new().and(static_response::may_be_compressed)),
        );
    let router = router
        .layer(middleware::from_fn_with_state(api.clone(), call_middleware::limit_anonymous_calls));
    let router = if api.settings.origins.is_empty() {
        router
    } else {
        router.layer(cors(&api.settings.origins))
    };
    router
        .layer(CatchPanicLayer::custom(call_middleware::panic_response))
        .layer(middleware::from_fn_with_state(api, call_middleware::handle_call))
}

/// Allows pages of these origins to call; without the setting no response carries CORS headers.
/// REST callers are authenticated by a bearer token and not by a cookie, so a page cannot act for
/// its visitor without having the token.
fn cors(origins: &[String]) -> CorsLayer {
    let listed: Vec<HeaderValue> =
        origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::from(Any)
    } else {
        AllowOrigin::list(listed)
    };
    let headers = [
        "authorization",
        "content-type",
        "idempotency-key",
        "if-none-match",
        "last-event-id",
        "x-request-id",
    ];
    let exposed =
        ["age", "etag", "link", "location", "retry-after", "x-request-id", "x-resource-version"];
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(headers.map(http::HeaderName::from_static))
        .expose_headers(exposed.map(http::HeaderName::from_static))
}

#[cfg(test)]
mod fake_cluster;
#[cfg(test)]
mod permission_tests;
#[cfg(test)]
mod tests;
