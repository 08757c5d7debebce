//! A steady day: what the server holds (memory, file descriptors, threads, series of metrics) stays flat.
//!
//! `make test` runs half a minute, which shows that the load works and that nothing grows fast; `make test-long` sets
//! `PREWARMER_TEST_SOAK_SECONDS` to 3600.

use std::time::{Duration, Instant};

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v1::Scale};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::{
    admission::deployment,
    caller::Caller,
    chaos::{HELPER, number},
    harness::{Cluster, Namespace, Server},
};

/// Samples are taken this often.
const SAMPLE: Duration = Duration::from_secs(5);
/// A Deployment lives so many seconds: rollouts, scale-ups and deletions overlap.
const DEPLOYMENT_LIFE: usize = 20;
/// A watcher stays for this long.
const WATCH: Duration = Duration::from_secs(8);

/// Nodes of each task, of four tasks in three seconds: 8 nodes a second, a third of what two busy cores have time for. A load that
/// exceeds this leaves tasks waiting, and these take memory.
const NODES: usize = 6;
/// Tasks that may wait at the end of a steady load: those of half a minute.
const MOST_WAITING: u64 = 40;

/// What the server holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Resident memory, in KiB.
    resident: u64,
    descriptors: u64,
    threads: u64,
    series: u64,
}

impl Held {
    fn now(server: &Server) -> Self {
        let text = server.get("/metrics");
        let series = text.lines().filter(|line| line.starts_with("prewarm_")).count() as u64;
        Self { resident: server.resident(), descriptors: server.descriptors(), threads: server.threads(), series }
    }

    fn most(samples: &[Self]) -> Self {
        let most = |figure: fn(&Self) -> u64| samples.iter().map(figure).max().unwrap();
        Self {
            resident: most(|held| held.resident),
            descriptors: most(|held| held.descriptors),
            threads: most(|held| held.threads),
            series: most(|held| held.series),
        }
    }
}

/// Follows the newest task by server-sent events for a while.
async fn watch(address: String, token: String, id: String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /api/v1/tasks/{id}/watch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 16 << 10];
    let read = async { while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    let _ = tokio::time::timeout(WATCH, read).await;
}

/// Signs in as a browser does, and opens the first page.
async fn sign_in(address: &str, token: &str) {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let form = format!("token={token}&next=%2Fui");
    let request = client.post(format!("http://{address}/ui/sign-in")).body(form);
    let request =
        request.header("content-type", "application/x-www-form-urlencoded").header("sec-fetch-site", "same-origin");
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_redirection(), "{answer:?}");
    let page = client.get(format!("http://{address}/ui")).header("cookie", format!("__Host-prewarmer={token}"));
    assert!(page.send().await.unwrap().status().is_success());
}

/// One second of the day.
async fn second(n: usize, deployments: &Api<Deployment>, caller: &Caller, server: &Server, crowd: &mut JoinSet<()>) {
    let name = |n: usize| format!("web-{n}");
    let mut object = deployment(&name(n), 0, &[&format!("app-{n}:1")]);
    object["metadata"]["annotations"]["prewarm.io/nodes"] = json!(NODES.to_string());
    let object = serde_json::from_value(object).unwrap();
    deployments.create(&PostParams::default(), &object).await.unwrap();
    if let Some(older) = n.checked_sub(DEPLOYMENT_LIFE / 2) {
        let scale = Scale {
            metadata: kube::core::ObjectMeta { name: Some(name(older)), ..Default::default() },
            spec: Some(k8s_openapi::api::autoscaling::v1::ScaleSpec { replicas: Some(2) }),
            ..Scale::default()
        };
        deployments.patch_scale(&name(older), &PatchParams::default(), &Patch::Merge(scale)).await.unwrap();
    }
    if let Some(old) = n.checked_sub(DEPLOYMENT_LIFE) {
        let _ = deployments.delete(&name(old), &DeleteParams::background()).await;
    }
    if n.is_multiple_of(3) {
        let body = json!({"images": [format!("rest-{n}:1")], "nodeSelector": {"type": "fake"}, "nodes": NODES,
            "ttlSecondsAfterFinished": 20});
        let id = caller.task(&body).await;
        for _ in 0..3 {
            crowd.spawn(watch(server.api().to_owned(), caller.secret().to_owned(), id.clone()));
        }
    }
    if n.is_multiple_of(2) {
        sign_in(server.api(), caller.secret()).await;
    }
}

