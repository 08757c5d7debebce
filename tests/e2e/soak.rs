//! Steady load: memory, file descriptors, threads and metric series of the server do not grow.
//!
//! `make test` runs half a minute, which shows that the load works and that no figure grows fast;
//! `make test-long` sets `PREWARMER_TEST_SOAK_SECONDS` to 3600.

use std::time::{Duration, Instant};

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v1::Scale};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, deployment, env_number},
    namespace::Namespace,
    rest::RestClient,
    server::Server,
};
use serde_json::json;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::TestCluster;

/// Interval between samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
/// Lifetime of a Deployment, in seconds, so that rollouts, scale-ups and deletions overlap.
const DEPLOYMENT_LIFE: usize = 20;
/// Duration of a watch.
const WATCH_DURATION: Duration = Duration::from_secs(8);

/// Nodes of each task. Four tasks start in three seconds, which is 8 nodes per second: a third of what
/// two busy cores can work on. A higher load leaves tasks waiting, and waiting tasks take memory.
const NODES_PER_TASK: usize = 6;
/// Tasks that may wait at the end of a steady load: those of half a minute.
const MAX_WAITING_TASKS: u64 = 40;

/// Resources that the server holds.
#[derive(Debug, Clone, Copy)]
struct ResourceUsage {
    /// Resident memory, in KiB.
    resident: u64,
    descriptors: u64,
    threads: u64,
    series: u64,
}

impl std::fmt::Display for ResourceUsage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { resident, descriptors, threads, series } = self;
        write!(
            out,
            "{resident} KiB resident, {descriptors} file descriptors, {threads} threads, {series} series of metrics"
        )
    }
}

impl ResourceUsage {
    fn measure(server: &Server) -> Self {
        let text = server.get("/metrics");
        let series = text.lines().filter(|line| line.starts_with("prewarm_")).count() as u64;
        Self {
            resident: server.resident_kib(),
            descriptors: server.descriptor_count(),
            threads: server.thread_count(),
            series,
        }
    }

    fn maximum(samples: &[Self]) -> Self {
        let most = |figure: fn(&Self) -> u64| samples.iter().map(figure).max().unwrap();
        Self {
            resident: most(|held| held.resident),
            descriptors: most(|held| held.descriptors),
            threads: most(|held| held.threads),
            series: most(|held| held.series),
        }
    }
}

/// Follows a task by server-sent events for a while.
async fn watch_task(address: String, token: String, id: String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /api/v1/tasks/{id}/watch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 16 << 10];
    let read = async { while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    let _ = tokio::time::timeout(WATCH_DURATION, read).await;
}

/// Signs in as a browser does and opens the first page.
async fn sign_in(address: &str, token: &str) {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let form = format!("token={token}&next=%2Fui");
    let request = client.post(format!("http://{address}/ui/sign-in")).body(form);
    let request = request
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin");
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_redirection(), "{answer:?}");
    let page = client
        .get(format!("http://{address}/ui"))
        .header("cookie", format!("__Host-prewarmer={token}"));
    assert!(page.send().await.unwrap().status().is_success());
}

/// Creates the load of one second.
async fn run_one_second(
    n: usize,
    deployments: &Api<Deployment>,
    caller: &RestClient,
    server: &Server,
    crowd: &mut JoinSet<()>,
) {
    let name = |n: usize| format!("web-{n}");
    let mut object = deployment(&name(n), 0, &[&format!("app-{n}:1")]);
    object["metadata"]["annotations"]["prewarm.io/nodes"] = json!(NODES_PER_TASK.to_string());
    let object = serde_json::from_value(object).unwrap();
    deployments.create(&PostParams::default(), &object).await.unwrap();
    if let Some(older) = n.checked_sub(DEPLOYMENT_LIFE / 2) {
        let scale = Scale {
            metadata: kube::core::ObjectMeta { name: Some(name(older)), ..Default::default() },
            spec: Some(k8s_openapi::api::autoscaling::v1::ScaleSpec { replicas: Some(2) }),
            ..Scale::default()
        };
        deployments
            .patch_scale(&name(older), &PatchParams::default(), &Patch::Merge(scale))
            .await
            .unwrap();
    }
    if let Some(old) = n.checked_sub(DEPLOYMENT_LIFE) {
        let _ = deployments.delete(&name(old), &DeleteParams::background()).await;
    }
    if n.is_multiple_of(3) {
        let body = json!({"images": [format!("rest-{n}:1")], "nodeSelector": {"type": "fake"}, "nodes": NODES_PER_TASK,
            "ttlSecondsAfterFinished": 20});
        let id = caller.create_task(&body).await;
        for _ in 0..3 {
            crowd.spawn(watch_task(
                server.api().to_owned(),
                caller.bearer_token().to_owned(),
                id.clone(),
            ));
        }
    }
    if n.is_multiple_of(2) {
        sign_in(server.api(), caller.bearer_token()).await;
    }
}

