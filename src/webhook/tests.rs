//! Tests of the webhook, in process.

use axum::{
    body::{Body, to_bytes},
    http::Method,
};
use prewarmer_core::{
    task::caps::Caps,
    workload::{self, DefaultMode},
};
use prewarmer_kube::metrics::ObjectErrorMetrics;
use prometheus::Registry;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::intake;

struct WebhookFixture {
    state: WebhookState,
    intake_metrics: intake::IntakeMetrics,
    _receiver: intake::HintReceiver,
}

fn webhook(default_mode: DefaultMode) -> WebhookFixture {
    let registry = Registry::new();
    let around = ClusterContextStore::default();
    let intake_metrics = intake::IntakeMetrics::register(&registry).unwrap();
    let metrics = WebhookMetrics::register(&registry).unwrap();
    let (hints, _, receiver) = intake::channel(
        ObjectErrorMetrics::register(&registry).unwrap(),
        intake_metrics.clone(),
        intake::IntakeSettings::default(),
        around.clone(),
    );
    let excluded_namespaces = ["kube-system".to_owned()].into();
    let policy = Arc::new(Policy { default_mode, excluded_namespaces, ..Policy::default() });
    let state = WebhookState { hints, policy, context: around, metrics };
    WebhookFixture { state, intake_metrics, _receiver: receiver }
}

impl WebhookFixture {
    fn webhook(&self) -> Arc<Webhook> {
        Arc::new(Webhook::new(self.state.clone()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Body>,
    ) -> (StatusCode, Value) {
        let request =
            Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, content_type);
        let response = self.webhook().respond(request.body(body.into()).unwrap()).await;
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Sends a review, which must be allowed, and returns its warnings.
    async fn admit(&self, review: &Value) -> Value {
        let (status, answer) =
            self.send(Method::POST, WORKLOADS_PATH, "application/json", review.to_string()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["response"]["uid"], "u-1");
        assert_eq!(answer["response"]["allowed"], true);
        answer["response"]["warnings"].clone()
    }

    fn count(&self, outcome: &str) -> u64 {
        self.intake_metrics.hints.with_label_values(&[outcome]).get()
    }

    fn one_shot_count(&self, reason: &str) -> u64 {
        self.intake_metrics.one_shot.with_label_values(&[reason]).get()
    }
}

fn deployment(image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop", "uid": "0d6f"},
           "spec": {"replicas": 3, "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn kind(object: &Value) -> Value {
    let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
    json!({"group": group, "version": version, "kind": object["kind"]})
}

fn review(object: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": kind(object),
        "namespace": "shop", "operation": "CREATE", "userInfo": {"username": "me"}, "object": object, "oldObject": null}})
}

#[tokio::test]
async fn new_deployment_queues_hint() {
    let webhook = webhook(DefaultMode::OptOut);
    assert_eq!(webhook.admit(&review(&deployment("nginx:1"))).await, Value::Null);
    assert_eq!(webhook.count("queued"), 1);
}

#[rstest]
#[case("/metadata")]
#[case("/spec/template/metadata")]
#[tokio::test]
async fn opted_out_workload_queues_no_hint(#[case] path: &str) {
    let webhook = webhook(DefaultMode::OptOut);
    let mut object = deployment("nginx:1");
    object.pointer_mut(path).unwrap()["annotations"] = json!({"prewarm.io/enabled": "false"});
    webhook.admit(&review(&object)).await;
    assert_eq!((webhook.count("queued"), webhook.count("opted_out")), (0, 1));
}

#[tokio::test]
async fn a_namespace_opts_in_and_a_workload_out_again() {
    let webhook = webhook(DefaultMode::OptIn);
    let mut object = deployment("nginx:1");
    webhook.admit(&review(&object)).await;
    assert_eq!(webhook.count("queued"), 0);
    webhook
        .state
        .context
        .set_namespace_annotations("shop", [("prewarm.io/enabled".into(), "true".into())].into());
    webhook.admit(&review(&object)).await;
    assert_eq!(webhook.count("queued"), 1);
    object["metadata"]["annotations"] = json!({"prewarm.io/enabled": "false"});
    webhook.admit(&review(&object)).await;
    assert_eq!(webhook.count("queued"), 1);
}

fn job(metadata: &Value, node_name: Option<&str>) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
        "spec": {"parallelism": 1, "completions": 1, "suspend": false, "template": {
            "spec": {"nodeName": node_name, "containers": [{"name": "c", "image": "job:1"}]}}}});
    job["metadata"]["name"] = json!("report");
    job["metadata"]["uid"] = json!("u-2");
    job
}

