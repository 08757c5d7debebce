//! The chart, installed by Helm into a cluster of its own: our images on real kubelets, the webhook and REST through the
//! Service, an upgrade, the death of the leader's node, the fence, an uninstall that leaves what is the users', and a purge that
//! leaves nothing.
//!
//! `tests/installed.sh` builds the images, pushes them and runs this.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    admission::deployment,
    caller::{Caller, forget_nodes, token, token_for_nodes},
    fence::{misuses, try_misuses},
    harness::{CHART, Cluster, Namespace, free_address},
};

const LONG: Duration = Duration::from_secs(90);
/// The namespace of the installation; the cluster's audit log is of its accounts.
const PLACE: &str = "prewarmer";
/// Deployment and account of what answers the webhook and REST.
const FRONT: &str = "prewarmer";
/// Deployment and account of what makes workers.
const CONTROLLER: &str = "prewarmer-controller";

struct Install {
    cluster: &'static Cluster,
    values: String,
}

impl Install {
    fn new(cluster: &'static Cluster, registry: &str) -> Self {
        // There is no kube-proxy: pods reach the API server by the first address of their node's subnet.
        let node = cluster.kubectl(&["get", "node", "real1", "-o", "jsonpath={.status.addresses[0].address}"], "");
        let gateway = format!("{}.1", node.rsplit_once('.').unwrap().0);
        let port = cluster.var("APISERVER_URL").rsplit(':').next().unwrap().to_owned();
        let real = json!({"matchExpressions": [{"key": "type", "operator": "NotIn", "values": ["fake"]}]});
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
        let words = [verb, "prewarmer", CHART, "-n", PLACE, "-f", &self.values, "--wait", "--timeout", "2m"];
        self.cluster.helm(&[&words, more].concat())
    }

    fn kubectl(&self, words: &[&str]) -> String {
        self.cluster.kubectl(&[&["-n", PLACE], words].concat(), "")
    }

    /// Whether `doctor` is content, and what it says.
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

    /// The pod that leads, and its node.
    fn leader(&self) -> (String, String) {
        let holder = self.kubectl(&["get", "lease", "prewarmer", "-o", "jsonpath={.spec.holderIdentity}"]);
        let pod = holder.split('_').next().unwrap().to_owned();
        if pod.is_empty() {
            return (pod, String::new());
        }
        let node = self.cluster.try_kubectl(&["-n", PLACE, "get", "pod", &pod, "-o", "jsonpath={.spec.nodeName}"], "");
        (pod, node.1)
    }

