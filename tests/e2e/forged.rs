//! Forged and slow admission reviews, sent directly to the webhook's port, as any pod can. The
//! tests need a cluster of their own because the server watches all namespaces.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use kube::ResourceExt;
use prewarmer_api::task::Phase;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{
        HELPER, TASK_TIMEOUT, deployment, expect_tasks_for, images_in_tasks, slow_deployment,
    },
    namespace::Namespace,
    server::Server,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

use crate::TestCluster;

/// Lookups of objects that do not exist in one namespace: burst, and rate per second. A lookup that
/// finds nothing takes ten permits of the default limit of a namespace, 500 and 50.
const MISS_LIMIT: (f64, f64) = (50.0, 5.0);
/// Lookups in progress in a namespace when the limit is reached.
const LOOKUPS_IN_PROGRESS: f64 = 8.0;
/// Lookups of the three other objects: the victim's Deployment with forged UIDs, a Deployment that
/// does not exist, and the real one. The delays between lookups of one object double.
const OTHER_LOOKUPS: f64 = 30.0;

type Body = BoxBody<Bytes, std::convert::Infallible>;

fn full_body(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed()
}

/// Address and TLS configuration of the webhook.
#[derive(Clone)]
struct AdmissionClient {
    address: String,
    tls: TlsConnector,
}

impl AdmissionClient {
    fn for_server(server: &Server, own: &Namespace) -> Self {
        let secret = format!("prewarmer-{}-ca", own.name);
        let ca = own.kubectl(&["get", "secret", &secret, "-o", r"jsonpath={.data.ca\.crt}"], "");
        let mut roots = RootCertStore::empty();
        let ca = BASE64_STANDARD.decode(ca.trim()).unwrap();
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { address: server.webhook().to_owned(), tls: TlsConnector::from(Arc::new(config)) }
    }

    async fn connect(&self) -> SendRequest<Body> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream =
            self.tls.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

async fn post(sender: &mut SendRequest<Body>, body: Body) -> (StatusCode, Value) {
    let request = Request::post("/admit/workloads")
        .header(header::HOST, "webhook")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .unwrap();
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// Returns the admission review of a Deployment in the API server's format.
fn review(namespace: &str, metadata: &Value, containers: &Value) -> String {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {"replicas": 1, "template": {"metadata": {}, "spec": {"containers": containers}}}});
    format!(
        r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{"uid":"r-1","kind":{{"group":"apps","version":"v1","kind":"Deployment"}},"namespace":"{namespace}","operation":"CREATE","object":{object}}}}}"#
    )
}

fn one_container(image: &str) -> Value {
    json!([{"name": "c", "image": image}])
}

