//! Foreign objects: Jobs and pods of other users with the labels of workers have no effect, and the
//! chart's policies deny their creation.

use std::{process::Command, time::Duration};

use kube::ResourceExt;
use prewarmer_api::{
    annotations::{IMAGES_ANNOTATION, NODE_ANNOTATION, TASK_NAMESPACE_ANNOTATION},
    labels::{MANAGED_BY, TASK_LABEL},
    task::Phase,
};
use prewarmer_core::{
    task::{PrewarmTaskSpec, PullMethod, WorkerKind, validate::validate},
    worker::{Assignment, WorkerObject, WorkerSettings, build},
};
use prewarmer_test_support::{
    cluster::{CHART, Cluster},
    fixtures::{HELPER, worker_labels},
    namespace::Namespace,
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

const TIMEOUT: Duration = Duration::from_secs(60);
/// Default limit on workers in the cluster.
const FOREIGN_JOBS: usize = 300;

/// Returns a suspended Job with all labels of a worker. It has no pod and uses no pod quota, and
/// its node does not exist.
fn foreign_job(n: usize) -> Value {
    let node = format!("ghost-{n}");
    let labels = worker_labels(&format!("none-{n}"), &node);
    let notes =
        json!({NODE_ANNOTATION: node, TASK_NAMESPACE_ANNOTATION: "shop", IMAGES_ANNOTATION: "0"});
    let container = json!({"name": "image-0", "image": "a:1"});
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": format!("fake-{n}"), "labels": labels, "annotations": notes},
        "spec": {"suspend": true, "template": {
            "metadata": {"labels": labels, "annotations": notes},
            "spec": {"nodeName": node, "restartPolicy": "Never", "containers": [container]}}},
    })
}

/// Returns the value of a metric of the server.
fn metric(server: &Server, name: &str) -> Option<u64> {
    server.get("/metrics").lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// One tenant creates foreign objects up to the worker limit of the cluster while another tenant's
/// task runs.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_workers_do_not_delay_tasks() {
    let cluster = Cluster::dedicated(40);
    let (own, evil, shop) =
        (cluster.namespace("own"), cluster.namespace("evil"), cluster.namespace("shop"));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": (0..FOREIGN_JOBS).map(foreign_job).collect::<Vec<_>>()});
    evil.kubectl(&["create", "-f", "-"], &list.to_string());
    let helper = format!("--worker-image={HELPER}");
    // The server watches all namespaces.
    let server = Server::with_args(cluster, &shop, &own, &[&helper, "--watch-namespace="]).await;
    let counted = || async {
        (metric(&server, "prewarm_foreign_objects{kind=\"jobs\",reason=\"name\"}")
            == Some(FOREIGN_JOBS as u64))
        .then_some(())
    };
    evil.eventually("the metric with all foreign objects", TIMEOUT, counted).await;
    shop.apply_task("web", &json!({"images": ["a:1"], "nodes": 20, "batchSize": 10}));
    let ended = shop.wait_until_ended("web", TIMEOUT).await;
    assert_eq!(ended.phase, Phase::Completed, "{ended:#?}");
    assert_eq!(ended.succeeded_nodes, 20, "{ended:#?}");
    assert_eq!(evil.get("jobs").len(), FOREIGN_JOBS, "foreign objects were deleted");
    assert_eq!(metric(&server, "prewarm_jobs_active"), Some(0));
    let output = Command::new(env!("CARGO_BIN_EXE_prewarmer"))
        .env("KUBECONFIG", cluster.var("KUBECONFIG"))
        .args(["doctor", "--namespace", &own.name, "--instance", &shop.name])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let named = format!("Job {}/fake-", evil.name);
    assert!(
        text.contains("300 Jobs and pods have the labels of workers") && text.contains(&named),
        "{text}"
    );
    drop(server);
}

