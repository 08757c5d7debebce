//! One message to one address.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use reqwest::{Client, StatusCode, Url, header};
use sha2::Sha256;

use super::{address::Guard, message::Message};
use crate::egress::{self, Cause, Denied};

/// Carries `sha256=` and the HMAC-SHA256 of the body in hexadecimal digits, by the key of the Secret.
pub const SIGNATURE_HEADER: &str = "x-prewarmer-signature";
/// The same for each try of a message, so that its receiver knows it again.
const DELIVERY_HEADER: &str = "x-prewarmer-delivery";
/// A receiver that takes longer than this is asked again later.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects followed; only those that keep the method and the body, 307 and 308.
const MAX_REDIRECTS: usize = 3;

/// Why a message was not taken. The texts are fixed: they repeat nothing that a receiver has sent, and of the address at most
/// the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The address cannot be used.
    #[error("{0}")]
    Address(&'static str),
    /// The address is denied.
    #[error("{0}")]
    Denied(Denied),
    /// The address is denied, and stands in a Secret that is not to be repeated.
    #[error("the address in the Secret is denied, or is no URL")]
    SecretAddress,
    /// There is no answer.
    #[error("{0}")]
    Request(Cause),
    /// The receiver has not taken it.
    #[error("the receiver answered with HTTP {0}")]
    Status(u16),
    /// The receiver redirects to nowhere.
    #[error("the receiver answered with HTTP {0} and no address")]
    Location(u16),
    /// Redirects without an end.
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    /// The namespace has used up its messages of this minute.
    #[error("the namespace has sent too many notifications within a minute (--notify-rate)")]
    Rate,
    /// The server has no right to read the Secret.
    #[error("the Secret {0} cannot be read: grant the server get on it (docs/notifications.md)")]
    SecretForbidden(String),
    /// There is no such Secret.
    #[error("there is no Secret {0}")]
    NoSecret(String),
    /// The Secret could not be read.
    #[error("the Secret {0} could not be read now")]
    SecretUnread(String),
    /// The Secret lacks the key.
    #[error("the Secret {0} has no key named {1}")]
    NoKey(String, String),
    /// The key's value is no text.
    #[error("the key {1} of the Secret {0} is no text")]
    NoText(String, String),
}

impl Failure {
    /// Whether it will never be taken. Whoever says that a request is wrong will say it again; time-outs, limits and the
    /// receiver's own failures pass.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Address(_) | Self::Denied(_) | Self::SecretAddress | Self::Location(_) | Self::Redirects => true,
            Self::Status(status) => !(*status >= 500 || matches!(status, 404 | 408 | 425 | 429)),
            _ => false,
        }
    }

    /// Whether a receiver has answered.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Location(_) | Self::Redirects)
    }

    /// Whether it was sent, and nothing has answered.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Request(_))
    }

    /// One word for metrics.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Address(_) | Self::SecretAddress => "address",
            Self::Denied(_) => "denied",
            Self::Request(cause) => cause.class(),
            Self::Status(_) => "status",
            Self::Location(_) | Self::Redirects => "redirects",
            Self::Rate => "rate",
            Self::SecretForbidden(_)
            | Self::NoSecret(_)
            | Self::SecretUnread(_)
            | Self::NoKey(..)
            | Self::NoText(..) => "secret",
        }
    }

    /// The same without the address, where that was read from a Secret.
    #[must_use]
    pub fn without_address(self) -> Self {
        match self {
            Self::Address(_) | Self::Denied(_) | Self::Request(Cause::Denied(_)) => Self::SecretAddress,
            other => other,
        }
    }
}

/// Posts messages.
#[derive(Clone)]
pub struct Poster {
    guard: Guard,
    client: Client,
}

/// What is posted.
pub struct Post<'a> {
    /// Where to.
    pub address: &'a str,
    /// Its form: one of `json`, `cloudevents`, `slack`, `dingtalk` and `alertmanager`.
    pub format: &'a str,
    /// The same for each try.
    pub id: &'a str,
    /// What is said.
    pub message: &'a Message,
    /// Signs it, where there is one.
    pub key: Option<&'a [u8]>,
    /// The time, in milliseconds.
    pub now_millis: i64,
}

impl Poster {
    /// An HTTP client that connects only to where the guard permits. The error is the client's.
    pub fn new(guard: Guard) -> reqwest::Result<Self> {
        let client = egress::client(guard.policy(), TIMEOUT)?;
        Ok(Self { guard, client })
    }

    /// Reads an address. The error says why no message may be sent there.
    pub fn read(&self, address: &str) -> Result<Url, Failure> {
        self.guard.read(address)
    }

