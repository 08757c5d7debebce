//! REST API as clients use it.

use std::{collections::HashSet, process::Command};

use kube::ResourceExt;
use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT, deployment},
    namespace::Namespace,
    not_run::not_run,
    rest::{RestClient, account_token, account_token_with_nodes, delete_node_permission},
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Polls until the task has ended, as scripts do.
pub(crate) async fn wait_until_ended(
    caller: &RestClient,
    namespace: &Namespace,
    id: &str,
) -> Value {
    namespace
        .eventually("the end of a task over REST", TASK_TIMEOUT, || async {
            let answer = caller.get(&format!("/tasks/{id}")).await;
            assert_eq!(answer.code, 200, "{answer:?}");
            let status = answer.body["status"].as_str().unwrap().to_owned();
            ["completed", "failed", "cancelled"].contains(&status.as_str()).then_some(answer.body)
        })
        .await
}

/// Verifies the calls that the documentation of comparable services shows: create, poll, list,
/// cancel.
#[tokio::test(flavor = "multi_thread")]
async fn create_poll_list_and_cancel() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("rest");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let body = json!({"images": ["nginx:1.27", "redis:7.4"], "batchSize": 40, "nodeSelector": {"type": "fake"}, "priority": 7});
    let made = caller.post("/tasks", &body).await;
    assert_eq!(made.code, 201, "{made:?}");
    let id = made.body["taskId"].as_str().unwrap().to_owned();
    assert!(id.starts_with("task-20") && id.len() == 29, "{id}");
    assert_eq!(made.header("location"), format!("/api/v1/tasks/{id}"));
    assert_eq!(made.body["status"], "pending");
    assert_eq!(made.body["batchSize"], 40, "{made:?}");
    assert_eq!(made.body["images"], body["images"]);
    assert!(made.body["createdAt"].is_string() && made.body["message"].is_string());
    let task = wait_until_ended(&caller, &namespace, &id).await;
    assert_eq!(task["status"], "completed", "{task:#}");
    let progress = &task["progress"];
    assert_eq!(progress["totalNodes"], 120);
    assert_eq!(progress["completedNodes"], 120);
    assert_eq!(progress["currentBatch"], 3);
    assert_eq!(progress["totalBatches"], 3);
    assert_eq!(progress["percentage"].to_string(), "100.0");
    assert!(task["startedAt"].is_string() && task["finishedAt"].is_string());
    assert_eq!(task["failedNodeDetails"], json!([]));
    // kubectl shows the same task and its creator.
    let object = namespace.task(&id);
    assert_eq!(object.spec.priority, 7);
    assert_eq!(object.labels()["prewarm.io/origin"], "rest");
    let asked = &object.annotations()["prewarm.io/created-by"];
    assert_eq!(*asked, format!("user:system:serviceaccount:{}:editor", namespace.name));
    let again = caller.delete(&format!("/tasks/{id}")).await;
    assert_eq!(again.code, 409, "{again:?}");
    assert_eq!(again.body["status"], "completed", "{again:?}");
    let list = caller.get("/tasks?status=completed&limit=20&offset=0").await;
    assert_eq!(list.body["total"], 1, "{list:?}");
    assert_eq!(list.body["limit"], 20, "{list:?}");
    assert_eq!(list.body["offset"], 0, "{list:?}");
    assert_eq!(list.body["tasks"][0], task);
    assert_eq!(
        caller.get("/tasks?status=running&limit=20&offset=0").await.body["tasks"],
        json!([])
    );
    let stats = caller.get("/stats").await.body;
    assert_eq!(stats["tasks"]["completed"], 1, "{stats}");
    assert_eq!(stats["successRate"], 100.0, "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_is_visible_to_kubectl() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("cancel");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let id = caller
        .create_task(&json!({"images": ["a:1"], "batchSize": 1, "nodeSelector": {"type": "fake"}}))
        .await;
    let running = || async {
        (caller.get(&format!("/tasks/{id}")).await.body["status"] == "running").then_some(())
    };
    namespace.eventually("a running task", TASK_TIMEOUT, running).await;
    let cancelled = caller.delete(&format!("/tasks/{id}")).await;
    assert_eq!(cancelled.code, 200, "{cancelled:?}");
    assert_eq!(cancelled.body["status"], "cancelled", "{cancelled:?}");
    assert_eq!(wait_until_ended(&caller, &namespace, &id).await["status"], "cancelled");
    let again = caller.delete(&format!("/tasks/{id}")).await;
    assert_eq!(again.code, 409, "{again:?}");
    assert_eq!(again.body["status"], "cancelled");
    assert_eq!(namespace.status(&id).phase, Phase::Cancelled);
    // In the other direction, REST shows and cancels a task that kubectl created.
    namespace.apply_task("by-hand", &json!({"images": ["b:1"], "suspend": true}));
    let seen = || async { (caller.get("/tasks/by-hand").await.code == 200).then_some(()) };
    namespace.eventually("the task created with kubectl", TASK_TIMEOUT, seen).await;
    assert_eq!(caller.get("/tasks/by-hand").await.body["origin"], "user");
    assert_eq!(caller.delete("/tasks/by-hand").await.code, 200);
    assert_eq!(namespace.wait_until_ended("by-hand", TASK_TIMEOUT).await.phase, Phase::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_is_newest_first_with_stable_pages() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("pages");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    for index in 0..7 {
        namespace.apply_task(&format!("t{index}"), &json!({"images": ["a:1"], "suspend": true}));
    }
    let all = || async { (caller.get("/tasks").await.body["total"] == 7).then_some(()) };
    namespace.eventually("seven tasks", TASK_TIMEOUT, all).await;
    let names = |body: &Value| -> Vec<String> {
        body["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|task| task["taskId"].as_str().unwrap().to_owned())
            .collect()
    };
    let times = |body: &Value| -> Vec<String> {
        body["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|task| task["createdAt"].as_str().unwrap().to_owned())
            .collect()
    };
    let whole = caller.get("/tasks?limit=100").await;
    assert!(times(&whole.body).is_sorted_by(|a, b| a >= b));
    assert_eq!(whole.header("link"), "");
    let before = names(&whole.body);
    let (mut path, mut seen) = ("/tasks?limit=3".to_owned(), Vec::new());
    loop {
        let page = caller.get(&path).await;
        seen.extend(names(&page.body));
        // New tasks are created between pages.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        caller.create_task(&json!({"images": ["new:1"]})).await;
        let link = page.header("link").to_owned();
        let Some(next) = link.strip_prefix("</api/v1").and_then(|rest| rest.split('>').next())
        else {
            break;
        };
        path = next.to_owned();
    }
    assert_eq!(seen, before);
    let fresh = caller.get("/tasks?limit=1").await;
    let tag = fresh.header("etag").to_owned();
    assert!(
        fresh.header("age") == "0" && fresh.header("x-resource-version").parse::<u64>().is_ok()
    );
    let known =
        caller.send(caller.request("GET", "/tasks/t0").header("if-none-match", "\"other\"")).await;
    let own = known.header("etag").to_owned();
    let known = caller.send(caller.request("GET", "/tasks/t0").header("if-none-match", &own)).await;
    assert_eq!(known.code, 304, "{known:?}");
    assert_eq!(known.body, "");
    assert_eq!(known.header("etag"), own.as_str(), "{known:?}");
    assert!(tag.starts_with("W/"));
}

/// Verifies that repeated calls with one idempotency key, on any replica, create one task.
#[tokio::test(flavor = "multi_thread")]
async fn idempotency_key_creates_one_task() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("idem");
    let first = Server::start(cluster, &namespace, HELPER).await;
    let second = Server::standby(cluster, &namespace, HELPER);
    let caller = RestClient::editor(&first, &namespace);
    let other = caller.for_replica(&second);
    let up = || async { (second.get("/healthz").starts_with("HTTP/1.1 200")).then_some(()) };
    namespace.eventually("the second replica", TASK_TIMEOUT, up).await;
    let body = json!({"images": ["a:1"], "nodeSelector": {"none": "such"}});
    let calls = (0..20).map(|index| {
        let caller = if index % 2 == 0 { &caller } else { &other };
        caller.send(
            caller.request("POST", "/tasks").header("idempotency-key", "release-7").json(&body),
        )
    });
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.code == 201), "{answers:?}");
    let ids: HashSet<&str> =
        answers.iter().map(|answer| answer.body["taskId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(namespace.get("prewarmtasks").len(), 1);
    // A task created on one replica is visible on the other at once.
    let id = ids.into_iter().next().unwrap();
    assert_eq!(caller.get(&format!("/tasks/{id}")).await.code, 200);
    assert_eq!(other.get(&format!("/tasks/{id}")).await.code, 200);
    let fresh = caller.create_task(&body).await;
    assert_eq!(other.get(&format!("/tasks/{fresh}")).await.code, 200);
    let changed = json!({"images": ["b:1"]});
    let misused = caller
        .send(
            caller.request("POST", "/tasks").header("idempotency-key", "release-7").json(&changed),
        )
        .await;
    assert_eq!(misused.code, 422, "{misused:?}");
    // The same key of another caller is independent.
    let other_caller = caller.with_token(&account_token(&namespace, "other", &["*"]));
    let theirs = other_caller
        .send(
            other_caller
                .request("POST", "/tasks")
                .header("idempotency-key", "release-7")
                .json(&changed),
        )
        .await;
    assert_eq!(theirs.code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn extract_explains_manifest_without_changes() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("extract");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let mut web = deployment("web", 3, &["shop/web:1"]);
    web["metadata"]["namespace"] = json!(namespace.name);
    web["spec"]["template"]["spec"]["nodeSelector"] =
        json!({"kubernetes.io/hostname": "node-0001"});
    let answer = caller.post("/tasks:extract", &web).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    let workload = &answer.body["workloads"][0];
    assert_eq!(workload["workload"], "Deployment/web", "{workload:#}");
    assert_eq!(workload["verdict"], "wanted", "{workload:#}");
    assert_eq!(workload["images"], json!(["shop/web:1"]));
    assert!(workload["nodeCount"].is_null(), "a caller without permission got nodes");
    let token = account_token_with_nodes(cluster, &namespace, "nodes", &["create"]);
    let seer = caller.with_token(&token);
    let yaml = format!(
        "# a chart's output\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\n---\n{web}"
    );
    let request = seer
        .request("POST", "/tasks:extract")
        .header("content-type", "application/yaml")
        .body(yaml);
    let answer = seer.send(request).await;
    let workload = &answer.body["workloads"][0];
    assert_eq!(workload["nodeCount"], 1, "{answer:?}");
    assert_eq!(workload["nodeNames"], json!(["node-0001"]), "{answer:?}");
    assert_eq!(answer.body["skipped"], json!(["Service/s"]));
    let nodes = seer.get("/nodes?limit=1000").await;
    assert!(
        nodes.body["total"].as_u64().unwrap() >= 120
            && nodes.body["nodes"][0]["labels"].is_object(),
        "{nodes:?}"
    );
    assert_eq!(caller.get("/nodes").await.code, 403);
    for (body, code) in [("{", 400), ("kind: [", 400), ("\u{1}", 400)] {
        let request = caller
            .request("POST", "/tasks:extract")
            .header("content-type", "application/yaml")
            .body(body);
        assert_eq!(caller.send(request).await.code, code, "{body}");
    }
    assert!(namespace.get("prewarmtasks").is_empty());
    delete_node_permission(cluster, &namespace);
}

/// Verifies that a retry warms only the nodes that the ended task did not warm.
#[tokio::test(flavor = "multi_thread")]
async fn ended_task_is_retried_on_the_nodes_that_are_not_warm() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("retry");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    // Not found on nodes whose name ends with 7, of which there are 12 among 120.
    let body = json!({"images": ["picky:1"], "nodeSelector": {"type": "fake"}, "batchSize": 60});
    let id = caller.create_task(&body).await;
    let path = format!("/tasks/{id}/retry");
    let early = caller.post(&path, &json!({})).await;
    assert_eq!(early.code, 409, "{early:?}");
    let ended = wait_until_ended(&caller, &namespace, &id).await;
    assert_eq!(ended["progress"]["failedNodes"], 12, "{ended:#}");

    let request = || caller.request("POST", &path).header("idempotency-key", "again");
    let made = caller.send(request()).await;
    assert_eq!(made.code, 201, "{made:?}");
    let next = made.body["taskId"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), format!("/api/v1/tasks/{next}"));
    assert_eq!(made.body["images"], json!(["picky:1"]));
    let repeated = caller.send(request()).await;
    assert_eq!(repeated.body["taskId"], next.as_str(), "a repeated call created another task");
    let second = wait_until_ended(&caller, &namespace, &next).await;
    assert_eq!(second["progress"]["totalNodes"], 12, "{second:#}");

    let warm = json!({"images": ["a:1"], "nodeSelector": {"type": "fake"}, "nodes": 2});
    let warm = caller.create_task(&warm).await;
    wait_until_ended(&caller, &namespace, &warm).await;
    let nothing = caller.post(&format!("/tasks/{warm}/retry"), &json!({})).await;
    assert_eq!(nothing.code, 409, "{nothing:?}");
    assert_eq!(nothing.body["status"], "completed", "{nothing:?}");
    assert_eq!(caller.post("/tasks/none/retry", &json!({})).await.code, 404);
}

/// Runs every example of the `OpenAPI` document in a shell.
#[tokio::test(flavor = "multi_thread")]
async fn openapi_examples_work() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("samples");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let document = caller.get("/openapi.json").await.body;
    assert_eq!(document["openapi"], "3.1.0");
    let mut samples: Vec<(String, String)> = Vec::new();
    for call in document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
    {
        let source = call["x-codeSamples"][0]["source"].as_str().unwrap().to_owned();
        samples.push((call["operationId"].as_str().unwrap().to_owned(), source));
    }
    let run = |name: &str, more: &[(&str, &str)]| -> Value {
        let source =
            &samples.iter().find(|(id, _)| id == name).unwrap_or_else(|| panic!("{name}")).1;
        let folder = std::path::Path::new(cluster.var("KUBECTL")).parent().unwrap().to_owned();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", source])
            .env("PATH", path)
            .env("API", caller.base_url());
        shell
            .env("TOKEN", caller.bearer_token())
            .env("KUBECONFIG", cluster.var("KUBECONFIG"))
            .envs(more.iter().copied());
        let output = shell.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let last = text.lines().rev().find_map(|line| {
            line.strip_prefix("data: ").or(Some(line)).filter(|line| !line.is_empty())
        });
        let body: Value = serde_json::from_str(last.unwrap())
            .unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
        assert!(body.get("error").is_none(), "{name}: {body:#}");
        body
    };
    let task = run("create_task", &[])["taskId"].as_str().unwrap().to_owned();
    let of_task = [("TASK", task.as_str())];
    for name in ["list_tasks", "get_task"] {
        run(name, &of_task);
    }
    namespace.kubectl(
        &["patch", "prewarmtask", &task, "--type=merge", "-p", r#"{"spec":{"priority":9}}"#],
        "",
    );
    let cancelled = run("cancel_task", &of_task);
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(run("watch_task", &of_task)["status"], "cancelled");
    let failed = caller
        .create_task(
            &json!({"images": ["missing:1"], "nodes": 1, "nodeSelector": {"type": "fake"}}),
        )
        .await;
    wait_until_ended(&caller, &namespace, &failed).await;
    let retried = run("retry_task", &[("TASK", failed.as_str())]);
    assert_ne!(retried["taskId"], failed.as_str());
    run("extract", &[]);
    let schedule = run("create_schedule", &[])["id"].as_str().unwrap().to_owned();
    let of_schedule = [("SCHEDULE", schedule.as_str())];
    for name in [
        "list_schedules",
        "get_schedule",
        "replace_schedule",
        "disable_schedule",
        "enable_schedule",
        "trigger_schedule",
    ] {
        run(name, &of_schedule);
    }
    let path = format!("/scheduled-tasks/{schedule}/executions/1");
    let recorded = || async { (caller.get(&path).await.code == 200).then_some(()) };
    namespace.eventually("the execution in the history", TASK_TIMEOUT, recorded).await;
    for name in ["list_executions", "get_execution", "delete_schedule", "get_stats"] {
        run(name, &of_schedule);
    }
    // Nodes are cluster-scoped, so a namespace permission is not enough.
    let seer = account_token_with_nodes(cluster, &namespace, "nodes", &["get"]);
    assert_eq!(run("list_nodes", &[("TOKEN", &seer)])["limit"], 100);
    delete_node_permission(cluster, &namespace);
    assert_eq!(samples.len(), 19, "an example was not run above");
    let page = reqwest::get(format!("http://{}/docs", server.api())).await.unwrap();
    assert!(
        page.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .starts_with("default-src 'none'")
    );
    assert!(page.text().await.unwrap().contains("/api/v1/scheduled-tasks/{id}/trigger"));
}

/// Verifies with schemathesis that the API conforms to its `OpenAPI` document.
#[tokio::test(flavor = "multi_thread")]
async fn api_conforms_to_openapi() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("document");
    let image = format!("--worker-image={HELPER}");
    let server =
        Server::with_args(cluster, &namespace, &namespace, &["--api-rate=100000", &image]).await;
    let token = account_token_with_nodes(cluster, &namespace, "editor", &["*"]);
    let caller = RestClient::new(&server, &token);
    let body = json!({"images": ["a:1"], "nodeSelector": {"none": "such"}});
    let task = caller.create_task(&body).await;
    let schedule =
        caller.post("/scheduled-tasks", &json!({"cronExpr": "@yearly", "taskConfig": body})).await;
    let schedule = schedule.body["id"].as_str().unwrap().to_owned();
    assert_eq!(
        caller.post(&format!("/scheduled-tasks/{schedule}/trigger"), &json!({})).await.code,
        200
    );
    let examples = std::env::var("PREWARMER_TEST_EXAMPLES").unwrap_or_else(|_| "20".into());
    let mut run = tokio::process::Command::new("tests/schemathesis.sh");
    run.current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("NAMESPACE", &namespace.name)
        .env("TASK", &task)
        .env("SCHEDULE", &schedule)
        .env("NO_COLOR", "1");
    let base = caller.base_url().trim_end_matches("/api/v1");
    run.args([base, caller.bearer_token(), "--max-examples", &examples, "--no-color"]);
    if std::env::var("PREWARMER_TEST_EXAMPLES").is_err() {
        // The short form uses a fixed seed; the long form uses random ones.
        run.args(["--seed", "1"]);
    }
    let output = run.output().await.unwrap();
    delete_node_permission(cluster, &namespace);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() == Some(77) {
        let why = String::from_utf8_lossy(&output.stderr);
        not_run("api_conforms_to_openapi", why.trim());
        return;
    }
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    // The summary of schemathesis: a heading, and the line with the counts.
    let cases = text.lines().skip_while(|line| !line.starts_with("Test cases:")).nth(1);
    println!(
        "MEASURED schemathesis, {examples} examples per call: test cases: {}",
        cases.map_or("no summary", str::trim)
    );
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Verifies TLS with the same CA over HTTP/2 and HTTP/1.1, as in the README; plain HTTP is not
/// served.
#[tokio::test(flavor = "multi_thread")]
async fn rest_over_tls_with_same_ca() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("tls");
    let image = format!("--worker-image={HELPER}");
    let server =
        Server::with_args(cluster, &namespace, &namespace, &["--api-tls=true", &image]).await;
    let token = account_token(&namespace, "editor", &["*"]);
    let webhook = format!("prewarmer-{}", namespace.name);
    let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
    let bundle =
        cluster.kubectl(&["get", "validatingwebhookconfiguration", &webhook, "-o", path], "");
    let ca =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, bundle.trim()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ca).unwrap();
    let port = server.api().rsplit(':').next().unwrap().to_owned();
    for (host, version) in [("127.0.0.1", "--http1.1"), ("localhost", "--http2")] {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            version,
            "--resolve",
            &format!("localhost:{port}:127.0.0.1"),
            "-w",
            "\n%{http_code} %{http_version}",
        ]);
        curl.arg("--cacert")
            .arg(file.path())
            .args(["-H", &format!("Authorization: Bearer {token}")]);
        let output = curl.arg(format!("https://{host}:{port}/api/v1/tasks")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = if version == "--http2" { "200 2" } else { "200 1.1" };
        assert!(text.ends_with(expected), "{text} {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(
        reqwest::get(format!("http://{}/docs", server.api())).await.is_err(),
        "plain HTTP was answered"
    );
}

