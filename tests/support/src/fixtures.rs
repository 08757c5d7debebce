//! Values and objects that several tests use.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use prewarmer_api::labels::{
    ATTEMPT_LABEL, BATCH_LABEL, MANAGED_BY, NODE_LABEL, PART_LABEL, TASK_LABEL, TASK_UID_LABEL,
};
use serde_json::{Value, json};

use crate::namespace::Namespace;

/// Worker image that fake nodes never pull.
pub const HELPER: &str = "registry.example/prewarmer-helper:1";
/// Helper image of an installation, the only one that the admission policies accept.
pub const INSTALLED_HELPER: &str = "registry.example/helper:1";
/// Timeout for a task with a few fake nodes on a busy machine.
pub const TASK_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a coalesce window, a lookup and a creation, and for the leader's workload watch to find
/// a workload without a hint.
pub const SETTLE_TIME: Duration = Duration::from_secs(6);

/// Returns a number from an environment variable, which longer runs raise, or the default.
pub fn env_number<T: FromStr>(variable: &str, default: T) -> T {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Returns a pod spec for one fake node.
pub fn pod_spec(images: &[&str]) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .enumerate()
        .map(|(n, image)| json!({"name": format!("c{n}"), "image": image}))
        .collect();
    json!({"nodeSelector": {"kubernetes.io/hostname": "node-0001"}, "containers": containers})
}

/// Returns an object with a name and a spec.
pub fn workload(api_version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Returns a `PrewarmTask`.
pub fn task(name: &str, spec: &Value) -> Value {
    workload("prewarm.io/v1alpha1", "PrewarmTask", name, spec)
}

/// Returns all labels of a worker of the task `web`.
pub fn worker_labels(task_uid: &str, node: &str) -> Value {
    json!({
        (MANAGED_BY.0): MANAGED_BY.1,
        TASK_LABEL: "web",
        TASK_UID_LABEL: task_uid,
        NODE_LABEL: node,
        BATCH_LABEL: "0",
        ATTEMPT_LABEL: "0",
        PART_LABEL: "0",
    })
}

/// Returns a Deployment for one fake node.
pub fn deployment(name: &str, replicas: u32, images: &[&str]) -> Value {
    let labels = json!({"app": name});
    let template = json!({"metadata": {"labels": labels}, "spec": pod_spec(images)});
    let spec =
        json!({"replicas": replicas, "selector": {"matchLabels": labels}, "template": template});
    workload("apps/v1", "Deployment", name, &spec)
}

/// Returns a Deployment for all fake nodes.
pub fn wide_deployment(name: &str, replicas: u32, images: &[&str]) -> Value {
    let mut object = deployment(name, replicas, images);
    object["spec"]["template"]["spec"]["nodeSelector"] = json!({"type": "fake"});
    object
}

/// Returns a Deployment without replicas whose task warms up to 50 fake nodes, one after another.
/// An image named `slow` takes 5 s per node.
pub fn slow_deployment(name: &str, image: &str) -> Value {
    let mut object = wide_deployment(name, 0, &[image]);
    object["metadata"]["annotations"] =
        json!({"prewarm.io/batch-size": "1", "prewarm.io/nodes": "50"});
    object
}

/// Returns the images of all tasks in the namespace with the number of tasks that contain each.
pub fn images_in_tasks(namespace: &Namespace) -> BTreeMap<String, usize> {
    let mut asked = BTreeMap::new();
    for task in namespace.get("prewarmtasks") {
        for image in task["spec"]["images"].as_array().unwrap() {
            *asked.entry(image.as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    asked
}

/// Waits until every image is in a task, then asserts that each is in exactly one and that no other
/// image is in any.
pub async fn expect_tasks_for(namespace: &Namespace, images: &[&str]) {
    let expected: BTreeMap<String, usize> =
        images.iter().map(|image| ((*image).to_owned(), 1)).collect();
    namespace
        .eventually(&format!("tasks for {images:?}"), TASK_TIMEOUT, || async {
            (images_in_tasks(namespace).len() >= expected.len()).then_some(())
        })
        .await;
    assert_eq!(images_in_tasks(namespace), expected);
}
