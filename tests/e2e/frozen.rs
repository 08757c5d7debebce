//! A leader that is stopped and continued: another takes over meanwhile, nothing is done twice, and the first one steps down.

use std::time::{Duration, Instant};

use crate::{
    harness::{Cluster, Namespace, Server},
    watched::Watched,
};
use serde_json::json;

const HELPER: &str = "registry.example/prewarmer-helper:1";
const LONG: Duration = Duration::from_secs(180);
/// A successor of a frozen leader works within this time.
const TAKEOVER: Duration = Duration::from_secs(20);
/// The leader is frozen for this long.
const FROZEN: Duration = Duration::from_secs(30);
const NODES: usize = 60;

fn fake_nodes(namespace: &Namespace) -> usize {
    namespace.kubectl(&["get", "nodes", "-l", "type=fake", "-o", "name"], "").lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_is_replaced_and_steps_down() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("frozen");
    let first = Server::start(cluster, &namespace, HELPER).await;
    namespace.eventually("a leader", LONG, || async { first.leads().then_some(()) }).await;
    let second = Server::standby(cluster, &namespace, HELPER);
    let nodes = NODES.min(fake_nodes(&namespace));
    let watched = Watched::new(cluster, &namespace).await;
    // A slow image takes 6 s: four batches, of which the second is at work when the leader is frozen.
    let batch = nodes.div_ceil(4);
    let spec = json!({"images": ["slow-frozen:1"], "nodes": nodes, "batchSize": batch, "nodeSelector": {"type": "fake"},
        "imagePullPolicy": "Always"});
    namespace.apply_task("t", &spec);
    let made = || watched.jobs_per_node().len();
    namespace.eventually("the second batch", LONG, || async { (made() > batch).then_some(()) }).await;
    first.freeze();
    let (frozen, before) = (Instant::now(), made());
    assert!(before < nodes, "{before} of {nodes} nodes have had their Job");
    namespace.eventually("another leader", TAKEOVER, || async { second.leads().then_some(()) }).await;
    let led = frozen.elapsed();
    let left = TAKEOVER.saturating_sub(led);
    namespace.eventually("work of the successor", left, || async { (made() > before).then_some(()) }).await;
    eprintln!("frozen: the successor led after {:.1} s and worked after {:.1} s", secs(led), secs(frozen.elapsed()));
    tokio::time::sleep(FROZEN.saturating_sub(frozen.elapsed())).await;
    first.thaw();
    let follows = || async { first.get("/metrics").contains("\nprewarm_leader 0\n").then_some(()) };
    namespace.eventually("that the first one follows", Duration::from_secs(5), follows).await;
    let status = namespace.ended("t", LONG).await;
    assert_eq!((&status["phase"], &status["succeededNodes"]), (&json!("Completed"), &json!(nodes)), "{status:#}");
    let jobs = watched.jobs_per_node();
    assert_eq!(jobs.len(), nodes);
    assert!(jobs.values().all(|count| *count == 1), "{jobs:?}");
    assert_eq!(watched.most_on_a_node(), 1);
    assert!(second.leads() && !first.leads());
    let log = first.log();
    let followed = log.lines().any(|line| line.contains("leadership") && line.contains("leading=false"));
    assert!(followed, "it says that it follows:\n{log}");
    // It is a good standby again.
    let alive = || async { first.get("/healthz").contains("ok").then_some(()) };
    namespace.eventually("life", Duration::from_secs(5), alive).await;
}

fn secs(span: Duration) -> f64 {
    span.as_secs_f64()
}
