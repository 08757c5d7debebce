//! Servers and API servers that die at random instants: nothing is lost, nothing is done twice.
//!
//! `make test` runs a short form; `make test-long` sets the variables below and runs a hundred kills.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    harness::{Cluster, Namespace, Server},
    watched::Watched,
};
use serde_json::{Value, json};

pub const HELPER: &str = "registry.example/prewarmer-helper:1";
/// A task is interrupted often, and each time nothing happens until the dead leader's Lease is over.
const LONG: Duration = Duration::from_secs(900);
/// A new leader is at work within this time of the old one's death.
const TAKEOVER: Duration = Duration::from_secs(15);

pub fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

pub fn nodes() -> usize {
    number("PREWARMER_TEST_NODES", 40)
}

/// A task whose outcome is known.
pub struct Work {
    images: &'static [&'static str],
    timeout: &'static str,
}

/// Some nodes never get one image, some get another at the second try only: when the first has taken all its time, which is
/// much more than any other node needs.
const MIXED: Work = Work { images: &["a:1", "picky:1", "wobbly:1"], timeout: "20s" };
/// No node runs out of time, however long the API server is away.
pub const PATIENT: Work = Work { images: &["a:1", "picky:1"], timeout: "10m" };

fn apply(namespace: &Namespace, name: &str, nodes: usize, work: &Work) {
    let retry = json!({"limit": 1, "delay": "1s"});
    let spec = json!({"images": work.images, "nodes": nodes, "batchSize": 20, "timeout": work.timeout,
        "imagePullPolicy": "Always", "failurePolicy": "Retry", "retry": retry, "nodeSelector": {"type": "fake"},
        "successThreshold": "85%"});
    namespace.apply_task(name, &spec);
}

/// What two runs of the same task must have in common.
fn outcome(status: &Value) -> Value {
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

/// One Job per node, two where the first try fails for a passing reason.
fn check_jobs(made: &BTreeMap<String, usize>, nodes: usize, work: &Work) {
    assert_eq!(made.len(), nodes);
    for (node, jobs) in made {
        let expected = if work.images.contains(&"wobbly:1") && node.ends_with('3') { 2 } else { 1 };
        assert_eq!(*jobs, expected, "{node}");
    }
}

/// The same task again and again: first undisturbed, then while something dies.
pub struct Rounds<'a> {
    cluster: &'a Cluster,
    namespace: &'a Namespace,
    nodes: usize,
    work: Work,
    /// What the undisturbed run came to.
    expected: Value,
}

impl<'a> Rounds<'a> {
    pub async fn new(cluster: &'a Cluster, namespace: &'a Namespace, nodes: usize, work: Work) -> Self {
        apply(namespace, "undisturbed", nodes, &work);
        let status = namespace.ended("undisturbed", LONG).await;
        assert_eq!(status["phase"], "Completed", "{status:#}");
        let failed = (1..=nodes).filter(|n| n % 10 == 7).count();
        assert_eq!(status["failedNodeCount"], failed, "{status:#}");
        Self { cluster, namespace, nodes, work, expected: outcome(&status) }
    }

    /// One task, disturbed; it must end as the undisturbed one did, with no Job too many.
    pub async fn disturbed(&self, name: &str, disturb: impl AsyncFnOnce()) {
        let watched = Watched::new(self.cluster, self.namespace).await;
        apply(self.namespace, name, self.nodes, &self.work);
        disturb().await;
        let status = self.namespace.ended(name, LONG).await;
        assert_eq!(outcome(&status), self.expected, "{name}");
        check_jobs(&watched.jobs_per_node(), self.nodes, &self.work);
    }

    fn has_ended(&self, name: &str) -> bool {
        let phase = ["get", "prewarmtask", name, "-o", "jsonpath={.status.phase}"];
        ["Completed", "Failed"].contains(&self.namespace.kubectl(&phase, "").as_str())
    }
}

/// Some time up to so many milliseconds, as random as the clock.
fn moment(most: u32) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Duration::from_millis(u64::from(now.subsec_micros() % most))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_it_ends_as_if_nothing_had_happened() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("killed");
    let mut server = Server::start(cluster, &namespace, HELPER).await;
    let (nodes, kills) = (nodes(), number("PREWARMER_TEST_KILLS", 3));
    let rounds = Rounds::new(cluster, &namespace, nodes, MIXED).await;
    let (mut killed, mut round) = (0, 0);
    while killed < kills {
        round += 1;
        let name = format!("round-{round}");
        let kill = async || {
            while killed < kills && !rounds.has_ended(&name) {
                namespace.eventually("a leader", LONG, || async { server.leads().then_some(()) }).await;
                tokio::time::sleep(moment(2500)).await;
                server.kill();
                server.revive();
                killed += 1;
            }
        };
        rounds.disturbed(&name, kill).await;
        assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
    }
    eprintln!("{killed} kills over {round} tasks of {nodes} nodes: each ended as the undisturbed one");
    assert!(server.terminate() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_dies_loses_nothing() {
    let (nodes, wanted) = (nodes(), number("PREWARMER_TEST_CRASHES", 2));
    let cluster = Cluster::own(nodes);
    let namespace = cluster.namespace("crashed");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let rounds = Rounds::new(cluster, &namespace, nodes, PATIENT).await;
    let (mut crashed, mut round) = (0, 0);
    while crashed < wanted {
        round += 1;
        let name = format!("round-{round}");
        let crash = async || {
            while crashed < wanted && !rounds.has_ended(&name) {
                tokio::time::sleep(moment(4000)).await;
                cluster.crash_apiserver();
                crashed += 1;
            }
        };
        rounds.disturbed(&name, crash).await;
        let none = || async { namespace.get("jobs").is_empty().then_some(()) };
        namespace.eventually("the end of all Jobs", LONG, none).await;
    }
    eprintln!(
        "{crashed} crashes of the API server over {round} tasks of {nodes} nodes: each ended as the undisturbed one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_the_other_takes_over() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("replicas");
    let (nodes, kills) = (nodes(), number("PREWARMER_TEST_TAKEOVERS", 2));
    let first = Server::start(cluster, &namespace, HELPER).await;
    let mut replicas = [first, Server::standby(cluster, &namespace, HELPER)];
    let rounds = Rounds::new(cluster, &namespace, nodes, MIXED).await;
    let mut slowest = Duration::ZERO;
    for round in 0..kills {
        let take_over = async || {
            tokio::time::sleep(moment(3000)).await;
            let one_leads = || async { replicas.iter().position(Server::leads) };
            let leader = namespace.eventually("a leader", LONG, one_leads).await;
            replicas[leader].kill();
            let died = std::time::Instant::now();
            let other = &replicas[1 - leader];
            namespace.eventually("another leader", TAKEOVER, || async { other.leads().then_some(()) }).await;
            slowest = slowest.max(died.elapsed());
            replicas[leader].revive();
        };
        rounds.disturbed(&format!("round-{round}"), take_over).await;
    }
    eprintln!("{kills} leaders killed: the slowest successor led after {:.1} s", slowest.as_secs_f64());
}
