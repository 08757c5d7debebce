//! Error responses of the REST API.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    ops::Range,
    process::Command,
    time::{Duration, Instant},
};

use kube::ResourceExt;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT},
    namespace::Namespace,
    rest::{RestClient, account_token},
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Maximum time until the server closes a connection, longer than each of its timeouts.
const MAX_OPEN: Duration = Duration::from_secs(30);
/// Time after which an incomplete request head is rejected: a timeout of 5 s, and a busy machine.
const HEAD_TIMEOUT: Range<Duration> = Duration::from_secs(4)..Duration::from_secs(9);
/// Time after which an incomplete body is rejected: a timeout of 10 s, and a busy machine.
const BODY_TIMEOUT: Range<Duration> = Duration::from_secs(9)..Duration::from_secs(14);

/// Sends raw bytes; returns the status code and the text of the response. The status code is 0 if
/// the server closes the connection without a response. Panics if it does not close it.
fn send_raw(server: &Server, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(server.api()).unwrap();
    stream.write_all(bytes).unwrap();
    read_until_close(&mut stream)
}

fn read_until_close(stream: &mut TcpStream) -> (u16, String) {
    stream.set_read_timeout(Some(MAX_OPEN)).unwrap();
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(many) => text.extend_from_slice(&buffer[..many]),
            // A server that rejects a request may close the connection before all bytes are sent.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the server did not close the connection: {error}"),
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    (text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), text)
}

