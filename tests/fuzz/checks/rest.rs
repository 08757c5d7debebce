//! Bodies of REST calls, sent to the router of the server with a client that stores objects.

use std::{
    cell::RefCell,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::ConnectInfo,
};
use http::{Request, Response, StatusCode};
use prewarmer::{
    api::{
        Api, ApiInner, ApiSettings, CallerLimits,
        auth::{ApiTokens, Auth},
        router,
    },
    manifests,
};
use prewarmer_core::{
    admission::{AdmissionReview, decide_task, serialize_answer},
    schedule::{PrewarmSchedule, PrewarmScheduleSpec, validate_spec},
    task::{PrewarmTaskSpec, validate::validate},
};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

use super::{POLICY, crd};

/// Calls with a body: method, path, content type and the status of success. The first byte of an
/// input selects one.
const CALLS: [(&str, &str, &str, u16); 6] = [
    ("POST", "/api/v1/tasks", "application/json", 201),
    ("POST", "/api/v1/scheduled-tasks", "application/json", 201),
    ("PUT", "/api/v1/scheduled-tasks/nightly", "application/json", 200),
    ("POST", "/api/v1/tasks?namespace=shop", "", 201),
    ("POST", "/api/v1/scheduled-tasks?namespace=shop", "application/x-www-form-urlencoded", 201),
    ("POST", "/api/v1/tasks:extract", "application/yaml", 200),
];
/// Index of the call that changes a schedule, in `CALLS`.
const CHANGE: usize = 2;
/// Index of the call that reads a manifest, in `CALLS`.
const EXTRACT: usize = 5;
/// Calls after which the server is created again, because its stores keep what was created.
const CALLS_PER_SERVER: u32 = 500;
/// Upper bound of a response, in bytes. A problem has a path of 400 characters and a message of 300,
/// and a body at most 20,000 values.
const MAX_ANSWER: usize = 16 << 20;
/// Longest path of a field, in characters; a longer one is truncated and has no pointer.
const MAX_FIELD: usize = 400;

/// Schemas of the specs in the custom resource definitions: task and schedule.
static SCHEMAS: LazyLock<[Value; 2]> = LazyLock::new(|| {
    let documents: Vec<Value> = manifests::crds()
        .ok()
        .and_then(|text| serde_saphyr::from_multiple(&text).ok())
        .unwrap_or_default();
    ["prewarmtasks", "prewarmschedules"].map(|plural| {
        let found = documents.iter().find(|one| one["spec"]["names"]["plural"] == plural);
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        let spec = found.and_then(|found| found.pointer(spec)).cloned();
        assert!(spec.is_some(), "no definition of {plural}");
        spec.unwrap_or_default()
    })
});

/// Server with a client that answers like an API server without other clients.
struct Server {
    runtime: Runtime,
    router: Router,
    /// Object that the last call has written.
    written: Arc<Mutex<Option<Value>>>,
    calls_left: u32,
}

/// Schedule that calls change, in the namespace `shop`.
fn known_schedule() -> Value {
    json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmSchedule",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": "u", "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"schedule": "30 2 * * *", "timeZone": "Europe/Berlin", "historyLimit": 5,
            "taskTemplate": {"spec": {"images": ["a:1"], "failurePolicy": "Retry", "retry": {"limit": 2, "delay": "30s"},
                "notify": [{"url": "https://hooks.example.com/x"}]}}}})
}

impl Server {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let written = Arc::new(Mutex::new(None));
        let stored = Arc::clone(&written);
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let stored = Arc::clone(&stored);
            async move { Ok::<_, Infallible>(store(&stored, request).await) }
        });
        let entered = runtime.enter();
        let client = kube::Client::new(service, "default");
        let settings = ApiSettings {
            namespace: "prewarmer".into(),
            watched_namespace: None,
            object_prefix: "prewarmer".into(),
            origins: Vec::new(),
            limits: CallerLimits::default(),
        };
        let auth = Auth::new(None, ApiTokens::default(), u32::MAX / 2);
        let inner = ApiInner::standalone(client, auth, settings)?;
        inner.schedules.put(serde_json::from_value::<PrewarmSchedule>(known_schedule())?);
        let router = router(Api::new(inner), None);
        drop(entered);
        Ok(Self { runtime, router, written, calls_left: CALLS_PER_SERVER })
    }

    /// Sends a call. Returns the status, the body, and the object that was written.
    fn send(&mut self, call: usize, body: &[u8]) -> (StatusCode, Value, Option<Value>) {
        self.calls_left -= 1;
        let (method, path, kind, _) = CALLS[call];
        let mut request = Request::builder().method(method).uri(path);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let peer = ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1)));
        let request = request.extension(peer).body(Body::from(body.to_vec()));
        let Ok(request) = request else { unreachable!("a valid request") };
        let answer = self.runtime.block_on(async {
            let Ok(response) = self.router.clone().oneshot(request).await;
            let status = response.status();
            (status, to_bytes(response.into_body(), MAX_ANSWER).await)
        });
        let (status, Ok(bytes)) = answer else {
            panic!("a response of more than {MAX_ANSWER} bytes")
        };
        let Ok(answer) = serde_json::from_slice(&bytes) else { panic!("{status}: {bytes:?}") };
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner).take();
        (status, answer, written)
    }
}

