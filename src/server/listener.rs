//! Accept loops: TLS for admission and REST, plain for health.
//!
//! A loop never stops accepting: where there is no room, an idle connection is closed for the new one. Strangers who open
//! connections and send nothing, send slowly, or do not read what they have asked for, are closed before anybody else is.

mod connection;
mod table;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use rustls::{
    ServerConfig,
    server::{ResolvesServerCert, danger::ClientCertVerifier},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::table::{Place, Times};
use self::{connection::How, table::Table};

/// A peer that has not finished its handshake by then is no client.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A peer that has not sent the head of its first request by then is no client.
const FIRST: Duration = Duration::from_secs(5);
/// How long a connection may be idle between two requests. Longer than the 60 s for which proxies and load balancers keep idle
/// ones, so that they close first: a connection that is closed just as its next request is sent makes that request fail.
const IDLE: Duration = Duration::from_secs(75);
/// A peer that takes nothing of its answer for so long is gone.
const STALLED: Duration = Duration::from_secs(30);
/// Connections at once. An API server holds a few; a thousand of 40 KB each are 40 MB at the worst, and a thousand silent ones 1 MB.
pub const MAX_CONNECTIONS: usize = 1000;
/// Requests under way at shutdown get this long: longer than the webhook's own time-out.
const DRAIN: Duration = Duration::from_secs(10);
/// After an error of accept (no file descriptors left, say) the loop pauses instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A silent peer is probed after so long, so often, and so many times: one that vanished without a word is noticed within a
/// minute, and its connection takes no place any more.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

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
    /// Plain HTTP/1.1 without. With it, the handshake (ALPN) chooses between HTTP/2 and HTTP/1.1.
    pub tls: Option<ServerConfig>,
    /// Connections are closed, between requests, when they are this old, and up to a tenth more at random: so callers that
    /// keep theirs for ever come to all replicas. None: never.
    pub max_age: Option<Duration>,
    /// Connections at once; for a further one an idle one is closed.
    pub max_connections: usize,
    /// Of these, how many one address may have, in percent. Behind a Service or an Ingress many callers share one address.
    pub per_peer: u8,
    /// How long a connection may do nothing.
    pub times: Times,
}

impl Default for Serving {
    fn default() -> Self {
        let times = Times { first: FIRST, idle: IDLE, stalled: STALLED };
        Self { tls: None, max_age: None, max_connections: MAX_CONNECTIONS, per_peer: 50, times }
    }
}

/// Serves until `stop`, then lets requests under way end.
pub async fn serve(listener: TcpListener, how: Serving, router: Router, stop: CancellationToken) {
    let Serving { tls, max_age, max_connections, per_peer, times } = how;
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let connections = TaskTracker::new();
    let share = max_connections.saturating_mul(usize::from(per_peer)) / 100;
    let table = Table::new(max_connections, share);
    let how = How { router, times, max_age, stop: stop.clone() };
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Without a file descriptor there is no connection; those of idle ones are of more use.
                table.shrink();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = table.admit(peer.ip()) else {
            tracing::debug!(%peer, "a connection was refused: there is no room, or its address has too many");
            continue;
        };
        let (acceptor, how) = (acceptor.clone(), how.clone());
        connections.spawn(async move {
            // The state of TLS and HTTP (11 KB) is allocated when the peer has sent something; a silent connection takes 1 KB.
            let result = match first_byte(&stream, &how, &place).await {
                Ok(()) => Box::pin(connect(stream, peer, acceptor, how, &place)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::debug!(%error, %peer, "a connection ended early");
            }
        });
    }
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!("connections were still open at shutdown");
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Sends without delay, and finds peers that vanished.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (time, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Waits until the peer has sent its first byte. Peeks, because `readable` returns once before anything has arrived.
async fn first_byte(stream: &TcpStream, how: &How, place: &Place) -> Result<(), Failure> {
    prepare(stream)?;
    let mut byte = [0];
    tokio::select! {
        read = tokio::time::timeout(how.times.first, stream.peek(&mut byte)) => {
            match read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
                0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ => Ok(()),
            }
        }
        () = place.connection().evicted() => Err("its place was needed before its first byte".into()),
        () = how.stop.cancelled() => Err("the server stopped before its first byte".into()),
    }
}

/// Does the handshake, where there is TLS, and serves the connection.
async fn connect(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    how: How,
    place: &Place,
) -> Result<(), Failure> {
    let Some(acceptor) = acceptor else { return connection::serve(stream, peer, false, how, place).await };
    let stream = handshake(&acceptor, stream, place).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    connection::serve(stream, peer, http2, how, place).await
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    place: &Place,
) -> Result<tokio_rustls::server::TlsStream<TcpStream>, Failure> {
    tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => {
            Ok(handshake.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
        }
        () = place.connection().evicted() => Err("its place was needed during the handshake".into()),
    }
}

#[cfg(test)]
mod flood;

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
        let end = tokio::time::timeout(FIRST * 3, stream.read_to_end(&mut rest)).await;
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