/// Sends `start`, then `rest` with half a second between its bytes; returns the status code of the
/// response and the time until the server closed the connection.
fn send_slowly(server: &Server, start: &str, rest: &'static [u8]) -> (u16, Duration) {
    let mut stream = TcpStream::connect(server.api()).unwrap();
    let begun = Instant::now();
    stream.write_all(start.as_bytes()).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for byte in rest {
            std::thread::sleep(Duration::from_millis(500));
            if writer.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    let (code, _) = read_until_close(&mut stream);
    let took = begun.elapsed();
    drop(stream);
    sending.join().unwrap();
    (code, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn status_codes_of_rejected_requests() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("codes");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let nobody = caller.with_token("");

    // 400, with every invalid field.
    let wrong = json!({"images": ["UPPER/x"], "batchSize": 0, "priority": 11, "retryDelay": "x", "extra": 1,
        "webhookUrl": "http://169.254.169.254/latest"});
    let answer = caller.post("/tasks", &wrong).await;
    assert_eq!(answer.code, 400, "{answer:?}");
    assert_eq!(
        answer.invalid_fields(),
        ["batchSize", "extra", "images[0]", "priority", "retryDelay", "webhookUrl"]
    );
    assert_eq!(
        caller.get("/tasks?limit=1000&status=done&x=1").await.invalid_fields(),
        ["limit", "status", "x"]
    );
    let elsewhere =
        caller.post("/tasks", &json!({"images": ["a:1"], "namespace": "kube-system"})).await;
    assert_eq!(elsewhere.code, 400, "{elsewhere:?}");
    assert_eq!(elsewhere.invalid_fields(), ["namespace"], "{elsewhere:?}");
    let local = caller
        .post("/tasks", &json!({"images": ["a:1"], "webhookUrl": "http://localhost:1/"}))
        .await;
    assert_eq!(local.code, 400, "{local:?}");
    assert_eq!(local.invalid_fields(), ["webhookUrl"], "{local:?}");

    // 401, with the authentication scheme.
    let answer = nobody.get("/tasks").await;
    assert_eq!(answer.code, 401, "{answer:?}");
    assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"prewarmer\"");
    assert_eq!(caller.with_token("nonsense").get("/tasks").await.code, 401);

    // 403 for a caller that may only read.
    let reader = caller.with_token(&account_token(&namespace, "reader", &["get", "list", "watch"]));
    assert_eq!(reader.get("/tasks").await.code, 200);
    let answer = reader.post("/tasks", &json!({"images": ["a:1"]})).await;
    assert_eq!(answer.code, 403);
    assert!(
        answer.body["error"].as_str().unwrap().contains("may not create prewarmtasks"),
        "{answer:?}"
    );
    assert_eq!(caller.get("/tasks?namespace=kube-system").await.code, 403);

    // 404, with the ID, for any characters in the ID.
    let answer = caller.get("/tasks/nightly").await;
    assert_eq!(answer.code, 404, "{answer:?}");
    assert_eq!(answer.body["taskId"], "nightly");
    for id in
        ["..%2f..%2fstats", "%00", "A", "a%20b", "task-20261121-000000-00000000", &"a".repeat(300)]
    {
        assert_eq!(caller.get(&format!("/tasks/{id}")).await.code, 404, "{id}");
    }
    for path in [
        "/nothing",
        "/tasks/",
        "/tasks/a/b/c",
        "/scheduled-tasks/x",
        "/scheduled-tasks/x/executions/1",
    ] {
        let answer = caller.get(path).await;
        assert!(answer.code == 404 && answer.body["error"].is_string(), "{path}: {answer:?}");
    }

    // 405 with the allowed methods, 406, 413, 415.
    let answer = caller.send(caller.request("PATCH", "/tasks")).await;
    let mut allowed: Vec<&str> = answer.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(answer.code, 405, "{answer:?}");
    assert_eq!(allowed, ["GET", "HEAD", "POST"], "{answer:?}");
    assert!(answer.body["error"].is_string());
    let answer = nobody.send(nobody.request("OPTIONS", "/tasks")).await;
    assert!(answer.code == 204 && answer.header("allow").contains("POST"), "{answer:?}");
    let html = caller.send(caller.request("GET", "/tasks").header("accept", "text/html")).await;
    assert_eq!(html.code, 406, "{html:?}");
    let answer = {
        let text = caller.request("POST", "/tasks").header("content-type", "text/plain");
        caller.send(text.body(r#"{"images": ["a:1"]}"#)).await
    };
    assert_eq!(answer.code, 415);
    assert!(
        answer.body["error"].as_str().unwrap().contains("Content-Type: application/json"),
        "{answer:?}"
    );
    let many: Vec<String> =
        (0..80_000).map(|index| format!("registry.example/image:{index}")).collect();
    assert_eq!(caller.post("/tasks", &json!({"images": many})).await.code, 413);
    let deep = format!("{{\"images\": {}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let json_body = |text: String| {
        caller.request("POST", "/tasks").header("content-type", "application/json").body(text)
    };
    assert_eq!(caller.send(json_body(deep)).await.code, 400);
    assert_eq!(caller.send(json_body("{\"images\":".into())).await.code, 400);

    // HEAD, request IDs, compression, and no side effects.
    let head = caller.send(caller.request("HEAD", "/tasks").header("x-request-id", "mine-1")).await;
    assert_eq!(head.code, 200, "{head:?}");
    assert_eq!(head.body, "");
    assert_eq!(head.header("x-request-id"), "mine-1");
    let other = caller
        .send(
            caller
                .request("GET", "/tasks")
                .header("x-request-id", "no good\u{7f}".trim_end_matches('\u{7f}')),
        )
        .await;
    assert_eq!(other.header("x-request-id").len(), 32);
    let zipped =
        caller.send(caller.request("GET", "/openapi.json").header("accept-encoding", "gzip")).await;
    assert_eq!(zipped.header("content-encoding"), "gzip");
    assert!(namespace.get("prewarmtasks").is_empty(), "a rejected request created a task");

    // Raw requests: two Authorization headers, two lengths, an oversized header, bytes that are not
    // HTTP, and an incomplete header.
    let secret = caller.bearer_token();
    let two = format!(
        "GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(send_raw(&server, two.as_bytes()).0, 400);
    let smuggled = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\nContent-Length: 4\r\nContent-Length: 60\r\nConnection: close\r\n\r\n{{}}"
    );
    assert_eq!(send_raw(&server, smuggled.as_bytes()).0, 400);
    let both = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nConnection: close\r\n\r\n0\r\n\r\nGET /api/v1/stats HTTP/1.1\r\n\r\n"
    );
    let (code, text) = send_raw(&server, both.as_bytes());
    assert!(code == 400 && text.matches("HTTP/1.1 ").count() == 1, "{text}");
    let large =
        format!("GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(40_000));
    assert_eq!(send_raw(&server, large.as_bytes()).0, 431);
    assert_eq!(send_raw(&server, b"\x16\x03\x01 nonsense\r\n\r\n").0, 400);
    // Paths that a client's URL parser would resolve before it sends them. Resolved, they would be
    // the list of tasks and the statistics.
    for path in ["tasks/%2e%2e", "tasks/%2e%2e/tasks", "tasks/../stats", "tasks/.%2E/stats"] {
        let request = format!(
            "GET /api/v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\n\r\n"
        );
        let (code, text) = send_raw(&server, request.as_bytes());
        assert_eq!(code, 404, "{path}: {text}");
    }

    // The log contains no token, and records the denied caller.
    let log = server.log();
    assert!(!log.contains(secret) && !log.contains("nonsense"), "a token is in the log");
    assert!(log.contains("denied") && log.contains("audit"), "{log}");
    let metrics = server.get("/metrics");
    assert!(
        metrics.contains(
            r#"prewarm_api_request_duration_seconds_count{method="GET",route="/api/v1/tasks/{id}",status="404"}"#
        ),
        "{metrics}"
    );
}

/// Verifies that the server closes the connections of clients that send nothing more, or one byte
/// at a time.
#[tokio::test(flavor = "multi_thread")]
async fn slow_requests_time_out() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("loris");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let head = "GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_owned();
    let body = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{{",
        caller.bearer_token()
    );
    // At two bytes per second, 60 bytes take longer than any of the timeouts.
    let drip = [b' '; 60].as_slice();
    let drip: &'static [u8] = Box::leak(drip.into());
    let cases = [
        ("a silent head", &head, [].as_slice(), 0, HEAD_TIMEOUT),
        ("a slow head", &head, drip, 0, HEAD_TIMEOUT),
        ("a silent body", &body, [].as_slice(), 408, BODY_TIMEOUT),
        ("a slow body", &body, drip, 408, BODY_TIMEOUT),
    ];
    std::thread::scope(|scope| {
        for (what, start, rest, expected, limits) in cases {
            let server = &server;
            scope.spawn(move || {
                let (code, took) = send_slowly(server, start, rest);
                assert_eq!(code, expected, "{what}");
                assert!(limits.contains(&took), "{what}: closed after {took:?}");
            });
        }
    });
    assert_eq!(caller.get("/tasks").await.code, 200);
    assert!(namespace.get("prewarmtasks").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limited_caller_gets_retry_after() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("rate");
    let image = format!("--worker-image={HELPER}");
    let server =
        Server::with_args(cluster, &namespace, &namespace, &["--api-rate=1", &image]).await;
    let (caller, other) =
        (RestClient::editor(&server, &namespace), account_token(&namespace, "other", &["list"]));
    let (begun, mut refused, mut accepted) = (Instant::now(), None, 0);
    for _ in 0..10 {
        let answer = caller.get("/tasks").await;
        if answer.code == 429 {
            refused = Some(answer);
            break;
        }
        accepted += 1;
    }
    let refused = refused.expect("none of ten calls was limited to one per second");
    // One per second, and a burst of twice as many.
    let most = 2 + begun.elapsed().as_secs() + 1;
    assert!((2..=most).contains(&accepted), "{accepted} calls in {:?}", begun.elapsed());
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=2).contains(&wait), "{refused:?}");
    assert_eq!(
        caller.with_token(&other).get("/tasks").await.code,
        200,
        "another caller was limited"
    );
    tokio::time::sleep(Duration::from_secs(wait + 1)).await;
    assert_eq!(caller.get("/tasks").await.code, 200);
    // Failed authentications are rate limited by address.
    let begun = Instant::now();
    let codes: Vec<u16> = {
        let calls = (0..500).map(|index| {
            let guess = caller.with_token(&format!("prw_guess_{index}"));
            async move { guess.get("/tasks").await.code }
        });
        futures::future::join_all(calls).await
    };
    assert!(codes.iter().all(|code| [401, 429].contains(code)), "{codes:?}");
    // 50 per second, and a burst of 200.
    let most = 200 + 50 * (begun.elapsed().as_secs() + 1);
    let guesses = codes.iter().filter(|code| **code == 401).count() as u64;
    assert!(
        (200..=most).contains(&guesses) && codes.contains(&429),
        "{guesses} of 500 guesses were evaluated in {:?}",
        begun.elapsed()
    );
}

/// Creates an API token as an operator does; returns the token.
fn create_api_token(
    cluster: &Cluster,
    namespace: &Namespace,
    name: &str,
    words: &[&str],
) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_prewarmer"))
        .args([
            "token",
            "create",
            name,
            "--namespace",
            &namespace.name,
            "--instance",
            &namespace.name,
        ])
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success());
    let manager = format!("--field-manager=prewarmer-token-{name}");
    cluster.kubectl(
        &["apply", "--server-side", &manager, "-f", "-"],
        &String::from_utf8(output.stdout).unwrap(),
    );
    let told = String::from_utf8(output.stderr).unwrap();
    told.lines().find(|line| line.starts_with("prw_")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn api_tokens_are_limited_to_their_scope() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("tokens");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let shop = create_api_token(cluster, &namespace, "shop", &["--namespaces", &namespace.name]);
    let reader =
        create_api_token(cluster, &namespace, "reader", &["--namespaces", "*", "--read-only"]);
    let foreign = create_api_token(cluster, &namespace, "foreign", &["--namespaces", "bank"]);
    let nodes =
        create_api_token(cluster, &namespace, "nodes", &["--namespaces", "bank", "--nodes"]);
    let brief = create_api_token(
        cluster,
        &namespace,
        "brief",
        &["--namespaces", "*", "--expires-in", "1s"],
    );
    let caller = RestClient::new(&server, &shop);
    let good = || async { (caller.get("/tasks").await.code == 200).then_some(()) };
    namespace.eventually("acceptance of the tokens", TASK_TIMEOUT, good).await;
    let body = json!({"images": ["a:1"], "nodeSelector": {"none": "such"}});
    let id = caller.create_task(&body).await;

    let reader = caller.with_token(&reader);
    assert_eq!(reader.get(&format!("/tasks/{id}")).await.code, 200);
    assert_eq!(reader.get("/nodes").await.code, 200);
    assert_eq!(reader.delete(&format!("/tasks/{id}")).await.code, 403);
    assert_eq!(reader.post("/tasks", &body).await.code, 403);
    let schedule = json!({"cronExpr": "@daily", "taskConfig": {"images": ["a:1"]}});
    assert_eq!(reader.post("/scheduled-tasks", &schedule).await.code, 403);

    let foreign = caller.with_token(&foreign);
    assert_eq!(caller.with_token(&nodes).get("/nodes?limit=1").await.code, 200);
    let refused = foreign.get("/nodes").await;
    assert!(
        refused.code == 403 && refused.body["error"].as_str().unwrap().contains("--nodes"),
        "{refused:?}"
    );
    assert_eq!(foreign.post("/tasks", &body).await.code, 403);
    assert_eq!(foreign.get(&format!("/tasks/{id}")).await.code, 404);
    assert_eq!(foreign.get(&format!("/tasks/{id}?namespace={}", namespace.name)).await.code, 403);
    assert_eq!(foreign.delete(&format!("/tasks/{id}")).await.code, 404);
    assert_eq!(foreign.get(&format!("/tasks/{id}/watch")).await.code, 404);

    tokio::time::sleep(Duration::from_secs(1)).await;
    let expired = caller.with_token(&brief).get("/tasks").await;
    assert_eq!(expired.code, 401, "{expired:?}");
    assert_eq!(expired.body["error"], "the API token has expired");
    let forged = format!("{}x", &shop[..shop.len() - 1]);
    assert_eq!(caller.with_token(&forged).get("/tasks").await.code, 401);
    // The task is unchanged.
    let task = namespace.task(&id);
    assert!(!task.spec.cancel);
    assert_eq!(task.annotations()["prewarm.io/created-by"], "token:shop");

    let secret = format!("prewarmer-{}-api-tokens", namespace.name);
    let patch = r#"[{"op":"remove","path":"/data/shop"}]"#;
    namespace.kubectl(&["patch", "secret", &secret, "--type=json", "-p", patch], "");
    let revoked = || async { (caller.get("/tasks").await.code == 401).then_some(()) };
    namespace.eventually("rejection of the revoked token", Duration::from_secs(10), revoked).await;
    assert_eq!(reader.get("/tasks").await.code, 200, "another token was revoked too");
    let log = server.log();
    for token in [&shop, &brief] {
        assert!(!log.contains(token.as_str()), "a token is in the log");
    }
}

/// Verifies the audience of Kubernetes tokens: a token for the API server is rejected, and only one
/// for Prewarmer is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_tokens_require_audience() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("audience");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    assert_eq!(caller.get("/tasks").await.code, 200);
    let whole = namespace.kubectl(&["create", "token", "editor"], "").trim().to_owned();
    let refused = caller.with_token(&whole).get("/tasks").await;
    let said = refused.body["error"].as_str().unwrap();
    assert_eq!(refused.code, 401, "{refused:?}");
    assert!(
        said.contains("is for the audience ")
            && said.contains("kubectl create token NAME --audience prewarmer"),
        "{said}"
    );
    let other = namespace
        .kubectl(&["create", "token", "editor", "--audience", "vault"], "")
        .trim()
        .to_owned();
    assert_eq!(caller.with_token(&other).get("/tasks").await.code, 401);

    // Both audiences are accepted during a migration; the setting contains the API server's own
    // audience.
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(whole.split('.').nth(1).unwrap()).unwrap())
            .unwrap();
    let both = format!("--token-audience=prewarmer,{}", claims["aud"][0].as_str().unwrap());
    let words = [&*both, &format!("--worker-image={HELPER}")];
    let second = cluster.namespace("audience");
    let server = Server::with_args(cluster, &second, &second, &words).await;
    let caller = RestClient::editor(&server, &second);
    assert_eq!(caller.get("/tasks").await.code, 200);
    let whole = second.kubectl(&["create", "token", "editor"], "").trim().to_owned();
    assert_eq!(caller.with_token(&whole).get("/tasks").await.code, 200);
    let other =
        second.kubectl(&["create", "token", "editor", "--audience", "vault"], "").trim().to_owned();
    assert_eq!(caller.with_token(&other).get("/tasks").await.code, 401);
}
