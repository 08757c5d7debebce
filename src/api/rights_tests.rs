//! Who may see and do what, before an API server that answers from a table.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{Request, StatusCode, header},
    response::Response,
};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::Value;
use tower::ServiceExt;

use super::{
    auth::{Tokens, digest},
    fake::{FakeCluster, SERVER},
    *,
};
use crate::{
    schedule::{PrewarmSchedule, PrewarmScheduleSpec, random_task_name},
    task::{PrewarmTask, PrewarmTaskSpec},
};

const EDITOR: &str = "prw_editor_x";

/// A Secret of API tokens: each with the rest of its entry.
fn secret(entries: &[(&str, &str)]) -> Secret {
    let entry = |(token, more): &(&str, &str)| {
        let name = token.split('_').nth(1).unwrap_or_default().to_owned();
        (name, ByteString(format!("{{\"sha256\": \"{}\", {more}}}", digest(token)).into_bytes()))
    };
    Secret { data: Some(entries.iter().map(entry).collect()), ..Secret::default() }
}

fn task(namespace: &str, name: &str) -> PrewarmTask {
    let mut task = PrewarmTask::new(name, PrewarmTaskSpec::new(vec!["registry.example/web:1".into()]));
    task.metadata.namespace = Some(namespace.into());
    task.metadata.uid = Some(format!("uid-{namespace}-{name}"));
    task.metadata.resource_version = Some("1".into());
    task
}

