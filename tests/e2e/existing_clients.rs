//! Clients, settings and manifests of image prewarm services, on a real control plane.

use std::process::Command;

use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT},
    namespace::Namespace,
    rest::RestClient,
    server::Server,
};
use serde_json::{Value, json};

use crate::{TestCluster, rest::wait_until_ended};

fn task_manifest(name: &str, more: &Value) -> String {
    let mut spec = json!({"images": ["a:1"], "nodes": 1, "nodeSelector": {"type": "fake"}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

fn create(namespace: &Namespace, manifest: &str) -> (bool, String) {
    namespace.cluster.try_kubectl(&["-n", &namespace.name, "create", "-f", "-"], manifest)
}

/// Verifies that `strategy` has the effect of `failurePolicy`, and that CEL rejects contradictions
/// and changes.
#[tokio::test(flavor = "multi_thread")]
async fn strategy_of_a_task_is_its_failure_policy() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("strategy");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let retry = json!({"limit": 2, "delay": "1s"});
    let spec = json!({"images": ["flaky:1"], "strategy": "Retry", "retry": retry, "timeout": "6s"});
    let (ok, text) = create(&namespace, &task_manifest("retried", &spec));
    assert!(ok, "{text}");
    let ended = namespace.wait_until_ended("retried", TASK_TIMEOUT).await;
    assert_eq!(ended.phase, Phase::Completed, "{ended:#?}");
    let caller = RestClient::editor(&server, &namespace);
    let view = caller.get("/tasks/retried").await.body;
    assert_eq!((&view["maxRetries"], &view["currentRetry"]), (&json!(2), &json!(1)), "{view:#}");

    let both = json!({"strategy": "Retry", "failurePolicy": "Skip"});
    let (ok, text) = create(&namespace, &task_manifest("contradiction", &both));
    assert!(!ok && text.contains("alias of failurePolicy"), "{text}");
    let schedule = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmSchedule", "metadata": {"name": "bad"},
        "spec": {"schedule": "@daily", "taskTemplate": {"spec": {"images": ["a:1"], "strategy": "Retry", "failurePolicy": "Skip"}}}});
    let (ok, text) = create(&namespace, &schedule.to_string());
    assert!(!ok && text.contains("alias of failurePolicy"), "{text}");
    let (ok, text) = create(&namespace, &task_manifest("wrong", &json!({"strategy": "Maybe"})));
    assert!(!ok && text.contains("spec.strategy"), "{text}");

    // The name may change, and the value may not.
    let change = |patch: &str| {
        let words = ["-n", &namespace.name, "patch", "pwt", "retried", "--type=merge", "-p", patch];
        namespace.cluster.try_kubectl(&words, "")
    };
    let (ok, text) = change(r#"{"spec": {"strategy": null, "failurePolicy": "Retry"}}"#);
    assert!(ok, "{text}");
    let (ok, text) = change(r#"{"spec": {"failurePolicy": null}}"#);
    assert!(!ok && text.contains("cannot be changed"), "{text}");
}

/// Verifies the calls on schedules with two replicas: each finds what the other has just created.
#[tokio::test(flavor = "multi_thread")]
async fn schedules_answer_as_clients_expect_on_every_replica() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("replicas");
    let first = Server::start(cluster, &namespace, HELPER).await;
    let second = Server::standby(cluster, &namespace, HELPER);
    let caller = RestClient::editor(&first, &namespace);
    let other = RestClient::new(&second, caller.bearer_token());
    let up = || async {
        let url = format!("http://{}/healthz", second.api());
        let answer = reqwest::get(&url).await.ok()?.json::<Value>().await.ok()?;
        (answer["status"] == "healthy" && answer["kubernetes"] == "connected").then_some(())
    };
    namespace.eventually("the second replica", TASK_TIMEOUT, up).await;
    let body = json!({"name": "Daily Image Prewarm", "description": "every day", "cronExpr": "0 0 * * *", "enabled": true,
        "taskConfig": {"images": ["nginx:latest", "redis:7"], "batchSize": 10, "priority": 1,
            "nodeSelector": {"type": "fake"}, "maxRetries": 3, "retryStrategy": "linear", "retryDelay": 60},
        "overlapPolicy": "skip", "timeoutSeconds": 3600});
    for _ in 0..5 {
        let made = caller.post("/scheduled-tasks", &body).await;
        assert_eq!(made.code, 201, "{made:?}");
        let path = format!("/scheduled-tasks/{}", made.body["id"].as_str().unwrap());
        let found = other.get(&path).await;
        assert_eq!((found.code, &found.body["cronExpr"]), (200, &json!("0 0 * * *")), "{found:?}");
        let task = caller.create_task(&json!({"images": ["a:1"], "nodes": 1})).await;
        assert_eq!(other.get(&format!("/tasks/{task}")).await.code, 200);
        assert_eq!(caller.delete(&path).await.body["status"], "success");
    }
    let made = caller.post("/scheduled-tasks", &body).await.body;
    let path = format!("/scheduled-tasks/{}", made["id"].as_str().unwrap());
    let change = json!({"name": "Updated Task Name", "taskConfig": {"images": ["nginx:latest"]}});
    let changed = other.put(&path, &change).await;
    assert_eq!(changed.code, 200, "{changed:?}");
    let mut expected = made["taskConfig"].clone();
    expected["images"] = json!(["nginx:latest"]);
    assert_eq!(changed.body["taskConfig"], expected);
    assert_eq!(changed.body["description"], "every day");
    for action in ["disable", "enable"] {
        let answer = other.put(&format!("{path}/{action}"), &json!({})).await;
        assert_eq!(answer.body["status"], "success", "{answer:?}");
        assert_eq!(answer.body["taskId"], made["id"], "{answer:?}");
    }
    let run = other.post(&format!("{path}/trigger"), &json!({})).await;
    assert_eq!((run.code, &run.body["status"]), (200, &json!("success")), "{run:?}");
    let id = run.body["taskId"].as_str().unwrap();
    assert_eq!(wait_until_ended(&caller, &namespace, id).await["status"], "completed");
    let executions = format!("{path}/executions?offset=0&limit=10");
    let success = || async {
        let all = caller.get(&executions).await.body;
        (all["executions"][0]["status"] == "success").then_some(all["executions"][0].clone())
    };
    let execution = namespace.eventually("the execution", TASK_TIMEOUT, success).await;
    assert_eq!(execution["errorMessage"], "");
    assert!(execution["durationSeconds"].is_number(), "{execution}");
    let view = caller.get(&path).await.body;
    assert_eq!(view["lastExecutionAt"], execution["triggeredAt"], "{view:#}");
}

/// Verifies a settings file with sections, the health endpoints of the REST listener, and labels of
/// metrics.
#[tokio::test(flavor = "multi_thread")]
async fn settings_file_and_metrics_of_other_services() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("sections");
    let file = std::env::temp_dir().join(format!("sections-{}.yaml", std::process::id()));
    let text = format!(
        "server:\n  mode: release\n  read_timeout: 30\n  write_timeout: 30\nstorage:\n  type: memory\n\
         kubernetes:\n  job_ttl_seconds: 3600\n  max_concurrent_tasks: 10\n  worker_image: {HELPER}\n  \
         worker_image_pull_policy: Always\nlog:\n  level: info\n"
    );
    std::fs::write(&file, text).unwrap();
    let config = format!("--config={}", file.display());
    let words = [&*config, "--api-metrics=true", "--metrics-images=10"];
    let server = Server::with_args(cluster, &namespace, &namespace, &words).await;
    let log = server.log();
    assert!(log.contains("server.mode") && log.contains("storage.type"), "{log}");
    let caller = RestClient::editor(&server, &namespace);
    let id = caller
        .create_task(
            &json!({"images": ["metered:1"], "nodes": 2, "nodeSelector": {"type": "fake"}}),
        )
        .await;
    assert_eq!(wait_until_ended(&caller, &namespace, &id).await["status"], "completed");
    let url = format!("http://{}/metrics", server.api());
    let expected = [
        r#"prewarm_images_total{image="metered",result="succeeded"} 2"#,
        r#"prewarm_task_duration_seconds_count{status="completed"} 1"#,
        r#"prewarm_task_duration_seconds_bucket{status="completed",le="1200"} 1"#,
    ];
    let counted = || async {
        let text = reqwest::get(&url).await.unwrap().text().await.unwrap();
        expected.iter().all(|line| text.contains(line)).then_some(())
    };
    namespace.eventually("the metrics of the task", TASK_TIMEOUT, counted).await;
    std::fs::remove_file(&file).unwrap();
    let ready = reqwest::get(format!("http://{}/readyz", server.api())).await.unwrap();
    assert_eq!(ready.status(), 200);
}

