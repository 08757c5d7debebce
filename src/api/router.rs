//! Router of the REST API and the web pages, with the middleware of all calls.

use axum::{Router, extract::DefaultBodyLimit, middleware, response::IntoResponse};
use http::{HeaderValue, Method};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, DefaultPredicate, Predicate},
    cors::{AllowOrigin, Any, CorsLayer},
};

use super::{
    body, call_middleware, docs,
    error::ApiError,
    openapi,
    pages::{Pages, PagesApi},
    state::{Api, RouterState},
    static_response, unread_body,
};

/// Builds the router with all routes and middleware. Without `pages`, it serves REST only.
pub fn router(api: Api, pages: Option<Pages>) -> Router {
    router_with(api, pages, Router::new())
}

/// Builds the same router with further routes (`probes`) that need no token.
pub fn router_with(api: Api, pages: Option<Pages>, probes: Router) -> Router {
    let probes = if probes.has_routes() {
        probes.route_layer(middleware::from_fn(call_middleware::record_route))
    } else {
        probes
    };
    let (router, _) = openapi::routes().split_for_parts();
    // REST and the pages share the cache of nodes.
    let handle = PagesApi::new(api.clone());
    let state = RouterState { nodes: handle.nodes.clone(), api: api.clone() };
    let (router, first) = match pages {
        Some(Pages { home, routes: pages }) => {
            let pages = pages.route_layer(middleware::from_fn(call_middleware::record_route));
            (router.merge(pages.with_state(handle)), home)
        }
        None => (router, "/docs"),
    };
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
        .merge(probes)
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
        .layer(middleware::from_fn(unread_body::announce_close))
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
