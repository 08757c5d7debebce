//! Complete path of an image on a real kubelet and containerd, with an image that contains no
//! program.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use kube::ResourceExt;
use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    namespace::{Namespace, first_reason},
    outcome::METHODS,
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

const TIMEOUT: Duration = Duration::from_secs(90);
/// Maximum time from the creation of a workload until its small images are on the node, on a busy
/// machine.
const MAX_WARMING: Duration = Duration::from_secs(20);

/// Returns a Deployment for the real node with a program image and an image volume that contains
/// only data.
fn real_node_deployment(name: &str, app: &str, data: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "real1"},
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": app, "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "image": {"reference": data}}]}}}})
}

/// Pushes an image with a program and one with only data; returns their references.
fn push_images(cluster: &Cluster, registry: &str, name: &str) -> (String, String) {
    let (app, data) = (format!("{registry}/app:{name}"), format!("{registry}/data:{name}"));
    cluster.push(&app, &Path::new(cluster.var("BIN")).join("pause"), true);
    cluster.push_data(&data);
    (app, data)
}

/// Waits for the pods of a Deployment, and asserts that the kubelet found their images.
fn assert_starts_warm(namespace: &Namespace, name: &str, app: &str) {
    namespace.kubectl(&["rollout", "status", "deployment", name, "--timeout=60s"], "");
    let events = namespace.events(&format!("{name}-"));
    assert!(events.iter().any(|e| e.contains("already present") && e.contains(app)), "{events:#?}");
    assert!(!events.iter().any(|e| e.contains("Pulling")), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_starts_with_warm_images() {
    let cluster = Cluster::shared();
    let Some(registry) = cluster.registry("pod_starts_with_warm_images") else { return };
    let namespace = cluster.namespace("real");
    let _server = Server::start(cluster, &namespace, &cluster.push_helper(registry)).await;
    // A Deployment without replicas, and one whose pod cannot be scheduled yet.
    for name in ["idle", "unschedulable"] {
        let (app, data) = push_images(cluster, registry, &format!("{name}-{}", namespace.name));
        let mut web = real_node_deployment(name, &app, &data);
        if name == "unschedulable" {
            web["spec"]["replicas"] = json!(1);
            web["spec"]["template"]["spec"]["containers"][0]["resources"] =
                json!({"requests": {"cpu": "1000"}});
        }
        let begun = Instant::now();
        namespace.apply(&web);
        let task =
            || async { namespace.tasks().into_iter().find(|task| task.spec.images.contains(&app)) };
        let task = namespace.eventually("a task", MAX_WARMING, task).await.name_any();
        let status = namespace.wait_until_ended(&task, MAX_WARMING).await;
        let took = begun.elapsed();
        eprintln!("{name}: {} images on the node after {took:.1?}", status.images.len());
        assert!(took < MAX_WARMING, "{took:?}");
        assert_eq!(status.phase, Phase::Completed, "{status:#?}");
        assert_eq!(status.succeeded_nodes, 1, "{status:#?}");
        assert_eq!(status.images.len(), 2, "{status:#?}");
        let is_scheduled = |pod: &Value| {
            pod["metadata"]["labels"]["app"] == name && pod["spec"]["nodeName"].is_string()
        };
        assert!(!namespace.get("pods").iter().any(is_scheduled), "a pod is scheduled already");
        web["spec"]["replicas"] = json!(1);
        web["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({});
        namespace.apply(&web);
        assert_starts_warm(&namespace, name, &app);
        namespace.kubectl(&["delete", "deployment", name], "");
        let gone = || async { namespace.get("pods").is_empty().then_some(()) };
        namespace.eventually("deletion of the pods", TIMEOUT, gone).await;
    }
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
    for method in METHODS {
        let name = method.to_lowercase();
        let (app, data) = push_images(cluster, registry, &format!("{name}-{}", namespace.name));
        let absent = format!("{registry}/{name}:absent");
        let spec = json!({"images": [absent, data, app], "pullMethod": method, "timeout": "60s",
                          "nodeSelector": {"kubernetes.io/hostname": "real1"}});
        namespace.apply_task(&name, &spec);
        let status = namespace.wait_until_ended(&name, MAX_WARMING).await;
        let counts: Vec<_> =
            status.images.iter().map(|image| (image.succeeded, image.failed)).collect();
        assert_eq!(counts, [(0, 1), (1, 0), (1, 0)], "{status:#?}");
        assert_eq!(first_reason(&status), Some("ImageNotFound"), "{status:#?}");
        // Without a task of its own, the Deployment finds what the method has pulled.
        let mut web = real_node_deployment(&name, &app, &data);
        web["metadata"]["annotations"] = json!({"prewarm.io/enabled": "false"});
        web["spec"]["replicas"] = json!(1);
        make_restricted(&mut web["spec"]["template"]["spec"]);
        namespace.apply(&web);
        assert_starts_warm(&namespace, &name, &app);
        assert_eq!(namespace.tasks().len(), METHODS.iter().position(|m| *m == method).unwrap() + 1);
        let on_node = || async { has_image(cluster, &data).then_some(()) };
        namespace.eventually(&format!("{data} in containerd"), TIMEOUT, on_node).await;
    }
}

/// Adapts a pod spec to the Pod Security level restricted.
fn make_restricted(pod: &mut Value) {
    pod["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}});
    pod["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
}

/// Reports whether the node's status lists the image; the kubelet refreshes it within a minute.
fn has_image(cluster: &Cluster, reference: &str) -> bool {
    cluster
        .kubectl(&["get", "node", "real1", "-o", "jsonpath={.status.images[*].names[*]}"], "")
        .contains(reference)
}
