//! Announcement that a connection ends because a request was answered before its body was read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{HeaderValue, Version, header},
    middleware::Next,
    response::Response,
};
use futures::{StreamExt, stream};

/// Adds `Connection: close` to the response to an HTTP/1 request whose body was not read to its end,
/// for example because it is too large. The server closes such a connection, and a client that is
/// not notified may send its next request on it, which is then lost (RFC 9112, section 9.6).
pub(super) async fn announce_close(request: Request, next: Next) -> Response {
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let is_read = Arc::new(AtomicBool::new(false));
    let at_end = Arc::clone(&is_read);
    let request = request.map(|body| {
        let end = stream::poll_fn(move |_| {
            at_end.store(true, Ordering::Relaxed);
            Poll::Ready(None)
        });
        Body::from_stream(body.into_data_stream().chain(end))
    });
    let mut response = next.run(request).await;
    if !is_read.load(Ordering::Relaxed) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware::from_fn, routing::post};
    use http::StatusCode;
    use tower::ServiceExt;

    use super::*;

    /// Returns the header `Connection` of the response to a request with `body`, on a path whose
    /// handler reads the body or does not.
    async fn connection(path: &str, version: Version, body: &str) -> Option<String> {
        let router = Router::new()
            .route("/read", post(async |body: String| body))
            .route("/unread", post(async || StatusCode::PAYLOAD_TOO_LARGE))
            .layer(from_fn(announce_close));
        let request = Request::post(path).version(version).body(Body::from(body.to_owned()));
        let response = router.oneshot(request.unwrap()).await.unwrap();
        response.headers().get("connection").map(|value| value.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn unread_body_closes_the_connection() {
        assert_eq!(connection("/unread", Version::HTTP_11, "x").await.as_deref(), Some("close"));
    }

    #[tokio::test]
    async fn read_body_keeps_the_connection() {
        assert_eq!(connection("/read", Version::HTTP_11, "x").await, None);
    }

    #[tokio::test]
    async fn empty_body_keeps_the_connection() {
        assert_eq!(connection("/unread", Version::HTTP_11, "").await, None);
    }

    /// In HTTP/2 only the stream ends.
    #[tokio::test]
    async fn http2_has_no_connection_header() {
        assert_eq!(connection("/unread", Version::HTTP_2, "x").await, None);
    }
}
