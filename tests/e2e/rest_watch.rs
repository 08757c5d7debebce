//! Watches of a task over REST.

use futures::{StreamExt, future};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT, env_number},
    namespace::Namespace,
    rest::RestClient,
    server::Server,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::TestCluster;

/// Returns the number of watchers of one task; the long form of the tests raises it.
fn watcher_count() -> usize {
    env_number("PREWARMER_TEST_WATCHERS", 150)
}

/// Reads the server-sent events of a watch until it ends; returns the status line, and the events
/// with their IDs.
async fn read_events(
    server: &Server,
    caller: &RestClient,
    id: &str,
    last: Option<&str>,
) -> (String, Vec<(String, Value)>) {
    let stream = TcpStream::connect(server.api()).await.unwrap();
    let mut stream = BufReader::with_capacity(1024, stream);
    let last = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
    let request = format!(
        "GET /api/v1/tasks/{id}/watch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nAccept: text/event-stream\r\n{last}Connection: close\r\n\r\n",
        caller.bearer_token()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut head, mut found, mut name) = (String::new(), Vec::new(), String::new());
    let mut line = String::new();
    while stream.read_line(&mut line).await.unwrap_or(0) > 0 {
        if head.is_empty() {
            head.clone_from(&line);
        } else if let Some(text) = line.strip_prefix("id: ") {
            text.trim().clone_into(&mut name);
        } else if let Some(text) = line.strip_prefix("data: ") {
            found.push((name.clone(), serde_json::from_str(text).unwrap()));
        }
        line.clear();
    }
    (head, found)
}

/// Reads the messages of a WebSocket until it is closed; returns them and the close reason.
async fn read_messages(server: &Server, caller: &RestClient, id: &str) -> (Vec<Value>, String) {
    let mut request =
        format!("ws://{}/api/v1/tasks/{id}/watch", server.api()).into_client_request().unwrap();
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {}", caller.bearer_token()).parse().unwrap());
    let stream = TcpStream::connect(server.api()).await.unwrap();
    let (mut socket, _) = client_async(request, stream).await.unwrap();
    let mut found = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) => found.push(serde_json::from_str(&text).unwrap()),
            Message::Close(Some(frame)) => {
                return (found, format!("{} {}", frame.code, frame.reason));
            }
            _ => {}
        }
    }
    (found, "no close".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_follows_task_to_end() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("watch");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let id = caller
        .create_task(&json!({"images": ["a:1"], "batchSize": 30, "nodeSelector": {"type": "fake"}}))
        .await;
    let ((head, by_events), (by_socket, why)) = tokio::join!(
        read_events(&server, &caller, &id, None),
        read_messages(&server, &caller, &id)
    );
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(why, "1000 the task has ended");
    let last = &by_events.last().unwrap().1;
    assert_eq!(last, by_socket.last().unwrap());
    assert_eq!(last["status"], "completed");
    assert!(
        by_events.len() > 2 && by_socket.len() > 2,
        "{} and {}",
        by_events.len(),
        by_socket.len()
    );
    let percentages: Vec<f64> =
        by_socket.iter().map(|task| task["progress"]["percentage"].as_f64().unwrap()).collect();
    assert!(percentages.is_sorted(), "{percentages:?}");
    // A resumed watch repeats no event, and is empty after the last one.
    let (first, end) = (&by_events[0].0, &by_events.last().unwrap().0);
    let (head, rest) = read_events(&server, &caller, &id, Some(first)).await;
    assert!(
        head.starts_with("HTTP/1.1 200") && rest.len() == 1 && rest[0].1["status"] == "completed",
        "{rest:?}"
    );
    let (head, rest) = read_events(&server, &caller, &id, Some(end)).await;
    assert!(head.starts_with("HTTP/1.1 204") && rest.is_empty(), "{head}");
    assert_eq!(caller.get("/tasks/nothing/watch").await.code, 404);
    let odd = caller
        .send(caller.request("GET", &format!("/tasks/{id}/watch")).header("accept", "text/html"))
        .await;
    assert_eq!(odd.code, 406);
    // A watch ends when its task is deleted, and when the server stops.
    namespace.apply_task("held", &json!({"images": ["a:1"], "suspend": true}));
    namespace.apply_task("kept", &json!({"images": ["a:1"], "suspend": true}));
    let known = || async { (caller.get("/tasks/kept").await.code == 200).then_some(()) };
    namespace.eventually("both tasks over REST", TASK_TIMEOUT, known).await;
    let (first, second) =
        (read_messages(&server, &caller, "held"), read_messages(&server, &caller, "kept"));
    let end = async {
        wait_for_watchers(&server, &namespace, 2).await;
        namespace.kubectl(&["delete", "prewarmtask", "held"], "");
        wait_for_watchers(&server, &namespace, 1).await;
        server.request_stop();
    };
    let (deleted, stopped, ()) = tokio::join!(first, second, end);
    assert_eq!(deleted.1.as_str(), "1000 the task was deleted");
    assert_eq!(deleted.0.len(), 1);
    assert!(stopped.1.starts_with("1012 "), "{}", stopped.1);
}

