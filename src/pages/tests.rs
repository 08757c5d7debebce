//! Tests of the pages without a reachable API server: permissions, escaping of user content, and
//! headers.

use std::io::Read;

use axum::{
    Router,
    body::to_bytes,
    http::{StatusCode, header},
    response::Response,
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Client, Config};
use prewarmer::api::{
    Api, ApiInner, ApiSettings, CallerLimits,
    auth::{ApiTokens, Auth, token_digest},
    pages::PagesApi,
    router,
};
use prewarmer_core::{
    schedule::{PrewarmSchedule, PrewarmScheduleSpec},
    task::{Condition, FailedNode, Phase, PrewarmTask, PrewarmTaskSpec, PrewarmTaskStatus},
};
use rstest::rstest;

use super::pages;

#[path = "../api/fake_cluster.rs"]
#[allow(dead_code, reason = "only the tests of the library use some of its functions")]
mod fake_cluster;
#[path = "../api/router_calls.rs"]
mod router_calls;

mod body_limits;
mod permissions;

/// Markup that pages must always escape.
const SCRIPT: &str = "<script>alert(1)</script>";
const EDITOR: &str = "prw_editor_x";
const READER: &str = "prw_reader_x";

fn tokens() -> ApiTokens {
    let entry = |token: &str, namespaces: &str, more: &str| {
        let text = format!(
            "{{\"sha256\": \"{}\", \"namespaces\": [\"{namespaces}\"]{more}}}",
            token_digest(token)
        );
        ByteString(text.into_bytes())
    };
    let data = [
        ("editor".to_owned(), entry(EDITOR, "shop", "")),
        ("reader".to_owned(), entry(READER, "*", ", \"readOnly\": true")),
    ];
    let tokens = ApiTokens::default();
    tokens.replace(Some(&Secret { data: Some(data.into()), ..Secret::default() }));
    tokens
}

fn task(name: &str, phase: Phase) -> PrewarmTask {
    let mut task =
        PrewarmTask::new(name, PrewarmTaskSpec::new(vec!["registry.example/web:1".into()]));
    task.metadata.namespace = Some("shop".into());
    task.metadata.uid = Some(format!("uid-{name}"));
    task.metadata.resource_version = Some("1".into());
    let failure = FailedNode {
        node: format!("n{SCRIPT}"),
        image: format!("i{SCRIPT}"),
        reason: "TLS".into(),
        message: format!("message: {SCRIPT}"),
        time: "2026-11-21T10:00:00Z".into(),
    };
    let progressing = Condition {
        type_: "Progressing".into(),
        status: "True".into(),
        last_transition_time: String::new(),
        reason: "x".into(),
        message: format!("m{SCRIPT}"),
        observed_generation: None,
    };
    task.status = Some(PrewarmTaskStatus {
        phase,
        total_nodes: 2,
        succeeded_nodes: 1,
        failed_node_count: 1,
        total_batches: 1,
        failed_nodes: vec![failure],
        conditions: vec![progressing],
        start_time: Some("2026-11-21T10:00:00Z".into()),
        batch_ends: vec![7],
        ..PrewarmTaskStatus::default()
    });
    task
}

/// Builds an API for a client of the API server, with empty stores.
fn test_api(client: Client, auth: Auth) -> Api {
    let settings = ApiSettings {
        namespace: "shop".into(),
        watched_namespace: None,
        object_prefix: "prewarmer".into(),
        origins: Vec::new(),
        limits: CallerLimits::default(),
    };
    Api::new(ApiInner::standalone(client, auth, settings).unwrap())
}

/// Builds an API whose cluster does not answer, with or without authentication.
fn unreachable_api(authenticate: bool, tokens: ApiTokens) -> Api {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let auth = Auth::new(authenticate.then_some(client.clone()), tokens, 1000);
    test_api(client, auth)
}

/// Builds the handle of the pages for an API without tasks or schedules.
pub(super) fn pages_api() -> PagesApi {
    PagesApi::new(unreachable_api(true, ApiTokens::default()))
}

