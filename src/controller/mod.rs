//! Snapshot, plan, dispatch, observe, status, reap.
//!
//! ```text
//!   watches (tasks, plans, nodes, Jobs, pods)  ->  World     what is
//!                                                    |
//!                          Run::step (pure) per task: what should be done now
//!                                                    |
//!   Executor (the only code that writes)  <----------+
//!        '--> the results come back to the Run, beside the watches' events
//! ```
//!
//! In: what the watches tell. Out: plans, workers, status, Events, deletions.
//! Runs on the leader only; a successor goes on from what is in the API server.
//! May call `health`, `leader`, `node`, `task` and `worker`.

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod clock;
mod conditions;
mod credentials;
mod effect;
mod executor;
#[cfg(test)]
mod faults;
mod foreign;
mod judge;
mod known;
mod limits;
mod observation;
mod planned;
mod reconciler;
mod record;
mod registries;
mod rehearsal;
mod run;
mod sweep;
#[cfg(test)]
mod tests;
mod turns;
mod view;
mod watches;
mod work;
mod world;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Client, ResourceExt};
use tokio::{sync::mpsc, time::Instant};

use self::{
    clock::Clock,
    effect::{Effect, Target},
    executor::{Cluster, Executor},
    known::Known,
    limits::{Budgets, Most, Room, Seat},
    observation::{Change, Done, Observation},
    run::Run,
    view::{Turn, View},
    world::{Complaint, News, World},
};
#[doc(hidden)]
pub use self::{
    reconciler::{Answer, Asked, Reconciler},
    rehearsal::Rehearsal,
};
use crate::{
    egress,
    health::Checks,
    leader::{Heartbeat, Term},
    metrics::Metrics,
    supervise::{Failure, Work, contain},
    task::{
        PrewarmTask,
        caps::{self, Caps},
        plan::Breaker,
    },
    worker::{WorkerFacts, WorkerSettings, retry_after},
};

/// Events that arrive this close together are worked on at once: a batch of 100 pods changes within it.
const GATHER: Duration = Duration::from_millis(50);
/// While tasks run, time-outs and delayed writes are looked at this often; it costs no request.
const TICK: Duration = Duration::from_millis(250);
/// Without tasks at work and without news, a round comes this often, for the heartbeat; it costs no request.
const IDLE: Duration = Duration::from_secs(1);
/// How often what has ended is looked at: times to live, retained and orphaned workers.
const SWEEP: Duration = Duration::from_secs(5);
/// Workers of a task that is not at work any more count in the limits for this long: they are being deleted. What then still exists,
/// for example behind a finalizer of somebody's, does not hold up others.
const LINGER: SignedDuration = SignedDuration::from_secs(60);
/// Objects that are not ours are told of in the log at most this often.
const TELL: Duration = Duration::from_secs(60);
/// How often the addresses of nodes are told to `egress`: 2 ms for 5,000 nodes.
const ADDRESSES: Duration = Duration::from_secs(15);
/// Events that may wait: one re-list of 5,000 nodes and their pods is a single one, so this is ample.
const QUEUE: usize = 10_000;

/// Where workers run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WorkerNamespace {
    /// In the task's namespace, with its credentials.
    #[default]
    Workload,
    /// In our own, where the task needs no credentials of its namespace.
    Own,
    /// In our own, where the task's namespace takes no worker and no credentials of it are needed.
    Fallback,
}

/// What keeps the tasks of one namespace from holding up those of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Tasks of one namespace that run at once.
    pub tasks_per_namespace: usize,
    /// Workers of one namespace's tasks.
    pub workers_per_namespace: usize,
    /// How long a worker that pulls keeps its node to itself.
    pub yield_after: Duration,
    /// On how many nodes a registry must fail before only few ask it.
    pub registry_failures: usize,
    /// What a task may ask for.
    pub caps: Arc<Caps>,
}

impl Default for Limits {
    /// The defaults of the settings.
    fn default() -> Self {
        Self {
            tasks_per_namespace: 10,
            workers_per_namespace: 270,
            yield_after: Duration::from_secs(60),
            registry_failures: 3,
            caps: Arc::default(),
        }
    }
}

