//! Middleware of every call: request ID, timeout, origin checks, metrics and audit log.

use std::{
    any::Any,
    net::IpAddr,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    Api,
    auth::{CallerAddress, CallerName, caller_address, is_cross_site},
    error::ApiError,
    paths::BASE_PATH,
};

/// Header with the ID of a call, in requests, responses and logs.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request ID that is accepted from a caller, in characters.
const MAX_REQUEST_ID: usize = 128;
/// Maximum length of a path in the logs, in characters.
const MAX_LOGGED_PATH: usize = 200;

/// Returns the request ID that the caller sent, when it is valid; otherwise a random one.
fn request_id(request: &Request) -> HeaderValue {
    let good = |c: u8| {
        c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=')
    };
    let given = request.headers().get(REQUEST_ID);
    let given = given.filter(|id| {
        !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().copied().all(good)
    });
    given.cloned().unwrap_or_else(|| {
        let id = prewarmer_core::hex(&rand::random::<[u8; 16]>());
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

/// Handles a call: gives it an ID, refuses foreign pages, limits its time, and records it.
pub(super) async fn handle_call(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Response {
    let call = CallRecord {
        begun: Instant::now(),
        id: request_id(&request),
        caller: CallerName::default(),
        from: api.auth.resolve_address(request.extensions(), request.headers()),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
    };
    request.extensions_mut().insert(call.caller.clone());
    request.extensions_mut().insert(CallerAddress(call.from));
    let mut response = match foreign_call_error(&api, &request) {
        Some(error) => error.into_response(),
        None if call.path.ends_with("/watch") => next.run(request).await,
        None => respond_in_time(api.settings.limits.response_timeout, next.run(request)).await,
    };
    api.metrics
        .request_duration
        .with_label_values(&[
            method_label(&call.method),
            route_label(&response),
            response.status().as_str(),
        ])
        .observe(call.begun.elapsed().as_secs_f64());
    call.log(&response);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, call.id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    response
}

/// Returns the error of a call from a foreign page to a server without authentication.
fn foreign_call_error(api: &Api, request: &Request) -> Option<ApiError> {
    if api.auth.requires_token() {
        return None;
    }
    if requested_host(request).is_some_and(|host| !is_loopback_host(host)) {
        let words = "this server runs without authentication (--auth=none) and accepts only the host name localhost: \
                     use http://localhost or a loopback address";
        return Some(ApiError::new(StatusCode::MISDIRECTED_REQUEST, words));
    }
    let (method, origins) = (request.method(), &api.settings.origins);
    is_cross_site(method, request.headers(), authority(request), origins).then(|| {
        let words = "this server runs without authentication (--auth=none), so pages of other origins may neither change nor \
                     watch anything: add the origin to --api-cors-origins";
        ApiError::new(StatusCode::FORBIDDEN, words)
    })
}

/// Waits for the response, for a limited time.
async fn respond_in_time(limit: Duration, answer: impl Future<Output = Response>) -> Response {
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let words = format!("no response within {} s: try again", limit.as_secs());
        ApiError::retry_after(StatusCode::SERVICE_UNAVAILABLE, words, 2).into_response()
    })
}

/// Returns the route that handled the call.
fn route_label(response: &Response) -> &str {
    response.extensions().get::<RouteLabel>().map_or("none", |route| &route.0)
}

/// Call, as it is recorded in the logs.
struct CallRecord {
    begun: Instant,
    id: HeaderValue,
    caller: CallerName,
    from: IpAddr,
    method: Method,
    path: String,
}

impl CallRecord {
    /// Logs the call: to the audit log if it changes something or was denied.
    fn log(&self, response: &Response) {
        let Self { from, method, .. } = self;
        let caller = self.caller.0.get().map_or("unknown", String::as_str);
        let id = self.id.to_str().unwrap_or_default();
        let took = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let status = response.status();
        let code = status.as_str();
        // The path is untrusted input: it is truncated here, and escaped by `?` in the log.
        let path: String = self.path.chars().take(MAX_LOGGED_PATH).collect();
        if self.changes_something() {
            let subject =
                response.extensions().get::<AuditSubject>().map_or("", |subject| &subject.0);
            tracing::info!(target: "audit", caller, %from, %method, ?path, subject, status = code, id, took, "call");
        } else if matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        ) {
            tracing::info!(target: "audit", caller, %from, %method, ?path, status = code, id, "denied");
        } else {
            tracing::debug!(caller, %from, %method, ?path, status = code, id, took, "call");
        }
    }

    /// Reports whether the call is one that changes something. An extraction and the preview of a
    /// form do not.
    fn changes_something(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
            && !self.path.ends_with(":extract")
            && !self.path.ends_with("/preview")
    }
}

fn authority(request: &Request) -> Option<&str> {
    request.uri().authority().map(axum::http::uri::Authority::as_str)
}

/// Returns the host name of the request, without a port.
fn requested_host(request: &Request) -> Option<&str> {
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = named.or_else(|| authority(request))?;
    let end = authority
        .rfind(':')
        .filter(|at| !authority[*at..].contains(']'))
        .unwrap_or(authority.len());
    Some(&authority[..end])
}

/// Reports whether a host name is localhost or a loopback address. A page of another site can
/// resolve its own name to this machine (DNS rebinding), but the `Host` header then carries that
/// name.
fn is_loopback_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Returns the metric label of a method. Unsupported methods share one label, so that callers
/// cannot create time series.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Route that handled the call, for the metric; a response extension.
#[derive(Clone)]
pub(super) struct RouteLabel(pub(super) String);

/// Object that a call changed, as `namespace/name`, for the audit log; a response extension.
#[derive(Clone, Default)]
pub(super) struct AuditSubject(pub(super) String);

/// Records the matched route in the response. Runs after routing.
pub(super) async fn record_route(
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if let Some(matched) = matched {
        response.extensions_mut().insert(RouteLabel(matched.as_str().to_owned()));
    }
    response
}

/// Reports whether the `Accept` header permits a media type. A request without the header permits
/// any.
pub(super) fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let family = kind.split('/').next().unwrap_or_default();
    let mut all =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if all.peek().is_none() {
        return true;
    }
    all.flat_map(|value| value.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        let fits = range == kind || range == "*/*" || range.strip_suffix("/*") == Some(family);
        fits && !refused
    })
}

