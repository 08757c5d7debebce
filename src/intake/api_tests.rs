//! Tests of the requests of intake against a scripted API server.

use std::time::Duration;

use prewarmer_core::{
    intake::{
        coalesce::successor_name,
        queue::{Lookup, LookupResult},
    },
    task::PrewarmTaskSpec,
    workload::{WorkloadKind, WorkloadKinds},
};
use prewarmer_kube::mock_api::MockApi;
use prometheus::Registry;
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    create::{CreationFailed, create_or_get_task},
    *,
};

const TASKS: &str = "/apis/prewarm.io/v1alpha1/namespaces/shop/prewarmtasks";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/web";

fn task_path(name: &str) -> String {
    format!("{TASKS}/{name}")
}

/// Spawns the creation of the task `auto-1`.
fn spawn_creation(api: &MockApi) -> tokio::task::JoinHandle<Result<String, CreationFailed>> {
    let client = api.client();
    let draft = TaskDraft {
        namespace: "shop".into(),
        name: "auto-1".into(),
        workloads: ["Deployment/web".to_owned()].into(),
        more_workloads: 0,
        spec: PrewarmTaskSpec::new(vec!["nginx:1".into()]),
        first_hint_at: jiff::Timestamp::now(),
        keys: Vec::new(),
    };
    tokio::spawn(
        async move { create_or_get_task(&client, &draft, &IntakeSettings::default()).await },
    )
}

fn stored_task(name: &str, phase: &str) -> Value {
    json!({
        "apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-of-{name}")},
        "spec": {"images": ["nginx:1"]}, "status": {"phase": phase},
    })
}

#[tokio::test(start_paused = true)]
async fn a_created_task_records_its_origin_and_its_workloads() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    let sent = api.expect("POST", TASKS).respond(201, stored_task("auto-1", "Pending")).await;
    let metadata = &sent.body["metadata"];
    assert_eq!(metadata["labels"]["prewarm.io/origin"], "admission");
    assert_eq!(metadata["annotations"], json!({"prewarm.io/workloads": "Deployment/web"}));
    assert_eq!(sent.body["spec"]["ttlSecondsAfterFinished"], 3600);
    assert_eq!(api.join(creation).await.unwrap(), "auto-1");
}

#[tokio::test(start_paused = true)]
async fn a_valid_task_of_the_same_name_is_returned() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    api.expect("POST", TASKS).fail(409, "AlreadyExists", "exists").await;
    api.expect("GET", &task_path("auto-1")).respond(200, stored_task("auto-1", "Running")).await;
    assert_eq!(api.join(creation).await.unwrap(), "auto-1");
}

#[tokio::test(start_paused = true)]
async fn a_failed_task_gets_a_successor_named_after_its_uid() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    api.expect("POST", TASKS).fail(409, "AlreadyExists", "exists").await;
    api.expect("GET", &task_path("auto-1")).respond(200, stored_task("auto-1", "Failed")).await;
    let successor = successor_name("auto-1", "uid-of-auto-1");
    let sent = api.expect("POST", TASKS).respond(201, stored_task(&successor, "Pending")).await;
    assert_eq!(sent.body["metadata"]["name"], *successor);
    assert_eq!(api.join(creation).await.unwrap(), successor);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_being_deleted_gets_a_successor() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    api.expect("POST", TASKS).fail(409, "AlreadyExists", "exists").await;
    let mut deleted = stored_task("auto-1", "Running");
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    api.expect("GET", &task_path("auto-1")).respond(200, deleted).await;
    let successor = successor_name("auto-1", "uid-of-auto-1");
    let sent = api.expect("POST", TASKS).respond(201, stored_task(&successor, "Pending")).await;
    assert_eq!(sent.body["metadata"]["name"], *successor);
    assert_eq!(api.join(creation).await.unwrap(), successor);
}

/// Returns a completed task for an image whose tag moves, which ended this many seconds ago.
fn completed_task(name: &str, image: &str, seconds: i64) -> Value {
    let mut task = stored_task(name, "Completed");
    task["spec"]["images"] = json!([image]);
    let end = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
    task["status"]["completionTime"] = end.to_string().into();
    task
}

#[tokio::test(start_paused = true)]
async fn a_completed_task_whose_tag_may_have_moved_gets_one_renewal() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    api.expect("POST", TASKS).fail(409, "AlreadyExists", "exists").await;
    api.expect("GET", &task_path("auto-1"))
        .respond(200, completed_task("auto-1", "nginx:latest", 301))
        .await;
    let sent = api.expect("POST", TASKS).fail(409, "AlreadyExists", "another replica").await;
    let renewal = sent.body["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(renewal.starts_with("auto-") && renewal != "auto-1", "{renewal}");
    api.expect("GET", &task_path(&renewal))
        .respond(200, completed_task(&renewal, "nginx:latest", 1))
        .await;
    assert_eq!(api.join(creation).await.unwrap(), renewal);
}