    /// What the servers' accounts have asked for: account, verb, group, resource with subresource; and what they were refused.
    fn audited(&self) -> (BTreeSet<Right>, Vec<String>) {
        let text = std::fs::read_to_string(Path::new(self.cluster.var("CLUSTER_DIR")).join("logs/audit.log")).unwrap();
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
            let account = word(&event["user"]["username"]).rsplit(':').next().unwrap_or_default().to_owned();
            used.insert((account, word(&event["verb"]), word(&object["apiGroup"]), resource));
        }
        (used, refused)
    }

    /// What the chart lets them ask for.
    fn granted(&self) -> BTreeSet<Right> {
        let mut granted = BTreeSet::new();
        let names = [
            (FRONT, "clusterrole/prewarmer-webhook"),
            (CONTROLLER, "clusterrole/prewarmer-controller"),
            (FRONT, "clusterrole/prewarmer-api"),
            (FRONT, "role/prewarmer"),
            (CONTROLLER, "role/prewarmer-controller"),
        ];
        for (account, name) in names {
            let role: Value = serde_json::from_str(&self.kubectl(&["get", name, "-o", "json"])).unwrap();
            let list = |value: &Value| {
                value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            for rule in role["rules"].as_array().unwrap() {
                for group in list(&rule["apiGroups"]) {
                    for resource in list(&rule["resources"]) {
                        let verbs = list(&rule["verbs"]).into_iter();
                        granted.extend(verbs.map(|verb| (account.to_owned(), verb, group.clone(), resource.clone())));
                    }
                }
            }
        }
        granted
    }

    /// A file with a Lease of this name.
    fn lease(&self, name: &str) -> String {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": PLACE}});
        let file = Path::new(self.cluster.var("CLUSTER_DIR")).join(format!("lease-{name}.json"));
        std::fs::write(&file, lease.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// Everything in the cluster whose name tells of us.
    fn traces(&self) -> Vec<String> {
        let kinds = self.cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"], "");
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let all = self.cluster.kubectl(&["get", &kinds.join(","), "-A", "-o", "name", "--ignore-not-found"], "");
        let ours = |line: &&str| line.contains("prewarm") && !line.starts_with("namespace/");
        all.lines().filter(ours).map(str::to_owned).collect()
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let words = ["-n", PLACE, "logs", "-l", "app.kubernetes.io/part-of=prewarmer", "--tail=200", "--prefix"];
            eprintln!("the servers' logs:\n{}", self.cluster.try_kubectl(&words, "").1);
        }
    }
}

/// Account, verb, group, resource.
type Right = (String, String, String, String);

/// A forwarded port, as long as it is kept.
struct Forwarded(Child, String);

impl Forwarded {
    fn new(cluster: &Cluster) -> Self {
        let address = free_address();
        let port = address.rsplit(':').next().unwrap();
        let child = Command::new(cluster.var("KUBECTL"))
            .env("KUBECONFIG", cluster.var("KUBECONFIG"))
            .args(["-n", PLACE, "port-forward", "service/prewarmer", &format!("{port}:8080")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(begun.elapsed() < LONG, "no port is forwarded");
            std::thread::sleep(Duration::from_millis(100));
        }
        Self(child, format!("https://localhost:{port}"))
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From the first look to the last trace. One test, because each part needs what the one before it has left.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster of its own, and our images in its registry: tests/installed.sh"]
async fn the_life_of_an_installation() {
    let cluster = Cluster::shared();
    let Some(registry) = cluster.registry("the_life_of_an_installation") else { return };
    let install = Install::new(cluster, registry);
    let (code, text) = install.doctor(&["--pre", "--namespaces=default"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = install.doctor(&[]);
    assert!(code == Some(1) && text.contains("there is no Deployment prewarmer/prewarmer"), "{text}");

    cluster.kubectl(&["create", "namespace", PLACE], "");
    cluster.kubectl(&["label", "namespace", PLACE, "pod-security.kubernetes.io/enforce=restricted"], "");
    assert_eq!(install.traces(), Vec::<String>::new());
    let said = install.apply_chart("install", &[]);
    assert!(said.contains("STATUS: deployed") && said.contains("prewarmer doctor"), "{said}");
    let (code, text) = install.doctor(&["--wait=1m", "--namespaces=default"]);
    assert!(code == Some(0) && text.ends_with("all is well\n"), "{text}");
    let said = install.cluster.helm(&["test", "prewarmer", "-n", PLACE]);
    assert!(said.contains("Succeeded"), "{said}");

    let shop = cluster.namespace("shop");
    shop.kubectl(&["label", "namespace", &shop.name, "pod-security.kubernetes.io/enforce=restricted"], "");
    a_rollout_finds_its_images(&install, &shop, registry).await;
    every_kind_is_seen(&shop).await;
    rest_through_the_service(&install, &shop).await;
    workers_without_jobs(&shop).await;
    a_second_one_is_refused(&install);
    an_upgrade_while_a_task_runs(&install, &shop).await;
    the_leaders_node_dies(&install, &shop).await;
    nothing_is_granted_in_vain(&install);
    a_stolen_token_pulls_images_and_nothing_else(&install, &shop);
    the_definitions_stay_when_they_are_switched_off(&install);
    an_uninstall_leaves_what_is_the_users(&install, &shop).await;
    a_purge_leaves_nothing(&install, &shop).await;
}

/// A Deployment that Pod Security restricted takes.
fn restricted(name: &str, image: &str) -> Value {
    let mut web = deployment(name, 0, &[image]);
    let pod = &mut web["spec"]["template"]["spec"];
    pod["nodeSelector"] = json!({"kubernetes.io/os": "linux"});
    pod["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "type", "operator": "NotIn", "values": ["fake"]}]}]}},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": name}}, "topologyKey": "kubernetes.io/hostname"}]}});
    pod["terminationGracePeriodSeconds"] = json!(1);
    pod["securityContext"] =
        json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}});
    pod["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    web
}

