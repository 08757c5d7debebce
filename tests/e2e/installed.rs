//! Chart installed by Helm into a cluster of its own: our images on real kubelets, the webhook and
//! REST through the Service, an upgrade, loss of the leader's node, the policies of the
//! controller's account, an uninstall that keeps the users' objects, and a purge that deletes
//! everything.
//!
//! `tests/installed.sh` builds and pushes the images, and runs this test on a cluster of its own: it
//! kills a node.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use prewarmer_api::{labels::TASK_LABEL, task::Phase};
use prewarmer_test_support::{
    cluster::{CHART, Cluster},
    fixtures::deployment,
    misuses::{try_misuses, worker_misuses},
    namespace::{Namespace, first_reason},
    rest::{RestClient, account_token, account_token_with_nodes, delete_node_permission},
    server::free_address,
};
use serde_json::{Value, json};

use crate::TestCluster;

const TIMEOUT: Duration = Duration::from_secs(90);
/// Maximum time from the death of the leader's node until its successor works.
const MAX_TAKEOVER: Duration = Duration::from_secs(15);
/// Namespace of the installation. The cluster's audit log records the requests of its accounts.
const NAMESPACE: &str = "prewarmer";
/// Deployment and account of the front process, which serves the webhook and REST.
const FRONT_ACCOUNT: &str = "prewarmer";
/// Deployment and account of the controller process, which creates workers.
const CONTROLLER_ACCOUNT: &str = "prewarmer-controller";

struct Install {
    cluster: &'static Cluster,
    values: String,
}

impl Install {
    fn new(cluster: &'static Cluster, registry: &str) -> Self {
        // The cluster has no kube-proxy: pods reach the API server at the first address of their
        // node's subnet.
        let node = cluster.kubectl(
            &["get", "node", "real1", "-o", "jsonpath={.status.addresses[0].address}"],
            "",
        );
        let gateway = format!("{}.1", node.rsplit_once('.').unwrap().0);
        let port = cluster.var("APISERVER_URL").rsplit(':').next().unwrap().to_owned();
        let real =
            json!({"matchExpressions": [{"key": "type", "operator": "NotIn", "values": ["fake"]}]});
        let values = json!({
            "image": {"registry": registry},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [real]}}},
            "extraEnv": [
                {"name": "KUBERNETES_SERVICE_HOST", "value": gateway},
                {"name": "KUBERNETES_SERVICE_PORT", "value": port},
            ],
        });
        let file = Path::new(cluster.var("CLUSTER_DIR")).join("values.json");
        std::fs::write(&file, values.to_string()).unwrap();
        Self { cluster, values: file.to_str().unwrap().to_owned() }
    }

    fn apply_chart(&self, verb: &str, more: &[&str]) -> String {
        let words = [
            verb,
            "prewarmer",
            CHART,
            "-n",
            NAMESPACE,
            "-f",
            &self.values,
            "--wait",
            "--timeout",
            "2m",
        ];
        self.cluster.helm(&[&words, more].concat())
    }

    fn kubectl(&self, words: &[&str]) -> String {
        self.cluster.kubectl(&[&["-n", NAMESPACE], words].concat(), "")
    }

    /// Runs `doctor`; returns its exit code and output.
    fn doctor(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_prewarmer"))
            .env("KUBECONFIG", self.cluster.var("KUBECONFIG"))
            .arg("doctor")
            .args(words)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    }

    /// Returns the leader's pod and its node.
    fn leader(&self) -> (String, String) {
        let holder =
            self.kubectl(&["get", "lease", "prewarmer", "-o", "jsonpath={.spec.holderIdentity}"]);
        let pod = holder.split('_').next().unwrap().to_owned();
        if pod.is_empty() {
            return (pod, String::new());
        }
        let node = self.cluster.try_kubectl(
            &["-n", NAMESPACE, "get", "pod", &pod, "-o", "jsonpath={.spec.nodeName}"],
            "",
        );
        (pod, node.1)
    }

    /// Returns the permissions that the servers' accounts have used, and the audit log lines of
    /// rejected requests.
    fn audited_permissions(&self) -> (BTreeSet<Permission>, Vec<String>) {
        let text = std::fs::read_to_string(
            Path::new(self.cluster.var("CLUSTER_DIR")).join("logs/audit.log"),
        )
        .unwrap();
        let (mut used, mut refused) = (BTreeSet::new(), Vec::new());
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let object = &event["objectRef"];
            let Some(resource) = object["resource"].as_str() else { continue };
            let resource = match object["subresource"].as_str() {
                Some(sub) => format!("{resource}/{sub}"),
                None => resource.to_owned(),
            };
            if event["responseStatus"]["code"] == 403 {
                refused.push(line.to_owned());
            }
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let account =
                word(&event["user"]["username"]).rsplit(':').next().unwrap_or_default().to_owned();
            used.insert((account, word(&event["verb"]), word(&object["apiGroup"]), resource));
        }
        (used, refused)
    }

    /// Returns the permissions that the chart grants.
    fn granted_permissions(&self) -> BTreeSet<Permission> {
        let mut granted = BTreeSet::new();
        let names = [
            (FRONT_ACCOUNT, "clusterrole/prewarmer-webhook"),
            (CONTROLLER_ACCOUNT, "clusterrole/prewarmer-controller"),
            (FRONT_ACCOUNT, "clusterrole/prewarmer-api"),
            (FRONT_ACCOUNT, "role/prewarmer"),
            (CONTROLLER_ACCOUNT, "role/prewarmer-controller"),
        ];
        for (account, name) in names {
            let role: Value =
                serde_json::from_str(&self.kubectl(&["get", name, "-o", "json"])).unwrap();
            let list = |value: &Value| {
                value
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|item| item.as_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
            };
            for rule in role["rules"].as_array().unwrap() {
                for group in list(&rule["apiGroups"]) {
                    for resource in list(&rule["resources"]) {
                        let verbs = list(&rule["verbs"]).into_iter();
                        granted.extend(verbs.map(|verb| {
                            (account.to_owned(), verb, group.clone(), resource.clone())
                        }));
                    }
                }
            }
        }
        granted
    }

    /// Writes a manifest of a Lease with this name; returns its path.
    fn write_lease_manifest(&self, name: &str) -> String {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": NAMESPACE}});
        let file = Path::new(self.cluster.var("CLUSTER_DIR")).join(format!("lease-{name}.json"));
        std::fs::write(&file, lease.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// Returns all objects in the cluster with Prewarmer's name in theirs, except namespaces and
    /// events.
    fn remaining_objects(&self) -> Vec<String> {
        let kinds = self.cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"], "");
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let all = self
            .cluster
            .kubectl(&["get", &kinds.join(","), "-A", "-o", "name", "--ignore-not-found"], "");
        let ours = |line: &&str| line.contains("prewarm") && !line.starts_with("namespace/");
        all.lines().filter(ours).map(str::to_owned).collect()
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let words = [
                "-n",
                NAMESPACE,
                "logs",
                "-l",
                "app.kubernetes.io/part-of=prewarmer",
                "--tail=200",
                "--prefix",
            ];
            eprintln!("the servers' logs:\n{}", self.cluster.try_kubectl(&words, "").1);
        }
    }
}

