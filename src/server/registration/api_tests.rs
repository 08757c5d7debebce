//! Tests of the requests for the webhook configuration against a scripted API server.

use std::sync::Arc;

use http::Request;
use kube::client::Body;
use prewarmer_core::workload::Policy;
use prewarmer_kube::mock_api::MockApi;
use serde_json::{Value, json};

use super::*;
use crate::webhook::registration::{Registration, WebhookAddress, webhook_configuration};

const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/prewarmer";

const CONFIGURATIONS: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// Returns a client whose lists, with which a watch starts, get no response.
fn without_watch(client: Client) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            if request.uri().path() == CONFIGURATIONS {
                return std::future::pending().await;
            }
            client.send(request).await
        }
    });
    Client::new(service, "own")
}

/// Running registration of a webhook, and what it depends on.
struct TestRegistration {
    api: MockApi,
    bundle: watch::Sender<Option<String>>,
    leads: watch::Sender<bool>,
    registered: watch::Receiver<bool>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl TestRegistration {
    /// Starts a registration whose watch gets no response.
    fn start(leads: bool, remove: bool) -> Self {
        let api = MockApi::new();
        let client = without_watch(api.client());
        Self::start_with(api, client, leads, remove)
    }

    /// Starts a registration on the leader whose watch the test answers.
    fn start_watched() -> Self {
        let api = MockApi::new();
        let client = api.client();
        Self::start_with(api, client, true, false)
    }

    fn start_with(api: MockApi, client: Client, leads: bool, remove: bool) -> Self {
        let (bundle, bundle_in) = watch::channel(Some("first CA".to_owned()));
        let (leads, leads_in) = watch::channel(leads);
        let (registered_out, registered) = watch::channel(false);
        let stop = CancellationToken::new();
        let registration = Registration {
            name: "prewarmer".into(),
            address: WebhookAddress::Service { namespace: "own".into(), name: "hook".into() },
            timeout_seconds: 2,
        };
        let policy = Arc::new(Policy::default());
        let desired = move |ca: &[u8]| webhook_configuration(&registration, ca, &policy);
        let task = tokio::spawn(run(
            (client, ApiContact::default()),
            desired,
            bundle_in,
            leads_in,
            registered_out,
            remove,
            stop.clone(),
        ));
        Self { api, bundle, leads, registered, stop, task }
    }

    /// Accepts the next apply and returns its body.
    async fn accept(&mut self) -> Value {
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "prewarmer", "resourceVersion": "1"}});
        self.api.expect("PATCH", CONFIGURATION).respond(200, object).await.body
    }

    /// Answers the start of the watch: the configuration has version 1, and these versions follow.
    async fn open_watch(&mut self, versions: &[&str]) {
        let object =
            |version: &str| json!({"metadata": {"name": "prewarmer", "resourceVersion": version}});
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": [object("1")]});
        self.api.expect("GET", CONFIGURATIONS).respond(200, list).await;
        let events: Vec<Value> = versions
            .iter()
            .map(|version| json!({"type": "MODIFIED", "object": object(version)}))
            .collect();
        let sent = self.api.expect("GET", CONFIGURATIONS).hold().await.open_watch(&events);
        assert!(sent.query.contains("fieldSelector=metadata.name%3Dprewarmer"), "{}", sent.query);
    }

    async fn wait_until_registered(&mut self) {
        let registered = self.registered.wait_for(|registered| *registered);
        let registered = tokio::time::timeout(Duration::from_millis(10), registered).await;
        assert!(registered.is_ok(), "the registration was not published");
    }
}

#[tokio::test(start_paused = true)]
async fn the_configuration_is_applied_with_the_ca_bundle() {
    let mut test = TestRegistration::start(true, false);
    let body = test.accept().await;
    let clients: Vec<&Value> =
        body["webhooks"].as_array().unwrap().iter().map(|hook| &hook["clientConfig"]).collect();
    let service =
        |path: &str| json!({"namespace": "own", "name": "hook", "path": path, "port": 443});
    for (client, path) in clients.into_iter().zip(["/admit/workloads", "/admit/tasks"]) {
        assert_eq!(client["caBundle"], "Zmlyc3QgQ0E=");
        assert_eq!(client["service"], service(path));
    }
    test.wait_until_registered().await;
}

#[tokio::test(start_paused = true)]
async fn the_apply_takes_over_fields_of_other_managers() {
    let mut test = TestRegistration::start(true, false);
    let sent = test.api.expect("PATCH", CONFIGURATION).respond(200, json!({})).await;
    assert_eq!(sent.content_type, "application/apply-patch+yaml");
    let mut query: Vec<&str> = sent.query.split('&').filter(|part| !part.is_empty()).collect();
    query.sort_unstable();
    assert_eq!(query, ["fieldManager=prewarmer", "force=true"]);
}

