//! Answers that never change while the program runs: compressed once, with a tag by which browsers and programs know that they
//! have them already.

use std::io::Write;

use axum::{
    body::Bytes,
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};

use super::tasks::{etag_of, is_known};

/// An answer that never changes.
pub(super) struct Still {
    kind: &'static str,
    plain: Bytes,
    /// None where it would be no shorter.
    gzip: Option<Bytes>,
    etag: HeaderValue,
}

impl Still {
    /// An answer of this kind and text.
    pub(super) fn new(kind: &'static str, text: impl Into<Bytes>) -> Self {
        let plain = text.into();
        let etag = HeaderValue::try_from(etag_of(&plain)).unwrap_or_else(|_| HeaderValue::from_static("W/\"0\""));
        let gzip = compress(&plain).filter(|gzip| gzip.len() < plain.len());
        Self { kind, plain, gzip, etag }
    }

    /// The answer to a call with these headers.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let mut response = if self.etag.to_str().is_ok_and(|etag| is_known(headers, etag)) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let gzip = self.gzip.clone().filter(|_| takes_gzip(headers));
            let encoding = gzip.is_some().then_some((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
            let mut response = gzip.unwrap_or_else(|| self.plain.clone()).into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
            response.headers_mut().extend(encoding);
            response.extensions_mut().insert(AsItIs);
            response
        };
        let out = response.headers_mut();
        out.insert(header::ETAG, self.etag.clone());
        out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        response
    }
}

/// Marks an answer that is sent as it is.
#[derive(Clone)]
struct AsItIs;

/// Whether an answer may be compressed for the caller it goes to.
pub(super) fn may_be_compressed(_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<AsItIs>().is_none()
}

fn compress(text: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).ok()?;
    Some(encoder.finish().ok()?.into())
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
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
    async fn compressed_for_those_who_take_it_and_not_sent_twice() {
        let text = "a style sheet ".repeat(100);
        let still = Still::new("text/css", text.clone());
        let of = |name: header::HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        let plain = still.answer(&HeaderMap::new());
        let etag = plain.headers()[header::ETAG].clone();
        assert_eq!(to_bytes(plain.into_body(), usize::MAX).await.unwrap(), text);
        for refused in ["gzip;q=0", "br"] {
            let answer = still.answer(&of(header::ACCEPT_ENCODING, refused));
            assert!(!answer.headers().contains_key(header::CONTENT_ENCODING), "{refused}");
        }
        let gzip = still.answer(&of(header::ACCEPT_ENCODING, "br, gzip"));
        assert_eq!(
            (&gzip.headers()["content-encoding"], &gzip.headers()[header::ETAG]),
            (&"gzip".parse().unwrap(), &etag)
        );
        let mut unpacked = String::new();
        let bytes = to_bytes(gzip.into_body(), usize::MAX).await.unwrap();
        GzDecoder::new(&*bytes).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, text);
        let again = HeaderMap::from_iter([(header::IF_NONE_MATCH, etag)]);
        assert_eq!(still.answer(&again).status(), StatusCode::NOT_MODIFIED);
        assert!(Still::new("text/plain", "x").gzip.is_none());
    }
}