/// Waits until the server has this number of watchers.
async fn wait_for_watchers(server: &Server, namespace: &Namespace, many: usize) {
    let line = format!("\nprewarm_api_watchers {many}\n");
    let there = || async { server.get("/metrics").contains(&line).then_some(()) };
    namespace.eventually(&format!("{many} watchers"), TASK_TIMEOUT, there).await;
}

/// Verifies that all watchers receive the end of a task while the server watches the cluster only
/// once.
#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_of_one_task() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("crowd");
    let image = format!("--worker-image={HELPER}");
    let server = Server::with_args(
        cluster,
        &namespace,
        &namespace,
        &["--api-rate=100000", "--api-watches=4096", &image],
    )
    .await;
    let caller = RestClient::editor(&server, &namespace);
    namespace.apply_task(
        "popular",
        &json!({"images": ["a:1"], "suspend": true, "nodeSelector": {"type": "fake"}, "batchSize": 40}),
    );
    let known = || async { (caller.get("/tasks/popular").await.code == 200).then_some(()) };
    namespace.eventually("the task over REST", TASK_TIMEOUT, known).await;
    let (before, requests) = (server.anonymous_kib(), task_list_and_watch_requests(&server));
    let many = watcher_count();
    let half = |of: usize| (0..many).filter(move |index| index % 2 == of);
    let all_there = async {
        wait_for_watchers(&server, &namespace, many).await;
        let during = server.anonymous_kib();
        namespace.kubectl(
            &[
                "patch",
                "prewarmtask",
                "popular",
                "--type=merge",
                "-p",
                r#"{"spec":{"suspend":false}}"#,
            ],
            "",
        );
        during
    };
    let sockets = future::join_all(half(0).map(|_| read_messages(&server, &caller, "popular")));
    let streams = future::join_all(half(1).map(|_| read_events(&server, &caller, "popular", None)));
    let (sockets, streams, during) = tokio::join!(sockets, streams, all_there);
    assert!(sockets.iter().all(
        |(seen, why)| seen.last().unwrap()["status"] == "completed" && why.starts_with("1000")
    ));
    assert!(streams.iter().all(|(_, seen)| seen.last().unwrap().1["status"] == "completed"));
    let after = server.anonymous_kib();
    let watches = task_list_and_watch_requests(&server) - requests;
    println!(
        "MEASURED {many} watchers: {before} KiB of anonymous memory before, {during} KiB with all, {after} KiB after they ended; {watches} lists and watches of tasks"
    );
    assert_eq!(watches, 0, "watchers caused lists or watches of the cluster");
    // 40 MiB for a thousand watchers without TLS: 32 KiB each, of which 30 are used, and 8 MiB for any
    // number. Pages of the program that the first watchers are the first to use do not count.
    let limit = 8 * 1024 + 32 * many as u64;
    assert!(
        during.max(after).saturating_sub(before) < limit,
        "{before} KiB, then {during} and {after}; limit {limit}"
    );
}

/// Returns the number of lists and watches of tasks that the server has sent.
fn task_list_and_watch_requests(server: &Server) -> u64 {
    let text = server.get("/metrics");
    let lines = text.lines().filter(|line| {
        line.starts_with("prewarm_kube_requests_total")
            && line.contains("\"prewarmtasks\"")
            && (line.contains("\"list\"") || line.contains("\"watch\""))
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