/// What the controller must be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How workers are built.
    pub worker: WorkerSettings,
    /// How many tasks may run at once.
    pub max_concurrent_tasks: usize,
    /// The only namespace looked at, where set.
    pub namespace: Option<String>,
    /// The server's own namespace.
    pub own_namespace: String,
    /// Where workers run.
    pub worker_namespace: WorkerNamespace,
    /// With `Fallback`: whether workers also go to our namespace where a policy refuses them, and not only a quota or a `LimitRange`.
    pub fallback_on_policy: bool,
    /// When a task may not work on as many nodes at once as it asks for.
    pub breaker: Breaker,
    /// Whether nodes are to be checked before they are chosen.
    pub examine: bool,
    /// How many workers may be at work in the cluster.
    pub max_workers: usize,
    /// What keeps namespaces from one another.
    pub limits: Limits,
    /// How many workers may pull from one registry.
    pub registry_concurrency: usize,
    /// How long an image that was pulled to a node counts as being there.
    pub known_for: Duration,
    /// Registries all of whose images everybody may pull: what nodes report of them counts for every namespace.
    pub public_registries: Vec<String>,
    /// How many finished workers may be retained in the cluster.
    pub max_retained: usize,
    /// Learns the addresses of nodes and their pods.
    pub cluster: egress::Cluster,
}

/// What all tasks share.
struct Shared {
    room: Room,
    budgets: Budgets,
    known: Known,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
}

impl Shared {
    fn new(settings: Arc<Settings>, metrics: Arc<Metrics>) -> Self {
        Self {
            room: Room::default(),
            budgets: Budgets::new(settings.registry_concurrency),
            known: Known::new(settings.known_for),
            metrics,
            settings,
        }
    }
}

/// Works until the term is over, with a heartbeat after each round. Returns when its watches have ended, and its requests
/// have ended or were aborted; with an error when a watch has ended before the term.
pub async fn run(
    client: Client,
    settings: Settings,
    checks: Arc<Checks>,
    metrics: Arc<Metrics>,
    heartbeat: Heartbeat,
    term: Term,
) -> Result<(), Failure> {
    let settings = Arc::new(settings);
    let (events, mut inbox) = mpsc::channel(QUEUE);
    let mut watches = watches::start(&client, &settings, &events, &metrics, term.over());
    let asked = async { tokio::join!(Clock::of_server(&client), credentials::warn(&client, &settings)).0 };
    let Some(clock) = term.run(asked).await else {
        watches.ended().await;
        return Ok(());
    };
    let cluster = Cluster::new(client, events, Arc::clone(&metrics), checks, term.clone());
    let executor = Executor::Cluster(Box::new(cluster));
    let mut controller = Controller::new(executor, watches.count, settings, metrics, clock);
    let result = loop {
        let event = tokio::select! {
            () = term.over().cancelled() => break Ok(()),
            failure = watches.failed() => break if term.holds() { Err(failure) } else { Ok(()) },
            event = inbox.recv() => event,
            () = tokio::time::sleep(TICK), if !controller.runs.is_empty() => None,
            () = tokio::time::sleep(IDLE) => None,
        };
        if let Some(event) = event {
            controller.take(event);
            tokio::time::sleep(GATHER).await;
        }
        while let Ok(event) = inbox.try_recv() {
            controller.take(event);
        }
        if !term.holds() {
            break Ok(());
        }
        if controller.world.is_complete() {
            controller.work();
        }
        heartbeat.beat();
        controller.shared.metrics.last_reconcile.set(Timestamp::now().as_second());
    };
    term.end();
    controller.executor.ended().await;
    watches.ended().await;
    result
}

struct Controller {
    executor: Executor,
    world: World,
    /// By the task's UID.
    runs: HashMap<String, Run>,
    shared: Shared,
    clock: Clock,
    /// Since when tasks that have workers are not at work any more, by UID.
    left: HashMap<String, Timestamp>,
    /// Tasks over whose end the work has panicked too, by UID, with their generation: a status of ours does not change it.
    left_alone: HashMap<String, Option<i64>>,
    swept: Instant,
    /// When the log last told of objects that are not ours.
    told: Option<Instant>,
    addresses: Option<Instant>,
}

/// A task, for the log.
struct Title<'a>(&'a PrewarmTask);

impl fmt::Display for Title<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
        let meta = &self.0.metadata;
        write!(f, "PrewarmTask {}/{} ({})", text(&meta.namespace), text(&meta.name), text(&meta.uid))
    }
}

