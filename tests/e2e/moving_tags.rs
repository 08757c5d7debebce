//! Tags that move, on a real registry, kubelet and containerd: what the node resolves them to, and
//! what counts as warm.

use std::time::Duration;

use kube::ResourceExt;
use prewarmer_api::task::{Phase, PrewarmTask, PrewarmTaskStatus, PullPolicy};
use prewarmer_test_support::{
    cluster::Cluster, namespace::Namespace, outcome::METHODS, server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Time limit of a task with one small image, on a busy machine.
const MAX_TASK: Duration = Duration::from_secs(30);
/// Time limit until the node's status has a new image: the kubelet lists its images every 30 s and
/// writes its status every 10 s.
const MAX_REPORT: Duration = Duration::from_secs(90);
/// Time in which a hint would have created a task: the window, the lookup, and the watch's check.
const SETTLED: Duration = Duration::from_secs(8);

/// Image whose tag moves, with the digest that it was moved to last.
struct MovingImage {
    reference: String,
    digest: String,
}

impl MovingImage {
    /// Pushes content that no other image has.
    fn push(cluster: &Cluster, reference: &str, content: &str) -> Self {
        let digest = cluster.push_content(reference, &format!("{reference} {content}"));
        Self { reference: reference.to_owned(), digest }
    }

    /// Moves the tag to other content.
    fn move_to(&mut self, cluster: &Cluster, content: &str) {
        let moved = Self::push(cluster, &self.reference, content);
        assert_ne!(moved.digest, self.digest, "the tag has moved");
        *self = moved;
    }

    /// Reports whether the node's status states that the tag is the image of this digest.
    fn is_reported(&self, cluster: &Cluster) -> bool {
        let node: Value =
            serde_json::from_str(&cluster.kubectl(&["get", "node", "real1", "-o", "json"], ""))
                .unwrap();
        let images = node["status"]["images"].as_array().cloned().unwrap_or_default();
        images.iter().any(|image| {
            let names = image["names"].as_array().cloned().unwrap_or_default();
            let has = |name: &dyn Fn(&str) -> bool| {
                names.iter().any(|text| text.as_str().is_some_and(name))
            };
            has(&|text| text == self.reference) && has(&|text| text.ends_with(&self.digest))
        })
    }
}

/// Waits until the node reports each image by its tag and digest.
async fn wait_until_reported(cluster: &Cluster, namespace: &Namespace, images: &[MovingImage]) {
    let all = || async { images.iter().all(|image| image.is_reported(cluster)).then_some(()) };
    namespace.eventually("digests in the status of the node", MAX_REPORT, all).await;
}

/// Runs one task for each method and returns their results.
async fn run_tasks(
    namespace: &Namespace,
    name: &str,
    images: &[MovingImage],
    policy: Option<&str>,
) -> Vec<PrewarmTaskStatus> {
    let mut ended = Vec::new();
    for (method, image) in METHODS.iter().zip(images) {
        let task = format!("{name}-{}", method.to_lowercase());
        let mut spec = json!({"images": [image.reference], "pullMethod": method, "timeout": "60s",
                              "nodeSelector": {"kubernetes.io/hostname": "real1"}});
        if let Some(policy) = policy {
            spec["imagePullPolicy"] = json!(policy);
        }
        namespace.apply_task(&task, &spec);
        let status = namespace.wait_until_ended(&task, MAX_TASK).await;
        assert_eq!(status.phase, Phase::Completed, "{task}: {status:#?}");
        ended.push(status);
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_old_copy_of_a_moving_tag_is_not_warm() {
    const NAME: &str = "a_node_with_an_old_copy_of_a_moving_tag_is_not_warm";
    let cluster = Cluster::shared();
    let Some(registry) = cluster.registry(NAME) else { return };
    let namespace = cluster.namespace("moving");
    let helper = cluster.push_helper(registry);
    // Only what the node reports can count as warm.
    let arguments = [
        format!("--worker-image={helper}"),
        format!("--public-registries={registry}"),
        "--known-for=0s".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _server = Server::with_args(cluster, &namespace, &namespace, &arguments).await;
    let reference = |method: &str| {
        format!("{registry}/moving-{}-{}:latest", method.to_lowercase(), namespace.name)
    };
    let push = |method: &&str| MovingImage::push(cluster, &reference(method), "first");
    let mut images: Vec<MovingImage> = METHODS.iter().map(push).collect();
    run_tasks(&namespace, "first", &images, None).await;
    wait_until_reported(cluster, &namespace, &images).await;
    let first: Vec<String> = images.iter().map(|image| image.digest.clone()).collect();
    for image in &mut images {
        image.move_to(cluster, "second");
    }
    for status in run_tasks(&namespace, "present", &images, Some("IfNotPresent")).await {
        assert_eq!(status.already_warm_nodes, 1, "the old copy is enough: {status:#?}");
    }
    for (image, first) in images.iter().zip(first) {
        let old = MovingImage { reference: image.reference.clone(), digest: first };
        assert!(old.is_reported(cluster), "the node still has the old copy");
    }
    let moved = run_tasks(&namespace, "moved", &images, None).await;
    for status in &moved {
        assert_eq!((status.already_warm_nodes, status.succeeded_nodes), (0, 1), "{status:#?}");
    }
    // A container's image ID is that of the image by the helper method only.
    assert_eq!(METHODS[1], "Helper");
    assert_eq!(moved[1].images[0].digest.as_ref(), Some(&images[1].digest));
    wait_until_reported(cluster, &namespace, &images).await;
}

/// Returns a Deployment without replicas whose container has this policy.
fn deployment(name: &str, image: &str, policy: Option<&str>) -> Value {
    let mut container = json!({"name": "c", "image": image});
    if let Some(policy) = policy {
        container["imagePullPolicy"] = json!(policy);
    }
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "real1"}, "containers": [container]}}}})
}

