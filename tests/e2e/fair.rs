//! Fairness between namespaces: what one of them asks for, or has the bad luck to ask for, does not hold up another.

use std::time::{Duration, Instant};

use crate::harness::{Cluster, Namespace, Server};
use serde_json::{Value, json};

const HELPER: &str = "--worker-image=registry.example/prewarmer-helper:1";
/// Longer than any task of a healthy registry here may take, and shorter than the time-out of a node.
const LONG: Duration = Duration::from_secs(60);
/// What another namespace may cost a task.
const DELAY: Duration = Duration::from_secs(10);
/// Tasks that run at once by default.
const PLACES: usize = 10;

fn spec(images: &[&str]) -> Value {
    json!({"images": images, "nodeSelector": {"type": "fake"}, "imagePullPolicy": "Always"})
}

/// Runs a task to its end; how long that took, and its status.
async fn run(namespace: &Namespace, name: &str, spec: &Value) -> (Duration, Value) {
    let begun = Instant::now();
    namespace.apply_task(name, spec);
    let status = namespace.ended(name, LONG).await;
    assert_eq!(status["phase"], "Completed", "{status:#}");
    (begun.elapsed(), status)
}

/// Waits until workers of the namespace wait in the kubelet's back-off.
async fn wait_for_back_off(namespace: &Namespace, least: usize) {
    let reason = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let waiting = || async {
        let pods = namespace.get("pods");
        (pods.iter().filter(|pod| reason(pod) == "ErrImagePull").count() >= least).then_some(())
    };
    namespace.eventually("workers that wait for the registry", LONG, waiting).await;
}

/// Ten tasks without a deadline take every place; five nodes wait for the registry until the time-out of 10 minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_registry_of_one_namespace_delays_no_other() {
    let cluster = Cluster::own(20);
    let (own, bank, shop) = (cluster.namespace("own"), cluster.namespace("bank"), cluster.namespace("shop"));
    let server = Server::everywhere(cluster, &own, cluster.var("KUBECONFIG"), &[HELPER]).await;
    let (alone, _) = run(&shop, "alone", &spec(&["good.example/a:1"])).await;

    let mut five = spec(&["dead.example/unreachable:1"]);
    five["nodes"] = json!(5);
    bank.apply_task("five-nodes", &five);
    // After the third node the registry is probed by two workers alone, and the others give up their nodes.
    wait_for_back_off(&bank, 2).await;
    let (beside, status) = run(&shop, "beside-five-nodes", &spec(&["good.example/b:1"])).await;
    eprintln!("alone {alone:?}; beside five nodes in back-off {beside:?}, batches end at {}", status["batchEnds"]);
    assert!(beside < alone + DELAY, "alone {alone:?}, beside five nodes in back-off {beside:?}");

    for number in 1..PLACES {
        bank.apply_task(&format!("t{number}"), &spec(&[&format!("dead.example/unreachable:{number}")]));
    }
    wait_for_back_off(&bank, 10).await;
    let (beside, status) = run(&shop, "beside-ten-tasks", &spec(&["good.example/c:1"])).await;
    eprintln!("alone {alone:?}; beside ten tasks {beside:?}, batches end at {}", status["batchEnds"]);
    assert!(beside < alone + DELAY, "alone {alone:?}, beside ten tasks {beside:?}\n{}", server.log());
}
