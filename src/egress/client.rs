//! HTTP clients that connect only to where a policy allows.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::CertificateError;
use tokio::sync::Semaphore;

use super::{Denied, Policy};

/// Names resolved at once by one client. A look-up takes a thread of the blocking pool until the resolver gives up, 10 s and
/// more, whatever became of the request.
const MAX_LOOKUPS: usize = 32;
/// Addresses of a name that are tried: more makes one request into many connections.
const MAX_ADDRESSES: usize = 4;

/// A client that connects only to where the policy allows. Redirects are not followed, proxies are not used (what a proxy
/// connects to cannot be checked), and no connection is kept. The error is the client's.
pub fn client(policy: &Policy, timeout: Duration) -> reqwest::Result<Client> {
    Client::builder()
        .dns_resolver(Arc::new(Names::new(policy.clone())))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .timeout(timeout)
        .connect_timeout(timeout)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("prewarmer/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Why a name has no address to connect to.
#[derive(Debug, thiserror::Error)]
enum NameError {
    #[error("the name cannot be resolved")]
    NotFound,
    #[error(transparent)]
    Denied(Denied),
}

/// Resolves names to addresses that may be connected to: what was checked is what is connected to.
#[derive(Debug, Clone)]
pub struct Names {
    policy: Policy,
    slots: Arc<Semaphore>,
}

impl Names {
    /// Resolves by this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, slots: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }

    async fn look_up(self, name: String) -> Result<Vec<SocketAddr>, NameError> {
        let slot = self.slots.acquire_owned().await.map_err(|_| NameError::NotFound)?;
        // A task of its own: the look-up goes on, and takes its slot, when the request has been given up.
        let found = tokio::spawn({
            let name = name.clone();
            async move {
                let found = tokio::net::lookup_host((name.as_str(), 0)).await.map(Iterator::collect::<Vec<_>>);
                drop(slot);
                found
            }
        });
        let found = found.await.ok().and_then(Result::ok).unwrap_or_default();
        let mut denied = None;
        let mut good = Vec::new();
        for address in found {
            match self.policy.check_resolved(&name, address.ip()) {
                Ok(()) => good.push(address),
                Err(why) => denied = Some(why),
            }
        }
        good.truncate(MAX_ADDRESSES);
        match denied {
            Some(why) if good.is_empty() => Err(NameError::Denied(why)),
            None if good.is_empty() => Err(NameError::NotFound),
            _ => Ok(good),
        }
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = names.look_up(name.as_str().to_owned()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Why a request has no answer. The texts are fixed: nothing that the other side has sent is repeated, and no address is,
/// for it may carry a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The policy denies it.
    #[error("{0}")]
    Denied(Denied),
    /// The name has no address.
    #[error("the name cannot be resolved")]
    NameNotFound,
    /// Nothing listens there.
    #[error("the connection was refused")]
    Refused,
    /// The certificate, or the handshake.
    #[error("TLS: {0}")]
    Tls(&'static str),
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The connection ended, or what came was no HTTP.
    #[error("the connection failed")]
    Connection,
    /// The body is larger than what is read of it.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl Cause {
    /// One word for metrics.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::NameNotFound => "dns",
            Self::Refused => "refused",
            Self::Tls(_) => "tls",
            Self::TimedOut => "timeout",
            Self::Connection => "connection",
            Self::TooLarge(_) => "too_large",
        }
    }
}

/// Finds out why a request has failed.
#[must_use]
pub fn cause(error: &reqwest::Error) -> Cause {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(one) = next {
        match one.downcast_ref::<NameError>() {
            Some(NameError::Denied(denied)) => return Cause::Denied(denied.clone()),
            Some(NameError::NotFound) => return Cause::NameNotFound,
            None => {}
        }
        if let Some(found) = one.downcast_ref::<rustls::Error>() {
            return Cause::Tls(tls(found));
        }
        if let Some(found) = one.downcast_ref::<io::Error>() {
            if found.kind() == io::ErrorKind::ConnectionRefused {
                return Cause::Refused;
            }
            // An error within one of I/O is not its source.
            if let Some(inner) = found.get_ref() {
                next = Some(inner);
                continue;
            }
        }
        next = one.source();
    }
    if error.is_timeout() { Cause::TimedOut } else { Cause::Connection }
}

/// In fixed words: the error's own repeat names out of the other side's certificate.
fn tls(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(certificate) = error else { return "the handshake failed" };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::UnknownIssuer => "the certificate is of an unknown issuer",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another name"
        }
        CertificateError::Revoked => "the certificate is revoked",
        _ => "the certificate is not valid",
    }
}

/// Reads a body of at most `limit` bytes. Of a larger one, no more than that and one chunk is read.
pub async fn read_limited(response: &mut Response, limit: usize) -> Result<Vec<u8>, Cause> {
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
    if response.content_length().is_some() && announced.is_none_or(|length| length > limit) {
        return Err(Cause::TooLarge(limit));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| cause(&error))? {
        if chunk.len() > limit.saturating_sub(body.len()) {
            return Err(Cause::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, str::FromStr};

    use axum::{Router, body::Body, routing::get};
    use bytes::Bytes;
    use futures::stream;
    use tokio::net::TcpListener;

    use super::*;

    fn loopback() -> Policy {
        Policy::default().allowing(vec!["127.0.0.0/8".parse().unwrap()], "--notify-allow")
    }

    async fn serve(router: Router) -> String {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://localhost:{}", address.port())
    }

    async fn failure(policy: Policy, url: &str) -> Cause {
        let error = client(&policy, Duration::from_millis(300)).unwrap().get(url).send().await.unwrap_err();
        cause(&error)
    }

    #[tokio::test]
    async fn a_name_is_checked_by_what_it_resolves_to() {
        let names = Names::new(Policy::default());
        let error = names.resolve(Name::from_str("localhost").unwrap()).await.err().unwrap();
        assert!(error.to_string().contains("not an address of the public internet"), "{error}");
        let found = Names::new(loopback()).resolve(Name::from_str("localhost").unwrap()).await.unwrap();
        assert!(found.count() > 0);
    }

    #[tokio::test]
    async fn failures_are_told_apart_in_fixed_words() {
        let at = serve(Router::new().route("/slow", get(futures::future::pending::<()>))).await;
        assert!(matches!(failure(Policy::default(), &at).await, Cause::Denied(Denied::NotPublic(..))));
        assert_eq!(failure(loopback(), &format!("{at}/slow")).await, Cause::TimedOut);
        let plain = failure(loopback(), &at.replace("http:", "https:")).await;
        assert_eq!(plain, Cause::Tls("the handshake failed"));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(failure(loopback(), &format!("http://{free}/")).await, Cause::Refused);
        assert_eq!(failure(loopback(), "http://no-such-name.invalid/").await, Cause::NameNotFound);
    }

    #[tokio::test]
    async fn a_body_without_an_end_is_not_read_to_its_end() {
        let endless = || async {
            Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'a'; 1024]))))
        };
        let at = serve(Router::new().route("/", get(endless)).route("/short", get(async || "short"))).await;
        let client = client(&loopback(), Duration::from_secs(10)).unwrap();
        let mut response = client.get(&at).send().await.unwrap();
        assert_eq!(read_limited(&mut response, 100_000).await, Err(Cause::TooLarge(100_000)));
        let mut response = client.get(format!("{at}/short")).send().await.unwrap();
        assert_eq!(read_limited(&mut response, 4).await, Err(Cause::TooLarge(4)));
        let mut response = client.get(format!("{at}/short")).send().await.unwrap();
        assert_eq!(read_limited(&mut response, 5).await.unwrap(), b"short");
    }
}