#[rstest]
#[case("nginx:latest", 290)]
#[case("nginx:1", 4000)]
#[tokio::test(start_paused = true)]
async fn a_completed_task_whose_tags_are_current_is_returned(
    #[case] image: &str,
    #[case] seconds: i64,
) {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    api.expect("POST", TASKS).fail(409, "AlreadyExists", "exists").await;
    let stored = completed_task("auto-1", image, seconds);
    api.expect("GET", &task_path("auto-1")).respond(200, stored).await;
    assert_eq!(api.join(creation).await.unwrap(), "auto-1");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_deleted_before_it_is_read_is_created_again() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    api.expect("POST", TASKS).fail(409, "AlreadyExists", "exists").await;
    api.expect("GET", &task_path("auto-1")).fail(404, "NotFound", "deleted").await;
    let sent = api.expect("POST", TASKS).respond(201, stored_task("auto-1", "Pending")).await;
    assert_eq!(sent.body["metadata"]["name"], "auto-1");
    assert_eq!(api.join(creation).await.unwrap(), "auto-1");
}

#[tokio::test(start_paused = true)]
async fn at_most_5_successor_names_are_tried() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    let mut name = "auto-1".to_owned();
    for _ in 0..5 {
        api.expect("POST", TASKS).fail(409, "AlreadyExists", "exists").await;
        api.expect("GET", &task_path(&name)).respond(200, stored_task(&name, "Failed")).await;
        name = successor_name(&name, &format!("uid-of-{name}"));
    }
    for _ in 0..6 {
        api.expect("POST", TASKS).fail(409, "AlreadyExists", "exists").await;
    }
    assert!(api.join(creation).await.is_err());
}