#[rstest]
#[case::single_run(None, "no_further_completions")]
#[case::pinned(Some("n1"), "node_name")]
#[tokio::test]
async fn one_shot_job_is_counted_and_queues_no_hint(
    #[case] node_name: Option<&str>,
    #[case] reason: &str,
) {
    let webhook = webhook(DefaultMode::OptOut);
    let mut review = review(&job(&json!({}), node_name));
    assert_eq!(webhook.admit(&review).await, Value::Null);
    assert_eq!((webhook.count("queued"), webhook.one_shot_count(reason)), (0, 1));
    review["request"]["dryRun"] = json!(true);
    webhook.admit(&review).await;
    assert_eq!(webhook.one_shot_count(reason), 1, "a dry run was counted");
    review["request"]["dryRun"] = json!(false);
    let unused = json!({"annotations": {"prewarm.io/nodes": "3"}});
    review["request"]["object"] = job(&unused, node_name);
    let warnings = webhook.admit(&review).await;
    let warning = warnings[0].as_str().unwrap();
    assert!(warning.starts_with(&format!("prewarmer: not warmed, {reason}: ")), "{warning}");
    assert!(warning.ends_with("prewarm.io/enabled: \"true\""), "{warning}");
    let annotations = json!({"annotations": {"prewarm.io/enabled": "true"}});
    review["request"]["object"] = job(&annotations, node_name);
    assert_eq!(webhook.admit(&review).await, Value::Null);
    assert_eq!((webhook.count("queued"), webhook.one_shot_count(reason)), (1, 2));
}

#[tokio::test]
async fn annotation_of_a_namespace_opts_in_one_shot_jobs() {
    let webhook = webhook(DefaultMode::OptOut);
    let opted_in = [("prewarm.io/enabled".into(), "true".into())].into();
    webhook.state.context.set_namespace_annotations("shop", opted_in);
    webhook.admit(&review(&job(&json!({}), None))).await;
    assert_eq!((webhook.count("queued"), webhook.one_shot_count("no_further_completions")), (1, 0));
}

/// The lookup decides which images of such an object recur.
#[tokio::test]
async fn job_of_an_unknown_controller_queues_a_hint() {
    let webhook = webhook(DefaultMode::OptOut);
    let owners = json!({"ownerReferences": [
        {"apiVersion": "a.b/v1", "kind": "Run", "name": "r", "controller": true}]});
    webhook.admit(&review(&job(&owners, None))).await;
    assert_eq!((webhook.count("queued"), webhook.one_shot_count("new_image")), (1, 0));
}

#[rstest]
#[case::dry_run("/request/dryRun", json!(true))]
#[case::deletion("/request/operation", json!("DELETE"))]
#[case::status("/request/subResource", json!("status"))]
#[case::system("/request/namespace", json!("kube-system"))]
#[case::ours("/request/object/metadata/labels", json!({"app.kubernetes.io/managed-by": "prewarmer"}))]
#[case::known("/request/object/metadata/ownerReferences", json!([{"apiVersion": "apps/v1", "kind": "Deployment", "controller": true}]))]
#[case::unchanged("/request/oldObject", deployment("nginx:1"))]
#[case::other_kind("/request/kind/kind", json!("Widget"))]
#[case::no_template("/request/object/spec", json!({}))]
#[case::odd_template("/request/object/spec/template", json!([1]))]
#[case::no_object("/request/object", json!(null))]
#[tokio::test]
async fn irrelevant_review_queues_no_hint(#[case] path: &str, #[case] value: Value) {
    let webhook = webhook(DefaultMode::OptOut);
    let mut review = review(&deployment("nginx:1"));
    let (parent, key) = path.rsplit_once('/').unwrap();
    review.pointer_mut(parent).unwrap()[key] = value;
    webhook.admit(&review).await;
    assert_eq!(webhook.count("queued"), 0);
}

#[tokio::test]
async fn a_scale_only_update_is_no_hint_and_a_new_image_is() {
    let webhook = webhook(DefaultMode::OptOut);
    let mut update = review(&deployment("nginx:2"));
    update["request"]["operation"] = json!("UPDATE");
    update["request"]["oldObject"] = deployment("nginx:2");
    update["request"]["oldObject"]["spec"]["replicas"] = json!(1);
    update["request"]["object"]["metadata"]["annotations"] = json!({"prewarm.io/nodes": "7"});
    update["request"]["oldObject"]["metadata"]["annotations"] = json!({"prewarm.io/nodes": "7"});
    webhook.admit(&update).await;
    assert_eq!(webhook.count("queued"), 0);
    update["request"]["oldObject"] = deployment("nginx:1");
    webhook.admit(&update).await;
    assert_eq!(webhook.count("queued"), 1);
}

