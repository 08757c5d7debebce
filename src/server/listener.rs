//! Accept loops: TLS for admission and REST, plain HTTP for health.
//!
//! A listener never stops accepting: at its limit of connections, an idle connection is evicted for
//! a new one. Connections of peers that send nothing, send slowly, or do not read their responses
//! are evicted first.

mod connection;
mod handler;
mod table;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ServerConfig,
    server::{ResolvesServerCert, danger::ClientCertVerifier},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connection::{ConnectionConfig, ConnectionError},
    table::{Admission, ConnectionTable, EVICTION_GRACE},
};
pub(crate) use self::{
    handler::{RequestHandler, RequestOrigin},
    table::{ConnectionSlot, ConnectionTimeouts},
};

/// Timeout of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the head of the first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle timeout between two requests. It is longer than the 60 s for which proxies and load
/// balancers keep idle connections, so that they close first: a request that is sent while the
/// server closes the connection fails.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Timeout of a response of which the peer reads nothing.
const STALLED_TIMEOUT: Duration = Duration::from_secs(30);
/// Default maximum number of connections. An API server holds a few. A thousand connections use at
/// most 40 MB (40 KB each), a thousand silent ones 1 MB.
pub(crate) const MAX_CONNECTIONS: usize = 1000;
/// Time limit of the drain at shutdown for requests in progress; longer than the timeout of the
/// webhook.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed `accept`, for example without free file descriptors, so that the loop does
/// not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Length of the queue of connections that the kernel has completed and the listener has not
/// accepted; the kernel bounds it by `net.core.somaxconn`, 4096 by default. At a full queue the
/// kernel drops the handshake of any client, which repeats it after 1 s and 3 s: longer than the
/// timeout of a probe or of a review.
const BACKLOG: u32 = 4096;
/// TCP keepalive: idle time before the first probe, interval of probes, and number of probes. A
/// peer that disappeared is detected within a minute, which frees its slot.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Builds the TLS configuration: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1. With `clients`, handshakes
/// without a client certificate that it accepts fail.
pub(crate) fn tls_config(
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

/// Configuration of a listener.
pub(crate) struct ListenerConfig {
    /// TLS configuration. With it, ALPN selects HTTP/2 or HTTP/1.1; without it, the listener serves
    /// plain HTTP/1.1.
    pub tls: Option<ServerConfig>,
    /// Age at which connections are closed, between requests, plus up to a tenth at random, so that
    /// long-lived clients are distributed over all replicas. `None`: unlimited.
    pub max_age: Option<Duration>,
    /// Maximum number of connections. Beyond it an idle connection is evicted for a new one.
    pub max_connections: usize,
    /// Share of `max_connections` for one peer address, in percent. Behind a Service or an Ingress
    /// many clients have the same address.
    pub peer_share_percent: u8,
    /// Timeouts of a connection without activity.
    pub timeouts: ConnectionTimeouts,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        let times = ConnectionTimeouts {
            first_request: FIRST_REQUEST_TIMEOUT,
            idle: IDLE_TIMEOUT,
            stalled: STALLED_TIMEOUT,
        };
        Self {
            tls: None,
            max_age: None,
            max_connections: MAX_CONNECTIONS,
            peer_share_percent: 50,
            timeouts: times,
        }
    }
}

/// Binds a listening socket with a queue of [`BACKLOG`] connections.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As `TcpListener::bind` does: a restarted server binds while old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop`, then drains requests in progress for 10 s at most.
pub(crate) async fn serve(
    listener: TcpListener,
    how: ListenerConfig,
    handler: impl RequestHandler,
    stop: CancellationToken,
) {
    let ListenerConfig {
        tls,
        max_age,
        max_connections,
        peer_share_percent: per_peer,
        timeouts: times,
    } = how;
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let connections = TaskTracker::new();
    let share = max_connections.saturating_mul(usize::from(per_peer)) / 100;
    let table = ConnectionTable::new(max_connections, share, EVICTION_GRACE);
    let handler = Arc::new(handler);
    let how = ConnectionConfig { handler, timeouts: times, max_age, stop: stop.clone() };
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // The process may have no free file descriptors: evict idle connections to release
                // some.
                table.evict_idle();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let admitted = stop.run_until_cancelled(admit(&table, peer.ip())).await;
        let Some(place) = admitted.flatten() else {
            tracing::debug!(%peer, "connection refused: the connection limit of the listener or of the peer address is reached");
            continue;
        };
        let (acceptor, how) = (acceptor.clone(), how.clone());
        connections.spawn(async move {
            // TLS and HTTP state (11 KB) is allocated after the first byte. A silent connection
            // uses 1 KB.
            let result = match wait_for_first_byte(&stream, &how, &place).await {
                Ok(()) => Box::pin(serve_connection(stream, peer, acceptor, how, &place)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::debug!(%error, %peer, "connection ended with an error");
            }
        });
    }
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!("the drain timed out: connections are still open at shutdown");
    }
}

/// Waits for a slot. Returns `None` when the connection is refused.
async fn admit(table: &Arc<ConnectionTable>, peer: IpAddr) -> Option<ConnectionSlot> {
    loop {
        match table.admit(peer) {
            Admission::Admitted(slot) => return Some(slot),
            Admission::Delayed(delay) => tokio::time::sleep(delay).await,
            Admission::Refused => return None,
        }
    }
}

