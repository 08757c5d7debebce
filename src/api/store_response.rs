//! Responses from the stores of this replica, with their `ETag` and age.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    Api,
    etag::{content_etag, matches_etag},
};

/// Response header with the newest resource version that a response from the store is based on.
const RESOURCE_VERSION: HeaderName = HeaderName::from_static("x-resource-version");

/// Responds with JSON from the store, with its `ETag`, age and resource version; 304 without a body
/// when the caller has the same version.
pub(super) fn cached_response(api: &Api, headers: &HeaderMap, etag: &str, body: Bytes) -> Response {
    let freshness = api.catalog.freshness();
    let mut response = if matches_etag(headers, etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    let out = response.headers_mut();
    let text =
        |text: &str| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    out.insert(header::ETAG, text(etag));
    out.insert(header::AGE, HeaderValue::from(freshness.age.as_secs()));
    if !freshness.version.is_empty() {
        out.insert(RESOURCE_VERSION, text(&freshness.version));
    }
    response
}

/// Responds with a value as JSON, with an `ETag` and the age of the store.
pub(super) fn json_response(api: &Api, headers: &HeaderMap, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).unwrap_or_default();
    cached_response(api, headers, &content_etag(&text), text.into())
}
