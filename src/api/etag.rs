//! `ETag`s of responses.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// Computes the `ETag` of a text. It is weak, because the text may be sent compressed or not.
pub(super) fn content_etag(text: &[u8]) -> String {
    format!("W/\"{}\"", prewarmer_core::hex(&Sha256::digest(text)[..12]))
}

/// Reports whether the caller's `If-None-Match` contains the `ETag`.
pub(super) fn matches_etag(headers: &HeaderMap, etag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let tags =
        headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || plain(tag) == plain(etag))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("\"a\"", true)]
    #[case("W/\"a\"", true)]
    #[case("\"b\", \"a\"", true)]
    #[case("*", true)]
    #[case("\"b\"", false)]
    #[case("a", false)]
    fn if_none_match_is_evaluated(#[case] given: &'static str, #[case] known: bool) {
        let headers =
            HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(given))]);
        assert_eq!(matches_etag(&headers, "\"a\""), known);
    }
}