/// Account, verb, API group, and resource with subresource.
type Permission = (String, String, String, String);

/// Port forward to the Service, stopped when dropped: process and URL.
struct PortForward(Child, String);

impl PortForward {
    fn new(cluster: &Cluster) -> Self {
        let address = free_address();
        let port = address.rsplit(':').next().unwrap();
        let child = Command::new(cluster.var("KUBECTL"))
            .env("KUBECONFIG", cluster.var("KUBECONFIG"))
            .args(["-n", NAMESPACE, "port-forward", "service/prewarmer", &format!("{port}:8080")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(begun.elapsed() < TIMEOUT, "the port forward did not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        Self(child, format!("https://localhost:{port}"))
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs an installation from the first check to the purge. The steps are one test because each
/// depends on the state that the previous one leaves.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster of its own, and our images in its registry: tests/installed.sh"]
async fn installation_lifecycle() {
    let cluster = Cluster::shared();
    let Some(registry) = cluster.registry("installation_lifecycle") else { return };
    let install = Install::new(cluster, registry);
    let (code, text) = install.doctor(&["--pre", "--namespaces=default"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = install.doctor(&[]);
    assert!(code == Some(1) && text.contains("Deployment prewarmer/prewarmer not found"), "{text}");

    cluster.kubectl(&["create", "namespace", NAMESPACE], "");
    cluster.kubectl(
        &["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"],
        "",
    );
    assert_eq!(install.remaining_objects(), Vec::<String>::new());
    let said = install.apply_chart("install", &[]);
    assert!(said.contains("STATUS: deployed") && said.contains("prewarmer doctor"), "{said}");
    let (code, text) = install.doctor(&["--wait=1m", "--namespaces=default"]);
    assert!(code == Some(0) && text.ends_with("all checks passed\n"), "{text}");
    let said = install.cluster.helm(&["test", "prewarmer", "-n", NAMESPACE]);
    assert!(said.contains("Succeeded"), "{said}");

    let shop = cluster.namespace("shop");
    shop.kubectl(
        &["label", "namespace", &shop.name, "pod-security.kubernetes.io/enforce=restricted"],
        "",
    );
    rollout_uses_warm_images(&install, &shop, registry).await;
    each_workload_kind_creates_tasks(&shop).await;
    rest_through_the_service(&install, &shop).await;
    bare_pod_workers(&shop).await;
    second_installation_is_rejected(&install);
    upgrade_during_task(&install, &shop).await;
    leader_node_is_lost(&install, &shop).await;
    every_granted_permission_is_used(&install);
    stolen_token_can_only_pull_images(&install, &shop);
    definitions_are_kept_when_disabled(&install);
    uninstall_keeps_user_objects(&install, &shop).await;
    purge_deletes_everything(&install, &shop).await;
}

/// Returns a Deployment that complies with Pod Security level restricted.
fn restricted_deployment(name: &str, image: &str) -> Value {
    let mut web = deployment(name, 0, &[image]);
    let pod = &mut web["spec"]["template"]["spec"];
    pod["nodeSelector"] = json!({"kubernetes.io/os": "linux"});
    pod["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "type", "operator": "NotIn", "values": ["fake"]}]}]}},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": name}}, "topologyKey": "kubernetes.io/hostname"}]}});
    pod["terminationGracePeriodSeconds"] = json!(1);
    pod["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}});
    pod["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    web
}

async fn rollout_uses_warm_images(install: &Install, shop: &Namespace, registry: &str) {
    let image = format!("{registry}/shop/web:{}", shop.name);
    install.cluster.push(&image, &Path::new(install.cluster.var("BIN")).join("pause"), true);
    shop.apply(&restricted_deployment("web", &image));
    let task = shop.eventually("a task", TIMEOUT, || async { shop.tasks().pop() }).await;
    let status = shop.wait_until_ended(&task.name_any(), TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.succeeded_nodes, 2, "{status:#?}");
    shop.kubectl(&["scale", "deployment/web", "--replicas=2"], "");
    shop.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"], "");
    let events = shop.events("web-");
    assert_eq!(
        events.iter().filter(|event| event.contains("already present")).count(),
        2,
        "{events:#?}"
    );
    assert!(!events.iter().any(|event| event.contains("Pulling")), "{events:#?}");
    // The leader has counted the starts and the time saved.
    let (leader, _) = install.leader();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{leader}:9090/proxy/metrics");
    let counted = || async {
        let metrics = install.cluster.kubectl(&["get", "--raw", &path], "");
        let value = |name: &str| {
            metrics
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
                .unwrap_or_default()
        };
        let warm = value("prewarm_pod_starts_total{image=\"warm\"}");
        (warm >= 2.0
            && value("prewarm_lead_time_seconds_count") >= 2.0
            && value("prewarm_seconds_saved_total") > 0.0)
            .then_some(())
    };
    shop.eventually("two warm starts in the metrics", TIMEOUT, counted).await;
}

/// Creates a workload of every other kind, so that each read permission is used.
async fn each_workload_kind_creates_tasks(shop: &Namespace) {
    let pod = |image: &str| {
        let mut pod = restricted_deployment("x", image)["spec"]["template"]["spec"].clone();
        pod["nodeSelector"] = json!({"type": "fake"});
        pod.as_object_mut().unwrap().remove("affinity");
        pod
    };
    let template =
        |image: &str| json!({"metadata": {"labels": {"app": image}}, "spec": pod(image)});
    let selected = |image: &str| json!({"matchLabels": {"app": image}});
    let once = |image: &str| {
        let mut template = template(image);
        template["spec"]["restartPolicy"] = json!("Never");
        template
    };
    let object = |version: &str, kind: &str, spec: Value| json!({"apiVersion": version, "kind": kind, "metadata": {"name": kind.to_lowercase()}, "spec": spec});
    let mut bare = object("v1", "Pod", pod("bare"));
    bare["metadata"]["annotations"] = json!({"prewarm.io/enabled": "true"});
    let objects = [
        object(
            "apps/v1",
            "StatefulSet",
            json!({"replicas": 0, "serviceName": "s", "selector": selected("sts"), "template": template("sts")}),
        ),
        object(
            "apps/v1",
            "DaemonSet",
            json!({"selector": selected("ds"), "template": template("ds")}),
        ),
        object(
            "apps/v1",
            "ReplicaSet",
            json!({"replicas": 0, "selector": selected("rs"), "template": template("rs")}),
        ),
        object(
            "v1",
            "ReplicationController",
            json!({"replicas": 0, "selector": {"app": "rc"}, "template": template("rc")}),
        ),
        object("batch/v1", "Job", json!({"suspend": true, "template": once("job")})),
        object(
            "batch/v1",
            "CronJob",
            json!({"schedule": "@yearly", "jobTemplate": {"spec": {"template": once("cron")}}}),
        ),
        bare,
    ];
    shop.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}));
    let all = || async {
        let images: BTreeSet<String> =
            shop.tasks().into_iter().flat_map(|task| task.spec.images).collect();
        ["sts", "ds", "rs", "rc", "job", "cron", "bare"]
            .iter()
            .all(|image| images.contains(*image))
            .then_some(())
    };
    shop.eventually("a task for each workload kind", TIMEOUT, all).await;
}

