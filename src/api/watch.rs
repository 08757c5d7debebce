//! A task as it changes: by WebSocket, or by server-sent events.
//!
//! However many watch, the cluster is watched once: each watcher is told by the
//! catalog, and of states that follow one another faster than he reads, he is
//! told the last.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{
        Path, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    Api,
    auth::{Caller, Deed, Standing},
    error::ApiError,
    front::accepts,
    params::Pairs,
    tasks::find,
};
use crate::{
    catalog::{Entry, Seen},
    metrics::Metrics,
    server::{budget::Taken, listener::Place},
};

/// A server-sent event.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "it is written line by line; this is its documentation")]
pub struct TaskEvent {
    /// What `Last-Event-ID` takes the watch up from.
    pub id: String,
    /// The JSON of a `TaskView`.
    pub data: String,
}

const WATCH: Deed = Deed { verb: "watch", resource: "prewarmtasks" };
/// Proxies cut what is silent for a minute, some for half of one.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often it is asked whether the watcher may still look.
pub(super) const REVIEW: Duration = Duration::from_secs(60);
/// A watcher's words are not listened to; so much of them is read.
const MAX_WORDS: usize = 4 * 1024;
/// Events that wait for their reader; of a task's states the last is told, so that more would be of no use.
const WAITING: usize = 2;
/// A watcher that takes nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(30);

/// Watch a task.
///
/// Each message is the task, as `GET` gives it; the first comes at once, and none follows the task's end. A WebSocket is asked
/// for by `Upgrade`; otherwise it is server-sent events, which can be taken up again by `Last-Event-ID`.
#[utoipa::path(get, path = "/tasks/{id}/watch", tag = "tasks",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The task's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have a task of that name"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last message that was seen"),
    ),
    responses(
        (status = 200, description = "Events whose data are tasks", body = TaskEvent, content_type = "text/event-stream"),
        (status = 101, description = "A WebSocket whose messages are tasks"),
        (status = 204, description = "Nothing follows the last message that was seen: the task has ended"),
    ))]
pub(super) async fn watch_task(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
    headers: HeaderMap,
    place: Option<Extension<Place>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let entry = find(&api, &caller, &id, pairs).await?;
    api.auth.authorize(&caller, WATCH, &entry.key.namespace).await?;
    let changes = api.catalog.subscribe(&entry.key).ok_or_else(|| ApiError::not_found("task", &id))?;
    let counted = Counted::new(&api, &caller)?;
    let watcher = Watcher::new(api, caller, changes, counted);
    let wants_socket = headers.contains_key(header::UPGRADE);
    match upgrade {
        Ok(upgrade) => {
            let upgrade = upgrade.max_message_size(MAX_WORDS).max_frame_size(MAX_WORDS);
            // By default each would hold 128 KiB; a task is some KiB.
            let upgrade = upgrade.read_buffer_size(MAX_WORDS).write_buffer_size(0);
            Ok(upgrade.on_upgrade(|socket| async move {
                if let Some(Extension(place)) = &place {
                    place.upgraded();
                }
                speak(socket, watcher).await;
                drop(place);
            }))
        }
        Err(refusal) if wants_socket => Err(ApiError::new(refusal.status(), refusal.body_text())),
        Err(_) if !accepts(&headers, "text/event-stream") => {
            let words = "expected Accept: text/event-stream, or an upgrade to a WebSocket";
            Err(ApiError::new(StatusCode::NOT_ACCEPTABLE, words))
        }
        Err(_) => Ok(events(watcher, &headers)),
    }
}

/// One who watches.
struct Watcher {
    api: Api,
    standing: Standing,
    changes: watch::Receiver<Seen>,
    stop: CancellationToken,
    review: Interval,
    /// The version of the last task that he was told of.
    told: Option<Box<str>>,
    over: bool,
    counted: Option<Counted>,
}

/// The place of a watch among those of its caller and of all. It is free again when this is dropped.
pub(super) struct Counted {
    metrics: Arc<Metrics>,
    _place: Taken<String>,
}

impl Counted {
    pub(super) fn new(api: &Api, caller: &Caller) -> Result<Self, ApiError> {
        let place = api.bounds.watch(caller)?;
        api.metrics.api_watchers.inc();
        Ok(Self { metrics: Arc::clone(&api.metrics), _place: place })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.api_watchers.dec();
    }
}

/// Server-sent events to a caller, until `events` ends or the caller takes none for [`STALLED`].
///
/// What makes the events runs in a task of its own and not in the response's body: a body is polled only while its reader
/// reads, and one who stops reading would stop heartbeats and the review of rights too, and keep the place for ever.
pub(super) fn server_sent(events: impl Stream<Item = Event> + Send + 'static, counted: Counted) -> Response {
    let (out, parts) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        feed(events, out).await;
        drop(counted);
    });
    let parts = stream::unfold(parts, |mut parts| async move {
        let part = parts.recv().await?;
        Some((Ok::<Event, Infallible>(part), parts))
    });
    ([("x-accel-buffering", "no")], Sse::new(parts)).into_response()
}