/// Reports whether the path is served without a token.
fn is_anonymous(path: &str) -> bool {
    let call = path
        .strip_prefix(BASE_PATH)
        .is_some_and(|rest| rest.starts_with('/') && rest != "/openapi.json");
    let page = path == "/ui"
        || path
            .strip_prefix("/ui/")
            .is_some_and(|rest| !rest.starts_with("assets/") && !rest.starts_with("sign-"));
    !call && !page
}

/// Applies the rate limit of calls without a token.
pub(super) async fn limit_anonymous_calls(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Response {
    if is_anonymous(request.uri().path())
        && let Err(error) = api.budgets.check_anonymous_call(caller_address(request.extensions()))
    {
        return error.into_response();
    }
    next.run(request).await
}

/// Charges responses to the caller's budget until they are read. Responses to unauthenticated
/// clients are not counted: they are small or static.
pub(super) async fn limit_unread_responses(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Response {
    let who = request.extensions().get::<CallerName>().cloned();
    let answer = next.run(request).await;
    match who.as_ref().and_then(|who| who.0.get()) {
        Some(who) => api.budgets.charge_response(who, answer),
        None => answer,
    }
}

/// Rejects calls whose `Accept` header does not permit JSON, with 406.
pub(super) async fn require_json(request: Request, next: Next) -> Response {
    if accepts(request.headers(), "application/json") {
        return next.run(request).await;
    }
    ApiError::new(
        StatusCode::NOT_ACCEPTABLE,
        "responses are application/json: permit it in Accept, or omit the header",
    )
    .into_response()
}

/// Responds to a method that the path does not support, with 405, or 204 for `OPTIONS`. axum adds
/// the `Allow` header.
pub(super) async fn method_not_allowed(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let method: String = method.as_str().chars().take(20).collect();
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("method {method} is not supported: use one of the methods in the Allow header"),
    )
    .into_response()
}

/// Converts a panic of a handler into a 500 that discloses no details.
pub(super) fn panic_response(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("handler panicked");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error: see the server's log")
        .into_response()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("application/json", true)]
    #[case("text/html, application/*;q=0.8", true)]
    #[case("*/*", true)]
    #[case("text/html", false)]
    #[case("application/json;q=0, text/plain", false)]
    #[case("Application/JSON", true)]
    fn accept_header_is_evaluated(#[case] accept: &'static str, #[case] expected: bool) {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
        assert_eq!(accepts(&headers, "application/json"), expected);
        assert!(accepts(&HeaderMap::new(), "application/json"));
    }

    #[rstest]
    #[case("localhost:8080", true)]
    #[case("LOCALHOST", true)]
    #[case("127.0.0.1:8080", true)]
    #[case("[::1]:8080", true)]
    #[case("[::1]", true)]
    #[case("evil.example:8080", false)]
    #[case("localhost.evil.example", false)]
    #[case("10.0.0.1", false)]
    #[case("", false)]
    fn loopback_hosts_are_recognized(#[case] name: &'static str, #[case] local: bool) {
        let request =
            Request::builder().header(header::HOST, name).body(axum::body::Body::empty()).unwrap();
        assert_eq!(requested_host(&request).is_some_and(is_loopback_host), local);
    }
}
