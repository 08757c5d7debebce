//! Tests of every route with endless bodies: bytes read, and status of the response.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::body::Bytes;
use futures::{StreamExt, stream};
use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::*;
use crate::api::{
    auth::token_digest,
    router_calls::{CHUNK, EndlessCall, SLACK, endless},
};

/// Body limit of JSON calls, in bytes.
const JSON_LIMIT: usize = 1024 * 1024;
const TOKEN: &str = "prw_editor_x";
/// Token for the namespace `shop` only.
const SHOP_TOKEN: &str = "prw_shop_x";
/// Read-only token.
const READ_ONLY_TOKEN: &str = "prw_reader_x";

/// Routes that are not in the `OpenAPI` document: method and path.
const OTHER_ROUTES: [(&str, &str); 5] = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/nothing/here"),
    ("POST", "/nothing/here"),
    ("GET", "/api/v1/openapi.json"),
];

/// Returns every route with each method that it supports, and with methods that it does not
/// support.
fn all_calls() -> BTreeSet<(String, String)> {
    let mut all: BTreeSet<(String, String)> = OTHER_ROUTES
        .iter()
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    let document = document();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "web").replace("{n}", "1");
        for method in methods.as_object().unwrap().keys() {
            all.insert((method.to_uppercase(), path.clone()));
        }
    }
    let paths: BTreeSet<String> = all.iter().map(|(_, path)| path.clone()).collect();
    for (path, method) in paths
        .iter()
        .flat_map(|path| ["POST", "PUT", "PATCH", "DELETE"].map(|method| (path, method)))
    {
        all.insert((method.to_owned(), path.clone()));
    }
    all
}

fn tokens() -> ApiTokens {
    let entry = |token: &str, rest: &str| {
        ByteString(format!("{{\"sha256\": \"{}\", {rest}}}", token_digest(token)).into_bytes())
    };
    let data = [
        ("editor".to_owned(), entry(TOKEN, "\"namespaces\": [\"*\"]")),
        ("shop".to_owned(), entry(SHOP_TOKEN, "\"namespaces\": [\"shop\"]")),
        (
            "reader".to_owned(),
            entry(READ_ONLY_TOKEN, "\"namespaces\": [\"*\"], \"readOnly\": true"),
        ),
    ];
    let tokens = ApiTokens::default();
    tokens.replace(Some(&Secret { data: Some(data.into()), ..Secret::default() }));
    tokens
}

