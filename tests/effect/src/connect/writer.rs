//! Sends requests to the API server: those of one node in order, those of different nodes at the
//! same time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Event, Node, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use prewarmer_fleet::{NodeId, api::Clock};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use super::{
    failures::Failures,
    requests::{self, RequestError},
    writes::{Request, Write},
};

/// Number of requests at the same time.
const WORKERS: usize = 32;
/// Number of requests that wait for one worker. When it is reached, the simulation waits, which the
/// delay of the figures shows. A request has about 3 KB: 32 × 1,000 × 3 KB = 96 MB at most.
const QUEUE_LENGTH: usize = 1_000;
/// Time after the end of a run in which the waiting requests are sent. Longer than one request may
/// take ([`requests`]).
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);

/// Figures of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteFigures {
    /// Successful requests by kind.
    pub succeeded: BTreeMap<&'static str, u64>,
    /// Requests about objects that no longer exist.
    pub outdated: u64,
    /// Attempts that were repeated.
    pub repeated: u64,
    /// Requests that failed. The object keeps its state; the run goes on.
    pub failed: Failures,
    /// Longest simulated time from a report to the end of its request.
    pub longest_delay: Duration,
}

/// Error of a request whose worker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker of node {} has ended", .0.0)]
pub struct WorkerEnded(NodeId);

/// Requests that wait to be sent.
#[derive(Debug)]
pub struct Writer {
    queues: Vec<mpsc::Sender<Write>>,
    figures: Arc<Mutex<WriteFigures>>,
    workers: JoinSet<()>,
}

impl Writer {
    /// Starts the workers.
    #[must_use]
    pub fn start(client: &Client, clock: Clock) -> Self {
        let figures = Arc::new(Mutex::new(WriteFigures::default()));
        let mut workers = JoinSet::new();
        let queues = (0..WORKERS).map(|_| {
            let (queue, requests) = mpsc::channel(QUEUE_LENGTH);
            let sender = Sender { client: client.clone(), clock, figures: Arc::clone(&figures) };
            workers.spawn(sender.run(requests));
            queue
        });
        Self { queues: queues.collect(), figures, workers }
    }

    /// Adds a request of a node. Waits while the queue is full. Fails if the worker has panicked.
    pub async fn send(&self, node: NodeId, write: Write) -> Result<(), WorkerEnded> {
        let index = usize::try_from(node.0).unwrap_or_default().checked_rem(self.queues.len());
        let queue = index.and_then(|index| self.queues.get(index)).ok_or(WorkerEnded(node))?;
        queue.send(write).await.map_err(|_| WorkerEnded(node))
    }

    /// Waits until all requests have been sent, and returns the figures. Requests that wait after
    /// [`FINISH_TIMEOUT`] count as one failure. Fails if a worker has panicked.
    pub async fn finish(self) -> Result<WriteFigures, JoinError> {
        let Self { queues, figures, mut workers } = self;
        drop(queues);
        let all = async {
            while let Some(result) = workers.join_next().await {
                result?;
            }
            Ok(())
        };
        match tokio::time::timeout(FINISH_TIMEOUT, all).await {
            Ok(result) => result?,
            Err(_) => lock(&figures).failed.add("requests still wait a minute after the end"),
        }
        let result = lock(&figures).clone();
        Ok(result)
    }
}

fn lock(figures: &Mutex<WriteFigures>) -> std::sync::MutexGuard<'_, WriteFigures> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Sender {
    client: Client,
    clock: Clock,
    figures: Arc<Mutex<WriteFigures>>,
}

impl Sender {
    async fn run(self, mut requests: mpsc::Receiver<Write>) {
        while let Some(write) = requests.recv().await {
            let repeated = || {
                let mut figures = lock(&self.figures);
                figures.repeated = figures.repeated.saturating_add(1);
            };
            let result = requests::send(repeated, || self.send(&write.request)).await;
            self.record(&write, result);
        }
    }

