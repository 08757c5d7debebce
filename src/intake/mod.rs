//! Hints in, deduplicated and coalesced `PrewarmTask`s out.
//!
//! In: [`Hint`]s of objects that were admitted or seen, by way of a bounded
//! queue that never makes admission wait. Out: `PrewarmTask`s with
//! deterministic names, so that two replicas or a retry make one task, not two.
//! May call `task`, `workload` and `surroundings`.

mod coalesce;
mod confirm;
mod create;
mod hint;
mod keys;
mod ledger;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use kube::Client;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use coalesce::{Plan, PlannedTask, plan};
pub use create::make_obsolete;
pub use hint::Hint;
pub use keys::{Key, keys_of, keys_of_all};
pub use ledger::{Asked, Ledger, REWRITTEN_ANNOTATION, TaskName, workloads_of};

use self::confirm::{Eyes, Look, Pending, look};
use crate::{metrics::Metrics, surroundings::Surroundings, workload::Policy};

/// Hints that may wait. A Helm upgrade of hundreds of workloads fits ten times; each is about a kilobyte.
const QUEUE: usize = 4096;
/// A window takes at most this many hints, so that a steady stream cannot put it off for ever in memory.
const MAX_WINDOW_HINTS: usize = QUEUE;
/// Objects that are looked for at once.
const LOOKS_AT_ONCE: usize = 16;
/// Namespaces whose tasks are being created at once: one that makes us try again holds up no other.
const CREATIONS_AT_ONCE: usize = 64;

/// How intake works.
#[derive(Debug, Clone)]
pub struct IntakeSettings {
    /// How long hints are collected into one task.
    pub window: Duration,
    /// Seconds after its end until a task made by admission is deleted.
    pub task_ttl: u32,
    /// How long its finished workers hold the images.
    pub retain: Duration,
}

/// What became of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It waits to be turned into a task.
    Queued,
    /// Everything it asks for was asked for already.
    Duplicate,
    /// The queue was full.
    Dropped,
}

/// Takes hints. Clones share one queue.
#[derive(Clone)]
pub struct HintSender {
    queue: mpsc::Sender<Hint>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
}

/// Gives hints to [`run`].
pub struct HintReceiver {
    queue: mpsc::Receiver<Hint>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
}

/// A new queue.
#[must_use]
pub fn channel(metrics: &Arc<Metrics>) -> (HintSender, HintReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let ledger = Arc::new(Ledger::default());
    (
        HintSender { queue: sender, ledger: Arc::clone(&ledger), metrics: Arc::clone(metrics) },
        HintReceiver { queue: receiver, ledger, metrics: Arc::clone(metrics) },
    )
}

impl HintSender {
    /// Takes a hint, or says why not; the metrics count which. Never waits.
    #[allow(clippy::must_use_candidate, reason = "the metrics have counted it")]
    pub fn offer(&self, hint: Hint) -> Offered {
        let offered = if self.ledger.covers(&hint.fresh(), Instant::now()) {
            Offered::Duplicate
        } else if self.queue.try_send(hint).is_ok() {
            self.metrics.queue_depth.inc();
            Offered::Queued
        } else {
            Offered::Dropped
        };
        let outcome = match offered {
            Offered::Queued => "queued",
            Offered::Duplicate => "duplicate",
            Offered::Dropped => "dropped",
        };
        self.metrics.hints.with_label_values(&[outcome]).inc();
        offered
    }

