//! Informer: lists and watches one kind, and hands every event to a handler.
//!
//! All watches of the process but the one of kubelet events, of which no list is kept, run in
//! [`Informer::run`]. An object that cannot be decoded, or on which the handler panics, is one
//! failed object: it is logged and counted, and the watch goes on.

use std::{fmt::Debug, future, ops::ControlFlow, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    api_error::ApiErrorKind,
    metrics::ObjectErrorMetrics,
    object_error::{WorkKind, catch_panic, report_undecodable},
};

/// Objects per page of a list. Nodes are large, about 15 KB each.
const PAGE_SIZE: u32 = 100;
/// Time after an interruption without any watch event after which the objects are listed again: a
/// watch that is established again does not report that.
const RELIST_AFTER: Duration = Duration::from_secs(60);

/// Handler of the events of one informer.
pub trait EventHandler: Send + 'static {
    /// Watched type.
    type Object;
    /// Value that is delivered after an event.
    type Change: Send;

    /// Handles one event. Must not block. A panic is caught; the handler is used afterwards.
    fn handle(&mut self, event: Event<Self::Object>) -> Option<Self::Change>;

    /// Delivers a change, and waits where its consumer is busy. `Break` ends the informer.
    fn deliver(&mut self, change: Self::Change) -> impl Future<Output = ControlFlow<()>> + Send;

    /// Records that the watch was interrupted. It is established again.
    fn interrupted(&mut self, _error: &watcher::Error) {}

    /// Resolves when the objects must be listed again. Must be cancel safe.
    fn list_requested(&mut self) -> impl Future<Output = ()> + Send {
        future::pending()
    }
}

/// Informer of one kind.
pub struct Informer<K> {
    api: Api<K>,
    config: watcher::Config,
    /// Plural name of the kind.
    kind: String,
    work: WorkKind,
    metrics: ObjectErrorMetrics,
    optional: bool,
}

impl<K> Informer<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Creates an informer of the objects of `api`. `kind` is the plural name of the kind, and
    /// `work` the label of caught panics.
    #[must_use]
    pub fn new(api: Api<K>, kind: &str, work: WorkKind, metrics: &ObjectErrorMetrics) -> Self {
        Self {
            api,
            config: watcher::Config::default().page_size(PAGE_SIZE),
            kind: kind.to_owned(),
            work,
            metrics: metrics.clone(),
            optional: false,
        }
    }

    /// Restricts the informer to objects with these labels.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.config = self.config.labels(selector);
        self
    }

    /// Restricts the informer by a field selector.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Self {
        self.config = self.config.fields(selector);
        self
    }

    /// Logs interruptions at debug level: the kind may not be installed, or not yet.
    #[must_use]
    pub fn optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }

    /// Lists and watches until `stop`, or until the handler ends it.
    pub async fn run<H>(self, mut handler: H, stop: CancellationToken)
    where
        H: EventHandler<Object = K>,
    {
        let start = || Box::pin(watcher(self.api.clone(), self.config.clone()).default_backoff());
        let (mut stream, mut interrupted) = (start(), None::<Instant>);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                () = relist_due(interrupted) => None,
                () = handler.list_requested() => None,
                event = stream.next() => match event {
                    Some(event) => Some(event),
                    None => return,
                },
            };
            let event = match event {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    self.log_interruption(&error);
                    interrupted.get_or_insert_with(Instant::now);
                    handler.interrupted(&error);
                    continue;
                }
                None => {
                    (stream, interrupted) = (start(), None);
                    continue;
                }
            };
            interrupted = None;
            let object = format!("{} {}", self.kind, object_name(&event));
            let change = catch_panic(&self.metrics, self.work, object, || handler.handle(event));
            let Some(change) = change.flatten() else { continue };
            match stop.run_until_cancelled(handler.deliver(change)).await {
                Some(ControlFlow::Continue(())) => {}
                Some(ControlFlow::Break(())) | None => return,
            }
        }
    }

    fn log_interruption(&self, error: &watcher::Error) {
        let kind = &self.kind;
        if self.optional {
            tracing::debug!(kind, %error, "watch interrupted; it is re-established");
        } else {
            tracing::warn!(kind, %error, "watch interrupted; it is re-established");
        }
    }
}

