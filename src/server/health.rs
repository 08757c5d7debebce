//! `/healthz`, `/readyz` and `/metrics`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How often the API server is asked whether it is there, and how long it may take.
const PROBE: Duration = Duration::from_secs(5);

/// What readiness depends on.
#[derive(Clone)]
pub struct Health {
    /// Whether the API server answers.
    pub kubernetes: watch::Receiver<bool>,
    /// Whether this replica leads.
    pub leads: watch::Receiver<bool>,
    /// The CA, once there is a certificate.
    pub bundle: watch::Receiver<Option<String>>,
    /// How many caches have their first list: the tasks', which also tells that the custom resources are installed, and those
    /// of what surrounds workloads.
    pub caches: watch::Receiver<usize>,
    /// How many caches there are.
    pub caches_needed: usize,
    /// Whether the webhook is registered; awaited only where this replica alone can be called.
    pub registered: Option<watch::Receiver<bool>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// The routes.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> Response {
    let kubernetes = *health.kubernetes.borrow();
    let waiting = [
        (!kubernetes).then_some("the API server does not answer"),
        health.bundle.borrow().is_none().then_some("there is no certificate yet"),
        (*health.caches.borrow() < health.caches_needed)
            .then_some("first lists are missing: are the custom resources installed, and may they be read?"),
        health.registered.is_some_and(|r| !*r.borrow()).then_some("the webhook is not registered yet"),
    ];
    let waiting: Vec<&str> = waiting.into_iter().flatten().collect();
    let (code, status) =
        if waiting.is_empty() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    let body = json!({
        "status": status,
        "kubernetes": if kubernetes { "connected" } else { "unreachable" },
        "leader": *health.leads.borrow(),
        "timestamp": Timestamp::now().to_string(),
        "waitingFor": waiting,
    });
    (code, Json(body)).into_response()
}

async fn metrics(State(health): State<Health>) -> Response {
    match health.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Asks the API server for its version until `stop`.
pub async fn probe(client: Client, kubernetes: watch::Sender<bool>, stop: CancellationToken) {
    loop {
        let answer = tokio::time::timeout(PROBE, client.apiserver_version()).await;
        let reachable = matches!(answer, Ok(Ok(_)));
        if kubernetes.send_replace(reachable) != reachable {
            tracing::info!(reachable, "API server");
        }
        if stop.run_until_cancelled(tokio::time::sleep(PROBE)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, http::Request};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn ready_with_all_that_is_needed_and_not_before() {
        let (kubernetes, bundle, caches) = (watch::Sender::new(false), watch::Sender::new(None), watch::Sender::new(0));
        let health = Health {
            kubernetes: kubernetes.subscribe(),
            leads: watch::Sender::new(false).subscribe(),
            bundle: bundle.subscribe(),
            caches: caches.subscribe(),
            caches_needed: 2,
            registered: None,
            metrics: Arc::new(Metrics::new().unwrap()),
        };
        let ask = async || {
            let request = Request::get("/readyz").body(axum::body::Body::empty()).unwrap();
            let response = router(health.clone()).oneshot(request).await.unwrap();
            let status = response.status();
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            (status, body["waitingFor"].as_array().unwrap().len())
        };
        assert_eq!(ask().await, (StatusCode::SERVICE_UNAVAILABLE, 3));
        kubernetes.send_replace(true);
        bundle.send_replace(Some("ca".into()));
        caches.send_replace(1);
        assert_eq!(ask().await, (StatusCode::SERVICE_UNAVAILABLE, 1));
        caches.send_replace(2);
        assert_eq!(ask().await, (StatusCode::OK, 0));
    }
}
