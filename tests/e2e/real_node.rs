//! Complete path of an image on a real kubelet and containerd, with an image that contains no
//! program.

use std::{path::Path, time::Duration};

use kube::ResourceExt;
use prewarmer_api::task::Phase;
use prewarmer_test_support::{cluster::Cluster, namespace::first_reason, server::Server};
use serde_json::{Value, json};

use crate::TestCluster;

const TIMEOUT: Duration = Duration::from_secs(90);

/// Returns a Deployment for the real node with a program image and an image volume that contains
/// only data.
fn real_node_deployment(app: &str, data: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "real1"},
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": app, "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "image": {"reference": data}}]}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_starts_with_warm_images() {
    let cluster = Cluster::shared();
    let Some(registry) = cluster.registry("pod_starts_with_warm_images") else { return };
    let namespace = cluster.namespace("real");
    let _server = Server::start(cluster, &namespace, &cluster.push_helper(registry)).await;
    let (app, data) = (
        format!("{registry}/app:{}", namespace.name),
        format!("{registry}/data:{}", namespace.name),
    );
    cluster.push(&app, &Path::new(cluster.var("BIN")).join("pause"), true);
    cluster.push_data(&data);
    namespace.apply(&real_node_deployment(&app, &data));
    let first = || async { namespace.tasks().pop() };
    let task = namespace.eventually("a task", TIMEOUT, first).await;
    let status = namespace.wait_until_ended(&task.name_any(), TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.succeeded_nodes, 1, "{status:#?}");
    assert_eq!(namespace.get("pods"), Vec::<Value>::new());
    namespace.kubectl(&["scale", "deployment/web", "--replicas=1"], "");
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"], "");
    let events = namespace.events("web-");
    assert!(
        events.iter().any(|e| e.contains("already present") && e.contains(&app)),
        "{events:#?}"
    );
    assert!(!events.iter().any(|e| e.contains("Pulling")), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pull_method_warms_data_images() {
    let cluster = Cluster::shared();
    let Some(registry) = cluster.registry("each_pull_method_warms_data_images") else { return };
    let namespace = cluster.namespace("methods");
    namespace.kubectl(
        &["label", "namespace", &namespace.name, "pod-security.kubernetes.io/enforce=restricted"],
        "",
    );
    let _server = Server::start(cluster, &namespace, &cluster.push_helper(registry)).await;
    for method in ["ImageVolume", "Helper"] {
        let name = method.to_lowercase();
        let (good, absent) =
            (format!("{registry}/{name}:{}", namespace.name), format!("{registry}/{name}:absent"));
        cluster.push_data(&good);
        let spec = json!({"images": [absent, good], "pullMethod": method, "timeout": "60s",
                          "nodeSelector": {"kubernetes.io/hostname": "real1"}});
        namespace.apply_task(&name, &spec);
        let status = namespace.wait_until_ended(&name, Duration::from_secs(30)).await;
        assert_eq!(status.images[0].failed, 1, "{status:#?}");
        assert_eq!(status.images[1].succeeded, 1, "{status:#?}");
        assert_eq!(first_reason(&status), Some("ImageNotFound"), "{status:#?}");
        let on_node = || async { has_image(cluster, &good).then_some(()) };
        namespace.eventually(&format!("{good} in containerd"), TIMEOUT, on_node).await;
    }
}

/// Reports whether the node's status lists the image; the kubelet refreshes it within a minute.
fn has_image(cluster: &Cluster, reference: &str) -> bool {
    cluster
        .kubectl(&["get", "node", "real1", "-o", "jsonpath={.status.images[*].names[*]}"], "")
        .contains(reference)
}