async fn relist_due(interrupted: Option<Instant>) {
    match interrupted {
        Some(since) => tokio::time::sleep_until(since + RELIST_AFTER).await,
        None => future::pending().await,
    }
}

/// Classifies the error of an interruption.
#[must_use]
pub fn interruption_kind(error: &watcher::Error) -> ApiErrorKind {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            ApiErrorKind::of(error)
        }
        WatchError(status) => ApiErrorKind::of_status(status),
        watcher::Error::NoResourceVersion => ApiErrorKind::Transient,
    }
}

/// Returns the namespace and name of an event's object, for log lines.
#[must_use]
pub fn object_name<K: ResourceExt>(event: &Event<K>) -> String {
    match event {
        Event::Init | Event::InitDone => "list".to_owned(),
        Event::Apply(object) | Event::Delete(object) | Event::InitApply(object) => {
            format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
        }
    }
}

/// Returns the decoded object, or `None` after it logged and counted that it cannot be decoded.
pub fn decode<K>(guarded: DeserializeGuard<K>, metrics: &ObjectErrorMetrics) -> Option<K>
where
    K: Resource<DynamicType: Default>,
{
    guarded
        .0
        .map_err(|invalid| {
            let kind = K::plural(&Default::default()).into_owned();
            report_undecodable(&kind, &invalid.metadata, &invalid.error, metrics);
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Client, client::Body};
    use prometheus::Registry;
    use serde_json::{Value, json};
    use tokio::sync::{Notify, mpsc};

    use super::*;

    /// Client whose nth list and nth watch are answered by `respond`: a list as JSON, a watch as an
    /// array of events. A watch without a response stays open.
    fn client(mut respond: impl FnMut(RequestKind, usize) -> Value + Send + 'static) -> Client {
        let mut counts = [0, 0];
        Client::new(
            tower::service_fn(move |request: Request<Body>| {
                let kind = if request.uri().to_string().contains("watch=true") {
                    RequestKind::Watch
                } else {
                    RequestKind::List
                };
                counts[kind as usize] += 1;
                let body = respond(kind, counts[kind as usize]);
                async move {
                    let text = match &body {
                        Value::Null => future::pending().await,
                        Value::Array(events) => {
                            events.iter().map(|event| event.to_string() + "\n").collect()
                        }
                        list => list.to_string(),
                    };
                    Ok::<_, tower::BoxError>(Response::new(Body::from(text.into_bytes())))
                }
            }),
            "default",
        )
    }

    #[derive(Clone, Copy, PartialEq)]
    enum RequestKind {
        List,
        Watch,
    }

    /// Answers every list with `listed`, and the first watch with `events`.
    fn respond(listed: Value, events: Value) -> impl FnMut(RequestKind, usize) -> Value {
        move |kind, number| match (kind, number) {
            (RequestKind::List, _) => listed.clone(),
            (RequestKind::Watch, 1) => events.clone(),
            (RequestKind::Watch, _) => Value::Null,
        }
    }

    fn list(names: &[&str]) -> Value {
        let items: Vec<Value> = names.iter().map(|name| object(name)).collect();
        json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"},
            "items": items})
    }

    fn object(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop",
            "resourceVersion": "2"}})
    }

    fn event(kind: &str, object: &Value) -> Value {
        json!({"type": kind, "object": object})
    }

    /// Handler that delivers a text for each event, and panics on an object named `panic`.
    struct Recorder {
        changes: mpsc::UnboundedSender<String>,
        metrics: ObjectErrorMetrics,
        request: Arc<Notify>,
    }

    impl EventHandler for Recorder {
        type Object = DeserializeGuard<ConfigMap>;
        type Change = String;

        fn handle(&mut self, event: Event<Self::Object>) -> Option<String> {
            let text = |what: &str, guarded| {
                let name = decode::<ConfigMap>(guarded, &self.metrics)?.name_any();
                assert_ne!(name, "panic");
                Some(format!("{what} {name}"))
            };
            match event {
                Event::Init => Some("list".into()),
                Event::InitApply(object) => text("listed", object),
                Event::InitDone => Some("synced".into()),
                Event::Apply(object) => text("applied", object),
                Event::Delete(object) => text("deleted", object),
            }
        }

        async fn deliver(&mut self, change: String) -> ControlFlow<()> {
            match self.changes.send(change) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        }

        async fn list_requested(&mut self) {
            self.request.notified().await;
        }
    }

    struct Running {
        changes: mpsc::UnboundedReceiver<String>,
        metrics: ObjectErrorMetrics,
        request_list: Arc<Notify>,
    }

    fn start(respond: impl FnMut(RequestKind, usize) -> Value + Send + 'static) -> Running {
        let (sender, changes) = mpsc::unbounded_channel();
        let metrics = ObjectErrorMetrics::register(&Registry::new()).unwrap();
        let request_list = Arc::new(Notify::new());
        let handler = Recorder {
            changes: sender,
            metrics: metrics.clone(),
            request: Arc::clone(&request_list),
        };
        let api = Api::<DeserializeGuard<ConfigMap>>::namespaced(client(respond), "shop");
        let informer = Informer::new(api, "configmaps", WorkKind::Watch, &metrics);
        tokio::spawn(informer.run(handler, CancellationToken::new()));
        Running { changes, metrics, request_list }
    }

    impl Running {
        async fn expect(&mut self, expected: &[&str]) {
            for text in expected {
                assert_eq!(self.changes.recv().await.as_deref(), Some(*text));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_delivered_in_order() {
        let events = json!([event("MODIFIED", &object("a")), event("DELETED", &object("a"))]);
        let mut running = start(respond(list(&["a"]), events));
        running.expect(&["list", "listed a", "synced", "applied a", "deleted a"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_undecodable_object_is_counted_and_the_next_is_delivered() {
        let mut malformed = object("bad");
        malformed["data"] = json!("text");
        let events = json!([event("ADDED", &malformed), event("ADDED", &object("good"))]);
        let mut running = start(respond(list(&[]), events));
        running.expect(&["list", "synced", "applied good"]).await;
        let count = running.metrics.unreadable_objects.with_label_values(&["configmaps"]).get();
        assert_eq!(count, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_on_an_object_is_counted_and_the_next_is_delivered() {
        let mut running = start(respond(list(&["panic", "good"]), Value::Null));
        running.expect(&["list", "listed good", "synced"]).await;
        let count = running.metrics.internal_errors.with_label_values(&["watch"]).get();
        assert_eq!(count, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupted_watch_without_events_is_listed_again() {
        let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500,
            "message": "etcd", "reason": "InternalError"});
        let broken = json!([event("ERROR", &gone)]);
        let mut running = start(respond(list(&["a"]), broken));
        running.expect(&["list", "listed a", "synced"]).await;
        let begun = Instant::now();
        running.expect(&["list"]).await;
        assert!(begun.elapsed() >= RELIST_AFTER, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn objects_are_listed_again_on_request() {
        let mut running = start(|kind, number| match (kind, number) {
            (RequestKind::List, 1) => list(&["a"]),
            (RequestKind::List, _) => list(&["b"]),
            (RequestKind::Watch, _) => Value::Null,
        });
        running.expect(&["list", "listed a", "synced"]).await;
        running.request_list.notify_one();
        running.expect(&["list", "listed b", "synced"]).await;
    }
}
