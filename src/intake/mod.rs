//! Claims and hints in, deduplicated and coalesced `PrewarmTask`s out.
//!
//! In: [`Claim`]s of objects that were admitted, of which nothing follows but a
//! look at the object, and [`Hint`]s of stored objects from our own watch, by
//! way of a bounded queue that never makes admission wait. Out: `PrewarmTask`s
//! with deterministic names, so that two replicas or a retry make one task, not
//! two. Lookups and writes are limited for each namespace and in all, and
//! namespaces are served in turns. May call `task`, `workload` and
//! `surroundings`.

mod coalesce;
mod create;
mod hint;
mod keys;
mod ledger;
mod limits;
mod lookup;
mod queue;
mod turns;

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use kube::Client;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use coalesce::{Plan, PlannedTask, plan};
pub use create::make_obsolete;
pub use hint::{Claim, Hint};
pub use keys::{Key, keys_of, keys_of_all};
pub use ledger::{Asked, Ledger, REWRITTEN_ANNOTATION, TaskName, workloads_of};
pub use limits::{BURST_SECONDS, Rates};
pub use queue::Offered;

use self::{
    lookup::{Reader, look},
    queue::{Lost, Queue, Step},
    turns::{AtOnce, Turns},
};
use crate::{
    metrics::Metrics,
    supervise::{Work, contained},
    surroundings::Surroundings,
    workload::{Policy, Workload},
};

/// Writes at once. One that makes us try again takes 12 s: it holds up four others of its namespace, and no other namespace.
const WRITES: AtOnce = AtOnce { total: 64, namespace: 4 };
/// Writes that may wait, of one namespace and in all: a task of a hundred images has 10 KB. Beyond, hints are dropped.
const NAMESPACE_WRITES: usize = 256;
const MAX_WRITES: usize = 2048;

/// How intake works.
#[derive(Debug, Clone)]
pub struct IntakeSettings {
    /// How long hints are collected into one task.
    pub window: Duration,
    /// Seconds after its end until a task made by admission is deleted.
    pub task_ttl: u32,
    /// How long its finished workers hold the images.
    pub retain: Duration,
    /// Objects looked up in a second.
    pub lookups: Rates,
    /// Tasks created or marked as obsolete in a second.
    pub creations: Rates,
}

impl Default for IntakeSettings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(1),
            task_ttl: 3600,
            retain: Duration::ZERO,
            lookups: Rates { total: 100, namespace: 50 },
            creations: Rates { total: 50, namespace: 5 },
        }
    }
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something is to be done earlier than before.
    wake: Notify,
    ledger: Arc<Ledger>,
    around: Surroundings,
    metrics: Arc<Metrics>,
    settings: IntakeSettings,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, offered: Offered) -> Offered {
        self.metrics.hints.with_label_values(&[offered.as_str()]).inc();
        offered
    }

    fn count_lost(&self, lost: Lost) {
        let Lost { not_stored, forbidden, duplicate, dropped } = lost;
        let all =
            [("not_stored", not_stored), ("forbidden", forbidden), ("duplicate", duplicate), ("dropped", dropped)];
        for (outcome, count) in all.into_iter().filter(|(_, count)| *count > 0) {
            self.metrics.hints.with_label_values(&[outcome]).inc_by(count as u64);
        }
    }
}

/// Takes claims of reviews. Clones share one queue.
#[derive(Clone)]
pub struct ReviewHints(Arc<Shared>);

/// Takes hints of our own watch, which has read the objects from the API server. Clones share one queue.
#[derive(Clone)]
pub struct WatchHints(Arc<Shared>);

/// Gives claims and hints to [`run`].
pub struct HintReceiver(Arc<Shared>);

/// Makes a queue: one end for reviews, one for our own watch, and one for [`run`].
#[must_use]
pub fn channel(
    metrics: &Arc<Metrics>,
    settings: IntakeSettings,
    around: Surroundings,
) -> (ReviewHints, WatchHints, HintReceiver) {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue::new(settings.window, settings.lookups, Instant::now())),
        wake: Notify::new(),
        ledger: Arc::default(),
        around,
        metrics: Arc::clone(metrics),
        settings,
    });
    (ReviewHints(Arc::clone(&shared)), WatchHints(Arc::clone(&shared)), HintReceiver(shared))
}

impl ReviewHints {
    /// Takes a claim, or says why not; the metrics count which. Never waits.
    #[allow(clippy::must_use_candidate, reason = "the metrics have counted it")]
    pub fn offer(&self, claim: Claim) -> Offered {
        let shared = &self.0;
        let now = Instant::now();
        if claim.fresh().is_some_and(|keys| shared.ledger.covers(keys, now)) {
            return shared.count(Offered::Duplicate);
        }
        let known = shared.around.has_namespace(&claim.namespace);
        let (offered, wake) = shared.queue().claim(claim, known, now);
        if wake {
            shared.wake.notify_one();
        }
        shared.count(offered)
    }
}

