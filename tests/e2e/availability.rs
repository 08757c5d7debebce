//! Availability of admission during certificate rotation, loss of a replica, and load. The test
//! needs a cluster of its own because it reads the API server's metrics.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::PostParams,
    runtime::{
        WatchStreamExt,
        watcher::{Config, watcher},
    },
};
use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, deployment, env_number, images_in_tasks},
    namespace::Namespace,
    server::{Server, free_address},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::TestCluster;

/// Number of concurrent requests.
const CONCURRENCY: u32 = 8;

/// UIDs of worker pods by node and image.
type Pulls = Arc<Mutex<BTreeMap<(String, String), HashSet<String>>>>;

/// Returns the sum of an API server metric about our webhook, over lines that contain `part`.
fn apiserver_metric(cluster: &Cluster, metric: &str, part: &str) -> u64 {
    let text = cluster.kubectl(&["get", "--raw", "/metrics"], "");
    let ours = text.lines().filter(|line| {
        line.starts_with(metric)
            && line.contains("name=\"workloads.prewarm.io\"")
            && line.contains(part)
    });
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .map(|count| count as u64)
        .sum()
}

/// Returns the number of failed webhook calls. The webhook fails open, so only this metric shows
/// them.
fn failed_open_count(cluster: &Cluster) -> u64 {
    apiserver_metric(cluster, "apiserver_admission_webhook_fail_open_count", "")
}

async fn create_deployments(
    cluster: &Cluster,
    namespace: &str,
    names: Vec<String>,
    images: impl Fn(&str) -> Vec<String>,
    dry: bool,
) -> u32 {
    let api = Api::<Deployment>::namespaced(cluster.client().await, namespace);
    let mut failed = 0;
    for name in names {
        let images = images(&name);
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let object = serde_json::from_value(deployment(&name, 0, &images)).unwrap();
        let how = PostParams { dry_run: dry, ..PostParams::default() };
        failed += u32::from(api.create(&how, &object).await.is_err());
    }
    failed
}

/// Sends reviews while the CA and the serving certificate are replaced every 2 s.
async fn certificate_rotation_under_load(cluster: &'static Cluster) {
    let namespace = cluster.namespace("rotation");
    let image = format!("--worker-image={HELPER}");
    // A machine that is busy for a second must not look like a refused certificate. tests/e2e/hostile.rs
    // asserts latencies.
    let timeout = "--webhook-timeout-seconds=30";
    let words = ["--ca-lifetime=6s", "--certificate-lifetime=6s", timeout, &image];
    let server = Server::with_args(cluster, &namespace, &namespace, &words).await;
    let seconds = env_number("PREWARMER_TEST_ROTATION_SECONDS", 15_u32);
    let (open, calls) = (
        failed_open_count(cluster),
        apiserver_metric(cluster, "apiserver_admission_webhook_request_total", "code=\"200\""),
    );
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let (sent, failed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut load = JoinSet::new();
    for worker in 0..CONCURRENCY {
        let (sent, failed, name) = (Arc::clone(&sent), Arc::clone(&failed), namespace.name.clone());
        load.spawn(async move {
            while Instant::now() < end {
                let names = (0..50).map(|n| format!("w{worker}-{n}")).collect();
                failed.fetch_add(
                    create_deployments(
                        cluster,
                        &name,
                        names,
                        |name| vec![format!("{name}:1")],
                        true,
                    )
                    .await,
                    Ordering::Relaxed,
                );
                sent.fetch_add(50, Ordering::Relaxed);
            }
        });
    }
    load.join_all().await;
    let sent = u64::from(sent.load(Ordering::Relaxed));
    let certificates = server.log().matches("serving a new certificate").count();
    let answered =
        apiserver_metric(cluster, "apiserver_admission_webhook_request_total", "code=\"200\"")
            - calls;
    eprintln!(
        "MEASURED rotation: {sent} requests in {seconds} s, {answered} reviews answered, {certificates} certificates served"
    );
    assert!(
        certificates as u64 >= u64::from(seconds) / 3,
        "only {certificates} certificates:\n{}",
        server.log()
    );
    assert_eq!(failed.load(Ordering::Relaxed), 0, "{}", server.log());
    assert_eq!(failed_open_count(cluster) - open, 0, "{}", server.log());
    assert!(answered >= sent, "only {answered} of {sent} reviews were answered");
}

/// Distributes connections over the backends in turn, like a Service, and skips unavailable ones.
async fn balance(listener: TcpListener, backends: Vec<String>) {
    let mut next = 0;
    while let Ok((mut stream, _)) = listener.accept().await {
        next += 1;
        let turn: Vec<String> =
            (0..backends.len()).map(|n| backends[(next + n) % backends.len()].clone()).collect();
        tokio::spawn(async move {
            for address in turn {
                if let Ok(mut backend) = TcpStream::connect(&address).await {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut backend).await;
                    return;
                }
            }
        });
    }
}

