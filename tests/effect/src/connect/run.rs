//! The loop that passes time, watch events and reports between the fleet and the API server.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use prewarmer_fleet::{Fleet, FleetError, Input, NodeId, Output, SimTime, api::Clock};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    nodes::{FLEET_LABEL, Machine, no_execute_taints, node_object},
    pods::PodTracker,
    writer::{WriteFigures, Writer},
    writes::Translator,
};

/// Number of nodes that are created or deleted at the same time.
const PARALLEL_NODES: usize = 16;
/// Number of commands that wait.
const COMMANDS: usize = 64;
/// Longest sleep while nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// Error that ends a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Request that failed.
    #[error("{0}: {1}")]
    Request(&'static str, kube::Error),
    /// Watch that has ended, which it never does.
    #[error("the watch of {0} has ended")]
    WatchEnded(&'static str),
    /// Input that the fleet rejects.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// Task that panicked.
    #[error(transparent)]
    Panic(#[from] tokio::task::JoinError),
}

/// Work on the fleet between two events.
type Command = Box<dyn FnOnce(&mut Fleet) -> Result<Vec<Output>, FleetError> + Send>;

/// Access to the fleet of a run.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    clock: Clock,
}

impl Handle {
    /// Runs a function on the fleet, and returns its result; none if the run has ended.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Fleet) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, result) = oneshot::channel();
        let command: Command = Box::new(move |fleet| {
            // The caller may have given up.
            let _ = answer.send(work(fleet));
            Ok(Vec::new())
        });
        self.commands.send(command).await.ok()?;
        result.await.ok()
    }

    /// Gives the fleet an input now. The run ends if the fleet rejects it.
    pub async fn input(&self, input: Input) {
        let clock = self.clock;
        let command: Command =
            Box::new(move |fleet| fleet.handle(input, clock.sim_time(Timestamp::now())));
        // The run has ended: its result tells the cause.
        let _ = self.commands.send(command).await;
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
    /// Pods that could not be read.
    pub unreadable_pods: u64,
    /// Longest simulated time from the point at which an event of the fleet was due until it was
    /// handled.
    pub longest_lag: Duration,
}

/// Fleet that is connected with an API server.
pub struct Run {
    client: Client,
    fleet: Fleet,
    /// Numbers of the nodes by name.
    numbers: BTreeMap<String, NodeId>,
    /// Names of the nodes by number.
    names: BTreeMap<NodeId, String>,
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
        let names: BTreeMap<NodeId, String> = nodes.into_iter().collect();
        let numbers = names.iter().map(|(id, name)| (name.clone(), *id)).collect();
        let clock = Clock { epoch: Timestamp::now(), acceleration };
        let (sender, commands) = mpsc::channel(COMMANDS);
        let run = Self { client, fleet, numbers, names, clock, commands };
        (run, Handle { commands: sender, clock })
    }

    /// Simulates until all handles are dropped, then sends what is left and returns the fleet with
    /// the figures.
    pub async fn run(mut self) -> Result<(Fleet, RunFigures), RunError> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        // Pods without a node concern no kubelet.
        let assigned = watcher::Config::default().fields("spec.nodeName!=");
        let mut pods = pin!(watcher(pods, assigned).default_backoff());
        let nodes: Api<Node> = Api::all(self.client.clone());
        let (key, value) = FLEET_LABEL;
        let ours = watcher::Config::default().labels(&format!("{key}={value}"));
        let mut nodes = pin!(watcher(nodes, ours).default_backoff().applied_objects());
        let writer = Writer::start(&self.client, self.clock);
        let mut translator = Translator::new(self.clock);
        let mut tracker = PodTracker::default();
        let mut taints: BTreeMap<NodeId, Vec<prewarmer_fleet::pod::Taint>> = BTreeMap::new();
        let mut figures =
            RunFigures { writes: WriteFigures::default(), unreadable_pods: 0, longest_lag: Duration::ZERO };
        loop {
            let due = self.fleet.next_event();
            let now = self.now();
            if let Some(due) = due {
                figures.longest_lag = figures.longest_lag.max(now.since(due));
            }
            let mut outputs = self.fleet.advance(now);
            let inputs = tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => {
                        outputs.extend(command(&mut self.fleet)?);
                        Vec::new()
                    }
                    None => break,
                },
                event = pods.next() => match event.ok_or(RunError::WatchEnded("pods"))? {
                    Ok(event) => tracker.observe(event, |name| self.numbers.get(name).copied()).unwrap_or_else(|_| {
                        figures.unreadable_pods = figures.unreadable_pods.saturating_add(1);
                        Vec::new()
                    }),
                    // The watch is started again, after a pause.
                    Err(_) => Vec::new(),
                },
                node = nodes.next() => match node.ok_or(RunError::WatchEnded("nodes"))? {
                    Ok(node) => self.tainted(&node, &mut taints),
                    Err(_) => Vec::new(),
                },
                () = tokio::time::sleep_until(self.wake(due)) => Vec::new(),
            };
            for input in inputs {
                let now = self.now();
                outputs.extend(self.fleet.handle(input, now)?);
            }
            for output in outputs {
                if let Some(name) = self.names.get(&output.node) {
                    writer.send(output.node, translator.translate(&output, name)).await;
                }
            }
        }
        figures.writes = writer.finish().await?;
        Ok((self.fleet, figures))
    }

    fn now(&self) -> SimTime {
        self.clock.sim_time(Timestamp::now())
    }

    /// Returns the time at which the next event of the fleet is due.
    fn wake(&self, due: Option<SimTime>) -> Instant {
        let wait = due.map_or(IDLE, |due| {
            let at = self.clock.timestamp(due).duration_since(Timestamp::now());
            Duration::try_from(at).unwrap_or(Duration::ZERO)
        });
        let now = Instant::now();
        now.checked_add(wait.min(IDLE)).unwrap_or(now)
    }

    /// Returns an input if the taints of a node have changed.
    fn tainted(
        &self,
        node: &Node,
        known: &mut BTreeMap<NodeId, Vec<prewarmer_fleet::pod::Taint>>,
    ) -> Vec<Input> {
        let Some(id) = self.numbers.get(&node.name_any()).copied() else {
            return Vec::new();
        };
        let taints = no_execute_taints(node);
        let before = known.entry(id).or_default();
        if *before == taints {
            return Vec::new();
        }
        before.clone_from(&taints);
        vec![Input::NodeTainted { node: id, taints }]
    }
}

/// Creates the objects of nodes.
pub async fn create_nodes(
    client: &Client,
    machines: impl IntoIterator<Item = (String, Machine)>,
) -> Result<(), RunError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let now = Timestamp::now();
    let create = |(name, machine): (String, Machine)| {
        let nodes = nodes.clone();
        let object = node_object(&name, &machine, now);
        async move { nodes.create(&PostParams::default(), &object).await.map(|_| ()) }
    };
    let all = futures::stream::iter(machines).map(create).buffer_unordered(PARALLEL_NODES);
    all.try_collect::<()>().await.map_err(|error| RunError::Request("creation of a node", error))
}

/// Deletes the objects of all nodes of the fleet.
pub async fn delete_nodes(client: &Client) -> Result<(), RunError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let (key, value) = FLEET_LABEL;
    let ours = ListParams::default().labels(&format!("{key}={value}"));
    let params = DeleteParams::default();
    nodes
        .delete_collection(&params, &ours)
        .await
        .map(|_| ())
        .map_err(|error| RunError::Request("deletion of the nodes", error))
}
