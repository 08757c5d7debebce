//! One message to one address.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use reqwest::{Client, StatusCode, Url, header, redirect::Policy};
use sha2::Sha256;

use super::{
    address::{Guard, GuardedNames},
    message::Message,
};

/// Carries `sha256=` and the HMAC-SHA256 of the body in hexadecimal digits, by the key of the Secret.
pub const SIGNATURE_HEADER: &str = "x-prewarmer-signature";
/// The same for each try of a message, so that its receiver knows it again.
const DELIVERY_HEADER: &str = "x-prewarmer-delivery";
/// A receiver that takes longer than this is asked again later.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects followed; only those that keep the method and the body, 307 and 308.
const MAX_REDIRECTS: usize = 3;

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It may be taken later.
    Passing(String),
    /// It never will be.
    Final(String),
}

/// Posts messages.
#[derive(Clone)]
pub struct Poster {
    guard: Guard,
    client: Client,
}

impl Poster {
    /// An HTTP client that connects only to where the guard permits. The error is the client's.
    pub fn new(guard: Guard) -> reqwest::Result<Self> {
        let client = Client::builder()
            .dns_resolver(Arc::new(GuardedNames(guard.clone())))
            .redirect(Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("prewarmer/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { guard, client })
    }

    /// Posts a message, signed where there is a key.
    pub async fn post(
        &self,
        address: &str,
        format: &str,
        id: &str,
        message: &Message,
        key: Option<&[u8]>,
        now_millis: i64,
    ) -> Result<(), Failure> {
        let body = message.body.to_string();
        let mut address = address.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut url = self.guard.check(&address).map_err(Failure::Final)?;
            if let Some(key) = key.filter(|_| format == "dingtalk") {
                sign_query(&mut url, key, now_millis);
            }
            let mut request = self
                .client
                .post(url.clone())
                .header(header::CONTENT_TYPE, message.content_type)
                .header(DELIVERY_HEADER, id)
                .body(body.clone());
            if let Some(key) = key {
                request =
                    request.header(SIGNATURE_HEADER, format!("sha256={}", crate::hex(&mac(key, body.as_bytes()))));
            }
            let answer = request.send().await.map_err(|error| Failure::Passing(explain(&error)))?;
            let status = answer.status();
            if status.is_success() {
                return Ok(());
            }
            if !matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
                return Err(judge(status));
            }
            let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            address = next.ok_or_else(|| Failure::Final(format!("{status} without an address")))?.into();
        }
        Err(Failure::Final(format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// Who says that a request is wrong will say it again. Time-outs, limits and the receiver's own failures pass.
fn judge(status: StatusCode) -> Failure {
    let text = format!("the receiver answered {status}");
    let passes = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS | StatusCode::NOT_FOUND
        );
    if passes { Failure::Passing(text) } else { Failure::Final(text) }
}

/// The whole chain of causes, without the address: it may carry a token.
fn explain(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(one) = cause {
        texts.push(one.to_string());
        cause = one.source();
    }
    texts.dedup();
    if error.is_timeout() || texts.is_empty() {
        format!("no answer within {} s", TIMEOUT.as_secs())
    } else {
        texts.join(": ")
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
    use std::sync::Mutex;

    use axum::{Router, body::Bytes, http::HeaderMap, response::IntoResponse, routing::post};
    use ipnet::IpNet;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

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
            .route("/inside", post(to(307, "http://169.254.169.254/latest")));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (port, seen)
    }

    async fn send(guard: Guard, address: &str) -> Result<(), Failure> {
        let message = Message { content_type: "application/json", body: json!({"a": 1}) };
        Poster::new(guard).unwrap().post(address, "json", "id", &message, Some(b"key"), 0).await
    }

    fn loopback() -> Guard {
        Guard::new(vec!["127.0.0.1/32".parse::<IpNet>().unwrap()])
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
        assert!(matches!(send(loopback(), &at("/gone")).await, Err(Failure::Final(_))));
        assert!(matches!(send(loopback(), &at("/busy")).await, Err(Failure::Passing(_))));
        assert!(matches!(send(loopback(), &at("/found")).await, Err(Failure::Final(_))));
        assert!(matches!(send(loopback(), &at("/loop")).await, Err(Failure::Final(_))));
        assert!(matches!(send(loopback(), "http://127.0.0.1:1/").await, Err(Failure::Passing(_))));
        assert!(seen.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn nothing_inside_is_reached() {
        let (port, seen) = receiver().await;
        let local = send(Guard::default(), &format!("http://127.0.0.1:{port}/ok")).await;
        assert!(matches!(&local, Err(Failure::Final(why)) if why.contains("public internet")), "{local:?}");
        let redirected = send(loopback(), &format!("http://127.0.0.1:{port}/inside")).await;
        assert!(matches!(&redirected, Err(Failure::Final(why)) if why.contains("169.254.169.254")), "{redirected:?}");
        assert!(seen.lock().unwrap().is_empty());
    }

    #[test]
    fn what_dingtalk_wants() {
        let mut url: Url = "https://oapi.example.com/robot/send?access_token=t".parse().unwrap();
        sign_query(&mut url, b"secret", 1_700_000_000_000);
        assert!(url.as_str().contains("access_token=t&timestamp=1700000000000&sign="), "{url}");
    }
}
