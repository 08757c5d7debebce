//! Tests of a listener under floods of connections that send nothing, send slowly, or never read:
//! other clients must be answered.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::Router;
use rstest::rstest;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    server::ResolvesServerCert,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::server::{
    certificates::{CertificateLifetimes, certified_key, generate_leaf, generate_unconstrained_ca},
    rotator::CertResolver,
};

/// Maximum number of connections of the listener under test.
const CONNECTION_LIMIT: usize = 200;
/// Number of connections that are opened beyond the limit.
const EXCESS_CONNECTIONS: usize = 500;
/// Time within which other clients must be answered.
const RESPONSE_LIMIT: Duration = Duration::from_secs(1);
/// HTTP/2 connection preface and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Returns a listener configuration with short timeouts.
fn short_timeouts() -> ListenerConfig {
    let seconds = Duration::from_secs;
    let times =
        ConnectionTimeouts { first_request: seconds(2), idle: seconds(2), stalled: seconds(2) };
    ListenerConfig {
        max_connections: CONNECTION_LIMIT,
        timeouts: times,
        ..ListenerConfig::default()
    }
}

struct ListenerUnderTest {
    address: String,
    ca: Option<String>,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(mut how: ListenerConfig, tls: bool, router: Router) -> ListenerUnderTest {
    let mut ca = None;
    if tls {
        let (now, lives) = (SystemTime::now(), CertificateLifetimes::default());
        let pair = generate_unconstrained_ca(now, lives.ca).unwrap();
        let leaf = generate_leaf(&pair, &["127.0.0.1".into()], now, lives.leaf).unwrap();
        let current = Arc::new(CertResolver::default());
        current.store(certified_key(&leaf).unwrap());
        let resolver: Arc<dyn ResolvesServerCert> = current;
        how.tls = Some(tls_config(resolver, None).unwrap());
        ca = Some(pair.certificate);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, how, router, stop.clone()));
    ListenerUnderTest { address, ca, _stop: stop.drop_guard() }
}

fn hello() -> Router {
    Router::new().route("/", axum::routing::get(async || "hello"))
}

impl ListenerUnderTest {
    async fn plain(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    async fn secure(&self, protocol: &str) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca.as_ref().unwrap().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        connector
            .connect(ServerName::try_from("127.0.0.1").unwrap(), self.plain().await)
            .await
            .unwrap()
    }

    /// Sends a request as another client does, and returns the time to the response.
    async fn measure_response(&self) -> Duration {
        let begun = Instant::now();
        let mut text = String::new();
        let asked = async {
            if self.ca.is_some() {
                let mut stream = self.secure("http/1.1").await;
                stream.write_all(REQUEST).await.unwrap();
                let _ = stream.read_to_string(&mut text).await;
            } else {
                let mut stream = self.plain().await;
                stream.write_all(REQUEST).await.unwrap();
                let _ = stream.read_to_string(&mut text).await;
            }
        };
        let answered = tokio::time::timeout(Duration::from_secs(10), asked).await.is_ok();
        assert!(answered && text.ends_with("hello"), "no answer within 10 s: {text:?}");
        begun.elapsed()
    }
}

/// Waits until the server closes the connection and returns the time; panics after 20 s.
async fn wait_for_close(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Duration {
    let begun = Instant::now();
    let mut buffer = vec![0; 16 * 1024];
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    });
    assert!(ended.await.is_ok(), "the connection is still open after 20 s");
    begun.elapsed()
}

#[tokio::test]
async fn a_burst_of_silent_connections_does_not_evict_a_client_with_a_request() {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    // Loopback addresses of their own: a peer address has a share of the connections.
    let mut silent = Vec::new();
    for n in 0..EXCESS_CONNECTIONS {
        let socket = TcpSocket::new_v4().unwrap();
        let from = [127, 65, 0, u8::try_from(n % 200 + 1).unwrap()];
        socket.bind((from, 0).into()).unwrap();
        silent.push(socket.connect(address).await.unwrap());
    }
    let stop = CancellationToken::new();
    // Less than the 128 connections that the accept loop takes before other tasks run.
    let config = ListenerConfig { max_connections: 100, ..short_timeouts() };
    let server = tokio::spawn(serve(listener, config, hello(), stop.clone()));
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("hello"), "{text:?}");
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_sends_nothing_is_closed() {
    let under = start(short_timeouts(), false, hello()).await;
    wait_for_close(&mut under.plain().await).await;
}

#[rstest]
#[case("http/1.1")]
#[case("h2")]
#[tokio::test]
async fn a_connection_that_sends_nothing_after_its_handshake_is_closed(#[case] protocol: &str) {
    let under = start(short_timeouts(), true, hello()).await;
    wait_for_close(&mut under.secure(protocol).await).await;
}

