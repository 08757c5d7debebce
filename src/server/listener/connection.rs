//! Serves one connection with the protocol that the handshake has negotiated.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, header},
};
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    handler::{RequestHandler, RequestOrigin},
    table::{ConnectionSlot, ConnectionTimeouts, RequestGuard, TimeoutAction},
};

/// Maximum number of concurrent streams of an HTTP/2 connection. An API server opens another
/// connection when it needs more.
const MAX_STREAMS: u32 = 250;
/// Maximum size of a request head, in bytes. That of an API server has some hundred bytes.
const MAX_HEAD_SIZE: u32 = 16 * 1024;
/// HTTP/2 flow control window, in bytes, which is the memory that a peer can fill before a handler
/// reads it: the minimum of the protocol. The default of hyper is 1 MiB for each connection, which
/// is 4 GiB with 4,096 connections.
const FLOW_CONTROL_WINDOW: u32 = 65_535;
/// Size of the send buffer of an HTTP/2 stream, in bytes.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Maximum size of a response chunk, in bytes. Responses are split so that a peer that stops
/// reading is detected.
const CHUNK_SIZE: usize = 32 * 1024;
/// HTTP/2 keepalive: interval of PING frames on a silent connection, and timeout of the answer. A
/// peer that disappeared is detected within 30 s.
const HTTP2_KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// Bounds of the interval at which the timeouts of a connection are checked.
const CHECK_INTERVAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Error that ends a connection.
pub(super) type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// Configuration shared by the connections of a listener.
#[derive(Clone)]
pub(super) struct ConnectionConfig {
    pub(super) handler: Arc<dyn RequestHandler>,
    pub(super) timeouts: ConnectionTimeouts,
    pub(super) max_age: Option<Duration>,
    pub(super) stop: CancellationToken,
}

/// Serves a connection until the peer closes it, its maximum age or a timeout is reached, it is
/// evicted, or `stop`. At its maximum age an HTTP/2 connection sends GOAWAY; an HTTP/1.1 connection
/// is closed after the next response and not while it is idle, because a request may be in transit.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    http2: bool,
    how: ConnectionConfig,
    place: &ConnectionSlot,
) -> Result<(), ConnectionError> {
    let old = Arc::new(AtomicBool::new(false));
    let (handler, closes, held) = (Arc::clone(&how.handler), Arc::clone(&old), place.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let under_way = RequestGuard::begin(held.connection());
        let origin = RequestOrigin { peer, slot: (!http2).then(|| held.clone()) };
        let (answer, closes) = (handler.handle(request, origin), Arc::clone(&closes));
        async move {
            let mut response = answer.await;
            if !http2 && closes.load(Ordering::Relaxed) {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| ChunkedBody::new(body, under_way)))
        }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_SIZE)
            .initial_stream_window_size(FLOW_CONTROL_WINDOW)
            .initial_connection_window_size(FLOW_CONTROL_WINDOW)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .keep_alive_interval(HTTP2_KEEPALIVE.0)
            .keep_alive_timeout(HTTP2_KEEPALIVE.1);
        let connection = pin!(builder.serve_connection(io, service));
        drive(connection, http2::Connection::graceful_shutdown, true, &old, &how, place).await
    } else {
        let mut builder = http1::Builder::new();
        // `drive` checks the timeouts of all heads: hyper would start a timer for each request.
        builder.max_buf_size(MAX_HEAD_SIZE as usize);
        let connection = pin!(builder.serve_connection(io, service).with_upgrades());
        drive(connection, http1::UpgradeableConnection::graceful_shutdown, false, &old, &how, place)
            .await
    }
}

async fn drive<C: Future<Output = Result<(), hyper::Error>>>(
    mut connection: Pin<&mut C>,
    shut_down: impl Fn(Pin<&mut C>),
    http2: bool,
    old: &AtomicBool,
    how: &ConnectionConfig,
    place: &ConnectionSlot,
) -> Result<(), ConnectionError> {
    let state = place.connection();
    let age = async {
        match how.max_age {
            Some(age) => tokio::time::sleep(age + age.mul_f64(rand::random::<f64>() / 10.0)).await,
            None => std::future::pending().await,
        }
    };
    let (mut age, mut evicted) = (pin!(age), pin!(state.evicted()));
    let shortest = how.timeouts.first_request.min(how.timeouts.idle).min(how.timeouts.stalled);
    let mut look = interval((shortest / 4).clamp(CHECK_INTERVAL.0, CHECK_INTERVAL.1));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => return Ok(result?),
            () = how.stop.cancelled(), if !ending => {
                ending = true;
                shut_down(connection.as_mut());
            }
            () = &mut evicted => return Err("evicted to free a connection slot".into()),
            () = &mut age, if !old.load(Ordering::Relaxed) => {
                old.store(true, Ordering::Relaxed);
                if http2 && !ending {
                    ending = true;
                    shut_down(connection.as_mut());
                }
            }
            _ = look.tick() => match state.timeout_action(&how.timeouts) {
                TimeoutAction::Keep => {}
                TimeoutAction::Close => return Err("timeout: the peer sent or read nothing".into()),
                TimeoutAction::Shutdown if ending => {}
                TimeoutAction::Shutdown => {
                    ending = true;
                    shut_down(connection.as_mut());
                }
            }
        }
    }
}

