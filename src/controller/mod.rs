//! Task controller: watches, reconciles on the leader, and applies the effects.
//!
//! ```text
//!   watches (tasks, plans, nodes, Jobs, pods)  ->  prewarmer_core::controller::Controller
//!                                                       |
//!   Executor (the only code that writes)  <-- effects --+
//!        '--> results of effects, next to the events of the watches
//! ```
//!
//! Inputs: watch events and results of effects. Outputs: plans, workers, statuses, Events and
//! deletions. A new leader continues from the objects in the API server.
//!
//! May use `egress` and `node_checks`.

// Values written by others must not cause a panic: sums saturate, and lookups return `Option`.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod clock;
mod credential_check;
mod executor;
mod initial_list;
mod limits;
mod metrics;
mod recorder;
mod settings;
mod task_feed;
mod watches;

use std::{sync::Arc, time::Duration};

use kube::Client;
use prewarmer_core::controller::{Controller, ControllerSettings, Observation};
use prewarmer_kube::{
    lease::{Heartbeat, Term},
    metrics::ObjectErrorMetrics,
};
use tokio::{sync::mpsc, time::Instant};

pub(crate) use self::task_feed::TaskSubscription;
use self::{clock::ServerClock, executor::Executor, recorder::Recorder, watches::Watches};
pub(crate) use self::{
    metrics::ControllerMetrics,
    settings::{ControllerArgs, WorkerArgs},
    task_feed::TaskFeed,
};
use crate::{egress, node_checks::NodeChecks, supervise::ComponentFailure};

/// Time during which arriving events are coalesced before a reconcile. 100 pods of a batch change
/// within it.
const COALESCE_WINDOW: Duration = Duration::from_millis(50);
/// Interval of reconciles while tasks are active, for timeouts and delayed writes. A reconcile
/// without changes sends no request.
const ACTIVE_INTERVAL: Duration = Duration::from_millis(250);
/// Interval of reconciles without active tasks and events, for the heartbeat, which two missed
/// iterations do not make overdue (3 x 2.25 s < 7 s), and for garbage collection, every 5 s. Sends
/// no request.
const IDLE_INTERVAL: Duration = Duration::from_millis(2250);
/// Interval at which node addresses are passed to `egress`. One update takes 2 ms for 5,000 nodes.
const ADDRESS_REFRESH_INTERVAL: Duration = Duration::from_secs(15);
/// Capacity of the event queue. A re-list of 5,000 nodes and their pods is a single event.
const EVENT_QUEUE_CAPACITY: usize = 10_000;

/// Dependencies of the controller.
pub(crate) struct ControllerDependencies {
    /// Client of the controller.
    pub client: Client,
    /// Changes of tasks.
    pub tasks: TaskFeed,
    /// Networks of the cluster, which get the addresses of nodes.
    pub networks: egress::ClusterNetworks,
    /// Checks of nodes before a plan.
    pub checks: Arc<NodeChecks>,
    /// Metrics of panics and of objects that cannot be decoded.
    pub object_errors: ObjectErrorMetrics,
    /// Metrics of the controller.
    pub metrics: ControllerMetrics,
    /// Heartbeat, sent after each pass.
    pub heartbeat: Heartbeat,
}

/// Reconciles tasks until the term ends, and sends a heartbeat after each pass. Returns when all
/// watches have stopped and all requests have completed or were aborted. Fails when a watch stops
/// before the end of the term.
pub(crate) async fn run(
    with: ControllerDependencies,
    settings: ControllerSettings,
    term: Term,
) -> Result<(), ComponentFailure> {
    let ControllerDependencies {
        client,
        tasks,
        networks,
        checks,
        object_errors,
        metrics,
        heartbeat,
    } = with;
    let settings = Arc::new(settings);
    let (events, mut inbox) = mpsc::channel(EVENT_QUEUE_CAPACITY);
    let mut watches =
        watches::start(&client, &settings, &tasks, &events, &object_errors, term.cancellation());
    let asked = async {
        tokio::join!(
            ServerClock::from_api_server(&client),
            credential_check::warn_about_pull_secrets(&client, &settings)
        )
        .0
    };
    let Some(clock) = term.run(asked).await else {
        watches.stopped().await;
        return Ok(());
    };
    let executor = Executor::new(client, events, object_errors.clone(), checks, term.clone());
    let mut control_loop = ControlLoop {
        controller: Controller::new(watches.count, settings),
        clock,
        executor,
        recorder: Recorder::new(object_errors, metrics),
        networks,
        heartbeat,
        last_address_refresh: None,
    };
    let result = control_loop.run(&mut inbox, &mut watches, &term).await;
    control_loop.record_measurements();
    term.end();
    control_loop.executor.drained().await;
    watches.stopped().await;
    result
}

/// Loop of the controller: events in, effects out.
struct ControlLoop {
    controller: Controller,
    clock: ServerClock,
    executor: Executor,
    recorder: Recorder,
    networks: egress::ClusterNetworks,
    heartbeat: Heartbeat,
    last_address_refresh: Option<Instant>,
}

impl ControlLoop {
    /// Reconciles until the term ends. Fails when a watch stops before.
    async fn run(
        &mut self,
        inbox: &mut mpsc::Receiver<Observation>,
        watches: &mut Watches,
        term: &Term,
    ) -> Result<(), ComponentFailure> {
        loop {
            let event = tokio::select! {
                () = term.cancellation().cancelled() => return Ok(()),
                failure = watches.failed() => {
                    return if term.is_active() { Err(failure) } else { Ok(()) };
                }
                event = inbox.recv() => event,
                () = tokio::time::sleep(ACTIVE_INTERVAL), if self.controller.has_open_tasks() => None,
                () = tokio::time::sleep(IDLE_INTERVAL) => None,
            };
            self.handle_events(event, inbox).await;
            if !term.is_active() {
                return Ok(());
            }
            self.reconcile();
        }
    }

    /// Handles an event and those that arrive shortly after it.
    async fn handle_events(
        &mut self,
        first: Option<Observation>,
        inbox: &mut mpsc::Receiver<Observation>,
    ) {
        if let Some(event) = first {
            self.controller.handle(event, self.clock.now());
            tokio::time::sleep(COALESCE_WINDOW).await;
        }
        while let Ok(event) = inbox.try_recv() {
            self.controller.handle(event, self.clock.now());
        }
    }

    /// Reconciles all tasks once the first lists are complete, and starts the effects.
    fn reconcile(&mut self) {
        if self.controller.is_synced() {
            self.refresh_addresses();
            self.controller.reconcile_all(self.clock.now());
        }
        for (target, effects) in self.controller.take_actions() {
            self.executor.spawn(&target, effects);
        }
        self.record_measurements();
        self.heartbeat.beat();
    }

    /// Passes the addresses of nodes to `egress` at an interval.
    fn refresh_addresses(&mut self) {
        if self.last_address_refresh.is_none_or(|at| at.elapsed() >= ADDRESS_REFRESH_INTERVAL) {
            self.last_address_refresh = Some(Instant::now());
            self.networks.set_nodes(&self.controller.node_networks());
        }
    }

    fn record_measurements(&mut self) {
        self.recorder.record(self.controller.take_measurements(), &self.controller.gauges());
    }
}
