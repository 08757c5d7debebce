//! Pod starts as reported by kubelet events. `installed.rs` tests the messages of a real kubelet.

use std::time::Instant;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::PostParams};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT, deployment},
    namespace::Namespace,
    server::Server,
};
use serde_json::json;

use crate::TestCluster;

/// Returns the number of pods that start; `make test-long` uses 10,000.
fn pod_count() -> usize {
    std::env::var("PREWARMER_TEST_STARTS").map_or(300, |text| text.parse().unwrap())
}

/// Returns the event of a kubelet about an image that it pulled or found.
pub(super) fn pulled_event(
    namespace: &Namespace,
    number: usize,
    pod: &str,
    node: &str,
    message: &str,
) -> Event {
    let object = json!({
        "metadata": {"name": format!("{pod}.{number}"), "namespace": namespace.name},
        "involvedObject": {"kind": "Pod", "namespace": namespace.name, "name": pod, "fieldPath": "spec.containers{c}"},
        "reason": "Pulled", "message": message, "type": "Normal", "count": 1,
        "source": {"component": "kubelet", "host": node},
        "lastTimestamp": k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    serde_json::from_value(object).unwrap()
}

pub(super) async fn create_events(cluster: &Cluster, namespace: &Namespace, events: Vec<Event>) {
    let api = Api::<Event>::namespaced(cluster.client().await, &namespace.name);
    let create = |event: Event| {
        let api = api.clone();
        async move { api.create(&PostParams::default(), &event).await.map(|_| ()).unwrap() }
    };
    stream::iter(events).map(create).buffer_unordered(32).collect::<Vec<()>>().await;
}

fn metric(server: &Server, name: &str) -> f64 {
    let metrics = server.get("/metrics");
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_starts_and_saved_time_are_counted() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("starts");
    let server = Server::start(cluster, &namespace, HELPER).await;
    namespace.apply(&deployment("web", 0, &["shop/web:1"]));
    namespace
        .eventually("a task", TASK_TIMEOUT, || async { namespace.get("prewarmtasks").pop() })
        .await;
    let (all, before, begun) = (pod_count(), server.resident_kib(), Instant::now());
    let pulled = "Successfully pulled image \"shop/web:1\" in 3.5s (4s including waiting). Image size: 9 bytes.";
    let present =
        "Container image \"shop/web:1\" already present on machine and can be accessed by the pod";
    // Pulls of our own workers on the first ten nodes.
    let workers = (0..10).map(|n| {
        pulled_event(&namespace, n, "prewarm-0123456789abcdef0123-x", &format!("n-{n}"), pulled)
    });
    create_events(cluster, &namespace, workers.collect()).await;
    let of_nodes =
        |n: usize| pulled_event(&namespace, n, &format!("web-{n}"), &format!("n-{n}"), present);
    let mut events: Vec<Event> = (0..all).map(of_nodes).collect();
    events
        .extend((0..5).map(|n| pulled_event(&namespace, n, "late", &format!("cold-{n}"), pulled)));
    // An image that no watched workload uses, and a message of unknown format.
    let other = present.replace("shop/web:1", "other:1");
    events.extend((0..5).map(|n| pulled_event(&namespace, n, "other", &format!("n-{n}"), &other)));
    events.push(pulled_event(&namespace, 0, "odd", "n-1", "Pulled, somehow"));
    create_events(cluster, &namespace, events).await;
    let warm = "prewarm_pod_starts_total{image=\"warm\"}";
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let counted = || async { (metric(&server, warm) >= all as f64).then_some(()) };
    namespace.eventually("all warm starts", TASK_TIMEOUT, counted).await;
    // A restarted container finds its image; this is not another pod start.
    let again = json!({"count": 2, "message": present}).to_string();
    namespace.kubectl(&["patch", "event", "web-0.0", "--type=merge", "-p", &again], "");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let counts = [
        warm,
        "prewarm_pod_starts_total{image=\"cold\"}",
        "prewarm_lead_time_seconds_count",
        "prewarm_seconds_saved_total",
    ]
    .map(|name| metric(&server, name).to_string());
    assert_eq!(counts, [all.to_string(), "5".into(), "10".into(), "35".into()]);
    let (grown, took) = (server.resident_kib().saturating_sub(before), begun.elapsed());
    println!("MEASURED {all} starts in {:.1} s: {grown} KiB more resident", took.as_secs_f64());
}