fn test_router() -> Router {
    let api = unreachable_api(true, tokens());
    api.catalog.put(&task("ended", Phase::Failed));
    api.catalog.put(&task("open", Phase::Running));
    let mut spec =
        PrewarmScheduleSpec::new("@daily".into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
    spec.display_name = Some(format!("nightly {SCRIPT}"));
    spec.description = Some(SCRIPT.into());
    let mut schedule = PrewarmSchedule::new("nightly", spec);
    schedule.metadata.namespace = Some("shop".into());
    api.schedules.put(schedule);
    router(api, Some(pages()))
}

async fn call(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    call_router(test_router(), method, path, headers, body).await
}

/// Sends a form, or a request without a body, to a router.
async fn call_router(
    router: Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let kind = ("content-type", "application/x-www-form-urlencoded");
    router_calls::call(&router, method, path, &[headers, &[kind]].concat(), body).await
}

async fn get(path: &str, token: &str) -> (StatusCode, String) {
    let response = call("GET", path, &[("cookie", &format!("__Host-prewarmer={token}"))], "").await;
    let code = response.status();
    (code, text(response).await)
}

async fn text(response: Response) -> String {
    String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap()
}

const SAME_ORIGIN: (&str, &str) = ("sec-fetch-site", "same-origin");

#[tokio::test]
async fn unauthenticated_requests_are_redirected_to_sign_in() {
    let response = call("GET", "/ui/tasks?status=failed", &[], "").await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let to = response.headers()[header::LOCATION].to_str().unwrap().to_owned();
    assert_eq!(to, "/ui/sign-in?next=%2Fui%2Ftasks%3Fstatus%3Dfailed");
    assert!(
        text(call("GET", &to, &[], "").await).await.contains("value=\"/ui/tasks?status=failed\"")
    );
    let forged = call("GET", "/ui", &[("cookie", "__Host-prewarmer=prw_editor_y")], "").await;
    assert_eq!(forged.headers()[header::LOCATION], "/ui/sign-in?next=%2Fui&why=ended");
    let part = call("GET", "/ui/live/tasks", &[("accept", "text/event-stream")], "").await;
    assert_eq!(part.status(), StatusCode::UNAUTHORIZED);
    let part = call("POST", "/ui/tasks/preview", &[SAME_ORIGIN, ("hx-request", "true")], "").await;
    assert_eq!(
        (part.status(), &part.headers()["hx-redirect"]),
        (StatusCode::UNAUTHORIZED, &"/ui/sign-in?next=%2Fui".parse().unwrap())
    );
}

/// Without authentication, a page of another site could resolve its own name to this machine (DNS
/// rebinding).
#[tokio::test]
async fn without_authentication_only_localhost_is_served() {
    let code = async |host: &str| {
        let router = router(unreachable_api(false, ApiTokens::default()), Some(pages()));
        call_router(router, "GET", "/ui", &[("host", host)], "").await.status()
    };
    assert_eq!(code("localhost:8080").await, StatusCode::OK);
    assert_eq!(code("evil.example:8080").await, StatusCode::MISDIRECTED_REQUEST);
}

/// The pages are served with the middleware of all calls.
#[tokio::test]
async fn pages_are_merged_into_the_router() {
    let root = call("GET", "/", &[], "").await;
    assert_eq!(root.headers()[header::LOCATION], "/ui");
    let cookie = ("cookie", &*format!("__Host-prewarmer={EDITOR}"));
    for (method, path, expected) in [
        ("PUT", "/ui/tasks", StatusCode::METHOD_NOT_ALLOWED),
        ("GET", "/ui/nothing", StatusCode::NOT_FOUND),
        ("GET", "/api/v1/nothing", StatusCode::NOT_FOUND),
    ] {
        let response = call(method, path, &[cookie], "").await;
        assert_eq!(response.status(), expected, "{path}");
        assert!(response.headers().contains_key("x-request-id"), "{path}");
        assert!(text(response).await.starts_with("{\"error\":"), "{path}");
    }
}

#[tokio::test]
async fn sign_in_and_sign_out() {
    let body = format!("token={EDITOR}&next=https://evil.example/");
    let response = call("POST", "/ui/sign-in", &[SAME_ORIGIN], &body).await;
    assert_eq!(response.headers()[header::LOCATION], "/ui/sign-in?why=cookie&next=%2Fui");
    let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["__Host-prewarmer=prw_editor_x;", "HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let kept = call(
        "GET",
        "/ui/sign-in?why=cookie&next=%2Fui%2Ftasks",
        &[("cookie", "__Host-prewarmer=x")],
        "",
    )
    .await;
    assert_eq!(kept.headers()[header::LOCATION], "/ui/tasks");
    let lost = text(call("GET", "/ui/sign-in?why=cookie&next=%2Fui", &[], "").await).await;
    assert!(lost.contains("did not store the cookie"), "{lost}");
    for wrong in ["token=prw_editor_wrong", "token=", "token=a%0d%0ab", "nothing=1"] {
        let response = call("POST", "/ui/sign-in", &[SAME_ORIGIN], wrong).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{wrong}");
        assert!(response.headers().get(header::SET_COOKIE).is_none());
        assert!(text(response).await.contains("role=\"alert\""));
    }
    let out = call("POST", "/ui/sign-out", &[SAME_ORIGIN], "").await;
    assert!(out.headers()[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
}

#[rstest]
#[case("/ui/sign-in")]
#[case("/ui/sign-out")]
#[case("/ui/tasks")]
#[case("/ui/tasks/preview")]
#[case("/ui/tasks/shop/open/cancel")]
#[case("/ui/schedules/shop/nightly/delete")]
#[tokio::test]
async fn cross_site_changes_are_rejected(#[case] path: &str) {
    let cookie = format!("__Host-prewarmer={EDITOR}");
    let foreign: [&[(&str, &str)]; 4] = [
        &[("sec-fetch-site", "cross-site")],
        &[
            ("sec-fetch-site", "same-site"),
            ("origin", "https://other.example"),
            ("host", "prewarm.example"),
        ],
        &[("origin", "https://evil.example"), ("host", "prewarm.example")],
        &[],
    ];
    for from in foreign {
        let headers: Vec<(&str, &str)> =
            from.iter().copied().chain([("cookie", cookie.as_str())]).collect();
        let response = call("POST", path, &headers, "token=prw_editor_x&images=a:1").await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path} {from:?}");
        assert!(response.headers().get(header::SET_COOKIE).is_none());
    }
}

#[rstest]
#[case("/ui")]
#[case("/ui/tasks")]
#[case("/ui/tasks?search=%3Cscript%3Ealert(1)%3C/script%3E&namespace=shop")]
#[case("/ui/tasks/shop/ended")]
#[case(
    "/ui/tasks/new?images=%3Cscript%3Ealert(1)%3C/script%3E&nodes=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
)]
#[case("/ui/schedules")]
#[case("/ui/schedules/shop/nightly")]
#[case("/ui/schedules/new?name=%3Cscript%3Ealert(1)%3C/script%3E")]
#[case("/ui/tasks/shop/%3Cscript%3Ealert(1)%3C%2Fscript%3E")]
#[tokio::test]
async fn user_content_is_escaped(#[case] path: &str) {
    let (code, page) = get(path, READER).await;
    assert!(code == StatusCode::OK || code == StatusCode::NOT_FOUND, "{code}");
    assert!(!page.contains(SCRIPT) && !page.contains("<script>"), "{page}");
    assert!(
        !page.contains(" style=") && !page.contains(" onclick"),
        "the content security policy forbids it"
    );
    assert!(page.starts_with("<!doctype html>") && page.contains("</html>"));
    assert!(
        !page.contains("http://") && !page.contains("https://")
            || page.contains("placeholder=\"https://…\""),
        "{page}"
    );
}

