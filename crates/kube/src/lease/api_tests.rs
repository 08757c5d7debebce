//! Tests of the requests for the Lease against a scripted API server.

use std::sync::{Arc, Mutex};

use http::{Method, Request};
use kube::client::Body;
use prometheus::Registry;
use serde_json::{Value, json};

use super::*;
use crate::mock_api::MockApi;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/own/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/own/leases/l";

/// Annotation whose value names the value before, with the last value of another leader.
#[derive(Clone, Default)]
pub(super) struct TestAnnotation {
    observed: Arc<Mutex<Option<String>>>,
}

impl LeaseAnnotation for TestAnnotation {
    const KEY: &'static str = "example.com/totals";

    fn observe(&self, value: Option<&str>) {
        *self.observed.lock().unwrap() = value.map(str::to_owned);
    }

    fn render(&self, value: Option<&str>) -> String {
        format!("led after {}", value.unwrap_or("none"))
    }
}

/// Election in which the replica `me` takes part.
struct TestElection {
    api: MockApi,
    annotation: TestAnnotation,
    leads: watch::Receiver<bool>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl TestElection {
    fn start() -> Self {
        let api = MockApi::new();
        let (sender, leads) = watch::channel(false);
        let heartbeat = Heartbeat::default();
        tokio::spawn(beat_while_leading(heartbeat.clone(), leads.clone()));
        let handles = ElectionHandles {
            leads: sender,
            leadership: Leadership::default(),
            heartbeat,
            contact: ApiContact::default(),
        };
        let settings =
            LeaseSettings { name: "l".into(), namespace: "own".into(), identity: "me".into() };
        let annotation = TestAnnotation::default();
        let metrics = LeaseMetrics::register(&Registry::new()).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(
            without_watch(api.client()),
            settings,
            annotation.clone(),
            metrics,
            handles,
            stop.clone(),
        ));
        Self { api, annotation, leads, stop, task }
    }

    /// Starts an election in which the replica has acquired the Lease.
    async fn start_leading() -> Self {
        let mut election = Self::start();
        election.api.expect("GET", LEASE).respond(200, lease("", "1")).await;
        election.api.expect("PUT", LEASE).respond(200, lease("me", "2")).await;
        election.wait_until_leading(true).await;
        election
    }

    /// Waits until the state of the response that was just sent is published.
    async fn wait_until_leading(&mut self, leading: bool) {
        let published = self.leads.wait_for(|leads| *leads == leading);
        let published = tokio::time::timeout(Duration::from_millis(10), published).await;
        assert!(published.is_ok(), "the election did not publish {leading}");
    }
}

/// Records heartbeats during each term, as a controller does: without them the election would end
/// every term after [`HUNG_AFTER`]. Ends when the election ends.
async fn beat_while_leading(heartbeat: Heartbeat, mut leads: watch::Receiver<bool>) {
    while leads.wait_for(|leads| *leads).await.is_ok() {
        tokio::select! {
            ended = leads.wait_for(|leads| !*leads) => if ended.is_err() { return },
            () = heartbeat.beat_until_dropped() => {}
        }
    }
}

/// Returns a client whose lists, with which a watch starts, get no response: a standby then reads
/// the Lease. The watch is tested in `tests.rs`.
fn without_watch(client: Client) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            if request.method() == Method::GET && request.uri().path() == LEASES {
                return std::future::pending().await;
            }
            client.send(request).await
        }
    });
    Client::new(service, "own")
}

fn lease(holder: &str, version: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "l", "namespace": "own", "resourceVersion": version },
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 9, "leaseTransitions": 3,
            "acquireTime": "2026-01-01T00:00:00.000000Z",
            "renewTime": "2026-01-01T00:00:01.000000Z",
        },
    })
}