async fn a_rollout_finds_its_images(install: &Install, shop: &Namespace, registry: &str) {
    let image = format!("{registry}/shop/web:{}", shop.name);
    install.cluster.push(&image, &Path::new(install.cluster.var("BIN")).join("pause"), true);
    shop.apply(&restricted("web", &image));
    let task = shop.eventually("a task", LONG, || async { shop.get("prewarmtasks").pop() }).await;
    let status = shop.ended(task["metadata"]["name"].as_str().unwrap(), LONG).await;
    assert_eq!((&status["phase"], &status["succeededNodes"]), (&json!("Completed"), &json!(2)), "{status:#}");
    shop.kubectl(&["scale", "deployment/web", "--replicas=2"], "");
    shop.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"], "");
    let events = shop.events("web-");
    assert_eq!(events.iter().filter(|event| event.contains("already present")).count(), 2, "{events:#?}");
    assert!(!events.iter().any(|event| event.contains("Pulling")), "{events:#?}");
    // The leader has counted them, and what they were spared.
    let (leader, _) = install.leader();
    let path = format!("/api/v1/namespaces/{PLACE}/pods/{leader}:9090/proxy/metrics");
    let counted = || async {
        let metrics = install.cluster.kubectl(&["get", "--raw", &path], "");
        let value = |name: &str| {
            metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or_default()
        };
        let warm = value("prewarm_pod_starts_total{image=\"warm\"}");
        (warm >= 2.0 && value("prewarm_lead_time_seconds_count") >= 2.0 && value("prewarm_seconds_saved_total") > 0.0)
            .then_some(())
    };
    shop.eventually("two warm starts in the metrics", LONG, counted).await;
}

/// Beside Deployments, so that each right to read them is used.
async fn every_kind_is_seen(shop: &Namespace) {
    let pod = |image: &str| {
        let mut pod = restricted("x", image)["spec"]["template"]["spec"].clone();
        pod["nodeSelector"] = json!({"type": "fake"});
        pod.as_object_mut().unwrap().remove("affinity");
        pod
    };
    let template = |image: &str| json!({"metadata": {"labels": {"app": image}}, "spec": pod(image)});
    let selected = |image: &str| json!({"matchLabels": {"app": image}});
    let once = |image: &str| {
        let mut template = template(image);
        template["spec"]["restartPolicy"] = json!("Never");
        template
    };
    let object = |version: &str, kind: &str, spec: Value| json!({"apiVersion": version, "kind": kind, "metadata": {"name": kind.to_lowercase()}, "spec": spec});
    let objects = [
        object(
            "apps/v1",
            "StatefulSet",
            json!({"replicas": 0, "serviceName": "s", "selector": selected("sts"), "template": template("sts")}),
        ),
        object("apps/v1", "DaemonSet", json!({"selector": selected("ds"), "template": template("ds")})),
        object("apps/v1", "ReplicaSet", json!({"replicas": 0, "selector": selected("rs"), "template": template("rs")})),
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
        object("v1", "Pod", pod("bare")),
    ];
    shop.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}));
    let all = || async {
        let tasks = shop.get("prewarmtasks");
        let images: BTreeSet<String> = tasks
            .iter()
            .flat_map(|task| task["spec"]["images"].as_array().unwrap().iter())
            .map(|image| image.as_str().unwrap().to_owned())
            .collect();
        ["sts", "ds", "rs", "rc", "job", "cron", "bare"].iter().all(|image| images.contains(*image)).then_some(())
    };
    shop.eventually("a task for each kind", LONG, all).await;
}