/// Sets `TCP_NODELAY` and TCP keepalive.
fn configure_socket(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (time, interval, retries) = KEEPALIVE;
    let keepalive =
        TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Waits until the peer has sent its first byte. Uses `peek`, because `readable` returns once
/// before data has arrived.
async fn wait_for_first_byte(
    stream: &TcpStream,
    how: &ConnectionConfig,
    place: &ConnectionSlot,
) -> Result<(), ConnectionError> {
    configure_socket(stream)?;
    let mut byte = [0];
    tokio::select! {
        read = tokio::time::timeout(how.timeouts.first_request, stream.peek(&mut byte)) => {
            match read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
                0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ => Ok(()),
            }
        }
        () = place.connection().evicted() => Err("evicted before the first byte".into()),
        () = how.stop.cancelled() => Err("the server stopped before the first byte".into()),
    }
}

/// Performs the handshake, if TLS is configured, and serves the connection.
async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    how: ConnectionConfig,
    place: &ConnectionSlot,
) -> Result<(), ConnectionError> {
    let Some(acceptor) = acceptor else {
        return connection::serve(stream, peer, false, how, place).await;
    };
    let stream = handshake(&acceptor, stream, place).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    connection::serve(stream, peer, http2, how, place).await
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    place: &ConnectionSlot,
) -> Result<tokio_rustls::server::TlsStream<TcpStream>, ConnectionError> {
    tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => {
            Ok(handshake.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
        }
        () = place.connection().evicted() => Err("evicted during the handshake".into()),
    }
}

#[cfg(test)]
mod flood;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use axum::Router;
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
        certificates::{
            CertificateLifetimes, certified_key, generate_leaf, generate_unconstrained_ca,
        },
        rotator::CertResolver,
    };

    /// Replaces the served leaf with one of a new CA and returns the CA.
    fn replace_certificate(current: &CertResolver) -> String {
        let now = SystemTime::now();
        let lives = CertificateLifetimes::default();
        let ca = generate_unconstrained_ca(now, lives.ca).unwrap();
        let leaf = generate_leaf(&ca, &["127.0.0.1".into()], now, lives.leaf).unwrap();
        current.store(certified_key(&leaf).unwrap());
        ca.certificate
    }

    async fn get(
        address: &str,
        ca: &str,
        version: &'static SupportedProtocolVersion,
    ) -> Result<String, ConnectionError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("127.0.0.1")?, stream)
            .await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn both_tls_versions_are_served_and_a_certificate_is_replaced_while_serving() {
        let current = Arc::new(CertResolver::default());
        let first = replace_certificate(&current);
        let stop = CancellationToken::new();
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<CertResolver>::clone(&current);
        let how = ListenerConfig {
            tls: Some(tls_config(resolver, None).unwrap()),
            ..ListenerConfig::default()
        };
        let (address, server) = start(how, &stop).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            assert!(get(&address, &first, version).await.unwrap().ends_with("hello"));
        }
        let second = replace_certificate(&current);
        assert!(get(&address, &second, &rustls::version::TLS13).await.unwrap().ends_with("hello"));
        assert!(
            get(&address, &first, &rustls::version::TLS13).await.is_err(),
            "the old CA is still served"
        );
        stop.cancel();
        server.await.unwrap();
        assert!(
            TcpStream::connect(&address).await.is_err(),
            "the listener still accepts connections"
        );
    }

    /// Starts a listener that responds with `hello`; returns its address and its task.
    async fn start(how: ListenerConfig, stop: &CancellationToken) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().route("/", axum::routing::get(async || "hello"));
        (address, tokio::spawn(serve(listener, how, router, stop.clone())))
    }

    /// Reads once from the stream, for 2 s at most.
    async fn read(stream: &mut TcpStream) -> String {
        let mut text = vec![0; 4096];
        let length = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut text))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    #[tokio::test]
    async fn an_old_connection_is_closed_after_a_response() {
        let stop = CancellationToken::new();
        let max_age = Some(Duration::from_millis(200));
        let (address, _) =
            start(ListenerConfig { max_age, ..ListenerConfig::default() }, &stop).await;
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        assert!(!read(&mut stream).await.contains("connection: close"));
        tokio::time::sleep(Duration::from_millis(400)).await;
        stream.write_all(request).await.unwrap();
        let last = read(&mut stream).await;
        assert!(last.starts_with("HTTP/1.1 200") && last.contains("connection: close"), "{last}");
        assert_eq!(read(&mut stream).await, "", "the connection is still open");
        stop.cancel();
    }

    #[tokio::test]
    async fn an_incomplete_request_head_times_out() {
        let stop = CancellationToken::new();
        let (address, _) = start(ListenerConfig::default(), &stop).await;
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        let mut rest = Vec::new();
        let end =
            tokio::time::timeout(FIRST_REQUEST_TIMEOUT * 3, stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "the connection is still open");
        stop.cancel();
    }

    #[tokio::test]
    async fn clients_without_a_valid_certificate_are_refused() {
        let current = Arc::new(CertResolver::default());
        let ca = replace_certificate(&current);
        let stop = CancellationToken::new();
        let clients = crate::server::client_certs::build_verifier(&ca, &[]).unwrap();
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<CertResolver>::clone(&current);
        let how = ListenerConfig {
            tls: Some(tls_config(resolver, Some(clients)).unwrap()),
            ..ListenerConfig::default()
        };
        let (address, _) = start(how, &stop).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            assert!(!get(&address, &ca, version).await.is_ok_and(|text| text.ends_with("hello")));
        }
        stop.cancel();
    }
}