#[tokio::test]
async fn page_security_headers() {
    let response =
        call("GET", "/ui", &[("cookie", &format!("__Host-prewarmer={READER}"))], "").await;
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"));
    assert_eq!(
        (header("referrer-policy"), header("cache-control")),
        ("same-origin".into(), "no-store".into())
    );
    assert_eq!(header("x-content-type-options"), "nosniff");
}

/// A read-only user sees no button whose action would be rejected.
#[tokio::test]
async fn buttons_require_permission() {
    for (token, may) in [(EDITOR, true), (READER, false)] {
        let shown = async |path: &str, words: &str| get(path, token).await.1.contains(words);
        assert_eq!(shown("/ui/tasks/shop/open", "/cancel").await, may, "{token}");
        assert_eq!(shown("/ui/tasks/shop/ended", "Retry 1 node").await, may);
        assert_eq!(shown("/ui/schedules/shop/nightly", "Run now").await, may);
        assert_eq!(shown("/ui/schedules/shop/nightly", "/delete").await, may);
        assert_eq!(shown("/ui/tasks", "Warm images").await, may);
        assert!(shown("/ui/tasks/shop/ended", "configure the runtime&#39;s CA on the node").await);
    }
    let cookie = ("cookie", &*format!("__Host-prewarmer={READER}"));
    let response = call("POST", "/ui/tasks/shop/open/cancel", &[SAME_ORIGIN, cookie], "").await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(
        text(response)
            .await
            .contains("token:reader may not patch prewarmtasks in the namespace shop")
    );
}

