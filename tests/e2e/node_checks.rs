//! Node checks: nodes that a check rejects, and checks without a result.

use std::time::Duration;

use axum::{Json, Router, extract::Query, http::header, response::IntoResponse, routing::get};
use prewarmer_api::task::{Phase, PrewarmTaskStatus};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::HELPER,
    namespace::{Namespace, condition},
    server::Server,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::TestCluster;

const TIMEOUT: Duration = Duration::from_secs(60);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn run_on_three_nodes(namespace: &Namespace, name: &str, spec: &Value) -> PrewarmTaskStatus {
    let mut spec = spec.clone();
    let names: Vec<String> = (1..=3).map(|n| format!("node-{n:04}")).collect();
    spec["nodeAffinity"] = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [names[0]]}]}, {"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [names[1]]}]}, {"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [names[2]]}]}]});
    namespace.apply_task(name, &spec);
    namespace.wait_until_ended(name, TIMEOUT).await
}

fn ignored_nodes(status: &PrewarmTaskStatus) -> Vec<(&str, &str)> {
    status.ignored_nodes.iter().map(|it| (it.node.as_str(), it.reason.as_str())).collect()
}

/// Serves a Prometheus query in the format of its HTTP API, with one sample per node whose instance
/// label is the node's name with or without a port.
async fn prometheus_response(Query(asked): Query<Vec<(String, String)>>) -> Json<Value> {
    assert_eq!(asked, [("query".to_owned(), "node_load1 > bool 0".to_owned())]);
    let sample =
        |node: &str, value: &str| json!({"metric": {"instance": node}, "value": [1.0, value]});
    let result =
        [sample("node-0001", "0.2"), sample("node-0002:9100", "0.95"), sample("node-0003", "NaN")];
    Json(json!({"status": "success", "data": {"resultType": "vector", "result": result}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_check_excludes_nodes_or_is_unknown() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("prometheus");
    let address = serve(Router::new().route("/api/v1/query", get(prometheus_response))).await;
    let words = |url: &str| {
        [
            format!("--worker-image={HELPER}"),
            format!("--prometheus-url={url}"),
            "--prometheus-query=node_load1 > bool 0".to_owned(),
            "--prometheus-threshold=>0.9".to_owned(),
            "--prometheus-node-label=instance".to_owned(),
        ]
    };
    let with = words(&format!("http://{address}"));
    let with: Vec<&str> = with.iter().map(String::as_str).collect();
    let mut server = Server::with_args(cluster, &namespace, &namespace, &with).await;
    let status = run_on_three_nodes(&namespace, "asked", &json!({"images": ["a:1"]})).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.total_nodes, 2, "{status:#?}");
    assert_eq!(ignored_nodes(&status), [("node-0002", "Unhealthy")]);
    let checked = condition(&status, "NodesChecked").unwrap();
    assert_eq!(checked.status, "True");
    assert_eq!(checked.message, "");
    server.terminate();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let without = words(&format!("http://{closed}"));
    let without: Vec<&str> = without.iter().map(String::as_str).collect();
    let _server = Server::with_args(cluster, &namespace, &namespace, &without).await;
    let status = run_on_three_nodes(&namespace, "unreachable", &json!({"images": ["b:1"]})).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.total_nodes, 3, "{status:#?}");
    let checked = condition(&status, "NodesChecked").unwrap();
    assert_eq!(checked.status, "Unknown", "{checked:?}");
    assert!(checked.message.starts_with("Prometheus: "), "{checked:?}");
    assert!(checked.message.contains("refused"), "{checked:?}");
}

/// Serves one image that is larger than any node's disk and one for another platform only.
async fn start_registry() -> String {
    let large = || async {
        let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest('c'), "size": 2});
        let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest('d'),
                           "size": 100_u64 << 30});
        manifest(
            MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}),
        )
    };
    let foreign = || async {
        let platform = json!({"architecture": "s390x", "os": "aix"});
        let entry =
            json!({"mediaType": MANIFEST, "digest": digest('e'), "size": 2, "platform": platform});
        manifest(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}))
    };
    let router = Router::new().route("/v2/", get(|| async { "{}" }));
    let router = router
        .route("/v2/large/manifests/1", get(large))
        .route("/v2/foreign/manifests/1", get(foreign));
    serve(router).await
}

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn manifest(kind: &'static str, body: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, kind)], body.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_and_platform_checks_exclude_nodes() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("disks");
    let registry = start_registry().await;
    let plain = format!("--plain-http-registries={registry}");
    let _server = Server::with_args(
        cluster,
        &namespace,
        &namespace,
        &[&format!("--worker-image={HELPER}"), "--disk-check=true", &plain],
    )
    .await;
    for (image, reason) in [("large", "NotEnoughDisk"), ("foreign", "PlatformMismatch")] {
        let status = run_on_three_nodes(
            &namespace,
            image,
            &json!({"images": [format!("{registry}/{image}:1")]}),
        )
        .await;
        assert_eq!(status.conditions[0].reason, "NoEligibleNodes", "{status:#?}");
        let reasons: Vec<&str> = ignored_nodes(&status).iter().map(|(_, reason)| *reason).collect();
        assert_eq!(reasons, [reason; 3]);
    }
    let status = run_on_three_nodes(
        &namespace,
        "absent",
        &json!({"images": [format!("{registry}/absent:1")]}),
    )
    .await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.total_nodes, 3, "{status:#?}");
    let checked = condition(&status, "NodesChecked").unwrap();
    assert_eq!(checked.status, "Unknown", "{checked:?}");
    assert!(checked.message.contains("/absent:1"), "{checked:?}");
}