    /// What has been asked for; to be told of the tasks that exist.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

/// Turns hints into tasks until `stop`; what is queued then is still worked off.
pub async fn run(
    client: Client,
    hints: HintReceiver,
    settings: IntakeSettings,
    policy: Arc<Policy>,
    around: Surroundings,
    stop: CancellationToken,
) {
    let eyes = Eyes { client, policy, around, metrics: Arc::clone(&hints.metrics) };
    let mut intake =
        Intake { hints, settings: Arc::new(settings), eyes, pending: Vec::new(), creations: JoinSet::new() };
    while let Some(batch) = intake.next(&stop).await {
        let stored = intake.confirm(batch).await;
        intake.work(&stored).await;
    }
    while intake.creations.join_next().await.is_some() {}
}

struct Intake {
    hints: HintReceiver,
    settings: Arc<IntakeSettings>,
    eyes: Eyes,
    /// Objects that were not there yet when they were looked for.
    pending: Vec<Pending>,
    creations: JoinSet<()>,
}

impl Intake {
    /// What is to be looked for now. `None`: it is time to end.
    async fn next(&mut self, stop: &CancellationToken) -> Option<Vec<Pending>> {
        let soonest = self.pending.iter().map(|pending| pending.due).min();
        let waits = async {
            match soonest {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let mut batch = tokio::select! {
            biased;
            hint = self.hints.queue.recv() => vec![hint?],
            () = stop.cancelled() => vec![self.hints.queue.try_recv().ok()?],
            () = waits => Vec::new(),
        };
        if !batch.is_empty() {
            self.hints.metrics.queue_depth.dec();
            collect(&mut self.hints, &mut batch, self.settings.window, stop).await;
        }
        let now = Instant::now();
        let fresh = batch.into_iter().filter(|hint| !self.hints.ledger.covers(&hint.fresh(), now));
        let mut all: Vec<Pending> = fresh.map(|hint| Pending::new(hint, now)).collect();
        all.extend(self.pending.extract_if(.., |pending| pending.due <= now));
        Some(all)
    }

    /// Those of the hints whose objects are there.
    async fn confirm(&mut self, batch: Vec<Pending>) -> Vec<Hint> {
        let looks = stream::iter(batch).map(|pending| look(&self.eyes, pending)).buffer_unordered(LOOKS_AT_ONCE);
        let mut stored = Vec::new();
        let found: Vec<Look> = looks.collect().await;
        for look in found {
            match look {
                Look::Stored(hint) => stored.push(hint),
                Look::Later(pending) if self.pending.len() < QUEUE => self.pending.push(pending),
                Look::Later(_) => self.hints.metrics.hints.with_label_values(&["dropped"]).inc(),
                Look::Gone => {}
            }
        }
        stored
    }

    async fn work(&mut self, stored: &[Hint]) {
        let Plan { tasks, obsolete } = plan(stored, &self.hints.ledger, Instant::now());
        for planned in tasks {
            let name = (planned.namespace.clone(), planned.name.clone());
            // Marked before the request, so that hints that come meanwhile count as duplicates.
            let (keys, whole) = (planned.keys.clone(), planned.more_workloads == 0);
            self.hints.ledger.mark(name.clone(), keys.clone(), planned.workloads.clone(), whole, Instant::now());
            let (eyes, settings, ledger) =
                (self.eyes.clone(), Arc::clone(&self.settings), Arc::clone(&self.hints.ledger));
            while self.creations.len() >= CREATIONS_AT_ONCE {
                self.creations.join_next().await;
            }
            self.creations.spawn(async move {
                match create::create(&eyes.client, &planned, &settings, &eyes.metrics).await {
                    Ok(made) if made == name.1 => {}
                    Ok(made) => {
                        ledger.forget(&name);
                        ledger.mark((name.0, made), keys, planned.workloads, whole, Instant::now());
                    }
                    Err(create::GivenUp) => ledger.forget(&name),
                }
            });
        }
        for (task, why) in obsolete {
            self.hints.ledger.void(&task);
            let eyes = self.eyes.clone();
            self.creations.spawn(async move { make_obsolete(&eyes.client, &task, &why, &eyes.metrics).await });
        }
        while self.creations.try_join_next().is_some() {}
    }
}

/// Takes what comes within the window.
async fn collect(hints: &mut HintReceiver, batch: &mut Vec<Hint>, window: Duration, stop: &CancellationToken) {
    let end = tokio::time::sleep(window);
    let mut end = std::pin::pin!(end);
    while batch.len() < MAX_WINDOW_HINTS {
        tokio::select! {
            biased;
            hint = hints.queue.recv() => match hint {
                Some(hint) => {
                    hints.metrics.queue_depth.dec();
                    batch.push(hint);
                }
                None => break,
            },
            () = &mut end => break,
            () = stop.cancelled() => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Kinds, ObjectView, Workload};

    fn hint(name: &str, image: &str) -> Hint {
        let images = vec![image.parse().unwrap()];
        let workload = Workload { namespace: "shop".into(), name: name.into(), images, ..Workload::default() };
        let kinds = Kinds::default();
        Hint::new(kinds.find("apps/v1", "Deployment").unwrap(), "shop", &ObjectView::default(), vec![workload])
    }

    #[tokio::test]
    async fn what_was_asked_for_is_a_duplicate() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (sender, _receiver) = channel(&metrics);
        assert_eq!(sender.offer(hint("a", "nginx")), Offered::Queued);
        let planned = plan(&[hint("a", "nginx")], sender.ledger(), Instant::now()).tasks.remove(0);
        let name = (planned.namespace, planned.name);
        sender.ledger().mark(name, planned.keys, planned.workloads, true, Instant::now());
        assert_eq!(sender.offer(hint("b", "docker.io/library/nginx:latest")), Offered::Duplicate);
        assert_eq!(sender.offer(hint("a", "nginx:2")), Offered::Queued);
        assert_eq!(metrics.queue_depth.get(), 2);
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (sender, _receiver) = channel(&metrics);
        let offered: Vec<Offered> = (0..=QUEUE).map(|n| sender.offer(hint("a", &format!("nginx:{n}")))).collect();
        assert_eq!(offered.last(), Some(&Offered::Dropped));
        assert_eq!(metrics.hints.with_label_values(&["dropped"]).get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_collects_what_comes_within_it() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (sender, mut receiver) = channel(&metrics);
        for n in 0..30 {
            sender.offer(hint(&format!("w{n}"), &format!("app:{n}")));
        }
        let mut batch = Vec::new();
        collect(&mut receiver, &mut batch, Duration::from_secs(1), &CancellationToken::new()).await;
        assert_eq!((batch.len(), metrics.queue_depth.get()), (30, 0));
        assert_eq!(plan(&batch, sender.ledger(), Instant::now()).tasks.len(), 1);
    }
}
