//! A real Prometheus scrapes a server: it loads every rule, and every query of the dashboard
//! returns data.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT, deployment},
    namespace::Namespace,
    not_run::not_run,
    rest::RestClient,
    server::{Server, free_address},
};
use serde_json::{Value, json};

use crate::{
    TestCluster,
    pod_start::{create_events, pulled_event},
};

/// Time until several samples of each series are scraped, one per second.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(20);
/// Query that may return no data here: a notification is given up only after a day of attempts.
const MAY_BE_EMPTY: &str = "prewarm_notifications_total{result=\"given_up\"}";

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

/// Creates activity that every panel shows. `round` makes names and images unique.
async fn create_activity(server: &Server, namespace: &Namespace, round: usize) {
    let caller = RestClient::editor(server, namespace);
    let (bad, image) = (format!("bad-{round}"), format!("shop/web:{round}"));
    namespace.apply(&deployment(&format!("web-{round}"), 0, &[&image]));
    namespace.apply_task(
        &bad,
        &json!({"images": ["missing:1"], "nodeSelector": {"type": "fake"}, "nodes": 4}),
    );
    let schedule = json!({"cronExpr": "@yearly", "taskConfig": {"images": ["b:1"], "nodeSelector": {"type": "fake"}, "nodes": 1}});
    let made = caller.post("/scheduled-tasks", &schedule).await;
    let path = format!("/scheduled-tasks/{}", made.body["id"].as_str().unwrap());
    assert_eq!(caller.post(&format!("{path}/trigger"), &json!({})).await.code, 200);
    let run = format!("{path}/executions/1");
    let ended = || async { (caller.get(&run).await.body["status"] == "success").then_some(()) };
    namespace.eventually("success of the execution", TASK_TIMEOUT, ended).await;
    namespace.wait_until_ended(&bad, TASK_TIMEOUT).await;
    // A container that found its image, and one that waited for it. The time that the first saved is
    // known from the pull of our worker.
    let warmed = || async {
        namespace
            .tasks()
            .into_iter()
            .find(|task| task.spec.images == [&*image] && task.phase() == Phase::Completed)
    };
    namespace.eventually("the end of the workload's task", TASK_TIMEOUT, warmed).await;
    let pulled = format!(
        "Successfully pulled image \"{image}\" in 3.5s (4s including waiting). Image size: 9 bytes."
    );
    let present = format!(
        "Container image \"{image}\" already present on machine and can be accessed by the pod"
    );
    let worker = "prewarm-0123456789abcdef0123-x";
    let worker = pulled_event(namespace, round, worker, "node-0001", &pulled);
    create_events(namespace.cluster, namespace, vec![worker]).await;
    let events = vec![
        pulled_event(namespace, round, "warm", "node-0001", &present),
        pulled_event(namespace, round, "cold", "node-0002", &pulled),
    ];
    create_events(namespace.cluster, namespace, events).await;
}

/// Reports whether a query has returned at least one number.
fn has_data(answer: &Value) -> bool {
    let results = answer["data"]["result"].as_array().unwrap();
    !results.is_empty() && results.iter().all(|result| result["value"][1] != "NaN")
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_load_and_dashboard_queries_return_data() {
    let root = env!("CARGO_MANIFEST_DIR");
    let found =
        Command::new("bash").arg(format!("{root}/tests/prometheus/get.sh")).output().unwrap();
    if !found.status.success() {
        let why = String::from_utf8_lossy(&found.stderr).trim().to_owned();
        not_run("rules_load_and_dashboard_queries_return_data", &why);
        return;
    }
    let bin = String::from_utf8(found.stdout).unwrap();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("observed");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(bin.trim(), server.health(), folder.path());
    // A rate does not see the first value of a series. Series with a fixed set of labels exist from
    // the start; those of admission and REST exist after their first request.
    let returns_data = async |query: &str| {
        let scraped = || async {
            let answer = prometheus.get("query", &[("query", query)]).await?;
            (!answer["data"]["result"].as_array()?.is_empty()).then_some(())
        };
        namespace.eventually(&format!("a scrape with {query}"), TASK_TIMEOUT, scraped).await;
    };
    returns_data("up == 1").await;
    create_activity(&server, &namespace, 1).await;
    returns_data("prewarm_admission_duration_seconds_count{verdict=\"hinted\"} and on() prewarm_api_request_duration_seconds_count{method=\"POST\"}").await;
    create_activity(&server, &namespace, 2).await;
    let dashboard =
        std::fs::read_to_string(format!("{root}/deploy/chart/files/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut asked = 0;
    for query in targets.map(|target| target["expr"].as_str().unwrap()) {
        let data = || async {
            let answer = prometheus.get("query", &[("query", query)]).await.unwrap();
            assert_eq!(answer["status"], "success", "{query}: {answer}");
            (has_data(&answer) || query.contains(MAY_BE_EMPTY)).then_some(())
        };
        // A rate needs two samples after the events.
        namespace.eventually(&format!("data of {query}"), SCRAPE_TIMEOUT, data).await;
        asked += 1;
    }
    assert!(asked > 20);
    let file = std::fs::read_to_string(format!("{root}/deploy/chart/files/rules.yaml")).unwrap();
    let alerts = file.matches("- alert: ").count();
    let rules = prometheus.get("rules", &[]).await.unwrap();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(
        alerts > 0 && rules.len() == alerts && rules.iter().all(|rule| rule["health"] == "ok"),
        "{rules:#?}"
    );
}
