//! Tests of the requests of effects against a scripted API server.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;
use prewarmer_core::{
    controller::{
        PhaseEvent, Propagation, StatusWrite, WorkerCreation, WorkerDeletion, WorkersDeletion,
    },
    task::{Phase, PrewarmTaskStatus, WorkerKind},
    worker::FailureReason,
};
use prewarmer_kube::{
    lease::Leadership,
    mock_api::{MockApi, Received},
};
use prometheus::Registry;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, channel};
use tokio_util::sync::CancellationToken;

use super::*;

const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const EVENTS: &str = "/api/v1/namespaces/shop/events";
const TASK: &str = "/apis/prewarm.io/v1alpha1/namespaces/shop/prewarmtasks/t";
const STATUS: &str = "/apis/prewarm.io/v1alpha1/namespaces/shop/prewarmtasks/t/status";
const PLANS: &str = "/apis/prewarm.io/v1alpha1/namespaces/shop/prewarmplans";

/// Executor of a leader whose term has just begun, for the task `shop/t`.
struct TestExecutor {
    api: MockApi,
    executor: Executor,
    results: Receiver<Observation>,
    term: Term,
}

impl TestExecutor {
    fn new() -> Self {
        let (api, (events, results)) = (MockApi::new(), channel(100));
        let term = Leadership::acquired().current_term(&CancellationToken::new()).unwrap();
        let executor = Executor::new(
            api.client(),
            events,
            ObjectErrorMetrics::register(&Registry::new()).unwrap(),
            Arc::default(),
            term.clone(),
        );
        Self { api, executor, results, term }
    }

    fn spawn(&self, effects: Vec<Effect>) {
        let (namespace, name, uid) = ("shop".into(), "t".into(), "u".into());
        self.executor.spawn(&TaskRef { namespace, name, uid }, effects);
    }

    /// Returns the next result.
    async fn result(&mut self) -> Result<EffectOutput, ApplyError> {
        match tokio::time::timeout(Duration::from_secs(1), self.results.recv()).await {
            Ok(Some(Observation::EffectFinished(finished))) => finished.result,
            _ => panic!("no effect has finished"),
        }
    }
}

fn creation(kind: WorkerKind, name: &str) -> Effect {
    let body = json!({"metadata": {"name": name}}).to_string().into_bytes();
    let (namespace, name) = ("shop".into(), name.into());
    Effect::CreateWorker(Box::new(WorkerCreation { kind, namespace, name, body }))
}

fn deletion(kind: WorkerKind, propagation: Propagation) -> Effect {
    let (namespace, name, uid) = ("shop".into(), "w".into(), "of-w".into());
    Effect::DeleteWorker(Box::new(WorkerDeletion { kind, namespace, name, uid, propagation }))
}

/// Returns the deletion of the third batch of a task.
fn batch_deletion(kind: WorkerKind, propagation: Propagation) -> Effect {
    let (namespace, batch) = ("shop".into(), Some(3));
    Effect::DeleteWorkers(WorkersDeletion { kind, namespace, batch, propagation })
}

/// Asserts that a request deletes the workers of the third batch, and requests no objects.
fn assert_deletes_batch(sent: &Received, propagation: &str) {
    let query: BTreeMap<_, _> = form_urlencoded::parse(sent.query.as_bytes()).collect();
    let labels = "app.kubernetes.io/managed-by=prewarmer,prewarm.io/task-uid=u,prewarm.io/batch=3";
    assert_eq!(query["labelSelector"], labels);
    assert_eq!(query["includeObject"], "None");
    assert_eq!(sent.accept, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    assert_eq!(sent.body["propagationPolicy"], propagation);
}

fn status_write(events: &[Phase]) -> Effect {
    Effect::WriteStatus(Box::new(StatusWrite {
        status: PrewarmTaskStatus { phase: Phase::Running, ..PrewarmTaskStatus::default() },
        version: Some("7".into()),
        events: events
            .iter()
            .map(|phase| PhaseEvent { phase: *phase, message: "m".into() })
            .collect(),
    }))
}

fn written_task(version: &str) -> Value {
    json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask",
        "metadata": {"name": "t", "namespace": "shop", "resourceVersion": version}, "spec": 1})
}

