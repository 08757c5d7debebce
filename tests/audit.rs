//! Tests of the requests of `prewarmer audit`: pages, bounds and missing permissions, against a
//! scripted API server. `tests/e2e/audit.rs` runs the program on a cluster.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use prewarmer_cli::audit::{AuditArgs, AuditError, AuditOptions, ReadLimits, audit};
use prewarmer_core::audit::AuditReport;
use prewarmer_kube::mock_api::MockApi;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const EVENTS: &str = "/api/v1/namespaces/shop/events";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/shop/replicasets";
const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";
const NODES: &str = "/api/v1/nodes";

/// Starts an audit of the namespace `shop`.
fn start(api: &MockApi, limits: ReadLimits) -> JoinHandle<Result<AuditReport, AuditError>> {
    let client = api.client();
    let args = AuditArgs { limit: 20, warm_one_shots: false };
    let options = AuditOptions::new(&args, Some("shop".into())).unwrap();
    tokio::spawn(async move { audit(&client, &options, &limits).await })
}

/// Event of a pull of four seconds by the pod `web-6f-bbbbN` on the node `node-N`.
fn event(number: usize) -> Value {
    let time = format!("2026-11-21T10:{number:02}:00Z");
    json!({
        "metadata": {"name": format!("e{number}"), "namespace": "shop"},
        "involvedObject": {"kind": "Pod", "namespace": "shop", "name": pod_name(number), "fieldPath": "spec.containers{web}"},
        "reason": "Pulled", "count": 1,
        "message": "Successfully pulled image \"web:1\" in 4s (4s including waiting). Image size: 9 bytes.",
        "source": {"component": "kubelet", "host": format!("node-{number}")},
        "firstTimestamp": time, "lastTimestamp": time, "eventTime": null,
    })
}

fn pod_name(number: usize) -> String {
    format!("web-6f-bbbb{number}")
}

fn owned(name: &str, kind: &str, owner: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": "u", "controller": true}]}})
}

fn pod(number: usize) -> Value {
    owned(&pod_name(number), "ReplicaSet", "web-6f")
}

/// Returns a page of a list. `token` continues it, and is empty on the last page.
fn page(items: &[Value], token: &str) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "items": items,
        "metadata": {"resourceVersion": "1", "continue": token}})
}

fn last_page(items: &[Value]) -> Value {
    page(items, "")
}

/// Returns 40 nodes that are older than all events, except for `node-4`.
fn nodes() -> Vec<Value> {
    let node = |number: usize| {
        let created = if number == 4 { "2026-11-21T10:02:30Z" } else { "2026-11-21T09:00:00Z" };
        json!({"metadata": {"name": format!("node-{number}"), "creationTimestamp": created}})
    };
    (0..40).map(node).collect()
}

/// Answers the requests after those of events: one page of pods, one of `ReplicaSet`s, and 40 nodes.
async fn answer_owners(api: &mut MockApi) {
    let pods: Vec<Value> = (2..8).map(pod).collect();
    api.expect("GET", PODS).respond(200, last_page(&pods)).await;
    let replica_set = owned("web-6f", "Deployment", "web");
    api.expect("GET", REPLICA_SETS).respond(200, last_page(&[replica_set])).await;
    api.expect("GET", NODES).respond(200, last_page(&nodes())).await;
}

