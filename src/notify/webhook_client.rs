//! HTTP request with one message to one address.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use reqwest::{Client, StatusCode, Url, header};
use sha2::Sha256;

use super::{
    address::{AddressError, NotificationPolicy},
    message::NotificationMessage,
};
use crate::egress::{self, RequestFailure};

/// Header with `sha256=` and the hexadecimal HMAC-SHA256 of the body, with the key from the Secret.
pub(crate) const SIGNATURE_HEADER: &str = "x-prewarmer-signature";
/// Header with an ID that is equal for all attempts of a message, so that the receiver can
/// deduplicate.
const DELIVERY_HEADER: &str = "x-prewarmer-delivery";
/// Timeout of one request. A slower delivery is retried.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of redirects. Only 307 and 308 are followed, which keep the method and the body.
const MAX_REDIRECTS: usize = 3;

/// Reason why a delivery failed. The texts are fixed: they contain no data sent by a receiver, and
/// at most the host of the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeliveryError {
    /// Invalid or denied address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Invalid or denied address from a Secret, which messages must not contain.
    #[error("the address in the Secret is denied or is not a valid URL")]
    SecretAddress,
    /// Request without a response.
    #[error("{0}")]
    Request(RequestFailure),
    /// Response with an error status.
    #[error("the receiver returned HTTP {0}")]
    Status(u16),
    /// Redirect without a valid `Location`.
    #[error("the receiver returned HTTP {0} without a valid Location header")]
    InvalidRedirect(u16),
    /// Too many redirects.
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
    /// Exceeded rate limit of the namespace.
    #[error("the namespace exceeded its notifications per minute (--notify-rate)")]
    RateLimited,
    /// Missing permission to read the Secret.
    #[error("no permission to get the Secret {0}: grant it to the server (docs/notifications.md)")]
    SecretForbidden(String),
    /// Missing Secret.
    #[error("Secret {0} not found")]
    SecretNotFound(String),
    /// Transient error while reading the Secret.
    #[error("the Secret {0} could not be read because of a transient error")]
    SecretUnavailable(String),
    /// Missing key in the Secret.
    #[error("the Secret {0} has no key named {1}")]
    SecretKeyNotFound(String, String),
    /// Value in the Secret that is not valid UTF-8.
    #[error("the key {1} of the Secret {0} is not valid UTF-8")]
    SecretNotUtf8(String, String),
}

impl DeliveryError {
    /// Reports whether the failure is permanent. A receiver that rejects a request as invalid will
    /// reject it again; timeouts, rate limits and internal errors of the receiver are transient.
    #[must_use]
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Address(_)
            | Self::SecretAddress
            | Self::InvalidRedirect(_)
            | Self::TooManyRedirects => true,
            Self::Status(status) => !(*status >= 500 || matches!(status, 404 | 408 | 425 | 429)),
            _ => false,
        }
    }

    /// Reports whether the receiver has responded.
    #[must_use]
    pub(crate) fn is_response(&self) -> bool {
        matches!(self, Self::Status(_) | Self::InvalidRedirect(_) | Self::TooManyRedirects)
    }

    /// Reports whether the request was sent without a response.
    #[must_use]
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Request(_))
    }

    /// Returns the value of the metrics label `reason`.
    #[must_use]
    pub(crate) fn metric_label(&self) -> &'static str {
        match self {
            Self::Address(AddressError::Denied(_)) => "denied",
            Self::Address(_) | Self::SecretAddress => "address",
            Self::Request(cause) => cause.metric_label(),
            Self::Status(_) => "status",
            Self::InvalidRedirect(_) | Self::TooManyRedirects => "redirects",
            Self::RateLimited => "rate",
            Self::SecretForbidden(_)
            | Self::SecretNotFound(_)
            | Self::SecretUnavailable(_)
            | Self::SecretKeyNotFound(..)
            | Self::SecretNotUtf8(..) => "secret",
        }
    }

    /// Returns the failure without the address, for an address that was read from a Secret.
    #[must_use]
    pub(crate) fn redact_address(self) -> Self {
        match self {
            Self::Address(_) | Self::Request(RequestFailure::Denied(_)) => Self::SecretAddress,
            other => other,
        }
    }
}

/// HTTP client for notifications.
#[derive(Clone)]
pub(crate) struct WebhookClient {
    guard: NotificationPolicy,
    client: Client,
}

