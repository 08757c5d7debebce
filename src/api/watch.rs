//! Watch of a task by WebSocket or server-sent events.
//!
//! All clients share the one watch of the cluster: each is notified by the store. When states
//! follow one another faster than a client reads, it receives only the last.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{
        Path, State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use prewarmer_kube::store::{TaskEntry, TaskUpdate};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    Api, ApiMetrics,
    auth::{Caller, Revalidation},
    call_middleware::accepts,
    error::ApiError,
    params::{CheckedQuery, TaskPath, TaskQuery},
    permissions::WATCH_TASK,
    service::tasks,
};
use crate::{
    server::{budget::BudgetPermit, listener::ConnectionSlot},
    task_view::Progress,
};

/// Server-sent event.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "it is written line by line; this is its documentation")]
pub(super) struct TaskEvent {
    /// ID of the event; a client sends it as `Last-Event-ID` to resume the watch.
    pub id: String,
    /// JSON of a `TaskView`, with the further fields `type`, always `progress`, and `data`, an
    /// object with the fields of `progress`.
    pub data: String,
}

/// Interval between heartbeats. Proxies close connections that are idle for 60 s, some after 30 s.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Interval at which the permission of the caller is checked again.
pub const REVIEW_INTERVAL: Duration = Duration::from_secs(60);
/// Largest WebSocket message that a client may send, in bytes. Messages of clients are ignored.
const MAX_CLIENT_MESSAGE: usize = 4 * 1024;
/// Events buffered per client. Only the last state of a task is sent, so that more would be of no
/// use.
const EVENT_BUFFER: usize = 2;
/// Timeout of a send, after which the client is disconnected.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Watches a task.
///
/// Each message is the task as returned by `GET`, with the further fields `type`, always `progress`,
/// and `data`, an object with the fields of `progress`. The first message is sent immediately, and none
/// follows the end of the task. A request with `Upgrade` opens a WebSocket; otherwise the response
/// is server-sent events, which a client can resume with `Last-Event-ID`.
#[utoipa::path(get, path = "/tasks/{id}/watch", tag = "tasks",
    params(
        TaskPath,
        TaskQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "ID of the last received event"),
    ),
    responses(
        (status = 200, description = "Events whose data are tasks", body = TaskEvent, content_type = "text/event-stream"),
        (status = 101, description = "A WebSocket whose messages are tasks"),
        (status = 204, description = "No event follows the last received one: the task has ended"),
    ))]
pub(super) async fn watch_task(
    State(api): State<Api>,
    caller: Caller,
    Path(TaskPath { id }): Path<TaskPath>,
    CheckedQuery(query): CheckedQuery<TaskQuery>,
    headers: HeaderMap,
    place: Option<Extension<ConnectionSlot>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let entry = tasks::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    api.auth.authorize(&caller, WATCH_TASK, &entry.key.namespace).await?;
    let changes =
        api.catalog.subscribe(&entry.key).ok_or_else(|| ApiError::not_found("task", &id))?;
    let counted = WatchPermit::new(&api, &caller)?;
    let watcher = TaskWatcher::new(api, caller, changes, counted);
    let wants_socket = headers.contains_key(header::UPGRADE);
    match upgrade {
        Ok(upgrade) => {
            let upgrade =
                upgrade.max_message_size(MAX_CLIENT_MESSAGE).max_frame_size(MAX_CLIENT_MESSAGE);
            // The default buffers take 128 KiB per connection; a task has some KiB.
            let upgrade = upgrade.read_buffer_size(MAX_CLIENT_MESSAGE).write_buffer_size(0);
            Ok(upgrade.on_upgrade(|socket| async move {
                if let Some(Extension(place)) = &place {
                    place.mark_upgraded();
                }
                serve_websocket(socket, watcher).await;
                drop(place);
            }))
        }
        Err(refusal) if wants_socket => Err(ApiError::new(refusal.status(), refusal.body_text())),
        Err(_) if !accepts(&headers, "text/event-stream") => {
            let words = "send Accept: text/event-stream, or upgrade to a WebSocket";
            Err(ApiError::new(StatusCode::NOT_ACCEPTABLE, words))
        }
        Err(_) => Ok(sse_response(watcher, &headers)),
    }
}

/// Watch of one task by one client.
struct TaskWatcher {
    api: Api,
    standing: Revalidation,
    changes: watch::Receiver<TaskUpdate>,
    stop: CancellationToken,
    review: Interval,
    /// Resource version of the last task that was sent.
    last_sent: Option<Box<str>>,
    ended: bool,
    permit: Option<WatchPermit>,
}

