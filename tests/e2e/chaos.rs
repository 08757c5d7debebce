//! Servers and API servers killed at random times: no result is lost and no work is repeated.
//!
//! `make test` runs a short form; `make test-long` sets the variables below and runs a hundred
//! kills.

use std::time::{Duration, Instant};

use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, env_number},
    namespace::Namespace,
    outcome::{LONG_TIMEOUT, OutcomeComparison, TIMEOUT, TRANSIENT_FAILURES, node_count},
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Maximum time from the death of a leader until its successor works.
const MAX_TAKEOVER: Duration = Duration::from_secs(15);

/// Moments of interruptions, spread over the whole life of tasks: every other one soon after a
/// process began to work, the rest when some share of the nodes has a result.
struct Moments {
    number: usize,
    /// Share of the nodes that had a result at each interruption, in percent.
    seen: Vec<usize>,
    /// Maximum delay of an early interruption, in milliseconds.
    soon: u32,
}

impl Moments {
    fn new(soon: u32) -> Self {
        Self { number: 0, seen: Vec::new(), soon }
    }

    /// Waits for the next moment of a task. Returns `false` if the task ends before it.
    async fn wait(&mut self, rounds: &OutcomeComparison<'_>, task: &str) -> bool {
        if self.number.is_multiple_of(2) {
            tokio::time::sleep(random_delay(self.soon)).await;
        } else {
            // Shares of consecutive interruptions differ by the golden ratio, so that few of them
            // already are evenly distributed. The first share is random.
            let share = (self.number / 2 * 62 + random_number(100) as usize) % 100;
            rounds.wait_for_share(task, share).await;
            tokio::time::sleep(random_delay(1000)).await;
        }
        if rounds.has_ended(task) {
            return false;
        }
        self.number += 1;
        self.seen.push(rounds.percent_ended(task));
        true
    }
}

/// Returns a number below `end`, derived from the clock.
fn random_number(end: u32) -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.subsec_micros() % end
}

/// Returns a duration below `most` milliseconds, derived from the clock.
fn random_delay(most: u32) -> Duration {
    Duration::from_millis(random_number(most).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn server_kills_do_not_change_outcome() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("killed");
    let mut server = Server::start(cluster, &namespace, HELPER).await;
    let (nodes, kills) = (node_count(), env_number("PREWARMER_TEST_KILLS", 3));
    let rounds = OutcomeComparison::new(cluster, &namespace, nodes, TRANSIENT_FAILURES).await;
    let (mut moments, mut round) = (Moments::new(2500), 0);
    while moments.number < kills {
        let name = format!("round-{round}");
        // At least two tasks, one for each pull method.
        let last = kills.min(moments.number + kills.div_ceil(2));
        let kill = async || {
            while moments.number < last {
                namespace
                    .eventually("a leader", TIMEOUT, || async { server.is_leader().then_some(()) })
                    .await;
                if !moments.wait(&rounds, &name).await {
                    break;
                }
                server.kill();
                server.start_again();
            }
        };
        rounds.run_disturbed(&name, round, kill).await;
        assert_eq!(namespace.get("jobs"), Vec::<Value>::new());
        round += 1;
    }
    eprintln!(
        "MEASURED {kills} kills, at {:?} % of {round} tasks of {nodes} nodes: each ended like the undisturbed one",
        moments.seen
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
    let (mut moments, mut round) = (Moments::new(4000), 0);
    while moments.number < wanted {
        let name = format!("round-{round}");
        let last = wanted.min(moments.number + wanted.div_ceil(2));
        let crash = async || {
            while moments.number < last && moments.wait(&rounds, &name).await {
                cluster.crash_apiserver();
            }
        };
        rounds.run_disturbed(&name, round, crash).await;
        let none = || async { namespace.get("jobs").is_empty().then_some(()) };
        namespace.eventually("deletion of all Jobs", TIMEOUT, none).await;
        round += 1;
    }
    eprintln!(
        "MEASURED {wanted} crashes of the API server, at {:?} % of {round} tasks of {nodes} nodes: each ended like the undisturbed one",
        moments.seen
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
    let (mut moments, mut round) = (Moments::new(3000), 0);
    let mut slowest = (Duration::ZERO, Duration::ZERO);
    while moments.number < kills {
        let name = format!("round-{round}");
        let take_over = async || {
            let one_leads = || async { replicas.iter().position(Server::is_leader) };
            let leader = namespace.eventually("a leader", TIMEOUT, one_leads).await;
            if !moments.wait(&rounds, &name).await {
                return;
            }
            replicas[leader].kill();
            let took = work_of_successor(&namespace, &replicas[1 - leader], &name).await;
            slowest = (slowest.0.max(took.0), slowest.1.max(took.1));
            replicas[leader].start_again();
        };
        rounds.run_disturbed(&name, round, take_over).await;
        round += 1;
    }
    eprintln!(
        "MEASURED {kills} leaders killed, at {:?} % of their task: the slowest successor led after {:.1} s and worked after {:.1} s",
        moments.seen,
        slowest.0.as_secs_f64(),
        slowest.1.as_secs_f64()
    );
}

/// Waits until the successor of a leader that was just killed leads, and until it has worked on a
/// task that was created after the death. Returns both times since the death.
async fn work_of_successor(
    namespace: &Namespace,
    successor: &Server,
    name: &str,
) -> (Duration, Duration) {
    let died = Instant::now();
    let probe = format!("{name}-probe");
    // It needs a plan and a status, but no worker.
    namespace.apply_task(&probe, &json!({"images": ["a:1"], "nodeSelector": {"no": "such"}}));
    let leads = || async { successor.is_leader().then_some(()) };
    namespace.eventually("another leader", MAX_TAKEOVER, leads).await;
    let led = died.elapsed();
    let works = || async { (namespace.status(&probe).phase == Phase::Failed).then_some(()) };
    let left = MAX_TAKEOVER.saturating_sub(led);
    namespace.eventually("work of the successor", left, works).await;
    (led, died.elapsed())
}