impl Controller {
    /// A controller that decides nothing before so many watches have delivered their first lists.
    fn new(executor: Executor, sources: usize, settings: Arc<Settings>, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self {
            executor,
            world: World::new(sources),
            runs: HashMap::new(),
            shared: Shared::new(settings, metrics),
            clock,
            left: HashMap::new(),
            left_alone: HashMap::new(),
            swept: Instant::now(),
            told: None,
            addresses: None,
        }
    }

    /// Notes the newest state of an open task.
    fn see(&mut self, uid: &str, task: &PrewarmTask) {
        if self.left_alone.get(uid).is_some_and(|generation| *generation == task.metadata.generation) {
            return;
        }
        let (runs, metrics) = (&mut self.runs, Arc::clone(&self.shared.metrics));
        let settings = &self.shared.settings;
        let see = || runs.entry(uid.to_owned()).or_insert_with(|| Run::resume(task, settings)).see(task);
        if contain(&metrics, Work::Task, Title(task), see).is_none() {
            self.fail_over(uid, task);
        }
    }

    /// Ends a task over which the work has panicked. One whose end panics too is left alone until somebody changes its spec; so a
    /// task costs one internal error or two, and never the others.
    fn fail_over(&mut self, uid: &str, task: &PrewarmTask) {
        let again = self.runs.remove(uid).is_some_and(|run| run.is_broken());
        let broken = || (!again).then(|| Run::broken(task));
        let broken = contain(&self.shared.metrics, Work::Task, Title(task), broken).flatten();
        match broken {
            Some(run) => drop(self.runs.insert(uid.to_owned(), run)),
            None => drop(self.left_alone.insert(uid.to_owned(), task.metadata.generation)),
        }
    }

    fn take(&mut self, observation: Observation) {
        let now = self.clock.now();
        if let Observation::Done(Done { uid, effect, result }) = observation {
            let Some(run) = self.runs.get_mut(&uid) else { return };
            let (metrics, shared) = (Arc::clone(&self.shared.metrics), &mut self.shared);
            let done = contain(&metrics, Work::Task, &uid, || run.done(&effect, result, shared, now));
            if let (None, Some(task)) = (done, self.world.task(&uid).cloned()) {
                self.fail_over(&uid, &task);
            }
            return;
        }
        if let Observation::Node(Change::Put(node)) = &observation
            && !node.ready
        {
            self.shared.known.forget(node.identity);
        }
        let News { complaints, stranger } = self.world.observe(observation, now);
        for Complaint { task_uid, image, message } in complaints {
            if let Some(host) = self.runs.get(&task_uid).and_then(|run| run.host_of(image)) {
                self.shared.budgets.complain(host, retry_after(&message), now);
            }
        }
        // Rejections that may pass are in the metric while they last, and `doctor` lists them; a log line would be a false alarm.
        if let Some((kind, stranger)) = stranger
            && !stranger.reason.may_pass()
            && self.world.is_complete()
            && self.told.is_none_or(|told| told.elapsed() >= TELL)
        {
            self.told = Some(Instant::now());
            tracing::warn!(
                kind,
                object = stranger.key,
                reason = stranger.reason.as_str(),
                "{}: an object with the labels of Prewarmer's workers was not made by Prewarmer and is ignored; `prewarmer doctor` lists all",
                stranger.reason.explain()
            );
        }
    }

    /// Tells which addresses are the cluster's own, before anything is asked of a registry.
    fn note_addresses(&mut self) {
        if self.addresses.is_none_or(|at| at.elapsed() >= ADDRESSES) {
            self.addresses = Some(Instant::now());
            let networks = self.world.nodes().values().flat_map(|node| node.networks.iter().copied());
            self.shared.settings.cluster.set_nodes(&networks.collect::<Vec<_>>());
        }
    }

