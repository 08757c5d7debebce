//! Faults of the API server: throttling, errors, latency, lost responses, closed watches and stale
//! lists. A task that runs during them ends with the same status as one without faults.
//!
//! A proxy between the server under test and the API server injects the faults. `make test` runs
//! each fault once; `make test-long` sets `PREWARMER_TEST_FAULT_SECONDS` to 300.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, env_number},
    namespace::Namespace,
    outcome::{LONG_TIMEOUT, OutcomeComparison, node_count},
    server::{Server, free_address},
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::TestCluster;

/// Maximum size of a request body, in bytes. Requests carry objects of a few KiB; responses are not
/// limited.
const MAX_REQUEST: usize = 4 << 20;
/// Duration of each fault.
const FAULT_DURATION: Duration = Duration::from_secs(8);

/// Fault that the proxy injects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A third of all requests get 429 with `Retry-After`.
    Throttled,
    /// A third of the writes get 500. Half of those are executed by the API server, so that only
    /// the response is lost.
    Errors,
    /// Each request takes up to one more second.
    Slow,
    /// Watches are closed after at most two seconds.
    CutWatches,
    /// Jobs and pods cannot be created; all other requests succeed.
    NoCreations,
    /// Watch events are delayed by three seconds, and lists may be five seconds old.
    Stale,
}

const FAULTS: [Fault; 6] = [
    Fault::Throttled,
    Fault::Errors,
    Fault::Slow,
    Fault::CutWatches,
    Fault::NoCreations,
    Fault::Stale,
];

/// Time of a response, its headers and its body.
type CachedResponse = (Instant, HeaderMap, Bytes);

/// Proxy that forwards requests to the API server and injects faults.
#[derive(Clone)]
struct Proxy {
    upstream: String,
    client: reqwest::Client,
    begun: Instant,
    /// Number of requests so far. Each fault selects requests by this number, so that runs do not
    /// depend on chance.
    count: Arc<AtomicU64>,
    /// Number of injections of each fault.
    injections: Arc<[AtomicUsize; FAULTS.len()]>,
    /// Most recent response to each GET, by path and query.
    cached_responses: Arc<Mutex<HashMap<String, CachedResponse>>>,
}

impl Proxy {
    fn current_fault(&self) -> (usize, Fault) {
        let spell = self.begun.elapsed().as_millis() / FAULT_DURATION.as_millis();
        let index = usize::try_from(spell).unwrap() % FAULTS.len();
        (index, FAULTS[index])
    }

    fn record_injection(&self, index: usize) {
        self.injections[index].fetch_add(1, Ordering::Relaxed);
    }

