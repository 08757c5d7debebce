//! Site from which a browser sends a request.
//!
//! Browsers state it in `Sec-Fetch-Site`, older ones only in `Origin`. Pages cannot change either
//! header.

use axum::http::{HeaderMap, HeaderName, Method, header};

/// Reports whether one of the server's own pages has sent the request. A request with neither
/// header was not sent by a browser: the result is false.
pub(in crate::api) fn is_same_origin(headers: &HeaderMap, authority: Option<&str>) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let host = header_text(headers, header::HOST).or(authority);
    let origin = header_text(headers, header::ORIGIN)
        .and_then(|origin| origin.split_once("://"))
        .map(|(_, host)| host);
    origin.is_some() && origin == host
}

fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// Reports whether a page of another site may have sent a harmful request to a server without
/// authentication. Harmful are changes, and `WebSockets`, which the same-origin policy does not
/// restrict. Pages of the configured `origins` are permitted.
pub(in crate::api) fn is_cross_site(
    method: &Method,
    headers: &HeaderMap,
    authority: Option<&str>,
    origins: &[String],
) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if reads && !headers.contains_key(header::UPGRADE) && !headers.contains_key("sec-websocket-key")
    {
        return false;
    }
    let origin = header_text(headers, header::ORIGIN);
    if origin.is_none() && !headers.contains_key("sec-fetch-site") {
        return false;
    }
    let named = origin.is_some_and(|origin| origins.iter().any(|one| one == origin));
    !named && !is_same_origin(headers, authority)
}