/// Parameters of one request.
pub(crate) struct WebhookRequest<'a> {
    /// URL of the receiver.
    pub address: &'a str,
    /// Format: one of `json`, `cloudevents`, `slack`, `dingtalk` and `alertmanager`.
    pub format: &'a str,
    /// Delivery ID, equal for all attempts.
    pub id: &'a str,
    /// Content of the request.
    pub message: &'a NotificationMessage,
    /// Signing key; `None` for an unsigned message.
    pub key: Option<&'a [u8]>,
    /// Current Unix time in milliseconds.
    pub now_millis: i64,
}

impl WebhookClient {
    /// Creates an HTTP client that connects only to addresses that the guard allows. Returns the
    /// error of the client builder.
    pub(crate) fn new(guard: NotificationPolicy) -> reqwest::Result<Self> {
        let client = egress::http_client(guard.policy(), TIMEOUT)?;
        Ok(Self { guard, client })
    }

    /// Parses and checks an address. The error states why it is not allowed.
    pub(crate) fn parse_address(&self, address: &str) -> Result<Url, DeliveryError> {
        Ok(self.guard.parse(address)?)
    }

    /// Sends a message, signed if there is a key. `may_follow` must permit each further request
    /// after a redirect. Only the head of the response is read; then the connection is closed.
    pub(crate) async fn send(
        &self,
        post: &WebhookRequest<'_>,
        may_follow: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), DeliveryError> {
        let body = post.message.body.to_string();
        let mut address = post.address.to_owned();
        for hop in 0..=MAX_REDIRECTS {
            let mut url = self.guard.parse(&address)?;
            if hop > 0 && !may_follow() {
                return Err(DeliveryError::RateLimited);
            }
            if let Some(key) = post.key.filter(|_| post.format == "dingtalk") {
                sign_query(&mut url, key, post.now_millis);
            }
            let mut request = self
                .client
                .post(url.clone())
                .header(header::CONTENT_TYPE, post.message.content_type)
                .header(DELIVERY_HEADER, post.id)
                .body(body.clone());
            if let Some(key) = post.key {
                request = request.header(
                    SIGNATURE_HEADER,
                    format!("sha256={}", prewarmer_core::hex(&hmac_sha256(key, body.as_bytes()))),
                );
            }
            let answer = request
                .send()
                .await
                .map_err(|error| DeliveryError::Request(egress::classify_failure(&error)))?;
            let status = answer.status();
            if status.is_success() {
                return Ok(());
            }
            if !matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
                return Err(DeliveryError::Status(status.as_u16()));
            }
            let location =
                answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            address = next.ok_or(DeliveryError::InvalidRedirect(status.as_u16()))?.into();
        }
        Err(DeliveryError::TooManyRedirects)
    }
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    // HMAC accepts keys of any length.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mac| mac.chain_update(text).finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