#[tokio::test(start_paused = true)]
async fn events_are_read_in_pages_and_owners_as_metadata() {
    let mut api = MockApi::new();
    let work = start(&api, ReadLimits::default());
    let first = page(&[event(2), event(3)], "page-2");
    let request = api.expect("GET", EVENTS).respond(200, first).await;
    let expected = "limit=500&fieldSelector=reason%3DPulled%2CinvolvedObject.kind%3DPod";
    let words = |query: &str| {
        let mut words: Vec<String> = query.split('&').map(str::to_owned).collect();
        words.retain(|word| !word.is_empty());
        words.sort();
        words
    };
    assert_eq!(words(&request.query), words(expected));
    let request = api.expect("GET", EVENTS).respond(200, last_page(&[event(4)])).await;
    assert!(request.query.contains("continue=page-2"), "{}", request.query);
    let request = api.expect("GET", PODS).respond(200, last_page(&[pod(2), pod(3), pod(4)])).await;
    assert!(request.accept.contains("PartialObjectMetadataList"), "{}", request.accept);
    let replica_set = owned("web-6f", "Deployment", "web");
    api.expect("GET", REPLICA_SETS).respond(200, last_page(&[replica_set])).await;
    let (first, second) = (page(&nodes()[..30], "page-2"), last_page(&nodes()[30..]));
    let request = api.expect("GET", NODES).respond(200, first).await;
    assert!(request.accept.contains("PartialObjectMetadataList"), "{}", request.accept);
    api.expect("GET", NODES).respond(200, second).await;
    let report = api.join(work).await.unwrap();
    assert_eq!((report.nodes.count, report.nodes.listed), (40, true));
    assert_eq!((report.starts, report.waited_seconds.as_millis()), (3, 12_000));
    // Four batches of 9 s after 3 s, from 10:01:56: 10:02:35, before the pulls of 10:02:56 and
    // 10:03:56, of which the latter is on a node that joined later.
    assert_eq!(report.spared_seconds.as_millis(), 4000);
    assert_eq!(report.not_spared_seconds.new_node.as_millis(), 4000);
    let rows: Vec<(&str, &str)> =
        report.workloads.iter().map(|row| (&*row.kind, &*row.name)).collect();
    assert_eq!(rows, [("Deployment", "web")], "no Job is recorded, so that Jobs are not listed");
    assert_eq!(report.notes, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_bound_on_events_ends_the_list_with_a_note() {
    let mut api = MockApi::new();
    let work = start(&api, ReadLimits { events: 3, ..ReadLimits::default() });
    let first = page(&[event(2), event(3)], "page-2");
    let request = api.expect("GET", EVENTS).respond(200, first).await;
    assert!(request.query.contains("limit=3"), "{}", request.query);
    // A page with more objects than were requested.
    let second = page(&[event(4), event(5), event(6)], "page-3");
    api.expect("GET", EVENTS).respond(200, second).await;
    answer_owners(&mut api).await;
    let report = api.join(work).await.unwrap();
    assert_eq!(report.starts, 3);
    assert!(
        report.notes[0].starts_with("Only 3 events were read after 3 objects"),
        "{:?}",
        report.notes
    );
}

#[tokio::test(start_paused = true)]
async fn large_pages_are_requested_again_with_fewer_objects() {
    let mut api = MockApi::new();
    let work = start(&api, ReadLimits { page_bytes: 5000, ..ReadLimits::default() });
    let mut large = event(2);
    large["message"] = json!("x".repeat(6000));
    api.expect("GET", EVENTS).respond(200, page(&[large, event(3)], "page-2")).await;
    let request = api.expect("GET", EVENTS).respond(200, last_page(&[event(4)])).await;
    let is_smaller = request.query.split('&').any(|word| word == "limit=50");
    assert!(is_smaller && !request.query.contains("continue="), "{}", request.query);
    answer_owners(&mut api).await;
    let report = api.join(work).await.unwrap();
    assert_eq!((report.starts, report.notes.len()), (1, 0), "{:?}", report.notes);
}

#[tokio::test(start_paused = true)]
async fn a_bound_on_bytes_ends_the_list_with_a_note() {
    let mut api = MockApi::new();
    let first = page(&[event(2)], "page-2");
    let total_bytes = first.to_string().len() + 100;
    let work = start(&api, ReadLimits { total_bytes, ..ReadLimits::default() });
    api.expect("GET", EVENTS).respond(200, first.clone()).await;
    api.expect("GET", EVENTS).respond(200, first).await;
    // Nothing is left for the other lists, which are not requested.
    let report = api.join(work).await.unwrap();
    assert_eq!(report.starts, 1);
    let expected = format!("Only 1 events were read within {total_bytes} bytes");
    assert!(report.notes[0].starts_with(&expected), "{:?}", report.notes);
    assert!(report.notes[1].starts_with("Listing pods failed"), "{:?}", report.notes);
    assert_eq!((report.workloads[0].kind.as_str(), report.nodes.listed), ("Deleted", false));
}

#[tokio::test(start_paused = true)]
async fn a_bound_on_requests_ends_all_lists() {
    let mut api = MockApi::new();
    let work = start(&api, ReadLimits { requests: 2, ..ReadLimits::default() });
    for token in ["page-2", "page-3"] {
        api.expect("GET", EVENTS).respond(200, page(&[event(2)], token)).await;
    }
    let report = api.join(work).await.unwrap();
    assert_eq!(report.starts, 2);
    assert!(
        report.notes[0].starts_with("Only 2 events were read within 2 requests"),
        "{:?}",
        report.notes
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_api_server_ends_the_list_with_a_note() {
    let mut api = MockApi::new();
    let time = Duration::from_secs(20);
    let work = start(&api, ReadLimits { time, ..ReadLimits::default() });
    api.expect("GET", EVENTS).respond(200, page(&[event(2)], "page-2")).await;
    let held = api.expect("GET", EVENTS).hold().await;
    // The clock of the test advances to the end of the time, because nothing else is due.
    let report = work.await.unwrap().unwrap();
    drop(held);
    assert!(
        report.notes[0].starts_with("Only 1 events were read within 20 s"),
        "{:?}",
        report.notes
    );
}

#[tokio::test(start_paused = true)]
async fn an_expired_list_is_used_as_far_as_it_was_read() {
    let mut api = MockApi::new();
    let work = start(&api, ReadLimits::default());
    api.expect("GET", EVENTS).respond(200, page(&[event(2)], "page-2")).await;
    api.expect("GET", EVENTS).fail(410, "Expired", "the continue token is too old").await;
    answer_owners(&mut api).await;
    let report = api.join(work).await.unwrap();
    assert!(report.notes[0].starts_with("Only 1 events were read before"), "{:?}", report.notes);
}

#[tokio::test(start_paused = true)]
async fn one_undecodable_event_does_not_affect_the_others() {
    let mut api = MockApi::new();
    let work = start(&api, ReadLimits::default());
    let mut broken = event(2);
    broken["source"] = json!(7);
    api.expect("GET", EVENTS).respond(200, last_page(&[broken, event(3)])).await;
    answer_owners(&mut api).await;
    let report = api.join(work).await.unwrap();
    assert_eq!(report.starts, 1);
    assert!(report.notes[0].starts_with("1 events have an unknown message"), "{:?}", report.notes);
}

#[tokio::test(start_paused = true)]
async fn only_events_are_necessary() {
    let mut api = MockApi::new();
    let work = start(&api, ReadLimits::default());
    api.expect("GET", EVENTS).respond(200, last_page(&[event(2), event(3)])).await;
    for path in [PODS, REPLICA_SETS, JOBS, NODES] {
        api.expect("GET", path).fail(403, "Forbidden", "forbidden").await;
    }
    let report = api.join(work).await.unwrap();
    let starts = [
        "Listing pods failed (not permitted): pods are shown as Deleted",
        "Listing replicasets failed (not permitted)",
        "Listing jobs failed (not permitted)",
        "Listing nodes failed (not permitted): only those of the events",
    ];
    assert_eq!(report.notes.len(), starts.len(), "{:?}", report.notes);
    for (note, start) in report.notes.iter().zip(starts) {
        assert!(note.starts_with(start), "{note}");
    }
    assert_eq!((report.nodes.count, report.nodes.listed), (2, false));
    assert_eq!((&*report.workloads[0].kind, &*report.workloads[0].name), ("Deleted", "web-6f"));
}

#[tokio::test(start_paused = true)]
async fn missing_events_and_permissions_are_errors() {
    let mut api = MockApi::new();
    let work = start(&api, ReadLimits::default());
    let mut forged = event(2);
    forged["source"] = json!({"component": "eve", "host": "node-2"});
    api.expect("GET", EVENTS).respond(200, last_page(&[forged])).await;
    let error = api.join(work).await.unwrap_err();
    assert!(matches!(&error, AuditError::NoEvents { ignored: 1, .. }), "{error}");
    let work = start(&api, ReadLimits::default());
    api.expect("GET", EVENTS).fail(403, "Forbidden", "events is forbidden").await;
    let error = api.join(work).await.unwrap_err();
    assert!(matches!(&error, AuditError::Forbidden { .. }), "{error}");
    let work = start(&api, ReadLimits { time: Duration::from_secs(5), ..ReadLimits::default() });
    let held = api.expect("GET", EVENTS).hold().await;
    let error = work.await.unwrap().unwrap_err();
    drop(held);
    assert!(error.to_string().contains("no page was read within 5 s"), "{error}");
}

#[test]
fn names_that_are_no_namespaces_are_rejected() {
    let args = AuditArgs { limit: 20, warm_one_shots: false };
    let error = AuditOptions::new(&args, Some("../secrets".into())).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}