#[rstest]
#[case(creation(WorkerKind::Job, "w"), JOBS)]
#[case(creation(WorkerKind::Pod, "w"), PODS)]
#[case(Effect::CreatePlan(Arc::default()), PLANS)]
#[tokio::test(start_paused = true)]
async fn an_object_that_exists_counts_as_created(#[case] effect: Effect, #[case] path: &str) {
    let mut test = TestExecutor::new();
    test.spawn(vec![effect]);
    test.api.expect("POST", path).fail(409, "AlreadyExists", "already exists").await;
    assert_eq!(test.result().await, Ok(EffectOutput::default()));
}

/// The API server sends this when two creations update the usage of a quota at the same time.
#[tokio::test(start_paused = true)]
async fn a_conflict_about_the_quota_does_not_count_as_created() {
    let mut test = TestExecutor::new();
    test.spawn(vec![creation(WorkerKind::Job, "w")]);
    let message = "Operation cannot be fulfilled on resourcequotas \"q\"";
    test.api.expect("POST", JOBS).fail(409, "Conflict", message).await;
    assert_eq!(test.result().await, Err(ApplyError::Transient(message.into())));
}

#[tokio::test(start_paused = true)]
async fn an_exceeded_quota_rejects_the_worker_with_its_reason() {
    let mut test = TestExecutor::new();
    test.spawn(vec![creation(WorkerKind::Job, "w")]);
    let message = "jobs is forbidden: exceeded quota: q, used: count/jobs.batch=1";
    test.api.expect("POST", JOBS).fail(403, "Forbidden", message).await;
    let rejected = ApplyError::Rejected(FailureReason::QuotaExceeded, message.into());
    assert_eq!(test.result().await, Err(rejected));
}