async fn rest_through_the_service(install: &Install, shop: &Namespace) {
    let forwarded = Forwarded::new(install.cluster);
    let ca = install.kubectl(&["get", "secret", "prewarmer-ca", "-o", "jsonpath={.data.ca\\.crt}"]);
    let caller = Caller::trusting(&forwarded.1, &ca, &token(shop, "editor", &["*"]));
    let body = json!({"images": ["rest:1"], "nodeSelector": {"type": "fake"}, "nodes": 3, "namespace": shop.name});
    let twice = |caller: Caller| {
        let body = body.clone();
        async move { caller.send(caller.request("POST", "/tasks").header("idempotency-key", "once").json(&body)).await }
    };
    let (made, again) = (twice(caller.clone()).await, twice(caller.clone()).await);
    assert_eq!((made.code, again.code, &made.body["taskId"]), (201, 201, &again.body["taskId"]), "{made:?} {again:?}");
    let id = made.body["taskId"].as_str().unwrap();
    shop.ended(id, LONG).await;
    let got = caller.get(&format!("/tasks/{id}")).await;
    assert_eq!((got.code, &got.body["status"]), (200, &json!("completed")), "{got:?}");
    // A task that is cancelled, and a schedule's life.
    let slow = json!({"images": ["slow:1"], "nodeSelector": {"type": "fake"}, "batchSize": 1, "namespace": shop.name});
    let slow = caller.task(&slow).await;
    let workers = || async {
        let jobs = shop.get("jobs");
        jobs.iter().any(|job| job["metadata"]["labels"]["prewarm.io/task"] == json!(slow)).then_some(())
    };
    shop.eventually("a worker of the slow task", LONG, workers).await;
    assert_eq!(caller.delete(&format!("/tasks/{slow}")).await.code, 200);
    let schedule = json!({"cronExpr": "@yearly", "namespace": shop.name, "historyLimit": 1, "taskConfig":
        {"images": ["scheduled:1"], "nodeSelector": {"type": "fake"}, "nodes": 1}});
    let schedule = caller.post("/scheduled-tasks", &schedule).await;
    assert_eq!(schedule.code, 201, "{schedule:?}");
    let path = format!("/scheduled-tasks/{}", schedule.body["id"].as_str().unwrap());
    for run in ["1", "2"] {
        assert_eq!(caller.post(&format!("{path}/trigger"), &json!({})).await.code, 202);
        let runs = format!("{path}/executions/{run}");
        let ended = || async { (caller.get(&runs).await.body["status"] == "success").then_some(()) };
        shop.eventually("the run succeeds", LONG, ended).await;
    }
    assert_eq!(caller.put(&format!("{path}/disable"), &json!({})).await.code, 200);
    let mut changed = schedule.body.clone();
    changed["description"] = json!("changed");
    for field in ["id", "namespace", "createdAt", "updatedAt", "createdBy", "lastExecutionAt", "nextExecutionAt"] {
        changed.as_object_mut().unwrap().remove(field);
    }
    let put = caller.put(&path, &changed).await;
    assert!(put.code == 200 || put.code == 400, "{put:?}");
    assert_eq!(caller.delete(&path).await.code, 200);
    a_run_that_waits(&caller, shop).await;
    assert_eq!(caller.get("/nodes").await.code, 403, "this caller may not read nodes");
    let seer = caller.with(&token_for_nodes(install.cluster, shop, "nodes", &["get", "list"]));
    assert_eq!(seer.get("/nodes").await.code, 200);
    forget_nodes(install.cluster, shop);
    // The page of a task names its nodes, which stand in its plan.
    let page = format!("{}/ui/tasks/{}/{id}/nodes", forwarded.1, shop.name);
    let cookie = format!("__Host-prewarmer={}", caller.secret());
    let grid = caller.send(caller.get_page(&page).header("cookie", cookie)).await;
    assert_eq!(grid.code, 200, "{grid:?}");
    assert!(grid.body.to_string().contains("node-"), "{grid:?}");
}

