//! Reviews that no API server has sent, and reviews that take long: sent straight to the webhook's port, as any pod may. On a
//! cluster of its own, because the server looks at all namespaces.

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
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

use crate::{
    admission::{HELPER, LONG, asked, asked_exactly, deployment},
    harness::{Cluster, Namespace, Server},
};

/// Lookups that the server's settings allow by default: a burst, and so many a second.
const LOOKUPS: (f64, f64) = (1000.0, 100.0);

type Body = BoxBody<Bytes, std::convert::Infallible>;

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed()
}

/// What a caller needs to know of the webhook.
#[derive(Clone)]
struct Webhook {
    address: String,
    tls: TlsConnector,
}

impl Webhook {
    fn of(server: &Server, own: &Namespace) -> Self {
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
        let stream = self.tls.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
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

/// A review of a Deployment, as the API server writes it.
fn review(namespace: &str, metadata: &Value, containers: &Value) -> String {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {"replicas": 1, "template": {"metadata": {}, "spec": {"containers": containers}}}});
    format!(
        r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{"uid":"r-1","kind":{{"group":"apps","version":"v1","kind":"Deployment"}},"namespace":"{namespace}","operation":"CREATE","object":{object}}}}}"#
    )
}

fn one(image: &str) -> Value {
    json!([{"name": "c", "image": image}])
}

/// GETs of Deployments that the server has sent, by its own count.
fn looked_up(server: &Server) -> f64 {
    let text = server.get("/metrics");
    let of = |line: &&str| {
        line.starts_with("prewarm_kube_requests_total{") && line.contains("\"deployments\"") && line.contains("\"get\"")
    };
    text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn everywhere(cluster: &'static Cluster) -> Vec<Value> {
    let text = cluster.kubectl(&["get", "prewarmtasks", "-A", "-o", "json"], "");
    serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
}

async fn server(cluster: &'static Cluster, own: &Namespace) -> Server {
    let image = format!("--worker-image={HELPER}");
    Server::with(cluster, own, own, &["--watch-namespace=", &image]).await
}

/// A Deployment whose task is open for minutes.
fn slow(name: &str, image: &str) -> Value {
    let mut object = deployment(name, 0, &[image]);
    object["metadata"]["annotations"] = json!({"prewarm.io/batch-size": "1", "prewarm.io/nodes": "50"});
    object["spec"]["template"]["spec"]["nodeSelector"] = json!({"type": "fake"});
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_that_nobody_sent_make_nothing() {
    let cluster = Cluster::own(30);
    let (own, victim, shop) = (cluster.namespace("own"), cluster.namespace("victim"), cluster.namespace("shop"));
    let server = server(cluster, &own).await;
    let webhook = Webhook::of(&server, &own);
    victim.apply(&slow("web", "slow-web:1"));
    asked_exactly(&victim, &["slow-web:1"]).await;
    let uid = victim.get("deployments")[0]["metadata"]["uid"].as_str().unwrap().to_owned();
    let before = looked_up(&server);

    // The review of a stranger that makes a task on every node, and has the victim's own given up.
    let mut sender = webhook.connect().await;
    let metadata =
        json!({"generateName": "web", "annotations": {"prewarm.io/nodes": "all", "prewarm.io/priority": "10"}});
    let (status, answer) =
        post(&mut sender, whole(review(&victim.name, &metadata, &one("attacker.example/100gb:1")))).await;
    assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(true)));
    tokio::time::sleep(Duration::from_secs(3)).await;
    asked_exactly(&victim, &["slow-web:1"]).await;

    let begun = Instant::now();
    let mut senders = JoinSet::new();
    for connection in 0..8 {
        let (webhook, victim, shop, uid) = (webhook.clone(), victim.name.clone(), shop.name.clone(), uid.clone());
        senders.spawn(async move {
            let mut sender = webhook.connect().await;
            for n in (connection..10_000).step_by(8) {
                let image = format!("attacker.example/{n}:1");
                let (namespace, metadata) = match n / 8 % 4 {
                    0 => (victim.clone(), json!({"generateName": "web"})),
                    1 => (victim.clone(), json!({"name": format!("forged-{n}"), "uid": format!("f-{n}")})),
                    // Where there is nothing of that name, and where there is no such namespace.
                    2 if n % 3 > 0 => (shop.clone(), json!({"name": "web", "uid": uid})),
                    2 => (format!("none-{n}"), json!({"name": "web", "uid": uid})),
                    _ => (victim.clone(), json!({"name": "web", "uid": format!("f-{n}")})),
                };
                let (status, answer) = post(&mut sender, whole(review(&namespace, &metadata, &one(&image)))).await;
                assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(true)));
            }
        });
    }
    // Meanwhile a real one.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let applied = Instant::now();
    shop.apply(&deployment("real", 0, &["real:1"]));
    let there = || async { asked(&shop).contains_key("real:1").then_some(()) };
    shop.eventually("the task of the real Deployment", Duration::from_secs(10), there).await;
    let took = applied.elapsed();
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
    let sent = begun.elapsed();
    // Until nothing waits any more: what was not found is looked up again for 8 s.
    let idle = || async { server.get("/metrics").contains("\nprewarm_queue_depth 0\n").then_some(()) };
    own.eventually("an empty queue", Duration::from_secs(60), idle).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (lookups, allowed) = (looked_up(&server) - before, LOOKUPS.0 + LOOKUPS.1 * begun.elapsed().as_secs_f64());
    eprintln!("10,000 forged reviews in {sent:.1?}: {lookups} lookups; a real task after {took:.1?}");
    assert!(lookups <= allowed, "{lookups} lookups, {allowed:.0} allowed");
    asked_exactly(&victim, &["slow-web:1"]).await;
    asked_exactly(&shop, &["real:1"]).await;
    assert_eq!(everywhere(cluster).len(), 2, "tasks: {:#?}", everywhere(cluster));
    let task = &victim.get("prewarmtasks")[0];
    assert!(task["metadata"]["annotations"].get("prewarm.io/obsolete").is_none(), "given up: {task:#}");
    assert_ne!(task["status"]["phase"], "Cancelled");
}