    fn work(&mut self) {
        let now = self.clock.now();
        self.note_addresses();
        let open = self.world.open_tasks();
        self.dismiss(&open);
        for (uid, task) in &open {
            self.see(uid, task);
        }
        self.shared.budgets.recover(now);
        self.linger(now);
        self.shared.room = self.room(now);
        let (order, mut turns) = self.turns(&open, now);
        let mut failed = Vec::new();
        for uid in order {
            let (Some(task), Some(run)) = (open.get(uid), self.runs.get_mut(uid)) else { continue };
            let view = View {
                nodes: self.world.nodes(),
                workers: self.world.workers_of(uid),
                pods: self.world.pods(),
                plan: self.world.plan_of(uid),
                contested: &|namespace| self.world.is_contested(namespace, uid),
                turn: turns.remove(uid).unwrap_or(Turn::Now),
                now,
            };
            let (metrics, shared) = (Arc::clone(&self.shared.metrics), &mut self.shared);
            match contain(&metrics, Work::Task, Title(task), || run.step(task, &view, shared)) {
                Some(effects) => self.executor.spawn(run.target(), effects),
                None => failed.push((uid, task)),
            }
        }
        for (uid, task) in failed {
            self.fail_over(uid, task);
        }
        self.measure();
        if self.swept.elapsed() >= SWEEP {
            self.swept = Instant::now();
            self.sweep(now);
        }
    }

    /// Forgets tasks that are not open any more. Of those that were deleted, the workers go too: in the task's namespace
    /// the garbage collector would see to it, in ours nobody.
    fn dismiss(&mut self, open: &BTreeMap<String, Arc<PrewarmTask>>) {
        let gone: Vec<String> = self.runs.keys().filter(|uid| !open.contains_key(*uid)).cloned().collect();
        self.left_alone.retain(|uid, _| open.contains_key(uid));
        for uid in gone {
            let Some(run) = self.runs.remove(&uid) else { continue };
            if self.world.task(&uid).is_none_or(|task| task.metadata.deletion_timestamp.is_some()) {
                let workers = self.world.workers_of(&uid);
                self.executor.spawn(run.target(), sweep::delete_all(workers, self.contested(&uid)));
            }
        }
    }

    /// Whether others have made objects in a namespace that carry the labels of this task's workers.
    fn contested(&self, uid: &str) -> impl Fn(&str) -> bool {
        |namespace| self.world.is_contested(namespace, uid)
    }

    /// Notes since when tasks that have workers are not at work any more.
    fn linger(&mut self, now: Timestamp) {
        let idle = |uid: &&String| !self.runs.contains_key(*uid);
        self.left.retain(|uid, _| self.world.workers().contains_key(uid) && idle(&uid));
        for uid in self.world.workers().keys().filter(idle) {
            if !self.left.contains_key(uid) {
                self.left.insert(uid.clone(), now);
            }
        }
    }

    /// What is left to start in this round. Notes of each task whether one of its workers pulls.
    fn room(&mut self, now: Timestamp) -> Room {
        let limits = &self.shared.settings.limits;
        let alone = SignedDuration::try_from(limits.yield_after).unwrap_or(SignedDuration::MAX);
        let (workers, pods) = (self.world.workers(), self.world.pods());
        let mut seats: Vec<Seat<'_>> = Vec::new();
        let mut pulling: HashMap<String, usize> = HashMap::new();
        let lingers = |since: &Timestamp| now.duration_since(*since) < LINGER;
        let mut at_work = HashSet::new();
        for (uid, _) in self.left.iter().filter(|(_, since)| lingers(since)) {
            let left = workers.get(uid).into_iter().flat_map(BTreeMap::values);
            let alive = left.filter_map(|worker| run::seat(uid, &worker.namespace, worker, pods, now, alone));
            seats.extend(alive.take(self.world.most_at_work(uid)));
        }
        for (uid, run) in &self.runs {
            let own = run.seats(workers.get(uid), pods, now, alone, self.world.most_at_work(uid));
            let nodes: HashSet<&str> = own.iter().map(|seat| seat.node).collect();
            for host in run.hosts() {
                let pulls = pulling.entry(host.clone()).or_default();
                *pulls = pulls.saturating_add(nodes.len());
            }
            if own.iter().any(|seat| seat.holds) {
                at_work.insert(uid.clone());
            }
            seats.extend(own);
        }
        let most = Most { all: self.shared.settings.max_workers, per_namespace: limits.workers_per_namespace };
        let room = Room::new(seats, most, pulling, &self.shared.budgets, now);
        for (uid, run) in &mut self.runs {
            run.note_progress(at_work.contains(uid), now);
        }
        room
    }