/// A run that takes too long is cancelled by the controller, and the run that waited for its end is created by it.
async fn a_run_that_waits(caller: &Caller, shop: &Namespace) {
    let body = json!({"cronExpr": "@yearly", "namespace": shop.name, "overlapPolicy": "queue", "timeoutSeconds": 3,
        "taskConfig": {"images": ["slow:6"], "nodeSelector": {"type": "fake"}, "batchSize": 1}});
    let made = caller.post("/scheduled-tasks", &body).await;
    assert_eq!(made.code, 201, "{made:?}");
    let path = format!("/scheduled-tasks/{}", made.body["id"].as_str().unwrap());
    for waits in [false, true] {
        let answer = caller.post(&format!("{path}/trigger"), &json!({})).await;
        assert_eq!((answer.code, answer.body["taskId"].is_null()), (202, waits), "{answer:?}");
    }
    for run in ["1", "2"] {
        let run = format!("{path}/executions/{run}");
        let ended = || async { (caller.get(&run).await.body["status"] == "timeout").then_some(()) };
        shop.eventually("the run times out", LONG, ended).await;
    }
    assert_eq!(caller.delete(&path).await.code, 200);
}

/// Workers that are bare pods: one task that ends, and one that is cancelled.
async fn workers_without_jobs(shop: &Namespace) {
    let spec = |image: &str| json!({"images": [image], "worker": "Pod", "nodeSelector": {"type": "fake"}, "successThreshold": "50%"});
    // On each tenth node it fails, and is ended there by itself.
    shop.apply_task("bare", &spec("picky:2"));
    let status = shop.ended("bare", LONG).await;
    assert_eq!((&status["phase"], &status["failedNodes"][0]["reason"]), (&json!("Completed"), &json!("ImageNotFound")));
    shop.apply_task("broken-off", &spec("slow:4"));
    let workers = || async {
        let pods = shop.get("pods");
        pods.iter().any(|pod| pod["metadata"]["labels"]["prewarm.io/task"] == "broken-off").then_some(())
    };
    shop.eventually("a worker", LONG, workers).await;
    shop.kubectl(&["patch", "prewarmtask", "broken-off", "--type=merge", "-p", "{\"spec\":{\"cancel\":true}}"], "");
    assert_eq!(shop.ended("broken-off", LONG).await["phase"], "Cancelled");
}

/// This one looks at all namespaces: there is none left for another.
fn a_second_one_is_refused(install: &Install) {
    let words = ["install", "second", CHART, "-n", "default", "--set", "crds.install=false", "--dry-run=server"];
    let (done, said) = install.cluster.try_helm(&words);
    assert!(!done && said.contains("another installation looks at all namespaces already"), "{said}");
    let (done, said) = install.cluster.try_helm(&[&words[..], &["--set", "settings.allowOverlap=true"]].concat());
    assert!(done, "{said}");
}

async fn an_upgrade_while_a_task_runs(install: &Install, shop: &Namespace) {
    let nodes = fake_nodes(install);
    shop.apply_task("upgraded", &json!({"images": ["slow:2"], "nodeSelector": {"type": "fake"}, "batchSize": 5}));
    progressed(shop, "upgraded").await;
    let before = install.kubectl(&["get", "pods", "-l", "app.kubernetes.io/part-of=prewarmer", "-o", "name"]);
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
    let status = shop.ended("upgraded", LONG).await;
    assert_eq!((&status["phase"], &status["succeededNodes"]), (&json!("Completed"), &json!(nodes)), "{status:#}");
    let (code, text) = install.doctor(&["--wait=1m"]);
    assert_eq!(code, Some(0), "{text}");
}