async fn feed(events: impl Stream<Item = Event>, out: mpsc::Sender<Event>) {
    let mut events = std::pin::pin!(events);
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            next = events.next() => match next {
                Some(event) => event,
                None => return,
            },
            _ = heartbeat.tick() => Event::default().comment("alive"),
            // The caller is gone.
            () = out.closed() => return,
        };
        if !matches!(tokio::time::timeout(STALLED, out.send(event)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// What a watcher is told next.
enum Next {
    Task(Arc<Entry>),
    /// Nothing follows.
    End(&'static str),
}

impl Watcher {
    fn new(api: Api, caller: Caller, mut changes: watch::Receiver<Seen>, counted: Counted) -> Self {
        changes.mark_changed();
        let mut review = interval_at(Instant::now() + REVIEW, REVIEW);
        review.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = api.stop.clone();
        Self {
            api,
            standing: Standing::new(caller),
            changes,
            stop,
            review,
            told: None,
            over: false,
            counted: Some(counted),
        }
    }

    /// Waits for what is next. Cancelled, it loses nothing.
    async fn next(&mut self) -> Next {
        loop {
            if self.over {
                return Next::End("the task has ended");
            }
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        return Next::End("the task has ended");
                    }
                    let Some(entry) = self.changes.borrow_and_update().clone() else {
                        return Next::End("the task was deleted");
                    };
                    self.over = entry.status.is_final();
                    if self.told.as_ref() != Some(&entry.version) {
                        self.told = Some(entry.version.clone());
                        return Next::Task(entry);
                    }
                }
                _ = self.review.tick() => {
                    let namespace = self.changes.borrow().as_ref().map(|entry| Arc::clone(&entry.key.namespace));
                    let Some(namespace) = namespace else { continue };
                    if !self.standing.review(&self.api.auth, Some((WATCH, &namespace))).await {
                        return Next::End("the right to watch has ended");
                    }
                }
                () = self.stop.cancelled() => return Next::End("the server is being stopped: connect again"),
            }
        }
    }
}

/// Server-sent events. A browser that has seen the end asks again, and is told by 204 that nothing follows.
fn events(mut watcher: Watcher, headers: &HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(Box::from);
    let current = watcher.changes.borrow().clone();
    if let Some(entry) = current.filter(|entry| last.as_ref() == Some(&entry.version)) {
        if entry.status.is_final() {
            return StatusCode::NO_CONTENT.into_response();
        }
        watcher.told = last;
    }
    match watcher.counted.take() {
        Some(counted) => server_sent(as_events(watcher), counted),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

fn as_events(watcher: Watcher) -> impl Stream<Item = Event> {
    stream::unfold(watcher, |mut watcher| async move {
        let Next::Task(entry) = watcher.next().await else { return None };
        // JSON has no line breaks of its own, and no other control characters.
        let data = String::from_utf8_lossy(&entry.json).into_owned();
        let event = Event::default().id(&*entry.version).data(data);
        Some((event, watcher))
    })
}

/// Speaks to a WebSocket until the task's end, or its own.
async fn speak(mut socket: WebSocket, mut watcher: Watcher) {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let why = loop {
        let message = tokio::select! {
            next = watcher.next() => match next {
                Next::Task(entry) => Message::Text(String::from_utf8_lossy(&entry.json).into_owned().into()),
                Next::End(why) => break why,
            },
            _ = heartbeat.tick() => Message::Ping(bytes::Bytes::new()),
            heard = socket.recv() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        if !matches!(tokio::time::timeout(STALLED, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
    };
    let code = if watcher.stop.is_cancelled() { close_code::RESTART } else { close_code::NORMAL };
    let close = Message::Close(Some(CloseFrame { code, reason: why.into() }));
    // A watcher that is gone needs no word.
    let _ = tokio::time::timeout(STALLED, socket.send(close)).await;
}

#[cfg(test)]
mod unit {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_no_events_is_given_up() {
        let (out, mut taken) = mpsc::channel(WAITING);
        // Nothing happens but heartbeats, and nothing of them is taken.
        let begun = Instant::now();
        feed(stream::pending(), out).await;
        let waited = begun.elapsed();
        let filled = HEARTBEAT * u32::try_from(WAITING + 1).unwrap();
        assert!(waited >= filled + STALLED && waited < filled + STALLED * 2, "{waited:?}");
        assert!(taken.recv().await.is_some());
        // The source ends the stream by itself, read or not: by this it ends when a right has ended.
        let (out, _unread) = mpsc::channel(WAITING);
        let source = stream::once(tokio::time::sleep(REVIEW)).filter_map(|()| async { None });
        let begun = Instant::now();
        feed(source, out).await;
        assert!(begun.elapsed() < REVIEW + STALLED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_is_gone_is_given_up_at_once() {
        let (out, taken) = mpsc::channel(WAITING);
        drop(taken);
        let begun = Instant::now();
        feed(stream::pending(), out).await;
        assert!(begun.elapsed() < HEARTBEAT);
    }
}