async fn rest_through_the_service(install: &Install, shop: &Namespace) {
    let forwarded = PortForward::new(install.cluster);
    let ca = install.kubectl(&["get", "secret", "prewarmer-ca", "-o", "jsonpath={.data.ca\\.crt}"]);
    let caller = RestClient::with_ca(&forwarded.1, &ca, &account_token(shop, "editor", &["*"]));
    let body = json!({"images": ["rest:1"], "nodeSelector": {"type": "fake"}, "nodes": 3, "namespace": shop.name});
    let twice = |caller: RestClient| {
        let body = body.clone();
        async move {
            caller
                .send(
                    caller.request("POST", "/tasks").header("idempotency-key", "once").json(&body),
                )
                .await
        }
    };
    let (made, again) = (twice(caller.clone()).await, twice(caller.clone()).await);
    assert_eq!(made.code, 201, "{made:?} {again:?}");
    assert_eq!(again.code, 201, "{made:?} {again:?}");
    assert_eq!(made.body["taskId"], again.body["taskId"], "{made:?} {again:?}");
    let id = made.body["taskId"].as_str().unwrap();
    shop.wait_until_ended(id, TIMEOUT).await;
    let got = caller.get(&format!("/tasks/{id}")).await;
    assert_eq!(got.code, 200, "{got:?}");
    assert_eq!(got.body["status"], "completed", "{got:?}");
    // A cancelled task, and all operations on a schedule.
    let slow = json!({"images": ["slow:1"], "nodeSelector": {"type": "fake"}, "batchSize": 1, "namespace": shop.name});
    let slow = caller.create_task(&slow).await;
    let workers = || async {
        let jobs = shop.get("jobs");
        jobs.iter().any(|job| job["metadata"]["labels"][TASK_LABEL] == json!(slow)).then_some(())
    };
    shop.eventually("a worker of the slow task", TIMEOUT, workers).await;
    assert_eq!(caller.delete(&format!("/tasks/{slow}")).await.code, 200);
    let schedule = json!({"cronExpr": "@yearly", "namespace": shop.name, "historyLimit": 1, "taskConfig":
        {"images": ["scheduled:1"], "nodeSelector": {"type": "fake"}, "nodes": 1}});
    let schedule = caller.post("/scheduled-tasks", &schedule).await;
    assert_eq!(schedule.code, 201, "{schedule:?}");
    let path = format!("/scheduled-tasks/{}", schedule.body["id"].as_str().unwrap());
    for run in ["1", "2"] {
        assert_eq!(caller.post(&format!("{path}/trigger"), &json!({})).await.code, 200);
        let runs = format!("{path}/executions/{run}");
        let ended =
            || async { (caller.get(&runs).await.body["status"] == "success").then_some(()) };
        shop.eventually("success of the execution", TIMEOUT, ended).await;
    }
    assert_eq!(caller.put(&format!("{path}/disable"), &json!({})).await.code, 200);
    let mut changed = schedule.body.clone();
    changed["description"] = json!("changed");
    for field in [
        "id",
        "namespace",
        "createdAt",
        "updatedAt",
        "createdBy",
        "lastExecutionAt",
        "nextExecutionAt",
    ] {
        changed.as_object_mut().unwrap().remove(field);
    }
    let put = caller.put(&path, &changed).await;
    assert_eq!(put.code, 200, "{put:?}");
    assert_eq!(put.body["description"], "changed", "{put:?}");
    assert_eq!(caller.delete(&path).await.code, 200);
    queued_execution_runs_after_timeout(&caller, shop).await;
    assert_eq!(caller.get("/nodes").await.code, 403, "a caller without permission read nodes");
    let seer = caller.with_token(&account_token_with_nodes(
        install.cluster,
        shop,
        "nodes",
        &["get", "list"],
    ));
    assert_eq!(seer.get("/nodes").await.code, 200);
    delete_node_permission(install.cluster, shop);
    // The page of a task lists its nodes, which are stored in its plan.
    let page = format!("{}/ui/tasks/{}/{id}/nodes", forwarded.1, shop.name);
    let cookie = format!("__Host-prewarmer={}", caller.bearer_token());
    let grid = caller.send(caller.get_page(&page).header("cookie", cookie)).await;
    assert_eq!(grid.code, 200, "{grid:?}");
    assert!(grid.body.to_string().contains("node-"), "{grid:?}");
}

