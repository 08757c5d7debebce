//! The election against an API server of one Lease.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// An API server that has one Lease at most, and can be out of reach.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    away: bool,
}

impl Server {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let (code, answer) = server.with(|state| state.answer(&method, &body));
                let response = Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap()));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        Client::new(service, "own")
    }

    fn holder(&self) -> String {
        let text = |lease: &Value| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        self.with(|state| state.lease.as_ref().map(text).unwrap_or_default())
    }
}

impl State {
    fn answer(&mut self, method: &Method, body: &[u8]) -> (StatusCode, Value) {
        let refusal = |code: u16, reason: &str| {
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code});
            (StatusCode::from_u16(code).unwrap(), status)
        };
        if self.away {
            return refusal(503, "ServiceUnavailable");
        }
        if *method == Method::GET {
            return match &self.lease {
                Some(lease) => (StatusCode::OK, lease.clone()),
                None => refusal(404, "NotFound"),
            };
        }
        let mut new: Value = serde_json::from_slice(body).unwrap();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        if self.lease.as_ref().is_some_and(|lease| *method == Method::POST || version(lease) != version(&new)) {
            return refusal(409, "Conflict");
        }
        self.version += 1;
        new["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.lease = Some(new.clone());
        (StatusCode::OK, new)
    }
}

/// A replica that stands for election.
struct Replica {
    leads: watch::Receiver<bool>,
    leadership: Leadership,
    heartbeat: Heartbeat,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Replica {
    fn start(server: &Server, name: &str) -> Self {
        let (sender, leads) = watch::channel(false);
        let (leadership, heartbeat) = (Leadership::default(), Heartbeat::default());
        let standing = Standing { leads: sender, leadership: leadership.clone(), heartbeat: heartbeat.clone() };
        let settings = LeaseSettings { name: "l".into(), namespace: "own".into(), identity: name.into() };
        let figures = Figures { metrics: Arc::new(Metrics::new().unwrap()), totals: Totals::default() };
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(server.client(), settings, figures, standing, stop.clone()));
        Self { leads, leadership, heartbeat, stop, task }
    }

    async fn led(&mut self) -> Duration {
        let begun = Instant::now();
        self.leads.wait_for(|leads| *leads).await.unwrap();
        begun.elapsed()
    }

    async fn deposed(&mut self) -> Duration {
        let begun = Instant::now();
        self.leads.wait_for(|leads| !*leads).await.unwrap();
        begun.elapsed()
    }

    /// Work that beats, as the controller's does.
    fn work(&self) -> tokio::task::JoinHandle<()> {
        let heartbeat = self.heartbeat.clone();
        tokio::spawn(async move {
            let _beating = heartbeat.begin();
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                heartbeat.beat();
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_work_hangs_is_replaced_within_20_s() {
    let server = Server::default();
    let mut first = Replica::start(&server, "first");
    first.led().await;
    let work = first.work();
    let mut second = Replica::start(&server, "second");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(*first.leads.borrow() && !*second.leads.borrow());
    // It hangs: it is still there and does not beat.
    work.abort();
    let _ = work.await;
    let hung = first.heartbeat.begin();
    let took = second.led().await;
    assert!(took < Duration::from_secs(12), "{took:?}");
    assert!(!first.leadership.is_current() && server.holder() == "second");
    // It does not stand again while the work of its old term is not over.
    second.stop.cancel();
    second.task.await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!*first.leads.borrow() && server.holder().is_empty());
    drop(hung);
    first.led().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_work_never_begins_makes_room() {
    let server = Server::default();
    let mut first = Replica::start(&server, "first");
    first.led().await;
    let mut second = Replica::start(&server, "second");
    let took = second.led().await;
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_cannot_be_written_is_made_up_for() {
    let server = Server::default();
    let mut first = Replica::start(&server, "first");
    first.led().await;
    let _hung = first.heartbeat.begin();
    tokio::time::sleep(HUNG.saturating_sub(Duration::from_secs(1))).await;
    server.with(|state| state.away = true);
    first.deposed().await;
    assert_eq!(server.holder(), "first");
    server.with(|state| state.away = false);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(server.holder(), "");
}

/// A process that was stopped for long enough that another has led and gone: its term must not go on as if nothing had been.
#[tokio::test(start_paused = true)]
async fn a_leader_that_was_replaced_meanwhile_begins_a_new_term() {
    let server = Server::default();
    let mut first = Replica::start(&server, "first");
    first.led().await;
    let work = first.work();
    let term = first.leadership.begin(&CancellationToken::new()).unwrap();
    server.with(|state| {
        if let Some(lease) = &mut state.lease {
            lease["spec"]["holderIdentity"] = "".into();
            lease["metadata"]["resourceVersion"] = "other".into();
        }
    });
    first.deposed().await;
    assert!(!term.holds());
    work.abort();
    first.led().await;
    assert!(!term.holds());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over() {
    let server = Server::default();
    let mut first = Replica::start(&server, "first");
    first.led().await;
    let mut second = Replica::start(&server, "second");
    first.stop.cancel();
    first.task.await.unwrap();
    let took = second.led().await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(!*first.leads.borrow() && first.leadership.age().is_none());
}
