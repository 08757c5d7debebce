//! Fairness between namespaces: load and failures of one namespace do not delay another.

use std::time::{Duration, Instant};

use prewarmer_api::task::{Phase, PrewarmTaskStatus};
use prewarmer_test_support::{
    cluster::Cluster, fixtures::HELPER, namespace::Namespace, server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Timeout for a task: longer than any task with a healthy registry takes here, and shorter than
/// the timeout of a node.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum delay of a task caused by another namespace.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// Number of concurrent tasks by default.
const MAX_CONCURRENT_TASKS: usize = 10;

fn spec(images: &[&str]) -> Value {
    json!({"images": images, "nodeSelector": {"type": "fake"}, "imagePullPolicy": "Always"})
}

/// Runs a task until it has ended; returns the duration and its status.
async fn run_task(
    namespace: &Namespace,
    name: &str,
    spec: &Value,
) -> (Duration, PrewarmTaskStatus) {
    let begun = Instant::now();
    namespace.apply_task(name, spec);
    let status = namespace.wait_until_ended(name, TIMEOUT).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    (begun.elapsed(), status)
}

/// Waits until at least `least` workers of the namespace are in the kubelet's image pull backoff.
async fn wait_for_backoff(namespace: &Namespace, least: usize) {
    let reason =
        |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let waiting = || async {
        let pods = namespace.get("pods");
        (pods.iter().filter(|pod| reason(pod) == "ErrImagePull").count() >= least).then_some(())
    };
    namespace.eventually("workers in image pull backoff", TIMEOUT, waiting).await;
}

/// Verifies the delay while first five nodes and then ten tasks without a deadline wait for an
/// unresponsive registry, until the timeout of 10 minutes.
#[tokio::test(flavor = "multi_thread")]
async fn dead_registry_does_not_delay_other_namespaces() {
    let cluster = Cluster::dedicated(20);
    let (own, bank, shop) =
        (cluster.namespace("own"), cluster.namespace("bank"), cluster.namespace("shop"));
    let server = Server::watching_all_namespaces(
        cluster,
        &own,
        cluster.var("KUBECONFIG"),
        &[&format!("--worker-image={HELPER}")],
    )
    .await;
    let (alone, _) = run_task(&shop, "alone", &spec(&["good.example/a:1"])).await;

    let mut five = spec(&["dead.example/unreachable:1"]);
    five["nodes"] = json!(5);
    bank.apply_task("five-nodes", &five);
    // After failures on three nodes, two workers probe the registry, and the others release their
    // nodes.
    wait_for_backoff(&bank, 2).await;
    let (with_others, status) =
        run_task(&shop, "next-to-five-nodes", &spec(&["good.example/b:1"])).await;
    eprintln!(
        "alone {alone:?}; next to five nodes in backoff {with_others:?}, batches end at {:?}",
        status.batch_ends
    );
    assert!(
        with_others < alone + MAX_DELAY,
        "alone {alone:?}, next to five nodes in backoff {with_others:?}"
    );

    for number in 1..MAX_CONCURRENT_TASKS {
        bank.apply_task(
            &format!("t{number}"),
            &spec(&[&format!("dead.example/unreachable:{number}")]),
        );
    }
    wait_for_backoff(&bank, 10).await;
    let (with_others, status) =
        run_task(&shop, "next-to-ten-tasks", &spec(&["good.example/c:1"])).await;
    eprintln!(
        "alone {alone:?}; next to ten tasks {with_others:?}, batches end at {:?}",
        status.batch_ends
    );
    assert!(
        with_others < alone + MAX_DELAY,
        "alone {alone:?}, next to ten tasks {with_others:?}\n{}",
        server.log()
    );
}
