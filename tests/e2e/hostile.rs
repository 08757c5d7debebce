//! One hostile tenant, and an unauthenticated client that can open connections, against a complete
//! installation, while another tenant works normally.
//!
//! All attacks run at the same time, on a cluster of the test's own, because they also load its API
//! server.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Bytes;
use futures::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, core::v1::ConfigMap};
use kube::{Api, api::PostParams};
use prewarmer_api::annotations::{IMAGES_ANNOTATION, NODE_ANNOTATION};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, deployment, env_number, images_in_tasks, worker_labels},
    namespace::Namespace,
    server::Server,
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::TestCluster;

/// Number of fake nodes.
const FAKE_NODES: usize = 60;
/// Default duration of the attacks, in seconds; `PREWARMER_TEST_ATTACK_SECONDS` overrides it.
const ATTACK_SECONDS: usize = 45;
/// Number of idle connections to each port.
const IDLE_CONNECTIONS: usize = 3000;
/// Number of fake workers.
const FAKE_WORKERS: usize = 500;
/// Total number of forged reviews.
const FORGED_REVIEWS: usize = 20_000;
/// Maximum number of connections that the attackers open in total, to bound the test.
const MAX_CONNECTIONS: usize = 30_000;
/// Timeout of the webhook: no admission of the other tenant waits longer for it.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Probes of the chart.
const PROBES: [ProbeSettings; 2] = [
    ProbeSettings { path: "/healthz", timeout: Duration::from_secs(2), failure_threshold: 2 },
    ProbeSettings { path: "/readyz", timeout: Duration::from_secs(5), failure_threshold: 3 },
];
/// Bound on the server's memory, in KiB. It applies to anonymous memory of a debug build, whose
/// program alone takes about 60 MB, and to all resident memory of a release build
/// (`PREWARMER_TEST_PROGRAM`).
const MAX_RESIDENT: u64 = 128 * 1024;

/// Settings of a probe, with the names of the Kubernetes API.
struct ProbeSettings {
    path: &'static str,
    timeout: Duration,
    /// Number of failures in succession at which the kubelet restarts the container, or removes it
    /// from the Service.
    failure_threshold: usize,
}

/// Durations at and beyond the limits of a duration field.
const DURATIONS: [&str; 8] = [
    "0s",
    "1ns",
    "24h1s",
    "8760h",
    "5124095576030430h59m",
    "99999999999999999h",
    "0.000000001ms",
    "-1h",
];

/// Returns specs with one extreme value each.
fn invalid_specs() -> Vec<Value> {
    let base = || json!({"images": ["poison:1"], "nodeSelector": {"type": "fake"}});
    let with = |field: &str, value: Value| {
        let mut spec = base();
        spec[field] = value;
        spec
    };
    let mut specs = Vec::new();
    for duration in DURATIONS {
        for field in ["timeout", "deadline", "retain"] {
            specs.push(with(field, json!(duration)));
        }
        specs.push(with("retry", json!({"limit": 5, "delay": duration})));
    }
    for extreme in [
        json!(0),
        json!(-1),
        json!(101),
        json!(i64::MAX),
        json!("101%"),
        json!("0%"),
        json!("\u{202e}5%"),
    ] {
        for field in
            ["batchSize", "nodes", "priority", "ttlSecondsAfterFinished", "successThreshold"]
        {
            specs.push(with(field, extreme.clone()));
        }
        specs.push(with("retry", json!({"limit": extreme})));
    }
    let long: Vec<String> =
        (0..100).map(|n| format!("r.example/{}:{n}", "a".repeat(500))).collect();
    specs.push(with("images", json!(long)));
    specs.push(with("images", json!(["\u{0000}", "ünïcode:1", "a:1\u{202e}", "🔥/🔥:🔥", ""])));
    specs.push(with("images", json!(vec!["a:1"; 10_000])));
    let many: serde_json::Map<String, Value> =
        (0..20_000).map(|n| (format!("label-{n:05}"), json!("x".repeat(20)))).collect();
    specs.push(with("nodeSelector", json!(many)));
    specs.push(with(
        "tolerations",
        json!(vec![json!({"operator": "Exists", "key": "k".repeat(300)}); 2000]),
    ));
    let term = json!({"matchExpressions": [{"key": "k", "operator": "In", "values": vec!["v".repeat(50); 10_000]}]});
    specs.push(with("nodeAffinity", json!({"nodeSelectorTerms": [term]})));
    specs.push(with("imagePullSecrets", json!(vec![json!({"name": "s".repeat(250)}); 3000])));
    specs.push(with(
        "notify",
        json!([{"url": format!("https://h.example/{}", "x".repeat(900_000))}]),
    ));
    specs
}