#[rstest]
#[case::moving_tag("nginx", None, 1)]
#[case::fixed_tag("nginx:1", None, 0)]
#[case::raised_policy("nginx:1", Some("Always"), 1)]
#[case::lowered_policy("nginx", Some("IfNotPresent"), 0)]
#[case::never_pulled("nginx", Some("Never"), 0)]
#[tokio::test]
async fn a_restart_is_a_hint_where_new_pods_resolve_a_tag_again(
    #[case] image: &str,
    #[case] policy: Option<&str>,
    #[case] hints: u64,
) {
    let webhook = webhook(DefaultMode::OptOut);
    let mut object = deployment(image);
    object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
    let mut update = review(&object);
    update["request"]["operation"] = json!("UPDATE");
    update["request"]["oldObject"] = object.clone();
    webhook.admit(&update).await;
    assert_eq!(webhook.count("queued"), 0, "nothing has changed");
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": "2026-11-30T10:00:00Z"});
    object["spec"]["template"]["metadata"]["annotations"] = annotations;
    update["request"]["object"] = object.clone();
    assert_eq!(webhook.admit(&update).await, Value::Null);
    assert_eq!(webhook.count("queued"), hints);
    update["request"]["oldObject"] = object.clone();
    update["request"]["object"]["spec"]["replicas"] = json!(9);
    webhook.admit(&update).await;
    assert_eq!(webhook.count("queued"), hints, "scaling starts pods of the same revision");
}

#[tokio::test]
async fn a_change_of_the_pull_policy_is_a_hint_where_it_is_stronger() {
    for (before, after, hints) in
        [("IfNotPresent", "Always", 1), ("Always", "IfNotPresent", 0), ("Never", "IfNotPresent", 1)]
    {
        let webhook = webhook(DefaultMode::OptOut);
        let with = |policy: &str| {
            let mut object = deployment("nginx:1");
            object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
            object
        };
        let mut update = review(&with(after));
        update["request"]["operation"] = json!("UPDATE");
        update["request"]["oldObject"] = with(before);
        webhook.admit(&update).await;
        assert_eq!(webhook.count("queued"), hints, "{before} to {after}");
    }
}

#[rstest]
#[case("UPPER/case:x")]
#[case("a//b")]
#[case(":tag")]
#[case(&"a".repeat(600))]
#[tokio::test]
async fn a_bad_reference_is_admitted_with_a_warning(#[case] image: &str) {
    let webhook = webhook(DefaultMode::OptOut);
    let warnings = webhook.admit(&review(&deployment(image))).await;
    let warning = warnings[0].as_str().unwrap();
    assert!(warning.starts_with("prewarmer: image "), "{warning}");
    assert!(warning.len() <= 240);
    assert_eq!(webhook.count("queued"), 0);
}