/// Kills one of two replicas while workloads are created: no request fails and every image gets a
/// task.
async fn replica_is_killed(cluster: &'static Cluster) {
    let namespace = cluster.namespace("replicas");
    let front = free_address();
    let listener = TcpListener::bind(&front).await.unwrap();
    let image = format!("--worker-image={HELPER}");
    let words = [image.as_str(), "--webhook-connection-age=1s"];
    let mut replicas = [(); 2].map(|()| Server::behind_front(cluster, &namespace, &front, &words));
    let balancer = tokio::spawn(balance(
        listener,
        replicas.iter().map(|server| server.webhook().to_owned()).collect(),
    ));
    let limit = Duration::from_secs(30);
    let leader = || async { replicas.iter().position(Server::is_leader) };
    let leader = namespace.eventually("a leader", limit, leader).await;
    replicas[leader].wait_until_ready().await;
    let open = failed_open_count(cluster);
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (stop, name) = (Arc::clone(&stop), namespace.name.clone());
        tokio::spawn(async move {
            let (mut made, mut failed) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                failed += create_deployments(
                    cluster,
                    &name,
                    vec![format!("web-{made}")],
                    |name| vec![format!("{name}:1")],
                    false,
                )
                .await;
                made += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (made, failed)
        })
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    let both: Vec<u64> = replicas.iter().map(Server::review_count).collect();
    assert!(
        both.iter().all(|count| *count > 0),
        "connections do not reach both replicas: {both:?}"
    );
    replicas[leader].kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    let (made, failed) = load.await.unwrap();
    assert_eq!(failed, 0, "of {made}");
    // The review that the replica was answering when it was killed.
    let open = failed_open_count(cluster) - open;
    assert!(open <= 1, "{open} of {made} admissions without a review");
    eprintln!("MEASURED two replicas, one killed: {made} Deployments created, none rejected");
    let all = || async { (images_in_tasks(&namespace).len() == made).then_some(()) };
    namespace.eventually(&format!("tasks for {made} images"), Duration::from_secs(60), all).await;
    assert!(images_in_tasks(&namespace).values().all(|tasks| *tasks == 1));
    balancer.abort();
}

/// Records the images that worker pods pull, by node.
async fn record_pulls(cluster: &Cluster, namespace: &Namespace, pulls: Pulls) {
    let api = Api::<Pod>::namespaced(cluster.client().await, &namespace.name);
    let config = Config::default().labels("app.kubernetes.io/managed-by=prewarmer");
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
        while let Some(pod) = stream.next().await {
            let Ok(pod) = pod else { continue };
            let (uid, spec) = (pod.uid().unwrap(), pod.spec.unwrap());
            let node = spec.node_name.unwrap();
            let mut pulls = pulls.lock().unwrap();
            for image in
                spec.volumes.into_iter().flatten().filter_map(|volume| volume.image?.reference)
            {
                pulls.entry((node.clone(), image)).or_default().insert(uid.clone());
            }
        }
    });
}

/// Number of Deployments in [`many_deployments`] that share an image and a node.
const SHARED_BY: u32 = 10;

/// Creates hundreds of Deployments with three images each at the same time. Two of the images are
/// their own, and ten Deployments of a node share the third.
async fn many_deployments(cluster: &'static Cluster) {
    let namespace = cluster.namespace("crowd");
    let image = format!("--worker-image={HELPER}");
    let server =
        Server::with_args(cluster, &namespace, &namespace, &[&image, "--coalesce-window=1s"]).await;
    let pulls = Pulls::default();
    record_pulls(cluster, &namespace, Arc::clone(&pulls)).await;
    let many = env_number("PREWARMER_TEST_CROWD", 100_u32);
    let open = failed_open_count(cluster);
    let bucket = "apiserver_admission_webhook_admission_duration_seconds_bucket";
    let counts = |le: &str| apiserver_metric(cluster, bucket, le);
    let before = [counts("le=\"0.005\""), counts("le=\"+Inf\"")];
    let begun = Instant::now();
    let of = |n: u32| {
        let group = n / SHARED_BY;
        let images = [format!("w{n}/a:1"), format!("w{n}/b:1"), format!("shared{group}/c:1")];
        let mut object = deployment(&format!("w{n}"), 0, &images.each_ref().map(String::as_str));
        object["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/hostname"] =
            json!(format!("node-{:04}", group % 10 + 1));
        object
    };
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": (0..many).map(of).collect::<Vec<_>>()}));
    let took = begun.elapsed();
    let within = [counts("le=\"0.005\"") - before[0], counts("le=\"+Inf\"") - before[1]];
    let images = many as usize * 2 + many.div_ceil(SHARED_BY) as usize;
    let limit = Duration::from_secs(60 + u64::from(many));
    let all = || async {
        let tasks = namespace.tasks();
        let done = tasks.iter().all(|task| task.phase() == Phase::Completed);
        (done && images_in_tasks(&namespace).len() == images).then_some(tasks.len())
    };
    let tasks = namespace.eventually(&format!("{images} warm images"), limit, all).await;
    eprintln!(
        "MEASURED a crowd: {many} Deployments of {images} images in {:.1} s; {tasks} tasks; {} of {} reviews within 5 ms, as measured by the \
         API server",
        took.as_secs_f64(),
        within[0],
        within[1]
    );
    // One task for each group of Deployments, which share a node, and one more where a window ends within
    // a group; the windows of a second, and parts of one before and after them.
    let windows = usize::try_from(took.as_secs()).unwrap() + 2;
    let most = many.div_ceil(SHARED_BY) as usize + windows;
    assert!(tasks <= most, "{tasks} tasks, at most {most}");
    assert!(
        images_in_tasks(&namespace).values().all(|tasks| *tasks == 1),
        "an image is in two tasks"
    );
    let pulls = pulls.lock().unwrap();
    assert_eq!(pulls.len(), images);
    assert!(pulls.values().all(|pods| pods.len() == 1), "an image was pulled twice to a node");
    assert_eq!(failed_open_count(cluster) - open, 0);
    assert!(
        server.get("/metrics").contains("\nprewarm_workloads_recovered_total 0\n"),
        "hints were lost"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_stays_available() {
    let cluster = Cluster::dedicated(10);
    certificate_rotation_under_load(cluster).await;
    replica_is_killed(cluster).await;
    many_deployments(cluster).await;
}
