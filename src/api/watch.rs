//! A task as it changes: by WebSocket, or by server-sent events.
//!
//! However many watch, the cluster is watched once: each watcher is told by the
//! catalog, and of states that follow one another faster than he reads, he is
//! told the last.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{
        Path, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use tokio::{
    sync::watch,
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
/// Watchers at once: with 20 to 40 KB each, 160 MB at the worst. A WebSocket is no connection of the listener any more.
pub(super) const MAX_WATCHERS: i64 = 4096;
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
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let entry = find(&api, &caller, &id, pairs).await?;
    api.auth.authorize(&caller, WATCH, &entry.key.namespace).await?;
    let changes = api.catalog.subscribe(&entry.key).ok_or_else(|| ApiError::not_found("task", &id))?;
    if api.metrics.api_watchers.get() >= MAX_WATCHERS {
        return Err(ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "too many watch already", 10));
    }
    let watcher = Watcher::new(api, caller, changes);
    let wants_socket = headers.contains_key(header::UPGRADE);
    match upgrade {
        Ok(upgrade) => {
            let upgrade = upgrade.max_message_size(MAX_WORDS).max_frame_size(MAX_WORDS);
            // By default each would hold 128 KiB; a task is some KiB.
            let upgrade = upgrade.read_buffer_size(MAX_WORDS).write_buffer_size(0);
            Ok(upgrade.on_upgrade(|socket| speak(socket, watcher)))
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
    _counted: Counted,
}

/// Counts a watcher for as long as it lives.
pub(super) struct Counted(Arc<Metrics>);

impl Counted {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.api_watchers.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.api_watchers.dec();
    }
}

/// What a watcher is told next.
enum Next {
    Task(Arc<Entry>),
    /// Nothing follows.
    End(&'static str),
}

impl Watcher {
    fn new(api: Api, caller: Caller, mut changes: watch::Receiver<Seen>) -> Self {
        changes.mark_changed();
        let mut review = interval_at(Instant::now() + REVIEW, REVIEW);
        review.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (stop, counted) = (api.stop.clone(), Counted::new(&api.metrics));
        Self { api, standing: Standing::new(caller), changes, stop, review, told: None, over: false, _counted: counted }
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
    let keep = KeepAlive::new().interval(HEARTBEAT).text("alive");
    ([("x-accel-buffering", "no")], Sse::new(as_events(watcher)).keep_alive(keep)).into_response()
}

fn as_events(watcher: Watcher) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(watcher, |mut watcher| async move {
        let Next::Task(entry) = watcher.next().await else { return None };
        // JSON has no line breaks of its own, and no other control characters.
        let data = String::from_utf8_lossy(&entry.json).into_owned();
        let event = Event::default().id(&*entry.version).data(data);
        Some((Ok(event), watcher))
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
