//! A leader that is suspended and resumed: another replica takes over, no work is repeated, and the
//! former leader steps down.

use std::time::{Duration, Instant};

use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster, fixtures::HELPER, job_recorder::JobRecorder, namespace::Namespace,
    server::Server,
};
use serde_json::json;

use crate::TestCluster;

const TIMEOUT: Duration = Duration::from_secs(180);
/// Maximum time until the successor of a suspended leader works.
const MAX_TAKEOVER: Duration = Duration::from_secs(20);
/// Time for which the leader is suspended.
const SUSPENDED_FOR: Duration = Duration::from_secs(30);
const NODES: usize = 60;

fn fake_nodes(namespace: &Namespace) -> usize {
    namespace.kubectl(&["get", "nodes", "-l", "type=fake", "-o", "name"], "").lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_is_replaced_and_steps_down() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("frozen");
    let first = Server::start(cluster, &namespace, HELPER).await;
    namespace.eventually("a leader", TIMEOUT, || async { first.is_leader().then_some(()) }).await;
    let second = Server::standby(cluster, &namespace, HELPER);
    let nodes = NODES.min(fake_nodes(&namespace));
    let watched = JobRecorder::new(cluster, &namespace).await;
    // A slow image takes 6 s. There are four batches; the second is in progress when the leader is
    // suspended.
    let batch = nodes.div_ceil(4);
    let spec = json!({"images": ["slow-frozen:1"], "nodes": nodes, "batchSize": batch, "nodeSelector": {"type": "fake"},
        "imagePullPolicy": "Always"});
    namespace.apply_task("t", &spec);
    let made = || watched.jobs_per_node().len();
    namespace
        .eventually("the second batch", TIMEOUT, || async { (made() > batch).then_some(()) })
        .await;
    first.freeze();
    let (frozen, before) = (Instant::now(), made());
    assert!(before < nodes, "{before} of {nodes} nodes already had their Job");
    namespace
        .eventually("another leader", MAX_TAKEOVER, || async { second.is_leader().then_some(()) })
        .await;
    let led = frozen.elapsed();
    let left = MAX_TAKEOVER.saturating_sub(led);
    namespace
        .eventually("a Job created by the successor", left, || async {
            (made() > before).then_some(())
        })
        .await;
    eprintln!(
        "frozen: the successor led after {:.1} s and worked after {:.1} s",
        secs(led),
        secs(frozen.elapsed())
    );
    tokio::time::sleep(SUSPENDED_FOR.saturating_sub(frozen.elapsed())).await;
    first.thaw();
    let follows = || async { first.get("/metrics").contains("\nprewarm_leader 0\n").then_some(()) };
    namespace
        .eventually("that the former leader steps down", Duration::from_secs(5), follows)
        .await;
    let status = namespace.wait_until_ended("t", TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    assert_eq!(status.succeeded_nodes as usize, nodes, "{status:#?}");
    let jobs = watched.jobs_per_node();
    assert_eq!(jobs.len(), nodes);
    assert!(jobs.values().all(|count| *count == 1), "{jobs:?}");
    assert_eq!(watched.max_active_per_node(), 1);
    assert!(second.is_leader() && !first.is_leader());
    let log = first.log();
    let followed =
        log.lines().any(|line| line.contains("leadership") && line.contains("leading=false"));
    assert!(followed, "the log does not contain the loss of leadership:\n{log}");
    // The former leader is a healthy standby again.
    let alive = || async { first.get("/healthz").contains("ok").then_some(()) };
    namespace.eventually("liveness of the former leader", Duration::from_secs(5), alive).await;
}

fn secs(span: Duration) -> f64 {
    span.as_secs_f64()
}