#[tokio::test]
async fn rejected_form_keeps_its_values() {
    let cookie = ("cookie", &*format!("__Host-prewarmer={EDITOR}"));
    let body = "images=UPPER/x&nodes=some&priority=99&key=k1";
    let response = call("POST", "/ui/tasks", &[SAME_ORIGIN, cookie], body).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let page = text(response).await;
    assert!(
        page.contains("UPPER/x</textarea>")
            && page.contains("value=\"some\"")
            && page.contains("value=\"k1\""),
        "{page}"
    );
    assert!(
        page.matches("aria-invalid").count() == 3 && page.contains("<details class=\"more\" open>"),
        "{page}"
    );
    let body = format!("images={}&key=k1", "a,".repeat(30_000));
    let response = call("POST", "/ui/tasks", &[SAME_ORIGIN, cookie], &body).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(text(response).await.contains("it contains more than 20000 values"));
    let (_, page) = get("/ui/tasks?namespace=No_Name", READER).await;
    assert!(page.contains("is not a valid namespace name"));
}

#[tokio::test]
async fn missing_and_forbidden_objects() {
    assert_eq!(get("/ui/tasks/shop/none", READER).await.0, StatusCode::NOT_FOUND);
    assert_eq!(get("/ui/tasks/bank/ended", EDITOR).await.0, StatusCode::FORBIDDEN);
    assert_eq!(get("/ui/assets/../../etc/passwd", READER).await.0, StatusCode::NOT_FOUND);
    let cookie = ("cookie", &*format!("__Host-prewarmer={EDITOR}"));
    let response =
        call("POST", "/ui/schedules/shop/nightly/explode", &[SAME_ORIGIN, cookie], "").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

/// Total size of what a first visit loads, as transferred.
#[tokio::test]
async fn transfer_size_is_limited() {
    let mut weight = 0;
    for name in ["style.css", "app.js", "htmx.js", "sse.js", "icon.svg"] {
        let response =
            call("GET", &format!("/ui/assets/{name}"), &[("accept-encoding", "gzip")], "").await;
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        assert!(response.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        let zipped = response.headers().get(header::CONTENT_ENCODING).is_some();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        if zipped {
            assert_eq!(bytes[..2], [0x1f, 0x8b], "{name}");
        }
        weight += bytes.len();
    }
    let page = get("/ui/tasks/shop/ended", READER).await.1;
    weight += page.len();
    assert!(weight < 60_000, "{weight} bytes");
    let mut known = String::new();
    include_str!("assets/LICENSES.txt").as_bytes().read_to_string(&mut known).unwrap();
    assert!(known.contains("Zero-Clause BSD"));
}
