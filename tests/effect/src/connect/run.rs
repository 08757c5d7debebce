//! The loop that passes time, watch events and reports between the fleet and the API server.

use std::pin::pin;

use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use prewarmer_fleet::{Fleet, FleetError, Input, NodeId, Output, api::Clock};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinError,
    time,
};

pub use super::simulation::SimulationFigures;
use super::{
    failures::{Failures, shorten},
    nodes::FLEET_LABEL,
    simulation::Simulation,
    writer::{WriteFigures, Writer},
};

/// Number of commands that wait.
const COMMANDS: usize = 64;
/// Errors of a watch without an event in between after which the run ends. The pauses of kube's
/// default back-off are 0.8 s, doubled up to 30 s: the eighth error is about a minute after the first.
const MAX_WATCH_ERRORS: u32 = 8;

/// Error that ends a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Watch that has ended, which it never does.
    #[error("the watch of {0} has ended")]
    WatchEnded(&'static str),
    /// Watch that fails again and again.
    #[error("the watch of {0} failed {MAX_WATCH_ERRORS} times in a row, the last time with: {1}")]
    WatchFailed(&'static str, String),
    /// Worker that has ended before the run.
    #[error("a worker that sends requests has ended early")]
    WorkerEnded,
    /// Worker that panicked.
    #[error("a worker that sends requests has panicked: {0}")]
    Panic(#[from] JoinError),
}

/// Error of an input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The fleet rejects it.
    #[error(transparent)]
    Rejected(#[from] FleetError),
    /// The run has ended.
    #[error("the simulation has ended")]
    Ended,
}

/// Input with the sender of its result.
struct Command {
    input: Input,
    answer: oneshot::Sender<Result<(), FleetError>>,
}

/// Access to the fleet of a run.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    clock: Clock,
}

impl Handle {
    /// Gives the fleet an input now.
    pub async fn input(&self, input: Input) -> Result<(), InputError> {
        let (answer, result) = oneshot::channel();
        let sent = self.commands.send(Command { input, answer }).await;
        sent.map_err(|_| InputError::Ended)?;
        Ok(result.await.map_err(|_| InputError::Ended)??)
    }

    /// Returns the clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }
}

/// Result of a run.
#[derive(Debug)]
pub struct RunFigures {
    /// Requests.
    pub writes: WriteFigures,
    /// Observations of the simulation.
    pub simulation: SimulationFigures,
    /// Errors of watches, after each of which the watch was started again.
    pub watch_errors: Failures,
}

/// Fleet that is connected with an API server.
pub struct Run {
    client: Client,
    simulation: Simulation,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
}

impl Run {
    /// Creates a run of a fleet whose nodes have these names. Simulated time starts now.
    #[must_use]
    pub fn new(
        client: Client,
        fleet: Fleet,
        nodes: impl IntoIterator<Item = (NodeId, String)>,
        acceleration: u32,
    ) -> (Self, Handle) {
        let clock = Clock { epoch: Timestamp::now(), acceleration };
        let (sender, commands) = mpsc::channel(COMMANDS);
        let simulation = Simulation::new(fleet, nodes.into_iter().collect(), clock);
        let run = Self { client, simulation, clock, commands };
        (run, Handle { commands: sender, clock })
    }

    /// Simulates until all handles are dropped, then sends what is left and returns the fleet with
    /// the figures. A failed watch is started again; the run ends with an error if that does not
    /// help, or if a part ends early.
    pub async fn run(self) -> Result<(Fleet, RunFigures), RunError> {
        let Self { client, mut simulation, clock, mut commands } = self;
        // Pods without a node concern no kubelet.
        let assigned = watcher::Config::default().fields("spec.nodeName!=");
        let pods: Api<Pod> = Api::all(client.clone());
        let mut pods = pin!(watcher(pods, assigned).default_backoff());
        let (key, value) = FLEET_LABEL;
        let ours = watcher::Config::default().labels(&format!("{key}={value}"));
        let nodes: Api<Node> = Api::all(client.clone());
        let mut nodes = pin!(watcher(nodes, ours).default_backoff().applied_objects());
        let writer = Writer::start(&client, clock);
        let (mut pod_watch, mut node_watch) = (Watch::new("pods"), Watch::new("nodes"));
        let mut watch_errors = Failures::default();
        loop {
            let outputs = simulation.advance();
            send(&mut simulation, &writer, outputs).await?;
            let wake = simulation.wake();
            let outputs = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => answer(&mut simulation, command),
                    None => break,
                },
                event = pods.next() => {
                    let event = pod_watch.accept(event, &mut watch_errors)?;
                    event.map(|event| simulation.pod(event)).unwrap_or_default()
                }
                node = nodes.next() => {
                    let node = node_watch.accept(node, &mut watch_errors)?;
                    node.map(|node| simulation.node(&node)).unwrap_or_default()
                }
                () = time::sleep_until(wake) => Vec::new(),
            };
            send(&mut simulation, &writer, outputs).await?;
        }
        let Simulation { fleet, figures, .. } = simulation;
        let sent = writer.finish().await?;
        Ok((fleet, RunFigures { writes: sent, simulation: figures, watch_errors }))
    }
}

