//! The truth behind hints: what was never stored, what no hint brought, what nobody needs any more.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    admission::{HELPER, LONG, QUIET, asked, asked_exactly, deployment},
    harness::{Cluster, Namespace, Server},
};

/// A Deployment of an image that takes 5 s a node, one node after another, on all fake nodes.
fn slow(name: &str, image: &str) -> Value {
    let mut object = deployment(name, 0, &[image]);
    object["metadata"]["annotations"] = json!({"prewarm.io/batch-size": "1", "prewarm.io/nodes": "50"});
    object["spec"]["template"]["spec"]["nodeSelector"] = json!({"type": "fake"});
    object
}

/// The name of the task of an image, once it is at work.
async fn at_work(namespace: &Namespace, image: &str) -> String {
    let found = || async {
        let tasks = namespace.get("prewarmtasks");
        let task = tasks.iter().find(|task| task["spec"]["images"].as_array().unwrap().contains(&json!(image)))?;
        (task["status"]["phase"] == "Running").then(|| task["metadata"]["name"].as_str().unwrap().to_owned())
    };
    namespace.eventually(&format!("a task for {image} at work"), LONG, found).await
}

/// The task has ended without its other nodes, and says why.
async fn given_up(namespace: &Namespace, task: &str, why: &str) {
    let status = namespace.ended(task, LONG).await;
    assert_eq!(status["phase"], "Cancelled", "{status:#}");
    assert!(status["skippedNodes"].as_u64().unwrap() > 30, "{status:#}");
    assert_eq!((&status["failedNodeCount"], &status["failedNodes"]), (&json!(0), &json!([])), "{status:#}");
    let condition = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Failed").unwrap();
    assert_eq!(condition["reason"], "Obsolete");
    assert!(condition["message"].as_str().unwrap().starts_with(why), "{condition}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_stored_leaves_nothing() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("refused");
    let server = Server::start(cluster, &namespace, HELPER).await;
    // Quotas are asked after the webhooks.
    namespace.apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"count/deployments.apps": "1"}}}));
    let counted = || async { namespace.get("resourcequota")[0]["status"]["hard"].is_object().then_some(()) };
    namespace.eventually("the quota to count", LONG, counted).await;
    namespace.apply(&deployment("first", 0, &["first:1"]));
    asked_exactly(&namespace, &["first:1"]).await;
    let text = deployment("second", 0, &["second:1"]).to_string();
    let (ok, said) = cluster.try_kubectl(&["-n", &namespace.name, "create", "-f", "-"], &text);
    assert!(!ok && said.contains("exceeded quota"), "{said}");
    assert!(server.get("/metrics").contains("prewarm_admission_hints_total{outcome=\"queued\"} 2\n"));
    let counted = || async {
        server.get("/metrics").contains("prewarm_admission_hints_total{outcome=\"not_stored\"} 1\n").then_some(())
    };
    namespace.eventually("the hint to be given up", LONG, counted).await;
    asked_exactly(&namespace, &["first:1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_hint_brought_is_found() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("missed");
    let mut server = Server::start(cluster, &namespace, HELPER).await;
    let registered = format!("validatingwebhookconfiguration/prewarmer-{}", namespace.name);
    namespace.apply(&deployment("web", 0, &["web:1", "proxy:1"]));
    asked_exactly(&namespace, &["web:1", "proxy:1"]).await;
    let completed = || async {
        namespace.get("prewarmtasks").iter().all(|task| task["status"]["phase"] == "Completed").then_some(())
    };
    namespace.eventually("the task's end", LONG, completed).await;
    // Nobody calls the webhook any more, until the leader repairs that.
    cluster.kubectl(&["delete", &registered], "");
    // The API server learns of it by a watch of its own.
    tokio::time::sleep(Duration::from_secs(2)).await;
    namespace.apply(&deployment("web", 0, &["web:2", "proxy:1"]));
    asked_exactly(&namespace, &["web:1", "proxy:1", "web:2"]).await;
    assert!(server.get("/metrics").contains("\nprewarm_workloads_recovered_total 1\n"), "{}", server.log());
    let repaired = || async { cluster.try_kubectl(&["get", &registered], "").0.then_some(()) };
    namespace.eventually("the configuration to be repaired", LONG, repaired).await;
    // The whole service is down: what has ended meanwhile is history, what is under way is not.
    namespace.eventually("the task's end", LONG, completed).await;
    server.kill();
    let mut stuck = deployment("stuck", 2, &["stuck:1"]);
    stuck["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1000"}});
    namespace.apply(&stuck);
    namespace.apply(&deployment("done", 1, &["done:1"]));
    namespace.apply(&deployment("idle", 0, &["idle:1"]));
    namespace.kubectl(&["rollout", "status", "deployment/done", "--timeout=60s"], "");
    let seen = ["get", "deployment/idle", "-o", "jsonpath={.status.observedGeneration}"];
    namespace
        .eventually("idle to be seen", LONG, || async { (namespace.kubectl(&seen, "") == "1").then_some(()) })
        .await;
    server.restart().await;
    asked_exactly(&namespace, &["web:1", "proxy:1", "web:2", "stuck:1"]).await;
    tokio::time::sleep(QUIET).await;
    asked_exactly(&namespace, &["web:1", "proxy:1", "web:2", "stuck:1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_once() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("fails");
    let server = Server::start(cluster, &namespace, HELPER).await;
    namespace.apply(&deployment("web", 0, &["missing-web:1"]));
    let failed = || async { (namespace.get("prewarmtasks").first()?["status"]["phase"] == "Failed").then_some(()) };
    namespace.eventually("the task to fail", LONG, failed).await;
    tokio::time::sleep(QUIET).await;
    asked_exactly(&namespace, &["missing-web:1"]).await;
    assert!(server.get("/metrics").contains("\nprewarm_workloads_recovered_total 0\n"));
    // Whoever asks again gets another try.
    namespace.kubectl(&["replace", "--force", "-f", "-"], &deployment("web", 0, &["missing-web:1"]).to_string());
    let again = || async { (namespace.get("prewarmtasks").len() == 2).then_some(()) };
    namespace.eventually("another task", LONG, again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_opts_in_later_and_out_again() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("opt-in");
    let image = format!("--worker-image={HELPER}");
    let server = Server::with(cluster, &namespace, &namespace, &["--default-mode=OptIn", &image]).await;
    namespace.apply(&slow("web", "slow-web:1"));
    tokio::time::sleep(QUIET).await;
    assert!(asked(&namespace).is_empty());
    assert!(server.get("/metrics").contains("prewarm_admission_hints_total{outcome=\"opted_out\"} 1\n"));
    cluster.kubectl(&["annotate", "namespace", &namespace.name, "prewarm.io/enabled=true"], "");
    let task = at_work(&namespace, "slow-web:1").await;
    cluster.kubectl(&["annotate", "--overwrite", "namespace", &namespace.name, "prewarm.io/enabled=false"], "");
    given_up(&namespace, &task, "its workloads ask for other images now").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_supersedes_its_own_task_and_deletion_ends_it() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("supersede");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    namespace.apply(&slow("web", "slow-web:1"));
    let first = at_work(&namespace, "slow-web:1").await;
    namespace.apply(&slow("web", "slow-web:2"));
    let second = at_work(&namespace, "slow-web:2").await;
    given_up(&namespace, &first, &format!("superseded by {second}")).await;
    // Back again: what was given up counts for nothing.
    namespace.apply(&slow("web", "slow-web:1"));
    given_up(&namespace, &second, "superseded by auto-").await;
    let running = || async {
        let tasks = namespace.get("prewarmtasks");
        let task = tasks.iter().find(|task| task["status"]["phase"] == "Running")?;
        Some(task["metadata"]["name"].as_str()?.to_owned())
    };
    let third = namespace.eventually("a third task", LONG, running).await;
    assert!(third != first && third != second);
    // Made anew at once, a workload keeps its task; gone for good, it does not.
    namespace.kubectl(&["replace", "--force", "-f", "-"], &slow("web", "slow-web:1").to_string());
    tokio::time::sleep(QUIET).await;
    assert_eq!(namespace.eventually("the third task", LONG, running).await, third);
    namespace.kubectl(&["delete", "deployment/web"], "");
    given_up(&namespace, &third, "its workloads were deleted").await;
    assert_eq!(namespace.get("prewarmtasks").len(), 3);
}

/// Another webhook gives pods other images than their templates name.
#[tokio::test(flavor = "multi_thread")]
async fn rewritten_images_are_warmed_by_pods_that_are_rewritten_alike() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("rewritten");
    let policy = format!("mirror-{}", namespace.name);
    let expression = "object.spec.containers.all(c, c.image.startsWith('mirror.example/')) ? [] : \
        [JSONPatch{op: 'replace', path: '/spec/containers/0/image', value: 'mirror.example/' + object.spec.containers[0].image}]";
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]);
    let name = json!({"name": policy});
    let mutation = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": name,
        "spec": {"matchConstraints": {"resourceRules": rules}, "reinvocationPolicy": "Never", "failurePolicy": "Fail",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]}});
    let only = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": name, "spec": {"policyName": policy, "matchResources": only}});
    cluster.kubectl(
        &["apply", "-f", "-"],
        &json!({"apiVersion": "v1", "kind": "List", "items": [mutation, binding]}).to_string(),
    );
    let probe = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let works = || async {
        let words = [
            "-n",
            &namespace.name,
            "create",
            "--dry-run=server",
            "-o",
            "jsonpath={.spec.containers[0].image}",
            "-f",
            "-",
        ];
        (cluster.try_kubectl(&words, &probe.to_string()).1 == "mirror.example/x").then_some(())
    };
    namespace.eventually("the policy to act", LONG, works).await;
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let mut web = deployment("web", 1, &["web:1"]);
    web["spec"]["template"]["spec"]["nodeSelector"] = json!({"type": "fake"});
    web["metadata"]["annotations"] = json!({"prewarm.io/nodes": "3"});
    namespace.apply(&web);
    let by_helper = |image: &'static str| {
        let namespace = &namespace;
        move || async move {
            let tasks = namespace.get("prewarmtasks");
            let found =
                |task: &&Value| task["spec"]["pullMethod"] == "Helper" && task["spec"]["images"] == json!([image]);
            tasks.iter().find(found).cloned()
        }
    };
    let task = namespace.eventually("a task by the helper method", LONG, by_helper("web:1")).await;
    let why = task["metadata"]["annotations"]["prewarm.io/rewritten-images"].as_str().unwrap();
    assert!(why.contains("another webhook"), "{why}");
    let name = task["metadata"]["name"].as_str().unwrap();
    assert_eq!(namespace.ended(name, LONG).await["phase"], "Completed");
    // There may have been one by another method before the first pod was seen.
    let before = namespace.get("prewarmtasks").len();
    assert!(before <= 2);
    // From now on it is known.
    namespace.kubectl(&["set", "image", "deployment/web", "c0=web:2"], "");
    namespace.eventually("a task by the helper method", LONG, by_helper("web:2")).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(namespace.get("prewarmtasks").len(), before + 1);
    cluster.kubectl(
        &["delete", &format!("mutatingadmissionpolicy/{policy}"), &format!("mutatingadmissionpolicybinding/{policy}")],
        "",
    );
}
