//! Accept loops: TLS for admission and REST, plain for health.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    http::{HeaderValue, header},
    response::Response,
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    server::{ResolvesServerCert, danger::ClientCertVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// A peer that has not finished its handshake by then is nobody's client.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A peer that has not sent its request's head by then is no API server.
const HEADER: Duration = Duration::from_secs(5);
/// Connections at once. An API server holds a few; a thousand of 40 KB each are 40 MB at the worst.
const MAX_CONNECTIONS: usize = 1000;
/// Requests under way at shutdown get this long: longer than the webhook's own time-out.
const DRAIN: Duration = Duration::from_secs(10);
/// After an error of accept (no file descriptors left, say) the loop pauses instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Requests at once on a connection of HTTP/2: an API server opens another when it needs more.
const MAX_STREAMS: u32 = 250;
/// Head of a request, in bytes: an API server's has some hundred.
const MAX_HEAD: u32 = 16 * 1024;

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1. With `clients`, callers without a certificate that it verifies are refused.
pub fn tls_config(
    resolver: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What is served, and how.
pub struct Serving {
    /// Plain HTTP without.
    pub tls: Option<ServerConfig>,
    /// Connections are closed, between requests, when they are this old, and up to a tenth more at random: so callers that
    /// keep theirs for ever come to all replicas. None: never.
    pub max_age: Option<Duration>,
    /// Connections at once; further ones wait.
    pub max_connections: usize,
    /// How long the head of a request is waited for. With HTTP/1.1 that is also how long a connection may be idle: when it is
    /// closed just as its next request is sent, the caller sees that request fail.
    pub header: Duration,
}

impl Default for Serving {
    fn default() -> Self {
        Self { tls: None, max_age: None, max_connections: MAX_CONNECTIONS, header: HEADER }
    }
}

/// Serves until `stop`, then lets requests under way end.
pub async fn serve(listener: TcpListener, how: Serving, router: Router, stop: CancellationToken) {
    let Serving { tls, max_age, max_connections, header } = how;
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(max_connections));
    while let Some(permit) = stop.run_until_cancelled(Arc::clone(&permits).acquire_owned()).await {
        let Ok(permit) = permit else { break };
        let (stream, peer) = match stop.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            let result = match acceptor {
                Some(acceptor) => match handshake(&acceptor, stream).await {
                    Ok(stream) => {
                        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        connection(stream, peer, http2, router, (max_age, header), stop).await
                    }
                    Err(error) => Err(error),
                },
                None => connection(stream, peer, false, router, (max_age, header), stop).await,
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!("connections were still open at shutdown");
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> Result<tokio_rustls::server::TlsStream<TcpStream>, Failure> {
    stream.set_nodelay(true)?;
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    Ok(handshake.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
}

/// Serves a connection until its peer ends it, it is old, or `stop`. An old connection of HTTP/2 is told to go away; one of
/// HTTP/1.1 is closed behind the next response and not while it is idle, because the next request might be on its way.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    http2: bool,
    router: Router,
    (max_age, header): (Option<Duration>, Duration),
    stop: CancellationToken,
) -> Result<(), Failure> {
    let old = Arc::new(AtomicBool::new(false));
    let closes = Arc::clone(&old);
    let router = router.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    });
    let service = TowerToHyperService::new(router.map_response(move |mut response: Response| {
        if !http2 && closes.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header).max_buf_size(MAX_HEAD as usize);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEAD);
    let mut connection =
        std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned());
    let age = async {
        match max_age {
            Some(age) => tokio::time::sleep(age + age.mul_f64(rand::random::<f64>() / 10.0)).await,
            None => std::future::pending().await,
        }
    };
    let mut age = std::pin::pin!(age);
    let mut ending = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => return result,
            () = stop.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut age, if !ending && !old.load(Ordering::Relaxed) => {
                old.store(true, Ordering::Relaxed);
                if http2 {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
    };
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::server::{
        certificates::{Lifetimes, make_ca, make_leaf, serving},
        keeper::Current,
    };

    /// Swaps in a leaf of a new CA; the CA.
    fn swap(current: &Current) -> String {
        let now = SystemTime::now();
        let lives = Lifetimes::default();
        let ca = make_ca(now, lives.ca).unwrap();
        let leaf = make_leaf(&ca, &["127.0.0.1".into()], now, lives.leaf).unwrap();
        current.store(serving(&leaf).unwrap());
        ca.certificate
    }

    async fn get(address: &str, ca: &str, version: &'static SupportedProtocolVersion) -> Result<String, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await?;
        let mut stream =
            TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1")?, stream).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn both_versions_are_served_and_a_certificate_is_swapped_under_way() {
        let current = Arc::new(Current::default());
        let first = swap(&current);
        let stop = CancellationToken::new();
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Current>::clone(&current);
        let how = Serving { tls: Some(tls_config(resolver, None).unwrap()), ..Serving::default() };
        let (address, server) = start(how, &stop).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            assert!(get(&address, &first, version).await.unwrap().ends_with("hello"));
        }
        let second = swap(&current);
        assert!(get(&address, &second, &rustls::version::TLS13).await.unwrap().ends_with("hello"));
        assert!(get(&address, &first, &rustls::version::TLS13).await.is_err(), "the old CA is still served");
        stop.cancel();
        server.await.unwrap();
        assert!(TcpStream::connect(&address).await.is_err(), "it still listens");
    }

    /// A listener that says hello; its address, and its end.
    async fn start(how: Serving, stop: &CancellationToken) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().route("/", axum::routing::get(async || "hello"));
        (address, tokio::spawn(serve(listener, how, router, stop.clone())))
    }

    /// What arrives until there is a pause.
    async fn read(stream: &mut TcpStream) -> String {
        let mut text = vec![0; 4096];
        let length = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut text)).await.unwrap().unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    #[tokio::test]
    async fn an_old_connection_is_closed_behind_a_response() {
        let stop = CancellationToken::new();
        let max_age = Some(Duration::from_millis(200));
        let (address, _) = start(Serving { max_age, ..Serving::default() }, &stop).await;
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        assert!(!read(&mut stream).await.contains("connection: close"));
        tokio::time::sleep(Duration::from_millis(400)).await;
        stream.write_all(request).await.unwrap();
        let last = read(&mut stream).await;
        assert!(last.starts_with("HTTP/1.1 200") && last.contains("connection: close"), "{last}");
        assert_eq!(read(&mut stream).await, "", "it is still open");
        stop.cancel();
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_is_not_waited_for() {
        let stop = CancellationToken::new();
        let (address, _) = start(Serving::default(), &stop).await;
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        let mut rest = Vec::new();
        let end = tokio::time::timeout(HEADER * 3, stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "the connection is still open");
        stop.cancel();
    }

    #[tokio::test]
    async fn callers_without_the_right_certificate_are_refused() {
        let current = Arc::new(Current::default());
        let ca = swap(&current);
        let stop = CancellationToken::new();
        let clients = crate::server::clients::verifier(&ca, &[]).unwrap();
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Current>::clone(&current);
        let how = Serving { tls: Some(tls_config(resolver, Some(clients)).unwrap()), ..Serving::default() };
        let (address, _) = start(how, &stop).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            assert!(!get(&address, &ca, version).await.is_ok_and(|text| text.ends_with("hello")));
        }
        stop.cancel();
    }
}
