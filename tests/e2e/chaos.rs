//! Servers and API servers killed at random times: no result is lost and no work is repeated.
//!
//! `make test` runs a short form; `make test-long` sets the variables below and runs a hundred
//! kills.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    harness::{Cluster, Namespace, Server},
    job_recorder::JobRecorder,
};
use serde_json::{Value, json};

pub const HELPER: &str = "registry.example/prewarmer-helper:1";
/// Timeout for a task. Each of many interruptions lasts until the dead leader's Lease has expired.
const TIMEOUT: Duration = Duration::from_secs(900);
/// Maximum time from the death of a leader until its successor works.
const MAX_TAKEOVER: Duration = Duration::from_secs(15);

pub fn env_number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

pub fn node_count() -> usize {
    env_number("PREWARMER_TEST_NODES", 40)
}

/// Task with a known outcome.
pub struct TaskFixture {
    images: &'static [&'static str],
    timeout: &'static str,
}

/// Task in which some nodes never get one image and some get another only at the second attempt.
/// The first attempt of those uses all of its timeout, which is much longer than any other node
/// needs.
const TRANSIENT_FAILURES: TaskFixture =
    TaskFixture { images: &["a:1", "picky:1", "wobbly:1"], timeout: "20s" };
/// Task in which no node reaches its timeout, however long the API server is down.
pub const LONG_TIMEOUT: TaskFixture = TaskFixture { images: &["a:1", "picky:1"], timeout: "10m" };

fn apply_fixture(namespace: &Namespace, name: &str, nodes: usize, work: &TaskFixture) {
    let retry = json!({"limit": 1, "delay": "1s"});
    let spec = json!({"images": work.images, "nodes": nodes, "batchSize": 20, "timeout": work.timeout,
        "imagePullPolicy": "Always", "failurePolicy": "Retry", "retry": retry, "nodeSelector": {"type": "fake"},
        "successThreshold": "85%"});
    namespace.apply_task(name, &spec);
}

/// Returns the part of a status that two runs of the same task must have in common.
fn comparable_status(status: &Value) -> Value {
    let mut kept = status.clone();
    let fields = kept.as_object_mut().unwrap();
    for time in ["startTime", "completionTime", "conditions", "batchEnds"] {
        fields.remove(time);
    }
    for failure in fields["failedNodes"].as_array_mut().unwrap() {
        failure.as_object_mut().unwrap().remove("time");
    }
    let by_node = |failure: &Value| failure["node"].as_str().unwrap().to_owned();
    fields["failedNodes"].as_array_mut().unwrap().sort_by_key(by_node);
    kept
}

/// Asserts one Job per node, or two where the first attempt fails with a transient reason.
fn assert_jobs_per_node(made: &BTreeMap<String, usize>, nodes: usize, work: &TaskFixture) {
    assert_eq!(made.len(), nodes);
    for (node, jobs) in made {
        let expected = if work.images.contains(&"wobbly:1") && node.ends_with('3') { 2 } else { 1 };
        assert_eq!(*jobs, expected, "{node}");
    }
}

/// Runs of the same task: the first without interruption, the others while a process is killed.
pub struct OutcomeComparison<'a> {
    cluster: &'a Cluster,
    namespace: &'a Namespace,
    nodes: usize,
    fixture: TaskFixture,
    /// Outcome of the run without interruption.
    expected: Value,
}

impl<'a> OutcomeComparison<'a> {
    pub async fn new(
        cluster: &'a Cluster,
        namespace: &'a Namespace,
        nodes: usize,
        work: TaskFixture,
    ) -> Self {
        apply_fixture(namespace, "undisturbed", nodes, &work);
        let status = namespace.wait_until_ended("undisturbed", TIMEOUT).await;
        assert_eq!(status["phase"], "Completed", "{status:#}");
        let failed = (1..=nodes).filter(|n| n % 10 == 7).count();
        assert_eq!(status["failedNodeCount"], failed, "{status:#}");
        Self { cluster, namespace, nodes, fixture: work, expected: comparable_status(&status) }
    }