#[rstest]
#[case("application/json", "{", StatusCode::BAD_REQUEST)]
#[case("application/json", "", StatusCode::BAD_REQUEST)]
#[case("application/json", "[]", StatusCode::BAD_REQUEST)]
#[case("application/json", r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u","kind":{"kind":"Pod"},"operation":"CREATE"}}"#, StatusCode::BAD_REQUEST)]
#[case("text/plain", "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE)]
#[case("", "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE)]
#[tokio::test]
async fn invalid_request_gets_error_with_details(
    #[case] content_type: &str,
    #[case] body: &'static str,
    #[case] expected: StatusCode,
) {
    let webhook = webhook(DefaultMode::OptOut);
    for path in [WORKLOADS_PATH, TASKS_PATH] {
        let (status, answer) = webhook.send(Method::POST, path, content_type, body).await;
        assert_eq!(status, expected);
        assert!(answer["error"].is_string() && answer["details"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn invalid_size_path_and_method_are_rejected() {
    let webhook = webhook(DefaultMode::OptOut);
    let large = vec![b' '; 10 * 1024 * 1024];
    let (status, answer) =
        webhook.send(Method::POST, WORKLOADS_PATH, "application/json", large).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer["details"].as_str().unwrap().contains("8388608"));
    let (status, _) = webhook.send(Method::POST, "/elsewhere", "application/json", "{}").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = webhook.send(Method::GET, WORKLOADS_PATH, "application/json", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_task_with_bad_images_is_denied_and_each_is_named() {
    let webhook = webhook(DefaultMode::OptOut);
    let task = |images: Value| {
        let spec = json!({"images": images});
        review(
            &json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "metadata": {"name": "t"}, "spec": spec}),
        )
    };
    let send = |review: Value| {
        webhook.send(Method::POST, TASKS_PATH, "application/json", review.to_string())
    };
    let (_, answer) = send(task(json!(["nginx", "a//b", "docker.io/library/nginx"]))).await;
    assert_eq!(answer["response"]["allowed"], false);
    let status = &answer["response"]["status"];
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("spec.images[1]") && message.contains("spec.images[2]"), "{message}");
    let causes: Vec<&str> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    assert_eq!(causes, ["spec.images[1]", "spec.images[2]"]);
    let (_, answer) = send(task(json!(["nginx", "redis:7"]))).await;
    assert_eq!(answer["response"]["allowed"], true);
}

/// A task that was created before a limit was lowered can still be cancelled.
#[tokio::test]
async fn limits_of_the_operator_apply_only_to_new_tasks() {
    let mut webhook = webhook(DefaultMode::OptOut);
    let mut policy = (*webhook.state.policy).clone();
    policy.caps = Arc::new(Caps { images: 1, ..Caps::default() });
    webhook.state.policy = Arc::new(policy);
    let task = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "metadata": {"name": "t"},
        "spec": {"images": ["nginx:1", "redis:7"], "cancel": true}});
    let mut request = review(&task);
    for (operation, allowed) in [("CREATE", false), ("UPDATE", true)] {
        request["request"]["operation"] = json!(operation);
        request["request"]["oldObject"] =
            if allowed { request["request"]["object"].clone() } else { Value::Null };
        let (status, answer) =
            webhook.send(Method::POST, TASKS_PATH, "application/json", request.to_string()).await;
        assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(allowed)));
    }
}

/// Verifies that an object that cannot be looked up, such as one without a name, creates no hint.
#[rstest]
#[case::no_name(json!({"generateName": "x-"}))]
#[case::no_uid(json!({"name": "web"}))]
#[case::another_namespace(json!({"name": "web", "uid": "u", "namespace": "bank"}))]
#[case::a_path(json!({"name": "../secrets/x", "uid": "u"}))]
#[tokio::test]
async fn object_without_valid_identity_queues_no_hint(#[case] metadata: Value) {
    let webhook = webhook(DefaultMode::OptOut);
    let mut review = review(&deployment("attacker.example/100gb:1"));
    review["request"]["object"]["metadata"] = metadata;
    webhook.admit(&review).await;
    assert_eq!((webhook.count("queued"), webhook.count("unidentified")), (0, 1));
}

