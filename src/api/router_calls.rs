//! Calls of a router without a listener, for tests of the REST API and of the pages: requests, bodies
//! that never end, and streams of events.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::{Request, StatusCode, request},
    response::Response,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::time::Instant;
use tower::ServiceExt;

/// Size of a chunk of the endless body, in bytes.
pub(super) const CHUNK: usize = 16 * 1024;
/// Bytes by which reading may exceed a limit: the chunk that exceeds it, and one that was requested
/// ahead.
pub(super) const SLACK: usize = 2 * CHUNK;
/// Bytes after which an endless body stalls: more than any limit.
const ENDLESS: usize = 8 * 1024 * 1024;
/// Length that a call may announce, in bytes: more than any limit.
const ANNOUNCED: usize = 2 * 1024 * 1024;

/// Slightly longer than the interval at which a stream checks the permission of its caller again.
pub(super) const AFTER_REVIEW: Duration = Duration::from_secs(65);
/// Slightly longer than the time for which a stream tolerates an API server that does not answer.
pub(super) const AFTER_GRACE_PERIOD: Duration = Duration::from_secs(6 * 60);

/// Sends a request to a router, from the client address of all tests.
pub(super) async fn send(router: &Router, request: request::Builder, body: Body) -> Response {
    let mut request = request.body(body).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 1))));
    router.clone().oneshot(request).await.unwrap()
}

/// Sends a request with these headers to a router.
pub(super) async fn call(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(router, request, Body::from(body.to_owned())).await
}

/// Creates a body that never ends, and counts the bytes that are read from it. After [`ENDLESS`] it
/// stalls, so that a test fails instead of exhausting the memory.
pub(super) fn endless(pulled: &Arc<AtomicUsize>) -> Body {
    let pulled = Arc::clone(pulled);
    let chunks = stream::repeat_with(move || {
        pulled.fetch_add(CHUNK, Ordering::Relaxed);
        Ok::<_, Infallible>(Bytes::from_static(&[b'a'; CHUNK]))
    });
    Body::from_stream(chunks.take(ENDLESS / CHUNK).chain(stream::pending()))
}

/// Call with an endless body, which claims to be from one of the server's own pages.
#[derive(Debug)]
pub(super) struct EndlessCall {
    pub(super) method: String,
    pub(super) path: String,
    /// Token for the header and the cookie.
    pub(super) token: Option<&'static str>,
    /// Announces a length that is larger than any limit.
    pub(super) announced: bool,
    /// Content type.
    pub(super) kind: &'static str,
}

impl EndlessCall {
    /// Sends the call, and returns the status and the number of bytes that were read from its body.
    pub(super) async fn send(&self, router: &Router) -> (StatusCode, usize) {
        let pulled = Arc::new(AtomicUsize::new(0));
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(&self.path)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", self.kind);
        if self.announced {
            request = request.header("content-length", ANNOUNCED);
        }
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {token}"));
            request = request.header("cookie", format!("__Host-prewarmer={token}"));
        }
        let response = send(router, request, endless(&pulled));
        let response = tokio::time::timeout(Duration::from_secs(5), response).await;
        let code = response.map_or(StatusCode::GATEWAY_TIMEOUT, |sent| sent.status());
        (code, pulled.load(Ordering::Relaxed))
    }
}

/// Stream of events of a response.
pub(super) struct EventStream(BoxStream<'static, Result<Bytes, axum::Error>>);

impl EventStream {
    pub(super) fn new(response: Response) -> Self {
        Self(response.into_body().into_data_stream().boxed())
    }

    /// Returns the text received within `span`, and whether the stream has ended.
    pub(super) async fn read_for(&mut self, span: Duration) -> (String, bool) {
        let (mut text, end) = (String::new(), Instant::now() + span);
        loop {
            match tokio::time::timeout_at(end, self.0.next()).await {
                Err(_) => return (text, false),
                Ok(None) => return (text, true),
                Ok(Some(part)) => text += &String::from_utf8_lossy(&part.unwrap()),
            }
        }
    }
}
