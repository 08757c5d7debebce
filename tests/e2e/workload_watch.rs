//! Workload watch: hints whose object was not stored, workloads without a hint, and tasks that
//! become obsolete.

use std::time::Duration;

use kube::ResourceExt;
use prewarmer_api::task::{Phase, PrewarmTask, PullMethod};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{
        HELPER, SETTLE_TIME, TASK_TIMEOUT, deployment, expect_tasks_for, images_in_tasks,
        slow_deployment, wide_deployment,
    },
    namespace::{Namespace, condition},
    server::Server,
};
use serde_json::json;

use crate::TestCluster;

/// Waits until the task of an image is running; returns its name.
async fn wait_until_running(namespace: &Namespace, image: &str) -> String {
    let found = || async {
        let tasks = namespace.tasks();
        let task = tasks.iter().find(|task| task.spec.images.iter().any(|one| one == image))?;
        (task.phase() == Phase::Running).then(|| task.name_any())
    };
    namespace.eventually(&format!("a running task for {image}"), TASK_TIMEOUT, found).await
}

/// Asserts that a task was cancelled as obsolete before its other nodes, with this reason.
async fn assert_obsolete(namespace: &Namespace, task: &str, why: &str) {
    let status = namespace.wait_until_ended(task, TASK_TIMEOUT).await;
    assert_eq!(status.phase, Phase::Cancelled, "{status:#?}");
    assert!(status.skipped_nodes > 30, "{status:#?}");
    assert_eq!(status.failed_node_count, 0, "{status:#?}");
    assert_eq!(status.failed_nodes, [], "{status:#?}");
    let failed = condition(&status, "Failed").unwrap();
    assert_eq!(failed.reason, "Obsolete");
    assert!(failed.message.starts_with(why), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hint_of_rejected_object_creates_no_task() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("refused");
    let server = Server::start(cluster, &namespace, HELPER).await;
    // Quotas are evaluated after the webhooks.
    namespace
        .apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"count/deployments.apps": "1"}}}));
    let counted =
        || async { namespace.get("resourcequota")[0]["status"]["hard"].is_object().then_some(()) };
    namespace.eventually("an evaluated quota", TASK_TIMEOUT, counted).await;
    namespace.apply(&deployment("first", 0, &["first:1"]));
    expect_tasks_for(&namespace, &["first:1"]).await;
    let text = deployment("second", 0, &["second:1"]).to_string();
    let (ok, said) = cluster.try_kubectl(&["-n", &namespace.name, "create", "-f", "-"], &text);
    assert!(!ok && said.contains("exceeded quota"), "{said}");
    assert!(
        server.get("/metrics").contains("prewarm_admission_hints_total{outcome=\"queued\"} 2\n")
    );
    let counted = || async {
        server
            .get("/metrics")
            .contains("prewarm_admission_hints_total{outcome=\"not_stored\"} 1\n")
            .then_some(())
    };
    namespace.eventually("the abandoned hint in the metrics", TASK_TIMEOUT, counted).await;
    expect_tasks_for(&namespace, &["first:1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_without_hint_are_recovered() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("missed");
    let mut server = Server::start(cluster, &namespace, HELPER).await;
    let registered = format!("validatingwebhookconfiguration/prewarmer-{}", namespace.name);
    namespace.apply(&deployment("web", 0, &["web:1", "proxy:1"]));
    expect_tasks_for(&namespace, &["web:1", "proxy:1"]).await;
    let completed = || async {
        namespace.tasks().iter().all(|task| task.phase() == Phase::Completed).then_some(())
    };
    namespace.eventually("the task's end", TASK_TIMEOUT, completed).await;
    // The webhook is not called until the leader restores its configuration.
    cluster.kubectl(&["delete", &registered], "");
    // The API server sees the deletion only after its own watch delivers it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    namespace.apply(&deployment("web", 0, &["web:2", "proxy:1"]));
    expect_tasks_for(&namespace, &["web:1", "proxy:1", "web:2"]).await;
    assert!(
        server.get("/metrics").contains("\nprewarm_workloads_recovered_total 1\n"),
        "{}",
        server.log()
    );
    let repaired = || async { cluster.try_kubectl(&["get", &registered], "").0.then_some(()) };
    namespace.eventually("the restored webhook configuration", TASK_TIMEOUT, repaired).await;
    // While the service is down, one rollout ends, which is not warmed later, and one stays in
    // progress, which is.
    namespace.eventually("the task's end", TASK_TIMEOUT, completed).await;
    server.kill();
    let mut stuck = deployment("stuck", 2, &["stuck:1"]);
    stuck["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "1000"}});
    namespace.apply(&stuck);
    namespace.apply(&deployment("done", 1, &["done:1"]));
    namespace.apply(&deployment("idle", 0, &["idle:1"]));
    namespace.kubectl(&["rollout", "status", "deployment/done", "--timeout=60s"], "");
    let seen = ["get", "deployment/idle", "-o", "jsonpath={.status.observedGeneration}"];
    namespace
        .eventually("the observed generation of idle", TASK_TIMEOUT, || async {
            (namespace.kubectl(&seen, "") == "1").then_some(())
        })
        .await;
    server.restart().await;
    expect_tasks_for(&namespace, &["web:1", "proxy:1", "web:2", "stuck:1"]).await;
    tokio::time::sleep(SETTLE_TIME).await;
    expect_tasks_for(&namespace, &["web:1", "proxy:1", "web:2", "stuck:1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_task_is_not_repeated() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("fails");
    let server = Server::start(cluster, &namespace, HELPER).await;
    namespace.apply(&deployment("web", 0, &["missing-web:1"]));
    let failed = || async { (namespace.tasks().first()?.phase() == Phase::Failed).then_some(()) };
    namespace.eventually("failure of the task", TASK_TIMEOUT, failed).await;
    tokio::time::sleep(SETTLE_TIME).await;
    expect_tasks_for(&namespace, &["missing-web:1"]).await;
    assert!(server.get("/metrics").contains("\nprewarm_workloads_recovered_total 0\n"));
    // A recreated workload gets another task.
    namespace.kubectl(
        &["replace", "--force", "-f", "-"],
        &deployment("web", 0, &["missing-web:1"]).to_string(),
    );
    let again = || async { (namespace.get("prewarmtasks").len() == 2).then_some(()) };
    namespace.eventually("another task", TASK_TIMEOUT, again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_opts_in_and_out() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("opt-in");
    let image = format!("--worker-image={HELPER}");
    let server =
        Server::with_args(cluster, &namespace, &namespace, &["--default-mode=OptIn", &image]).await;
    namespace.apply(&slow_deployment("web", "slow-web:1"));
    tokio::time::sleep(SETTLE_TIME).await;
    assert!(images_in_tasks(&namespace).is_empty());
    assert!(
        server.get("/metrics").contains("prewarm_admission_hints_total{outcome=\"opted_out\"} 1\n")
    );
    cluster.kubectl(&["annotate", "namespace", &namespace.name, "prewarm.io/enabled=true"], "");
    let task = wait_until_running(&namespace, "slow-web:1").await;
    cluster.kubectl(
        &["annotate", "--overwrite", "namespace", &namespace.name, "prewarm.io/enabled=false"],
        "",
    );
    assert_obsolete(&namespace, &task, "its workloads now require other images").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollout_and_deletion_cancel_obsolete_tasks() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("supersede");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    namespace.apply(&slow_deployment("web", "slow-web:1"));
    let first = wait_until_running(&namespace, "slow-web:1").await;
    namespace.apply(&slow_deployment("web", "slow-web:2"));
    let second = wait_until_running(&namespace, "slow-web:2").await;
    assert_obsolete(&namespace, &first, &format!("superseded by {second}")).await;
    // A rollback creates a new task: a cancelled one does not count as warmed.
    namespace.apply(&slow_deployment("web", "slow-web:1"));
    assert_obsolete(&namespace, &second, "superseded by auto-").await;
    let running = || async {
        let tasks = namespace.tasks();
        tasks.iter().find(|task| task.phase() == Phase::Running).map(ResourceExt::name_any)
    };
    let third = namespace.eventually("a third task", TASK_TIMEOUT, running).await;
    assert!(third != first && third != second);
    // A workload that is recreated at once keeps its task; a deleted one does not.
    namespace.kubectl(
        &["replace", "--force", "-f", "-"],
        &slow_deployment("web", "slow-web:1").to_string(),
    );
    tokio::time::sleep(SETTLE_TIME).await;
    assert_eq!(namespace.eventually("the third task", TASK_TIMEOUT, running).await, third);
    namespace.kubectl(&["delete", "deployment/web"], "");
    assert_obsolete(&namespace, &third, "its workloads were deleted").await;
    assert_eq!(namespace.get("prewarmtasks").len(), 3);
}

/// Another webhook changes the images of pods, so that they differ from their templates.
#[tokio::test(flavor = "multi_thread")]
async fn rewritten_images_use_helper_method() {
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
    namespace.eventually("enforcement of the policy", TASK_TIMEOUT, works).await;
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let mut web = wide_deployment("web", 1, &["web:1"]);
    web["metadata"]["annotations"] = json!({"prewarm.io/nodes": "3"});
    namespace.apply(&web);
    let by_helper = |image: &'static str| {
        let namespace = &namespace;
        move || async move {
            let by_helper = |task: &PrewarmTask| {
                task.spec.pull_method == PullMethod::Helper && task.spec.images == [image]
            };
            namespace.tasks().into_iter().find(by_helper)
        }
    };
    let task = namespace
        .eventually("a task with pull method Helper", TASK_TIMEOUT, by_helper("web:1"))
        .await;
    let why = &task.annotations()["prewarm.io/rewritten-images"];
    assert!(why.contains("another webhook"), "{why}");
    let ended = namespace.wait_until_ended(&task.name_any(), TASK_TIMEOUT).await;
    assert_eq!(ended.phase, Phase::Completed);
    // A task with another method may exist from before the first pod was observed.
    let before = namespace.get("prewarmtasks").len();
    assert!(before <= 2);
    // The rewrite is known from now on.
    namespace.kubectl(&["set", "image", "deployment/web", "c0=web:2"], "");
    namespace.eventually("a task with pull method Helper", TASK_TIMEOUT, by_helper("web:2")).await;
    tokio::time::sleep(SETTLE_TIME).await;
    assert_eq!(namespace.get("prewarmtasks").len(), before + 1);
    cluster.kubectl(
        &[
            "delete",
            &format!("mutatingadmissionpolicy/{policy}"),
            &format!("mutatingadmissionpolicybinding/{policy}"),
        ],
        "",
    );
}