#[tokio::test]
async fn no_route_reads_more_of_a_body_than_its_limit() {
    let api = api_with(&[], true, tokens());
    let mut wrong = Vec::new();
    for (method, path) in all_calls() {
        for (token, announced) in [(false, false), (false, true), (true, false), (true, true)] {
            for kind in
                ["application/x-www-form-urlencoded", "application/json", "application/yaml"]
            {
                let (method, path) = (method.clone(), path.clone());
                let case =
                    EndlessCall { method, path, token: token.then_some(TOKEN), announced, kind };
                let (code, pulled) = case.send(&api).await;
                let limit = if token && !announced { JSON_LIMIT + SLACK } else { 0 };
                let server = code.is_server_error() && code != StatusCode::SERVICE_UNAVAILABLE;
                if pulled > limit || server {
                    wrong.push(format!("{case:?}: {code}, {pulled} bytes read"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the calls:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn bodies_that_are_too_large_are_answered_by_413() {
    let api = api_with(&[], true, tokens());
    let cases = [
        ("/api/v1/tasks", "application/json"),
        ("/api/v1/scheduled-tasks", "application/json"),
        ("/api/v1/tasks:extract", "application/yaml"),
    ];
    for (path, kind) in cases {
        for announced in [false, true] {
            let (method, path) = ("POST".to_owned(), path.to_owned());
            let case = EndlessCall { method, path, token: Some(TOKEN), announced, kind };
            let (code, _) = case.send(&api).await;
            assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE, "{case:?}");
        }
    }
}

/// The body of a caller without permission is not read or evaluated.
#[tokio::test]
async fn permissions_are_checked_before_bodies_are_read() {
    let api = api_with(&[], true, tokens());
    let kind = "application/json";
    let send = async |method: &str, path: &str| {
        let pulled = Arc::new(AtomicUsize::new(0));
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.header("authorization", format!("Bearer {SHOP_TOKEN}"));
        let code = router_calls::send(&api, request, endless(&pulled)).await.status();
        (code, pulled.load(Ordering::Relaxed))
    };
    for path in ["/api/v1/tasks", "/api/v1/scheduled-tasks", "/api/v1/tasks:extract"] {
        let (code, pulled) = send("POST", &format!("{path}?namespace=bank")).await;
        assert_eq!((code, pulled), (StatusCode::FORBIDDEN, 0), "{path}");
    }
    // A schedule that does not exist, or that the caller may not read.
    assert_eq!(send("PUT", "/api/v1/scheduled-tasks/nightly").await, (StatusCode::NOT_FOUND, 0));
    // When the body names the namespace, no other field is evaluated before the permission is
    // checked.
    let body = json!({"namespace": "bank", "images": 7, "nonsense": [1, 2, 3]}).to_string();
    let token = format!("Bearer {SHOP_TOKEN}");
    let headers = [JSON, ("authorization", token.as_str())];
    for path in ["/api/v1/tasks", "/api/v1/scheduled-tasks"] {
        let answer = call(api.clone(), "POST", path, &headers, &body).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
    }
    let body = json!({"images": 7}).to_string();
    let answer = call(api.clone(), "POST", "/api/v1/tasks?namespace=shop", &headers, &body).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let body = json!({"namespace": "bank"}).to_string();
    let answer = call(api, "POST", "/api/v1/tasks?namespace=shop", &headers, &body).await;
    assert_eq!(
        answer.status(),
        StatusCode::BAD_REQUEST,
        "the query and the body name two namespaces"
    );
}

/// A manifest is parsed only for callers that may create tasks.
#[tokio::test]
async fn manifests_require_permission_to_create_tasks() {
    let api = api_with(&[], true, tokens());
    let pod = |namespace: &str| {
        let spec = json!({"containers": [{"name": "c", "image": "a:1"}]});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace}, "spec": spec})
            .to_string()
    };
    let extract = async |token: &str, body: &str| {
        let token = format!("Bearer {token}");
        call(
            api.clone(),
            "POST",
            "/api/v1/tasks:extract",
            &[JSON, ("authorization", token.as_str())],
            body,
        )
        .await
        .status()
    };
    assert_eq!(extract(SHOP_TOKEN, &pod("bank")).await, StatusCode::FORBIDDEN);
    assert_eq!(extract(READ_ONLY_TOKEN, &pod("shop")).await, StatusCode::FORBIDDEN);
    assert_eq!(extract(SHOP_TOKEN, &pod("shop")).await, StatusCode::OK);
}

/// The memory for bodies is bounded, however many callers send bodies that do not end.
#[tokio::test]
async fn unfinished_bodies_are_limited_in_total() {
    let all = ApiTokens::default();
    let data = (0..40).map(|index| {
        let entry = format!(
            "{{\"sha256\": \"{}\", \"namespaces\": [\"*\"]}}",
            token_digest(&format!("prw_c{index}_x"))
        );
        (format!("c{index}"), ByteString(entry.into_bytes()))
    });
    all.replace(Some(&Secret { data: Some(data.collect()), ..Secret::default() }));
    let api = api_with(&[], true, all);
    let pulled = Arc::new(AtomicUsize::new(0));
    // Each call sends all but the end of the largest body, and stalls.
    let calls = (0..40).map(|index| {
        let (api, counted) = (api.clone(), Arc::clone(&pulled));
        tokio::spawn(async move {
            let chunks = stream::repeat_with(move || {
                counted.fetch_add(CHUNK, Ordering::Relaxed);
                Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b' '; CHUNK]))
            });
            let body = Body::from_stream(chunks.take(JSON_LIMIT / CHUNK).chain(stream::pending()));
            let request = Request::post("/api/v1/tasks").header("content-type", "application/json");
            let request = request.header("authorization", format!("Bearer prw_c{index}_x"));
            router_calls::send(&api, request, body).await.status()
        })
    });
    let calls: Vec<_> = calls.collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (refused, waiting): (Vec<_>, Vec<_>) =
        calls.into_iter().partition(tokio::task::JoinHandle::is_finished);
    let held = waiting.len() * JSON_LIMIT;
    assert!(held <= 16 * JSON_LIMIT, "{} bodies of 1 MiB are held", waiting.len());
    for call in refused {
        assert_eq!(call.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    }
    for call in waiting {
        call.abort();
    }
}
