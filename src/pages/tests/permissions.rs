//! Tests of the pages against a fake API server: permissions of open streams and of lists, and
//! changes.

use std::time::Duration;

use prewarmer_core::task::{PrewarmPlan, PrewarmPlanSpec};

use super::{
    fake_cluster::{API_SERVER_AUDIENCE, FakeCluster},
    router_calls::{AFTER_GRACE_PERIOD, AFTER_REVIEW, EventStream},
    *,
};

/// In-process server with its components.
struct TestServer {
    cluster: FakeCluster,
    tokens: ApiTokens,
    api: Api,
    router: Router,
}

impl TestServer {
    fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (cluster, tokens) = (FakeCluster::default(), ApiTokens::default());
        let auth = Auth::new(Some(cluster.client()), tokens.clone(), 1000);
        let api = test_api(cluster.client(), auth);
        let router = router(api.clone(), Some(pages()));
        Self { cluster, tokens, api, router }
    }

    /// Gives [`EDITOR`] access to one namespace only.
    fn allow_editor(&self, namespace: &str) {
        let entry = format!(
            "{{\"sha256\": \"{}\", \"namespaces\": [\"{namespace}\"]}}",
            token_digest(EDITOR)
        );
        let data = [("editor".to_owned(), ByteString(entry.into_bytes()))];
        self.tokens.replace(Some(&Secret { data: Some(data.into()), ..Secret::default() }));
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: &str) -> Response {
        let cookie = format!("__Host-prewarmer={token}");
        let headers = [("cookie", &*cookie), SAME_ORIGIN, ("accept", "text/event-stream")];
        call_router(self.router.clone(), method, path, &headers, body).await
    }

    async fn page(&self, path: &str, token: &str) -> String {
        text(self.call("GET", path, token, "").await).await
    }

    async fn stream(&self, path: &str, token: &str) -> EventStream {
        let response = self.call("GET", path, token, "").await;
        assert_eq!(response.status(), StatusCode::OK);
        EventStream::new(response)
    }
}

