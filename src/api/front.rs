//! What every call passes: its id, its time, its line in the log.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
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
    auth::{CallerAddress, is_foreign, peer},
    error::ApiError,
};

/// Names a call, in and out and in logs.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over from a caller.
const MAX_ID: usize = 128;
/// A call that is not a watch is answered by then: the requests to the API server that one may need take a second at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// Filled in when it is known who calls.
#[derive(Clone, Default)]
pub(super) struct Who(pub(super) Arc<OnceLock<String>>);

/// An id of the caller's, if it can be one; else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=');
    let given = request.headers().get(REQUEST_ID);
    let given = given.filter(|id| !id.is_empty() && id.len() <= MAX_ID && id.as_bytes().iter().copied().all(good));
    given.cloned().unwrap_or_else(|| {
        let id = crate::hex(&rand::random::<[u8; 16]>());
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

pub(super) async fn front(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(&request);
    let who = Who::default();
    request.extensions_mut().insert(who.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let from = api.auth.address(request.extensions(), request.headers());
    request.extensions_mut().insert(CallerAddress(from));
    let watch = path.ends_with("/watch");
    let elsewhere = !api.auth.asks() && host(&request).is_some_and(|host| !is_local(host));
    let foreign =
        !api.auth.asks() && is_foreign(&method, request.headers(), authority(&request), &api.settings.origins);
    let answer = next.run(request);
    let mut response = if elsewhere {
        let words = "this server asks nobody who he is, and is there for localhost only: call it by that name";
        ApiError::new(StatusCode::MISDIRECTED_REQUEST, words).into_response()
    } else if foreign {
        let words = "this server asks for no token (--auth=none), so pages of other sites may neither change nor watch anything: \
                     name their origin in --api-cors-origins";
        ApiError::new(StatusCode::FORBIDDEN, words).into_response()
    } else if watch {
        answer.await
    } else {
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
            let words = format!("no answer within {} s", PATIENCE.as_secs());
            ApiError::later(StatusCode::SERVICE_UNAVAILABLE, words, 2).into_response()
        })
    };
    let route = response.extensions().get::<Route>().map_or_else(|| "none".to_owned(), |route| route.0.clone());
    let status = response.status();
    let code = status.as_str();
    let labels = [method_label(&method), route.as_str(), code];
    api.metrics.api_duration.with_label_values(&labels).observe(begun.elapsed().as_secs_f64());
    let (caller, id_text) = (who.0.get().map_or("unknown", String::as_str), id.to_str().unwrap_or_default());
    let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    // An extraction, and the preview of a form, only tell what would be.
    let asks = path.ends_with(":extract") || path.ends_with("/preview");
    let changes = !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) && !asks;
    // The path may be anything that a caller has thought of: it is cut, and escaped by `?`.
    let short: String = path.chars().take(200).collect();
    if changes {
        let of = response.extensions().get::<Subject>().map(|subject| subject.0.clone()).unwrap_or_default();
        tracing::info!(target: "audit", caller, %from, %method, path = ?short, subject = of, status = code, id = id_text, took, "call");
    } else if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        tracing::info!(target: "audit", caller, %from, %method, path = ?short, status = code, id = id_text, "denied");
    } else {
        tracing::debug!(caller, %from, %method, path = ?short, status = code, id = id_text, took, "call");
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    response
}

fn authority(request: &Request) -> Option<&str> {
    request.uri().authority().map(axum::http::uri::Authority::as_str)
}

/// The name by which the server was called.
fn host(request: &Request) -> Option<&str> {
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = named.or_else(|| authority(request))?;
    let end = authority.rfind(':').filter(|at| !authority[*at..].contains(']')).unwrap_or(authority.len());
    Some(&authority[..end])
}

/// A page elsewhere can have its own name lead to this machine, and would then be taken for ours; but it cannot call itself so.
fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Methods that are none of ours are one label: a caller must not be able to make up series.
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

/// The route that has answered, for the metric.
#[derive(Clone)]
pub(super) struct Route(pub(super) String);

/// What a call was about: namespace and name.
#[derive(Clone, Default)]
pub(super) struct Subject(pub(super) String);

/// Runs behind routing, and notes the route.
pub(super) async fn note_route(matched: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(matched) = matched {
        response.extensions_mut().insert(Route(matched.as_str().to_owned()));
    }
    response
}

/// Whether the caller takes an answer of that kind. Who says nothing takes anything.
pub(super) fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let family = kind.split('/').next().unwrap_or_default();
    let mut all = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
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

/// Whether the path is answered to callers without a token.
fn is_open(path: &str) -> bool {
    let call = path.strip_prefix(super::BASE).is_some_and(|rest| rest.starts_with('/') && rest != "/openapi.json");
    let page = path == "/ui"
        || path.strip_prefix("/ui/").is_some_and(|rest| !rest.starts_with("assets/") && !rest.starts_with("sign-"));
    !call && !page
}

/// Bounds what callers without a token have answered.
pub(super) async fn bounded(State(api): State<Api>, request: Request, next: Next) -> Response {
    if is_open(request.uri().path())
        && let Err(error) = api.bounds.open_call(peer(request.extensions()))
    {
        return error.into_response();
    }
    next.run(request).await
}

/// Bounds the answers that wait for their readers. Those to callers who are not known are small, or are always the same text.
pub(super) async fn counted(State(api): State<Api>, request: Request, next: Next) -> Response {
    let who = request.extensions().get::<Who>().cloned();
    let answer = next.run(request).await;
    match who.as_ref().and_then(|who| who.0.get()) {
        Some(who) => api.bounds.answer(who, answer),
        None => answer,
    }
}

/// Answers in JSON, or not at all.
pub(super) async fn speaks_json(request: Request, next: Next) -> Response {
    if accepts(request.headers(), "application/json") {
        return next.run(request).await;
    }
    ApiError::new(StatusCode::NOT_ACCEPTABLE, "answers are application/json: say so in Accept, or say nothing")
        .into_response()
}

/// A method that the path does not have. Which it has stands in `Allow`, which axum adds.
pub(super) async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let method: String = method.as_str().chars().take(20).collect();
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is none of the methods in Allow")).into_response()
}

/// Nothing panics; and if something does, the caller is told no more than that.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a call panicked");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "a mistake of this server: its log says more").into_response()
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
    fn kinds_of_answers(#[case] accept: &'static str, #[case] expected: bool) {
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
    fn names_of_this_machine(#[case] name: &'static str, #[case] local: bool) {
        let request = Request::builder().header(header::HOST, name).body(axum::body::Body::empty()).unwrap();
        assert_eq!(host(&request).is_some_and(is_local), local);
    }
}
