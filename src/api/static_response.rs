//! Responses that never change while the process runs: compressed once, with an `ETag` by which
//! clients use their cached copy.

use std::io::Write;

use axum::{
    body::Bytes,
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};

use super::etag::{content_etag, matches_etag};

/// Response that never changes.
pub struct StaticResponse {
    kind: &'static str,
    plain: Bytes,
    /// Compressed text; `None` when it would not be shorter.
    gzip: Option<Bytes>,
    etag: HeaderValue,
}

impl StaticResponse {
    /// Creates a response of a content type and text.
    pub fn new(kind: &'static str, text: impl Into<Bytes>) -> Self {
        let plain = text.into();
        let etag = HeaderValue::try_from(content_etag(&plain))
            .unwrap_or_else(|_| HeaderValue::from_static("W/\"0\""));
        let gzip = compress(&plain).filter(|gzip| gzip.len() < plain.len());
        Self { kind, plain, gzip, etag }
    }

    /// Responds to a call with these headers: 304 when the client has the text, gzip when it
    /// accepts that.
    #[must_use]
    pub fn respond(&self, headers: &HeaderMap) -> Response {
        let mut response = if self.etag.to_str().is_ok_and(|etag| matches_etag(headers, etag)) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let gzip = self.gzip.clone().filter(|_| accepts_gzip(headers));
            let encoding = gzip
                .is_some()
                .then_some((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
            let mut response = gzip.unwrap_or_else(|| self.plain.clone()).into_response();
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
            response.headers_mut().extend(encoding);
            response.extensions_mut().insert(NoCompression);
            response
        };
        let out = response.headers_mut();
        out.insert(header::ETAG, self.etag.clone());
        out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        response
    }
}

/// Response extension that excludes a response from compression.
#[derive(Clone)]
struct NoCompression;

/// Reports whether the compression layer may compress a response.
pub(super) fn may_be_compressed(
    _: StatusCode,
    _: Version,
    _: &HeaderMap,
    extensions: &Extensions,
) -> bool {
    extensions.get::<NoCompression>().is_none()
}

fn compress(text: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).ok()?;
    Some(encoder.finish().ok()?.into())
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values =
        headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named =
            parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        named && !refused
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::body::to_bytes;
    use flate2::read::GzDecoder;

    use super::*;

    #[tokio::test]
    async fn gzip_is_negotiated_and_etag_saves_a_second_transfer() {
        let text = "a style sheet ".repeat(100);
        let still = StaticResponse::new("text/css", text.clone());
        let of = |name: header::HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        let plain = still.respond(&HeaderMap::new());
        let etag = plain.headers()[header::ETAG].clone();
        assert_eq!(to_bytes(plain.into_body(), usize::MAX).await.unwrap(), text);
        for refused in ["gzip;q=0", "br"] {
            let answer = still.respond(&of(header::ACCEPT_ENCODING, refused));
            assert!(!answer.headers().contains_key(header::CONTENT_ENCODING), "{refused}");
        }
        let gzip = still.respond(&of(header::ACCEPT_ENCODING, "br, gzip"));
        assert_eq!(
            (&gzip.headers()["content-encoding"], &gzip.headers()[header::ETAG]),
            (&"gzip".parse().unwrap(), &etag)
        );
        let mut unpacked = String::new();
        let bytes = to_bytes(gzip.into_body(), usize::MAX).await.unwrap();
        GzDecoder::new(&*bytes).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, text);
        let again = HeaderMap::from_iter([(header::IF_NONE_MATCH, etag)]);
        assert_eq!(still.respond(&again).status(), StatusCode::NOT_MODIFIED);
        assert!(StaticResponse::new("text/plain", "x").gzip.is_none());
    }
}
