//! Tests of permissions against a fake API server.

use std::time::Duration;

use axum::{
    Router,
    body::to_bytes,
    http::{StatusCode, header},
    response::Response,
};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt;
use prewarmer_core::{
    annotations::CREATED_BY_ANNOTATION,
    schedule::{PrewarmSchedule, PrewarmScheduleSpec, random_task_name},
    task::{PrewarmTask, PrewarmTaskSpec},
};
use serde_json::Value;

use super::{
    auth::{ApiTokens, Auth, token_digest},
    fake_cluster::{API_SERVER_AUDIENCE, FakeCluster},
    router_calls::{AFTER_GRACE_PERIOD, AFTER_REVIEW, EventStream},
    *,
};
pub(super) const EDITOR: &str = "prw_editor_x";

/// Builds a Secret of API tokens, from each token and the other fields of its entry.
pub(super) fn secret(entries: &[(&str, &str)]) -> Secret {
    let entry = |(token, more): &(&str, &str)| {
        let name = token.split('_').nth(1).unwrap_or_default().to_owned();
        (
            name,
            ByteString(format!("{{\"sha256\": \"{}\", {more}}}", token_digest(token)).into_bytes()),
        )
    };
    Secret { data: Some(entries.iter().map(entry).collect()), ..Secret::default() }
}

pub(super) fn task(namespace: &str, name: &str) -> PrewarmTask {
    let mut task =
        PrewarmTask::new(name, PrewarmTaskSpec::new(vec!["registry.example/web:1".into()]));
    task.metadata.namespace = Some(namespace.into());
    task.metadata.uid = Some(format!("uid-{namespace}-{name}"));
    task.metadata.resource_version = Some("1".into());
    task
}