/// Response body that is split into chunks. The request is in progress until the end of the body.
struct ChunkedBody {
    body: Body,
    rest: Bytes,
    /// `true` from the time when a chunk is handed to hyper until hyper polls for the next one.
    chunk_pending: bool,
    guard: RequestGuard,
}

impl ChunkedBody {
    fn new(body: Body, under_way: RequestGuard) -> Self {
        Self { body, rest: Bytes::new(), chunk_pending: false, guard: under_way }
    }

    fn emit_chunk(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.rest = data;
        let part = self.rest.split_to(self.rest.len().min(CHUNK_SIZE));
        self.chunk_pending = true;
        self.guard.set_chunk_pending(true);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }
}

impl Drop for ChunkedBody {
    fn drop(&mut self) {
        if self.chunk_pending {
            self.guard.set_chunk_pending(false);
        }
    }
}

impl HttpBody for ChunkedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if std::mem::take(&mut self.chunk_pending) {
            self.guard.set_chunk_pending(false);
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return self.emit_chunk(rest);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.emit_chunk(data),
                Err(other) => Poll::Ready(Some(Ok(other))),
            },
            other => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) =
            (self.body.size_hint(), u64::try_from(self.rest.len()).unwrap_or(u64::MAX));
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{io, net::IpAddr, sync::Mutex, time::SystemTime};

    use axum::{Router, body::to_bytes};
    use rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
    use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

    use super::{
        super::{
            table::{Admission, ConnectionTable},
            tls_config,
        },
        *,
    };
    use crate::server::{
        certificates::{
            CertificateLifetimes, certified_key, generate_leaf, generate_unconstrained_ca,
        },
        rotator::CertResolver,
    };

    fn slot() -> ConnectionSlot {
        let table = ConnectionTable::new(1, 1, Duration::ZERO);
        let Admission::Admitted(place) = table.admit(IpAddr::from([10, 0, 0, 1])) else {
            panic!("an empty table refused a connection");
        };
        place
    }

    /// Stream that records what each write passes to the network.
    struct RecordedStream(DuplexStream, Arc<Mutex<Vec<Vec<u8>>>>);

    impl AsyncRead for RecordedStream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for RecordedStream {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = ready!(Pin::new(&mut self.0).poll_write(context, bytes))?;
            self.1.lock().unwrap().push(bytes[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    /// Returns both ends of a TLS connection, of which that of the server is recorded.
    async fn tls_pair(
        writes: &Arc<Mutex<Vec<Vec<u8>>>>,
    ) -> (server::TlsStream<RecordedStream>, client::TlsStream<DuplexStream>) {
        let (now, lives) = (SystemTime::now(), CertificateLifetimes::default());
        let ca = generate_unconstrained_ca(now, lives.ca).unwrap();
        let leaf = generate_leaf(&ca, &["127.0.0.1".into()], now, lives.leaf).unwrap();
        let resolver = Arc::new(CertResolver::default());
        resolver.store(certified_key(&leaf).unwrap());
        let acceptor = TlsAcceptor::from(Arc::new(tls_config(resolver, None).unwrap()));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let stream = RecordedStream(ours, Arc::clone(writes));
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let (ours, theirs) = tokio::join!(acceptor.accept(stream), connector.connect(name, theirs));
        (ours.unwrap(), theirs.unwrap())
    }

    #[tokio::test]
    async fn head_and_body_of_a_response_are_one_tls_record_in_one_write() {
        let writes = Arc::new(Mutex::new(Vec::new()));
        let (ours, mut theirs) = tls_pair(&writes).await;
        let answer = async || ([(header::CONTENT_TYPE, "application/json")], vec![b'x'; 300]);
        let how = ConnectionConfig {
            handler: Arc::new(Router::new().route("/", axum::routing::post(answer))),
            timeouts: ConnectionTimeouts {
                first_request: Duration::from_secs(10),
                idle: Duration::from_secs(10),
                stalled: Duration::from_secs(10),
            },
            max_age: None,
            stop: CancellationToken::new(),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        tokio::spawn(async move { serve(ours, address, false, how, &slot()).await });
        for _ in 0..3 {
            writes.lock().unwrap().clear();
            let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
            theirs.write_all(request).await.unwrap();
            let mut response = Vec::new();
            while !response.ends_with(&[b'x'; 300]) {
                assert!(theirs.read_buf(&mut response).await.unwrap() > 0);
            }
            let written = writes.lock().unwrap().clone();
            assert_eq!(written.len(), 1, "writes of {:?} bytes", written.iter().map(Vec::len));
            // A record has a header of 5 bytes, of which the last two are its length.
            let length = u16::from_be_bytes([written[0][3], written[0][4]]);
            assert_eq!(usize::from(length) + 5, written[0].len(), "more than one record");
        }
    }

    #[tokio::test]
    async fn a_chunked_body_has_the_same_content() {
        let place = slot();
        let text = (0..=u8::MAX).cycle().take(3 * CHUNK_SIZE + 7).collect::<Vec<u8>>();
        let parts =
            ChunkedBody::new(Body::from(text.clone()), RequestGuard::begin(place.connection()));
        assert_eq!(HttpBody::size_hint(&parts).exact(), Some(text.len() as u64));
        assert_eq!(to_bytes(Body::new(parts), usize::MAX).await.unwrap(), text);
    }
}