fn genuine_worker(kind: WorkerKind, namespace: &str, uid: &str) -> Value {
    let spec = PrewarmTaskSpec { worker: kind, ..PrewarmTaskSpec::new(vec!["a:1".into()]) };
    let at = Assignment {
        namespace,
        task_namespace: namespace,
        task: "web",
        task_uid: uid,
        batch: 0,
        node: "node-0001",
        attempt: 0,
        part: 0,
        images: &[0],
        method: PullMethod::Helper,
    };
    let settings = WorkerSettings {
        image_pull_policy: prewarmer_core::task::PullPolicy::default(),
        owner: None,
        service_account: None,
        image: HELPER.into(),
        priority_class: None,
        ttl: Duration::from_secs(3600),
        images_per_pod: 30,
    };
    match build(&validate(&spec).unwrap(), &at, &settings) {
        WorkerObject::Job(job) => serde_json::to_value(job).unwrap(),
        WorkerObject::Pod(pod) => serde_json::to_value(pod).unwrap(),
    }
}

/// The chart's policies for one namespace, tested with kubectl as different users.
struct ReservedLabels<'a> {
    namespace: &'a Namespace,
}

impl ReservedLabels<'_> {
    fn as_user(&self, user: &str, words: &[&str], input: &str) -> (bool, String) {
        let as_user = format!("--as={user}");
        let words = [&["-n", &self.namespace.name, &as_user], words].concat();
        self.namespace.cluster.try_kubectl(&words, input)
    }

    fn create(&self, user: &str, object: &Value) -> (bool, String) {
        self.as_user(user, &["create", "-f", "-"], &object.to_string())
    }

    fn assert_denied(&self, user: &str, words: &[&str], input: &str) {
        let (taken, said) = self.as_user(user, words, input);
        assert!(!taken && said.contains("ValidatingAdmissionPolicy"), "{user} {words:?}: {said}");
    }

    fn assert_allowed(&self, user: &str, words: &[&str], input: &str) {
        let (taken, said) = self.as_user(user, words, input);
        assert!(taken, "{user} {words:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_labels_are_reserved() {
    let cluster = Cluster::shared();
    let shop = cluster.namespace("reserved");
    let (instance, account) = (
        shop.name.as_str(),
        format!("system:serviceaccount:prewarmer:prewarmer-{}-controller", shop.name),
    );
    let sets = format!("crds.install=false,instance={instance},watchNamespace={instance}");
    let words = [
        "template",
        "prewarmer",
        CHART,
        "-n",
        "prewarmer",
        "--set",
        &sets,
        "--show-only",
        "templates/reserved.yaml",
    ];
    let manifests = cluster.helm(&words);
    cluster.kubectl(&["apply", "--server-side", "-f", "-"], &manifests);
    // An administrator of the namespace, who may also write plans there, and the account of the
    // installation.
    for (user, name) in [("eve", "eve"), (account.as_str(), "account")] {
        shop.kubectl(
            &[
                "create",
                "rolebinding",
                name,
                "--clusterrole=cluster-admin",
                &format!("--user={user}"),
            ],
            "",
        );
    }
    let reserved = ReservedLabels { namespace: &shop };
    let (job, pod) = (
        genuine_worker(WorkerKind::Job, instance, "u-1"),
        genuine_worker(WorkerKind::Pod, instance, "u-1"),
    );
    let dry = ["create", "--dry-run=server", "-f", "-"];
    shop.eventually("enforcement of the policies", Duration::from_secs(20), async || {
        let said = reserved.as_user("eve", &dry, &job.to_string()).1;
        said.contains("ValidatingAdmissionPolicy").then_some(())
    })
    .await;
    reserved.assert_denied("eve", &dry, &pod.to_string());
    // Labels in the pod template only: the Job controller would create the pod.
    let mut smuggled = job.clone();
    smuggled["metadata"]["labels"] = json!({"app": "mine"});
    reserved.assert_denied("eve", &dry, &smuggled.to_string());
    // A single one of the two labels is not reserved.
    for labels in [json!({(MANAGED_BY.0): MANAGED_BY.1}), json!({TASK_LABEL: "web"})] {
        let mut other = pod.clone();
        other["metadata"]["labels"] = labels;
        reserved.assert_allowed("eve", &dry, &other.to_string());
    }
    let mut adopted = pod.clone();
    adopted["metadata"]["name"] = json!("mine");
    adopted["metadata"]["ownerReferences"] = json!([]);
    adopted["metadata"]["labels"] = json!({(MANAGED_BY.0): MANAGED_BY.1});
    reserved.assert_allowed("eve", &["create", "-f", "-"], &adopted.to_string());
    reserved.assert_denied("eve", &["label", "pod", "mine", "prewarm.io/task=web"], "");

    // A genuine worker, and the pod that the Job controller creates for it.
    shop.apply_task("web", &json!({"images": ["a:1"], "suspend": true}));
    let uid = shop.task("web").uid().unwrap();
    let real = genuine_worker(WorkerKind::Job, instance, &uid);
    let name = real["metadata"]["name"].as_str().unwrap().to_owned();
    let mut slow = real.clone();
    slow["spec"]["template"]["spec"]["containers"][0]["image"] = json!("slow:1");
    let (taken, said) = reserved.create(&account, &slow);
    assert!(taken, "{said}");
    let of_job =
        |pod: &&Value| pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == json!(name);
    let made = shop
        .eventually("the Job's pod", TIMEOUT, async || {
            shop.get("pods").iter().find(of_job).cloned()
        })
        .await;
    let made = made["metadata"]["name"].as_str().unwrap().to_owned();
    for object in [format!("pod/{made}"), format!("job/{name}")] {
        reserved.assert_denied(
            "eve",
            &["label", &object, "prewarm.io/attempt-", "--overwrite"],
            "",
        );
        reserved.assert_denied(
            "eve",
            &["label", &object, "app.kubernetes.io/managed-by=me", "--overwrite"],
            "",
        );
        reserved.assert_denied(
            "eve",
            &["annotate", &object, "prewarm.io/images=1,2", "--overwrite"],
            "",
        );
        reserved.assert_allowed("eve", &["annotate", &object, "example.com/note=seen"], "");
        // Finalizers may change, as the garbage collector changes them.
        let finalizers = json!({"metadata": {"finalizers": ["example.com/wait"]}}).to_string();
        reserved.assert_allowed("eve", &["patch", &object, "--type=merge", "-p", &finalizers], "");
        let none = json!({"metadata": {"finalizers": null}}).to_string();
        reserved.assert_allowed("eve", &["patch", &object, "--type=merge", "-p", &none], "");
    }
    // The Job controller and the kubelet can still write status.
    let complete = || async {
        let jobs = shop.get("jobs");
        (jobs.iter().any(|job| job["status"]["succeeded"] == 1)).then_some(())
    };
    shop.eventually("completion of the Job", TIMEOUT, complete).await;
    let plan = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmPlan", "metadata": {"name": format!("plan-{uid}")},
        "spec": {"nodes": ["node-0001"]}});
    reserved.assert_denied("eve", &["create", "-f", "-"], &plan.to_string());
    reserved.assert_allowed(&account, &["create", "-f", "-"], &plan.to_string());
    let object = format!("prewarmplan/plan-{uid}");
    reserved.assert_denied(
        "eve",
        &["patch", &object, "--type=merge", "-p", r#"{"spec":{"nodes":["x"]}}"#],
        "",
    );
    reserved.assert_allowed("eve", &["annotate", &object, "example.com/note=seen"], "");
    reserved.assert_allowed("eve", &["delete", "job", &name, "--wait=false"], "");
    cluster.kubectl(&["delete", "-f", "-", "--wait=false", "--ignore-not-found"], &manifests);
}
