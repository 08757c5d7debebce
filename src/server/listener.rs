//! Accept loops: TLS for admission, plain for health.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use rustls::{ServerConfig, server::ResolvesServerCert};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// A peer that has not finished its handshake or its request's head by then is no API server.
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEADER: Duration = Duration::from_secs(5);
/// Connections at once. An API server holds a few; a thousand of 40 KB each are 40 MB at the worst.
const MAX_CONNECTIONS: usize = 1000;
/// Requests under way at shutdown get this long: longer than the webhook's own time-out.
const DRAIN: Duration = Duration::from_secs(10);
/// After an error of accept (no file descriptors left, say) the loop pauses instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
pub fn tls_config(resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves until `stop`, then lets requests under way end. Without `tls`, plain HTTP.
pub async fn serve(listener: TcpListener, tls: Option<ServerConfig>, router: Router, stop: CancellationToken) {
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(permit) = stop.run_until_cancelled(Arc::clone(&permits).acquire_owned()).await {
        let Ok(permit) = permit else { break };
        let stream = match stop.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _permit = permit;
            let result = match acceptor {
                Some(acceptor) => match handshake(&acceptor, stream).await {
                    Ok(stream) => connection(stream, router, watcher).await,
                    Err(error) => Err(error),
                },
                None => connection(stream, router, watcher).await,
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
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

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), Failure> {
    let service = TowerToHyperService::new(router.map_request(|request: Request<Incoming>| request.map(Body::new)));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER);
    builder.http2().timer(TokioTimer::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    watcher.watch(connection).await
}
