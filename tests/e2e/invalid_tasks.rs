//! Invalid stored tasks: rejected by the current schema, but possibly stored by an older version.

use std::time::Duration;

use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::HELPER,
    namespace::{Namespace, condition},
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

const TIMEOUT: Duration = Duration::from_secs(90);
const CRD: &str = "crd/prewarmtasks.prewarm.io";

/// Returns name, rejected field and invalid part of the spec of each task.
fn invalid_tasks() -> Vec<(&'static str, &'static str, Value)> {
    let labels: serde_json::Map<String, Value> =
        (0..70).map(|n| (format!("k{n}"), json!("v"))).collect();
    let affinity = json!({"nodeSelectorTerms": vec![json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}); 30]});
    vec![
        // With an hour added, this exceeds the range of a duration.
        ("retain", "spec.retain", json!({"retain": "5124095576030430h59m"})),
        ("deadline", "spec.deadline", json!({"deadline": "99999h"})),
        (
            "delay",
            "spec.retry.delay",
            json!({"failurePolicy": "Retry", "retry": {"delay": "9999h"}}),
        ),
        ("ttl", "spec.ttlSecondsAfterFinished", json!({"ttlSecondsAfterFinished": 2_147_483_647})),
        ("selector", "spec.nodeSelector", json!({"nodeSelector": labels})),
        ("affinity", "spec.nodeAffinity.nodeSelectorTerms", json!({"nodeAffinity": affinity})),
        (
            "tolerations",
            "spec.tolerations",
            json!({"tolerations": vec![json!({"operator": "Exists"}); 101]}),
        ),
        (
            "secrets",
            "spec.imagePullSecrets",
            json!({"imagePullSecrets": vec![json!({"name": "s"}); 21]}),
        ),
    ]
}

fn manifest(name: &str, wrong: &Value) -> Value {
    let mut spec = json!({"images": ["a:1"]});
    spec.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
    json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "metadata": {"name": name}, "spec": spec})
}

/// Returns the current definition without the fields that the API server adds.
fn definition(cluster: &Cluster) -> Value {
    let mut definition: Value =
        serde_json::from_str(&cluster.kubectl(&["get", CRD, "-o", "json"], "")).unwrap();
    definition["metadata"] = json!({"name": definition["metadata"]["name"]});
    definition.as_object_mut().unwrap().remove("status");
    definition
}

async fn apply_definition(cluster: &Cluster, definition: &Value) {
    let how = ["apply", "--server-side", "--force-conflicts", "--field-manager=poison", "-f", "-"];
    cluster.kubectl(&how, &definition.to_string());
    // The API server serves a new schema after a short delay.
    tokio::time::sleep(Duration::from_secs(3)).await;
}

fn rejection_message(namespace: &Namespace, name: &str, wrong: &Value) -> String {
    let words = ["-n", &namespace.name, "create", "--dry-run=server", "-f", "-"];
    let (ok, text) = namespace.cluster.try_kubectl(&words, &manifest(name, wrong).to_string());
    assert!(!ok, "{name} was accepted: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_stored_tasks_fail_without_delaying_others() {
    let cluster = Cluster::dedicated(6);
    let namespace = cluster.namespace("poisoned");
    for (name, field, wrong) in invalid_tasks() {
        let text = rejection_message(&namespace, name, &wrong);
        let last = field.rsplit('.').next().unwrap();
        assert!(text.contains(last), "{field}: {text}");
    }
    // Stored in etcd by an older version.
    let current = definition(cluster);
    let mut open = current.clone();
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    open["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] =
        json!({"spec": anything, "status": anything});
    apply_definition(cluster, &open).await;
    for (name, _, wrong) in invalid_tasks() {
        namespace.apply(&manifest(name, &wrong));
    }
    namespace.apply(&manifest("unreadable", &json!({"images": "nginx"})));
    apply_definition(cluster, &current).await;
    let server = Server::start(cluster, &namespace, HELPER).await;
    let good = json!({"images": ["a:1"], "nodes": 3, "nodeSelector": {"type": "fake"}});
    namespace.apply_task("good", &good);
    let status = namespace.wait_until_ended("good", TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    for (name, field, _) in invalid_tasks() {
        let status = namespace.wait_until_ended(name, TIMEOUT).await;
        let failed = condition(&status, "Failed").unwrap();
        assert_eq!(status.phase, Phase::Failed, "{name}: {failed:?}");
        assert_eq!(failed.reason, "InvalidSpec", "{name}: {failed:?}");
        assert!(failed.message.contains(field), "{name}: {failed:?}");
    }
    // An object that cannot be decoded is reported in metrics and log, whether or not the API
    // server accepts a status for it.
    assert!(
        server
            .get("/metrics")
            .contains("prewarm_unreadable_objects_total{resource=\"prewarmtasks\"}")
    );
    assert!(server.log().contains("the object cannot be decoded"));
    assert!(server.is_leader() && server.get("/healthz").contains("ok"));
}
