//! Schedules on a real control plane in real time.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prewarmer_api::schedule::{Execution, ExecutionStatus};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT, env_number},
    namespace::Namespace,
    rest::RestClient,
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Timeout for one execution: a minute, a check, and a successor that becomes leader after 12 s.
const EXECUTION_TIMEOUT: Duration = Duration::from_secs(100);

/// Returns the number of scheduled times to wait for; the long form of the tests raises it.
fn execution_count() -> usize {
    env_number("PREWARMER_TEST_TICKS", 2)
}

fn executions(namespace: &Namespace, schedule: &str) -> Vec<Execution> {
    namespace.schedule(schedule).status.unwrap_or_default().executions
}

/// Runs a schedule every minute while leaders are killed: each scheduled time creates one task.
#[tokio::test(flavor = "multi_thread")]
async fn each_scheduled_time_runs_once() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("ticks");
    let first = Server::start(cluster, &namespace, HELPER).await;
    let mut servers = [first, Server::standby(cluster, &namespace, HELPER)];
    let caller = RestClient::editor(&servers[0], &namespace);
    let task = json!({"images": ["a:1"], "nodeSelector": {"type": "fake"}, "nodes": 1});
    let body = json!({"name": "minutely", "cronExpr": "* * * * *", "taskConfig": task, "timezone": "Asia/Kathmandu"});
    let made = caller.post("/scheduled-tasks", &body).await;
    assert_eq!(made.code, 201, "{made:?}");
    let id = made.body["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("scheduled-task-20"), "{id}");
    assert!(made.body["nextExecutionAt"].is_string());
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for round in 1..=execution_count() {
        let runs = || async { (executions(&namespace, &id).len() >= round).then_some(()) };
        namespace.eventually(&format!("execution {round}"), EXECUTION_TIMEOUT, runs).await;
        let leads = || async { servers.iter().position(Server::is_leader) };
        let leader = namespace.eventually("a leader", TASK_TIMEOUT, leads).await;
        servers[leader].kill();
        servers[leader].start_again();
    }
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // The last execution may still be in progress.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let runs = executions(&namespace, &id);
    let at: Vec<&str> = runs.iter().map(|run| run.scheduled_time.as_str()).collect();
    let distinct: BTreeSet<&str> = at.iter().copied().collect();
    assert_eq!(at.len(), distinct.len(), "a scheduled time was executed twice: {runs:#?}");
    let passed = usize::try_from(end / 60 - begun / 60).unwrap();
    assert!(at.len() >= passed && at.len() <= passed + 1, "{passed} minutes, and {at:?}");
    let tasks = namespace.tasks();
    assert_eq!(tasks.len(), runs.iter().filter(|run| run.task.is_some()).count());
    assert!(runs.iter().all(|run| run.status != ExecutionStatus::Skipped), "{runs:#?}");
    println!(
        "MEASURED {} scheduled times, each leader killed after an execution: each was executed once",
        at.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn schedule_lifecycle() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("schedule");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let held = json!({"images": ["a:1"], "nodeSelector": {"none": "such"}, "nodes": "all"});
    let body = json!({"name": "yearly", "description": "for a test", "cronExpr": "0 0 1 1 *", "enabled": false,
        "overlapPolicy": "queue", "timeoutSeconds": 3600, "taskConfig": held});
    let made = caller.post("/scheduled-tasks", &body).await;
    assert_eq!(made.code, 201, "{made:?}");
    let view = &made.body;
    assert_eq!(view["timezone"], "UTC");
    assert_eq!(view["overlapPolicy"], "queue");
    assert_eq!(view["nextExecutionAt"], Value::Null);
    assert_eq!(view["taskConfig"]["images"], json!(["a:1"]));
    let path = format!("/scheduled-tasks/{}", view["id"].as_str().unwrap());
    let list = caller.get("/scheduled-tasks?enabled=false&limit=20").await;
    assert_eq!(list.body["total"], 1, "{list:?}");
    assert_eq!(list.body["tasks"][0]["id"], view["id"], "{list:?}");
    assert!(
        caller.put(&format!("{path}/enable"), &json!({})).await.body["nextExecutionAt"].is_string()
    );
    assert_eq!(caller.put(&format!("{path}/disable"), &json!({})).await.body["enabled"], false);

    // Manual triggers: the second is queued, the third is rejected.
    let quick = json!({"name": "yearly", "cronExpr": "0 0 1 1 *", "enabled": false, "overlapPolicy": "queue",
        "taskConfig": {"images": ["a:1"], "nodeSelector": {"type": "fake"}, "batchSize": 1}});
    assert_eq!(caller.put(&path, &quick).await.code, 200);
    let run = caller.post(&format!("{path}/trigger"), &json!({})).await;
    assert_eq!(run.code, 200, "{run:?}");
    let task = run.body["taskId"].as_str().unwrap().to_owned();
    let waits = caller.post(&format!("{path}/trigger"), &json!({})).await;
    assert_eq!(waits.code, 202, "{waits:?}");
    assert_eq!(waits.body["taskId"], Value::Null, "{waits:?}");
    let refused = caller.post(&format!("{path}/trigger"), &json!({})).await;
    assert_eq!(refused.code, 409, "{refused:?}");
    assert_eq!(refused.body["status"], "running", "{refused:?}");
    let executions = format!("{path}/executions");
    let running = || async {
        let first = caller.get(&format!("{executions}/1")).await;
        (first.body["startedAt"].is_string() && first.body["taskId"] == task).then_some(())
    };
    namespace.eventually("the started execution in the history", TASK_TIMEOUT, running).await;
    assert_eq!(caller.delete(&format!("/tasks/{task}")).await.code, 200);
    let two = || async {
        let all = caller.get(&executions).await.body["executions"].clone();
        (all.as_array()?.len() == 2 && all[1]["status"] == "failed").then_some(all)
    };
    let all = namespace.eventually("start of the queued execution", TASK_TIMEOUT, two).await;
    assert_eq!(all[0]["id"], 2);
    assert_eq!(all[0]["trigger"], "manual");
    assert_eq!(all[0]["status"], "running");
    assert!(all[1]["finishedAt"].is_string() && all[1]["durationSeconds"].is_number(), "{all:#}");
    let second = all[0]["taskId"].as_str().unwrap().to_owned();

    // An execution that exceeds its timeout is cancelled.
    let brief = json!({"name": "yearly", "cronExpr": "0 0 1 1 *", "enabled": false, "timeoutSeconds": 1, "taskConfig": quick["taskConfig"]});
    assert_eq!(caller.put(&path, &brief).await.code, 200);
    let over = || async {
        (caller.get(&format!("{executions}/2")).await.body["status"] == "timeout").then_some(())
    };
    namespace.eventually("timeout of the execution", TASK_TIMEOUT, over).await;
    assert_eq!(caller.get(&format!("/tasks/{second}")).await.body["status"], "cancelled");

    // REST and kubectl both name invalid fields.
    let wrong = caller
        .put(
            &path,
            &json!({"cronExpr": "nightly", "taskConfig": {"images": []}, "timezone": "Mars"}),
        )
        .await;
    assert_eq!(wrong.code, 400, "{wrong:?}");
    assert_eq!(wrong.invalid_fields(), ["cronExpr", "taskConfig.images", "timezone"], "{wrong:?}");
    let object = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmSchedule",
        "metadata": {"name": "bad", "namespace": namespace.name},
        "spec": {"schedule": "61 * * * *", "taskTemplate": {"spec": {"images": ["UPPER/x"]}}}});
    let (ok, said) = cluster.try_kubectl(&["apply", "-f", "-"], &object.to_string());
    assert!(
        !ok && said.contains("spec.schedule") && said.contains("spec.taskTemplate.spec.images[0]"),
        "{said}"
    );

    // The tasks are deleted with the schedule.
    assert_eq!(caller.delete(&path).await.code, 200);
    assert_eq!(caller.get(&path).await.code, 404);
    let gone = || async { namespace.get("prewarmtasks").is_empty().then_some(()) };
    namespace.eventually("deletion of the schedule's tasks", TASK_TIMEOUT, gone).await;
    let metrics = server.get("/metrics");
    assert!(metrics.contains("prewarm_schedule_runs_total{status=\"timeout\"} 1"), "{metrics}");
}