#[tokio::test(start_paused = true)]
async fn live_page_follows_changes_of_token_permissions() {
    let bench = TestServer::new();
    bench.allow_editor("shop");
    bench.api.catalog.put(&task("before", Phase::Running));
    let mut events = bench.stream("/ui/live/tasks", EDITOR).await;
    let (text, _) = events.read_for(Duration::from_secs(2)).await;
    assert!(text.contains("/ui/tasks/shop/before"), "{text}");
    // The token is narrowed to another namespace.
    bench.allow_editor("bank");
    events.read_for(AFTER_REVIEW).await;
    bench.api.catalog.put(&task("after", Phase::Running));
    let (text, _) = events.read_for(AFTER_REVIEW).await;
    assert!(!text.contains("/ui/tasks/shop/"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn streams_end_after_five_minutes_without_confirmed_permission() {
    let bench = TestServer::new();
    bench.cluster.add_user("kube", "anna", &[API_SERVER_AUDIENCE, "prewarmer"]);
    for verb in ["get", "list", "watch"] {
        bench.cluster.allow("anna", verb, "prewarmtasks", "");
    }
    bench.api.catalog.put(&task("one", Phase::Running));
    for path in ["/ui/live/tasks", "/ui/tasks/shop/one/live"] {
        let mut events = bench.stream(path, "kube").await;
        let (text, over) = events.read_for(AFTER_REVIEW * 2).await;
        assert!(!over && !text.is_empty(), "{path}: {text}");
        bench.cluster.state().unavailable = true;
        bench.api.auth.clear_cached_reviews();
        let (_, over) = events.read_for(AFTER_REVIEW * 2).await;
        assert!(!over, "{path}: an API server that is unavailable for two minutes ends no stream");
        let (_, over) = events.read_for(AFTER_GRACE_PERIOD).await;
        assert!(over, "{path}: the stream continues although the permission cannot be confirmed");
        bench.cluster.state().unavailable = false;
    }
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_the_permission_is_revoked() {
    let bench = TestServer::new();
    bench.cluster.add_user("kube", "anna", &[API_SERVER_AUDIENCE, "prewarmer"]);
    bench.api.catalog.put(&task("one", Phase::Running));
    for path in ["/ui/live/tasks?namespace=shop", "/ui/tasks/shop/one/live"] {
        for verb in ["get", "list", "watch"] {
            bench.cluster.allow("anna", verb, "prewarmtasks", "shop");
        }
        bench.api.auth.clear_cached_reviews();
        let mut events = bench.stream(path, "kube").await;
        let (_, over) = events.read_for(Duration::from_secs(2)).await;
        assert!(!over);
        for verb in ["get", "list", "watch"] {
            bench.cluster.revoke("anna", verb, "prewarmtasks", "shop");
        }
        bench.api.auth.clear_cached_reviews();
        let (_, over) = events.read_for(AFTER_REVIEW * 2).await;
        assert!(over, "{path}");
    }
}

#[tokio::test]
async fn schedules_of_the_overview_require_permission_to_list_schedules() {
    let bench = TestServer::new();
    bench.cluster.add_user("kube", "anna", &[API_SERVER_AUDIENCE, "prewarmer"]);
    bench.cluster.allow("anna", "list", "prewarmtasks", "");
    let spec = PrewarmScheduleSpec::new("@daily".into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
    let mut schedule = PrewarmSchedule::new("nightly", spec);
    schedule.metadata.namespace = Some("shop".into());
    bench.api.schedules.put(schedule);
    let page = bench.page("/ui", "kube").await;
    assert!(page.contains("</html>") && !page.contains("nightly"), "{page}");
    bench.cluster.allow("anna", "list", "prewarmschedules", "");
    bench.api.auth.clear_cached_reviews();
    assert!(bench.page("/ui", "kube").await.contains("nightly"));
}

/// The retry button, clicked twice, creates one task: on the page and after a live update of it.
#[tokio::test]
async fn retry_button_clicked_twice_creates_one_task() {
    let bench = TestServer::new();
    bench.allow_editor("shop");
    let mut ended = task("ended", Phase::Failed);
    ended.status = Some(PrewarmTaskStatus {
        phase: Phase::Failed,
        total_nodes: 2,
        succeeded_nodes: 1,
        node_states: "sf".into(),
        ..PrewarmTaskStatus::default()
    });
    bench.api.catalog.put(&ended);
    bench.cluster.state().tasks.push(ended);
    let nodes = vec!["n1".into(), "n2".into()];
    let plan = PrewarmPlanSpec { nodes, at_once: 1, ..PrewarmPlanSpec::default() };
    bench.cluster.state().plan = Some(PrewarmPlan::new("plan", plan));
    let load = async || bench.page("/ui/tasks/shop/ended", EDITOR).await;
    let between = |text: &str, before: &str, after: &str| {
        let rest = text.split_once(before).unwrap_or_else(|| panic!("{before}: {text}")).1;
        rest.split_once(after).unwrap().0.to_owned()
    };
    let key_in = |text: &str| between(text, "name=\"key\" value=\"", "\"");
    let page = load().await;
    let key = key_in(&page);
    assert_ne!(key_in(&load().await), key, "another visit creates another task");
    let live = between(&page, "sse-connect=\"", "\"");
    let (update, _) = bench.stream(&live, EDITOR).await.read_for(Duration::from_secs(1)).await;
    assert_eq!(key_in(&update), key, "an update keeps the key");
    let click = async |key: &str| {
        let path = "/ui/tasks/shop/ended/retry";
        let response = bench.call("POST", path, EDITOR, &format!("key={key}")).await;
        let target = response.headers().get(header::LOCATION).cloned();
        (response.status(), target)
    };
    let first = click(&key).await;
    assert_eq!(first.0, StatusCode::SEE_OTHER);
    assert_eq!(click(&key).await, first);
    assert_eq!(bench.cluster.state().tasks.len(), 2);
    assert_ne!(click(&key_in(&load().await)).await.1, first.1);
    assert_eq!(bench.cluster.state().tasks.len(), 3);
    let (code, _) = click(&"x".repeat(300)).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
}