pub(super) fn schedule(namespace: &str, name: &str) -> PrewarmSchedule {
    let spec = PrewarmScheduleSpec::new("@daily".into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
    let mut schedule = PrewarmSchedule::new(name, spec);
    schedule.metadata.namespace = Some(namespace.into());
    schedule
}

/// In-process server with its components.
pub(super) struct TestServer {
    pub(super) cluster: FakeCluster,
    pub(super) tokens: ApiTokens,
    pub(super) api: Api,
    router: Router,
}

impl TestServer {
    pub(super) fn new() -> Self {
        Self::with_auth(true, &[])
    }

    fn with_auth(asks: bool, origins: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (cluster, tokens) = (FakeCluster::default(), ApiTokens::default());
        let client = cluster.client();
        let auth = Auth::new(asks.then_some(client.clone()), tokens.clone(), 1000);
        let settings = ApiSettings {
            namespace: "prewarmer".into(),
            watched_namespace: None,
            object_prefix: "prewarmer".into(),
            origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            limits: CallerLimits::default(),
        };
        let api = Api::new(ApiInner::standalone(client, auth, settings).unwrap());
        let router = router(api.clone(), None);
        Self { cluster, tokens, api, router }
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        self.call_with_body(method, path, headers, "").await
    }

    pub(super) async fn call_with_body(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        router_calls::call(&self.router, method, path, headers, body).await
    }

    async fn get(&self, path: &str, token: &str) -> (StatusCode, Value) {
        let response =
            self.call("GET", path, &[("authorization", &format!("Bearer {token}"))]).await;
        let code = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Opens a stream of events, with the token in the header and in the cookie.
    async fn stream(&self, path: &str, token: &str) -> EventStream {
        let (bearer, cookie) = (format!("Bearer {token}"), format!("__Host-prewarmer={token}"));
        let headers =
            [("authorization", &*bearer), ("cookie", &*cookie), ("accept", "text/event-stream")];
        let response = self.call("GET", path, &headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        EventStream::new(response)
    }
}

#[tokio::test(start_paused = true)]
async fn watch_ends_when_its_token_loses_the_namespace() {
    let bench = TestServer::new();
    bench.tokens.replace(Some(&secret(&[(EDITOR, "\"namespaces\": [\"shop\"]")])));
    bench.api.catalog.put(&task("shop", "one"));
    let mut events = bench.stream("/api/v1/tasks/one/watch?namespace=shop", EDITOR).await;
    let (text, over) = events.read_for(Duration::from_secs(2)).await;
    assert!(!over && text.contains("\"taskId\":\"one\""), "{text}");
    bench.tokens.replace(Some(&secret(&[(EDITOR, "\"namespaces\": [\"bank\"]")])));
    let (_, over) = events.read_for(AFTER_REVIEW * 2).await;
    assert!(over);
}

#[tokio::test(start_paused = true)]
async fn watches_end_after_five_minutes_without_confirmed_permission() {
    let bench = TestServer::new();
    bench.cluster.add_user("kube", "anna", &[API_SERVER_AUDIENCE, "prewarmer"]);
    for verb in ["get", "list", "watch"] {
        bench.cluster.allow("anna", verb, "prewarmtasks", "");
    }
    bench.api.catalog.put(&task("shop", "one"));
    let mut events = bench.stream("/api/v1/tasks/one/watch?namespace=shop", "kube").await;
    let (text, over) = events.read_for(AFTER_REVIEW * 2).await;
    assert!(!over && !text.is_empty(), "{text}");
    bench.cluster.state().unavailable = true;
    bench.api.auth.clear_cached_reviews();
    let (_, over) = events.read_for(AFTER_REVIEW * 2).await;
    assert!(!over, "an API server that is unavailable for two minutes ends no watch");
    let (_, over) = events.read_for(AFTER_GRACE_PERIOD).await;
    assert!(over, "the watch continues although the permission cannot be confirmed");
}

#[tokio::test(start_paused = true)]
async fn watches_end_when_the_permission_is_revoked() {
    let bench = TestServer::new();
    bench.cluster.add_user("kube", "anna", &[API_SERVER_AUDIENCE, "prewarmer"]);
    bench.api.catalog.put(&task("shop", "one"));
    for verb in ["get", "list", "watch"] {
        bench.cluster.allow("anna", verb, "prewarmtasks", "shop");
    }
    let mut events = bench.stream("/api/v1/tasks/one/watch?namespace=shop", "kube").await;
    let (_, over) = events.read_for(Duration::from_secs(2)).await;
    assert!(!over);
    for verb in ["get", "list", "watch"] {
        bench.cluster.revoke("anna", verb, "prewarmtasks", "shop");
    }
    bench.api.auth.clear_cached_reviews();
    let (_, over) = events.read_for(AFTER_REVIEW * 2).await;
    assert!(over);
}

/// A page of another site can send requests to the servers on this machine.
#[tokio::test]
async fn without_authentication_cross_site_changes_and_watches_are_rejected() {
    let bench = TestServer::with_auth(false, &["https://portal.example"]);
    let trigger = "/api/v1/scheduled-tasks/nightly/trigger";
    let host = ("host", "localhost:8080");
    let code = async |method, path, headers: &[(&str, &str)]| {
        bench.call(method, path, &[&[host], headers].concat()).await.status()
    };
    for foreign in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "http://localhost:3000")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
    ] {
        assert_eq!(code("POST", trigger, foreign).await, StatusCode::FORBIDDEN, "{foreign:?}");
        assert_eq!(
            code("DELETE", "/api/v1/tasks/x", foreign).await,
            StatusCode::FORBIDDEN,
            "{foreign:?}"
        );
        let upgrade = [foreign, &[("upgrade", "websocket"), ("connection", "upgrade")]].concat();
        assert_eq!(
            code("GET", "/api/v1/tasks/x/watch", &upgrade).await,
            StatusCode::FORBIDDEN,
            "{foreign:?}"
        );
    }
    // Programs, Prewarmer's own pages, and pages of configured origins.
    for own in [
        &[][..],
        &[("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8080")],
        &[("sec-fetch-site", "none")],
        &[("origin", "http://localhost:8080")],
        &[("sec-fetch-site", "cross-site"), ("origin", "https://portal.example")],
    ] {
        assert_eq!(code("POST", trigger, own).await, StatusCode::NOT_FOUND, "{own:?}");
    }
    // A page of another origin cannot read responses.
    let read =
        bench.call("GET", "/api/v1/tasks", &[host, ("origin", "https://evil.example")]).await;
    assert!(!read.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

/// A replica may not have a recently created task in its store yet. For a caller without
/// permissions it makes no lookup.
#[tokio::test]
async fn callers_without_permission_cause_no_lookup() {
    let bench = TestServer::new();
    bench.cluster.add_user("kube", "unprivileged", &[API_SERVER_AUDIENCE, "prewarmer"]);
    bench.cluster.add_user("root", "root", &[API_SERVER_AUDIENCE, "prewarmer"]);
    bench.cluster.allow("root", "get", "prewarmtasks", "");
    let id = random_task_name(Timestamp::now());
    for path in [format!("/api/v1/tasks/{id}"), format!("/api/v1/tasks/{id}/watch")] {
        assert_eq!(bench.get(&path, "kube").await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(
        bench.cluster.count_requests("/prewarmtasks"),
        0,
        "{:?}",
        bench.cluster.state().requests
    );
    // A caller with the permission gets the task, and repeated calls cause one request.
    bench.cluster.state().tasks.push(task("shop", &id));
    assert_eq!(bench.get(&format!("/api/v1/tasks/{id}"), "root").await.0, StatusCode::OK);
    let unknown = random_task_name(Timestamp::now());
    let before = bench.cluster.count_requests("/prewarmtasks");
    let path = format!("/api/v1/tasks/{unknown}");
    let calls = (0..20).map(|_| bench.get(&path, "root"));
    for (code, _) in futures::future::join_all(calls).await {
        assert_eq!(code, StatusCode::NOT_FOUND);
    }
    assert_eq!(bench.cluster.count_requests("/prewarmtasks") - before, 1);
}

#[tokio::test]
async fn permission_is_reviewed_for_each_namespace() {
    let bench = TestServer::new();
    bench.cluster.add_user("kube", "anna", &[API_SERVER_AUDIENCE, "prewarmer"]);
    bench.cluster.allow("anna", "list", "prewarmtasks", "shop");
    for (namespace, code) in
        [("shop", StatusCode::OK), ("bank", StatusCode::FORBIDDEN), ("shop", StatusCode::OK)]
    {
        let path = format!("/api/v1/tasks?namespace={namespace}");
        assert_eq!(bench.get(&path, "kube").await.0, code, "{namespace}");
    }
    assert_eq!(bench.cluster.count_requests("/subjectaccessreviews"), 2, "the result is cached");
}

#[tokio::test]
async fn task_names_the_user_who_created_it() {
    let bench = TestServer::new();
    bench.cluster.add_user("kube", "anna", &[API_SERVER_AUDIENCE, "prewarmer"]);
    bench.cluster.allow("anna", "create", "prewarmtasks", "shop");
    let headers = [("authorization", "Bearer kube"), ("content-type", "application/json")];
    let body = r#"{"images": ["nginx:1"], "namespace": "shop"}"#;
    let response = bench.call_with_body("POST", "/api/v1/tasks", &headers, body).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let created = bench.cluster.state().tasks[0].clone();
    assert_eq!(created.annotations()[CREATED_BY_ANNOTATION], "user:anna");
}

#[tokio::test]
async fn schedule_counts_require_permission_to_list_schedules() {
    let bench = TestServer::new();
    bench.cluster.add_user("kube", "anna", &[API_SERVER_AUDIENCE, "prewarmer"]);
    bench.cluster.allow("anna", "list", "prewarmtasks", "");
    bench.api.schedules.put(schedule("shop", "nightly"));
    let (code, stats) = bench.get("/api/v1/stats", "kube").await;
    assert_eq!(
        (code, &stats["schedules"], &stats["enabledSchedules"]),
        (StatusCode::OK, &Value::Null, &Value::Null)
    );
    bench.cluster.allow("anna", "list", "prewarmschedules", "");
    bench.api.auth.clear_cached_reviews();
    assert_eq!(bench.get("/api/v1/stats", "kube").await.1["schedules"], 1);
}