/// Returns a Deployment with `containers` containers of minimum size, each with a different image.
fn deployment_with_containers(containers: usize) -> Value {
    let mut object = deployment("nginx:1");
    let all: Vec<Value> = (0..containers)
        .map(|n| json!({"name": format!("c{n}"), "image": format!("i{n}")}))
        .collect();
    object["spec"]["template"]["spec"]["containers"] = json!(all);
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_deployment_does_not_delay_small_reviews() {
    let webhook = webhook(DefaultMode::OptOut);
    let large = api_server_format(&without_uid(review(&deployment_with_containers(45_000))));
    let small = review(&deployment("nginx:1")).to_string();
    let under_test = webhook.webhook();
    let send = |body: &str| {
        let request =
            Request::post(WORKLOADS_PATH).header(header::CONTENT_TYPE, "application/json");
        Arc::clone(&under_test).respond(request.body(Body::from(body.to_owned())).unwrap())
    };
    let (first, second) = (tokio::spawn(send(&large)), tokio::spawn(send(&large)));
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let begun = Instant::now();
        assert_eq!(send(&small).await.status(), StatusCode::OK);
        slowest = slowest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for response in [first, second] {
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert!(slowest < Duration::from_secs(1), "a small review took {slowest:?}");
}

#[test]
fn images_above_limit_cause_warning() {
    let text = review(&deployment_with_containers(1001)).to_string();
    let review = AdmissionReview::parse(text.as_bytes()).unwrap();
    let (policy, around) = (Policy::default(), ClusterContextStore::default());
    assert!(
        decide_workload(&review, &policy, &around, MAX_INLINE_IMAGES).is_none(),
        "it is evaluated on a blocking thread"
    );
    let (verdict, claim) = decide_workload(&review, &policy, &around, usize::MAX).unwrap();
    assert!(verdict.warnings[0].contains("more than 1000"), "{:?}", verdict.warnings);
    assert_eq!(claim.unwrap().new_keys().unwrap().len(), workload::MAX_IMAGES);
}

/// Returns a review in the API server's format, which begins with the UID.
fn api_server_format(review: &Value) -> String {
    let request = review["request"].to_string();
    let rest = request.replacen('{', r#"{"uid":"u-1","#, 1);
    format!(r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{rest}}}"#)
}

fn without_uid(mut review: Value) -> Value {
    review["request"].as_object_mut().unwrap().remove("uid");
    review
}

#[tokio::test]
async fn large_review_without_permit_is_allowed_and_looked_up() {
    let webhook = webhook(DefaultMode::OptOut);
    let under_test = webhook.webhook();
    // All of MAX_LARGE_REVIEWS.
    let _permits = under_test.large_reviews.try_acquire_many(2).unwrap();
    let body = api_server_format(&without_uid(review(&deployment_with_containers(60))));
    let request = Request::post(WORKLOADS_PATH).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body)).unwrap();
    let response = Arc::clone(&under_test).respond(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer: Value =
        serde_json::from_slice(&to_bytes(response.into_body(), 10_000).await.unwrap()).unwrap();
    assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
    assert_eq!(webhook.state.metrics.reviews_unexamined.with_label_values(&["pool_full"]).get(), 1);
    assert_eq!(webhook.count("queued"), 1, "its object is read from the API server");
}

#[tokio::test]
async fn review_that_is_not_decided_in_time_is_allowed() {
    let webhook = webhook(DefaultMode::OptOut);
    let text = api_server_format(&without_uid(review(&deployment("nginx:1"))));
    let body = BodyReader::default().read_body(&HeaderMap::new(), Body::from(text)).await;
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let (decide, decided) = std::sync::mpsc::channel::<()>();
    let read = move |_: &WebhookState, _: &[u8]| {
        // Until the answer was received.
        let _ = decided.recv();
        Ok(None)
    };
    let deadline = Duration::from_millis(10);
    let answer =
        webhook.state.decide_blocking(body.ok().unwrap(), deadline, permit, Instant::now(), read);
    let response = answer.await;
    drop(decide);
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = to_bytes(response.into_body(), 10_000).await.unwrap();
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
    assert_eq!(webhook.state.metrics.reviews_unexamined.with_label_values(&["deadline"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn stalled_bodies_do_not_delay_small_review() {
    let webhook = webhook(DefaultMode::OptOut);
    let under_test = webhook.webhook();
    let stalled = || {
        Body::from_stream(futures::stream::pending::<
            Result<axum::body::Bytes, std::convert::Infallible>,
        >())
    };
    let send = |body: Body| {
        let request =
            Request::post(WORKLOADS_PATH).header(header::CONTENT_TYPE, "application/json");
        Arc::clone(&under_test).respond(request.body(body).unwrap())
    };
    let slow: Vec<_> = (0..8).map(|_| tokio::spawn(send(stalled()))).collect();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let begun = tokio::time::Instant::now();
    let response = send(Body::from(review(&deployment("nginx:1")).to_string())).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "the small review took {:?}",
        begun.elapsed()
    );
    for one in slow {
        assert_eq!(one.await.unwrap().status(), StatusCode::REQUEST_TIMEOUT);
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error() {
    let webhook = webhook(DefaultMode::OptOut);
    let body = Body::from_stream(futures::stream::poll_fn(
        |_| -> std::task::Poll<Option<Result<Bytes, std::convert::Infallible>>> { panic!("test") },
    ));
    let (status, answer) = webhook.send(Method::POST, TASKS_PATH, "application/json", body).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer["error"], "internal error");
}

#[tokio::test]
async fn task_with_thousands_of_problems_gets_bounded_answer() {
    let webhook = webhook(DefaultMode::OptOut);
    let tolerations: Vec<Value> =
        (0..20_000).map(|n| json!({"key": format!("{n} ?"), "operator": "Odd"})).collect();
    let task = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "metadata": {"name": "t"},
        "spec": {"images": ["nginx"], "tolerations": tolerations}});
    let request = Request::post(TASKS_PATH).header(header::CONTENT_TYPE, "application/json");
    let body = Body::from(review(&task).to_string());
    let response = webhook.webhook().respond(request.body(body).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(answer["response"]["allowed"], false);
    assert!(bytes.len() < 64 * 1024, "{} bytes", bytes.len());
}

proptest::proptest! {
    #[test]
    fn reading_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..500)) {
        let _ = AdmissionReview::parse(&bytes);
    }
}