    async fn forward(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> reqwest::Result<reqwest::Response> {
        let mut request =
            self.client.request(method, format!("{}{path}", self.upstream)).body(body);
        for (name, value) in &headers {
            let of_this_hop =
                [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::ACCEPT_ENCODING];
            if !of_this_hop.contains(name) {
                request = request.header(name, value);
            }
        }
        request.send().await
    }

    async fn handle(self, request: Request) -> Response {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (method, headers) = (request.method().clone(), request.headers().clone());
        let path =
            request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let body = to_bytes(request.into_body(), MAX_REQUEST).await.unwrap();
        let is_watch = path.contains("watch=true");
        let is_write = method != Method::GET;
        let (index, fault) = self.current_fault();
        match fault {
            Fault::Throttled if number.is_multiple_of(3) => {
                self.record_injection(index);
                return error_response(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", Some("1"));
            }
            Fault::Errors if is_write && number.is_multiple_of(3) => {
                self.record_injection(index);
                if number.is_multiple_of(2) {
                    let _ = self.forward(method, &path, headers, body).await;
                }
                return error_response(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", None);
            }
            Fault::Slow => {
                self.record_injection(index);
                tokio::time::sleep(Duration::from_millis(number * 137 % 1000)).await;
            }
            Fault::NoCreations
                if method == Method::POST && (path.contains("/jobs") || path.contains("/pods")) =>
            {
                self.record_injection(index);
                return error_response(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", None);
            }
            Fault::Stale if method == Method::GET && !is_watch => {
                let known = self.cached_responses.lock().unwrap().get(&path).cloned();
                if let Some((at, headers, body)) = known
                    && at.elapsed() < Duration::from_secs(5)
                    && !path.contains("/leases/")
                {
                    self.record_injection(index);
                    return (headers, body).into_response();
                }
            }
            _ => {}
        }
        let Ok(answer) = self.forward(method.clone(), &path, headers, body).await else {
            return error_response(StatusCode::BAD_GATEWAY, "BadGateway", None);
        };
        if is_watch {
            self.forward_watch(answer, number)
        } else {
            self.forward_response(answer, &method, path).await
        }
    }

    async fn forward_response(
        &self,
        answer: reqwest::Response,
        method: &Method,
        path: String,
    ) -> Response {
        let (status_code, headers) = (answer.status(), forwarded_headers(answer.headers()));
        let Ok(body) = answer.bytes().await else {
            return error_response(StatusCode::BAD_GATEWAY, "BadGateway", None);
        };
        if method == Method::GET && status_code.is_success() {
            self.cached_responses
                .lock()
                .unwrap()
                .insert(path, (Instant::now(), headers.clone(), body.clone()));
        }
        (status_code, headers, body).into_response()
    }

    /// Forwards a watch: delayed during [`Fault::Stale`] and closed early during
    /// [`Fault::CutWatches`].
    fn forward_watch(&self, answer: reqwest::Response, number: u64) -> Response {
        let (code, headers) = (answer.status(), forwarded_headers(answer.headers()));
        let proxy = self.clone();
        let begun = Instant::now();
        let longest = Duration::from_millis(500 + number * 211 % 1500);
        let chunks = stream::unfold(answer, move |mut answer| {
            let proxy = proxy.clone();
            async move {
                let left = async {
                    loop {
                        let (index, fault) = proxy.current_fault();
                        if fault == Fault::CutWatches && begun.elapsed() > longest {
                            proxy.record_injection(index);
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                };
                let chunk = tokio::select! {
                    chunk = answer.chunk() => chunk,
                    () = left => return None,
                };
                let (index, fault) = proxy.current_fault();
                if fault == Fault::Stale {
                    proxy.record_injection(index);
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
                match chunk {
                    Ok(Some(chunk)) => Some((Ok::<_, reqwest::Error>(chunk), answer)),
                    Ok(None) => None,
                    Err(error) => Some((Err(error), answer)),
                }
            }
        });
        (code, headers, Body::from_stream(chunks)).into_response()
    }
}

fn forwarded_headers(headers: &HeaderMap) -> HeaderMap {
    let names = [header::CONTENT_TYPE, header::RETRY_AFTER, header::WARNING, header::DATE];
    names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

/// Builds an error response in the format of the API server.
fn error_response(code: StatusCode, reason: &str, retry_after: Option<&'static str>) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": format!("{reason}: injected by the proxy of this test"), "code": code.as_u16()});
    let mut response = (code, axum::Json(body)).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    response
}

/// Starts the proxy; returns the path of a kubeconfig that uses it, and the injection counters.
async fn start_proxy(
    cluster: &Cluster,
    namespace: &Namespace,
) -> (String, Arc<[AtomicUsize; FAULTS.len()]>) {
    let mut config: serde_json::Value =
        serde_json::from_str(&cluster.kubectl(&["config", "view", "--raw", "-o", "json"], ""))
            .unwrap();
    let target = &mut config["clusters"][0]["cluster"];
    let ca = target["certificate-authority-data"].as_str().unwrap().to_owned();
    let upstream = target["server"].as_str().unwrap().to_owned();
    let address = free_address();
    *target = json!({"server": format!("http://{address}")});
    let file = std::env::temp_dir().join(format!("{}-kubeconfig", namespace.name));
    std::fs::write(&file, config.to_string()).unwrap();
    let client = {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let ca = reqwest::Certificate::from_pem(&STANDARD.decode(ca).unwrap()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap()
    };
    let proxy = Proxy {
        upstream,
        client,
        begun: Instant::now(),
        count: Arc::default(),
        injections: Arc::default(),
        cached_responses: Arc::default(),
    };
    let struck = Arc::clone(&proxy.injections);
    let listener = TcpListener::bind(&address).await.unwrap();
    let router = Router::new()
        .fallback(|State(proxy): State<Proxy>, request: Request| proxy.handle(request))
        .with_state(proxy);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (file.to_str().unwrap().to_owned(), struck)
}

#[tokio::test(flavor = "multi_thread")]
async fn apiserver_faults_do_not_change_outcome() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("faults");
    let nodes = node_count();
    let image = format!("--worker-image={HELPER}");
    let rounds = {
        let mut server = Server::start(cluster, &namespace, HELPER).await;
        let rounds = OutcomeComparison::new(cluster, &namespace, nodes, LONG_TIMEOUT).await;
        server.terminate();
        rounds
    };
    let (kubeconfig, struck) = start_proxy(cluster, &namespace).await;
    let _server = Server::with_kubeconfig(cluster, &namespace, &kubeconfig, &[&image]).await;
    let least = u64::try_from(FAULTS.len()).unwrap() * FAULT_DURATION.as_secs();
    let seconds = env_number("PREWARMER_TEST_FAULT_SECONDS", usize::try_from(least).unwrap());
    let end = Instant::now() + Duration::from_secs(u64::try_from(seconds).unwrap());
    // A fault that affects only some requests may last while a task sends none of them: the cycle is
    // then repeated, at most twice.
    let last_end = end + Duration::from_secs(2 * least);
    let all_injected = || struck.iter().all(|count| count.load(Ordering::Relaxed) > 0);
    let mut round = 0;
    while Instant::now() < end || (!all_injected() && Instant::now() < last_end) {
        round += 1;
        rounds.run_disturbed(&format!("round-{round}"), round, async || {}).await;
        let none = || async { namespace.get("jobs").is_empty().then_some(()) };
        namespace.eventually("deletion of all Jobs", Duration::from_secs(120), none).await;
    }
    let struck: Vec<usize> = struck.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    eprintln!(
        "MEASURED {round} tasks of {nodes} nodes ended like the undisturbed one; faults injected: {FAULTS:?} {struck:?}"
    );
    assert!(struck.iter().all(|count| *count > 0), "a fault was never injected: {struck:?}");
    std::fs::remove_file(kubeconfig).unwrap();
}