impl WatchHints {
    /// Makes a hint of an object that was read from the API server: what it asks for, and what it asked for before.
    #[must_use]
    pub fn hint(&self, namespace: &str, workloads: Vec<Workload>, kept: Vec<Key>) -> Hint {
        Hint::stored(namespace, jiff::Timestamp::now(), workloads, kept)
    }

    /// Takes a hint, or says why not; the metrics count which. Never waits.
    #[allow(clippy::must_use_candidate, reason = "the metrics have counted it")]
    pub fn offer(&self, hint: Hint) -> Offered {
        let shared = &self.0;
        let now = Instant::now();
        if shared.ledger.covers(hint.fresh(), now) {
            return shared.count(Offered::Duplicate);
        }
        let (offered, wake) = shared.queue().hint(hint, now);
        if wake {
            shared.wake.notify_one();
        }
        shared.count(offered)
    }

    /// What has been asked for; to be told of the tasks that exist.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }
}

/// Turns claims and hints into tasks until `stop`; what is queued then is still worked off.
pub async fn run(client: Client, hints: HintReceiver, policy: Arc<Policy>, stop: CancellationToken) {
    let shared = hints.0;
    let (around, metrics) = (shared.around.clone(), Arc::clone(&shared.metrics));
    let writes = Turns::new(shared.settings.creations, WRITES);
    let reader = Reader { client, policy, around, metrics };
    let mut intake =
        Intake { shared, reader, writes, lookups: JoinSet::new(), writers: JoinSet::new(), closing: false };
    while let ControlFlow::Continue(wakes) = intake.work() {
        intake.wait(wakes, &stop).await;
    }
}

/// A request that changes something.
#[derive(Debug)]
enum Write {
    Create(Box<PlannedTask>),
    Obsolete(TaskName, String),
}

impl Write {
    fn task(&self) -> TaskName {
        match self {
            Self::Create(planned) => (planned.namespace.clone(), planned.name.clone()),
            Self::Obsolete(task, _) => task.clone(),
        }
    }
}

struct Intake {
    shared: Arc<Shared>,
    reader: Reader,
    writes: Turns<Write>,
    lookups: JoinSet<(u64, queue::Seen)>,
    writers: JoinSet<Arc<str>>,
    closing: bool,
}

