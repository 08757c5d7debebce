//! Server without work: it sends no request but watches and renewals of the Lease, and its threads
//! sleep. The test needs a cluster of its own, in which no object changes.

use std::{collections::BTreeMap, time::Duration};

use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT, deployment},
    server::Server,
    wait,
};
use serde_json::json;

use crate::TestCluster;

const FAKE_NODES: usize = 120;
const WORKLOADS: u32 = 20;
/// Duration of the measurement.
const IDLE: Duration = Duration::from_secs(25);
/// Time without a request other than those of an idle server, after which it is idle.
const QUIET: Duration = Duration::from_secs(8);
/// Renewals of the Lease within [`IDLE`]: one every 1.25 to 1.875 s and the time of its request, for
/// which a fifth is allowed.
const RENEWALS: std::ops::RangeInclusive<u64> = 10..=20;
/// Upper bound of voluntary context switches per second, over all threads.
///
/// | cause | per second | switches each |
/// |---|---|---|
/// | renewal of the Lease: timer, request, response | 0.8 | 4 |
/// | iteration of the controller | 0.45 | 1 |
/// | end of the term unless renewed, probe of the API server: timers | 0.5 | 1 |
/// | bookmarks of 20 watches, one a minute each | 0.35 | 2 |
/// | watches of two Secrets, which are started again every 20 s | 0.1 | 6 |
///
/// That is 5.5; a standby has the events of the Lease in place of the first three. The double is
/// allowed, because a woken thread of a runtime may wake a second one that looks for work.
const MAX_SWITCHES_PER_SECOND: u64 = 11;

/// Requests by verb and resource, with component and code.
type Requests = BTreeMap<String, u64>;

fn requests(server: &Server) -> Requests {
    let text = server.get("/metrics");
    let lines = text.lines().filter_map(|line| line.strip_prefix("prewarm_kube_requests_total"));
    let pairs = lines.filter_map(|line| {
        let (labels, count) = line.rsplit_once(' ')?;
        Some((labels.to_owned(), count.parse().ok()?))
    });
    let requests: Requests = pairs.collect();
    assert!(!requests.is_empty(), "{text}");
    requests
}

/// Returns the requests that `later` contains in addition.
fn difference(earlier: &Requests, later: &Requests) -> Requests {
    let added = |(labels, count): (&String, &u64)| {
        let count = count - earlier.get(labels).copied().unwrap_or_default();
        (count > 0).then(|| (labels.clone(), count))
    };
    later.iter().filter_map(added).collect()
}

fn is_watch(labels: &str) -> bool {
    labels.contains("verb=\"watch\"")
}

fn is_renewal(labels: &str) -> bool {
    labels.contains("component=\"election\"") && labels.contains("verb=\"update\"")
}

/// Returns the requests of a server with work.
fn work(requests: &Requests) -> Requests {
    let is_work = |labels: &str| !is_watch(labels) && !is_renewal(labels);
    requests
        .iter()
        .filter(|(labels, _)| is_work(labels))
        .map(|(labels, count)| (labels.clone(), *count))
        .collect()
}

/// Waits until none of the servers has work.
async fn wait_until_idle(servers: &[&Server]) {
    let quiet = || async {
        let before: Vec<Requests> = servers.iter().map(|server| work(&requests(server))).collect();
        tokio::time::sleep(QUIET).await;
        let after: Vec<Requests> = servers.iter().map(|server| work(&requests(server))).collect();
        (before == after).then_some(())
    };
    let idle = wait::until(Duration::from_secs(90), quiet).await;
    assert!(idle.is_some(), "requests do not end: {:#?}", work(&requests(servers[0])));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_sends_only_watches_and_renewals() {
    let cluster = Cluster::dedicated(FAKE_NODES);
    let namespace = cluster.namespace("idle");
    let leader = Server::start(cluster, &namespace, HELPER).await;
    let leads = || async { leader.is_leader().then_some(()) };
    namespace.eventually("a leader", TASK_TIMEOUT, leads).await;
    let standby = Server::standby(cluster, &namespace, HELPER);
    for n in 0..WORKLOADS {
        namespace.apply(&deployment(&format!("web-{n}"), 0, &[&format!("app-{}:1", n % 5)]));
    }
    let spec = json!({"images": ["tool:1"], "nodes": FAKE_NODES, "nodeSelector": {"type": "fake"}});
    namespace.apply_task("all", &spec);
    let status = namespace.wait_until_ended("all", TASK_TIMEOUT * 2).await;
    assert_eq!(status.phase, Phase::Completed, "{status:#?}");
    let done = || async {
        let tasks = namespace.tasks();
        tasks.iter().all(|task| task.phase() == Phase::Completed).then_some(tasks.len())
    };
    let tasks = namespace.eventually("completed tasks", TASK_TIMEOUT, done).await;
    assert!(tasks > 1, "no task was created for the workloads");
    let servers = [&leader, &standby];
    wait_until_idle(&servers).await;

    let before = servers.map(|server| (requests(server), server.voluntary_switches()));
    tokio::time::sleep(IDLE).await;
    // The counters are read before the request for the metrics wakes the server.
    let switches = servers.map(Server::voluntary_switches);
    for (at, name) in ["leader", "standby"].into_iter().enumerate() {
        let (earlier, begun) = &before[at];
        let sent = difference(earlier, &requests(servers[at]));
        let per_second = (switches[at] - begun) / IDLE.as_secs();
        eprintln!("MEASURED idle {name}: {per_second} voluntary context switches/s, {sent:#?}");
        assert_eq!(work(&sent), Requests::new(), "requests of an idle {name}");
        let renewals: u64 =
            sent.iter().filter(|(labels, _)| is_renewal(labels)).map(|(_, count)| count).sum();
        if name == "leader" {
            assert!(RENEWALS.contains(&renewals), "{renewals} renewals");
        } else {
            assert_eq!(renewals, 0, "renewals of a standby");
        }
        assert!(per_second <= MAX_SWITCHES_PER_SECOND, "{name}: {per_second} switches/s");
    }
    assert!(leader.is_leader() && !standby.is_leader());
}