#[tokio::test(start_paused = true)]
async fn an_absent_lease_is_created_for_this_replica() {
    let mut election = TestElection::start();
    election.api.expect("GET", LEASE).fail(404, "NotFound", "no such lease").await;
    let created = election.api.expect("POST", LEASES).respond(201, lease("me", "1")).await;
    let spec = &created.body["spec"];
    assert_eq!((&spec["holderIdentity"], &spec["leaseTransitions"]), (&json!("me"), &json!(1)));
    assert_eq!(spec["leaseDurationSeconds"], 9);
    election.wait_until_leading(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_creation_conflicts_does_not_lead() {
    let mut election = TestElection::start();
    election.api.expect("GET", LEASE).fail(404, "NotFound", "no such lease").await;
    election.api.expect("POST", LEASES).fail(409, "AlreadyExists", "exists").await;
    election.api.expect("GET", LEASE).respond(200, lease("other", "1")).await;
    assert!(!*election.leads.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_the_version_read() {
    let mut election = TestElection::start();
    election.api.expect("GET", LEASE).respond(200, lease("", "7")).await;
    let taken = election.api.expect("PUT", LEASE).respond(200, lease("me", "8")).await.body;
    assert_eq!(taken["metadata"]["resourceVersion"], "7");
    assert_eq!(taken["spec"]["holderIdentity"], "me");
    assert_eq!(taken["spec"]["leaseTransitions"], 4);
}

#[tokio::test(start_paused = true)]
async fn a_held_lease_is_written_only_after_9_s_without_a_renewal() {
    let mut election = TestElection::start();
    election.api.expect("GET", LEASE).respond(200, lease("other", "1")).await;
    let observed = Instant::now();
    while observed.elapsed() <= Duration::from_secs(9) {
        election.api.expect("GET", LEASE).respond(200, lease("other", "1")).await;
    }
    election.api.expect("PUT", LEASE).respond(200, lease("me", "2")).await;
    election.wait_until_leading(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_one_request_that_changes_only_the_renew_time() {
    let mut election = TestElection::start_leading().await;
    let before = lease("me", "2");
    for version in ["3", "4"] {
        let put = election.api.expect("PUT", LEASE).respond(200, lease("me", version)).await;
        let mut renewed = put.body;
        let renew_time = renewed["spec"]["renewTime"].take();
        assert!(renew_time.as_str() > before["spec"]["renewTime"].as_str(), "{renew_time}");
        renewed["spec"]["renewTime"] = before["spec"]["renewTime"].clone();
        assert_eq!(renewed["spec"], before["spec"]);
    }
    let renewed = election.api.expect("PUT", LEASE).respond(200, lease("me", "5")).await.body;
    assert_eq!(renewed["metadata"]["resourceVersion"], "4");
}

/// Another program adds an annotation to the Lease.
#[tokio::test(start_paused = true)]
async fn a_change_by_another_program_does_not_end_the_leadership() {
    let mut election = TestElection::start_leading().await;
    election.api.expect("PUT", LEASE).fail(409, "Conflict", "modified").await;
    election.api.expect("GET", LEASE).respond(200, lease("me", "7")).await;
    let renewed = election.api.expect("PUT", LEASE).respond(200, lease("me", "8")).await.body;
    assert_eq!(renewed["metadata"]["resourceVersion"], "7");
    election.api.expect("PUT", LEASE).respond(200, lease("me", "9")).await;
    assert!(*election.leads.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_another_holder_ends_the_leadership_at_once() {
    let mut election = TestElection::start_leading().await;
    election.api.expect("PUT", LEASE).fail(409, "Conflict", "modified").await;
    election.api.expect("GET", LEASE).respond(200, lease("other", "7")).await;
    election.wait_until_leading(false).await;
}

#[tokio::test(start_paused = true)]
async fn repeated_conflicts_at_a_renewal_end_the_leadership_at_once() {
    let mut election = TestElection::start_leading().await;
    election.api.expect("PUT", LEASE).fail(409, "Conflict", "modified").await;
    election.api.expect("GET", LEASE).respond(200, lease("me", "7")).await;
    election.api.expect("PUT", LEASE).fail(409, "Conflict", "modified").await;
    election.wait_until_leading(false).await;
}

/// The API server may have written the Lease whose response was lost.
#[tokio::test(start_paused = true)]
async fn the_lease_is_read_after_a_renewal_without_a_response() {
    let mut election = TestElection::start_leading().await;
    let _unanswered = election.api.expect("PUT", LEASE).hold().await;
    election.api.expect("GET", LEASE).respond(200, lease("me", "3")).await;
    let renewed = election.api.expect("PUT", LEASE).respond(200, lease("me", "4")).await.body;
    assert_eq!(renewed["metadata"]["resourceVersion"], "3");
    election.api.expect("PUT", LEASE).respond(200, lease("me", "5")).await;
    assert!(*election.leads.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_ends_the_leadership_before_it_is_created_again() {
    let mut election = TestElection::start_leading().await;
    election.api.expect("PUT", LEASE).fail(404, "NotFound", "no such lease").await;
    election.api.expect("GET", LEASE).fail(404, "NotFound", "no such lease").await;
    election.wait_until_leading(false).await;
    election.api.expect("GET", LEASE).fail(404, "NotFound", "no such lease").await;
    election.api.expect("POST", LEASES).respond(201, lease("me", "9")).await;
}

#[tokio::test(start_paused = true)]
async fn server_errors_end_the_leadership_6_s_after_the_last_renewal() {
    let TestElection { mut api, mut leads, .. } = TestElection::start_leading().await;
    let renewed = Instant::now();
    api.expect("PUT", LEASE).fail(500, "InternalError", "etcd").await;
    loop {
        tokio::select! {
            _ = leads.wait_for(|leads| !*leads) => break,
            _ = api.expect("GET", LEASE).fail(500, "InternalError", "etcd") => {}
        }
    }
    let led = renewed.elapsed();
    let expected = Duration::from_millis(5900)..Duration::from_millis(6100);
    assert!(expected.contains(&led), "{led:?}");
    api.expect("GET", LEASE).respond(200, lease("other", "3")).await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_request_is_sent_again_after_its_timeout_of_2_s() {
    let mut election = TestElection::start();
    let _unanswered = election.api.expect("GET", LEASE).hold().await;
    let sent = Instant::now();
    election.api.expect("GET", LEASE).respond(200, lease("other", "1")).await;
    let pause = sent.elapsed();
    assert!(pause >= Duration::from_secs(2) && pause < Duration::from_secs(4), "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_without_permission_does_not_lead_and_retries() {
    let mut election = TestElection::start();
    for _ in 0..2 {
        election.api.expect("GET", LEASE).fail(403, "Forbidden", "leases is forbidden").await;
    }
    assert!(!*election.leads.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_stopping_leader_writes_an_empty_holder() {
    let mut election = TestElection::start_leading().await;
    election.stop.cancel();
    election.api.expect("GET", LEASE).respond(200, lease("me", "5")).await;
    let released = election.api.expect("PUT", LEASE).respond(200, lease("", "6")).await.body;
    assert_eq!(released["metadata"]["resourceVersion"], "5");
    assert_eq!(released["spec"]["holderIdentity"], "");
    let renew_time = released["spec"]["renewTime"].as_str();
    assert!(renew_time > lease("", "")["spec"]["renewTime"].as_str(), "{renew_time:?}");
    election.api.join(election.task).await;
}

#[tokio::test(start_paused = true)]
async fn a_stopping_leader_does_not_write_the_lease_of_its_successor() {
    let mut election = TestElection::start_leading().await;
    election.stop.cancel();
    election.api.expect("GET", LEASE).respond(200, lease("other", "5")).await;
    election.api.join(election.task).await;
}

/// Returns a Lease whose annotation has this value.
fn annotated(holder: &str, value: &str) -> Value {
    let mut lease = lease(holder, "1");
    lease["metadata"]["annotations"] = json!({ TestAnnotation::KEY: value });
    lease
}

#[tokio::test(start_paused = true)]
async fn the_leader_writes_the_annotation_that_follows_the_one_read() {
    let mut election = TestElection::start();
    election.api.expect("GET", LEASE).respond(200, annotated("", "a")).await;
    let taken = election.api.expect("PUT", LEASE).respond(200, lease("me", "2")).await.body;
    assert_eq!(taken["metadata"]["annotations"][TestAnnotation::KEY], "led after a");
}

#[tokio::test(start_paused = true)]
async fn a_standby_observes_the_annotation_of_the_leader() {
    let mut election = TestElection::start();
    election.api.expect("GET", LEASE).respond(200, annotated("other", "b")).await;
    election.api.expect("GET", LEASE).respond(200, annotated("other", "b")).await;
    assert_eq!(election.annotation.observed.lock().unwrap().as_deref(), Some("b"));
}
