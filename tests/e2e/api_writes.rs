//! Number of API writes that a task costs, of all components.

use std::{collections::BTreeMap, time::Duration};

use prewarmer_api::task::Phase;
use prewarmer_test_support::{cluster::Cluster, fixtures::HELPER, server::Server};
use serde_json::json;

use crate::TestCluster;

const NODES: u64 = 100;
const BATCHES: u64 = 2;
/// Writes of a Job and its pod that Kubernetes cannot do without, see
/// `docs/develop/kubernetes-facts.md`.
const WRITES_PER_JOB: u64 = 7;

/// Returns the number of writes that the API server has stored, by verb and resource with its
/// subresource. The fake kubelet deletes pods that it has seen deleted; such requests fail, and are
/// not counted.
fn writes(cluster: &Cluster) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let text = cluster.kubectl(&["get", "--raw", "/metrics"], "");
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            line.split_once(&format!("{name}=\""))
                .and_then(|(_, rest)| rest.split_once('"'))
                .map_or("", |(value, _)| value)
        };
        let counts = ["POST", "PUT", "PATCH", "DELETE", "DELETECOLLECTION"]
            .contains(&label("verb"))
            && ["jobs", "pods", "prewarmtasks", "prewarmplans"].contains(&label("resource"))
            && label("code").starts_with('2');
        if counts {
            let (verb, resource, part) = (label("verb"), label("resource"), label("subresource"));
            let number: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            *found.entry(format!("{verb} {resource} {part}")).or_default() += number;
        }
    }
    found
}

/// The server costs at most 5 % more writes than the smallest possible number: the deletion of a
/// batch of Jobs is two requests, and kube-controller-manager deletes no pod.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_cost_at_most_five_percent_more_writes_than_necessary() {
    let cluster = Cluster::dedicated(usize::try_from(NODES).unwrap());
    let namespace = cluster.namespace("writes");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let before = writes(cluster);
    let spec = json!({"images": ["a:1", "b:1"], "nodeSelector": {"type": "fake"},
                      "batchSize": NODES / BATCHES});
    namespace.apply_task("t", &spec);
    let ended = namespace.wait_until_ended("t", Duration::from_secs(120)).await;
    assert_eq!((ended.phase, ended.succeeded_nodes), (Phase::Completed, 100), "{ended:#?}");
    let gone = || async { namespace.get("jobs,pods").is_empty().then_some(()) };
    namespace.eventually("deletion of all Jobs and pods", Duration::from_secs(30), gone).await;
    let mut cost = writes(cluster);
    for (what, number) in before {
        *cost.get_mut(&what).unwrap() -= number;
    }
    let necessary = NODES * WRITES_PER_JOB + 2 * BATCHES;
    let total: u64 = cost.values().sum();
    assert!(total <= necessary * 105 / 100, "{total} writes, {necessary} necessary: {cost:#?}");
    assert!(total >= NODES * WRITES_PER_JOB, "not all writes were counted: {cost:#?}");
}
