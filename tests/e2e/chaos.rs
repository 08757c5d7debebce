//! Servers and API servers killed at random times: no result is lost and no work is repeated.
//!
//! `make test` runs a short form; `make test-long` sets the variables below and runs a hundred
//! kills.

use std::time::Duration;

use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, env_number},
    outcome::{LONG_TIMEOUT, OutcomeComparison, TIMEOUT, TRANSIENT_FAILURES, node_count},
    server::Server,
};
use serde_json::Value;

use crate::TestCluster;

/// Maximum time from the death of a leader until its successor works.
const MAX_TAKEOVER: Duration = Duration::from_secs(15);

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