    /// Posts a message, signed where there is a key. `may_follow` is asked before each further request that a redirect makes.
    /// Of the answer, nothing but its head is read: the connection is closed.
    pub async fn post(&self, post: &Post<'_>, may_follow: &(dyn Fn() -> bool + Sync)) -> Result<(), Failure> {
        let body = post.message.body.to_string();
        let mut address = post.address.to_owned();
        for hop in 0..=MAX_REDIRECTS {
            let mut url = self.guard.read(&address)?;
            if hop > 0 && !may_follow() {
                return Err(Failure::Rate);
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
                request =
                    request.header(SIGNATURE_HEADER, format!("sha256={}", crate::hex(&mac(key, body.as_bytes()))));
            }
            let answer = request.send().await.map_err(|error| Failure::Request(egress::cause(&error)))?;
            let status = answer.status();
            if status.is_success() {
                return Ok(());
            }
            if !matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
                return Err(Failure::Status(status.as_u16()));
            }
            let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            address = next.ok_or(Failure::Location(status.as_u16()))?.into();
        }
        Err(Failure::Redirects)
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // A key of any length will do.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mac| mac.chain_update(text).finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

/// As the robots of `DingTalk` want it: the time and the HMAC of time and key, in the address.
fn sign_query(url: &mut Url, key: &[u8], now_millis: i64) {
    let text = [now_millis.to_string().as_bytes(), b"\n", key].concat();
    let sign = STANDARD.encode(mac(key, &text));
    url.query_pairs_mut().append_pair("timestamp", &now_millis.to_string()).append_pair("sign", &sign);
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
    use crate::egress::Policy;

    type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

    async fn endless() -> impl IntoResponse {
        Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'a'; 4096]))))
    }

    /// A receiver; its port, and what it was told.
    async fn receiver() -> (u16, Seen) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let seen = Seen::default();
        let told = Arc::clone(&seen);
        let to = |status: u16, place: &'static str| {
            move || async move { (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, place)]).into_response() }
        };
        let router = Router::new()
            .route(
                "/ok",
                post(move |headers: HeaderMap, body: Bytes| async move { told.lock().unwrap().push((headers, body)) }),
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

    async fn send(guard: Guard, address: &str) -> Result<(), Failure> {
        let message = Message { content_type: "application/json", body: json!({"a": 1}) };
        let post = Post { address, format: "json", id: "id", message: &message, key: Some(b"key"), now_millis: 0 };
        Poster::new(guard).unwrap().post(&post, &|| true).await
    }

    fn loopback() -> Guard {
        let allowed = vec!["127.0.0.1/32".parse().unwrap()];
        Guard::from(Policy::default().allowing(allowed, "--notify-allow"))
    }

    #[tokio::test]
    async fn signed_and_taken() {
        let (port, seen) = receiver().await;
        send(loopback(), &format!("http://127.0.0.1:{port}/moved")).await.unwrap();
        let seen = seen.lock().unwrap();
        let (headers, body) = &seen[0];
        assert_eq!(&body[..], br#"{"a":1}"#);
        // By: printf '{"a":1}' | openssl dgst -sha256 -hmac key
        let expected = "sha256=88a67f24bbcdaed0e6c997404bb79a743baf44c6bab2f4c27328e3009d22e342";
        assert_eq!(headers[SIGNATURE_HEADER], expected);
        assert_eq!(headers[DELIVERY_HEADER], "id");
    }

    #[tokio::test]
    async fn refusals() {
        let (port, seen) = receiver().await;
        let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
        let refusal = async |path: &str| send(loopback(), &at(path)).await.unwrap_err();
        assert_eq!(refusal("/gone").await, Failure::Status(410));
        assert_eq!(refusal("/busy").await, Failure::Status(503));
        assert_eq!(refusal("/found").await, Failure::Status(302));
        assert_eq!(refusal("/loop").await, Failure::Redirects);
        assert_eq!(send(loopback(), "http://127.0.0.1:1/").await.unwrap_err(), Failure::Request(Cause::Refused));
        assert!(
            Failure::Status(410).is_final() && !Failure::Status(503).is_final() && !Failure::Status(429).is_final()
        );
        let message = Message { content_type: "application/json", body: json!({}) };
        let sent =
            Post { address: &at("/moved"), format: "json", id: "id", message: &message, key: None, now_millis: 0 };
        assert_eq!(Poster::new(loopback()).unwrap().post(&sent, &|| false).await, Err(Failure::Rate));
        assert!(seen.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn nothing_inside_is_reached() {
        let (port, seen) = receiver().await;
        let local = send(Guard::default(), &format!("http://127.0.0.1:{port}/ok")).await;
        assert_eq!(local, Err(Failure::Denied(Denied::Port(port))));
        let local = send(Guard::from(Policy::default()), &format!("http://127.0.0.1:{port}/ok")).await.unwrap_err();
        assert!(local.is_final() && local.to_string().contains("public internet"), "{local}");
        for (path, address) in [("/inside", "169.254.169.254"), ("/azure", "168.63.129.16")] {
            let redirected = send(loopback(), &format!("http://127.0.0.1:{port}{path}")).await.unwrap_err();
            assert!(redirected.is_final() && redirected.to_string().contains(address), "{redirected}");
            assert_eq!(redirected.without_address(), Failure::SecretAddress);
        }
        assert!(seen.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_not_read() {
        let (port, _) = receiver().await;
        let begun = std::time::Instant::now();
        send(loopback(), &format!("http://127.0.0.1:{port}/endless")).await.unwrap();
        assert!(begun.elapsed() < TIMEOUT);
    }

    #[test]
    fn what_dingtalk_wants() {
        let mut url: Url = "https://oapi.example.com/robot/send?access_token=t".parse().unwrap();
        sign_query(&mut url, b"secret", 1_700_000_000_000);
        assert!(url.as_str().contains("access_token=t&timestamp=1700000000000&sign="), "{url}");
    }
}
