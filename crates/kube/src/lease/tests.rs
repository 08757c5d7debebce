//! Tests of the election against a fake API server with one Lease.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use kube::client::Body;
use prometheus::Registry;
use serde_json::{Value, json};

use super::{api_tests::TestAnnotation, *};

/// Fake API server that stores at most one Lease and can be unavailable.
#[derive(Clone, Default)]
struct FakeLeaseServer(Arc<Mutex<FakeLeaseState>>);

#[derive(Default)]
struct FakeLeaseState {
    lease: Option<Value>,
    version: u64,
    unavailable: bool,
    /// `true`: watches are accepted and deliver nothing, as on a broken connection.
    silent_watches: bool,
    /// Receives every version that is written.
    written: watch::Sender<u64>,
    /// Number of requests by method; a list is `LIST`, and a watch is `WATCH`.
    requests: BTreeMap<String, usize>,
}

/// Body of a response of the fake server.
type FakeBody = BoxBody<Bytes, Infallible>;

impl FakeLeaseServer {
    fn with<T>(&self, act: impl FnOnce(&mut FakeLeaseState) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (method, uri) = (request.method().clone(), request.uri().clone());
                let query = uri.query().unwrap_or_default();
                let kind = match method.as_str() {
                    "GET" if query.contains("watch=true") => "WATCH",
                    "GET" if query.contains("fieldSelector") => "LIST",
                    other => other,
                };
                let body = request.into_body().collect_bytes().await.unwrap();
                let (code, body) = server.with(|state| {
                    *state.requests.entry(kind.to_owned()).or_default() += 1;
                    if kind == "WATCH" && !state.unavailable {
                        return (StatusCode::OK, server.watch_body(state, query));
                    }
                    let (code, answer) = state.answer(&method, kind == "LIST", &body);
                    (code, Full::new(answer.to_string().into()).boxed())
                });
                Ok::<Response<FakeBody>, Infallible>(
                    Response::builder().status(code).body(body).unwrap(),
                )
            }
        });
        Client::new(service, "own")
    }

    /// Returns the events of a watch from the version in `query`: the last one that was written
    /// since, and each later one.
    fn watch_body(&self, state: &FakeLeaseState, query: &str) -> FakeBody {
        let (server, mut written, silent) =
            (self.clone(), state.written.subscribe(), state.silent_watches);
        let version = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        if version != Some(&*state.version.to_string()) {
            written.mark_changed();
        }
        let events = stream::unfold(written, move |mut written| {
            let server = server.clone();
            async move {
                if silent {
                    std::future::pending::<()>().await;
                }
                written.changed().await.ok()?;
                let lease = server.with(|state| state.lease.clone());
                let event = json!({"type": "MODIFIED", "object": lease}).to_string() + "\n";
                Some((Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(event))), written))
            }
        });
        BodyExt::boxed(StreamBody::new(events))
    }

    fn requests(&self, kind: &str) -> usize {
        self.with(|state| state.requests.get(kind).copied().unwrap_or_default())
    }

    fn holder(&self) -> String {
        let text =
            |lease: &Value| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        self.with(|state| state.lease.as_ref().map(text).unwrap_or_default())
    }
}

impl FakeLeaseState {
    fn answer(&mut self, method: &Method, is_list: bool, body: &[u8]) -> (StatusCode, Value) {
        let refusal = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code});
            (StatusCode::from_u16(code).unwrap(), status)
        };
        if self.unavailable {
            return refusal(503, "ServiceUnavailable");
        }
        if is_list {
            let items: Vec<&Value> = self.lease.iter().collect();
            let version = json!({"resourceVersion": self.version.to_string()});
            let list = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList",
                "metadata": version, "items": items});
            return (StatusCode::OK, list);
        }
        if *method == Method::GET {
            return match &self.lease {
                Some(lease) => (StatusCode::OK, lease.clone()),
                None => refusal(404, "NotFound"),
            };
        }
        let mut new: Value = serde_json::from_slice(body).unwrap();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        if self
            .lease
            .as_ref()
            .is_some_and(|lease| *method == Method::POST || version(lease) != version(&new))
        {
            return refusal(409, "Conflict");
        }
        self.version += 1;
        new["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.lease = Some(new.clone());
        self.written.send_replace(self.version);
        (StatusCode::OK, new)
    }
}

/// Replica that takes part in the election.
struct TestReplica {
    leads: watch::Receiver<bool>,
    leadership: Leadership,
    heartbeat: Heartbeat,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl TestReplica {
    fn start(server: &FakeLeaseServer, name: &str) -> Self {
        let (sender, leads) = watch::channel(false);
        let (leadership, heartbeat) = (Leadership::default(), Heartbeat::default());
        let handles = ElectionHandles {
            leads: sender,
            leadership: leadership.clone(),
            heartbeat: heartbeat.clone(),
            contact: ApiContact::default(),
        };
        let settings =
            LeaseSettings { name: "l".into(), namespace: "own".into(), identity: name.into() };
        let annotation = TestAnnotation::default();
        let metrics = LeaseMetrics::register(&Registry::new()).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(
            server.client(),
            settings,
            annotation,
            metrics,
            handles,
            stop.clone(),
        ));
        Self { leads, leadership, heartbeat, stop, task }
    }

    async fn wait_until_leader(&mut self) -> Duration {
        let begun = Instant::now();
        self.leads.wait_for(|leads| *leads).await.unwrap();
        begun.elapsed()
    }