/// Adds the time and the HMAC of time and key to the URL, in the format of `DingTalk` robots.
fn sign_query(url: &mut Url, key: &[u8], now_millis: i64) {
    let text = [now_millis.to_string().as_bytes(), b"\n", key].concat();
    let sign = STANDARD.encode(hmac_sha256(key, &text));
    url.query_pairs_mut()
        .append_pair("timestamp", &now_millis.to_string())
        .append_pair("sign", &sign);
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use axum::{
        Router,
        body::{Body, Bytes},
        http::HeaderMap,
        response::IntoResponse,
        routing::post,
    };
    use futures::stream;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::egress::{Denied, EgressPolicy};

    type ReceivedRequests = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

    async fn endless() -> impl IntoResponse {
        Body::from_stream(stream::repeat_with(|| {
            Ok::<_, Infallible>(Bytes::from_static(&[b'a'; 4096]))
        }))
    }

    /// Starts a receiver. Returns its port and the requests that it receives.
    async fn receiver() -> (u16, ReceivedRequests) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let seen = ReceivedRequests::default();
        let requests = Arc::clone(&seen);
        let to = |status: u16, place: &'static str| {
            move || async move {
                (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, place)]).into_response()
            }
        };
        let router = Router::new()
            .route(
                "/ok",
                post(move |headers: HeaderMap, body: Bytes| async move {
                    requests.lock().unwrap().push((headers, body));
                }),
            )
            .route("/gone", post(async || StatusCode::GONE))
            .route("/busy", post(async || StatusCode::SERVICE_UNAVAILABLE))
            .route("/moved", post(to(308, "/ok")))
            .route("/found", post(to(302, "/ok")))
            .route("/loop", post(to(307, "/loop")))
            .route("/endless", post(endless))
            .route("/azure", post(to(307, "http://168.63.129.16/machine/plugins")))
            .route("/inside", post(to(307, "http://169.254.169.254/latest")));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (port, seen)
    }

    async fn send(guard: NotificationPolicy, address: &str) -> Result<(), DeliveryError> {
        let message =
            NotificationMessage { content_type: "application/json", body: json!({"a": 1}) };
        let post = WebhookRequest {
            address,
            format: "json",
            id: "id",
            message: &message,
            key: Some(b"key"),
            now_millis: 0,
        };
        WebhookClient::new(guard).unwrap().send(&post, &|| true).await
    }

    fn loopback() -> NotificationPolicy {
        let allowed = vec!["127.0.0.1/32".parse().unwrap()];
        NotificationPolicy::from(EgressPolicy::default().with_allowed(allowed, "--notify-allow"))
    }

    #[tokio::test]
    async fn message_is_signed_and_delivered() {
        let (port, seen) = receiver().await;
        send(loopback(), &format!("http://127.0.0.1:{port}/moved")).await.unwrap();
        let seen = seen.lock().unwrap();
        let (headers, body) = &seen[0];
        assert_eq!(&body[..], br#"{"a":1}"#);
        // Computed with: printf '{"a":1}' | openssl dgst -sha256 -hmac key
        let expected = "sha256=88a67f24bbcdaed0e6c997404bb79a743baf44c6bab2f4c27328e3009d22e342";
        assert_eq!(headers[SIGNATURE_HEADER], expected);
        assert_eq!(headers[DELIVERY_HEADER], "id");
    }

    #[tokio::test]
    async fn error_responses_are_classified() {
        let (port, seen) = receiver().await;
        let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
        let refusal = async |path: &str| send(loopback(), &at(path)).await.unwrap_err();
        assert_eq!(refusal("/gone").await, DeliveryError::Status(410));
        assert_eq!(refusal("/busy").await, DeliveryError::Status(503));
        assert_eq!(refusal("/found").await, DeliveryError::Status(302));
        assert_eq!(refusal("/loop").await, DeliveryError::TooManyRedirects);
        assert_eq!(
            send(loopback(), "http://127.0.0.1:1/").await.unwrap_err(),
            DeliveryError::Request(RequestFailure::Refused)
        );
        assert!(
            DeliveryError::Status(410).is_permanent()
                && !DeliveryError::Status(503).is_permanent()
                && !DeliveryError::Status(429).is_permanent()
        );
        let message = NotificationMessage { content_type: "application/json", body: json!({}) };
        let sent = WebhookRequest {
            address: &at("/moved"),
            format: "json",
            id: "id",
            message: &message,
            key: None,
            now_millis: 0,
        };
        assert_eq!(
            WebhookClient::new(loopback()).unwrap().send(&sent, &|| false).await,
            Err(DeliveryError::RateLimited)
        );
        assert!(seen.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn internal_addresses_are_denied() {
        let (port, seen) = receiver().await;
        let local =
            send(NotificationPolicy::default(), &format!("http://127.0.0.1:{port}/ok")).await;
        assert_eq!(local, Err(DeliveryError::Address(AddressError::Denied(Denied::Port(port)))));
        let local = send(
            NotificationPolicy::from(EgressPolicy::default()),
            &format!("http://127.0.0.1:{port}/ok"),
        )
        .await
        .unwrap_err();
        assert!(local.is_permanent() && local.to_string().contains("public internet"), "{local}");
        for (path, address) in [("/inside", "169.254.169.254"), ("/azure", "168.63.129.16")] {
            let redirected =
                send(loopback(), &format!("http://127.0.0.1:{port}{path}")).await.unwrap_err();
            assert!(
                redirected.is_permanent() && redirected.to_string().contains(address),
                "{redirected}"
            );
            assert_eq!(redirected.redact_address(), DeliveryError::SecretAddress);
        }
        assert!(seen.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn endless_response_body_is_not_read() {
        let (port, _) = receiver().await;
        let begun = std::time::Instant::now();
        send(loopback(), &format!("http://127.0.0.1:{port}/endless")).await.unwrap();
        assert!(begun.elapsed() < TIMEOUT);
    }

    #[test]
    fn dingtalk_url_is_signed() {
        let mut url: Url = "https://oapi.example.com/robot/send?access_token=t".parse().unwrap();
        sign_query(&mut url, b"secret", 1_700_000_000_000);
        assert!(url.as_str().contains("access_token=t&timestamp=1700000000000&sign="), "{url}");
    }
}
