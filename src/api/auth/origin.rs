//! Which site a request comes from, as browsers say it.
//!
//! Browsers name it by `Sec-Fetch-Site`, older ones by `Origin` alone, and no page can make them say otherwise.

use axum::http::{HeaderMap, HeaderName, Method, header};

/// Whether a page of ours has sent it. What says neither is no browser.
pub(in crate::api) fn is_own(headers: &HeaderMap, authority: Option<&str>) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let host = text(headers, header::HOST).or(authority);
    let origin = text(headers, header::ORIGIN).and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_some() && origin == host
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// Whether a page of another site could have sent it to a server that asks nobody for a token, and do harm by it: by a change, or by a
/// WebSocket, which no rule of browsers keeps pages from reading. Pages of the origins that the settings name may.
pub(in crate::api) fn is_foreign(
    method: &Method,
    headers: &HeaderMap,
    authority: Option<&str>,
    origins: &[String],
) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if reads && !headers.contains_key(header::UPGRADE) && !headers.contains_key("sec-websocket-key") {
        return false;
    }
    let origin = text(headers, header::ORIGIN);
    if origin.is_none() && !headers.contains_key("sec-fetch-site") {
        return false;
    }
    let named = origin.is_some_and(|origin| origins.iter().any(|one| one == origin));
    !named && !is_own(headers, authority)
}
