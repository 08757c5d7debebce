//! Tests of the router in process, without a cluster.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
    response::Response,
};
use kube::{Client, Config};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    auth::{ApiTokens, Auth},
    *,
};
use crate::notify::NotificationPolicy;

mod body_limits;
mod extract;
mod requests;

/// Builds an API whose cluster does not answer, with or without authentication.
fn api(origins: &[&str], authenticate: bool) -> Router {
    api_with(origins, authenticate, ApiTokens::default())
}

fn api_with(origins: &[&str], authenticate: bool, tokens: ApiTokens) -> Router {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let settings = ApiSettings {
        namespace: "prewarmer".into(),
        watched_namespace: None,
        object_prefix: "prewarmer".into(),
        origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        limits: CallerLimits::default(),
    };
    let auth = Auth::new(authenticate.then_some(client.clone()), tokens, 1000);
    router(Api::new(ApiInner::standalone(client, auth, settings).unwrap()), None)
}

async fn call(
    api: Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    router_calls::call(&api, method, path, headers, body).await
}

async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&to_bytes(response.into_body(), usize::MAX).await.unwrap()).unwrap()
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn unreachable_cluster_is_503_and_cached_reads_work() {
    let api = api(&[], false);
    let body = json!({"images": ["a:1"]}).to_string();
    let response = call(api.clone(), "POST", "/api/v1/tasks", &[JSON], &body).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    let text = json_of(response).await.to_string();
    assert!(text.contains("does not answer") && !text.contains("127.0.0.1"), "{text}");
    let list = call(api.clone(), "GET", "/api/v1/tasks", &[], "").await;
    assert_eq!(list.status(), StatusCode::OK);
    assert_eq!(json_of(list).await, json!({"tasks": [], "total": 0, "limit": 10, "offset": 0}));
    assert_eq!(
        call(api, "GET", "/api/v1/nodes", &[], "").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn unreachable_cluster_authenticates_no_caller() {
    let token = [("authorization", "Bearer abc")];
    let response = call(api(&[], true), "GET", "/api/v1/tasks", &token, "").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        call(api(&[], true), "GET", "/api/v1/tasks", &[], "").await.status(),
        StatusCode::UNAUTHORIZED
    );
    // The documentation is public.
    for path in ["/docs", "/api/v1/openapi.json"] {
        assert_eq!(call(api(&[], true), "GET", path, &[], "").await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn cors_is_limited_to_configured_origins() {
    let origin = ("origin", "https://portal.example.com");
    let ask = [
        origin,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let allowed = "access-control-allow-origin";
    let open = api(&["https://portal.example.com"], false);
    let preflight = call(open.clone(), "OPTIONS", "/api/v1/tasks", &ask, "").await;
    assert_eq!(preflight.headers()[allowed], "https://portal.example.com");
    let answer = call(open.clone(), "GET", "/api/v1/tasks", &[origin], "").await;
    assert_eq!(answer.headers()[allowed], "https://portal.example.com");
    let other_origin =
        call(open, "GET", "/api/v1/tasks", &[("origin", "https://evil.example.com")], "").await;
    assert!(!other_origin.headers().contains_key(allowed));
    let closed = call(api(&[], false), "GET", "/api/v1/tasks", &[origin], "").await;
    assert!(!closed.headers().contains_key(allowed));
}

#[tokio::test]
async fn unknown_paths_return_json_404() {
    for path in ["/", "/nothing", "/ui", "/api/v1", "/api/v1/nothing", "/api/v2/tasks"] {
        let response = call(api(&[], false), "GET", path, &[], "").await;
        if path == "/" {
            assert_eq!(response.headers()[header::LOCATION], "/docs");
        } else {
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            assert!(response.headers().contains_key("x-request-id"));
            assert!(json_of(response).await["error"].is_string());
        }
    }
}

/// Every documented query parameter is read, and every other one is rejected.
#[tokio::test]
async fn documented_query_parameters_are_read() {
    let api = api(&[], false);
    let document = document();
    let calls = document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(move |(method, call)| (path, method, call))
    });
    for (path, method, operation) in calls {
        let documented = operation["parameters"].as_array().unwrap().iter();
        let names = documented
            .filter(|one| one["in"] == "query")
            .map(|one| format!("{}=%3F&", one["name"].as_str().unwrap()));
        let query: String = names.collect();
        assert!(query.contains('='), "{method} {path}");
        let path = path.replace("{id}", "web").replace("{n}", "1");
        let path = format!("{path}?{query}other=1");
        let response = call(api.clone(), &method.to_uppercase(), &path, &[], "").await;
        let error = json_of(response).await;
        let unknown: Vec<&Value> = error["details"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|detail| detail["message"] == "unknown parameter")
            .map(|detail| &detail["field"])
            .collect();
        assert_eq!(unknown, ["other"], "{method} {path}: {error}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("nginx:1")),
        Just(json!("https://hooks.example.com")),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    /// For any values of the fields: an accepted request passes the task controller's validation,
    /// and a rejected one names the problems.
    #[test]
    fn any_body_is_accepted_or_rejected_with_details(
        images in prop_oneof![any_json(), Just(json!(["nginx:1"]))],
        fields in prop::collection::btree_map(
            prop::sample::select(vec!["batchSize", "nodes", "priority", "maxRetries", "retryDelay", "timeout", "nodeSelector",
                "tolerations", "webhookUrl", "notify", "namespace", "retain", "worker", "successThreshold", "extra"]),
            any_json(), 0..6),
    ) {
        let mut body = json!(fields);
        body["images"] = images;
        match request::parse(body.clone(), &NotificationPolicy::default()) {
            Ok(wanted) => prop_assert!(prewarmer_core::task::validate::validate(&wanted.spec).is_ok()),
            Err(details) => prop_assert!(!details.is_empty() && details.iter().all(|one| !one.message.is_empty())),
        }
        let schedule = json!({"cronExpr": body["images"].clone(), "taskConfig": body});
        let _ = schedule_request::parse(schedule, &NotificationPolicy::default());
    }
}

/// Without authentication, a page of another site could resolve its own name to this machine (DNS
/// rebinding).
#[tokio::test]
async fn without_authentication_only_localhost_is_served() {
    let code = async |host: &str| {
        call(api(&[], false), "GET", "/docs", &[("host", host)], "").await.status()
    };
    assert_eq!(code("localhost:8080").await, StatusCode::OK);
    assert_eq!(code("evil.example:8080").await, StatusCode::MISDIRECTED_REQUEST);
    let asked = call(api(&[], true), "GET", "/docs", &[("host", "prewarm.example")], "").await;
    assert_eq!(asked.status(), StatusCode::OK);
}