/// Reserved watch, counted for its caller and in total. It is released on drop.
pub(super) struct WatchPermit {
    metrics: ApiMetrics,
    _reserved: BudgetPermit<String>,
}

impl WatchPermit {
    pub(super) fn new(api: &Api, caller: &Caller) -> Result<Self, ApiError> {
        let place = api.budgets.reserve_watch(caller)?;
        api.metrics.watchers.inc();
        Ok(Self { metrics: api.metrics.clone(), _reserved: place })
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        self.metrics.watchers.dec();
    }
}

/// Responds with server-sent events until `events` ends or a send to the client times out.
///
/// The stream of events is polled by a separate async task and not by the response's body. A body
/// is polled only while the client reads: a client that stops reading would also stop heartbeats
/// and permission checks, and would keep its watch reserved forever.
pub(super) fn event_stream_response(
    events: impl Stream<Item = Event> + Send + 'static,
    counted: WatchPermit,
) -> Response {
    let (out, parts) = mpsc::channel(EVENT_BUFFER);
    tokio::spawn(async move {
        forward_events(events, out).await;
        drop(counted);
    });
    let parts = stream::unfold(parts, |mut parts| async move {
        let part = parts.recv().await?;
        Some((Ok::<Event, Infallible>(part), parts))
    });
    ([("x-accel-buffering", "no")], Sse::new(parts)).into_response()
}

async fn forward_events(events: impl Stream<Item = Event>, out: mpsc::Sender<Event>) {
    let mut events = std::pin::pin!(events);
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            next = events.next() => match next {
                Some(event) => event,
                None => return,
            },
            _ = heartbeat.tick() => Event::default().comment("alive"),
            // The client has disconnected.
            () = out.closed() => return,
        };
        if !matches!(tokio::time::timeout(SEND_TIMEOUT, out.send(event)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Next message of a watch.
enum WatchMessage {
    Task(Arc<TaskEntry>),
    /// End of the watch, with the reason.
    End(&'static str),
}

impl TaskWatcher {
    fn new(
        api: Api,
        caller: Caller,
        mut changes: watch::Receiver<TaskUpdate>,
        counted: WatchPermit,
    ) -> Self {
        changes.mark_changed();
        let mut review = interval_at(Instant::now() + REVIEW_INTERVAL, REVIEW_INTERVAL);
        review.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = api.stop.clone();
        Self {
            api,
            standing: Revalidation::new(caller),
            changes,
            stop,
            review,
            last_sent: None,
            ended: false,
            permit: Some(counted),
        }
    }

    /// Waits for the next message. Cancel-safe.
    async fn next(&mut self) -> WatchMessage {
        loop {
            if self.ended {
                return WatchMessage::End("the task has ended");
            }
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        return WatchMessage::End("the task has ended");
                    }
                    let Some(entry) = self.changes.borrow_and_update().clone() else {
                        return WatchMessage::End("the task was deleted");
                    };
                    self.ended = entry.status.is_final();
                    if self.last_sent.as_ref() != Some(&entry.version) {
                        self.last_sent = Some(entry.version.clone());
                        return WatchMessage::Task(entry);
                    }
                }
                _ = self.review.tick() => {
                    let namespace = self.changes.borrow().as_ref().map(|entry| Arc::clone(&entry.key.namespace));
                    let Some(namespace) = namespace else { continue };
                    if !self.standing.revalidate(&self.api.auth, Some((WATCH_TASK, &namespace))).await {
                        return WatchMessage::End("the permission to watch was revoked or cannot be confirmed");
                    }
                }
                () = self.stop.cancelled() => return WatchMessage::End("the server is shutting down: connect again"),
            }
        }
    }
}