fn fake_nodes(install: &Install) -> usize {
    install.cluster.var("FAKE_NODES").parse().unwrap()
}

/// Waits until some nodes of a task have ended, and not all.
async fn progressed(shop: &Namespace, task: &str) {
    let some = || async {
        let task: Value = serde_json::from_str(&shop.kubectl(&["get", "prewarmtask", task, "-o", "json"], "")).unwrap();
        let done = task["status"]["succeededNodes"].as_u64().unwrap_or_default();
        assert_ne!(task["status"]["phase"], "Completed", "it was too quick to see it run");
        (done > 0).then_some(())
    };
    shop.eventually("some nodes of the task", LONG, some).await;
}

async fn the_leaders_node_dies(install: &Install, shop: &Namespace) {
    shop.apply_task("orphaned", &json!({"images": ["slow:3"], "nodeSelector": {"type": "fake"}, "batchSize": 5}));
    progressed(shop, "orphaned").await;
    let (leader, node) = install.leader();
    let refused = install.audited().1;
    assert_eq!(refused, Vec::<String>::new(), "nothing that the server needs is refused");
    install.cluster.kill_node(&node);
    let died = Instant::now();
    let other = || async { (install.leader().0 != leader && !install.leader().0.is_empty()).then_some(()) };
    shop.eventually("another leader", Duration::from_secs(30), other).await;
    println!("MEASURED the leader's node was killed: another led after {:.1} s", died.elapsed().as_secs_f64());
    let status = shop.ended("orphaned", LONG).await;
    assert_eq!(
        (&status["phase"], &status["succeededNodes"]),
        (&json!("Completed"), &json!(fake_nodes(install))),
        "{status:#}"
    );
    // What the cloud's controller does with a machine that is no more.
    install.cluster.kubectl(&["delete", "node", &node], "");
    install.kubectl(&["delete", "pod", &leader, "--force", "--grace-period=0"]);
}

/// The API server's audit log against the chart's roles.
fn nothing_is_granted_in_vain(install: &Install) {
    let (used, refused) = install.audited();
    assert_eq!(refused, Vec::<String>::new());
    let unused: Vec<Right> = install.granted().difference(&used).cloned().collect();
    // What this test has no occasion for: each is reached by another one.
    let elsewhere = [
        // Keys are forgotten after a day, and earlier those of a caller who has too many.
        (CONTROLLER, "delete", "coordination.k8s.io", "leases"),
        (FRONT, "delete", "coordination.k8s.io", "leases"),
        // Of two that make the same task, the second looks at the first's.
        (CONTROLLER, "get", "prewarm.io", "prewarmtasks"),
    ];
    let known = |right: &&Right| {
        let right = (right.0.as_str(), right.1.as_str(), right.2.as_str(), right.3.as_str());
        !elsewhere.contains(&right)
    };
    let unused: Vec<&Right> = unused.iter().filter(known).collect();
    assert!(unused.is_empty(), "granted, and never used: {unused:#?}");
}