    /// All open tasks in the order of their turns, and those of them that have to wait. A task that is held takes no place.
    fn turns<'a>(
        &self,
        open: &'a BTreeMap<String, Arc<PrewarmTask>>,
        now: Timestamp,
    ) -> (Vec<&'a str>, HashMap<&'a str, Turn>) {
        let limits = &self.shared.settings.limits;
        let waiting = |(uid, task): (&'a String, &'a Arc<PrewarmTask>)| turns::Waiting {
            uid,
            namespace: task.metadata.namespace.as_deref().unwrap_or_default(),
            priority: caps::priority(&limits.caps, task.spec.priority).0,
            created: task.creation_timestamp().map(|time| time.0),
        };
        let places =
            turns::Places { all: self.shared.settings.max_concurrent_tasks, per_namespace: limits.tasks_per_namespace };
        let (mut running, mut candidates) = (Vec::new(), Vec::new());
        for (uid, task) in open.iter().filter(|(_, task)| !task.spec.suspend) {
            let Some(run) = self.runs.get(uid) else { continue };
            if run.takes_place() {
                let namespace = task.metadata.namespace.as_deref().unwrap_or_default();
                running.push(turns::Running { namespace, parked: run.is_parked(now) });
            } else if !run.has_begun() {
                candidates.push(waiting((uid, task)));
            }
        }
        let held: Vec<(&str, &str)> = candidates.iter().map(|task| (task.uid, task.namespace)).collect();
        let (begin, why) = turns::admit(candidates, &running, places, now);
        let turn = |(uid, namespace): (&'a str, &str)| Some((uid, Turn::Held(*why.get(namespace)?)));
        let turns: HashMap<&str, Turn> =
            held.into_iter().filter(|(uid, _)| !begin.contains(uid)).filter_map(turn).collect();
        let metrics = &self.shared.metrics;
        for (state, number) in [
            ("running", running.iter().filter(|task| !task.parked).count()),
            ("parked", running.iter().filter(|task| task.parked).count()),
            ("waiting", turns.len()),
        ] {
            metrics.task_places.with_label_values(&[state]).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        (turns::in_order(open.iter().map(waiting).collect(), &self.shared.room.namespaces(), now), turns)
    }

    fn measure(&self) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let metrics = &self.shared.metrics;
        metrics.active_tasks.set(count(self.runs.values().filter(|run| run.has_begun()).count()));
        let silent: HashSet<&str> = self.runs.values().flat_map(Run::silent).collect();
        metrics.registries_unreachable.set(count(silent.len()));
        metrics.registries_limited.set(count(self.shared.budgets.reduced()));
        metrics.foreign_objects.reset();
        for ((kind, reason), number) in self.world.foreign() {
            metrics.foreign_objects.with_label_values(&[kind, reason.as_str()]).set(count(number));
        }
        metrics.jobs_active.set(count(self.world.workers().keys().map(|uid| self.world.alive(uid).count()).sum()));
    }

    /// Removes what has ended and is not needed any more.
    fn sweep(&mut self, now: Timestamp) {
        let settings = &self.shared.settings;
        let nodes = self.world.nodes().values().filter(|node| node.ready && !node.is_short_of_disk());
        let spared: HashSet<u64> = nodes.map(|node| node.identity).collect();
        self.shared.known.prune(now, |node| spared.contains(&node));
        for (uid, task) in self.world.ended_tasks() {
            let (workers, pods) = (self.world.workers_of(uid), self.world.pods());
            let ended = || sweep::ended(task, workers, pods, self.contested(uid), now);
            if let Some(effects) = contain(&self.shared.metrics, Work::Task, Title(task), ended) {
                self.executor.spawn(&run::target(task), effects);
            }
        }
        for (uid, workers) in self.world.workers().iter().filter(|(uid, _)| self.world.task(uid).is_none()) {
            if sweep::are_orphans(workers, now) {
                let target = Target { uid: uid.clone(), ..Target::default() };
                self.executor.spawn(&target, sweep::delete_all(Some(workers), self.contested(uid)));
            }
        }
        let mut finished = Vec::new();
        for (uid, workers) in self.world.workers() {
            let run = self.runs.get(uid);
            let may_go = |worker: &&WorkerFacts| {
                let recorded = run.is_none_or(|run| run.is_recorded(worker));
                recorded && !worker.deleting && !world::is_alive(worker)
            };
            finished.extend(workers.values().filter(may_go));
        }
        for worker in sweep::excess(finished, settings.max_retained) {
            let target = Target { uid: worker.task_uid.clone(), ..Target::default() };
            self.executor.spawn(&target, vec![Effect::delete(worker)]);
        }
    }
}