/// Responds with server-sent events. A browser reconnects after the end of a stream; 204 then stops
/// it from reconnecting again.
fn sse_response(mut watcher: TaskWatcher, headers: &HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(Box::from);
    let current = watcher.changes.borrow().clone();
    if let Some(entry) = current.filter(|entry| last.as_ref() == Some(&entry.version)) {
        if entry.status.is_final() {
            return StatusCode::NO_CONTENT.into_response();
        }
        watcher.last_sent = last;
    }
    match watcher.permit.take() {
        Some(counted) => event_stream_response(sse_events(watcher), counted),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

fn sse_events(watcher: TaskWatcher) -> impl Stream<Item = Event> {
    stream::unfold(watcher, |mut watcher| async move {
        let WatchMessage::Task(entry) = watcher.next().await else { return None };
        // Compact JSON contains no line breaks and no other control characters.
        let event = Event::default().id(&*entry.version).data(message_text(&entry));
        Some((event, watcher))
    })
}

/// Part of a rendered task.
#[derive(Deserialize)]
struct TaskProgress {
    progress: Progress,
}

/// Returns the text of a message: the task, preceded by `type` and by its progress as `data`, for
/// clients that expect a message of these two fields.
fn message_text(entry: &TaskEntry) -> String {
    let json = entry.json();
    let task = String::from_utf8_lossy(&json);
    let progress = serde_json::from_slice(&json)
        .and_then(|TaskProgress { progress }| serde_json::to_string(&progress));
    // The store renders every task as an object with the progress.
    match (progress, task.strip_prefix('{')) {
        (Ok(progress), Some(fields)) => {
            format!("{{\"type\":\"progress\",\"data\":{progress},{fields}")
        }
        _ => task.into_owned(),
    }
}

/// Sends messages to a WebSocket until the task ends or the client disconnects.
async fn serve_websocket(mut socket: WebSocket, mut watcher: TaskWatcher) {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let why = loop {
        let message = tokio::select! {
            next = watcher.next() => match next {
                WatchMessage::Task(entry) => Message::Text(message_text(&entry).into()),
                WatchMessage::End(why) => break why,
            },
            _ = heartbeat.tick() => Message::Ping(bytes::Bytes::new()),
            heard = socket.recv() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        if !matches!(tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
    };
    let code = if watcher.stop.is_cancelled() { close_code::RESTART } else { close_code::NORMAL };
    let close = Message::Close(Some(CloseFrame { code, reason: why.into() }));
    // An error means that the client has disconnected already.
    let _ = tokio::time::timeout(SEND_TIMEOUT, socket.send(close)).await;
}

#[cfg(test)]
mod unit {
    use prewarmer_core::task::{PrewarmTask, PrewarmTaskSpec, PrewarmTaskStatus};
    use prewarmer_kube::store::TaskStore;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn message_is_the_task_with_its_progress_as_data() {
        let mut task = PrewarmTask::new("t", PrewarmTaskSpec::new(vec!["a:1".into()]));
        let (total_nodes, succeeded_nodes) = (4, 1);
        let status =
            PrewarmTaskStatus { total_nodes, succeeded_nodes, ..PrewarmTaskStatus::default() };
        task.status = Some(status);
        let entry = TaskStore::new(crate::task_view::render).put_entry(&task);
        let mut message: Value = serde_json::from_str(&message_text(&entry)).unwrap();
        let fields = message.as_object_mut().unwrap();
        assert_eq!(fields.remove("type"), Some("progress".into()));
        let data = fields.remove("data").unwrap();
        assert_eq!((&data["completedNodes"], &data["totalNodes"]), (&json!(1), &json!(4)));
        assert_eq!(data["percentage"], 25.0);
        assert_eq!(data, fields["progress"]);
        let task: Value = serde_json::from_slice(&entry.json()).unwrap();
        assert_eq!(message, task);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_reads_no_events_is_disconnected() {
        let (out, mut taken) = mpsc::channel(EVENT_BUFFER);
        // Only heartbeats are produced, and none of them is read.
        let begun = Instant::now();
        forward_events(stream::pending(), out).await;
        let waited = begun.elapsed();
        let filled = HEARTBEAT_INTERVAL * u32::try_from(EVENT_BUFFER + 1).unwrap();
        assert!(
            waited >= filled + SEND_TIMEOUT && waited < filled + SEND_TIMEOUT * 2,
            "{waited:?}"
        );
        assert!(taken.recv().await.is_some());
        // The source can end the stream although nothing is read, as it does when a permission is
        // revoked.
        let (out, _unread) = mpsc::channel(EVENT_BUFFER);
        let source =
            stream::once(tokio::time::sleep(REVIEW_INTERVAL)).filter_map(|()| async { None });
        let begun = Instant::now();
        forward_events(source, out).await;
        assert!(begun.elapsed() < REVIEW_INTERVAL + SEND_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn disconnected_client_ends_the_stream_immediately() {
        let (out, taken) = mpsc::channel(EVENT_BUFFER);
        drop(taken);
        let begun = Instant::now();
        forward_events(stream::pending(), out).await;
        assert!(begun.elapsed() < HEARTBEAT_INTERVAL);
    }
}
