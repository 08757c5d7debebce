//! A real Prometheus scrapes a server: it reads every rule, and answers every question of the dashboard.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    admission::{HELPER, LONG, deployment},
    caller::Caller,
    harness::{Cluster, Namespace, Server, free_address},
};

/// Questions whose answer may be empty here: nothing that they count has happened.
const QUIET: [&str; 6] = [
    "prewarm_lead_time_seconds",
    "prewarm_pod_starts_total",
    "prewarm_notifications_total",
    "prewarm_workloads_recovered_total",
    "prewarm_image_failures_total",
    "prewarm_api_request_duration_seconds_bucket",
];

struct Prometheus(Child, String);

impl Prometheus {
    fn start(bin: &str, target: &str, folder: &std::path::Path) -> Self {
        let address = free_address();
        let root = env!("CARGO_MANIFEST_DIR");
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [format!("{root}/deploy/chart/files/rules.yaml")],
            "scrape_configs": [{"job_name": "prewarmer", "static_configs": [{"targets": [target]}]}],
        });
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let child = Command::new(PathBuf::from(bin).join("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("prometheus.log")).unwrap())
            .spawn()
            .unwrap();
        Self(child, format!("http://{address}/api/v1"))
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = reqwest::Url::parse_with_params(&format!("{}/{path}", self.1), query).unwrap();
        serde_json::from_str(&client.get(url).send().await.ok()?.text().await.ok()?).ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn some_life(server: &Server, namespace: &Namespace) {
    let caller = Caller::editor(server, namespace);
    namespace.apply(&deployment("web", 0, &["shop/web:1"]));
    namespace.apply_task("bad", &json!({"images": ["missing:1"], "nodeSelector": {"type": "fake"}, "nodes": 4}));
    let schedule =
        json!({"cronExpr": "@yearly", "taskConfig": {"images": ["b:1"], "nodeSelector": {"type": "fake"}, "nodes": 1}});
    let made = caller.post("/scheduled-tasks", &schedule).await;
    let path = format!("/scheduled-tasks/{}", made.body["id"].as_str().unwrap());
    assert_eq!(caller.post(&format!("{path}/trigger"), &json!({})).await.code, 202);
    let run = format!("{path}/executions/1");
    let ended = || async { (caller.get(&run).await.body["status"] == "success").then_some(()) };
    namespace.eventually("the run succeeds", LONG, ended).await;
    namespace.ended("bad", LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_the_rules_and_answers_the_dashboard() {
    let root = env!("CARGO_MANIFEST_DIR");
    let found = Command::new("bash").arg(format!("{root}/tests/prometheus/get.sh")).output().unwrap();
    if !found.status.success() {
        let why = String::from_utf8_lossy(&found.stderr).trim().to_owned();
        eprintln!("NOT RUN: prometheus_reads_the_rules_and_answers_the_dashboard: {why}");
        return;
    }
    let bin = String::from_utf8(found.stdout).unwrap();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("observed");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(bin.trim(), server.health(), folder.path());
    // Rates need a look before and one after.
    let up = || async {
        let answer = prometheus.get("query", &[("query", "up == 1")]).await?;
        (!answer["data"]["result"].as_array()?.is_empty()).then_some(())
    };
    namespace.eventually("the server is scraped", LONG, up).await;
    some_life(&server, &namespace).await;
    let scraped = || async {
        // A rate needs two looks at what has happened.
        let seen = |name: &str| format!("max(count_over_time({name}[1m])) >= 3");
        let names = [
            "prewarm_image_failures_total",
            "prewarm_schedule_runs_total",
            "prewarm_tasks_total",
            "prewarm_images_total",
        ];
        let query = names.map(seen).join(" and on () ");
        let query = query.as_str();
        let answer = prometheus.get("query", &[("query", query)]).await?;
        (!answer["data"]["result"].as_array()?.is_empty()).then_some(())
    };
    namespace.eventually("what happened is scraped", LONG, scraped).await;

    let dashboard = std::fs::read_to_string(format!("{root}/deploy/chart/files/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut asked = 0;
    for query in targets.map(|target| target["expr"].as_str().unwrap()) {
        let answer = prometheus.get("query", &[("query", query)]).await.unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let quiet = QUIET.iter().any(|name| query.contains(name));
        assert!(quiet || !answer["data"]["result"].as_array().unwrap().is_empty(), "{query}: {answer}");
        asked += 1;
    }
    assert!(asked > 20);
    let file = std::fs::read_to_string(format!("{root}/deploy/chart/files/rules.yaml")).unwrap();
    let alerts = file.matches("- alert: ").count();
    let rules = prometheus.get("rules", &[]).await.unwrap();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(alerts > 0 && rules.len() == alerts && rules.iter().all(|rule| rule["health"] == "ok"), "{rules:#?}");
}
