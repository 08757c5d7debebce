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
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    leader::{HUNG, Heartbeat},
    metrics::Metrics,
};

/// How often the API server is asked whether it is there, and how long it may take.
const PROBE: Duration = Duration::from_secs(5);
/// A replica that has not reached the API server for this long is not ready: what it has in memory may be minutes old, and
/// another may be better off. Within it, reviews and reads are answered from memory. Upgrades of a control plane and restarts
/// of an API server take less.
const OUTAGE: Duration = Duration::from_secs(300);

/// Connections at once: a kubelet and a Prometheus or two hold one each. For a further one an idle one is closed, so that
/// strangers cannot keep them out.
pub const MAX_CONNECTIONS: usize = 256;

/// Whether the API server answers, and since when it is so.
#[derive(Debug, Clone, Copy)]
pub struct Contact {
    reachable: bool,
    since: Instant,
}

impl Contact {
    /// Before the first answer.
    #[must_use]
    pub fn none() -> Self {
        Self { reachable: false, since: Instant::now() }
    }

    fn is_lost(&self) -> bool {
        !self.reachable && self.since.elapsed() >= OUTAGE
    }
}

/// What readiness and liveness depend on.
#[derive(Clone)]
pub struct Health {
    /// Whether the API server answers.
    pub kubernetes: watch::Receiver<Contact>,
    /// Whether this replica leads.
    pub leads: watch::Receiver<bool>,
    /// The heartbeat of the leader's work.
    pub heartbeat: Heartbeat,
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
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

/// Fails when this replica leads and its controller hangs. Asks nobody, and takes no lock that is held for longer than a copy.
async fn live(State(health): State<Health>) -> (StatusCode, String) {
    match health.heartbeat.age().filter(|age| *age >= HUNG) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(age) => {
            let text = format!("the controller has completed no round for {} s\n", age.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

/// Ready is what can answer: with a certificate, first lists and, where it matters, a registration. That the API server does
/// not answer for a while takes nothing from that, and is only reported.
async fn ready(State(health): State<Health>) -> Response {
    let kubernetes = *health.kubernetes.borrow();
    let waiting = [
        kubernetes.is_lost().then_some("the API server has not answered for minutes"),
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
        "kubernetes": if kubernetes.reachable { "connected" } else { "unreachable" },
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
pub async fn probe(client: Client, kubernetes: watch::Sender<Contact>, stop: CancellationToken) {
    loop {
        let answer = tokio::time::timeout(PROBE, client.apiserver_version()).await;
        let reachable = matches!(answer, Ok(Ok(_)));
        let changed = kubernetes.send_if_modified(|contact| {
            let changed = contact.reachable != reachable;
            if changed {
                *contact = Contact { reachable, since: Instant::now() };
            }
            changed
        });
        if changed {
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

    struct Senders {
        kubernetes: watch::Sender<Contact>,
        bundle: watch::Sender<Option<String>>,
        caches: watch::Sender<usize>,
    }

    fn health() -> (Health, Senders) {
        let (kubernetes, bundle, caches) =
            (watch::Sender::new(Contact::none()), watch::Sender::new(None), watch::Sender::new(0));
        let health = Health {
            kubernetes: kubernetes.subscribe(),
            leads: watch::Sender::new(false).subscribe(),
            heartbeat: Heartbeat::default(),
            bundle: bundle.subscribe(),
            caches: caches.subscribe(),
            caches_needed: 2,
            registered: None,
            metrics: Arc::new(Metrics::new().unwrap()),
        };
        (health, Senders { kubernetes, bundle, caches })
    }

    async fn ask(health: &Health, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = router(health.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn waits_for(health: &Health) -> (StatusCode, usize) {
        let (status, body) = ask(health, "/readyz").await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        (status, body["waitingFor"].as_array().unwrap().len())
    }

    #[tokio::test]
    async fn ready_with_all_that_is_needed_and_not_before() {
        let (health, senders) = health();
        assert_eq!(waits_for(&health).await, (StatusCode::SERVICE_UNAVAILABLE, 2));
        senders.bundle.send_replace(Some("ca".into()));
        senders.caches.send_replace(1);
        assert_eq!(waits_for(&health).await, (StatusCode::SERVICE_UNAVAILABLE, 1));
        senders.caches.send_replace(2);
        assert_eq!(waits_for(&health).await, (StatusCode::OK, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_long_outage_of_the_api_server_makes_unready() {
        let (health, senders) = health();
        senders.bundle.send_replace(Some("ca".into()));
        senders.caches.send_replace(2);
        senders.kubernetes.send_replace(Contact { reachable: false, since: Instant::now() });
        tokio::time::advance(OUTAGE.saturating_sub(Duration::from_millis(1))).await;
        let (status, body) = ask(&health, "/readyz").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains(r#""kubernetes":"unreachable""#), "{body}");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(waits_for(&health).await, (StatusCode::SERVICE_UNAVAILABLE, 1));
        senders.kubernetes.send_replace(Contact { reachable: true, since: Instant::now() });
        assert_eq!(waits_for(&health).await, (StatusCode::OK, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn live_while_the_controller_completes_its_rounds() {
        let (health, _senders) = health();
        let beating = health.heartbeat.begin();
        tokio::time::advance(HUNG.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!(ask(&health, "/healthz").await, (StatusCode::OK, "ok\n".into()));
        tokio::time::advance(Duration::from_millis(1)).await;
        let hung = "the controller has completed no round for 7 s\n";
        assert_eq!(ask(&health, "/healthz").await, (StatusCode::SERVICE_UNAVAILABLE, hung.into()));
        health.heartbeat.beat();
        assert_eq!(ask(&health, "/healthz").await.0, StatusCode::OK);
        drop(beating);
        tokio::time::advance(HUNG * 2).await;
        assert_eq!(ask(&health, "/healthz").await.0, StatusCode::OK, "a standby does not beat");
    }
}