/// Answers a request of the server to the API server.
async fn store(
    written: &Mutex<Option<Value>>,
    request: Request<kube::client::Body>,
) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let bytes = request.into_body().collect_bytes().await.unwrap_or_default();
    let object: Option<Value> = serde_json::from_slice(&bytes).ok();
    let (code, answer) = match (method.as_str(), object) {
        ("POST" | "PUT", Some(object)) => {
            let mut stored = object.clone();
            stored["metadata"]["uid"] = json!("u");
            stored["metadata"]["resourceVersion"] = json!("2");
            stored["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            *written.lock().unwrap_or_else(PoisonError::into_inner) = Some(object);
            (if method == "POST" { 201 } else { 200 }, stored)
        }
        ("GET", _) if path.ends_with("/nightly") => (200, known_schedule()),
        ("GET", _) if path.ends_with("/nodes") => (
            200,
            json!({"apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": "1"}, "items": []}),
        ),
        _ => (
            404,
            json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound",
                "message": "not found"}),
        ),
    };
    let mut response = Response::new(Body::from(answer.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    response
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// Checks bytes as the body of a call, which the first byte selects. No call fails in the server, a
/// refused body has its problems with their places, an accepted one is stored as a valid object, and
/// the same body has the same result.
pub fn rest(bytes: &[u8]) {
    let [selected, body @ ..] = bytes else { return };
    let call = usize::from(*selected) % CALLS.len();
    let [first, second] = SERVER.with_borrow_mut(|server| {
        let mut known = server.take().filter(|server| server.calls_left >= 2);
        if known.is_none() {
            known = Server::new().ok();
        }
        let Some(known) = known else { panic!("the server cannot be created") };
        let known = server.insert(known);
        [known.send(call, body), known.send(call, body)]
    });
    let (status, answer, written) = first;
    assert_eq!(status, second.0, "{answer}");
    let spec = |written: Option<&Value>| written.map(|object| object["spec"].clone());
    assert_eq!(spec(written.as_ref()), spec(second.2.as_ref()), "another spec");
    if status.as_u16() == CALLS[call].3 {
        assert!(written.is_some() || call == EXTRACT, "{answer}");
    } else {
        assert_eq!((&answer, &written), (&second.1, &None), "{status}");
        check_refusal(status, &answer, (call, body));
    }
    if let Some(object) = written {
        check_object(&object);
    }
}

/// Checks the response to a refused body.
fn check_refusal(status: StatusCode, answer: &Value, (call, body): (usize, &[u8])) {
    assert!(matches!(status.as_u16(), 400 | 413 | 422), "{status}: {answer}");
    assert!(answer["error"].as_str().is_some_and(|error| !error.is_empty()), "{answer}");
    let sent: Option<Value> = serde_json::from_slice(body).ok();
    let details = answer["details"].as_array().map_or(&[][..], Vec::as_slice);
    assert!(status != StatusCode::BAD_REQUEST || !details.is_empty(), "{answer}");
    for detail in details {
        let text = |name: &str| detail[name].as_str();
        let (Some(field), Some(message)) = (text("field"), text("message")) else {
            panic!("{detail}")
        };
        assert!(!message.is_empty() && message.len() < 4096, "{detail}");
        assert!(field.chars().count() <= MAX_FIELD + 1, "{detail}");
        let Some(pointer) = text("pointer") else {
            // The entire body, a path that is truncated, or a field of a manifest.
            let is_long = field.chars().count() > MAX_FIELD / 2;
            assert!(field.is_empty() || is_long || call == EXTRACT, "{detail}");
            continue;
        };
        assert!(!pointer.is_empty() || field.is_empty(), "{detail}");
        // A missing field has a place in an object of the body. A change is merged with the object.
        let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        let is_sent = |at: &str| sent.as_ref().is_some_and(|sent| sent.pointer(at).is_some());
        assert!(is_sent(pointer) || is_sent(parent) || call == CHANGE, "{detail}");
    }
}

/// Checks an object that the server has written: its spec is valid, as the server, the custom
/// resource definition and the webhook check it, and its metadata are the server's own.
fn check_object(object: &Value) {
    let spec = &object["spec"];
    let is_task = object["kind"] == "PrewarmTask";
    if is_task {
        let decoded = serde_json::from_value::<PrewarmTaskSpec>(spec.clone());
        let problems = decoded.as_ref().map(|spec| validate(spec).err());
        assert!(matches!(problems, Ok(None)), "{problems:?} in {spec}");
    } else {
        let decoded = serde_json::from_value::<PrewarmScheduleSpec>(spec.clone());
        let problems = decoded.as_ref().map(validate_spec);
        assert!(problems.is_ok_and(|problems| problems.is_empty()), "{decoded:?} in {spec}");
    }
    let problems = crd::problems(&SCHEMAS[usize::from(!is_task)], spec, "spec");
    assert_eq!(problems, Vec::<String>::new(), "{spec}");
    let own = [
        "annotations",
        "creationTimestamp",
        "labels",
        "name",
        "namespace",
        "resourceVersion",
        "uid",
    ];
    let metadata = object["metadata"].as_object();
    assert!(
        metadata.is_some_and(|fields| fields.keys().all(|key| own.contains(&key.as_str()))),
        "{object}"
    );
    let (group, version) = ("prewarm.io", "v1alpha1");
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u", "kind": {"group": group, "version": version, "kind": object["kind"]},
            "operation": "CREATE", "namespace": "shop", "object": object}})
    .to_string();
    let Ok(review) = AdmissionReview::parse(review.as_bytes()) else { panic!("{review}") };
    let answer = serialize_answer(&review, &decide_task(&review, &POLICY.caps));
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
}
