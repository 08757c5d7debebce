//! Scripted API server for tests of the code that calls it, in this crate and others, built on
//! `tower_test::mock`.
//!
//! A test states each request in order and its response. A missing, unexpected or different request
//! fails the test with the position of the expectation in the source. Tests of a single exchange
//! use this module. Fakes that keep state, such as the one of `lease/tests.rs`, remain for tests in
//! which several clients share objects.
//!
//! Tests run with a paused clock: the wait for a missing request and every delay of the tested code
//! then take no real time.

// A failed expectation panics, as an assertion does.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::panic,
    clippy::unwrap_used,
    reason = "code of tests"
)]

use std::{convert::Infallible, panic::Location, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http::{
    Request, Response,
    header::{ACCEPT, CONTENT_TYPE},
};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_test::mock::{Handle, SendResponse, pair};

/// Time for which an expected request is awaited. Longer than every delay of the tested code.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Body of a response.
type MockBody = UnsyncBoxBody<Bytes, Infallible>;

/// Scripted API server. Dropping it fails the test if a request was not expected.
pub struct MockApi {
    client: Client,
    requests: Handle<Request<Body>, Response<MockBody>>,
}

impl Default for MockApi {
    /// Creates the server. Must be called on a runtime.
    fn default() -> Self {
        let (service, requests) = pair::<Request<Body>, Response<MockBody>>();
        Self { client: Client::new(service, "default"), requests }
    }
}

impl MockApi {
    /// Creates the server. Must be called on a runtime.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a client whose requests this server receives.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Expects this request next, whose path is compared without its query.
    #[track_caller]
    #[must_use = "the request is received by `respond`, `fail` or `hold`"]
    pub fn expect(&mut self, method: &str, path: &str) -> Expectation<'_> {
        let expected = format!("{method} {path}");
        Expectation { api: self, expected, at: Location::caller() }
    }

    /// Expects any request next.
    #[track_caller]
    #[must_use = "the request is received by `respond`, `fail` or `hold`"]
    pub fn expect_any(&mut self) -> Expectation<'_> {
        Expectation { api: self, expected: String::new(), at: Location::caller() }
    }

    /// Waits for the end of the tested code and expects that it sends no further request.
    pub async fn join<T>(&mut self, work: JoinHandle<T>) -> T {
        tokio::select! {
            biased;
            output = work => output.unwrap(),
            Some((request, _)) = self.requests.next_request() => {
                panic!("unexpected request: {} {}", request.method(), request.uri())
            }
        }
    }

    /// Answers all requests that arrive within this time, which must be these, with one answer, and
    /// returns their number.
    #[track_caller]
    pub fn answer_all(
        &mut self,
        method: &str,
        path: &str,
        time: Duration,
        (code, body): &(u16, Value),
    ) -> impl Future<Output = u32> {
        let (expected, at) = (format!("{method} {path}"), Location::caller());
        let end = tokio::time::Instant::now() + time;
        async move {
            let mut count = 0;
            while let Ok(Some((request, answer))) =
                tokio::time::timeout_at(end, self.requests.next_request()).await
            {
                let found = format!("{} {}", request.method(), request.uri().path());
                assert!(found == expected, "{at}: expected {expected}, but received {found}");
                let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
                answer.send_response(Response::builder().status(*code).body(body).unwrap());
                count += 1;
            }
            count
        }
    }

    /// Expects no request for this time.
    pub async fn expect_none(&mut self, time: Duration) {
        if let Ok(Some((request, _))) =
            tokio::time::timeout(time, self.requests.next_request()).await
        {
            panic!("unexpected request within {time:?}: {} {}", request.method(), request.uri());
        }
    }
}

impl Drop for MockApi {
    fn drop(&mut self) {
        if let Some(Some((request, _))) = self.requests.next_request().now_or_never()
            && !std::thread::panicking()
        {
            panic!("unexpected request: {} {}", request.method(), request.uri());
        }
    }
}

/// Expected request.
pub struct Expectation<'a> {
    api: &'a mut MockApi,
    /// Method and path; empty for any.
    expected: String,
    at: &'static Location<'static>,
}

impl Expectation<'_> {
    /// Receives the request and answers it with a JSON body.
    pub async fn respond(self, code: u16, body: Value) -> Received {
        self.hold().await.respond(code, &body)
    }

    /// Receives the request and answers it with a failure, as the API server does.
    pub async fn fail(self, code: u16, reason: &str, message: &str) -> Received {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code, "reason": reason, "message": message,
        });
        self.respond(code, status).await
    }

    /// Receives the request and leaves it unanswered until [`Held::respond`].
    pub async fn hold(self) -> Held {
        let Self { api, expected, at } = self;
        let next = tokio::time::timeout(MAX_WAIT, api.requests.next_request()).await;
        let next = next.unwrap_or_else(|_| {
            panic!("{at}: expected {expected}, but nothing was sent for {MAX_WAIT:?}")
        });
        let Some((request, answer)) = next else {
            panic!("{at}: expected {expected}, but all clients were dropped")
        };
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let text = String::from_utf8_lossy(&body);
        let found = format!("{} {}", parts.method, parts.uri.path());
        let is_expected = expected.is_empty() || found == expected;
        assert!(is_expected, "{at}: expected {expected}, but received {found}: {text}");
        let content_type = parts.headers.get(CONTENT_TYPE).map(|text| text.to_str().unwrap());
        let received = Received {
            path: parts.uri.path().to_owned(),
            accept: parts
                .headers
                .get(ACCEPT)
                .map(|text| text.to_str().unwrap())
                .unwrap_or_default()
                .to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        Held { received, answer }
    }
}

/// Request that was received.
#[derive(Debug)]
pub struct Received {
    /// Path of the URI.
    pub path: String,
    /// Query of the URI; empty when there is none.
    pub query: String,
    /// Header `Accept`; empty when there is none.
    pub accept: String,
    /// Header `Content-Type`; empty when there is none.
    pub content_type: String,
    /// JSON of the body; null when there is none.
    pub body: Value,
}

/// Request that is not answered yet. Dropping it closes the connection.
pub struct Held {
    received: Received,
    answer: SendResponse<Response<MockBody>>,
}

impl Held {
    /// Returns the request.
    pub fn received(&self) -> &Received {
        &self.received
    }

    /// Answers the request with a JSON body.
    pub fn respond(self, code: u16, body: &Value) -> Received {
        let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
        self.answer.send_response(Response::builder().status(code).body(body).unwrap());
        self.received
    }

    /// Answers a watch with these events. It then stays open and delivers nothing.
    pub fn open_watch(self, events: &[Value]) -> Received {
        let lines: Vec<_> =
            events.iter().map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n"))))).collect();
        let body = StreamBody::new(stream::iter(lines).chain(stream::pending()));
        self.answer.send_response(Response::new(BodyExt::boxed_unsync(body)));
        self.received
    }
}