#[tokio::test(start_paused = true)]
async fn a_standby_writes_nothing_until_it_leads() {
    let mut test = TestRegistration::start(false, false);
    test.api.expect_none(Duration::from_secs(300)).await;
    test.leads.send_replace(true);
    test.accept().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_apply_is_retried_after_2_s_and_is_not_registered() {
    let mut test = TestRegistration::start(true, false);
    for (code, reason) in [(403, "Forbidden"), (409, "Conflict"), (500, "InternalError")] {
        test.api.expect("PATCH", CONFIGURATION).fail(code, reason, "rejected").await;
        test.api.expect_none(Duration::from_millis(1990)).await;
        assert!(!*test.registered.borrow(), "{reason}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    test.accept().await;
    test.wait_until_registered().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_ca_bundle_is_applied_at_once() {
    let mut test = TestRegistration::start(true, false);
    test.accept().await;
    test.wait_until_registered().await;
    let changed = tokio::time::Instant::now();
    test.bundle.send_replace(Some("second CA".to_owned()));
    let body = test.accept().await;
    assert_eq!(body["webhooks"][0]["clientConfig"]["caBundle"], "c2Vjb25kIENB");
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_configuration_causes_no_request() {
    let mut test = TestRegistration::start_watched();
    test.accept().await;
    test.open_watch(&["1"]).await;
    test.api.expect_none(Duration::from_secs(240)).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_by_another_program_is_repaired_within_30_s_and_not_more_often() {
    let mut test = TestRegistration::start_watched();
    let begun = Instant::now();
    test.accept().await;
    test.open_watch(&["2"]).await;
    test.accept().await;
    let took = begun.elapsed();
    assert!(took >= REAPPLY_INTERVAL && took < Duration::from_secs(31), "{took:?}");
    test.api.expect_none(Duration::from_secs(200)).await;
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_may_not_be_watched_is_applied_again_every_30_s() {
    let mut test = TestRegistration::start_watched();
    let begun = Instant::now();
    test.accept().await;
    let mut applies = 0;
    while applies < 2 {
        let held = test.api.expect_any().hold().await;
        if held.received().path == CONFIGURATION {
            applies += 1;
            held.respond(200, &json!({"metadata": {"name": "prewarmer", "resourceVersion": "1"}}));
        } else {
            let status =
                json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden"});
            held.respond(403, &status);
        }
    }
    let took = begun.elapsed();
    assert!(took >= 2 * REAPPLY_INTERVAL && took < Duration::from_secs(62), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_configuration_registered_by_url_is_deleted_at_shutdown() {
    let mut test = TestRegistration::start(true, true);
    test.accept().await;
    test.wait_until_registered().await;
    test.stop.cancel();
    let success = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
    test.api.expect("DELETE", CONFIGURATION).respond(200, success).await;
    test.api.join(test.task).await;
}

#[tokio::test(start_paused = true)]
async fn a_configuration_registered_by_service_is_not_deleted_at_shutdown() {
    let mut test = TestRegistration::start(true, false);
    test.accept().await;
    test.wait_until_registered().await;
    test.stop.cancel();
    test.api.join(test.task).await;
}

#[tokio::test(start_paused = true)]
async fn a_configuration_of_another_replica_is_not_deleted_at_shutdown() {
    let mut test = TestRegistration::start(true, true);
    test.api.expect("PATCH", CONFIGURATION).fail(403, "Forbidden", "rejected").await;
    test.stop.cancel();
    test.api.join(test.task).await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_deletion_delays_the_shutdown_by_3_s() {
    let mut test = TestRegistration::start(true, true);
    test.accept().await;
    test.wait_until_registered().await;
    test.stop.cancel();
    let begun = tokio::time::Instant::now();
    let _unanswered = test.api.expect("DELETE", CONFIGURATION).hold().await;
    test.api.join(test.task).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_apply_does_not_delay_the_shutdown() {
    let mut test = TestRegistration::start(true, false);
    let _unanswered = test.api.expect("PATCH", CONFIGURATION).hold().await;
    test.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_millis(10), test.api.join(test.task)).await;
    assert!(ended.is_ok(), "the registration waits for the response");
}

/// The API server may execute a request whose response is not awaited.
#[tokio::test(start_paused = true)]
async fn an_abandoned_apply_is_followed_by_the_deletion() {
    let mut test = TestRegistration::start(true, true);
    let _unanswered = test.api.expect("PATCH", CONFIGURATION).hold().await;
    test.stop.cancel();
    test.api.expect("DELETE", CONFIGURATION).fail(404, "NotFound", "not applied").await;
    test.api.join(test.task).await;
}