/// Verifies that settings that cannot work are refused with a message.
#[test]
fn unusable_settings_are_refused_at_the_start() {
    let folder = std::env::temp_dir().join(format!("prewarmer-settings-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("config.yaml");
    std::fs::write(&file, "server:\n  port: 8080\n  host: x\n").unwrap();
    let run = |variable: (&str, &str), words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prewarmer"));
        let output = command.arg("serve").args(words).env(variable.0, variable.1).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = run(("WORKER_IMAGE", "busybox:latest"), &[]);
    assert!(code == Some(2) && text.contains("(WORKER_IMAGE): \"busybox:latest\""), "{text}");
    let (code, text) = run(("WORKER_IMAGE_PULL_POLICY", "Never"), &[]);
    assert!(code == Some(2) && text.contains("IfNotPresent or Always"), "{text}");
    let (code, text) = run(("SERVER_READ_TIMEOUT", "0"), &[]);
    assert!(code == Some(2) && text.contains("a number from 1 to 300"), "{text}");
    let path = file.to_str().unwrap();
    let (code, text) = run(("LOG_LEVEL", "info"), &["--config", path]);
    assert!(code == Some(2) && text.contains("server.host: no such setting"), "{text}");
    std::fs::remove_dir_all(&folder).unwrap();
}