/// Returns the number of GET requests for Deployments that the server has sent, from its own
/// metric.
fn lookup_count(server: &Server) -> f64 {
    let text = server.get("/metrics");
    let of = |line: &&str| {
        line.starts_with("prewarm_kube_requests_total{")
            && line.contains("\"deployments\"")
            && line.contains("\"get\"")
    };
    text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn all_tasks(cluster: &'static Cluster) -> Vec<Value> {
    let text = cluster.kubectl(&["get", "prewarmtasks", "-A", "-o", "json"], "");
    serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
}

async fn start_server(cluster: &'static Cluster, own: &Namespace) -> Server {
    let image = format!("--worker-image={HELPER}");
    Server::with_args(cluster, own, own, &["--watch-namespace=", &image]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_reviews_create_no_tasks() {
    let cluster = Cluster::dedicated(30);
    let (own, victim, shop) =
        (cluster.namespace("own"), cluster.namespace("victim"), cluster.namespace("shop"));
    let server = start_server(cluster, &own).await;
    let webhook = AdmissionClient::for_server(&server, &own);
    victim.apply(&slow_deployment("web", "slow-web:1"));
    expect_tasks_for(&victim, &["slow-web:1"]).await;
    let uid = victim.get("deployments")[0]["metadata"]["uid"].as_str().unwrap().to_owned();
    let before = lookup_count(&server);

    // A forged review that would create a task on every node and cancel the victim's own task as
    // obsolete.
    let mut sender = webhook.connect().await;
    let metadata = json!({"generateName": "web", "annotations": {"prewarm.io/nodes": "all", "prewarm.io/priority": "10"}});
    let (status, answer) = post(
        &mut sender,
        full_body(review(&victim.name, &metadata, &one_container("attacker.example/100gb:1"))),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["response"]["allowed"], true);
    tokio::time::sleep(Duration::from_secs(3)).await;
    expect_tasks_for(&victim, &["slow-web:1"]).await;

    let begun = Instant::now();
    let mut senders = JoinSet::new();
    for connection in 0..8 {
        let (webhook, victim, shop, uid) =
            (webhook.clone(), victim.name.clone(), shop.name.clone(), uid.clone());
        senders.spawn(async move {
            let mut sender = webhook.connect().await;
            for n in (connection..10_000).step_by(8) {
                let image = format!("attacker.example/{n}:1");
                let (namespace, metadata) = match n / 8 % 4 {
                    0 => (victim.clone(), json!({"generateName": "web"})),
                    1 => (
                        victim.clone(),
                        json!({"name": format!("forged-{n}"), "uid": format!("f-{n}")}),
                    ),
                    // No object of that name, and no such namespace.
                    2 if n % 3 > 0 => (shop.clone(), json!({"name": "web", "uid": uid})),
                    2 => (format!("none-{n}"), json!({"name": "web", "uid": uid})),
                    _ => (victim.clone(), json!({"name": "web", "uid": format!("f-{n}")})),
                };
                let (status, answer) = post(
                    &mut sender,
                    full_body(review(&namespace, &metadata, &one_container(&image))),
                )
                .await;
                assert_eq!(status, StatusCode::OK);
                assert_eq!(answer["response"]["allowed"], true);
            }
        });
    }
    // A real Deployment at the same time.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let applied = Instant::now();
    shop.apply(&deployment("real", 0, &["real:1"]));
    let there = || async { images_in_tasks(&shop).contains_key("real:1").then_some(()) };
    shop.eventually("the task of the real Deployment", Duration::from_secs(10), there).await;
    let took = applied.elapsed();
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
    let sent = begun.elapsed();
    // Until the queue is empty: an object that is not found is looked up again for 8 s.
    let idle =
        || async { server.get("/metrics").contains("\nprewarm_queue_depth 0\n").then_some(()) };
    own.eventually("an empty queue", Duration::from_secs(60), idle).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (lookups, misses) = (
        lookup_count(&server) - before,
        MISS_LIMIT.0 + MISS_LIMIT.1 * begun.elapsed().as_secs_f64() + LOOKUPS_IN_PROGRESS,
    );
    let allowed = misses + OTHER_LOOKUPS;
    eprintln!(
        "10,000 forged reviews in {sent:.1?}: {lookups} lookups; a real task after {took:.1?}"
    );
    assert!(lookups <= allowed, "{lookups} lookups, {allowed:.0} allowed");
    expect_tasks_for(&victim, &["slow-web:1"]).await;
    expect_tasks_for(&shop, &["real:1"]).await;
    assert_eq!(all_tasks(cluster).len(), 2, "tasks: {:#?}", all_tasks(cluster));
    let task = &victim.tasks()[0];
    assert!(
        !task.annotations().contains_key("prewarm.io/obsolete"),
        "the task was marked obsolete: {task:#?}"
    );
    assert_ne!(task.phase(), Phase::Cancelled);
}

/// Sends small reviews until `stop` is set; returns the sorted response times.
async fn send_small_reviews(
    webhook: AdmissionClient,
    namespace: String,
    stop: Arc<AtomicBool>,
) -> Vec<Duration> {
    let mut sender = webhook.connect().await;
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let body = full_body(review(
            &namespace,
            &json!({"name": "small", "uid": "s"}),
            &one_container("small:1"),
        ));
        let (status, answer) = post(&mut sender, body).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["response"]["allowed"], true);
        took.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took.sort_unstable();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_slow_reviews_do_not_delay_others() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("heavy");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let webhook = AdmissionClient::for_server(&server, &namespace);
    let stop = Arc::new(AtomicBool::new(false));
    let small = tokio::spawn(send_small_reviews(
        webhook.clone(),
        namespace.name.clone(),
        Arc::clone(&stop),
    ));

    // Eight bodies that start and never continue.
    let mut slow = JoinSet::new();
    for _ in 0..8 {
        let webhook = webhook.clone();
        slow.spawn(async move {
            let mut sender = webhook.connect().await;
            let begin = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"{")))]);
            let body =
                StreamBody::new(futures::StreamExt::chain(begin, futures::stream::pending()));
            post(&mut sender, BodyExt::boxed(body)).await.0
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;

    // Deployments of 45,000 containers with defaulted fields, two at the same time.
    let container = |n: u32| {
        json!({"name": format!("c{n}"), "image": format!("i{n}"), "imagePullPolicy": "IfNotPresent", "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"})
    };
    let containers: Value = (0..45_000).map(container).collect();
    let heavy = review(&namespace.name, &json!({"name": "heavy", "uid": "h"}), &containers);
    assert!(heavy.len() > 6 << 20 && heavy.len() < 8 << 20, "{}", heavy.len());
    let mut large = JoinSet::new();
    for _ in 0..2 {
        let (webhook, heavy) = (webhook.clone(), heavy.clone());
        large.spawn(async move {
            let mut sender = webhook.connect().await;
            let mut took = Vec::new();
            for _ in 0..3 {
                let begun = Instant::now();
                let (status, answer) = post(&mut sender, full_body(heavy.clone())).await;
                assert_eq!(status, StatusCode::OK);
                assert_eq!(answer["response"]["allowed"], true);
                took.push(begun.elapsed());
            }
            took
        });
    }
    let took: Vec<Duration> = large.join_all().await.into_iter().flatten().collect();
    stop.store(true, Ordering::Relaxed);
    let small = small.await.unwrap();
    let p99 = small[small.len() * 99 / 100];
    eprintln!(
        "large reviews took {took:.0?}; {} small ones at the same time: p99 {p99:.1?}, max {:.1?}",
        small.len(),
        small.last().unwrap()
    );
    // The times include sending, with a debug build on a machine that may be busy: the server
    // itself responds within 100 ms. A server that waits for stalled bodies takes 5 s, and one that
    // compares every image with every other takes minutes.
    assert!(
        took.iter().all(|took| *took < Duration::from_secs(4)),
        "large reviews were delayed: {took:?}"
    );
    assert!(p99 < Duration::from_millis(500), "small reviews were delayed: p99 {p99:?}");
    assert!(
        *small.last().unwrap() < Duration::from_secs(2),
        "a small review took {:?}",
        small.last()
    );
    for status in slow.join_all().await {
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    }

    // The same through the API server, which rejects the object as too large for etcd.
    let containers: Value =
        (0..45_000).map(|n| json!({"name": format!("c{n}"), "image": format!("i{n}")})).collect();
    let mut object = deployment("heavy", 0, &["a:1"]);
    object["spec"]["template"]["spec"]["containers"] = containers;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object.to_string()).unwrap();
    let (_, said) = cluster
        .try_kubectl(&["-n", &namespace.name, "create", "-f", file.path().to_str().unwrap()], "");
    assert!(!said.contains("webhook"), "{said}");
    tokio::time::timeout(TASK_TIMEOUT, async {
        while !server.get("/readyz").starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
}