/// Creates the invalid tasks without schema validation, as an older or wrong definition would have
/// admitted them. Returns the number of tasks created.
fn create_invalid_tasks(cluster: &Cluster, bank: &Namespace) -> usize {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "prewarmtasks.prewarm.io"},
        "spec": {"group": "prewarm.io", "scope": "Namespaced",
            "names": {"kind": "PrewarmTask", "listKind": "PrewarmTaskList", "plural": "prewarmtasks", "singular": "prewarmtask", "shortNames": ["pwt"], "categories": ["prewarm"]},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": open}, "subresources": {"status": {}}}]}});
    cluster.kubectl(&["replace", "-f", "-"], &definition.to_string());
    let specs = invalid_specs();
    let made = specs.iter().enumerate().filter(|(n, spec)| {
        let task = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask",
            "metadata": {"name": format!("poison-{n}"), "namespace": bank.name}, "spec": spec});
        // The changed definition takes effect after a short delay; objects of a megabyte and more
        // are rejected for their size.
        (0..10).any(|_| {
            cluster.try_kubectl(&["create", "--validate=false", "-f", "-"], &task.to_string()).0
        })
    });
    let made = made.count();
    let crds =
        std::process::Command::new(env!("CARGO_BIN_EXE_prewarmer")).arg("crds").output().unwrap();
    let crds = String::from_utf8_lossy(&crds.stdout).into_owned();
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &crds);
    made
}