/// Verifies that the controller cancels an execution that exceeds its timeout and creates the
/// queued one.
async fn queued_execution_runs_after_timeout(caller: &RestClient, shop: &Namespace) {
    let body = json!({"cronExpr": "@yearly", "namespace": shop.name, "overlapPolicy": "queue", "timeoutSeconds": 3,
        "taskConfig": {"images": ["slow:6"], "nodeSelector": {"type": "fake"}, "batchSize": 1}});
    let made = caller.post("/scheduled-tasks", &body).await;
    assert_eq!(made.code, 201, "{made:?}");
    let path = format!("/scheduled-tasks/{}", made.body["id"].as_str().unwrap());
    for waits in [false, true] {
        let answer = caller.post(&format!("{path}/trigger"), &json!({})).await;
        assert_eq!(answer.code, if waits { 202 } else { 200 }, "{answer:?}");
        assert_eq!(answer.body["taskId"].is_null(), waits, "{answer:?}");
    }
    for run in ["1", "2"] {
        let run = format!("{path}/executions/{run}");
        let ended = || async { (caller.get(&run).await.body["status"] == "timeout").then_some(()) };
        shop.eventually("timeout of the execution", TIMEOUT, ended).await;
    }
    assert_eq!(caller.delete(&path).await.code, 200);
}

