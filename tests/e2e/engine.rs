//! Task controller on a real control plane: the effect of each task field, and the causes for which
//! workers are rejected.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::HELPER,
    namespace::{Namespace, condition, first_reason},
    outcome::METHODS,
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

const TIMEOUT: Duration = Duration::from_secs(60);

fn apply(namespace: &Namespace, name: &str, spec: &Value) {
    let mut spec = spec.clone();
    spec["nodeSelector"] = json!({"type": "fake"});
    namespace.apply_task(name, &spec);
}

fn patch(namespace: &Namespace, name: &str, spec: &Value) {
    let text = json!({ "spec": spec }).to_string();
    namespace.kubectl(&["patch", "prewarmtask", name, "--type=merge", "-p", &text], "");
}

async fn wait_until_deleted(namespace: &Namespace, kind: &str) {
    let none = || async { namespace.get(kind).is_empty().then_some(()) };
    namespace.eventually(&format!("deletion of all {kind}"), TIMEOUT, none).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_failures_are_retried() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("retry");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let retry = json!({"limit": 2, "delay": "1s"});
    let spec = json!({"images": ["a:1", "flaky:1"], "nodes": 6, "batchSize": 3, "timeout": "6s",
                      "failurePolicy": "Retry", "retry": retry});
    apply(&namespace, "t", &spec);
    // On a node of its own: where it still uses a node of "t" when a batch of retries starts, that
    // node is deferred, to a fifth batch.
    let other_node = json!({"kubernetes.io/hostname": "node-0009"});
    namespace.apply_task(
        "skip",
        &json!({"images": ["flaky:2"], "nodeSelector": other_node, "timeout": "6s"}),
    );
    let ended = namespace.wait_until_ended("t", TIMEOUT).await;
    assert_eq!(ended.phase, Phase::Completed, "{ended:#?}");
    assert_eq!(ended.succeeded_nodes, 6, "{ended:#?}");
    assert_eq!(ended.node_states, "ssssss");
    assert_eq!(ended.failed_nodes, []);
    assert_eq!(ended.total_batches, 4);
    assert_eq!(ended.current_batch_index, 3);
    let skipped = namespace.wait_until_ended("skip", TIMEOUT).await;
    assert_eq!(skipped.node_states, "f");
    assert_eq!(skipped.phase, Phase::Failed);
    let failure = &skipped.failed_nodes[0];
    assert_eq!(failure.reason, "RegistryUnreachable");
    assert!(failure.message.contains("i/o timeout"), "{failure:?}");
    wait_until_deleted(&namespace, "jobs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_pod_workers_pull_images() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("pods");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let images = ["a:1", "missing:1", "b:1"];
    let spec = json!({"images": images, "nodes": 20, "batchSize": 7, "worker": "Pod", "successThreshold": "0%"});
    apply(&namespace, "t", &spec);
    let ended = namespace.wait_until_ended("t", TIMEOUT).await;
    let counts: Vec<_> = ended.images.iter().map(|image| (image.succeeded, image.failed)).collect();
    assert_eq!(counts, [(20, 0), (0, 20), (20, 0)], "{ended:#?}");
    assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
    wait_until_deleted(&namespace, "pods").await;
    let given_up = ended.images[1].given_up.as_ref().map(|why| why.reason.as_str());
    assert_eq!(given_up, Some("ImageNotFound"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_image_costs_one_batch() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("typo");
    let server = Server::start(cluster, &namespace, HELPER).await;
    apply(&namespace, "t", &json!({"images": ["missing:1"], "batchSize": 3, "nodes": 100}));
    let ended = namespace.wait_until_ended("t", TIMEOUT).await;
    assert_eq!(ended.phase, Phase::Failed, "{ended:#?}");
    assert_eq!(ended.failed_node_count, 100, "{ended:#?}");
    let created = "prewarm_kube_requests_total{code=\"201\",component=\"controller\",resource=\"jobs\",verb=\"create\"} 3";
    let told = || async { server.get("/metrics").contains(created).then_some(()) };
    namespace.eventually(&format!("the metric {created}"), Duration::from_secs(5), told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retain_keeps_finished_workers() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("retain");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    for worker in ["Job", "Pod"] {
        let name = worker.to_lowercase();
        let image = format!("{name}:1");
        apply(
            &namespace,
            &name,
            &json!({"images": [image], "nodes": 4, "retain": "8s", "worker": worker}),
        );
        assert_eq!(namespace.wait_until_ended(&name, TIMEOUT).await.phase, Phase::Completed);
        assert_eq!(namespace.get("pods").len(), 4, "{worker}");
        wait_until_deleted(&namespace, "pods").await;
        wait_until_deleted(&namespace, "jobs").await;
        assert_eq!(namespace.status(&name).phase, Phase::Completed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_images_are_not_pulled_again() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("dedupe");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let spec = json!({"images": ["a:1", "b:1"], "nodes": 5});
    apply(&namespace, "first", &spec);
    namespace.wait_until_ended("first", TIMEOUT).await;
    apply(&namespace, "second", &spec);
    let second = namespace.wait_until_ended("second", TIMEOUT).await;
    assert_eq!(second.node_states, "wwwww", "{second:#?}");
    assert_eq!(second.already_warm_nodes, 5, "{second:#?}");
    let mut always = spec.clone();
    always["imagePullPolicy"] = json!("Always");
    apply(&namespace, "always", &always);
    assert_eq!(namespace.wait_until_ended("always", TIMEOUT).await.node_states, "sssss");
    let created = "prewarm_kube_requests_total{code=\"201\",component=\"controller\",resource=\"jobs\",verb=\"create\"} 10";
    assert!(server.get("/metrics").contains(created), "{}", server.get("/metrics"));
}

/// An exhausted quota and a `LimitRange` that rejects every worker fail the task within seconds, or
/// move its workers to the configured fallback namespace.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_workers_fail_or_move_to_fallback_namespace() {
    let cluster = Cluster::shared();
    let (own, full, strict) =
        (cluster.namespace("own"), cluster.namespace("full"), cluster.namespace("strict"));
    full.kubectl(&["create", "quota", "none", "--hard=pods=0"], "");
    strict.apply(
        &json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {
        "limits": [{"type": "Container", "min": {"cpu": "10m"}}]}}),
    );
    strict.kubectl(&["create", "serviceaccount", "builder"], "");
    for (namespace, reason) in [(&full, "QuotaExceeded"), (&strict, "Forbidden")] {
        let helper = format!("--worker-image={HELPER}");
        let mut server = Server::with_args(cluster, namespace, &own, &[&helper]).await;
        for worker in ["Job", "Pod"] {
            let name = format!("at-home-{}", worker.to_lowercase());
            apply(
                namespace,
                &name,
                &json!({"images": ["a:1"], "nodes": 40, "batchSize": 5, "worker": worker}),
            );
            let ended = namespace.wait_until_ended(&name, Duration::from_secs(40)).await;
            assert_eq!(ended.phase, Phase::Failed, "{ended:#?}");
            assert_eq!(ended.failed_node_count, 40, "{ended:#?}");
            assert_eq!(first_reason(&ended), Some(reason), "{ended:#?}");
        }
        server.terminate();
        let server =
            Server::with_args(cluster, namespace, &own, &[&helper, "--worker-namespace=Fallback"])
                .await;
        for worker in ["Job", "Pod"] {
            let name = format!("away-{}", worker.to_lowercase());
            apply(
                namespace,
                &name,
                &json!({"images": ["a:1"], "nodes": 12, "batchSize": 5, "worker": worker,
                                            "imagePullPolicy": "Always"}),
            );
            let ended = namespace.wait_until_ended(&name, TIMEOUT).await;
            assert_eq!(ended.phase, Phase::Completed, "{ended:#?}");
            assert_eq!(ended.succeeded_nodes, 12, "{ended:#?}");
            let moved = condition(&ended, "WorkersInFallbackNamespace");
            assert!(moved.is_some_and(|moved| moved.status == "True"), "{ended:#?}");
        }
        let spec = json!({"images": ["c:1"], "nodes": 3, "serviceAccountName": "builder"});
        apply(namespace, "with-credentials", &spec);
        let ended = namespace.wait_until_ended("with-credentials", Duration::from_secs(40)).await;
        assert_eq!(
            ended.failed_node_count, 3,
            "a worker with credentials ran in another namespace: {ended:#?}"
        );
        drop(server);
        wait_until_deleted(&own, "jobs,pods").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_in_own_namespace_are_deleted_with_task() {
    let cluster = Cluster::shared();
    let (own, namespace) = (cluster.namespace("own"), cluster.namespace("elsewhere"));
    let helper = format!("--worker-image={HELPER}");
    let _server =
        Server::with_args(cluster, &namespace, &own, &[&helper, "--worker-namespace=Own"]).await;
    apply(&namespace, "t", &json!({"images": ["slow:1"], "nodes": 4}));
    namespace.eventually("a worker of task t", TIMEOUT, || async { own.get("jobs").pop() }).await;
    assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
    namespace.kubectl(&["delete", "prewarmtask", "t"], "");
    wait_until_deleted(&own, "jobs,pods").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_phase_change_emits_one_event() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("events");
    let mut server = Server::start(cluster, &namespace, HELPER).await;
    apply(&namespace, "good", &json!({"images": ["slow:1"], "nodes": 6, "batchSize": 3}));
    apply(&namespace, "bad", &json!({"images": ["missing:1"], "nodes": 1}));
    // The first batch takes 6 s.
    let in_second = || async { (namespace.status("good").succeeded_nodes == 3).then_some(()) };
    namespace.eventually("the second batch", TIMEOUT, in_second).await;
    assert_eq!(namespace.status("good").phase, Phase::Running);
    server.kill();
    server.restart().await;
    namespace.wait_until_ended("good", TIMEOUT).await;
    namespace.wait_until_ended("bad", TIMEOUT).await;
    let events = namespace.get("events");
    for (task, last, kind) in [("good", "Completed", "Normal"), ("bad", "Failed", "Warning")] {
        let of: Vec<&Value> =
            events.iter().filter(|event| event["involvedObject"]["name"] == task).collect();
        let mut reasons: Vec<&str> =
            of.iter().map(|event| event["reason"].as_str().unwrap()).collect();
        reasons.sort_unstable();
        let mut expected = vec!["Finalizing", "Running", "Snapshotting", last];
        expected.sort_unstable();
        assert_eq!(reasons, expected);
        assert!(of.iter().any(|event| event["reason"] == last && event["type"] == kind));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_task_can_be_resumed() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("suspend");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    apply(
        &namespace,
        "t",
        &json!({"images": ["a:1"], "nodes": 8, "batchSize": 2, "suspend": true}),
    );
    let held = || async {
        let status = namespace.status("t");
        condition(&status, "Progressing").filter(|held| held.reason == "Suspended").map(|_| ())
    };
    namespace.eventually("the condition reason Suspended", TIMEOUT, held).await;
    assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
    patch(&namespace, "t", &json!({"suspend": false}));
    namespace.eventually("a Job", TIMEOUT, || async { namespace.get("jobs").pop() }).await;
    patch(&namespace, "t", &json!({"suspend": true}));
    wait_until_deleted(&namespace, "jobs").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
    assert_eq!(namespace.status("t").phase, Phase::Running);
    patch(&namespace, "t", &json!({"suspend": false}));
    assert_eq!(namespace.wait_until_ended("t", TIMEOUT).await.succeeded_nodes, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_double_and_images_are_split_into_parts() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("shapes");
    let helper = format!("--worker-image={HELPER}");
    let _server =
        Server::with_args(cluster, &namespace, &namespace, &[&helper, "--images-per-pod=10"]).await;
    apply(
        &namespace,
        "doubling",
        &json!({"images": ["a:1"], "nodes": 10, "batchSize": 4, "batchPolicy": "Doubling",
                                          "retain": "1h"}),
    );
    assert_eq!(namespace.wait_until_ended("doubling", TIMEOUT).await.total_batches, 4);
    let of_batch = |batch: &str| {
        let has = |job: &&Value| job["metadata"]["labels"]["prewarm.io/batch"] == batch;
        namespace.get("jobs").iter().filter(has).count()
    };
    assert_eq!(["0", "1", "2", "3"].map(of_batch), [1, 2, 4, 3]);
    namespace.kubectl(&["delete", "prewarmtask", "doubling"], "");
    wait_until_deleted(&namespace, "jobs").await;
    let images: Vec<String> =
        (0..25).map(|n| if n == 3 { "missing:1".into() } else { format!("i{n}:1") }).collect();
    apply(&namespace, "many", &json!({"images": images, "nodes": 3, "retain": "1h"}));
    let ended = namespace.wait_until_ended("many", TIMEOUT).await;
    let failed = ended.images.iter().filter(|image| image.failed != 0);
    let bad: Vec<&str> = failed.map(|image| image.image.as_str()).collect();
    assert_eq!(bad, ["missing:1"], "{ended:#?}");
    assert_eq!(ended.failed_node_count, 3);
}

/// Verifies the images of the test cluster that other tests use to act while a pull is in progress:
/// with either pull method, a worker takes more than five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn slow_images_delay_workers_of_both_pull_methods() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("slow");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    for method in METHODS {
        let name = method.to_lowercase();
        let spec = json!({"images": ["slow:1"], "nodes": 2, "pullMethod": method, "imagePullPolicy": "Always"});
        let begun = Instant::now();
        apply(&namespace, &name, &spec);
        let ended = namespace.wait_until_ended(&name, TIMEOUT).await;
        assert_eq!(ended.succeeded_nodes, 2, "{ended:#?}");
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(5), "{method}: {took:?}");
    }
}

/// Verifies that the concurrency for a registry that answers 429 is reduced and that the task
/// reports it.
#[tokio::test(flavor = "multi_thread")]
async fn rate_limited_registry_is_throttled() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("throttled");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    apply(&namespace, "t", &json!({"images": ["throttled:1"], "nodes": 3, "timeout": "10s"}));
    let said = || async {
        condition(&namespace.status("t"), "Throttled").filter(|it| it.status == "True").cloned()
    };
    let throttled = namespace.eventually("the condition Throttled", TIMEOUT, said).await;
    assert_eq!(throttled.reason, "RegistryLimit");
    let ended = namespace.wait_until_ended("t", TIMEOUT).await;
    let reasons: BTreeSet<&str> =
        ended.failed_nodes.iter().map(|failure| failure.reason.as_str()).collect();
    assert_eq!(reasons, BTreeSet::from(["RateLimited"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_node_does_not_block_task() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("lost");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let name = format!("{}-node", namespace.name);
    let labels = json!({"type": "extra", "of": namespace.name});
    for n in 0..4 {
        namespace.apply(
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("{name}{n}"),
            "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}}),
        );
    }
    namespace.kubectl(
        &[
            "wait",
            "--for=condition=Ready",
            "--timeout=30s",
            "node",
            "-l",
            &format!("of={}", namespace.name),
        ],
        "",
    );
    namespace.apply_task(
        "t",
        &json!({"images": ["unreachable:1"], "batchSize": 2, "timeout": "12s", "nodeSelector": labels}),
    );
    namespace
        .eventually("two Jobs", TIMEOUT, || async {
            (namespace.get("jobs").len() == 2).then_some(())
        })
        .await;
    namespace.kubectl(&["delete", "node", &format!("{name}0")], "");
    namespace.kubectl(&["cordon", &format!("{name}2")], "");
    let ended = namespace.wait_until_ended("t", TIMEOUT).await;
    let failures = ended.failed_nodes.iter();
    let mut found: Vec<(&str, &str)> = failures
        .map(|failure| (failure.node.strip_prefix(&name).unwrap(), failure.reason.as_str()))
        .collect();
    found.sort_unstable();
    let expected = [
        ("0", "NodeLost"),
        ("1", "RegistryUnreachable"),
        ("2", "NodeRefused"),
        ("3", "RegistryUnreachable"),
    ];
    assert_eq!(found, expected, "{ended:#?}");
    assert_eq!(ended.skipped_nodes, 1);
    assert_eq!(ended.failed_node_count, 3);
    namespace.kubectl(&["delete", "node", "-l", &format!("of={}", namespace.name)], "");
    wait_until_deleted(&namespace, "jobs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crd_has_field_docs_and_printer_columns() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("explain");
    for field in ["images", "batchPolicy", "retain", "retry", "worker", "successThreshold"] {
        let text = cluster.kubectl(&["explain", &format!("prewarmtask.spec.{field}")], "");
        let description = text.split("DESCRIPTION:").nth(1).unwrap_or_default().trim();
        assert!(description.len() > 20 && !description.contains("<empty>"), "{field}: {text}");
    }
    apply(&namespace, "t", &json!({"images": ["a:1"], "suspend": true}));
    let columns = namespace.kubectl(&["get", "pwt"], "");
    assert!(columns.starts_with("NAME"), "{columns}");
    for column in ["PHASE", "PROGRESS", "FAILED", "AGE"] {
        assert!(columns.contains(column), "{columns}");
    }
    assert!(
        namespace
            .kubectl(&["get", "prewarm", "-o", "name"], "")
            .contains("prewarmtask.prewarm.io/t")
    );
}
