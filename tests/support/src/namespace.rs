//! Namespace of a test, and the objects in it.

use std::time::Duration;

use prewarmer_api::{
    schedule::PrewarmSchedule,
    task::{Condition, PrewarmTask, PrewarmTaskStatus},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{cluster::Cluster, fixtures::task, wait};

/// Namespace of one test.
pub struct Namespace {
    /// Cluster of the namespace.
    pub cluster: &'static Cluster,
    /// Name of the namespace.
    pub name: String,
}

impl Namespace {
    /// Runs kubectl in the namespace and returns its output; panics if it fails.
    pub fn kubectl(&self, words: &[&str], input: &str) -> String {
        self.cluster.kubectl(&[&["-n", &self.name], words].concat(), input)
    }

    /// Applies a manifest and returns the output of kubectl.
    pub fn apply(&self, manifest: &Value) -> String {
        self.kubectl(&["apply", "-f", "-"], &manifest.to_string())
    }

    /// Returns reason and message of the events of pods with this name prefix.
    pub fn events(&self, pods: &str) -> Vec<String> {
        let of = |event: &Value| {
            event["involvedObject"]["name"].as_str().is_some_and(|name| name.starts_with(pods))
        };
        let text = |event: &Value| format!("{} {}", event["reason"], event["message"]);
        self.get("events").iter().filter(|event| of(event)).map(text).collect()
    }

    /// Applies a `PrewarmTask`.
    pub fn apply_task(&self, name: &str, spec: &Value) {
        self.apply(&task(name, spec));
    }

    /// Returns all objects of a kind as JSON.
    pub fn get(&self, kind: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", kind, "-o", "json"], "");
        let list: Value = serde_json::from_str(&text).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    fn get_one<T: DeserializeOwned>(&self, kind: &str, name: &str) -> T {
        let text = self.kubectl(&["get", kind, name, "-o", "json"], "");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{kind} {name}: {error}: {text}"))
    }

    /// Returns a task.
    pub fn task(&self, name: &str) -> PrewarmTask {
        self.get_one("prewarmtask", name)
    }

    /// Returns all tasks.
    pub fn tasks(&self) -> Vec<PrewarmTask> {
        let items = self.get("prewarmtasks").into_iter();
        items.map(|item| serde_json::from_value(item).unwrap()).collect()
    }

    /// Returns the status of a task; the default where none was written. The task's spec need not
    /// be valid.
    pub fn status(&self, task: &str) -> PrewarmTaskStatus {
        let mut object: Value = self.get_one("prewarmtask", task);
        let status: Option<_> = serde_json::from_value(object["status"].take()).unwrap();
        status.unwrap_or_default()
    }

    /// Returns a schedule.
    pub fn schedule(&self, name: &str) -> PrewarmSchedule {
        self.get_one("prewarmschedule", name)
    }

    /// Waits until `look` returns a value; panics after `limit` with the state of the namespace.
    pub async fn eventually<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn() -> F,
    ) -> T {
        wait::until(limit, look).await.unwrap_or_else(|| {
            panic!("timed out after {limit:?} waiting for: {what}\n{}", self.diagnosis())
        })
    }

    /// Waits until a task has ended; returns its status.
    pub async fn wait_until_ended(&self, task: &str, limit: Duration) -> PrewarmTaskStatus {
        let ended =
            || async { Some(self.status(task)).filter(|status| status.phase.is_terminal()) };
        self.eventually(&format!("the end of task {task}"), limit, ended).await
    }

    fn diagnosis(&self) -> String {
        let show =
            |words: &[&str]| self.cluster.try_kubectl(&[&["-n", &self.name], words].concat(), "").1;
        let events = show(&["get", "events", "--sort-by=.lastTimestamp"]);
        let events: Vec<&str> = events.lines().rev().take(15).collect();
        format!(
            "{}\n{}\nlast events:\n{}",
            show(&["get", "prewarmtasks,jobs,pods"]),
            show(&[
                "get",
                "prewarmtasks",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}: {.status.conditions}{\"\\n\"}{end}"
            ]),
            events.join("\n")
        )
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.cluster.keep_logs();
        }
        self.cluster.try_kubectl(&["delete", "namespace", &self.name, "--wait=false"], "");
    }
}

/// Returns the condition of a type.
pub fn condition<'a>(status: &'a PrewarmTaskStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Returns the reason of the first failure that a status lists.
pub fn first_reason(status: &PrewarmTaskStatus) -> Option<&str> {
    status.failed_nodes.first().map(|failure| failure.reason.as_str())
}
