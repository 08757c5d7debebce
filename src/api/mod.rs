//! The REST API, over the same resources that kubectl shows, and the pages for people (`ui`), which act by its handlers.
//!
//! In: HTTP. Out: `PrewarmTask`s and `PrewarmSchedule`s, written in the name of
//! callers that the API server knows and lets; lists and watches from the
//! catalog, without a request to the API server. May call `catalog`,
//! `notify` (which addresses may be told), `schedule`, `task` and `workload`.

pub mod auth;
mod body;
mod bounds;
mod cluster;
mod docs;
mod error;
mod executions;
mod extract;
mod fields;
mod front;
mod idempotency;
mod openapi;
mod params;
mod recent;
mod request;
mod samples;
mod schedule_request;
mod schedules;
mod still;
mod tasks;
mod ui;
mod values;
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
use tokio_util::sync::CancellationToken;
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, DefaultPredicate, Predicate},
    cors::{AllowOrigin, Any, CorsLayer},
};

use self::{auth::Auth, bounds::Bounds, cluster::Nodes, error::ApiError, recent::Recent, ui::Plans};
pub use self::{
    bounds::Limits,
    idempotency::sweep,
    openapi::{document, document_text},
};
use crate::{
    catalog::{Catalog, Schedules},
    metrics::Metrics,
    notify::Guard,
    starts::Totals,
    surroundings::Surroundings,
    workload::Policy,
};

/// Where all calls begin.
pub const BASE: &str = "/api/v1";

/// What the API must be told.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// The namespace of tasks that name none, and of our own objects.
    pub namespace: String,
    /// The only namespace looked at, where set.
    pub watched: Option<String>,
    /// What the names of our own objects begin with.
    pub object_name: String,
    /// Origins of web pages that may call; `*` for all.
    pub origins: Vec<String>,
    /// Whether there are pages for people at all.
    pub ui: bool,
    /// What each caller may have.
    pub limits: Limits,
}

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
    plans: Plans,
    recent: Recent,
    bounds: Arc<Bounds>,
}

/// The parts of an [`Api`].
pub struct Inner {
    /// The way to the API server.
    pub client: Client,
    /// The tasks.
    pub catalog: Catalog,
    /// The schedules.
    pub schedules: Schedules,
    /// Who calls.
    pub auth: Auth,
    /// Which workloads count.
    pub policy: Arc<Policy>,
    /// What surrounds workloads.
    pub around: Surroundings,
    /// Who may be told of a task's end.
    pub guard: Guard,
    /// Where durations are noted.
    pub metrics: Arc<Metrics>,
    /// What it was good for.
    pub totals: Totals,
    /// The rest.
    pub settings: ApiSettings,
    /// Ends watches.
    pub stop: CancellationToken,
}

impl std::ops::Deref for Api {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

/// The state of the router.
#[derive(Clone)]
struct State {
    api: Api,
    nodes: Nodes,
}

impl FromRef<State> for Api {
    fn from_ref(state: &State) -> Self {
        state.api.clone()
    }
}

impl FromRef<State> for Auth {
    fn from_ref(state: &State) -> Self {
        state.api.auth.clone()
    }
}

impl FromRef<State> for Nodes {
    fn from_ref(state: &State) -> Self {
        state.nodes.clone()
    }
}

impl Api {
    /// An API of these parts.
    #[must_use]
    pub fn new(inner: Inner) -> Self {
        let bounds = Arc::new(Bounds::new(inner.settings.limits));
        Self { inner: Arc::new(inner), plans: Plans::default(), recent: Recent::default(), bounds }
    }

    /// Forgets callers and addresses that have not called for long.
    pub fn forget(&self) {
        self.auth.forget();
        self.bounds.forget();
    }

    /// The namespace that is meant where none is named.
    fn default_namespace(&self) -> &str {
        self.settings.watched.as_deref().unwrap_or(&self.settings.namespace)
    }

    /// A namespace that nobody looks at takes no task.
    fn check_namespace(&self, namespace: &str) -> Result<(), ApiError> {
        match &self.settings.watched {
            Some(watched) if watched != namespace => {
                Err(ApiError::bad_field("namespace", format!("this server looks after the namespace {watched} only")))
            }
            _ => Ok(()),
        }
    }

    fn count(&self, verb: &str, resource: &str) {
        self.metrics.kube_requests.with_label_values(&[verb, resource]).inc();
    }
}

/// The routes.
pub fn router(api: Api) -> Router {
    let (router, _) = openapi::routes().split_for_parts();
    let state = State { nodes: Nodes::new(&api), api: api.clone() };
    let (router, first) = if api.settings.ui { (router.merge(ui::routes()), ui::HOME) } else { (router, "/docs") };
    let router = router
        .route("/", axum::routing::get(async move || axum::response::Redirect::temporary(first)))
        .route("/docs", axum::routing::get(docs::page))
        .fallback(async || {
            ApiError::new(http::StatusCode::NOT_FOUND, "there is nothing here: see /docs").into_response()
        })
        .method_not_allowed_fallback(front::other_method)
        .with_state(state)
        // Bodies are read by `body` alone, within its limits. What an extractor of axum would read is limited all the same.
        .layer(DefaultBodyLimit::max(body::MAX_FORM))
        .layer(middleware::from_fn_with_state(api.clone(), front::counted))
        .layer(CompressionLayer::new().compress_when(DefaultPredicate::new().and(still::may_be_compressed)));
    let router = router.layer(middleware::from_fn_with_state(api.clone(), front::bounded));
    let router = if api.settings.origins.is_empty() { router } else { router.layer(cors(&api.settings.origins)) };
    router.layer(CatchPanicLayer::custom(front::panicked)).layer(middleware::from_fn_with_state(api, front::front))
}

/// Pages of these origins may call; without a setting no answer says that any may. Callers are known by their token and by no cookie, so a page can do
/// nothing in the name of its visitor that it has not been given the token for.
fn cors(origins: &[String]) -> CorsLayer {
    let listed: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let allowed =
        if origins.iter().any(|origin| origin == "*") { AllowOrigin::from(Any) } else { AllowOrigin::list(listed) };
    let headers =
        ["authorization", "content-type", "idempotency-key", "if-none-match", "last-event-id", "x-request-id"];
    let exposed = ["age", "etag", "link", "location", "retry-after", "x-request-id", "x-resource-version"];
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(headers.map(http::HeaderName::from_static))
        .expose_headers(exposed.map(http::HeaderName::from_static))
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod rights_tests;
#[cfg(test)]
mod tests;