/// Verifies that schedules applied and changed with kubectl take effect.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_and_rest_show_same_schedule() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("pws");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let object = |images: &str, cron: &str| {
        json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmSchedule", "metadata": {"name": "nightly"},
            "spec": {"schedule": cron, "timeZone": "Europe/Berlin", "taskTemplate": {"spec": {"images": [images]}}}})
    };
    namespace.apply(&object("a:1", "30 2 * * *"));
    // Unlike the spec of a task, the template of a schedule is mutable.
    namespace.apply(&object("b:1", "@hourly"));
    let seen = || async {
        let view = caller.get("/scheduled-tasks/nightly").await;
        (view.code == 200 && view.body["cronExpr"] == "@hourly").then_some(view.body)
    };
    let view = namespace.eventually("the schedule created with kubectl", TASK_TIMEOUT, seen).await;
    assert_eq!(view["name"], "nightly");
    assert_eq!(view["createdBy"], "kubectl");
    assert_eq!(view["taskConfig"]["images"], json!(["b:1"]));
    let planned = || async { namespace.schedule("nightly").status?.next_schedule_time };
    let next =
        namespace.eventually("the next scheduled time in the status", TASK_TIMEOUT, planned).await;
    assert!(next.ends_with(":00:00Z"), "{next}");
    let table = namespace.kubectl(&["get", "pws"], "");
    assert!(
        table.contains("SCHEDULE") && table.contains("@hourly") && table.contains("Europe/Berlin"),
        "{table}"
    );
}