/// Number of descriptors that an idle server may have in addition to those before its first call:
/// connections to the API server, which are kept for 90 s up to the number used at the same time. A
/// leak of one per watch and sign-in would be 45 in half a minute.
const MAX_EXTRA_DESCRIPTORS: u64 = 40;

async fn run_soak(
    cluster: &'static Cluster,
    namespace: &Namespace,
    seconds: usize,
) -> Vec<ResourceUsage> {
    let image = format!("--worker-image={HELPER}");
    let words = [image.as_str(), "--admission-task-ttl-seconds=30"];
    let server = Server::with_args(cluster, namespace, namespace, &words).await;
    let caller = RestClient::editor(&server, namespace);
    let deployments = Api::<Deployment>::namespaced(cluster.client().await, &namespace.name);
    namespace
        .eventually("a leader", Duration::from_secs(30), || async {
            server.is_leader().then_some(())
        })
        .await;
    let at_rest = ResourceUsage::measure(&server);
    let (begun, mut crowd, mut samples, mut last_sample) =
        (Instant::now(), JoinSet::new(), Vec::new(), Instant::now());
    for n in 0..seconds {
        let due = begun + Duration::from_secs(n as u64);
        tokio::time::sleep_until(due.into()).await;
        run_one_second(n, &deployments, &caller, &server, &mut crowd).await;
        while crowd.try_join_next().is_some() {}
        if last_sample.elapsed() >= SAMPLE_INTERVAL {
            last_sample = Instant::now();
            samples.push(ResourceUsage::measure(&server));
        }
        if n > 0 && n.is_multiple_of(300) {
            eprintln!("MEASURED after {n} s: {}", ResourceUsage::measure(&server));
        }
    }
    crowd.join_all().await;
    // No client calls any more, so descriptors that stay open are leaked.
    let rests = || async {
        (server.descriptor_count() <= at_rest.descriptors + MAX_EXTRA_DESCRIPTORS).then_some(())
    };
    namespace
        .eventually("the descriptor count of an idle server", Duration::from_secs(30), rests)
        .await;
    let metrics = server.get("/metrics");
    let waiting = metrics
        .lines()
        .find_map(|line| line.strip_prefix("prewarm_task_places{state=\"waiting\"} "))
        .unwrap();
    assert!(
        waiting.parse::<u64>().unwrap() <= MAX_WAITING_TASKS,
        "{waiting} tasks are waiting: the load exceeds what this machine can work on"
    );
    assert!(
        metrics.contains("\nprewarm_leader 1\n"),
        "the server is no longer the leader:\n{}",
        server.log()
    );
    samples
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_usage_stays_flat() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("soak");
    let seconds = env_number("PREWARMER_TEST_SOAK_SECONDS", 30);
    let samples = run_soak(cluster, &namespace, seconds).await;
    // The first sixth (ten minutes of an hour) fills caches. In the rest, the second half must not
    // hold more than the first.
    let steady = &samples[samples.len() / 6..];
    let (before, after) = steady.split_at(steady.len() / 2);
    let (first, last) = (ResourceUsage::maximum(before), ResourceUsage::maximum(after));
    eprintln!(
        "MEASURED {seconds} s: at most {first} in the first half after warm-up, {last} in the second"
    );
    // Caches still fill during half a minute, so the short form finds fast growth only.
    let slack = if seconds >= 600 { 4 * 1024 } else { 24 * 1024 };
    assert!(last.resident <= first.resident + slack, "memory grows: {samples:#?}");
    // The number of concurrent calls depends on the speed of the machine, which half a minute does
    // not average.
    let slack = if seconds >= 600 { 16 } else { 64 };
    assert!(last.descriptors <= first.descriptors + slack, "file descriptors grow: {samples:#?}");
    assert!(last.threads <= first.threads + 4, "threads grow: {samples:#?}");
    assert!(last.series <= first.series + 8, "series of metrics grow: {samples:#?}");
}
