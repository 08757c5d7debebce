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
use prewarmer_fleet::{NodeId, SimTime, api::Clock};
use tokio::{sync::mpsc, task::JoinSet};

use super::writes::{Request, Write};

/// Number of requests at the same time.
const WORKERS: usize = 32;
/// Number of requests that wait for one worker. When it is reached, the simulation waits, which the
/// delay of the figures shows.
const QUEUE_LENGTH: usize = 1_000;
/// Attempts of a request that fails for another reason than its content.
const ATTEMPTS: u32 = 5;
/// Pause before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Figures of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteFigures {
    /// Successful requests by kind.
    pub succeeded: BTreeMap<&'static str, u64>,
    /// Requests about objects that no longer exist.
    pub outdated: u64,
    /// Attempts that were repeated.
    pub repeated: u64,
    /// Requests that failed, and the error of the last one.
    pub failed: u64,
    /// Error of the last failed request.
    pub last_error: Option<String>,
    /// Longest simulated time from a report to the end of its request.
    pub longest_delay: Duration,
}

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

    /// Adds a request of a node. Waits while the queue is full.
    pub async fn send(&self, node: NodeId, write: Write) {
        let count = self.queues.len().max(1);
        let index = usize::try_from(node.0).unwrap_or_default().checked_rem(count);
        if let Some(queue) = index.and_then(|index| self.queues.get(index)) {
            // A queue is closed only by a panic of its worker, which `finish` reports.
            let _ = queue.send(write).await;
        }
    }

    /// Returns the figures so far.
    #[must_use]
    pub fn figures(&self) -> WriteFigures {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until all requests have been sent, and returns the figures. Fails if a worker has
    /// panicked.
    pub async fn finish(mut self) -> Result<WriteFigures, tokio::task::JoinError> {
        self.queues.clear();
        while let Some(result) = self.workers.join_next().await {
            result?;
        }
        Ok(self.figures())
    }
}

struct Sender {
    client: Client,
    clock: Clock,
    figures: Arc<Mutex<WriteFigures>>,
}

impl Sender {
    async fn run(self, mut requests: mpsc::Receiver<Write>) {
        while let Some(write) = requests.recv().await {
            let kind = kind(&write.request);
            let mut pause = FIRST_PAUSE;
            for attempt in 1..=ATTEMPTS {
                match self.send(&write.request).await {
                    Ok(()) => {
                        self.count(|figures| {
                            let count = figures.succeeded.entry(kind).or_default();
                            *count = count.saturating_add(1);
                        });
                        break;
                    }
                    Err(error) if is_outdated(&error) => {
                        self.count(|figures| figures.outdated = figures.outdated.saturating_add(1));
                        break;
                    }
                    Err(error) if attempt == ATTEMPTS || is_rejected(&error) => {
                        self.count(|figures| {
                            figures.failed = figures.failed.saturating_add(1);
                            figures.last_error = Some(format!("{kind}: {error}"));
                        });
                        break;
                    }
                    Err(_) => {
                        self.count(|figures| figures.repeated = figures.repeated.saturating_add(1));
                        tokio::time::sleep(pause).await;
                        pause = pause.saturating_mul(2);
                    }
                }
            }
            self.record_delay(write.at);
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

    fn count(&self, change: impl FnOnce(&mut WriteFigures)) {
        change(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn record_delay(&self, at: SimTime) {
        let delay = self.clock.sim_time(Timestamp::now()).since(at);
        self.count(|figures| figures.longest_delay = figures.longest_delay.max(delay));
    }
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::PodStatus { .. } => "pod status",
        Request::Event(_) => "Event",
        Request::DeletePod { .. } => "pod deletion",
        Request::NodeStatus { .. } => "node status",
    }
}

fn status_code(error: &kube::Error) -> Option<u16> {
    if let kube::Error::Api(status) = error { Some(status.code) } else { None }
}

/// Reports whether the object no longer exists: it is missing, or has another UID.
fn is_outdated(error: &kube::Error) -> bool {
    matches!(status_code(error), Some(404 | 409 | 410))
}

/// Reports whether the same request would fail again.
fn is_rejected(error: &kube::Error) -> bool {
    matches!(status_code(error), Some(400..=428 | 431..=499))
}