fn schedule(namespace: &str, name: &str) -> PrewarmSchedule {
    let spec = PrewarmScheduleSpec::new("@daily".into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
    let mut schedule = PrewarmSchedule::new(name, spec);
    schedule.metadata.namespace = Some(namespace.into());
    schedule
}

/// A server in process, and all that it is made of.
struct Bench {
    cluster: FakeCluster,
    tokens: Tokens,
    api: Api,
    router: Router,
}

impl Bench {
    fn new() -> Self {
        Self::of(true, &[])
    }

    fn of(asks: bool, origins: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (cluster, tokens, metrics) = (FakeCluster::default(), Tokens::default(), Arc::new(Metrics::new().unwrap()));
        let client = cluster.client();
        let api = Api::new(Inner {
            client: client.clone(),
            catalog: Catalog::default(),
            schedules: Schedules::default(),
            auth: Auth::new(asks.then_some(client), tokens.clone(), 1000, Arc::clone(&metrics)),
            policy: Arc::default(),
            around: Surroundings::default(),
            guard: Guard::default(),
            metrics,
            totals: Totals::default(),
            settings: ApiSettings {
                namespace: "prewarmer".into(),
                watched: None,
                object_name: "prewarmer".into(),
                origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
                ui: true,
                limits: crate::api::Limits::default(),
            },
            stop: CancellationToken::new(),
        });
        let router = router(api.clone());
        Self { cluster, tokens, api, router }
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 1))));
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str, token: &str) -> (StatusCode, Value) {
        let response = self.call("GET", path, &[("authorization", &format!("Bearer {token}"))]).await;
        let code = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// A stream of events, with the token in the header or in the cookie.
    async fn stream(&self, path: &str, token: &str) -> Events {
        let (bearer, cookie) = (format!("Bearer {token}"), format!("__Host-prewarmer={token}"));
        let headers = [("authorization", &*bearer), ("cookie", &*cookie), ("accept", "text/event-stream")];
        let response = self.call("GET", path, &headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events(response.into_body().into_data_stream().boxed())
    }
}

struct Events(futures::stream::BoxStream<'static, Result<bytes::Bytes, axum::Error>>);

impl Events {
    /// All that comes within so long; and whether the stream has ended.
    async fn within(&mut self, span: Duration) -> (String, bool) {
        let (mut text, end) = (String::new(), tokio::time::Instant::now() + span);
        loop {
            match tokio::time::timeout_at(end, self.0.next()).await {
                Err(_) => return (text, false),
                Ok(None) => return (text, true),
                Ok(Some(part)) => text += &String::from_utf8_lossy(&part.unwrap()),
            }
        }
    }
}

/// A little more than the time after which a stream reviews the rights of its caller.
const REVIEWED: Duration = Duration::from_secs(65);
/// A little more than the time for which an API server that does not answer is put up with.
const LAPSED: Duration = Duration::from_secs(6 * 60);

#[tokio::test(start_paused = true)]
async fn a_live_page_shows_what_the_token_may_see_now() {
    let bench = Bench::new();
    bench.tokens.replace(Some(&secret(&[(EDITOR, "\"namespaces\": [\"shop\"]")])));
    bench.api.catalog.put(&task("shop", "before"));
    let mut events = bench.stream("/ui/live/tasks", EDITOR).await;
    let (text, _) = events.within(Duration::from_secs(2)).await;
    assert!(text.contains("/ui/tasks/shop/before"), "{text}");
    // The token is narrowed to another namespace.
    bench.tokens.replace(Some(&secret(&[(EDITOR, "\"namespaces\": [\"bank\"]")])));
    events.within(REVIEWED).await;
    bench.api.catalog.put(&task("shop", "after"));
    let (text, _) = events.within(REVIEWED).await;
    assert!(!text.contains("/ui/tasks/shop/"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_nobody_confirms_the_caller_for_five_minutes() {
    let bench = Bench::new();
    bench.cluster.user("kube", "anna", &[SERVER, "prewarmer"]);
    for verb in ["get", "list", "watch"] {
        bench.cluster.allow("anna", verb, "prewarmtasks", "");
    }
    bench.api.catalog.put(&task("shop", "one"));
    let streams = ["/ui/live/tasks", "/ui/tasks/shop/one/live", "/api/v1/tasks/one/watch?namespace=shop"];
    for path in streams {
        let mut events = bench.stream(path, "kube").await;
        let (text, over) = events.within(REVIEWED * 2).await;
        assert!(!over && !text.is_empty(), "{path}: {text}");
        bench.cluster.known().down = true;
        bench.api.auth.forget_answers();
        let (_, over) = events.within(REVIEWED * 2).await;
        assert!(!over, "{path}: an API server that is away for two minutes ends no stream");
        let (_, over) = events.within(LAPSED).await;
        assert!(over, "{path}: the stream goes on without anybody who confirms the right to it");
        bench.cluster.known().down = false;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_the_right_to_it_was_taken_away() {
    let bench = Bench::new();
    bench.cluster.user("kube", "anna", &[SERVER, "prewarmer"]);
    bench.api.catalog.put(&task("shop", "one"));
    let streams =
        ["/ui/live/tasks?namespace=shop", "/ui/tasks/shop/one/live", "/api/v1/tasks/one/watch?namespace=shop"];
    for path in streams {
        for verb in ["get", "list", "watch"] {
            bench.cluster.allow("anna", verb, "prewarmtasks", "shop");
        }
        bench.api.auth.forget_answers();
        let mut events = bench.stream(path, "kube").await;
        let (_, over) = events.within(Duration::from_secs(2)).await;
        assert!(!over);
        for verb in ["get", "list", "watch"] {
            bench.cluster.forbid("anna", verb, "prewarmtasks", "shop");
        }
        bench.api.auth.forget_answers();
        let (_, over) = events.within(REVIEWED * 2).await;
        assert!(over, "{path}");
    }
}

/// A page of another site can send requests to the servers of this machine.
#[tokio::test]
async fn without_sign_in_pages_of_other_sites_change_and_watch_nothing() {
    let bench = Bench::of(false, &["https://portal.example"]);
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
        assert_eq!(code("DELETE", "/api/v1/tasks/x", foreign).await, StatusCode::FORBIDDEN, "{foreign:?}");
        let upgrade = [foreign, &[("upgrade", "websocket"), ("connection", "upgrade")]].concat();
        assert_eq!(code("GET", "/api/v1/tasks/x/watch", &upgrade).await, StatusCode::FORBIDDEN, "{foreign:?}");
    }
    // Programs, our own pages, and the pages that a setting names.
    for own in [
        &[][..],
        &[("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8080")],
        &[("sec-fetch-site", "none")],
        &[("origin", "http://localhost:8080")],
        &[("sec-fetch-site", "cross-site"), ("origin", "https://portal.example")],
    ] {
        assert_eq!(code("POST", trigger, own).await, StatusCode::NOT_FOUND, "{own:?}");
    }
    // What changes nothing cannot be read by a page elsewhere.
    let read = bench.call("GET", "/api/v1/tasks", &[host, ("origin", "https://evil.example")]).await;
    assert!(!read.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

/// Of a task that was made a moment ago a replica may not know yet; whoever may read nothing has nothing looked up.
#[tokio::test]
async fn a_stranger_has_nothing_looked_up_in_the_whole_cluster() {
    let bench = Bench::new();
    bench.cluster.user("kube", "stranger", &[SERVER, "prewarmer"]);
    bench.cluster.user("root", "root", &[SERVER, "prewarmer"]);
    bench.cluster.allow("root", "get", "prewarmtasks", "");
    let id = random_task_name(Timestamp::now());
    for path in [format!("/api/v1/tasks/{id}"), format!("/api/v1/tasks/{id}/watch")] {
        assert_eq!(bench.get(&path, "kube").await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(bench.cluster.count("/prewarmtasks"), 0, "{:?}", bench.cluster.known().asked);
    // One who may is answered; and asks once however often he calls.
    bench.cluster.known().tasks.push(task("shop", &id));
    assert_eq!(bench.get(&format!("/api/v1/tasks/{id}"), "root").await.0, StatusCode::OK);
    let unknown = random_task_name(Timestamp::now());
    let before = bench.cluster.count("/prewarmtasks");
    let path = format!("/api/v1/tasks/{unknown}");
    let calls = (0..20).map(|_| bench.get(&path, "root"));
    for (code, _) in futures::future::join_all(calls).await {
        assert_eq!(code, StatusCode::NOT_FOUND);
    }
    assert_eq!(bench.cluster.count("/prewarmtasks") - before, 1);
}

#[tokio::test]
async fn figures_of_schedules_are_for_those_who_may_list_schedules() {
    let bench = Bench::new();
    bench.cluster.user("kube", "anna", &[SERVER, "prewarmer"]);
    bench.cluster.allow("anna", "list", "prewarmtasks", "");
    bench.api.schedules.put(schedule("shop", "nightly"));
    let (code, stats) = bench.get("/api/v1/stats", "kube").await;
    assert_eq!((code, &stats["schedules"], &stats["enabledSchedules"]), (StatusCode::OK, &Value::Null, &Value::Null));
    let page = bench.call("GET", "/ui", &[("cookie", "__Host-prewarmer=kube")]).await;
    let page = String::from_utf8(to_bytes(page.into_body(), usize::MAX).await.unwrap().into()).unwrap();
    assert!(page.contains("</html>") && !page.contains("nightly"), "{page}");
    bench.cluster.allow("anna", "list", "prewarmschedules", "");
    bench.api.auth.forget_answers();
    assert_eq!(bench.get("/api/v1/stats", "kube").await.1["schedules"], 1);
}