/// Returns a foreign Job with the labels of a worker.
fn fake_worker(n: usize) -> Value {
    let labels = worker_labels(&format!("uid-{n}"), &format!("node-{n:04}"));
    let node = format!("node-{:04}", n % 60 + 1);
    let annotations = json!({NODE_ANNOTATION: node, IMAGES_ANNOTATION: "0,999,65535"});
    let pod =
        json!({"restartPolicy": "Never", "containers": [{"name": "image-0", "image": "a:1"}]});
    json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": format!("prewarm-{n:020x}"), "labels": labels, "annotations": annotations},
        "spec": {"suspend": true, "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}}})
}

async fn create_fake_workers(cluster: &Cluster, bank: &str) {
    let jobs = Api::<Job>::namespaced(cluster.client().await, bank);
    stream::iter(0..FAKE_WORKERS)
        .for_each_concurrent(16, |n| {
            let jobs = jobs.clone();
            async move {
                let job: Job = serde_json::from_value(fake_worker(n)).unwrap();
                jobs.create(&PostParams::default(), &job).await.unwrap();
            }
        })
        .await;
}

/// State shared by the attackers.
#[derive(Clone)]
struct Attack {
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    forged: Arc<AtomicUsize>,
    large_deployments: Arc<AtomicUsize>,
    bodies: Arc<AtomicUsize>,
}

impl Attack {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Keeps idle connections to a port open, from loopback addresses that no other caller uses.
    async fn keep_idle_connections(self, port: SocketAddr, network: u8) {
        let mut open: Vec<TcpStream> = Vec::new();
        while !self.is_stopped() {
            for _ in open.len()..IDLE_CONNECTIONS {
                let n = self.connections.fetch_add(1, Ordering::Relaxed);
                if n >= MAX_CONNECTIONS || self.is_stopped() {
                    break;
                }
                let from = Ipv4Addr::new(127, 66, network, u8::try_from(n % 200 + 1).unwrap());
                let socket = TcpSocket::new_v4().unwrap();
                if socket.bind(SocketAddr::from((from, 0))).is_err() {
                    continue;
                }
                if let Ok(Ok(stream)) =
                    tokio::time::timeout(Duration::from_secs(1), socket.connect(port)).await
                {
                    open.push(stream);
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            // Connections closed by the server are opened again.
            let mut byte = [0; 1];
            open.retain(|stream| match stream.try_read(&mut byte) {
                Ok(_) => false,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            });
        }
    }

    /// Posts reviews of objects that do not exist or do not match.
    async fn send_forged_reviews(
        self,
        client: reqwest::Client,
        url: String,
        shop: String,
        bank: String,
    ) {
        while !self.is_stopped() {
            let n = self.forged.fetch_add(1, Ordering::Relaxed);
            if n >= FORGED_REVIEWS {
                return;
            }
            let (namespace, metadata) = match n % 4 {
                0 => (&shop, json!({"generateName": "x-"})),
                1 => (&shop, json!({"name": format!("unknown-{n}"), "uid": format!("uid-{n}")})),
                2 => (&bank, json!({"name": "web-0", "namespace": shop, "uid": "foreign"})),
                _ => (&shop, json!({"name": "web-0", "uid": "foreign"})),
            };
            let mut object = deployment("web-0", 0, &[&format!("forged-{n}:1")]);
            object["metadata"] = metadata;
            object["metadata"]["annotations"] =
                json!({"prewarm.io/nodes": "all", "prewarm.io/priority": "10"});
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
                "uid": format!("u{n}"), "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
                "name": object["metadata"]["name"], "namespace": namespace, "operation": "CREATE", "object": object}});
            let _ = client.post(&url).json(&review).send().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends bodies without an end, repeatedly.
    async fn send_unbounded_bodies(
        self,
        client: reqwest::Client,
        method: &'static str,
        url: String,
    ) {
        while !self.is_stopped() {
            let over = self.clone();
            let chunks = stream::unfold(0u64, move |sent| {
                let over = over.clone();
                async move {
                    // 50 MiB, with a pause between chunks, to bound the test.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let goes_on = !over.is_stopped() && sent < 50 << 20;
                    let chunk = Bytes::from_static(&[b'a'; 16 << 10]);
                    let next = sent + chunk.len() as u64;
                    goes_on.then(|| (Ok::<_, Infallible>(Frame::data(chunk)), next))
                }
            });
            let body = reqwest::Body::wrap(StreamBody::new(Box::pin(chunks)));
            let request = client.request(method.parse().unwrap(), &url).body(body);
            let request = request
                .header("content-type", "application/json")
                .header("sec-fetch-site", "same-origin");
            let _ = request.send().await;
            self.bodies.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Creates Deployments of 45,000 containers, which the API server sends for review before etcd
    /// rejects them.
    async fn create_large_deployments(self, cluster: &'static Cluster, bank: String) {
        let api = Api::<Deployment>::namespaced(cluster.client().await, &bank);
        let containers: Vec<Value> = (0..45_000)
            .map(|n| json!({"name": format!("c{n}"), "image": format!("i{n}")}))
            .collect();
        let mut object = deployment("heavy", 0, &[]);
        object["spec"]["template"]["spec"]["containers"] = json!(containers);
        let object: Deployment = serde_json::from_value(object).unwrap();
        while !self.is_stopped() {
            let _ = tokio::time::timeout(
                Duration::from_secs(30),
                api.create(&PostParams::default(), &object),
            )
            .await;
            self.large_deployments.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Creates ten tasks without a deadline for a registry that does not answer.
fn create_dead_registry_tasks(bank: &Namespace) {
    for n in 0..10 {
        bank.apply_task(
            &format!("dead-{n}"),
            &json!({"images": [format!("unreachable.example/app-{n}:1")], "nodeSelector": {"type": "fake"}, "priority": 10}),
        );
    }
}

/// Measurements of the other tenant and of the kubelet's probes.
#[derive(Debug, Default)]
struct TenantMeasurements {
    deployments: usize,
    slowest: Duration,
    /// Slowest creation of an object without a review: what the API server itself needs.
    slowest_without_review: Duration,
    probes: usize,
    slowest_probe: Duration,
    failed_probes: usize,
    /// Paths whose probe failed as often in succession as its threshold.
    exceeded_thresholds: Vec<&'static str>,
    max_resident: u64,
    max_anonymous: u64,
}

impl std::fmt::Display for TenantMeasurements {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "the slowest of {} creations of another tenant took {} ms, the slowest object without a review {} ms; {} of {} probes failed, \
             the slowest took {} ms; at most {} KiB resident, of which {} KiB anonymous",
            self.deployments,
            self.slowest.as_millis(),
            self.slowest_without_review.as_millis(),
            self.failed_probes,
            self.probes,
            self.slowest_probe.as_millis(),
            self.max_resident,
            self.max_anonymous
        )
    }
}

async fn probe(server: &Server, settings: &ProbeSettings) -> Option<Duration> {
    let ProbeSettings { path, timeout, .. } = *settings;
    let begun = Instant::now();
    let ask = async {
        use tokio::io::AsyncWriteExt;
        let mut stream = TcpStream::connect(server.health()).await.ok()?;
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.starts_with("HTTP/1.1 200").then_some(())
    };
    tokio::time::timeout(timeout, ask).await.ok()??;
    Some(begun.elapsed())
}

/// Creates one Deployment per second as the other tenant and sends probes like the kubelet.
async fn run_tenant(
    cluster: &Cluster,
    server: &Server,
    shop: &Namespace,
    end: Instant,
) -> TenantMeasurements {
    let api = Api::<Deployment>::namespaced(cluster.client().await, &shop.name);
    let plain_objects = Api::<ConfigMap>::namespaced(cluster.client().await, &shop.name);
    let mut seen = TenantMeasurements::default();
    let mut failures_in_succession = [0; PROBES.len()];
    while Instant::now() < end {
        let name = format!("web-{}", seen.deployments);
        let mut object = deployment(&name, 0, &[&format!("shop-{}:1", seen.deployments)]);
        // One node works on one task at a time, and cannot keep up with one task per second.
        object["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/hostname"] =
            json!(format!("node-{:04}", seen.deployments % FAKE_NODES + 1));
        let object = serde_json::from_value(object).unwrap();
        let begun = Instant::now();
        api.create(&PostParams::default(), &object).await.unwrap();
        seen.slowest = seen.slowest.max(begun.elapsed());
        seen.deployments += 1;
        let plain = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let begun = Instant::now();
        plain_objects.create(&PostParams::default(), &plain).await.unwrap();
        seen.slowest_without_review = seen.slowest_without_review.max(begun.elapsed());
        for (settings, failures) in PROBES.iter().zip(&mut failures_in_succession) {
            seen.probes += 1;
            if let Some(took) = probe(server, settings).await {
                seen.slowest_probe = seen.slowest_probe.max(took);
                *failures = 0;
            } else {
                seen.failed_probes += 1;
                *failures += 1;
                if *failures == settings.failure_threshold {
                    seen.exceeded_thresholds.push(settings.path);
                }
            }
        }
        seen.max_resident = seen.max_resident.max(server.resident_kib());
        seen.max_anonymous = seen.max_anonymous.max(server.anonymous_kib());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    seen
}

fn leader_and_transitions(cluster: &Cluster, own: &Namespace) -> Value {
    let text = cluster.kubectl(&["-n", &own.name, "get", "lease", "prewarmer", "-o", "json"], "");
    let lease: Value = serde_json::from_str(&text).unwrap();
    json!([lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]])
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_tenant_does_not_disrupt_others() {
    let cluster = Cluster::dedicated(FAKE_NODES);
    let (own, bank, shop) =
        (cluster.namespace("own"), cluster.namespace("bank"), cluster.namespace("shop"));
    let poisoned = create_invalid_tasks(cluster, &bank);
    assert!(poisoned > 20, "only {poisoned} invalid tasks were accepted");
    create_fake_workers(cluster, &bank.name).await;
    let image = format!("--worker-image={HELPER}");
    let server =
        Server::watching_all_namespaces(cluster, &own, cluster.var("KUBECONFIG"), &[&image]).await;
    shop.eventually("a leader", Duration::from_secs(30), || async {
        server.is_leader().then_some(())
    })
    .await;
    let leader = leader_and_transitions(cluster, &own);
    eprintln!(
        "MEASURED before the attacks: {} KiB resident, {} KiB of them anonymous",
        server.resident_kib(),
        server.anonymous_kib()
    );
    create_dead_registry_tasks(&bank);

    let attack = Attack {
        stop: Arc::default(),
        connections: Arc::default(),
        forged: Arc::default(),
        large_deployments: Arc::default(),
        bodies: Arc::default(),
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .local_address(Some(Ipv4Addr::new(127, 77, 0, 1).into()))
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    let mut attackers = JoinSet::new();
    for (network, port) in (1u8..).zip([server.webhook(), server.api(), server.health()]) {
        attackers.spawn(attack.clone().keep_idle_connections(port.parse().unwrap(), network));
    }
    let review = format!("https://{}/admit/workloads", server.webhook());
    for _ in 0..4 {
        attackers.spawn(attack.clone().send_forged_reviews(
            client.clone(),
            review.clone(),
            shop.name.clone(),
            bank.name.clone(),
        ));
    }
    let bodies = [
        ("POST", review),
        ("POST", format!("https://{}/admit/tasks", server.webhook())),
        ("POST", format!("http://{}/ui/sign-in", server.api())),
        ("POST", format!("http://{}/ui/tasks", server.api())),
        ("POST", format!("http://{}/api/v1/tasks", server.api())),
        ("POST", format!("http://{}/api/v1/tasks:extract", server.api())),
        ("POST", format!("http://{}/api/v1/scheduled-tasks", server.api())),
        ("PUT", format!("http://{}/api/v1/scheduled-tasks/x", server.api())),
        ("DELETE", format!("http://{}/api/v1/tasks/x", server.api())),
        ("GET", format!("http://{}/api/v1/tasks", server.api())),
        ("POST", format!("http://{}/docs", server.api())),
        ("POST", format!("http://{}/healthz", server.health())),
    ];
    for (method, url) in bodies {
        attackers.spawn(attack.clone().send_unbounded_bodies(client.clone(), method, url));
    }
    attackers.spawn(attack.clone().create_large_deployments(cluster, bank.name.clone()));

    let seconds =
        u64::try_from(env_number("PREWARMER_TEST_ATTACK_SECONDS", ATTACK_SECONDS)).unwrap();
    let seen =
        run_tenant(cluster, &server, &shop, Instant::now() + Duration::from_secs(seconds)).await;
    // The other tenant's tasks complete during the attack.
    let all = || async {
        let done =
            shop.get("prewarmtasks").iter().all(|task| task["status"]["phase"] == "Completed");
        (done && images_in_tasks(&shop).len() >= seen.deployments).then_some(())
    };
    shop.eventually(
        &format!("{} warm images\n{}", seen.deployments, server.log()),
        Duration::from_secs(60),
        all,
    )
    .await;
    attack.stop.store(true, Ordering::Relaxed);
    let counts = [&attack.connections, &attack.forged, &attack.bodies, &attack.large_deployments]
        .map(|count| count.load(Ordering::Relaxed));
    attackers.shutdown().await;
    eprintln!(
        "MEASURED {seconds} s: {} connections, {} forged reviews, {} unbounded bodies, {} Deployments of 45,000 containers, {FAKE_WORKERS} fake \
         workers, {poisoned} invalid tasks",
        counts[0], counts[1], counts[2], counts[3]
    );
    eprintln!("MEASURED {seen}");
    assert!(counts.iter().all(|count| *count > 0), "an attack did not run: {counts:?}");
    let forged = images_in_tasks(&shop)
        .keys()
        .chain(images_in_tasks(&bank).keys())
        .filter(|image| image.starts_with("forged"))
        .count();
    assert_eq!(forged, 0, "forged reviews created tasks");
    assert_eq!(
        leader_and_transitions(cluster, &own),
        leader,
        "the leader changed:\n{}",
        server.log()
    );
    assert!(server.is_leader());
    assert!(seen.exceeded_thresholds.is_empty(), "{seen:?}\n{}", server.log());
    // A debug build that shares its cores with the attackers may time out. The API server then
    // admits the object without it.
    let is_release = std::env::var_os("PREWARMER_TEST_PROGRAM").is_some();
    let timeouts = if is_release { 1 } else { 2 };
    assert!(seen.slowest < WEBHOOK_TIMEOUT * timeouts + seen.slowest_without_review, "{seen:?}");
    assert!(!is_release || seen.failed_probes == 0, "{seen:?}");
    let memory = if is_release { seen.max_resident } else { seen.max_anonymous };
    assert!(memory < MAX_RESIDENT, "{memory} KiB");
    let fakes = bank.get("jobs").iter().filter(|job| job["spec"]["suspend"] == true).count();
    assert_eq!(fakes, FAKE_WORKERS, "foreign Jobs were deleted");
    let overflow = bank
        .get("prewarmtasks")
        .into_iter()
        .find(|task| task["spec"]["retain"] == "5124095576030430h59m");
    let status = overflow.unwrap()["status"].clone();
    assert_eq!(status["phase"], "Failed", "{status:#}");
}