    async fn send(&self, request: &Request) -> kube::Result<()> {
        let params = PatchParams::default();
        match request {
            Request::PodStatus { namespace, name, patch } => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
                pods.patch_status(name, &params, &Patch::Strategic(patch)).await?;
            }
            Request::Event(event) => {
                let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
                let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
                events.create(&PostParams::default(), event).await?;
            }
            Request::RepeatedEvent { namespace, name, patch } => {
                let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
                events.patch(name, &params, &Patch::Strategic(patch)).await?;
            }
            Request::DeletePod { namespace, name, uid } => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
                let preconditions =
                    Preconditions { uid: Some(uid.clone()), resource_version: None };
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(preconditions),
                    ..DeleteParams::default()
                };
                pods.delete(name, &params).await?;
            }
            Request::NodeStatus { name, patch } => {
                let nodes: Api<Node> = Api::all(self.client.clone());
                nodes.patch_status(name, &params, &Patch::Strategic(patch)).await?;
            }
        }
        Ok(())
    }

    /// Counts the result of a request.
    fn record(&self, write: &Write, result: Result<(), RequestError>) {
        let delay = self.clock.sim_time(Timestamp::now()).since(write.at);
        let mut figures = lock(&self.figures);
        figures.longest_delay = figures.longest_delay.max(delay);
        match result {
            Ok(()) => {
                let count = figures.succeeded.entry(kind(&write.request)).or_default();
                *count = count.saturating_add(1);
            }
            Err(RequestError::Outdated(_)) => {
                figures.outdated = figures.outdated.saturating_add(1);
            }
            Err(error) => {
                figures.failed.add(&format!("{}: {error}", object(&write.request)));
            }
        }
    }
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::PodStatus { .. } => "pod status",
        Request::Event(_) => "Event",
        Request::RepeatedEvent { .. } => "Event patch",
        Request::DeletePod { .. } => "pod deletion",
        Request::NodeStatus { .. } => "node status",
    }
}

/// Returns kind and name of the object of a request, for messages.
fn object(request: &Request) -> String {
    let kind = kind(request);
    match request {
        Request::PodStatus { namespace, name, .. }
        | Request::RepeatedEvent { namespace, name, .. }
        | Request::DeletePod { namespace, name, .. } => format!("{kind} {namespace}/{name}"),
        Request::Event(event) => {
            let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
            format!("{kind} {namespace}/{}", event.metadata.name.as_deref().unwrap_or_default())
        }
        Request::NodeStatus { name, .. } => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http::StatusCode;
    use kube::client::Body;
    use prewarmer_fleet::SimTime;
    use serde_json::json;

    use super::*;

    /// Sends node statuses to an API server that answers with these status codes in turn, and then
    /// with 200.
    async fn sent(codes: &[u16], count: u32) -> WriteFigures {
        let codes = Mutex::new(codes.iter().copied().collect::<VecDeque<u16>>());
        let service = tower::service_fn(move |_: http::Request<Body>| {
            let code = codes.lock().unwrap().pop_front().unwrap_or(200);
            let body = if code == 200 {
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "fleet-0001"}})
            } else {
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                       "message": "no", "reason": "Other", "code": code})
            };
            let answer = http::Response::builder().status(StatusCode::from_u16(code).unwrap());
            let answer = answer.body(Body::from(body.to_string().into_bytes())).unwrap();
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let client = Client::new(service, "default");
        let clock = Clock { epoch: Timestamp::now(), acceleration: 1 };
        let writer = Writer::start(&client, clock);
        for _ in 0..count {
            let request = Request::NodeStatus { name: "fleet-0001".into(), patch: json!({}) };
            writer.send(NodeId(0), Write { at: SimTime::ZERO, request }).await.unwrap();
        }
        writer.finish().await.unwrap()
    }

    #[tokio::test]
    async fn one_failed_request_is_counted_and_the_next_are_sent() {
        let figures = sent(&[422, 200, 404, 503], 4).await;
        assert_eq!(figures.succeeded, BTreeMap::from([("node status", 2)]));
        assert_eq!((figures.outdated, figures.repeated, figures.failed.count()), (1, 1, 1));
        assert_eq!(figures.failed.last(), Some("node status fleet-0001: 422 no"));
    }
}