    /// Runs one task while `disturb` interferes, and asserts the outcome of the undisturbed run and
    /// the expected number of Jobs.
    pub async fn run_disturbed(&self, name: &str, disturb: impl AsyncFnOnce()) {
        let watched = JobRecorder::new(self.cluster, self.namespace).await;
        apply_fixture(self.namespace, name, self.nodes, &self.fixture);
        disturb().await;
        let status = self.namespace.wait_until_ended(name, TIMEOUT).await;
        assert_eq!(comparable_status(&status), self.expected, "{name}");
        assert_jobs_per_node(&watched.jobs_per_node(), self.nodes, &self.fixture);
    }

    fn has_ended(&self, name: &str) -> bool {
        let phase = ["get", "prewarmtask", name, "-o", "jsonpath={.status.phase}"];
        ["Completed", "Failed"].contains(&self.namespace.kubectl(&phase, "").as_str())
    }
}

/// Returns a duration below `most` milliseconds, derived from the clock.
fn random_delay(most: u32) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Duration::from_millis(u64::from(now.subsec_micros() % most))
}

#[tokio::test(flavor = "multi_thread")]
async fn server_kills_do_not_change_outcome() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("killed");
    let mut server = Server::start(cluster, &namespace, HELPER).await;
    let (nodes, kills) = (node_count(), env_number("PREWARMER_TEST_KILLS", 3));
    let rounds = OutcomeComparison::new(cluster, &namespace, nodes, TRANSIENT_FAILURES).await;
    let (mut killed, mut round) = (0, 0);
    while killed < kills {
        round += 1;
        let name = format!("round-{round}");
        let kill = async || {
            while killed < kills && !rounds.has_ended(&name) {
                namespace
                    .eventually("a leader", TIMEOUT, || async { server.is_leader().then_some(()) })
                    .await;
                tokio::time::sleep(random_delay(2500)).await;
                server.kill();
                server.start_again();
                killed += 1;
            }
        };
        rounds.run_disturbed(&name, kill).await;
        assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
    }
    eprintln!(
        "{killed} kills over {round} tasks of {nodes} nodes: each ended like the undisturbed one"
    );
    assert!(server.terminate() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn apiserver_crashes_do_not_change_outcome() {
    let (nodes, wanted) = (node_count(), env_number("PREWARMER_TEST_CRASHES", 2));
    let cluster = Cluster::dedicated(nodes);
    let namespace = cluster.namespace("crashed");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let rounds = OutcomeComparison::new(cluster, &namespace, nodes, LONG_TIMEOUT).await;
    let (mut crashed, mut round) = (0, 0);
    while crashed < wanted {
        round += 1;
        let name = format!("round-{round}");
        let crash = async || {
            while crashed < wanted && !rounds.has_ended(&name) {
                tokio::time::sleep(random_delay(4000)).await;
                cluster.crash_apiserver();
                crashed += 1;
            }
        };
        rounds.run_disturbed(&name, crash).await;
        let none = || async { namespace.get("jobs").is_empty().then_some(()) };
        namespace.eventually("deletion of all Jobs", TIMEOUT, none).await;
    }
    eprintln!(
        "{crashed} crashes of the API server over {round} tasks of {nodes} nodes: each ended like the undisturbed one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_takes_over_from_killed_leader() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("replicas");
    let (nodes, kills) = (node_count(), env_number("PREWARMER_TEST_TAKEOVERS", 2));
    let first = Server::start(cluster, &namespace, HELPER).await;
    let mut replicas = [first, Server::standby(cluster, &namespace, HELPER)];
    let rounds = OutcomeComparison::new(cluster, &namespace, nodes, TRANSIENT_FAILURES).await;
    let mut slowest = Duration::ZERO;
    for round in 0..kills {
        let take_over = async || {
            tokio::time::sleep(random_delay(3000)).await;
            let one_leads = || async { replicas.iter().position(Server::is_leader) };
            let leader = namespace.eventually("a leader", TIMEOUT, one_leads).await;
            replicas[leader].kill();
            let died = std::time::Instant::now();
            let other = &replicas[1 - leader];
            namespace
                .eventually("another leader", MAX_TAKEOVER, || async {
                    other.is_leader().then_some(())
                })
                .await;
            slowest = slowest.max(died.elapsed());
            replicas[leader].start_again();
        };
        rounds.run_disturbed(&format!("round-{round}"), take_over).await;
    }
    eprintln!(
        "{kills} leaders killed: the slowest successor led after {:.1} s",
        slowest.as_secs_f64()
    );
}