#[tokio::test]
async fn a_connection_without_a_handshake_is_closed() {
    let under = start(short_timeouts(), true, hello()).await;
    wait_for_close(&mut under.plain().await).await;
}

#[tokio::test]
async fn an_http2_connection_without_streams_is_closed() {
    let under = start(short_timeouts(), true, hello()).await;
    let mut stream = under.secure("h2").await;
    stream.write_all(PREFACE).await.unwrap();
    wait_for_close(&mut stream).await;
}

#[tokio::test]
async fn a_slow_request_head_times_out() {
    let under = start(short_timeouts(), false, hello()).await;
    let (mut read, mut write) = under.plain().await.into_split();
    let drip = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nHost: abcdefghijklmnopqrstuvwxyz" {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    wait_for_close(&mut read).await;
    drip.abort();
}

#[tokio::test]
async fn a_slow_head_of_a_further_request_times_out() {
    let under = start(short_timeouts(), false, hello()).await;
    let mut stream = under.plain().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut response = [0; 4096];
    assert!(stream.read(&mut response).await.unwrap() > 0);
    let (mut read, mut write) = stream.into_split();
    let drip = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nHost: ".iter().chain(&[b'a'; 60]) {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    wait_for_close(&mut read).await;
    drip.abort();
}

#[derive(Clone, Copy)]
enum FloodKind {
    Plain,
    NoHandshake,
    Handshake,
    Http2,
}

#[rstest]
#[case::plain(FloodKind::Plain)]
#[case::no_handshake(FloodKind::NoHandshake)]
#[case::handshake(FloodKind::Handshake)]
#[case::http2(FloodKind::Http2)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_block_other_clients(#[case] sort: FloodKind) {
    let under = start(short_timeouts(), !matches!(sort, FloodKind::Plain), hello()).await;
    let (mut plain, mut secure) = (Vec::new(), Vec::new());
    let open = async {
        for _ in 0..CONNECTION_LIMIT + EXCESS_CONNECTIONS {
            match sort {
                FloodKind::Plain | FloodKind::NoHandshake => plain.push(under.plain().await),
                FloodKind::Handshake => secure.push(under.secure("http/1.1").await),
                FloodKind::Http2 => {
                    let mut stream = under.secure("h2").await;
                    let _ = stream.write_all(PREFACE).await;
                    secure.push(stream);
                }
            }
        }
    };
    let opened = tokio::time::timeout(Duration::from_secs(30), open).await;
    assert!(
        opened.is_ok(),
        "the listener stopped accepting after {} connections",
        plain.len() + secure.len()
    );
    let took = under.measure_response().await;
    assert!(took < RESPONSE_LIMIT, "{took:?}");
}

/// Probes of the kubelet are answered while 3,000 silent connections are open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_under_a_flood() {
    let health = crate::server::health::HealthState {
        kubernetes: tokio::sync::watch::Sender::new(
            crate::server::health::ApiServerContact::initial(),
        )
        .subscribe(),
        leads: tokio::sync::watch::Sender::new(true).subscribe(),
        heartbeat: prewarmer_kube::lease::Heartbeat::default(),
        bundle: tokio::sync::watch::Sender::new(Some("ca".into())).subscribe(),
        synced_caches: tokio::sync::watch::Sender::new(1).subscribe(),
        required_caches: 1,
        registered: None,
        registry: prometheus::Registry::new(),
    };
    let how = ListenerConfig {
        max_connections: crate::server::health::MAX_CONNECTIONS,
        ..ListenerConfig::default()
    };
    let under = start(how, false, crate::server::health::router(health)).await;
    let mut silent = Vec::new();
    let open = async {
        for _ in 0..3000 {
            silent.push(under.plain().await);
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(30), open).await.is_ok(),
        "the listener stopped accepting"
    );
    for path in ["/healthz", "/readyz"] {
        let begun = Instant::now();
        let mut stream = under.plain().await;
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .unwrap();
        let mut text = String::new();
        let read =
            tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut text)).await;
        assert!(read.is_ok() && text.starts_with("HTTP/1.1 200"), "{path}: {text:?}");
        assert!(begun.elapsed() < RESPONSE_LIMIT, "{path}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_peer_never_reads_is_closed() {
    let large = Router::new().route(
        "/",
        axum::routing::get(async || axum::body::Bytes::from(vec![b'x'; 32 * 1024 * 1024])),
    );
    let under = start(short_timeouts(), false, large).await;
    let mut stream = under.plain().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The client does not read, so it detects the close by a failed write.
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if stream.write_all(b"G").await.is_err() {
                return;
            }
        }
    });
    assert!(ended.await.is_ok(), "the connection is still open after 20 s");
}