/// Waits until the namespace has this number of tasks that admission created, and returns the
/// newest.
async fn admitted_task(namespace: &Namespace, number: usize) -> PrewarmTask {
    let newest = || async {
        let mut tasks = namespace.tasks();
        tasks.retain(|task| task.name_any().starts_with("auto-"));
        assert!(tasks.len() <= number, "{tasks:#?}");
        let full = tasks.len() == number;
        tasks.into_iter().filter(|_| full).max_by_key(|task| {
            task.metadata.resource_version.clone().map(|v| v.parse::<u64>().unwrap())
        })
    };
    let task = namespace.eventually("a task of admission", MAX_TASK, newest).await.name_any();
    namespace.wait_until_ended(&task, MAX_TASK).await;
    namespace.tasks().into_iter().find(|one| one.name_any() == task).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_carries_the_pull_policy_of_containers() {
    const NAME: &str = "admission_carries_the_pull_policy_of_containers";
    let cluster = Cluster::shared();
    let Some(registry) = cluster.registry(NAME) else { return };
    let namespace = cluster.namespace("policies");
    let _server = Server::start(cluster, &namespace, &cluster.push_helper(registry)).await;
    let reference = format!("{registry}/admitted-{}:latest", namespace.name);
    let mut images = [MovingImage::push(cluster, &reference, "first")];
    run_tasks(&namespace, "first", &images, None).await;
    wait_until_reported(cluster, &namespace, &images).await;
    images[0].move_to(cluster, "second");
    let already_warm =
        |task: &PrewarmTask| task.status.as_ref().map(|status| status.already_warm_nodes);
    let apply = |name: &str, policy| namespace.apply(&deployment(name, &reference, policy));
    // The old copy is what this container is content with; the image of the other one is never
    // pulled.
    apply("content", Some("IfNotPresent"));
    let content = admitted_task(&namespace, 1).await;
    assert_eq!(content.spec.image_pull_policy, Some(PullPolicy::IfNotPresent));
    assert_eq!(already_warm(&content), Some(1), "{content:#?}");
    apply("local", Some("Never"));
    // The API server sets `Always` for the tag `latest`.
    apply("web", None);
    let web = admitted_task(&namespace, 2).await;
    assert_eq!(web.spec.image_pull_policy, None);
    assert_eq!((already_warm(&web), &web.spec.images), (Some(0), &vec![reference.clone()]));
    wait_until_reported(cluster, &namespace, &images).await;
    // A workload with the same image adds nothing, nor does one that is content with less.
    apply("second", Some("Always"));
    apply("third", Some("IfNotPresent"));
    tokio::time::sleep(SETTLED).await;
    let tasks = namespace.tasks();
    assert_eq!(tasks.iter().filter(|task| task.name_any().starts_with("auto-")).count(), 2);
}