/// Sends small reviews until told to stop; how long each took.
async fn small_reviews(webhook: Webhook, namespace: String, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut sender = webhook.connect().await;
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let body = whole(review(&namespace, &json!({"name": "small", "uid": "s"}), &one("small:1")));
        let (status, answer) = post(&mut sender, body).await;
        assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(true)));
        took.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took.sort_unstable();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_slow_reviews_hold_up_no_other() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("heavy");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let webhook = Webhook::of(&server, &namespace);
    let stop = Arc::new(AtomicBool::new(false));
    let small = tokio::spawn(small_reviews(webhook.clone(), namespace.name.clone(), Arc::clone(&stop)));

    // Eight bodies that begin and do not go on.
    let mut slow = JoinSet::new();
    for _ in 0..8 {
        let webhook = webhook.clone();
        slow.spawn(async move {
            let mut sender = webhook.connect().await;
            let begin = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"{")))]);
            let body = StreamBody::new(futures::StreamExt::chain(begin, futures::stream::pending()));
            post(&mut sender, BodyExt::boxed(body)).await.0
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;

    // Deployments of 45,000 containers, two at once, as they come with the defaults filled in.
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
                let (status, answer) = post(&mut sender, whole(heavy.clone())).await;
                assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(true)));
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
        "large reviews took {took:.0?}; {} small ones beside them: p99 {p99:.1?}, max {:.1?}",
        small.len(),
        small.last().unwrap()
    );
    // These times include the sending, in a debug build on a machine that may be busy: the server itself answers within 100 ms. One
    // that waits for bodies that stand still takes 5 s, and one that compares each image with each takes minutes.
    assert!(took.iter().all(|took| *took < Duration::from_secs(4)), "large reviews waited: {took:?}");
    assert!(p99 < Duration::from_millis(500), "small reviews waited: p99 {p99:?}");
    assert!(*small.last().unwrap() < Duration::from_secs(2), "a small review took {:?}", small.last());
    for status in slow.join_all().await {
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    }

    // The same by way of the API server, which then finds it too large for etcd.
    let containers: Value = (0..45_000).map(|n| json!({"name": format!("c{n}"), "image": format!("i{n}")})).collect();
    let mut object = deployment("heavy", 0, &["a:1"]);
    object["spec"]["template"]["spec"]["containers"] = containers;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object.to_string()).unwrap();
    let (_, said) = cluster.try_kubectl(&["-n", &namespace.name, "create", "-f", file.path().to_str().unwrap()], "");
    assert!(!said.contains("webhook"), "{said}");
    tokio::time::timeout(LONG, async {
        while !server.get("/readyz").starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
}
