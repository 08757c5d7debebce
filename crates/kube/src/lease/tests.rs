//! Tests of the election against a fake API server with one Lease.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Method, Request, Response, StatusCode};
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
}

impl FakeLeaseServer {
    fn with<T>(&self, act: impl FnOnce(&mut FakeLeaseState) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.unwrap();
                let (code, answer) = server.with(|state| state.answer(&method, &body));
                let response = Response::builder()
                    .status(code)
                    .body(Body::from(serde_json::to_vec(&answer).unwrap()));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        Client::new(service, "own")
    }

    fn holder(&self) -> String {
        let text =
            |lease: &Value| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        self.with(|state| state.lease.as_ref().map(text).unwrap_or_default())
    }
}

impl FakeLeaseState {
    fn answer(&mut self, method: &Method, body: &[u8]) -> (StatusCode, Value) {
        let refusal = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code});
            (StatusCode::from_u16(code).unwrap(), status)
        };
        if self.unavailable {
            return refusal(503, "ServiceUnavailable");
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
        tokio::spawn(async move {
            let _beating = heartbeat.begin();
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                heartbeat.beat();
            }
        })
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
