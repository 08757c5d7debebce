//! Serves one connection, by the protocol that its handshake has chosen.

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
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Request},
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
use tower::ServiceExt;

use super::{
    Failure,
    table::{Due, Place, Times, UnderWay},
};

/// Requests at once on a connection of HTTP/2: an API server opens another when it needs more.
const MAX_STREAMS: u32 = 250;
/// Head of a request, in bytes: an API server's has some hundred.
const MAX_HEAD: u32 = 16 * 1024;
/// What a peer may send on a connection of HTTP/2 before a handler reads it: the least that the protocol allows. hyper's own
/// default is 1 MiB for each connection, which with 4,096 connections would be 4 GiB in the hands of strangers.
const WINDOW: u32 = 65_535;
/// Bytes of a response on a stream of HTTP/2 that wait for the peer.
const MAX_SEND: usize = 64 * 1024;
/// Responses are handed over in parts of this size, so that it shows when the peer takes none.
const PART: usize = 32 * 1024;
/// A peer of HTTP/2 is asked for a sign of life this often when it is silent, and has this long to answer. Peers that vanished
/// without a word are found within 30 s.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// How often a connection is looked at, at the least and at the most.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How connections are served.
#[derive(Clone)]
pub(super) struct How {
    pub(super) router: Router,
    pub(super) times: Times,
    pub(super) max_age: Option<Duration>,
    pub(super) stop: CancellationToken,
}

/// Serves a connection until its peer ends it, it is old, it did nothing for too long, its place is needed, or `stop`. An old
/// connection of HTTP/2 is told to go away; one of HTTP/1.1 is closed behind the next response and not while it is idle,
/// because the next request might be on its way.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    http2: bool,
    how: How,
    place: &Place,
) -> Result<(), Failure> {
    let old = Arc::new(AtomicBool::new(false));
    let (router, closes, held) = (how.router.clone(), Arc::clone(&old), place.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let under_way = UnderWay::begin(held.connection());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        if !http2 {
            request.extensions_mut().insert(held.clone());
        }
        let (answer, closes) = (router.clone().oneshot(request), Arc::clone(&closes));
        async move {
            let Ok(mut response) = answer.await;
            if !http2 && closes.load(Ordering::Relaxed) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Parts::new(body, under_way)))
        }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(MAX_SEND)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1);
        let connection = pin!(builder.serve_connection(io, service));
        drive(connection, http2::Connection::graceful_shutdown, true, &old, &how, place).await
    } else {
        let mut builder = http1::Builder::new();
        // Between two requests the connection may be idle; before the first it is looked at by `due`.
        builder.timer(TokioTimer::new()).header_read_timeout(how.times.idle).max_buf_size(MAX_HEAD as usize);
        let connection = pin!(builder.serve_connection(io, service).with_upgrades());
        drive(connection, http1::UpgradeableConnection::graceful_shutdown, false, &old, &how, place).await
    }
}

async fn drive<C: Future<Output = Result<(), hyper::Error>>>(
    mut connection: Pin<&mut C>,
    shut_down: impl Fn(Pin<&mut C>),
    http2: bool,
    old: &AtomicBool,
    how: &How,
    place: &Place,
) -> Result<(), Failure> {
    let state = place.connection();
    let age = async {
        match how.max_age {
            Some(age) => tokio::time::sleep(age + age.mul_f64(rand::random::<f64>() / 10.0)).await,
            None => std::future::pending().await,
        }
    };
    let (mut age, mut evicted) = (pin!(age), pin!(state.evicted()));
    let shortest = how.times.first.min(how.times.idle).min(how.times.stalled);
    let mut look = interval((shortest / 4).clamp(LOOK.0, LOOK.1));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => return Ok(result?),
            () = how.stop.cancelled(), if !ending => {
                ending = true;
                shut_down(connection.as_mut());
            }
            () = &mut evicted => return Err("its place was needed".into()),
            () = &mut age, if !old.load(Ordering::Relaxed) => {
                old.store(true, Ordering::Relaxed);
                if http2 && !ending {
                    ending = true;
                    shut_down(connection.as_mut());
                }
            }
            _ = look.tick() => match state.due(&how.times) {
                Due::Nothing => {}
                Due::Drop => return Err("its peer sent or took nothing for too long".into()),
                Due::End if ending => {}
                Due::End => {
                    ending = true;
                    shut_down(connection.as_mut());
                }
            }
        }
    }
}

/// The body of a response, in parts; the request is under way until its end.
struct Parts {
    body: Body,
    rest: Bytes,
    /// Whether a part was handed over, and the next was not asked for yet.
    handed: bool,
    under_way: UnderWay,
}

impl Parts {
    fn new(body: Body, under_way: UnderWay) -> Self {
        Self { body, rest: Bytes::new(), handed: false, under_way }
    }

    fn hand(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.rest = data;
        let part = self.rest.split_to(self.rest.len().min(PART));
        self.handed = true;
        self.under_way.waits(true);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if self.handed {
            self.under_way.waits(false);
        }
    }
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if std::mem::take(&mut self.handed) {
            self.under_way.waits(false);
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return self.hand(rest);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.hand(data),
                Err(other) => Poll::Ready(Some(Ok(other))),
            },
            other => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), u64::try_from(self.rest.len()).unwrap_or(u64::MAX));
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use axum::body::to_bytes;

    use super::{super::table::Table, *};

    #[tokio::test]
    async fn a_body_in_parts_is_the_same_body() {
        let place = Table::new(1, 1).admit(IpAddr::from([10, 0, 0, 1])).unwrap();
        let text = (0..=u8::MAX).cycle().take(3 * PART + 7).collect::<Vec<u8>>();
        let parts = Parts::new(Body::from(text.clone()), UnderWay::begin(place.connection()));
        assert_eq!(HttpBody::size_hint(&parts).exact(), Some(text.len() as u64));
        assert_eq!(to_bytes(Body::new(parts), usize::MAX).await.unwrap(), text);
    }
}
