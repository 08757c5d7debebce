//! Site from which a browser sends a request.
//!
//! Browsers state it in `Sec-Fetch-Site`, older ones only in `Origin`. Pages cannot change either
//! header.

use axum::http::{HeaderMap, HeaderName, Method, header};

/// Reports whether one of the server's own pages has sent the request. A request with neither
/// header was not sent by a browser: the result is false.
#[must_use]
pub fn is_same_origin(headers: &HeaderMap, authority: Option<&str>) -> bool {
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[("sec-fetch-site", "same-origin")], true)]
    #[case(&[("sec-fetch-site", "none")], true)]
    #[case(&[("sec-fetch-site", "same-site"), ("origin", "https://x:1"), ("host", "x:1")], false)]
    #[case(&[("sec-fetch-site", "cross-site")], false)]
    #[case(&[("origin", "https://prewarm.example:8080"), ("host", "prewarm.example:8080")], true)]
    #[case(&[("origin", "https://evil.example"), ("host", "prewarm.example:8080")], false)]
    #[case(&[("origin", "null"), ("host", "prewarm.example")], false)]
    #[case(&[("host", "prewarm.example")], false)]
    fn same_origin_by_browser_headers(
        #[case] headers: &[(&'static str, &'static str)],
        #[case] own: bool,
    ) {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect();
        assert_eq!(is_same_origin(&headers, None), own);
    }
}
