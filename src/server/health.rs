//! Health endpoints: liveness (`/healthz`), readiness (`/readyz`) and metrics (`/metrics`).

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use prewarmer_kube::{
    api_contact::ApiContact,
    lease::{HUNG_AFTER, Heartbeat},
};
use prometheus::Registry;
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::metrics::encode;

/// Time without a response to any component after which the API server is probed, and timeout of
/// the probe. The leader renews the Lease at least every 2 s, which the other replicas observe, so
/// that the probe is sent only during an interruption.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Time without contact to the API server after which a replica is not ready: its caches may be
/// minutes old, and another replica may have a connection. Until then reviews and reads are
/// answered from memory. Upgrades of a control plane and restarts of an API server take less time.
const OUTAGE: Duration = Duration::from_secs(300);

/// Maximum number of connections. A kubelet and one or two Prometheus servers hold one each. When
/// the listener is full, an idle connection is closed for a new one, so that other clients cannot
/// block the probes.
pub(crate) const MAX_CONNECTIONS: usize = 256;

/// Reachability of the API server, with the time of its last change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ApiServerContact {
    reachable: bool,
    since: Instant,
}

impl ApiServerContact {
    /// Returns the state before the first probe: unreachable since now.
    #[must_use]
    pub(crate) fn initial() -> Self {
        Self { reachable: false, since: Instant::now() }
    }

    fn describe(&self) -> &'static str {
        if self.reachable { "connected" } else { "unreachable" }
    }

    fn is_lost(&self) -> bool {
        !self.reachable && self.since.elapsed() >= OUTAGE
    }
}

/// State on which readiness and liveness depend.
#[derive(Clone)]
pub(crate) struct HealthState {
    /// Reachability of the API server.
    pub kubernetes: watch::Receiver<ApiServerContact>,
    /// Leadership of this replica.
    pub leads: watch::Receiver<bool>,
    /// Heartbeat of the controller loop.
    pub heartbeat: Heartbeat,
    /// CA bundle, once there is a serving certificate.
    pub bundle: watch::Receiver<Option<String>>,
    /// Number of caches with a complete first list: tasks, which requires the custom resource
    /// definitions, and the cluster context of workloads.
    pub synced_caches: watch::Receiver<usize>,
    /// Number of caches that readiness requires.
    pub required_caches: usize,
    /// State of the webhook registration. Set only where the API server calls this replica by URL;
    /// otherwise readiness does not depend on it.
    pub registered: Option<watch::Receiver<bool>>,
    /// Registry of the metrics of the process.
    pub registry: Registry,
}

/// Builds the router of the health listener.
pub(crate) fn router(health: HealthState) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

/// Builds the routes of the REST listener: `/healthz` and `/readyz` as JSON and, when
/// `with_metrics` is true, `/metrics`. They need no token.
pub(crate) fn rest_routes(health: HealthState, with_metrics: bool) -> Router {
    let router = Router::new().route("/healthz", get(healthz_json)).route("/readyz", get(readyz));
    let router = if with_metrics { router.route("/metrics", get(metrics)) } else { router };
    router.with_state(health)
}

/// Handles `/healthz` of the REST listener, in the form that clients of image prewarm services
/// expect.
async fn healthz_json(State(health): State<HealthState>) -> Response {
    let kubernetes = health.kubernetes.borrow().describe();
    let (code, _) = healthz(State(health)).await;
    let status = if code == StatusCode::OK { "healthy" } else { "unhealthy" };
    let timestamp = Timestamp::now().to_string();
    let body = json!({"status": status, "kubernetes": kubernetes, "timestamp": timestamp});
    (code, Json(body)).into_response()
}

