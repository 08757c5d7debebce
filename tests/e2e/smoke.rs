//! Basic scenarios on a real control plane: admission, tasks, Jobs, status, permissions, and cases
//! that must not create work.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::{CHART, Cluster},
    fixtures::{HELPER, INSTALLED_HELPER, task, wide_deployment},
    job_recorder::JobRecorder,
    namespace::Namespace,
    rest::RestClient,
    server::{Server, free_address},
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Timeout for a hundred fake nodes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum time that an admission takes besides the time for which it waits for the webhook.
const MAX_ADMISSION: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_nodes_in_batches_of_ten() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("batches");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let watched = JobRecorder::new(cluster, &namespace).await;
    let images: Vec<String> = (0..5).map(|n| format!("shop/app{n}:1")).collect();
    namespace.apply(&task(
        "t",
        &json!({"images": images, "nodes": 100, "batchSize": 10, "nodeSelector": {"type": "fake"}}),
    ));
    let status = namespace.wait_until_ended("t", TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.total_nodes, 100);
    assert_eq!(status.succeeded_nodes, 100);
    assert_eq!(status.failed_node_count, 0);
    assert_eq!(status.total_batches, 10);
    assert_eq!(status.current_batch_index, 9);
    assert_eq!(status.progress.as_deref(), Some("100/100 Nodes"));
    assert_eq!(status.images.len(), images.len());
    for image in &status.images {
        assert_eq!(image.succeeded, 100, "{image:?}");
        assert_eq!(image.failed, 0, "{image:?}");
    }
    assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
    assert!(
        watched.max_active() <= 10,
        "{} Jobs were active at the same time",
        watched.max_active()
    );
    let per_node = watched.jobs_per_node();
    assert_eq!(per_node.len(), 100);
    assert_eq!(per_node.values().max(), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_tasks_use_one_worker_per_node() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("shared-nodes");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let watched = JobRecorder::new(cluster, &namespace).await;
    let both = ["one", "two"].map(|name| {
        let spec =
            json!({"images": [format!("{name}:1")], "nodes": 15, "batchSize": 15, "nodeSelector": {"type": "fake"}});
        task(name, &spec)
    });
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": both}));
    for name in ["one", "two"] {
        let status = namespace.wait_until_ended(name, TIMEOUT).await;
        assert_eq!(status.phase, Phase::Completed, "{status:#?}");
        assert_eq!(status.succeeded_nodes, 15, "{status:#?}");
    }
    assert_eq!(watched.max_active_per_node(), 1);
    assert_eq!(watched.jobs_per_node().values().sum::<usize>(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_missing_image_of_five() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("bad-image");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let images = ["a:1", "b:1", "missing:1", "c:1", "d:1"];
    for method in ["ImageVolume", "Helper"] {
        let spec = |threshold: &str| {
            json!({"images": images, "nodes": 8, "nodeSelector": {"type": "fake"}, "pullMethod": method,
                   "successThreshold": threshold})
        };
        let (strict, lenient) = (
            format!("strict-{}", method.to_lowercase()),
            format!("lenient-{}", method.to_lowercase()),
        );
        namespace.apply(&task(&strict, &spec("90%")));
        let status = namespace.wait_until_ended(&strict, TIMEOUT).await;
        assert_eq!(status.phase, Phase::Failed, "{status:#?}");
        assert_eq!(status.failed_node_count, 8, "{status:#?}");
        for failure in &status.failed_nodes {
            assert_eq!(failure.image, "missing:1", "{failure:?}");
            assert_eq!(failure.reason, "ImageNotFound", "{failure:?}");
            assert!(failure.message.contains("not found"), "{failure:?}");
        }
        let counts: Vec<_> = status.images.iter().map(|image| image.succeeded).collect();
        assert_eq!(counts, [8, 8, 0, 8, 8]);
        namespace.apply(&task(&lenient, &spec("0%")));
        assert_eq!(namespace.wait_until_ended(&lenient, TIMEOUT).await.phase, Phase::Completed);
    }
    assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_creates_one_task_per_image() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("admission");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let mut opted_out = wide_deployment("out", 0, &["shop/out:1"]);
    opted_out["metadata"]["annotations"] = json!({"prewarm.io/enabled": "false"});
    namespace.apply(&opted_out);
    namespace.kubectl(
        &["apply", "--dry-run=server", "-f", "-"],
        &wide_deployment("dry", 0, &["shop/dry:1"]).to_string(),
    );
    let warned = namespace.apply(&wide_deployment("odd", 0, &["UPPER/case:x"]));
    assert!(
        warned.contains("Warning: prewarmer: image \"UPPER/case:x\" is not warmed"),
        "{warned}"
    );
    for _ in 0..50 {
        namespace.kubectl(
            &["replace", "--force", "-f", "-"],
            &wide_deployment("web", 0, &["shop/web:1"]).to_string(),
        );
    }
    let first = || async { namespace.tasks().into_iter().next() };
    let task = namespace.eventually("a task for web", TIMEOUT, first).await;
    assert_eq!(task.labels()["prewarm.io/origin"], "admission");
    namespace.wait_until_ended(&task.name_any(), TIMEOUT).await;
    namespace.kubectl(&["scale", "deployment/web", "--replicas=2"], "");
    namespace.kubectl(&["annotate", "deployment/web", "note=x"], "");
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"], "");
    namespace.apply(&wide_deployment("second", 0, &["docker.io/shop/web:1"]));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tasks = namespace.tasks();
    assert_eq!(tasks.len(), 1, "{tasks:#?}");
    assert_eq!(tasks[0].spec.images, ["shop/web:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_task_fields_are_rejected() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("nonsense");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let long = "a".repeat(600);
    let refused = [
        (json!({"images": ["a//b", "nginx", "docker.io/library/nginx:latest"]}), "spec.images[2]"),
        (json!({"images": [":tag"]}), "spec.images[0]"),
        (json!({"images": [long]}), "images[0]"),
        (json!({"images": []}), "spec.images"),
        (json!({"images": ["a"], "batchSize": 0}), "batchSize must be"),
        (json!({"images": ["a"], "batchSize": "101%"}), "batchSize must be"),
        (json!({"images": ["a"], "timeout": "soon"}), "timeout must be"),
        (json!({"images": ["a"], "successThreshold": "101%"}), "successThreshold must be"),
        (json!({"images": ["a"], "priority": 11}), "spec.priority"),
    ];
    for (spec, expected) in refused {
        let manifest = task("t", &spec).to_string();
        let (ok, text) =
            cluster.try_kubectl(&["-n", &namespace.name, "create", "-f", "-"], &manifest);
        assert!(!ok && text.contains(expected), "{spec}: {text}");
    }
    namespace.apply(&task("t", &json!({"images": ["a"], "suspend": true})));
    let (ok, text) = cluster.try_kubectl(
        &["-n", &namespace.name, "apply", "-f", "-"],
        &task("t", &json!({"images": ["b"]})).to_string(),
    );
    assert!(!ok && text.contains("images cannot be changed"), "{text}");
    namespace.kubectl(
        &["patch", "prewarmtask/t", "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#],
        "",
    );
    assert_eq!(namespace.wait_until_ended("t", TIMEOUT).await.phase, Phase::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_task_deletes_workers() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("cancel");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    namespace.apply(&task(
        "t",
        &json!({"images": ["a:1"], "batchSize": 5, "nodeSelector": {"type": "fake"}}),
    ));
    namespace.eventually("a first Job", TIMEOUT, || async { namespace.get("jobs").pop() }).await;
    namespace.kubectl(
        &["patch", "prewarmtask/t", "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#],
        "",
    );
    assert_eq!(namespace.wait_until_ended("t", TIMEOUT).await.phase, Phase::Cancelled);
    assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
    namespace.apply(&task("nowhere", &json!({"images": ["a:1"], "nodeSelector": {"no": "such"}})));
    let status = namespace.wait_until_ended("nowhere", TIMEOUT).await;
    assert_eq!(status.phase, Phase::Failed);
    assert_eq!(status.conditions[0].reason, "NoEligibleNodes");
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_webhook_does_not_block_admission() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("down");
    let mut server = Server::start(cluster, &namespace, HELPER).await;
    server.kill();
    let refused = time_of_creation(&namespace, "refused").await;
    assert!(refused < MAX_ADMISSION, "admission took {refused:?}");
    server.restart().await;
    server.terminate();
    let name = format!("prewarmer-{}", namespace.name);
    let (found, _) = cluster.try_kubectl(&["get", "validatingwebhookconfiguration", &name], "");
    assert!(!found, "the webhook configuration was not deleted");
}

/// Creates a Deployment by one request; returns how long it took.
async fn time_of_creation(namespace: &Namespace, name: &str) -> Duration {
    let api = Api::<Deployment>::namespaced(namespace.cluster.client().await, &namespace.name);
    // The client connects before the measurement.
    api.list(&ListParams::default()).await.unwrap();
    let object = serde_json::from_value(wide_deployment(name, 0, &["shop/web:1"])).unwrap();
    let begun = Instant::now();
    api.create(&PostParams::default(), &object).await.unwrap();
    begun.elapsed()
}

/// A webhook that accepts connections and never answers delays an admission by its timeout. It is
/// the server that does not answer: its process is suspended.
#[tokio::test(flavor = "multi_thread")]
async fn hung_webhook_delays_admission_by_its_timeout() {
    let cluster = Cluster::shared();
    for seconds in [1, 3] {
        let namespace = cluster.namespace("hung");
        let image = format!("--worker-image={HELPER}");
        let timeout = format!("--webhook-timeout-seconds={seconds}");
        let server = Server::with_args(cluster, &namespace, &namespace, &[&image, &timeout]).await;
        let answered = time_of_creation(&namespace, "answered").await;
        assert!(answered < Duration::from_secs(seconds), "admission took {answered:?}");
        server.freeze();
        let hung = time_of_creation(&namespace, "hung").await;
        server.thaw();
        let limits = Duration::from_secs(seconds)..Duration::from_secs(seconds) + MAX_ADMISSION;
        assert!(limits.contains(&hung), "admission took {hung:?}, expected {limits:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_task_nodes_and_images() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("metrics");
    let server = Server::start(cluster, &namespace, HELPER).await;
    namespace.apply(&task(
        "t",
        &json!({"images": ["a:1", "b:1"], "nodes": 5, "nodeSelector": {"type": "fake"}}),
    ));
    namespace.wait_until_ended("t", TIMEOUT).await;
    // A task is counted when its last write is acknowledged, shortly after the write can be read.
    for line in [
        "prewarm_tasks_total{status=\"completed\"} 1",
        "prewarm_nodes_processed_total{result=\"succeeded\"} 5",
        "prewarm_images_total{result=\"succeeded\"} 10",
        "\nprewarm_leader 1\n",
    ] {
        let told = || async { server.get("/metrics").contains(line).then_some(()) };
        namespace.eventually(&format!("the metric {line}"), Duration::from_secs(5), told).await;
    }
    // The informer of every replica watches tasks; the leader's controller has no watch of its own.
    let text = server.get("/metrics");
    let watched_by = |component: &str| {
        text.lines().any(|line| {
            line.starts_with("prewarm_kube_requests_total")
                && [component, "\"prewarmtasks\"", "\"watch\""]
                    .iter()
                    .all(|part| line.contains(part))
        })
    };
    assert!(watched_by("\"informers\""), "{text}");
    assert!(!watched_by("\"controller\""), "{text}");
}

/// If two installations watch the same namespace, the older one continues and the newer one exits
/// with an error.
#[tokio::test(flavor = "multi_thread")]
async fn overlapping_installation_does_not_start() {
    let cluster = Cluster::shared();
    let (first, second) = (cluster.namespace("first"), cluster.namespace("second"));
    let server = Server::start(cluster, &first, HELPER).await;
    let [webhook, health, api] = [(); 3].map(|()| free_address());
    let words = [
        format!("--instance={}", second.name),
        format!("--namespace={}", second.name),
        format!("--watch-namespace={}", first.name),
        format!("--webhook-addr={webhook}"),
        format!("--webhook-url=https://{webhook}"),
        format!("--health-addr={health}"),
        format!("--api-addr={api}"),
        "--api-tls=false".to_owned(),
    ];
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_prewarmer"))
        .arg("serve")
        .args(words)
        .env("KUBECONFIG", cluster.var("KUBECONFIG"))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(TIMEOUT, output)
        .await
        .expect("the second installation did not exit")
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let other = format!("(ValidatingWebhookConfiguration prewarmer-{})", first.name);
    for word in [&format!("watches namespace {}", first.name), &other, "--allow-overlap=true"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(server.is_leader(), "the first installation is no longer the leader");
}

/// Verifies that the permissions of the installed service accounts are sufficient and that no
/// request is denied.
#[tokio::test(flavor = "multi_thread")]
async fn installed_permissions_suffice() {
    let cluster = Cluster::shared();
    let (install, namespace) = (cluster.namespace("install"), cluster.namespace("installed"));
    let manifests = std::process::Command::new(env!("CARGO_BIN_EXE_prewarmer"))
        .args(["manifests", "--namespace", &install.name, "--worker-image", INSTALLED_HELPER])
        .output();
    let manifests = String::from_utf8(manifests.unwrap().stdout).unwrap();
    let manifests = restrict_policies(&manifests, &[&install, &namespace]);
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &manifests);
    // The pods of the installation run on fake nodes, so the servers under test run here with the
    // same accounts.
    install.kubectl(
        &["scale", "deployment/prewarmer", "deployment/prewarmer-controller", "--replicas=0"],
        "",
    );
    let servers = Server::installed(cluster, &install, &namespace).await;
    assert_installation_works(servers, &install, &namespace, None).await;
}

/// Restricts the policies in the manifests to these namespaces, because other servers share this
/// cluster.
fn restrict_policies(manifests: &str, to: &[&Namespace]) -> String {
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(manifests).unwrap();
    objects.retain(Value::is_object);
    let names: Vec<&str> = to.iter().map(|namespace| namespace.name.as_str()).collect();
    let mut bound = 0;
    for object in
        objects.iter_mut().filter(|object| object["kind"] == "ValidatingAdmissionPolicyBinding")
    {
        let policy = object["spec"]["policyName"].as_str().unwrap();
        if policy.contains("-reserved-") || policy.ends_with("-created-by") {
            let only =
                json!({"key": "kubernetes.io/metadata.name", "operator": "In", "values": names});
            object["spec"]["matchResources"] =
                json!({"namespaceSelector": {"matchExpressions": [only]}});
            bound += 1;
        }
    }
    assert!(bound >= 4, "unexpected names of policies");
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// Verifies the same for an installation that is restricted to one namespace.
#[tokio::test(flavor = "multi_thread")]
async fn namespaced_permissions_suffice() {
    let cluster = Cluster::shared();
    let (install, namespace) = (cluster.namespace("narrow"), cluster.namespace("team"));
    let instance = &namespace.name;
    let values = format!(
        "crds.install=false,test.enabled=false,replicas=1,instance={instance},watchNamespace={instance}"
    );
    let helper = "workerImage.repository=registry.example/helper,workerImage.tag=1";
    let place = ["template", "prewarmer", CHART, "--namespace", &install.name];
    let manifests =
        cluster.helm(&[&place[..], &["--set", &values, "--set-string", helper]].concat());
    cluster.kubectl(&["apply", "--server-side", "-f", "-"], &manifests);
    let front = format!("deployment/prewarmer-{instance}");
    install.kubectl(&["scale", &front, &format!("{front}-controller"), "--replicas=0"], "");
    let servers = Server::installed_as(cluster, &install, &namespace, Some(instance)).await;
    assert_installation_works(servers, &install, &namespace, Some(instance)).await;
    let account = format!("--as=system:serviceaccount:{}:prewarmer-{instance}", install.name);
    let may = |account: &str, place: &str, verb: &str, resource: &str| {
        cluster.try_kubectl(&["-n", place, "auth", "can-i", verb, resource, account], "").0
    };
    let controller = format!("{account}-controller");
    for (verb, resource) in
        [("create", "jobs"), ("list", "pods"), ("list", "deployments"), ("list", "prewarmtasks")]
    {
        assert!(!may(&account, "default", verb, resource), "front: {verb} {resource} elsewhere");
        assert!(
            !may(&controller, "default", verb, resource),
            "controller: {verb} {resource} elsewhere"
        );
    }
    for (verb, resource) in
        [("create", "jobs"), ("create", "pods"), ("list", "pods"), ("delete", "jobs")]
    {
        assert!(may(&controller, instance, verb, resource), "controller: {verb} {resource}");
        assert!(!may(&account, instance, verb, resource), "front: {verb} {resource}");
    }
    cluster.kubectl(&["delete", "-f", "-", "--wait=false", "--ignore-not-found"], &manifests);
}

async fn assert_installation_works(
    (mut front, mut controller): (Server, Server),
    install: &Namespace,
    namespace: &Namespace,
    instance: Option<&str>,
) {
    let mut web = wide_deployment("web", 0, &["shop/web:1"]);
    web["spec"]["template"]["metadata"]["annotations"] = json!({"prewarm.io/nodes": "12"});
    namespace.apply(&web);
    let one = || async { namespace.tasks().pop() };
    let task = namespace.eventually("a task for web", TIMEOUT, one).await;
    let status = namespace.wait_until_ended(&task.name_any(), TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.succeeded_nodes, 12, "{status:#?}");
    namespace.apply(&task_with_ttl());
    let gone =
        || async { namespace.tasks().iter().all(|task| task.name_any() != "brief").then_some(()) };
    namespace.eventually("deletion of a task after its TTL", TIMEOUT, gone).await;
    rest_with_installed_permissions(&front, install, namespace, instance).await;
    assert!(controller.is_leader() && !front.is_leader());
    for server in [&mut controller, &mut front] {
        assert_no_request_denied(server);
        server.terminate();
    }
}

/// Asserts that a server has sent requests to the API server and that none was denied. Admission
/// policies deny with 422, the authorizer with 403.
fn assert_no_request_denied(server: &Server) {
    let metrics = server.get("/metrics");
    let of_code = |code: &str| -> Vec<&str> {
        let code = format!("code=\"{code}\"");
        let requests = metrics.lines().filter(|line| line.starts_with("prewarm_kube_requests"));
        requests.filter(|line| line.contains(&code)).collect()
    };
    assert!(!of_code("200").is_empty() && !of_code("201").is_empty(), "{metrics}");
    for code in ["401", "403", "422"] {
        assert_eq!(of_code(code), Vec::<&str>::new(), "{}", server.log());
    }
}

/// Uses authentication, idempotency keys, nodes and schedules, each of which needs a permission of
/// the server.
async fn rest_with_installed_permissions(
    server: &Server,
    install: &Namespace,
    namespace: &Namespace,
    instance: Option<&str>,
) {
    let caller = RestClient::editor(server, namespace);
    let body = json!({"images": ["rest:1"], "nodeSelector": {"type": "fake"}, "nodes": 2});
    let request = caller.request("POST", "/tasks").header("idempotency-key", "once").json(&body);
    let made = caller.send(request).await;
    assert_eq!(made.code, 201, "{made:?}");
    namespace.wait_until_ended(made.body["taskId"].as_str().unwrap(), TIMEOUT).await;
    let schedule = json!({"cronExpr": "@yearly", "taskConfig": body, "historyLimit": 1});
    let schedule = caller.post("/scheduled-tasks", &schedule).await;
    assert_eq!(schedule.code, 201, "{schedule:?}");
    let path = format!("/scheduled-tasks/{}", schedule.body["id"].as_str().unwrap());
    let runs = format!("{path}/executions/1");
    assert_eq!(caller.post(&format!("{path}/trigger"), &json!({})).await.code, 200);
    let ended = || async { (caller.get(&runs).await.body["status"] == "success").then_some(()) };
    namespace.eventually("success of the execution", TIMEOUT, ended).await;
    assert_eq!(caller.put(&format!("{path}/disable"), &json!({})).await.code, 200);
    assert_eq!(caller.delete(&path).await.code, 200);
    let token = Command::new(env!("CARGO_BIN_EXE_prewarmer"))
        .args(["token", "create", "ops", "--namespaces=*", "--namespace", &install.name])
        .args(instance.map(|suffix| format!("--instance={suffix}")))
        .output()
        .unwrap();
    install
        .kubectl(&["apply", "--server-side", "-f", "-"], &String::from_utf8(token.stdout).unwrap());
    let told = String::from_utf8(token.stderr).unwrap();
    let ops = caller.with_token(told.lines().find(|line| line.starts_with("prw_")).unwrap());
    let known = || async { (ops.get("/nodes?limit=1").await.code == 200).then_some(()) };
    namespace.eventually("acceptance of the API token", TIMEOUT, known).await;
}

fn task_with_ttl() -> Value {
    let spec = json!({"images": ["a:1"], "nodes": 1, "nodeSelector": {"type": "fake"}, "ttlSecondsAfterFinished": 0});
    task("brief", &spec)
}
