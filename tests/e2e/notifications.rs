//! Notifications about the end of a task.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT},
    rest::RestClient,
    server::{Server, free_address},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::TestCluster;

type ReceivedRequests = Arc<(AtomicBool, Mutex<Vec<(HeaderMap, Bytes)>>)>;

/// Starts a receiver that answers 503 until its flag is set, and records requests afterwards.
async fn start_receiver() -> (String, ReceivedRequests) {
    async fn receive(
        State(heard): State<ReceivedRequests>,
        headers: HeaderMap,
        body: Bytes,
    ) -> StatusCode {
        if !heard.0.load(Ordering::Relaxed) {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        heard.1.lock().unwrap().push((headers, body));
        StatusCode::OK
    }
    let heard = ReceivedRequests::default();
    let address = free_address();
    let listener = TcpListener::bind(&address).await.unwrap();
    let router = Router::new().route("/hook", post(receive)).with_state(Arc::clone(&heard));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}/hook"), heard)
}

/// The receiver is unavailable at first, and the server is killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn notifications_are_delivered_after_crash() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("notify");
    let image = format!("--worker-image={HELPER}");
    let words = ["--notify-allow=127.0.0.0/8", "--notify-ports=1-65535", image.as_str()];
    let mut server = Server::with_args(cluster, &namespace, &namespace, &words).await;
    let caller = RestClient::editor(&server, &namespace);
    let (url, heard) = start_receiver().await;
    namespace.kubectl(
        &[
            "create",
            "secret",
            "generic",
            "hook",
            "--from-literal=key=s3cret",
            &format!("--from-literal=url={url}"),
        ],
        "",
    );
    let body = json!({"images": ["a:1"], "nodeSelector": {"type": "fake"}, "nodes": 3, "batchSize": 3,
        "ttlSecondsAfterFinished": 0, "webhookUrl": url,
        "notify": [{"url": url, "format": "cloudevents", "secret": "hook"},
                   {"urlFrom": {"secretKeyRef": {"name": "hook", "key": "url"}}, "format": "slack"}]});
    let id = caller.create_task(&body).await;
    let tried = || async {
        let first = namespace.status(&id).notifications.into_iter().next();
        first.filter(|delivery| delivery.attempts > 0)
    };
    let first = namespace.eventually("a first delivery attempt", TASK_TIMEOUT, tried).await;
    assert!(!first.done, "{first:?}");
    assert!(first.message.as_ref().is_some_and(|message| message.contains("503")), "{first:?}");
    assert!(first.next_attempt.is_some(), "{first:?}");
    server.kill();
    heard.0.store(true, Ordering::Relaxed);
    server.restart().await;
    let all = || async { (heard.1.lock().unwrap().len() >= 3).then_some(()) };
    namespace.eventually("all three notifications", TASK_TIMEOUT, all).await;
    let (mut plain, mut cloud, mut slack) = (0, 0, 0);
    for (headers, body) in heard.1.lock().unwrap().iter() {
        let message: Value = serde_json::from_slice(body).unwrap();
        if message["specversion"] == "1.0" {
            cloud += 1;
            assert_eq!(message["data"]["taskId"], id);
            assert_eq!(message["type"], "io.prewarm.task.completed");
            let signature = headers["x-prewarmer-signature"].to_str().unwrap();
            assert!(signature.starts_with("sha256=") && signature.len() == 71, "{signature}");
        } else if message["text"].is_string() {
            slack += 1;
        } else {
            plain += 1;
            assert_eq!(message["event"], "task.completed");
            assert_eq!(message["taskId"], id);
            assert_eq!(message["progress"]["completedNodes"], 3);
            assert!(headers.get("x-prewarmer-signature").is_none());
        }
    }
    assert_eq!(plain, 1);
    assert_eq!(cloud, 1);
    assert_eq!(slack, 1);
    assert!(!server.log().contains("/hook"), "the log contains the path of an address");
    // The TTL has expired, but the notifications had to be delivered first.
    let gone = || async { namespace.get("prewarmtasks").is_empty().then_some(()) };
    namespace.eventually("deletion of the task after all deliveries", TASK_TIMEOUT, gone).await;
}

/// REST does not validate tasks created by kubectl, so the egress policy rejects their addresses
/// when connecting.
#[tokio::test(flavor = "multi_thread")]
async fn internal_addresses_are_not_notified() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("inside");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let (url, heard) = start_receiver().await;
    heard.0.store(true, Ordering::Relaxed);
    let inside = "http://localhost/hook";
    let notify = [
        url.clone(),
        inside.to_owned(),
        "http://169.254.169.254/".to_owned(),
        "http://168.63.129.16/".to_owned(),
    ];
    let mut notify: Vec<Value> = notify.iter().map(|url| json!({ "url": url })).collect();
    namespace.kubectl(
        &["create", "secret", "generic", "hook", &format!("--from-literal=url={inside}")],
        "",
    );
    notify.push(json!({"urlFrom": {"secretKeyRef": {"name": "hook", "key": "url"}}}));
    let both = json!({"url": inside, "urlFrom": {"secretKeyRef": {"name": "hook", "key": "url"}}});
    for wrong in [both, json!({"format": "json"})] {
        let task = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask",
            "metadata": {"name": "wrong", "namespace": namespace.name}, "spec": {"images": ["a:1"], "notify": [wrong]}});
        let (ok, text) = cluster.try_kubectl(&["apply", "-f", "-"], &task.to_string());
        assert!(!ok && text.contains("exactly one of url and urlFrom must be set"), "{text}");
    }
    namespace.apply_task(
        "sly",
        &json!({"images": ["a:1"], "nodeSelector": {"type": "fake"}, "nodes": 1, "notify": notify}),
    );
    let done = || async {
        let deliveries = namespace.status("sly").notifications;
        (!deliveries.is_empty() && deliveries.iter().all(|delivery| delivery.done))
            .then_some(deliveries)
    };
    let deliveries =
        namespace.eventually("abandonment of all deliveries", TASK_TIMEOUT, done).await;
    let expected = [
        "is not allowed (--notify-ports)",
        "inside the cluster",
        "public internet",
        "public internet",
        "in the Secret",
    ];
    for (one, expected) in deliveries.iter().zip(expected) {
        assert!(one.message.as_ref().is_some_and(|text| text.contains(expected)), "{one:?}");
        assert_eq!(one.delivered, None);
    }
    assert_eq!(deliveries.len(), expected.len());
    assert!(heard.1.lock().unwrap().is_empty());
    assert!(server.log().contains("could not be delivered"));
    assert!(server.get("/metrics").contains("prewarm_notifications_total{result=\"given_up\"} 5"));
}