impl Intake {
    /// Does what is to be done now, and says when there is more without anything being offered or answered. `Break`: it is time to
    /// end.
    fn work(&mut self) -> ControlFlow<(), Option<Instant>> {
        let now = Instant::now();
        let (shared, around) = (Arc::clone(&self.shared), &self.reader.around);
        let (known, covered) =
            (|name: &str| around.has_namespace(name), |keys: &[Key]| shared.ledger.covers(keys, now));
        let step = shared.queue().advance(now, known, covered);
        self.take(step);
        while let Some((namespace, write)) = self.writes.next(now, |_| true) {
            self.write(namespace, write);
        }
        let (waiting, wakes) = {
            let queue = shared.queue();
            (queue.len(), queue.wakes())
        };
        shared.metrics.queue_depth.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let idle = waiting == 0 && self.writes.waiting() == 0 && self.writes.busy() == 0;
        if self.closing && idle {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue([wakes, self.writes.wakes()].into_iter().flatten().min())
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, wakes: Option<Instant>, stop: &CancellationToken) {
        let time = async {
            match wakes {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            Some(answered) = self.lookups.join_next() => {
                let mut all = vec![answered];
                all.extend(std::iter::from_fn(|| self.lookups.try_join_next()));
                for (id, found) in all.into_iter().flatten() {
                    let next = shared.queue().seen(id, found, Instant::now());
                    self.take(next);
                }
            }
            Some(written) = self.writers.join_next() => {
                let mut all = vec![written];
                all.extend(std::iter::from_fn(|| self.writers.try_join_next()));
                for namespace in all.into_iter().flatten() {
                    self.writes.done(&namespace);
                }
            }
            () = shared.wake.notified() => {}
            () = time => {}
            () = stop.cancelled(), if !self.closing => {
                self.closing = true;
                shared.queue().close(Instant::now());
            }
        }
    }

    fn take(&mut self, step: Step) {
        self.shared.count_lost(step.lost);
        for lookup in step.lookups {
            self.lookups.spawn(look(self.reader.clone(), lookup));
        }
        for hints in step.batches {
            self.plan(&hints);
        }
    }

    /// Plans the tasks of one namespace's hints. A task is marked before it is created, so that hints that come meanwhile count
    /// as duplicates.
    fn plan(&mut self, hints: &[Hint]) {
        let Some(namespace) = hints.first().map(|hint| Arc::<str>::from(hint.namespace.as_str())) else { return };
        if self.writes.of(&namespace) >= NAMESPACE_WRITES || self.writes.waiting() >= MAX_WRITES {
            tracing::warn!(%namespace, hints = hints.len(), "too many tasks wait to be created; hints are dropped");
            self.shared.metrics.hints.with_label_values(&["limited"]).inc_by(hints.len() as u64);
            return;
        }
        let ledger = &self.shared.ledger;
        let Plan { tasks, obsolete } = plan(hints, ledger, Instant::now());
        for planned in tasks {
            let name = (planned.namespace.clone(), planned.name.clone());
            let whole = planned.more_workloads == 0;
            ledger.mark(name, planned.keys.clone(), planned.workloads.clone(), whole, Instant::now());
            self.writes.push(&namespace, Write::Create(Box::new(planned)));
        }
        for (task, why) in obsolete {
            ledger.void(&task);
            self.writes.push(&namespace, Write::Obsolete(task, why));
        }
    }

    fn write(&mut self, namespace: Arc<str>, write: Write) {
        let (client, shared) = (self.reader.client.clone(), Arc::clone(&self.shared));
        let task = write.task();
        let again = Arc::clone(&self.shared);
        let written = async move {
            match write {
                Write::Create(planned) => create_task(&client, *planned, &shared).await,
                Write::Obsolete(task, why) => make_obsolete(&client, &task, &why, &shared.metrics).await,
            }
        };
        let written = std::panic::AssertUnwindSafe(written).catch_unwind();
        self.writers.spawn(async move {
            if let Err(payload) = written.await {
                let object = format!("PrewarmTask {}/{}", task.0, task.1);
                contained(&again.metrics, Work::Creation, object, payload.as_ref());
                // Not marked any more: the next hint for it tries again.
                again.ledger.forget(&task);
            }
            namespace
        });
    }
}

async fn create_task(client: &Client, planned: PlannedTask, shared: &Shared) {
    let name = (planned.namespace.clone(), planned.name.clone());
    match create::create(client, &planned, &shared.settings, &shared.metrics).await {
        Ok(made) if made == name.1 => {}
        Ok(made) => {
            shared.ledger.forget(&name);
            let whole = planned.more_workloads == 0;
            shared.ledger.mark((name.0, made), planned.keys, planned.workloads, whole, Instant::now());
        }
        Err(create::GivenUp) => shared.ledger.forget(&name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workload::Kinds;

    fn workload(name: &str, image: &str) -> Workload {
        let images = vec![image.parse().unwrap()];
        Workload { namespace: "shop".into(), name: name.into(), images, ..Workload::default() }
    }

    fn claim(kinds: &Kinds, name: &str, image: &str) -> Claim {
        let kind = kinds.find("apps/v1", "Deployment").unwrap();
        let object = kind.read_value(json!({"metadata": {"name": name, "uid": "u"}})).unwrap();
        Claim::new(kind, "shop", &object).unwrap().asking(&[workload(name, image)], Vec::new())
    }

    fn ends() -> (ReviewHints, WatchHints, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (reviews, watched, _) = channel(&metrics, IntakeSettings::default(), Surroundings::default());
        (reviews, watched, metrics)
    }

    #[tokio::test]
    async fn what_was_asked_for_is_a_duplicate() {
        let (reviews, watched, metrics) = ends();
        let kinds = Kinds::default();
        assert_eq!(reviews.offer(claim(&kinds, "a", "nginx")), Offered::Queued);
        assert_eq!(reviews.offer(claim(&kinds, "a", "nginx")), Offered::Duplicate, "the same claim");
        let planned =
            plan(&[watched.hint("shop", vec![workload("a", "nginx")], Vec::new())], watched.ledger(), Instant::now());
        let planned = planned.tasks.into_iter().next().unwrap();
        let name = (planned.namespace, planned.name);
        watched.ledger().mark(name, planned.keys, planned.workloads, true, Instant::now());
        assert_eq!(reviews.offer(claim(&kinds, "b", "docker.io/library/nginx:latest")), Offered::Duplicate);
        let hint = watched.hint("shop", vec![workload("b", "nginx")], Vec::new());
        assert_eq!(watched.offer(hint), Offered::Duplicate);
        assert_eq!(reviews.offer(claim(&kinds, "a", "nginx:2")), Offered::Queued);
        assert_eq!(metrics.hints.with_label_values(&["duplicate"]).get(), 3);
    }
}