/// Verifies workers that are bare pods, with one task that completes and one that is cancelled.
async fn bare_pod_workers(shop: &Namespace) {
    let spec = |image: &str| json!({"images": [image], "worker": "Pod", "nodeSelector": {"type": "fake"}, "successThreshold": "50%"});
    // The pull fails on every tenth node, where the controller ends the pod itself: by a request of its
    // own, since the task retains the others.
    let mut bare = spec("picky:2");
    bare["retain"] = "1s".into();
    shop.apply_task("bare", &bare);
    let status = shop.wait_until_ended("bare", TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(first_reason(&status), Some("ImageNotFound"), "{status:#?}");
    shop.apply_task("broken-off", &spec("slow:4"));
    let workers = || async {
        let pods = shop.get("pods");
        pods.iter().any(|pod| pod["metadata"]["labels"][TASK_LABEL] == "broken-off").then_some(())
    };
    shop.eventually("a worker", TIMEOUT, workers).await;
    shop.kubectl(
        &[
            "patch",
            "prewarmtask",
            "broken-off",
            "--type=merge",
            "-p",
            "{\"spec\":{\"cancel\":true}}",
        ],
        "",
    );
    assert_eq!(shop.wait_until_ended("broken-off", TIMEOUT).await.phase, Phase::Cancelled);
}

/// Verifies that a second installation is rejected: this one watches all namespaces.
fn second_installation_is_rejected(install: &Install) {
    let words = [
        "install",
        "second",
        CHART,
        "-n",
        "default",
        "--set",
        "crds.install=false",
        "--dry-run=server",
    ];
    let (done, said) = install.cluster.try_helm(&words);
    assert!(
        !done && said.contains("another installation watches all namespaces already"),
        "{said}"
    );
    let (done, said) =
        install.cluster.try_helm(&[&words[..], &["--set", "settings.allowOverlap=true"]].concat());
    assert!(done, "{said}");
}

async fn upgrade_during_task(install: &Install, shop: &Namespace) {
    let nodes = fake_nodes(install);
    shop.apply_task(
        "upgraded",
        &json!({"images": ["slow:2"], "nodeSelector": {"type": "fake"}, "batchSize": 8}),
    );
    wait_for_progress(shop, "upgraded").await;
    let before = install.kubectl(&[
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/part-of=prewarmer",
        "-o",
        "name",
    ]);
    let (old_leader, begun) = (install.leader().0, Timestamp::now());
    install.apply_chart("upgrade", &["--set", "settings.coalesceWindow=300ms"]);
    let after = install.kubectl(&[
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/part-of=prewarmer",
        "-o",
        "name",
        "--field-selector=status.phase=Running",
    ]);
    assert!(after.lines().any(|pod| !before.contains(pod)), "{before} {after}");
    let replaced = || async {
        let leads = install.leader().0;
        (!leads.is_empty() && leads != old_leader).then_some(())
    };
    shop.eventually("another leader", TIMEOUT, replaced).await;
    let status = shop.wait_until_ended("upgraded", TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.succeeded_nodes, nodes, "{status:#?}");
    // Four of five batches were left, of 6 s each.
    let ended: Timestamp = status.completion_time.unwrap().parse().unwrap();
    assert!(ended.duration_since(begun).as_secs() > 10, "the task ended before the upgrade");
    let (code, text) = install.doctor(&["--wait=1m"]);
    assert_eq!(code, Some(0), "{text}");
}

fn fake_nodes(install: &Install) -> u32 {
    install.cluster.var("FAKE_NODES").parse().unwrap()
}

/// Waits until some but not all nodes of a task have ended.
async fn wait_for_progress(shop: &Namespace, task: &str) {
    let some = || async {
        let status = shop.status(task);
        assert_ne!(
            status.phase,
            Phase::Completed,
            "the task completed before it was observed running"
        );
        (status.succeeded_nodes > 0).then_some(())
    };
    shop.eventually("some nodes of the task", TIMEOUT, some).await;
}

async fn leader_node_is_lost(install: &Install, shop: &Namespace) {
    shop.apply_task(
        "orphaned",
        &json!({"images": ["slow:3"], "nodeSelector": {"type": "fake"}, "batchSize": 10}),
    );
    wait_for_progress(shop, "orphaned").await;
    let (leader, node) = install.leader();
    let refused = install.audited_permissions().1;
    assert_eq!(refused, Vec::<String>::new(), "a request of the server was denied");
    install.cluster.kill_node(&node);
    let died = Instant::now();
    let jobs = || -> BTreeSet<String> {
        shop.get("jobs").iter().map(|job| job["metadata"]["name"].to_string()).collect()
    };
    let before = jobs();
    let other = || async {
        let leads = install.leader().0;
        (leads != leader && !leads.is_empty()).then_some(())
    };
    shop.eventually("another leader", MAX_TAKEOVER, other).await;
    let led = died.elapsed();
    // The batch that was in progress has ended before the Lease expires.
    let works = || async { (!jobs().is_subset(&before)).then_some(()) };
    shop.eventually("a Job created by the successor", MAX_TAKEOVER.saturating_sub(led), works)
        .await;
    println!(
        "MEASURED the leader's node was killed: another replica led after {:.1} s and worked after {:.1} s",
        led.as_secs_f64(),
        died.elapsed().as_secs_f64()
    );
    let status = shop.wait_until_ended("orphaned", TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.succeeded_nodes, fake_nodes(install), "{status:#?}");
    // The cloud controller would do this for a machine that no longer exists.
    install.cluster.kubectl(&["delete", "node", &node], "");
    install.kubectl(&["delete", "pod", &leader, "--force", "--grace-period=0"]);
}

/// Compares the API server's audit log with the chart's roles.
fn every_granted_permission_is_used(install: &Install) {
    let (used, refused) = install.audited_permissions();
    assert_eq!(refused, Vec::<String>::new());
    let unused: Vec<Permission> =
        install.granted_permissions().difference(&used).cloned().collect();
    // Permissions that this test does not use; another test covers each.
    let elsewhere = [
        // Idempotency keys are deleted after a day, and earlier for a caller that has too many.
        (CONTROLLER_ACCOUNT, "delete", "coordination.k8s.io", "leases"),
        (FRONT_ACCOUNT, "delete", "coordination.k8s.io", "leases"),
        // If two replicas create the same task, the second reads the task of the first.
        (CONTROLLER_ACCOUNT, "get", "prewarm.io", "prewarmtasks"),
    ];
    let known = |right: &&Permission| {
        let right = (right.0.as_str(), right.1.as_str(), right.2.as_str(), right.3.as_str());
        !elsewhere.contains(&right)
    };
    let unused: Vec<&Permission> = unused.iter().filter(known).collect();
    assert!(unused.is_empty(), "granted but never used: {unused:#?}");
}

/// Verifies which requests the API server denies to a thief of the server's own token.
fn stolen_token_can_only_pull_images(install: &Install, shop: &Namespace) {
    // A namespace without Pod Security, which would reject the pods before the policies do.
    let lax = install.cluster.namespace("lax");
    let thief = StolenToken::new(install, CONTROLLER_ACCOUNT);
    let front = StolenToken::new(install, FRONT_ACCOUNT);
    let try_it = |words: &[&str], input: &str| thief.try_kubectl(words, input);

    let sample = |kind: &str| {
        let spec = json!({"images": [format!("slow-{}:9", kind.to_lowercase())], "worker": kind, "nodes": 1, "nodeSelector": {"type": "fake"}, "pullMethod": if kind == "Pod" { "Helper" } else { "ImageVolume" }});
        let name = format!("sample-{}", kind.to_lowercase());
        lax.apply_task(&name, &spec);
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < TIMEOUT, "no worker of {name}");
            let of = |object: &&Value| object["metadata"]["labels"][TASK_LABEL] == json!(name);
            let found = lax.get(&format!("{}s", kind.to_lowercase())).iter().find(of).cloned();
            if let Some(mut found) = found {
                for field in
                    ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"]
                {
                    found["metadata"].as_object_mut().unwrap().remove(field);
                }
                found.as_object_mut().unwrap().remove("status");
                if kind == "Job" {
                    found["spec"].as_object_mut().unwrap().remove("selector");
                    let labels =
                        found["spec"]["template"]["metadata"]["labels"].as_object_mut().unwrap();
                    labels.retain(|key, _| {
                        !key.contains("controller-uid") && !key.contains("job-name")
                    });
                }
                for field in ["priority", "preemptionPolicy"] {
                    found["spec"].as_object_mut().unwrap().remove(field);
                }
                found["metadata"]["name"] = json!("stolen");
                return found;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let create = |object: &Value| {
        try_it(&["-n", &lax.name, "create", "--dry-run=server", "-f", "-"], &object.to_string())
    };
    for kind in ["Pod", "Job"] {
        let good = sample(kind);
        let (taken, said) = create(&good);
        assert!(taken, "a worker as the server creates it was denied: {said}");
        let (taken, said) = front.try_kubectl(
            &["-n", &lax.name, "create", "--dry-run=server", "-f", "-"],
            &good.to_string(),
        );
        assert!(
            !taken && said.contains("orbidden"),
            "the front account could create a worker: {said}"
        );
        // The runtime class does not exist in this cluster, so a pod with it is rejected before any
        // policy is evaluated.
        let all = worker_misuses(kind, kind == "Pod").into_iter();
        let all: Vec<_> =
            all.filter(|(path, _)| kind == "Job" || !path.ends_with("/runtimeClassName")).collect();
        let (_, others) = try_misuses(&good, &all, |objects| create(objects).1);
        assert_eq!(others, Vec::<String>::new(), "{kind}");
    }
    // Other objects than workers can be neither deleted nor changed, secrets cannot be read, and no
    // other kind can be created.
    let pod = shop
        .get("pods")
        .iter()
        .find(|pod| pod["metadata"]["name"].as_str().unwrap().starts_with("web-"))
        .cloned();
    let pod = pod.unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    let attempts: [&[&str]; 11] = [
        &["-n", &shop.name, "delete", "pod", &pod, "--wait=false"],
        &["-n", &shop.name, "delete", "pods", "--all", "--wait=false"],
        &["-n", &shop.name, "label", "pod", &pod, "a=b"],
        &["-n", &shop.name, "get", "secrets"],
        &["-n", "kube-system", "get", "secrets"],
        &["-n", &shop.name, "create", "deployment", "x", "--image=x"],
        &["-n", &shop.name, "exec", &pod, "--", "id"],
        &["create", "clusterrolebinding", "x", "--clusterrole=cluster-admin", "--user=x"],
        &["delete", "validatingadmissionpolicy", "prewarmer-pods"],
        &["-n", NAMESPACE, "get", "secret", "prewarmer-api-tokens"],
        &["-n", NAMESPACE, "delete", "lease", "prewarmer"],
    ];
    thief.assert_denied(&attempts);
    front_account_has_fewer_permissions(install, shop, &front);
    assert!(
        shop.get("pods").iter().any(|one| one["metadata"]["name"] == json!(pod)),
        "a pod that is not a worker was deleted"
    );
}

/// Verifies that the account of the front process has none of the controller's permissions.
fn front_account_has_fewer_permissions(
    install: &Install,
    shop: &Namespace,
    front: &StolenToken<'_>,
) {
    let task = shop.tasks()[0].name_any();
    let (shop, config) = (shop.name.as_str(), "validatingwebhookconfiguration");
    front.assert_denied(&[
        &["-n", shop, "get", "pods"],
        &["-n", shop, "get", "deployments"],
        &["get", "deployments,pods,jobs,cronjobs", "-A"],
        &["-n", shop, "delete", "jobs", "--all", "--wait=false"],
        &["-n", shop, "delete", "prewarmtask", &task, "--wait=false"],
        &[
            "-n",
            shop,
            "patch",
            "prewarmtask",
            &task,
            "--subresource=status",
            "--type=merge",
            "-p",
            "{\"status\":{\"phase\":\"Failed\"}}",
        ],
        &["patch", config, "prewarmer", "--type=merge", "-p", "{\"webhooks\":[]}"],
        &["delete", config, "prewarmer"],
        &[
            "-n",
            NAMESPACE,
            "patch",
            "secret",
            "prewarmer-ca",
            "--type=merge",
            "-p",
            "{\"data\":null}",
        ],
        &["-n", NAMESPACE, "delete", "lease", "prewarmer"],
        &[
            "-n",
            NAMESPACE,
            "patch",
            "lease",
            "prewarmer",
            "--type=merge",
            "-p",
            "{\"spec\":{\"holderIdentity\":\"x\"}}",
        ],
        &["-n", NAMESPACE, "create", "-f", &install.write_lease_manifest("another")],
        &["-n", NAMESPACE, "replace", "-f", &install.write_lease_manifest("prewarmer")],
    ]);
}

/// Client with the token of an account and no other credentials.
struct StolenToken<'a> {
    install: &'a Install,
    file: std::path::PathBuf,
}

impl<'a> StolenToken<'a> {
    fn new(install: &'a Install, account: &str) -> Self {
        let stolen = install.kubectl(&["create", "token", account]);
        // The kubeconfig contains only the token, not the administrator's credentials.
        let file = Path::new(install.cluster.var("CLUSTER_DIR")).join(format!("stolen-{account}"));
        let config = install.cluster.kubectl(&["config", "view", "--raw", "-o", "json"], "");
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["users"][0]["user"] = json!({"token": stolen.trim()});
        std::fs::write(&file, config.to_string()).unwrap();
        Self { install, file }
    }

    fn try_kubectl(&self, words: &[&str], input: &str) -> (bool, String) {
        let kubeconfig = format!("--kubeconfig={}", self.file.display());
        self.install.cluster.try_kubectl(&[&[kubeconfig.as_str()], words].concat(), input)
    }

    fn assert_denied(&self, attempts: &[&[&str]]) {
        for words in attempts {
            let (done, said) = self.try_kubectl(words, "");
            let refused = said.to_lowercase().contains("forbidden")
                || said.contains("ValidatingAdmissionPolicy");
            assert!(!done && refused, "{words:?}: {said}");
        }
    }
}

impl Drop for StolenToken<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Verifies `crds.install: false`, which is meant for a second installation: it is rejected on the
/// release that installed the definitions. Where that check is not reached (`helm template |
/// kubectl apply`), Helm keeps the definitions because of their resource policy.
fn definitions_are_kept_when_disabled(install: &Install) {
    let words = [
        "upgrade",
        "prewarmer",
        CHART,
        "-n",
        NAMESPACE,
        "-f",
        &install.values,
        "--set",
        "crds.install=false",
    ];
    let (done, said) = install.cluster.try_helm(&words);
    assert!(!done && said.contains("crds.install=false: the release prewarmer"), "{said}");
    let kept = install.kubectl(&[
        "get",
        "crd",
        "prewarmtasks.prewarm.io",
        "-o",
        "jsonpath={.metadata.annotations}",
    ]);
    assert!(kept.contains("\"helm.sh/resource-policy\":\"keep\""), "{kept}");
}

/// Verifies that an uninstall keeps the definitions, the users' objects, and the workers that they
/// own.
async fn uninstall_keeps_user_objects(install: &Install, shop: &Namespace) {
    let schedule = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmSchedule", "metadata": {"name": "kept"},
        "spec": {"schedule": "@yearly", "taskTemplate": {"spec": {"images": ["a:1"]}}}});
    shop.apply(&schedule);
    shop.apply_task(
        "kept",
        &json!({"images": ["kept:1"], "nodes": 1, "nodeSelector": {"type": "fake"}}),
    );
    shop.wait_until_ended("kept", TIMEOUT).await;
    install.cluster.helm(&["uninstall", "prewarmer", "-n", NAMESPACE, "--wait", "--timeout", "2m"]);
    let only_theirs = || async {
        // The APIService of the group exists as long as its definitions do.
        let theirs = [
            "customresourcedefinition.",
            "apiservice.",
            "prewarmtask.",
            "prewarmplan.",
            "prewarmschedule.",
            "job.",
            "pod/",
        ];
        let left = install.remaining_objects();
        let ours: Vec<&String> =
            left.iter().filter(|name| !theirs.iter().any(|kind| name.starts_with(kind))).collect();
        if !ours.is_empty() {
            println!("remaining: {ours:?}");
        }
        ours.is_empty().then_some(left)
    };
    let left =
        shop.eventually("deletion of all but the users' objects", TIMEOUT, only_theirs).await;
    let definitions =
        left.iter().filter(|name| name.starts_with("customresourcedefinition.")).count();
    assert_eq!(definitions, 3, "{left:?}");
    assert_eq!(
        shop.kubectl(&["get", "prewarmtask/kept", "prewarmschedule/kept", "-o", "name"], "")
            .lines()
            .count(),
        2
    );
    let none =
        || async { install.kubectl(&["get", "pods", "-o", "name"]).is_empty().then_some(()) };
    shop.eventually("deletion of the installation's pods", TIMEOUT, none).await;
    shop.apply(&deployment("after", 0, &["after:1"]));
}

/// Deletes the definitions and workers as described in docs/install.md.
async fn purge_deletes_everything(install: &Install, shop: &Namespace) {
    install.cluster.kubectl(
        &[
            "delete",
            "crd",
            "prewarmtasks.prewarm.io",
            "prewarmplans.prewarm.io",
            "prewarmschedules.prewarm.io",
        ],
        "",
    );
    install.cluster.kubectl(
        &["delete", "jobs,pods", "-A", "-l", "app.kubernetes.io/managed-by=prewarmer"],
        "",
    );
    let gone = || async {
        let left = install.remaining_objects();
        if !left.is_empty() {
            println!("remaining: {left:?}");
        }
        left.is_empty().then_some(())
    };
    shop.eventually("deletion of all objects", TIMEOUT, gone).await;
}