/// The controller decides about the next attempt and its delay.
#[rstest]
#[case(429, "TooManyRequests")]
#[case(500, "InternalError")]
#[case(503, "ServiceUnavailable")]
#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_reported_after_one_request(
    #[case] code: u16,
    #[case] reason: &str,
) {
    let mut test = TestExecutor::new();
    test.spawn(vec![creation(WorkerKind::Job, "w")]);
    test.api.expect("POST", JOBS).fail(code, reason, "overloaded").await;
    assert_eq!(test.result().await, Err(ApplyError::Transient("overloaded".into())));
    test.api.expect_none(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_sent_as_one() {
    let mut test = TestExecutor::new();
    let metadata = ObjectMeta { namespace: Some("shop".into()), ..ObjectMeta::default() };
    test.spawn(vec![Effect::DryRun(Box::new(Pod { metadata, ..Pod::default() }))]);
    let sent = test.api.expect("POST", PODS).respond(201, json!({})).await;
    assert!(sent.query.split('&').any(|part| part == "dryRun=All"), "{}", sent.query);
    assert_eq!(test.result().await, Ok(EffectOutput::default()));
}

#[rstest]
#[case(WorkerKind::Job, JOBS, Propagation::Foreground, "Foreground")]
#[case(WorkerKind::Job, JOBS, Propagation::Background, "Background")]
#[case(WorkerKind::Pod, PODS, Propagation::Background, "Background")]
#[tokio::test(start_paused = true)]
async fn a_worker_is_deleted_by_its_uid_with_the_propagation_of_the_decision(
    #[case] kind: WorkerKind,
    #[case] path: &str,
    #[case] decided: Propagation,
    #[case] propagation: &str,
) {
    let mut test = TestExecutor::new();
    test.spawn(vec![deletion(kind, decided)]);
    let sent = test.api.expect("DELETE", &format!("{path}/w")).fail(404, "NotFound", "gone").await;
    assert_eq!(sent.body["preconditions"], json!({"uid": "of-w"}));
    assert_eq!(sent.body["propagationPolicy"], propagation);
    assert_eq!(test.result().await, Ok(EffectOutput::default()), "a missing worker is deleted");
}

#[tokio::test(start_paused = true)]
async fn a_recreated_worker_is_a_conflict() {
    let mut test = TestExecutor::new();
    test.spawn(vec![deletion(WorkerKind::Pod, Propagation::Background)]);
    let message = "the UID in the precondition does not match the UID in record";
    test.api.expect("DELETE", &format!("{PODS}/w")).fail(409, "Conflict", message).await;
    assert_eq!(test.result().await, Err(ApplyError::Conflict(message.into())));
}

#[rstest]
#[case(WorkerKind::Job, JOBS, Propagation::Foreground, "Foreground")]
#[case(WorkerKind::Pod, PODS, Propagation::Background, "Background")]
#[tokio::test(start_paused = true)]
async fn the_workers_of_a_batch_are_deleted_by_one_request(
    #[case] kind: WorkerKind,
    #[case] path: &str,
    #[case] decided: Propagation,
    #[case] propagation: &str,
) {
    let mut test = TestExecutor::new();
    test.spawn(vec![batch_deletion(kind, decided)]);
    let sent = test.api.expect("DELETE", path).respond(200, json!({"kind": "Table"})).await;
    assert_deletes_batch(&sent, propagation);
    assert_eq!(test.result().await, Ok(EffectOutput::default()));
}

#[tokio::test(start_paused = true)]
async fn finished_jobs_of_a_batch_are_deleted_after_the_response_for_their_pods() {
    let mut test = TestExecutor::new();
    test.spawn(vec![batch_deletion(WorkerKind::Job, Propagation::Background)]);
    let pods = test.api.expect("DELETE", PODS).hold().await;
    test.api.expect_none(Duration::from_secs(1)).await;
    assert_deletes_batch(&pods.respond(200, &json!({"kind": "Table"})), "Background");
    let jobs = test.api.expect("DELETE", JOBS).respond(200, json!({"kind": "Table"})).await;
    assert_deletes_batch(&jobs, "Background");
    assert_eq!(test.result().await, Ok(EffectOutput::default()));
}

/// The controller requests both deletions again.
#[tokio::test(start_paused = true)]
async fn jobs_are_not_deleted_when_the_deletion_of_their_pods_failed() {
    let mut test = TestExecutor::new();
    test.spawn(vec![batch_deletion(WorkerKind::Job, Propagation::Background)]);
    test.api.expect("DELETE", PODS).fail(504, "Timeout", "request did not complete").await;
    let failed = ApplyError::Transient("request did not complete".into());
    assert_eq!(test.result().await, Err(failed));
    test.api.expect_none(Duration::from_secs(60)).await;
}

/// An API server that renders no tables returns the deleted objects.
#[tokio::test(start_paused = true)]
async fn a_response_of_any_size_ends_a_deletion_by_collection() {
    let mut test = TestExecutor::new();
    test.spawn(vec![batch_deletion(WorkerKind::Pod, Propagation::Background)]);
    let objects = json!({"items": "x".repeat(2_000_000)});
    test.api.expect("DELETE", PODS).respond(200, objects).await;
    assert_eq!(test.result().await, Ok(EffectOutput::default()));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_failure_of_a_deletion_by_collection_is_transient_and_bounded() {
    let mut test = TestExecutor::new();
    test.spawn(vec![batch_deletion(WorkerKind::Pod, Propagation::Background)]);
    test.api.expect("DELETE", PODS).respond(502, json!("x".repeat(2_000_000))).await;
    let Err(ApplyError::Transient(message)) = test.result().await else { panic!("no error") };
    assert_eq!(message.len(), 1024);
}

#[tokio::test(start_paused = true)]
async fn a_task_is_deleted_at_the_version_of_the_decision() {
    let mut test = TestExecutor::new();
    test.spawn(vec![Effect::DeleteTask(Some("7".into()))]);
    let sent = test.api.expect("DELETE", TASK).fail(409, "Conflict", "changed").await;
    assert_eq!(sent.body["preconditions"], json!({"uid": "u", "resourceVersion": "7"}));
    assert_eq!(test.result().await, Err(ApplyError::Conflict("changed".into())));
}

/// The response contains a spec that cannot be decoded.
#[tokio::test(start_paused = true)]
async fn a_status_is_merged_at_its_version_and_returns_the_new_one() {
    let mut test = TestExecutor::new();
    test.spawn(vec![status_write(&[])]);
    let sent = test.api.expect("PATCH", STATUS).respond(200, written_task("8")).await;
    assert_eq!(sent.content_type, "application/merge-patch+json");
    assert_eq!(sent.body["metadata"], json!({"resourceVersion": "7"}));
    assert_eq!(sent.body["status"]["phase"], "Running");
    assert_eq!(test.result().await.unwrap().resource_version.as_deref(), Some("8"));
}

#[rstest]
#[case(404, "NotFound")]
#[case(409, "Conflict")]
#[tokio::test(start_paused = true)]
async fn a_status_of_a_changed_task_is_a_conflict(#[case] code: u16, #[case] reason: &str) {
    let mut test = TestExecutor::new();
    test.spawn(vec![status_write(&[])]);
    test.api.expect("PATCH", STATUS).fail(code, reason, "changed").await;
    assert_eq!(test.result().await, Err(ApplyError::Conflict("changed".into())));
}

#[tokio::test(start_paused = true)]
async fn a_status_is_sent_after_its_events_even_if_they_are_rejected() {
    let mut test = TestExecutor::new();
    test.spawn(vec![status_write(&[Phase::Running, Phase::Failed])]);
    let first = test.api.expect("POST", EVENTS).fail(403, "Forbidden", "no permission").await;
    assert_eq!((&first.body["reason"], &first.body["type"]), (&json!("Running"), &json!("Normal")));
    let second = test.api.expect("POST", EVENTS).hold().await;
    test.api.expect_none(Duration::from_secs(1)).await;
    let second = second.respond(201, &json!({}));
    assert_eq!(
        (&second.body["reason"], &second.body["type"]),
        (&json!("Failed"), &json!("Warning"))
    );
    test.api.expect("PATCH", STATUS).respond(200, written_task("8")).await;
    assert!(test.result().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_status_does_not_wait_for_the_32_creations_in_progress() {
    let mut test = TestExecutor::new();
    let creations = (0..33).map(|index| creation(WorkerKind::Pod, &format!("w{index}")));
    test.spawn(creations.collect());
    let mut held = Vec::new();
    for _ in 0..32 {
        held.push(test.api.expect("POST", PODS).hold().await);
    }
    test.api.expect_none(Duration::from_secs(1)).await;
    test.spawn(vec![status_write(&[])]);
    test.api.expect("PATCH", STATUS).respond(200, written_task("8")).await;
    held.pop().unwrap().respond(201, &json!({}));
    test.api.expect("POST", PODS).respond(201, json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_is_aborted_without_a_result_at_the_end_of_the_term() {
    let mut test = TestExecutor::new();
    test.spawn(vec![creation(WorkerKind::Job, "w")]);
    let _unanswered = test.api.expect("POST", JOBS).hold().await;
    test.term.end();
    tokio::time::timeout(Duration::from_secs(1), test.executor.drained()).await.unwrap();
    assert!(test.results.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn no_request_is_sent_after_the_end_of_the_term() {
    let mut test = TestExecutor::new();
    test.term.end();
    test.spawn(vec![status_write(&[Phase::Failed])]);
    test.api.expect_none(Duration::from_secs(60)).await;
}