/// Handles `/healthz`: fails when this replica leads and its controller loop hangs. Sends no
/// request, and takes only a lock that is held for the duration of a copy.
async fn healthz(State(health): State<HealthState>) -> (StatusCode, String) {
    match health.heartbeat.age().filter(|age| *age >= HUNG_AFTER) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(age) => {
            let text = format!(
                "the controller loop has not completed an iteration for {} s\n",
                age.as_secs()
            );
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

/// Handles `/readyz`: a replica is ready when it has a certificate, the first lists of all caches
/// and, where required, a registration. An API server that is unreachable for less than [`OUTAGE`]
/// is reported and does not affect readiness.
async fn readyz(State(health): State<HealthState>) -> Response {
    let kubernetes = *health.kubernetes.borrow();
    let waiting = [
        kubernetes.is_lost().then_some("the API server has been unreachable for more than 5 minutes"),
        health.bundle.borrow().is_none().then_some("no serving certificate yet"),
        (*health.synced_caches.borrow() < health.required_caches)
            .then_some("caches are not synced: check that the custom resource definitions are installed and may be listed"),
        health.registered.is_some_and(|r| !*r.borrow()).then_some("the webhook is not registered yet"),
    ];
    let waiting: Vec<&str> = waiting.into_iter().flatten().collect();
    let (code, status) = if waiting.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let body = json!({
        "status": status,
        "kubernetes": kubernetes.describe(),
        "leader": *health.leads.borrow(),
        "timestamp": Timestamp::now().to_string(),
        "waitingFor": waiting,
    });
    (code, Json(body)).into_response()
}

async fn metrics(State(health): State<HealthState>) -> Response {
    match encode(&health.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Publishes changes of the reachability of the API server until `stop`. Where no component has got
/// a response for [`PROBE_INTERVAL`], probes its version endpoint.
pub(crate) async fn probe_api_server(
    client: Client,
    contact: ApiContact,
    kubernetes: watch::Sender<ApiServerContact>,
    stop: CancellationToken,
) {
    let rest = || PROBE_INTERVAL.checked_sub(contact.age()?).filter(|rest| !rest.is_zero());
    loop {
        let reachable = rest().is_some() || {
            let answer = tokio::time::timeout(PROBE_INTERVAL, client.apiserver_version()).await;
            matches!(answer, Ok(Ok(_)))
        };
        let changed = kubernetes.send_if_modified(|contact| {
            let changed = contact.reachable != reachable;
            if changed {
                *contact = ApiServerContact { reachable, since: Instant::now() };
            }
            changed
        });
        if changed {
            tracing::info!(reachable, "API server reachability changed");
        }
        let pause = rest().filter(|_| reachable).unwrap_or(PROBE_INTERVAL);
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, http::Request};
    use prewarmer_kube::mock_api::MockApi;
    use tower::ServiceExt;

    use super::*;

    struct Senders {
        kubernetes: watch::Sender<ApiServerContact>,
        bundle: watch::Sender<Option<String>>,
        caches: watch::Sender<usize>,
    }

    fn health() -> (HealthState, Senders) {
        let (kubernetes, bundle, caches) = (
            watch::Sender::new(ApiServerContact::initial()),
            watch::Sender::new(None),
            watch::Sender::new(0),
        );
        let health = HealthState {
            kubernetes: kubernetes.subscribe(),
            leads: watch::Sender::new(false).subscribe(),
            heartbeat: Heartbeat::default(),
            bundle: bundle.subscribe(),
            synced_caches: caches.subscribe(),
            required_caches: 2,
            registered: None,
            registry: Registry::new(),
        };
        (health, Senders { kubernetes, bundle, caches })
    }

    async fn get_path(health: &HealthState, path: &str) -> (StatusCode, String) {
        get_from(router(health.clone()), path).await
    }

    async fn get_from(router: Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn get_rest_path(health: &HealthState, path: &str) -> (StatusCode, String) {
        get_from(rest_routes(health.clone(), path == "/metrics"), path).await
    }

    #[tokio::test]
    async fn rest_listener_reports_health_as_json() {
        let (health, senders) = health();
        let (status, body) = get_rest_path(&health, "/healthz").await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["kubernetes"]), (StatusCode::OK, &json!("unreachable")));
        senders
            .kubernetes
            .send_replace(ApiServerContact { reachable: true, since: Instant::now() });
        let (_, body) = get_rest_path(&health, "/healthz").await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&body["status"], &body["kubernetes"]),
            (&json!("healthy"), &json!("connected"))
        );
        assert!(body["timestamp"].as_str().unwrap().parse::<Timestamp>().is_ok());
        assert_eq!(get_rest_path(&health, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get_rest_path(&health, "/metrics").await.0, StatusCode::OK);
        let without = get_from(rest_routes(health.clone(), false), "/metrics").await;
        assert_eq!(without.0, StatusCode::NOT_FOUND);
    }

    async fn readiness(health: &HealthState) -> (StatusCode, usize) {
        let (status, body) = get_path(health, "/readyz").await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        (status, body["waitingFor"].as_array().unwrap().len())
    }

    #[tokio::test]
    async fn ready_only_with_certificate_and_synced_caches() {
        let (health, senders) = health();
        assert_eq!(readiness(&health).await, (StatusCode::SERVICE_UNAVAILABLE, 2));
        senders.bundle.send_replace(Some("ca".into()));
        senders.caches.send_replace(1);
        assert_eq!(readiness(&health).await, (StatusCode::SERVICE_UNAVAILABLE, 1));
        senders.caches.send_replace(2);
        assert_eq!(readiness(&health).await, (StatusCode::OK, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_fails_only_after_a_long_api_server_outage() {
        let (health, senders) = health();
        senders.bundle.send_replace(Some("ca".into()));
        senders.caches.send_replace(2);
        senders
            .kubernetes
            .send_replace(ApiServerContact { reachable: false, since: Instant::now() });
        tokio::time::advance(OUTAGE.saturating_sub(Duration::from_millis(1))).await;
        let (status, body) = get_path(&health, "/readyz").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains(r#""kubernetes":"unreachable""#), "{body}");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(readiness(&health).await, (StatusCode::SERVICE_UNAVAILABLE, 1));
        senders
            .kubernetes
            .send_replace(ApiServerContact { reachable: true, since: Instant::now() });
        assert_eq!(readiness(&health).await, (StatusCode::OK, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_server_is_probed_only_without_other_responses() {
        let mut api = MockApi::new();
        let (contact, stop) = (ApiContact::default(), CancellationToken::new());
        let (sender, kubernetes) = watch::channel(ApiServerContact::initial());
        contact.record();
        let probe = probe_api_server(api.client(), contact.clone(), sender, stop.clone());
        let probe = tokio::spawn(probe);
        for _ in 0..30 {
            api.expect_none(Duration::from_secs(2)).await;
            contact.record();
        }
        assert!(kubernetes.borrow().reachable);
        // 5 s after the last response.
        let lost = Instant::now();
        api.expect("GET", "/version").fail(503, "ServiceUnavailable", "etcd").await;
        let took = lost.elapsed();
        assert!(took >= PROBE_INTERVAL && took < Duration::from_secs(6), "{took:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!kubernetes.borrow().reachable);
        let version = json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
        api.expect("GET", "/version").respond(200, version).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(kubernetes.borrow().reachable);
        stop.cancel();
        api.join(probe).await;
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_fails_when_the_controller_loop_hangs() {
        let (health, _senders) = health();
        let beating = health.heartbeat.begin();
        tokio::time::advance(HUNG_AFTER.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!(get_path(&health, "/healthz").await, (StatusCode::OK, "ok\n".into()));
        tokio::time::advance(Duration::from_millis(1)).await;
        let hung = "the controller loop has not completed an iteration for 7 s\n";
        assert_eq!(
            get_path(&health, "/healthz").await,
            (StatusCode::SERVICE_UNAVAILABLE, hung.into())
        );
        health.heartbeat.beat();
        assert_eq!(get_path(&health, "/healthz").await.0, StatusCode::OK);
        tokio::time::advance(HUNG_AFTER).await;
        let (status, body) = get_rest_path(&health, "/healthz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains(r#""status":"unhealthy""#), "{body}");
        drop(beating);
        tokio::time::advance(HUNG_AFTER * 2).await;
        assert_eq!(
            get_path(&health, "/healthz").await.0,
            StatusCode::OK,
            "a standby has no heartbeat"
        );
    }
}