/// With the server's own token: what a thief would try.
fn a_stolen_token_pulls_images_and_nothing_else(install: &Install, shop: &Namespace) {
    // No Pod Security here that would refuse first.
    let lax = install.cluster.namespace("lax");
    let thief = Thief::new(install, CONTROLLER);
    let front = Thief::new(install, FRONT);
    let try_it = |words: &[&str], input: &str| thief.try_it(words, input);

    let sample = |kind: &str| {
        let spec = json!({"images": [format!("slow-{}:9", kind.to_lowercase())], "worker": kind, "nodes": 1, "nodeSelector": {"type": "fake"}, "pullMethod": if kind == "Pod" { "Helper" } else { "ImageVolume" }});
        let name = format!("sample-{}", kind.to_lowercase());
        lax.apply_task(&name, &spec);
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < LONG, "no worker of {name}");
            let of = |object: &&Value| object["metadata"]["labels"]["prewarm.io/task"] == json!(name);
            let found = lax.get(&format!("{}s", kind.to_lowercase())).iter().find(of).cloned();
            if let Some(mut found) = found {
                for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
                    found["metadata"].as_object_mut().unwrap().remove(field);
                }
                found.as_object_mut().unwrap().remove("status");
                if kind == "Job" {
                    found["spec"].as_object_mut().unwrap().remove("selector");
                    let labels = found["spec"]["template"]["metadata"]["labels"].as_object_mut().unwrap();
                    labels.retain(|key, _| !key.contains("controller-uid") && !key.contains("job-name"));
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
    let create =
        |object: &Value| try_it(&["-n", &lax.name, "create", "--dry-run=server", "-f", "-"], &object.to_string());
    for kind in ["Pod", "Job"] {
        let good = sample(kind);
        let (taken, said) = create(&good);
        assert!(taken, "a worker as the server makes it is taken: {said}");
        let (taken, said) =
            front.try_it(&["-n", &lax.name, "create", "--dry-run=server", "-f", "-"], &good.to_string());
        assert!(!taken && said.contains("orbidden"), "what is called makes no workers: {said}");
        // No such runtime class in this cluster: a pod with it is refused before any policy is asked.
        let all = misuses(kind, kind == "Pod").into_iter();
        let all: Vec<_> = all.filter(|(path, _)| kind == "Job" || !path.ends_with("/runtimeClassName")).collect();
        let (_, others) = try_misuses(&good, &all, |objects| create(objects).1);
        assert_eq!(others, Vec::<String>::new(), "{kind}");
    }
    // What is not a worker is neither deleted nor changed; secrets are not read, and nothing else is made.
    let pod =
        shop.get("pods").iter().find(|pod| pod["metadata"]["name"].as_str().unwrap().starts_with("web-")).cloned();
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
        &["-n", PLACE, "get", "secret", "prewarmer-api-tokens"],
        &["-n", PLACE, "delete", "lease", "prewarmer"],
    ];
    thief.is_refused(&attempts);
    what_is_called_can_do_less(install, shop, &front);
    assert!(shop.get("pods").iter().any(|one| one["metadata"]["name"] == json!(pod)), "it is still there");
}

/// The account of what others can call, where the other one may.
fn what_is_called_can_do_less(install: &Install, shop: &Namespace, front: &Thief<'_>) {
    let task = shop.get("prewarmtasks").first().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    let (shop, config) = (shop.name.as_str(), "validatingwebhookconfiguration");
    front.is_refused(&[
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
        &["-n", PLACE, "patch", "secret", "prewarmer-ca", "--type=merge", "-p", "{\"data\":null}"],
        &["-n", PLACE, "delete", "lease", "prewarmer"],
        &["-n", PLACE, "patch", "lease", "prewarmer", "--type=merge", "-p", "{\"spec\":{\"holderIdentity\":\"x\"}}"],
        &["-n", PLACE, "create", "-f", &install.lease("another")],
        &["-n", PLACE, "replace", "-f", &install.lease("prewarmer")],
    ]);
}

/// Somebody who has the token of an account, and nothing else.
struct Thief<'a> {
    install: &'a Install,
    file: std::path::PathBuf,
}

impl<'a> Thief<'a> {
    fn new(install: &'a Install, account: &str) -> Self {
        let stolen = install.kubectl(&["create", "token", account]);
        // The token alone, without the administrator's.
        let file = Path::new(install.cluster.var("CLUSTER_DIR")).join(format!("stolen-{account}"));
        let config = install.cluster.kubectl(&["config", "view", "--raw", "-o", "json"], "");
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["users"][0]["user"] = json!({"token": stolen.trim()});
        std::fs::write(&file, config.to_string()).unwrap();
        Self { install, file }
    }