    async fn wait_until_not_leader(&mut self) -> Duration {
        let begun = Instant::now();
        self.leads.wait_for(|leads| !*leads).await.unwrap();
        begun.elapsed()
    }

    /// Spawns work that records heartbeats, as the controller loop does.
    fn spawn_beating_work(&self) -> tokio::task::JoinHandle<()> {
        let heartbeat = self.heartbeat.clone();
        tokio::spawn(async move { heartbeat.beat_until_dropped().await })
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_work_hangs_is_replaced_within_20_s() {
    let server = FakeLeaseServer::default();
    let mut first = TestReplica::start(&server, "first");
    first.wait_until_leader().await;
    let work = first.spawn_beating_work();
    let mut second = TestReplica::start(&server, "second");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(*first.leads.borrow() && !*second.leads.borrow());
    // The work hangs: it has not ended and records no heartbeat.
    work.abort();
    let _ = work.await;
    let hung = first.heartbeat.begin();
    let took = second.wait_until_leader().await;
    assert!(took < Duration::from_secs(12), "{took:?}");
    assert!(!first.leadership.is_current() && server.holder() == "second");
    // The replica does not acquire the Lease while the work of its old term has not ended.
    second.stop.cancel();
    second.task.await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!*first.leads.borrow() && server.holder().is_empty());
    drop(hung);
    first.wait_until_leader().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_work_never_starts_is_replaced() {
    let server = FakeLeaseServer::default();
    let mut first = TestReplica::start(&server, "first");
    first.wait_until_leader().await;
    let mut second = TestReplica::start(&server, "second");
    let took = second.wait_until_leader().await;
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_release_is_retried() {
    let server = FakeLeaseServer::default();
    let mut first = TestReplica::start(&server, "first");
    first.wait_until_leader().await;
    let _hung = first.heartbeat.begin();
    tokio::time::sleep(HUNG_AFTER.saturating_sub(Duration::from_secs(1))).await;
    server.with(|state| state.unavailable = true);
    first.wait_until_not_leader().await;
    assert_eq!(server.holder(), "first");
    server.with(|state| state.unavailable = false);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(server.holder(), "");
}

/// A process is stopped for long enough that another replica acquires and releases the Lease: its
/// old term must end.
#[tokio::test(start_paused = true)]
async fn a_leader_that_was_replaced_meanwhile_begins_a_new_term() {
    let server = FakeLeaseServer::default();
    let mut first = TestReplica::start(&server, "first");
    first.wait_until_leader().await;
    let work = first.spawn_beating_work();
    let term = first.leadership.current_term(&CancellationToken::new()).unwrap();
    server.with(|state| {
        if let Some(lease) = &mut state.lease {
            lease["spec"]["holderIdentity"] = "".into();
            lease["metadata"]["resourceVersion"] = "other".into();
        }
    });
    first.wait_until_not_leader().await;
    assert!(!term.is_active());
    work.abort();
    first.wait_until_leader().await;
    assert!(!term.is_active());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_releases_the_lease() {
    let server = FakeLeaseServer::default();
    let mut first = TestReplica::start(&server, "first");
    first.wait_until_leader().await;
    let mut second = TestReplica::start(&server, "second");
    first.stop.cancel();
    first.task.await.unwrap();
    let took = second.wait_until_leader().await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(!*first.leads.borrow() && first.leadership.renewal_age().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_standby_acquires_a_released_lease_at_once() {
    let server = FakeLeaseServer::default();
    let mut first = TestReplica::start(&server, "first");
    first.wait_until_leader().await;
    let _work = first.spawn_beating_work();
    let mut second = TestReplica::start(&server, "second");
    tokio::time::sleep(Duration::from_secs(30)).await;
    first.stop.cancel();
    first.task.await.unwrap();
    let took = second.wait_until_leader().await;
    assert!(took < Duration::from_millis(50), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_one_request_of_the_leader_and_none_of_a_standby() {
    let server = FakeLeaseServer::default();
    let mut first = TestReplica::start(&server, "first");
    first.wait_until_leader().await;
    let _work = first.spawn_beating_work();
    let _second = TestReplica::start(&server, "second");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let kinds = ["GET", "LIST", "WATCH", "POST"];
    let before = kinds.map(|kind| server.requests(kind));
    let renewals = server.requests("PUT");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(kinds.map(|kind| server.requests(kind)), before);
    // A renewal every 1.25 to 1.875 s.
    let renewals = server.requests("PUT") - renewals;
    assert!((31..=48).contains(&renewals), "{renewals}");
}

/// Both the watch of the standby and the leader fail.
#[tokio::test(start_paused = true)]
async fn a_silent_watch_does_not_delay_the_successor_of_a_lost_leader() {
    let server = FakeLeaseServer::default();
    server.with(|state| state.silent_watches = true);
    let mut first = TestReplica::start(&server, "first");
    first.wait_until_leader().await;
    let _work = first.spawn_beating_work();
    let mut second = TestReplica::start(&server, "second");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!*second.leads.borrow());
    first.task.abort();
    let took = second.wait_until_leader().await;
    // Without events, the standby observes the last renewal and the end of the Lease by its reads,
    // which are up to 1.5 retry periods apart.
    let bound = LEASE_DURATION + 2 * RETRY_PERIOD.mul_f64(1.5);
    assert!(took <= bound + Duration::from_millis(50), "{took:?}");
}
