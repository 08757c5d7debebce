//! HTTP clients that connect only to addresses that an egress policy allows.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::CertificateError;
use tokio::sync::Semaphore;

use super::{Denied, EgressPolicy};

/// Maximum number of concurrent name lookups per client. A lookup takes a thread of the blocking
/// pool until the resolver times out, after 10 s and more, even if the request has ended before.
const MAX_LOOKUPS: usize = 32;
/// Maximum number of addresses tried per name, so that one request does not cause many connections.
const MAX_ADDRESSES: usize = 4;

/// Creates a client that connects only to addresses that the policy allows. It follows no
/// redirects, uses no proxies (the connections of a proxy cannot be checked) and keeps no
/// connections. Returns the error of the client builder.
pub(crate) fn http_client(policy: &EgressPolicy, timeout: Duration) -> reqwest::Result<Client> {
    Client::builder()
        .dns_resolver(Arc::new(PolicyResolver::new(policy.clone())))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .timeout(timeout)
        .connect_timeout(timeout)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("prewarmer/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Reason why a name has no address to connect to.
#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error("the name cannot be resolved")]
    NotFound,
    #[error(transparent)]
    Denied(Denied),
}

/// DNS resolver that returns only allowed addresses, so that the checked address is the one that is
/// connected to.
#[derive(Debug, Clone)]
pub(crate) struct PolicyResolver {
    policy: EgressPolicy,
    permits: Arc<Semaphore>,
}

impl PolicyResolver {
    /// Creates a resolver with this policy.
    #[must_use]
    pub(crate) fn new(policy: EgressPolicy) -> Self {
        Self { policy, permits: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }

    async fn look_up(self, name: String) -> Result<Vec<SocketAddr>, ResolveError> {
        let slot = self.permits.acquire_owned().await.map_err(|_| ResolveError::NotFound)?;
        // A separate task, because the lookup continues and keeps its permit after the request is
        // dropped.
        let found = tokio::spawn({
            let name = name.clone();
            async move {
                let found = tokio::net::lookup_host((name.as_str(), 0))
                    .await
                    .map(Iterator::collect::<Vec<_>>);
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
            Some(why) if good.is_empty() => Err(ResolveError::Denied(why)),
            None if good.is_empty() => Err(ResolveError::NotFound),
            _ => Ok(good),
        }
    }
}

impl Resolve for PolicyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = names.look_up(name.as_str().to_owned()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Reason why a request has no response. The texts are fixed: they contain no data sent by the
/// server, and no URL, because a URL may contain a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestFailure {
    /// Address denied by the policy.
    #[error("{0}")]
    Denied(Denied),
    /// Name without an address.
    #[error("the name cannot be resolved")]
    NameNotFound,
    /// Connection refused.
    #[error("the connection was refused")]
    Refused,
    /// Invalid certificate or failed handshake.
    #[error("TLS: {0}")]
    Tls(&'static str),
    /// Timeout.
    #[error("no response within the timeout")]
    TimedOut,
    /// Failed connection, or a response that is not HTTP.
    #[error("the connection failed")]
    Connection,
    /// Body larger than the limit in bytes.
    #[error("the response is larger than {0} bytes")]
    TooLarge(usize),
}

impl RequestFailure {
    /// Returns the value of the metrics label.
    #[must_use]
    pub(crate) fn metric_label(&self) -> &'static str {
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

/// Classifies a failed request.
#[must_use]
pub(crate) fn classify_failure(error: &reqwest::Error) -> RequestFailure {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(one) = next {
        match one.downcast_ref::<ResolveError>() {
            Some(ResolveError::Denied(denied)) => return RequestFailure::Denied(denied.clone()),
            Some(ResolveError::NotFound) => return RequestFailure::NameNotFound,
            None => {}
        }
        if let Some(found) = one.downcast_ref::<rustls::Error>() {
            return RequestFailure::Tls(tls_failure(found));
        }
        if let Some(found) = one.downcast_ref::<io::Error>() {
            if found.kind() == io::ErrorKind::ConnectionRefused {
                return RequestFailure::Refused;
            }
            // `source` of an I/O error skips the inner error.
            if let Some(inner) = found.get_ref() {
                next = Some(inner);
                continue;
            }
        }
        next = one.source();
    }
    if error.is_timeout() { RequestFailure::TimedOut } else { RequestFailure::Connection }
}

/// Returns a fixed text: the texts of rustls contain names from the server's certificate.
fn tls_failure(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return "the handshake failed";
    };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::UnknownIssuer => "the certificate is signed by an unknown issuer",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is not valid for this host name"
        }
        CertificateError::Revoked => "the certificate is revoked",
        _ => "the certificate is not valid",
    }
}

/// Reads a body of at most `limit` bytes. Of a larger body, it reads at most one chunk more.
pub(crate) async fn read_limited(
    response: &mut Response,
    limit: usize,
) -> Result<Vec<u8>, RequestFailure> {
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
    if response.content_length().is_some() && announced.is_none_or(|length| length > limit) {
        return Err(RequestFailure::TooLarge(limit));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| classify_failure(&error))? {
        if chunk.len() > limit.saturating_sub(body.len()) {
            return Err(RequestFailure::TooLarge(limit));
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

    fn loopback() -> EgressPolicy {
        EgressPolicy::default().with_allowed(vec!["127.0.0.0/8".parse().unwrap()], "--notify-allow")
    }

    async fn serve(router: Router) -> String {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://localhost:{}", address.port())
    }

    async fn failure_of_request(policy: EgressPolicy, url: &str) -> RequestFailure {
        let error = http_client(&policy, Duration::from_millis(300))
            .unwrap()
            .get(url)
            .send()
            .await
            .unwrap_err();
        classify_failure(&error)
    }

    #[tokio::test]
    async fn resolved_addresses_are_checked() {
        let names = PolicyResolver::new(EgressPolicy::default());
        let error = names.resolve(Name::from_str("localhost").unwrap()).await.err().unwrap();
        assert!(error.to_string().contains("not an address of the public internet"), "{error}");
        let found = PolicyResolver::new(loopback())
            .resolve(Name::from_str("localhost").unwrap())
            .await
            .unwrap();
        assert!(found.count() > 0);
    }

    #[tokio::test]
    async fn failures_are_classified() {
        let at = serve(Router::new().route("/slow", get(futures::future::pending::<()>))).await;
        assert!(matches!(
            failure_of_request(EgressPolicy::default(), &at).await,
            RequestFailure::Denied(Denied::NotPublic(..))
        ));
        assert_eq!(
            failure_of_request(loopback(), &format!("{at}/slow")).await,
            RequestFailure::TimedOut
        );
        let plain = failure_of_request(loopback(), &at.replace("http:", "https:")).await;
        assert_eq!(plain, RequestFailure::Tls("the handshake failed"));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(
            failure_of_request(loopback(), &format!("http://{free}/")).await,
            RequestFailure::Refused
        );
        assert_eq!(
            failure_of_request(loopback(), "http://no-such-name.invalid/").await,
            RequestFailure::NameNotFound
        );
    }

    #[tokio::test]
    async fn endless_body_is_read_up_to_limit() {
        let endless = || async {
            Body::from_stream(stream::repeat_with(|| {
                Ok::<_, Infallible>(Bytes::from_static(&[b'a'; 1024]))
            }))
        };
        let at =
            serve(Router::new().route("/", get(endless)).route("/short", get(async || "short")))
                .await;
        let client = http_client(&loopback(), Duration::from_secs(10)).unwrap();
        let mut response = client.get(&at).send().await.unwrap();
        assert_eq!(
            read_limited(&mut response, 100_000).await,
            Err(RequestFailure::TooLarge(100_000))
        );
        let mut response = client.get(format!("{at}/short")).send().await.unwrap();
        assert_eq!(read_limited(&mut response, 4).await, Err(RequestFailure::TooLarge(4)));
        let mut response = client.get(format!("{at}/short")).send().await.unwrap();
        assert_eq!(read_limited(&mut response, 5).await.unwrap(), b"short");
    }
}