/// Descriptors of a server at rest, beside those that it had before its first call: connections to the API server, of which as many
/// as were used at once are kept for 90 s. One lost for each watch and sign-in would be 45 in half a minute.
const KEPT: u64 = 40;

async fn soak(cluster: &'static Cluster, namespace: &Namespace, seconds: usize) -> Vec<Held> {
    let image = format!("--worker-image={HELPER}");
    let words = [image.as_str(), "--admission-task-ttl-seconds=30"];
    let server = Server::with(cluster, namespace, namespace, &words).await;
    let caller = Caller::editor(&server, namespace);
    let deployments = Api::<Deployment>::namespaced(cluster.client().await, &namespace.name);
    namespace.eventually("a leader", Duration::from_secs(30), || async { server.leads().then_some(()) }).await;
    let at_rest = Held::now(&server);
    let (begun, mut crowd, mut samples, mut last_sample) = (Instant::now(), JoinSet::new(), Vec::new(), Instant::now());
    for n in 0..seconds {
        let due = begun + Duration::from_secs(n as u64);
        tokio::time::sleep_until(due.into()).await;
        second(n, &deployments, &caller, &server, &mut crowd).await;
        while crowd.try_join_next().is_some() {}
        if last_sample.elapsed() >= SAMPLE {
            last_sample = Instant::now();
            samples.push(Held::now(&server));
        }
        if n > 0 && n.is_multiple_of(300) {
            eprintln!("after {n} s: {:?}", Held::now(&server));
        }
    }
    crowd.join_all().await;
    // Nobody calls any more, so that what is still open is lost.
    let rests = || async { (server.descriptors() <= at_rest.descriptors + KEPT).then_some(()) };
    namespace.eventually("the descriptors of a server at rest", Duration::from_secs(30), rests).await;
    let metrics = server.get("/metrics");
    let waiting =
        metrics.lines().find_map(|line| line.strip_prefix("prewarm_task_places{state=\"waiting\"} ")).unwrap();
    assert!(
        waiting.parse::<u64>().unwrap() <= MOST_WAITING,
        "{waiting} tasks wait: the load is more than this machine can work on"
    );
    assert!(metrics.contains("\nprewarm_leader 1\n"), "it does not lead any more:\n{}", server.log());
    samples
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_stays_flat() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("soak");
    let seconds = number("PREWARMER_TEST_SOAK_SECONDS", 30);
    let samples = soak(cluster, &namespace, seconds).await;
    // The first sixth (ten minutes of an hour) fills caches; of the rest, the second half must not hold more than the first.
    let steady = &samples[samples.len() / 6..];
    let (before, after) = steady.split_at(steady.len() / 2);
    let (first, last) = (Held::most(before), Held::most(after));
    eprintln!("{seconds} s: at the most {first:?} in the first half after warming up, {last:?} in the second");
    // In half a minute caches are still filling: only what grows fast is found.
    let slack = if seconds >= 600 { 4 * 1024 } else { 24 * 1024 };
    assert!(last.resident <= first.resident + slack, "memory grows: {samples:#?}");
    // How many calls are under way at once is the machine's speed; half a minute does not average it.
    let slack = if seconds >= 600 { 16 } else { 64 };
    assert!(last.descriptors <= first.descriptors + slack, "file descriptors grow: {samples:#?}");
    assert!(last.threads <= first.threads + 4, "threads grow: {samples:#?}");
    assert!(last.series <= first.series + 8, "series of metrics grow: {samples:#?}");
}