#[rstest]
#[case(400, "BadRequest")]
#[case(403, "Forbidden")]
#[case(404, "NotFound")]
#[case(422, "Invalid")]
#[tokio::test(start_paused = true)]
async fn a_rejected_creation_is_not_retried(#[case] code: u16, #[case] reason: &str) {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    api.expect("POST", TASKS).fail(code, reason, "rejected").await;
    assert!(api.join(creation).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_after_delays_that_double() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    let (begun, mut delay) = (tokio::time::Instant::now(), 400);
    for (code, reason) in [(429, "TooManyRequests"), (500, "InternalError"), (503, "Unavailable")] {
        api.expect("POST", TASKS).fail(code, reason, "later").await;
        api.expect_none(Duration::from_millis(delay - 5)).await;
        delay *= 2;
    }
    api.expect("POST", TASKS).respond(201, stored_task("auto-1", "Pending")).await;
    let waited = begun.elapsed();
    assert!(waited < Duration::from_millis(400 + 800 + 1600 + 50), "{waited:?}");
    assert_eq!(api.join(creation).await.unwrap(), "auto-1");
}

#[tokio::test(start_paused = true)]
async fn a_creation_is_abandoned_after_6_attempts() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    for _ in 0..6 {
        api.expect("POST", TASKS).fail(500, "InternalError", "etcd").await;
    }
    assert!(api.join(creation).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_existing_task_that_cannot_be_read_is_not_taken_as_valid() {
    let mut api = MockApi::new();
    let creation = spawn_creation(&api);
    api.expect("POST", TASKS).fail(409, "AlreadyExists", "exists").await;
    api.expect("GET", &task_path("auto-1")).fail(500, "InternalError", "etcd").await;
    api.expect("POST", TASKS).fail(403, "Forbidden", "rejected").await;
    assert!(api.join(creation).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_obsolete_task_is_marked_by_its_annotation_alone() {
    let mut api = MockApi::new();
    let client = api.client();
    let task = ("shop".to_owned(), "auto-1".to_owned());
    tokio::spawn(async move { mark_obsolete(&client, &task, "superseded").await });
    let answer = stored_task("auto-1", "Running");
    let sent = api.expect("PATCH", &task_path("auto-1")).respond(200, answer).await;
    assert_eq!(sent.content_type, "application/merge-patch+json");
    let annotations = json!({"prewarm.io/obsolete": "superseded"});
    assert_eq!(sent.body, json!({"metadata": {"annotations": annotations}}));
}

fn deployment_kind() -> Arc<WorkloadKind> {
    let kinds = WorkloadKinds::default();
    Arc::clone(kinds.find_by_api_version("apps/v1", "Deployment").unwrap())
}

fn deployment(name: &str, uid: &str) -> Value {
    let containers = json!([{"name": "c", "image": "nginx:1"}]);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": "7"},
        "spec": {"replicas": 1, "template": {"spec": {"containers": containers}}},
    })
}

/// Spawns the lookup of the Deployment `web`.
fn spawn_lookup(api: &MockApi) -> tokio::task::JoinHandle<LookupResult> {
    let context = LookupContext {
        client: api.client(),
        policy: Arc::default(),
        context: ClusterContextStore::default(),
    };
    let (namespace, name) = ("shop".into(), "web".into());
    let lookup =
        Lookup { id: 1, kind: deployment_kind(), namespace, name, is_placed_by_name: false };
    tokio::spawn(async move { look_up(context, lookup).await.1 })
}

#[tokio::test(start_paused = true)]
async fn a_lookup_returns_uid_version_and_workloads_of_the_stored_object() {
    let mut api = MockApi::new();
    let lookup = spawn_lookup(&api);
    api.expect("GET", DEPLOYMENT).respond(200, deployment("web", "u")).await;
    let LookupResult::Stored { uid, version, workloads, .. } = api.join(lookup).await else {
        panic!("the object is stored");
    };
    assert_eq!((&*uid, &*version, workloads.len()), ("u", "7", 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_another_object_counts_as_missing() {
    let mut api = MockApi::new();
    let lookup = spawn_lookup(&api);
    api.expect("GET", DEPLOYMENT).respond(200, deployment("other", "u")).await;
    assert!(matches!(api.join(lookup).await, LookupResult::Missing));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_lookup_counts_as_missing_after_5_s() {
    let mut api = MockApi::new();
    let lookup = spawn_lookup(&api);
    let _unanswered = api.expect("GET", DEPLOYMENT).hold().await;
    let sent = tokio::time::Instant::now();
    assert!(matches!(api.join(lookup).await, LookupResult::Missing));
    let took = sent.elapsed();
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(6), "{took:?}");
}

fn pod_of_run(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "ownerReferences": [{"apiVersion": "a.b/v1", "kind": "Run", "name": name, "controller": true}]},
        "spec": {"containers": [{"name": "c", "image": "runner:1"}]},
    })
}

/// Running intake.
struct TestIntake {
    api: MockApi,
    metrics: IntakeMetrics,
    reviews: ReviewHints,
}

impl TestIntake {
    /// Starts intake without hints.
    fn idle() -> Self {
        let (api, registry) = (MockApi::new(), Registry::new());
        let metrics = IntakeMetrics::register(&registry).unwrap();
        let context = ClusterContextStore::default();
        context.set_namespace_names(["shop".to_owned()].into());
        let (reviews, _, receiver) = channel(
            ObjectErrorMetrics::register(&registry).unwrap(),
            metrics.clone(),
            IntakeSettings::default(),
            context,
        );
        tokio::spawn(run(api.client(), receiver, Arc::default(), CancellationToken::new()));
        Self { api, metrics, reviews }
    }

    /// Starts intake and offers a hint of the Deployment `web` with the UID `admitted`.
    fn start() -> Self {
        let intake = Self::idle();
        assert_eq!(intake.offer("admitted"), OfferOutcome::Queued);
        intake
    }

    /// Offers a hint of the Deployment `web` with this UID.
    fn offer(&self, uid: &str) -> OfferOutcome {
        let kind = deployment_kind();
        let object = kind.parse_value(deployment("web", uid)).unwrap();
        self.reviews.offer(Hint::new(&kind, "shop", &object).unwrap())
    }

    /// Offers 100 hints per second for ten minutes, and returns the number of lookups. `uid` is that
    /// of the hint with a number, and `answer` the answer to each lookup.
    async fn lookups_of(&mut self, uid: impl Fn(u32) -> String, answer: (u16, Value)) -> u32 {
        let mut lookups = 0;
        for n in 0..60_000 {
            self.offer(&uid(n));
            let wait = Duration::from_millis(10);
            lookups += self.api.answer_all("GET", DEPLOYMENT, wait, &answer).await;
        }
        lookups
    }

    fn hints(&self, outcome: &str) -> u64 {
        self.metrics.hints.with_label_values(&[outcome]).get()
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_creates_a_task_with_the_images_of_the_stored_object() {
    let mut intake = TestIntake::start();
    let mut stored = deployment("web", "admitted");
    stored["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:2".into();
    intake.api.expect("GET", DEPLOYMENT).respond(200, stored).await;
    let sent = intake.api.expect("POST", TASKS).respond(201, stored_task("t", "Pending")).await;
    assert_eq!(sent.body["spec"]["images"], json!(["nginx:2"]));
}

/// The first pod is only counted, as is a second one within the hour.
#[tokio::test(start_paused = true)]
async fn a_pod_of_an_unknown_controller_is_warmed_when_its_image_recurs() {
    let mut intake = TestIntake::idle();
    let kinds = WorkloadKinds::default();
    let kind = kinds.find_by_api_version("v1", "Pod").unwrap();
    for (name, new_images) in [("run-1", 1), ("run-2", 2), ("run-3", 2)] {
        let pod = kind.parse_value(pod_of_run(name)).unwrap();
        let hint = Hint::new(kind, "shop", &pod).unwrap();
        assert_eq!(intake.reviews.offer(hint), OfferOutcome::Queued);
        let path = format!("/api/v1/namespaces/shop/pods/{name}");
        let mut stored = pod_of_run(name);
        stored["spec"]["nodeName"] = json!("chosen-by-the-scheduler");
        intake.api.expect("GET", &path).respond(200, stored).await;
        if name == "run-3" {
            let task = stored_task("t", "Pending");
            let sent = intake.api.expect("POST", TASKS).respond(201, task).await;
            assert_eq!(sent.body["spec"]["images"], json!(["runner:1"]));
            assert_eq!(sent.body["spec"]["nodeAffinity"], Value::Null);
        }
        intake.api.expect_none(Duration::from_secs(31 * 60)).await;
        assert_eq!(intake.metrics.one_shot.with_label_values(&["new_image"]).get(), new_images);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_about_an_object_with_another_uid_creates_no_task() {
    let mut intake = TestIntake::start();
    intake.api.expect("GET", DEPLOYMENT).respond(200, deployment("web", "foreign")).await;
    intake.api.expect_none(Duration::from_secs(60)).await;
    assert_eq!(intake.hints("not_stored"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hint_about_an_unreadable_object_is_discarded_without_a_retry() {
    let mut intake = TestIntake::start();
    intake.api.expect("GET", DEPLOYMENT).fail(403, "Forbidden", "no permission").await;
    intake.api.expect_none(Duration::from_secs(60)).await;
    assert_eq!(intake.hints("forbidden"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_not_found_is_looked_up_5_times() {
    let mut intake = TestIntake::start();
    for (code, reason) in [
        (404, "NotFound"),
        (429, "TooManyRequests"),
        (500, "Error"),
        (503, "Error"),
        (404, "NotFound"),
    ] {
        intake.api.expect("GET", DEPLOYMENT).fail(code, reason, "no object").await;
    }
    intake.api.expect_none(Duration::from_secs(60)).await;
    assert_eq!(intake.hints("not_stored"), 1);
}

fn not_found() -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
        "reason": "NotFound", "message": "no object"});
    (404, status)
}

/// The outcome of a lookup is remembered for 2 minutes: ten minutes have 5 such intervals, and the
/// end of the fifth.
const INTERVALS: u32 = 6;

#[tokio::test(start_paused = true)]
async fn sixty_thousand_equal_reviews_cause_one_lookup_in_two_minutes() {
    let mut intake = TestIntake::start();
    // Without images, so that no task covers the object.
    let mut stored = deployment("web", "admitted");
    stored["spec"]["template"]["spec"]["containers"] = json!([]);
    let lookups = intake.lookups_of(|_| "admitted".into(), (200, stored)).await;
    assert!((1..=INTERVALS).contains(&lookups), "{lookups}");
    assert!(intake.hints("duplicate") > 59_000);
}

#[tokio::test(start_paused = true)]
async fn sixty_thousand_reviews_of_an_object_that_does_not_exist_cause_few_lookups() {
    let mut intake = TestIntake::start();
    let lookups = intake.lookups_of(|_| "admitted".into(), not_found()).await;
    assert!((5..=5 * INTERVALS).contains(&lookups), "{lookups}");
}

#[tokio::test(start_paused = true)]
async fn sixty_thousand_forged_uids_cause_lookups_with_growing_delays() {
    let mut intake = TestIntake::start();
    let forged = |n| format!("forged-{n}");
    let lookups = intake.lookups_of(forged, (200, deployment("web", "real"))).await;
    // 8 lookups in the first 40 s, and then one every 80 s.
    assert!((8..=8 + 600 / 80 + 1).contains(&lookups), "{lookups}");
}
