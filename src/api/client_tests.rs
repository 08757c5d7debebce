//! Tests of calls as clients of image prewarm services make them, against a fake API server.

use std::collections::HashSet;

use axum::{
    body::to_bytes,
    http::{Method, StatusCode},
};
use jiff::Timestamp;
use prewarmer_core::{
    schedule::{OverlapPolicy, random_task_name},
    task::{IgnoredNode, Phase, PrewarmTaskStatus},
};
use serde_json::{Value, json};

use super::permission_tests::{EDITOR, TestServer, schedule, secret, task};

/// Calls a server with a token for the namespace `shop`. Returns status and body.
struct Client(TestServer);

impl Client {
    fn new() -> Self {
        let server = TestServer::new();
        server.tokens.replace(Some(&secret(&[(EDITOR, "\"namespaces\": [\"shop\"]")])));
        Self(server)
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let token = format!("Bearer {EDITOR}");
        let headers = [("authorization", &*token), ("content-type", "application/json")];
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let path = format!("/api/v1{path}");
        let response = self.0.call_with_body(method.as_str(), &path, &headers, &text).await;
        let code = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Creates a schedule, and returns its ID.
    async fn schedule(&self, more: &Value) -> String {
        let mut body = json!({"name": "Daily", "description": "each day", "cronExpr": "0 0 * * *",
            "taskConfig": {"images": ["nginx:1"], "batchSize": 5, "nodeSelector": {"prewarm": "true"},
                "maxRetries": 3, "retryPolicy": "exponential"},
            "timeoutSeconds": 3600});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (code, made) = self.call(Method::POST, "/scheduled-tasks", &body).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    /// Removes a schedule from the store of the replica, as if its watch had not delivered it yet.
    fn forget(&self, id: &str) {
        self.0.api.schedules.retain_listed(&HashSet::new());
        assert!(self.0.api.schedules.by_name(id).is_empty());
    }
}

#[tokio::test]
async fn partial_update_keeps_other_fields() {
    let client = Client::new();
    let id = client.schedule(&json!({})).await;
    let path = format!("/scheduled-tasks/{id}");
    let (_, before) = client.call(Method::GET, &path, &Value::Null).await;
    let body = json!({"name": "Updated", "taskConfig": {"images": ["nginx:2"]}});
    let (code, changed) = client.call(Method::PUT, &path, &body).await;
    assert_eq!(code, StatusCode::OK, "{changed}");
    let mut expected = before.clone();
    expected["name"] = json!("Updated");
    expected["taskConfig"]["images"] = json!(["nginx:2"]);
    assert_eq!(changed["taskConfig"], expected["taskConfig"]);
    for field in ["name", "description", "cronExpr", "enabled", "overlapPolicy", "timeoutSeconds"] {
        assert_eq!(changed[field], expected[field], "{field}");
    }
    assert_eq!(changed["taskConfig"]["retryStrategy"], "exponential");
    let (code, disabled) = client.call(Method::PUT, &path, &json!({"enabled": false})).await;
    assert_eq!((code, &disabled["enabled"]), (StatusCode::OK, &json!(false)));
    assert_eq!(disabled["cronExpr"], "0 0 * * *");
    let (code, error) = client.call(Method::PUT, &path, &json!({"cronExpr": "x"})).await;
    assert_eq!(
        (code, &error["details"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("cronExpr"))
    );
    let (code, error) = client.call(Method::PUT, &path, &json!({"namespace": "bank"})).await;
    assert_eq!(
        (code, &error["details"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("namespace"))
    );
}

/// An update is merged with the spec that the API server has, also after a conflict.
#[tokio::test]
async fn partial_update_does_not_undo_concurrent_changes() {
    let client = Client::new();
    let id = client.schedule(&json!({})).await;
    client.0.cluster.state().schedule_conflicts = 2;
    let path = format!("/scheduled-tasks/{id}");
    let (code, changed) = client.call(Method::PUT, &path, &json!({"name": "mine"})).await;
    assert_eq!(code, StatusCode::OK, "{changed}");
    assert_eq!((&changed["name"], &changed["historyLimit"]), (&json!("mine"), &json!(42)));
}

#[tokio::test]
async fn changes_are_answered_with_task_id_and_status() {
    let client = Client::new();
    let id = client.schedule(&json!({})).await;
    let path = |action: &str| format!("/scheduled-tasks/{id}{action}");
    for (action, enabled) in [("/disable", false), ("/enable", true)] {
        let (code, answer) = client.call(Method::PUT, &path(action), &Value::Null).await;
        assert_eq!(code, StatusCode::OK, "{answer}");
        assert_eq!((&answer["taskId"], &answer["status"]), (&json!(id), &json!("success")));
        assert!(answer["message"].as_str().unwrap().contains(&action[1..]), "{answer}");
        assert_eq!((&answer["id"], &answer["enabled"]), (&json!(id), &json!(enabled)));
    }
    let (_, view) = client.call(Method::GET, &path(""), &Value::Null).await;
    assert!(view.get("status").is_none() && view.get("message").is_none(), "{view}");
    let (code, answer) = client.call(Method::POST, &path("/trigger"), &Value::Null).await;
    assert_eq!((code, &answer["status"]), (StatusCode::OK, &json!("success")), "{answer}");
    assert!(answer["taskId"].as_str().unwrap().starts_with("task-") && answer["id"] == id);
    let (code, answer) = client.call(Method::DELETE, &path(""), &Value::Null).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!((&answer["taskId"], &answer["status"]), (&json!(id), &json!("success")));
    assert!(answer["message"].is_string() && answer["id"] == id);
}

#[tokio::test]
async fn trigger_of_a_waiting_execution_is_202() {
    let client = Client::new();
    let id = client.schedule(&json!({"overlapPolicy": "queue"})).await;
    let path = format!("/scheduled-tasks/{id}/trigger");
    let (code, first) = client.call(Method::POST, &path, &Value::Null).await;
    assert_eq!(code, StatusCode::OK, "{first}");
    let (code, second) = client.call(Method::POST, &path, &Value::Null).await;
    assert_eq!((code, &second["status"]), (StatusCode::ACCEPTED, &json!("queued")), "{second}");
    assert_eq!(second["taskId"], Value::Null);
}

/// A load balancer may send the next call to a replica whose watch has not delivered the schedule.
#[tokio::test]
async fn schedule_is_found_right_after_its_creation() {
    let client = Client::new();
    let id = client.schedule(&json!({})).await;
    let path = format!("/scheduled-tasks/{id}");
    for (method, suffix) in [
        (Method::GET, ""),
        (Method::PUT, "/disable"),
        (Method::POST, "/trigger"),
        (Method::GET, "/executions"),
    ] {
        client.forget(&id);
        let path = format!("{path}{suffix}");
        let (code, answer) = client.call(method, &path, &Value::Null).await;
        assert_eq!(code, StatusCode::OK, "{path}: {answer}");
    }
    let asked = |what: &str| client.0.cluster.count_requests(what);
    let before = asked("/prewarmschedules");
    let unknown = format!("scheduled-{}", random_task_name(Timestamp::now()));
    for _ in 0..3 {
        let path = format!("/scheduled-tasks/{unknown}");
        assert_eq!(client.call(Method::GET, &path, &Value::Null).await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(asked("/prewarmschedules") - before, 1, "the result of a lookup is kept");
    client.forget(&id);
    assert_eq!(client.call(Method::DELETE, &path, &Value::Null).await.0, StatusCode::OK);
    assert_eq!(client.call(Method::GET, &path, &Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn namespace_defaults_to_the_only_one_of_the_token() {
    let client = Client::new();
    let (code, made) = client.call(Method::POST, "/tasks", &json!({"images": ["nginx:1"]})).await;
    assert_eq!((code, &made["namespace"]), (StatusCode::CREATED, &json!("shop")), "{made}");
    let id = client.schedule(&json!({})).await;
    let (_, view) = client.call(Method::GET, &format!("/scheduled-tasks/{id}"), &Value::Null).await;
    assert_eq!(view["namespace"], "shop");
    // With several namespaces the default is the server's own.
    for several in ["[\"shop\", \"bank\"]", "[\"*\"]"] {
        let entry = format!("\"namespaces\": {several}");
        client.0.tokens.replace(Some(&secret(&[(EDITOR, &entry)])));
        let (code, answer) =
            client.call(Method::POST, "/tasks", &json!({"images": ["nginx:1"]})).await;
        if several.contains('*') {
            assert_eq!((code, &answer["namespace"]), (StatusCode::CREATED, &json!("prewarmer")));
        } else {
            assert_eq!(code, StatusCode::FORBIDDEN, "{answer}");
        }
    }
}

#[tokio::test]
async fn ignored_and_skipped_nodes_are_shown() {
    let client = Client::new();
    let mut ended = task("shop", "ended");
    ended.status = Some(PrewarmTaskStatus {
        phase: Phase::Completed,
        total_nodes: 3,
        succeeded_nodes: 2,
        skipped_nodes: 1,
        ignored_nodes: vec![IgnoredNode { node: "n4".into(), reason: "NotReady".into() }],
        ignored_node_count: 7,
        current_retry: 2,
        ..PrewarmTaskStatus::default()
    });
    client.0.api.catalog.put(&ended);
    let (_, view) = client.call(Method::GET, "/tasks/ended", &Value::Null).await;
    assert_eq!(view["skippedNodes"], 1);
    assert_eq!(view["ignoredNodes"], json!([{"nodeName": "n4", "reason": "NotReady"}]));
    assert_eq!((&view["ignoredNodeCount"], &view["currentRetry"]), (&json!(7), &json!(2)));
}

/// `curl -d` sends the content type of a form.
#[tokio::test]
async fn body_without_a_json_content_type_is_read() {
    let client = Client::new();
    let token = format!("Bearer {EDITOR}");
    for kind in [Some("application/x-www-form-urlencoded"), None] {
        let mut headers = vec![("authorization", &*token)];
        headers.extend(kind.map(|kind| ("content-type", kind)));
        let body = r#"{"images": ["nginx:latest", "redis:7"], "batchSize": 10}"#;
        let answer = client.0.call_with_body("POST", "/api/v1/tasks", &headers, body).await;
        assert_eq!(answer.status(), StatusCode::CREATED, "{kind:?}");
    }
}

#[tokio::test]
async fn executions_have_a_duration_and_an_empty_message() {
    let client = Client::new();
    let mut nightly = schedule("shop", "nightly");
    nightly.spec.overlap_policy = OverlapPolicy::Allow;
    nightly.status = serde_json::from_value(json!({"executions": [
        {"number": 2, "scheduledTime": "2026-11-21T00:00:00Z", "status": "running"},
        {"number": 1, "scheduledTime": "2026-11-20T00:00:00Z", "status": "success",
         "startTime": "2026-11-20T00:00:00Z", "completionTime": "2026-11-20T00:10:00Z"}]}))
    .unwrap();
    client.0.api.schedules.put(nightly);
    let (_, list) =
        client.call(Method::GET, "/scheduled-tasks/nightly/executions", &Value::Null).await;
    let all = list["executions"].as_array().unwrap();
    assert_eq!((&all[0]["durationSeconds"], &all[0]["errorMessage"]), (&Value::Null, &json!("")));
    assert_eq!(
        (all[1]["durationSeconds"].as_f64(), &all[1]["errorMessage"]),
        (Some(600.0), &json!(""))
    );
    // Clients that were built for an integer decode no fraction.
    assert!(all[1].to_string().contains(r#""durationSeconds":600,"#), "{}", all[1]);
}