/// Verifies that an idempotency key is valid for a day, even if its task was deleted, but not if
/// its task was rejected.
#[tokio::test(flavor = "multi_thread")]
async fn idempotency_key_outlives_deleted_but_not_rejected_task() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("keys");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let make = async |key: &str, body: &Value| {
        caller
            .send(caller.request("POST", "/tasks").header("idempotency-key", key).json(body))
            .await
    };
    let body = json!({"images": ["a:1"], "nodeSelector": {"none": "such"}});
    let id = make("once", &body).await.body["taskId"].as_str().unwrap().to_owned();
    assert_eq!(make("once", &body).await.body["taskId"], json!(id));
    namespace.kubectl(&["delete", "prewarmtask", &id, "--wait"], "");
    let gone = make("once", &body).await;
    assert_eq!(gone.code, 409, "{gone:?}");
    assert_eq!(gone.body["status"], "deleted", "{gone:?}");
    assert!(namespace.get("prewarmtasks").is_empty(), "the deleted task was created again");
    // A quota rejects the task; the key can be used again when the quota allows it.
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"count/prewarmtasks.prewarm.io": "0"}}});
    namespace.apply(&quota);
    let keys = || {
        namespace
            .get("leases")
            .iter()
            .filter(|lease| {
                lease["metadata"]["name"].as_str().is_some_and(|name| name.contains("-idem-"))
            })
            .count()
    };
    let before = keys();
    let refused = || async { (make("later", &body).await.code == 403).then_some(()) };
    namespace.eventually("rejection of the task by the quota", TASK_TIMEOUT, refused).await;
    assert!(keys() <= before + 1, "the key of a rejected task was kept");
    namespace.kubectl(&["delete", "resourcequota", "none"], "");
    let accepted = || async { (make("later", &body).await.code == 201).then_some(()) };
    namespace.eventually("a task with the key of the rejected one", TASK_TIMEOUT, accepted).await;
}

/// Verifies that a caller without permission to change schedules cannot queue an execution, because
/// the queue is stored in the schedule.
#[tokio::test(flavor = "multi_thread")]
async fn queueing_requires_permission_to_update_schedule() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("waits");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let maker = caller.with_token(&account_token(&namespace, "maker", &["get", "list", "create"]));
    let task = json!({"images": ["a:1"], "nodeSelector": {"type": "fake"}, "batchSize": 1});
    let schedule = json!({"cronExpr": "@yearly", "taskConfig": task, "overlapPolicy": "queue", "enabled": false});
    let made = caller.post("/scheduled-tasks", &schedule).await;
    let id = made.body["id"].as_str().unwrap();
    let path = format!("/scheduled-tasks/{id}");
    assert_eq!(
        maker.post(&format!("{path}/trigger"), &json!({})).await.code,
        200,
        "no execution is in progress"
    );
    let waits = maker.post(&format!("{path}/trigger"), &json!({})).await;
    assert_eq!(waits.code, 403, "{waits:?}");
    assert_eq!(namespace.schedule(id).status.and_then(|status| status.queued), None);
    assert_eq!(caller.post(&format!("{path}/trigger"), &json!({})).await.code, 202);
}