    fn try_it(&self, words: &[&str], input: &str) -> (bool, String) {
        let kubeconfig = format!("--kubeconfig={}", self.file.display());
        self.install.cluster.try_kubectl(&[&[kubeconfig.as_str()], words].concat(), input)
    }

    fn is_refused(&self, attempts: &[&[&str]]) {
        for words in attempts {
            let (done, said) = self.try_it(words, "");
            let refused = said.to_lowercase().contains("forbidden") || said.contains("ValidatingAdmissionPolicy");
            assert!(!done && refused, "{words:?}: {said}");
        }
    }
}

impl Drop for Thief<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// `crds.install: false` is for a second installation: on the release that brought the definitions it is refused, and where that
/// check is not reached (`helm template | kubectl apply`), Helm leaves them all the same.
fn the_definitions_stay_when_they_are_switched_off(install: &Install) {
    let words = ["upgrade", "prewarmer", CHART, "-n", PLACE, "-f", &install.values, "--set", "crds.install=false"];
    let (done, said) = install.cluster.try_helm(&words);
    assert!(!done && said.contains("crds.install=false: the release prewarmer"), "{said}");
    let kept = install.kubectl(&["get", "crd", "prewarmtasks.prewarm.io", "-o", "jsonpath={.metadata.annotations}"]);
    assert!(kept.contains("\"helm.sh/resource-policy\":\"keep\""), "{kept}");
}

/// The definitions, the objects that users made, and the workers that these own.
async fn an_uninstall_leaves_what_is_the_users(install: &Install, shop: &Namespace) {
    let schedule = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmSchedule", "metadata": {"name": "kept"},
        "spec": {"schedule": "@yearly", "taskTemplate": {"spec": {"images": ["a:1"]}}}});
    shop.apply(&schedule);
    shop.apply_task("kept", &json!({"images": ["kept:1"], "nodes": 1, "nodeSelector": {"type": "fake"}}));
    shop.ended("kept", LONG).await;
    install.cluster.helm(&["uninstall", "prewarmer", "-n", PLACE, "--wait", "--timeout", "2m"]);
    let only_theirs = || async {
        // The API service of the group exists as long as its definitions do.
        let theirs = [
            "customresourcedefinition.",
            "apiservice.",
            "prewarmtask.",
            "prewarmplan.",
            "prewarmschedule.",
            "job.",
            "pod/",
        ];
        let left = install.traces();
        let ours: Vec<&String> = left.iter().filter(|name| !theirs.iter().any(|kind| name.starts_with(kind))).collect();
        if !ours.is_empty() {
            println!("still there: {ours:?}");
        }
        ours.is_empty().then_some(left)
    };
    let left = shop.eventually("no trace but the users'", LONG, only_theirs).await;
    let definitions = left.iter().filter(|name| name.starts_with("customresourcedefinition.")).count();
    assert_eq!(definitions, 3, "{left:?}");
    assert_eq!(shop.kubectl(&["get", "prewarmtask/kept", "prewarmschedule/kept", "-o", "name"], "").lines().count(), 2);
    let none = || async { install.kubectl(&["get", "pods", "-o", "name"]).is_empty().then_some(()) };
    shop.eventually("no pod in the installation's namespace", LONG, none).await;
    shop.apply(&deployment("after", 0, &["after:1"]));
}

/// As docs/install.md has it.
async fn a_purge_leaves_nothing(install: &Install, shop: &Namespace) {
    install.cluster.kubectl(
        &["delete", "crd", "prewarmtasks.prewarm.io", "prewarmplans.prewarm.io", "prewarmschedules.prewarm.io"],
        "",
    );
    install.cluster.kubectl(&["delete", "jobs,pods", "-A", "-l", "app.kubernetes.io/managed-by=prewarmer"], "");
    let gone = || async {
        let left = install.traces();
        if !left.is_empty() {
            println!("still there: {left:?}");
        }
        left.is_empty().then_some(())
    };
    shop.eventually("no trace", LONG, gone).await;
}
