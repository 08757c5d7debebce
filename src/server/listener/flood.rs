//! Connections that send nothing, too slowly, or never read: they must not keep others out.

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
    certificates::{Lifetimes, make_ca, make_leaf, serving},
    keeper::Current,
};

/// Connections of the listener under test.
const LIMIT: usize = 200;
/// How many more are opened.
const MORE: usize = 500;
/// The answer to somebody else comes within this time all the same.
const PROMPT: Duration = Duration::from_secs(1);
/// The preface of HTTP/2, and an empty frame of settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Like a listener, but with shorter times.
fn quick() -> Serving {
    let seconds = Duration::from_secs;
    let times = Times { first: seconds(2), idle: seconds(2), stalled: seconds(2) };
    Serving { max_connections: LIMIT, times, ..Serving::default() }
}

struct Under {
    address: String,
    ca: Option<String>,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(mut how: Serving, tls: bool, router: Router) -> Under {
    let mut ca = None;
    if tls {
        let (now, lives) = (SystemTime::now(), Lifetimes::default());
        let pair = make_ca(now, lives.ca).unwrap();
        let leaf = make_leaf(&pair, &["127.0.0.1".into()], now, lives.leaf).unwrap();
        let current = Arc::new(Current::default());
        current.store(serving(&leaf).unwrap());
        let resolver: Arc<dyn ResolvesServerCert> = current;
        how.tls = Some(tls_config(resolver, None).unwrap());
        ca = Some(pair.certificate);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, how, router, stop.clone()));
    Under { address, ca, _stop: stop.drop_guard() }
}

fn hello() -> Router {
    Router::new().route("/", axum::routing::get(async || "hello"))
}

impl Under {
    async fn plain(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    async fn secure(&self, protocol: &str) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_ref().unwrap().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::try_from("127.0.0.1").unwrap(), self.plain().await).await.unwrap()
    }

    /// How long somebody else waits for an answer.
    async fn ask(&self) -> Duration {
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

/// How long it takes until the server ends the connection; panics when it does not within 20 s.
async fn end_of(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Duration {
    let begun = Instant::now();
    let mut buffer = vec![0; 16 * 1024];
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    });
    assert!(ended.await.is_ok(), "the connection is still open after 20 s");
    begun.elapsed()
}

#[tokio::test]
async fn a_connection_that_sends_nothing_is_closed() {
    let under = start(quick(), false, hello()).await;
    end_of(&mut under.plain().await).await;
}

#[rstest]
#[case("http/1.1")]
#[case("h2")]
#[tokio::test]
async fn a_connection_that_sends_nothing_behind_its_handshake_is_closed(#[case] protocol: &str) {
    let under = start(quick(), true, hello()).await;
    end_of(&mut under.secure(protocol).await).await;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_its_handshake_is_closed() {
    let under = start(quick(), true, hello()).await;
    end_of(&mut under.plain().await).await;
}

#[tokio::test]
async fn a_connection_of_http2_without_streams_is_closed() {
    let under = start(quick(), true, hello()).await;
    let mut stream = under.secure("h2").await;
    stream.write_all(PREFACE).await.unwrap();
    end_of(&mut stream).await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_not_waited_for() {
    let under = start(quick(), false, hello()).await;
    let (mut read, mut write) = under.plain().await.into_split();
    let drip = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nHost: abcdefghijklmnopqrstuvwxyz" {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    end_of(&mut read).await;
    drip.abort();
}

#[derive(Clone, Copy)]
enum Sort {
    Plain,
    NoHandshake,
    Handshake,
    Http2,
}

#[rstest]
#[case::plain(Sort::Plain)]
#[case::no_handshake(Sort::NoHandshake)]
#[case::handshake(Sort::Handshake)]
#[case::http2(Sort::Http2)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_nobody_out(#[case] sort: Sort) {
    let under = start(quick(), !matches!(sort, Sort::Plain), hello()).await;
    let (mut plain, mut secure) = (Vec::new(), Vec::new());
    let open = async {
        for _ in 0..LIMIT + MORE {
            match sort {
                Sort::Plain | Sort::NoHandshake => plain.push(under.plain().await),
                Sort::Handshake => secure.push(under.secure("http/1.1").await),
                Sort::Http2 => {
                    let mut stream = under.secure("h2").await;
                    let _ = stream.write_all(PREFACE).await;
                    secure.push(stream);
                }
            }
        }
    };
    let opened = tokio::time::timeout(Duration::from_secs(30), open).await;
    assert!(opened.is_ok(), "the listener stopped accepting after {} connections", plain.len() + secure.len());
    let took = under.ask().await;
    assert!(took < PROMPT, "{took:?}");
}

/// The kubelet's probes are answered beside 3,000 connections that send nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_under_a_flood() {
    let metrics = Arc::new(crate::metrics::Metrics::new().unwrap());
    let health = crate::server::health::Health {
        kubernetes: tokio::sync::watch::Sender::new(crate::server::health::Contact::none()).subscribe(),
        leads: tokio::sync::watch::Sender::new(true).subscribe(),
        heartbeat: crate::leader::Heartbeat::default(),
        bundle: tokio::sync::watch::Sender::new(Some("ca".into())).subscribe(),
        caches: tokio::sync::watch::Sender::new(1).subscribe(),
        caches_needed: 1,
        registered: None,
        metrics,
    };
    let how = Serving { max_connections: crate::server::health::MAX_CONNECTIONS, ..Serving::default() };
    let under = start(how, false, crate::server::health::router(health)).await;
    let mut silent = Vec::new();
    let open = async {
        for _ in 0..3000 {
            silent.push(under.plain().await);
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), open).await.is_ok(), "the listener stopped accepting");
    for path in ["/healthz", "/readyz"] {
        let begun = Instant::now();
        let mut stream = under.plain().await;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut text)).await;
        assert!(read.is_ok() && text.starts_with("HTTP/1.1 200"), "{path}: {text:?}");
        assert!(begun.elapsed() < PROMPT, "{path}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_never_reads_is_closed() {
    let large =
        Router::new().route("/", axum::routing::get(async || axum::body::Bytes::from(vec![b'x'; 32 * 1024 * 1024])));
    let under = start(quick(), false, large).await;
    let mut stream = under.plain().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The server's end of a connection that is not read shows by an error of a write, at the latest.
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
