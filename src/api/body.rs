//! Reads bodies within bounds.

use std::time::Duration;

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, StatusCode, header},
};
use serde_json::Value;

use super::error::ApiError;

/// Largest body, in bytes: a task of 100 images is 60 KB, a manifest may be some hundred.
pub(super) const MAX_BODY: usize = 1024 * 1024;
/// A body that has not arrived by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kinds of a body of JSON.
const JSON: [&str; 1] = ["application/json"];

/// The body, if it is of one of these kinds.
pub(super) async fn bytes(headers: &HeaderMap, body: Body, kinds: &[&str]) -> Result<Bytes, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !kinds.contains(&plain.as_str()) {
        let hint =
            format!("expected a body of {}, such as by curl -H 'Content-Type: {}'", kinds.join(" or "), kinds[0]);
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, hint));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let too_large =
        || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {MAX_BODY} bytes at most"));
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(too_large());
    }
    match tokio::time::timeout(PATIENCE, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {seconds} s")))
        }
    }
}

/// The body as JSON.
pub(super) async fn json(headers: &HeaderMap, body: Body) -> Result<Value, ApiError> {
    let bytes = bytes(headers, body, &JSON).await?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::bad_field("", format!("the body is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use rstest::rstest;

    use super::*;

    fn headers(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())])
    }

    #[rstest]
    #[case("application/json", "{}", Ok(()))]
    #[case("Application/JSON; charset=utf-8", "{}", Ok(()))]
    #[case("text/plain", "{}", Err(415))]
    #[case("application/json", "{", Err(400))]
    #[case("application/json", "", Err(400))]
    #[tokio::test]
    async fn kinds(#[case] kind: &'static str, #[case] body: &'static str, #[case] expected: Result<(), u16>) {
        let read = json(&headers(kind), Body::from(body)).await;
        assert_eq!(read.map(drop).map_err(|error| error.code.as_u16()), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn bounds() {
        let code = async |body: Body| json(&headers("application/json"), body).await.unwrap_err().code;
        assert_eq!(code(Body::from(vec![b' '; MAX_BODY + 1])).await, StatusCode::PAYLOAD_TOO_LARGE);
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(code(Body::from(deep)).await, StatusCode::BAD_REQUEST);
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(code(stalled).await, StatusCode::REQUEST_TIMEOUT);
    }
}