/// Gives the fleet the input of a command, and answers it.
fn answer(simulation: &mut Simulation, command: Command) -> Vec<Output> {
    let (outputs, result) = match simulation.input(command.input) {
        Ok(outputs) => (outputs, Ok(())),
        Err(error) => (Vec::new(), Err(error)),
    };
    // The caller may have given up.
    let _ = command.answer.send(result);
    outputs
}

/// Gives the writer the requests for reports. Waits while a queue is full.
async fn send(
    simulation: &mut Simulation,
    writer: &Writer,
    outputs: Vec<Output>,
) -> Result<(), RunError> {
    for output in outputs {
        if let Some(write) = simulation.translate(&output) {
            writer.send(output.node, write).await.map_err(|_| RunError::WorkerEnded)?;
        }
    }
    Ok(())
}

/// Watch of one kind, whose errors in a row are bounded.
struct Watch {
    kind: &'static str,
    errors_in_a_row: u32,
}

impl Watch {
    fn new(kind: &'static str) -> Self {
        Self { kind, errors_in_a_row: 0 }
    }

    /// Returns the event, or none after an error: the watch is started again after a pause. Fails if
    /// the watch has ended, or after [`MAX_WATCH_ERRORS`] errors in a row.
    fn accept<T>(
        &mut self,
        event: Option<watcher::Result<T>>,
        errors: &mut Failures,
    ) -> Result<Option<T>, RunError> {
        match event.ok_or(RunError::WatchEnded(self.kind))? {
            Ok(event) => {
                self.errors_in_a_row = 0;
                Ok(Some(event))
            }
            Err(error) => {
                errors.add(&format!("the watch of {} is started again: {error}", self.kind));
                self.errors_in_a_row = self.errors_in_a_row.saturating_add(1);
                if self.errors_in_a_row >= MAX_WATCH_ERRORS {
                    let reason = shorten(&error.to_string());
                    return Err(RunError::WatchFailed(self.kind, reason));
                }
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future};

    use http::Response;
    use kube::client::Body;
    use prewarmer_fleet::{
        image::{Catalog, CatalogSettings},
        registry::{Registries, RegistrySettings},
    };
    use serde_json::json;

    use super::*;

    fn fleet() -> Fleet {
        let catalog = Catalog::new(1, CatalogSettings::default());
        Fleet::new(1, catalog, Registries::new(RegistrySettings::new("")))
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_when_a_watch_keeps_failing() {
        let service = tower::service_fn(|_: http::Request<Body>| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                                "status": "Failure", "message": "etcd", "code": 500});
            let answer =
                Response::builder().status(500).body(Body::from(status.to_string().into_bytes()));
            future::ready(Ok::<_, Infallible>(answer.unwrap()))
        });
        let (run, _handle) = Run::new(Client::new(service, "default"), fleet(), [], 1);
        let error = run.run().await.unwrap_err();
        assert!(matches!(error, RunError::WatchFailed(..)), "{error}");
        assert!(error.to_string().contains("etcd"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_input_is_returned_and_the_run_ends_with_its_handles() {
        let service = tower::service_fn(|_: http::Request<Body>| {
            future::pending::<Result<Response<Body>, Infallible>>()
        });
        let (run, handle) = Run::new(Client::new(service, "default"), fleet(), [], 1);
        let running = tokio::spawn(run.run());
        let unknown = NodeId(7);
        let rejected = handle.input(Input::NodeStopped { node: unknown }).await.unwrap_err();
        assert!(
            matches!(&rejected, InputError::Rejected(FleetError::UnknownNode(_))),
            "{rejected}"
        );
        drop(handle);
        let (_, figures) = running.await.unwrap().unwrap();
        assert_eq!((figures.writes.failed.count(), figures.watch_errors.count()), (0, 0));
    }

    fn fail(watch: &mut Watch, errors: &mut Failures) -> Result<Option<u8>, RunError> {
        watch.accept(Some(Err(watcher::Error::NoResourceVersion)), errors)
    }

    #[test]
    fn watch_errors_are_counted_and_bounded_in_a_row() {
        let (mut watch, mut errors) = (Watch::new("pods"), Failures::default());
        for _ in 1..MAX_WATCH_ERRORS {
            assert!(matches!(fail(&mut watch, &mut errors), Ok(None)));
        }
        assert!(matches!(watch.accept(Some(Ok(1)), &mut errors), Ok(Some(1))));
        for _ in 1..MAX_WATCH_ERRORS {
            assert!(matches!(fail(&mut watch, &mut errors), Ok(None)));
        }
        let last = fail(&mut watch, &mut errors).unwrap_err();
        assert!(matches!(&last, RunError::WatchFailed("pods", _)), "{last}");
        assert_eq!(errors.count(), u64::from(2 * MAX_WATCH_ERRORS - 1));
        let text = errors.last().unwrap();
        assert!(text.starts_with("the watch of pods is started again: no metadata"), "{text}");
    }

    #[test]
    fn the_end_of_a_watch_ends_the_run() {
        let ended = Watch::new("nodes").accept::<u8>(None, &mut Failures::default());
        assert!(matches!(ended, Err(RunError::WatchEnded("nodes"))));
    }
}
