//! Hints in, deduplicated and coalesced `PrewarmTask`s out.
//!
//! In: [`Workload`]s that were admitted, by way of a bounded queue that never
//! makes admission wait. Out: `PrewarmTask`s with deterministic names, so that
//! two replicas or a retry make one task, not two. May call `task` and
//! `workload`.

mod coalesce;
mod create;
mod seen;

use std::{sync::Arc, time::Duration};

use futures::Future;
use kube::Client;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

pub use coalesce::{PlannedTask, coalesce};
pub use seen::Seen;

use crate::{metrics::Metrics, workload::Workload};

/// Hints that may wait. A Helm upgrade of hundreds of workloads fits ten times; each is about a kilobyte.
const QUEUE: usize = 4096;
/// A window takes at most this many hints, so that a steady stream cannot put it off for ever in memory.
const MAX_WINDOW_HINTS: usize = QUEUE;

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
    queue: mpsc::Sender<Workload>,
    seen: Arc<Seen>,
    metrics: Arc<Metrics>,
}

/// Gives hints to [`run`].
pub struct HintReceiver {
    queue: mpsc::Receiver<Workload>,
    seen: Arc<Seen>,
    metrics: Arc<Metrics>,
}

/// A new queue.
#[must_use]
pub fn channel(metrics: &Arc<Metrics>) -> (HintSender, HintReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let seen = Arc::new(Seen::default());
    (
        HintSender { queue: sender, seen: Arc::clone(&seen), metrics: Arc::clone(metrics) },
        HintReceiver { queue: receiver, seen, metrics: Arc::clone(metrics) },
    )
}

impl HintSender {
    /// Takes a hint, or says why not; the metrics count which. Never waits.
    #[allow(clippy::must_use_candidate, reason = "the metrics have counted it")]
    pub fn offer(&self, workload: Workload) -> Offered {
        let offered = if self.seen.covers(&workload, Instant::now()) {
            Offered::Duplicate
        } else if self.queue.try_send(workload).is_ok() {
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
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

/// Turns hints into tasks until `stop`; what is queued then is still worked off.
pub async fn run(client: Client, mut hints: HintReceiver, settings: IntakeSettings, stop: CancellationToken) {
    while let Some(first) = next(&mut hints, &stop).await {
        let collected = collect(&mut hints, first, settings.window, stop.cancelled()).await;
        let fresh: Vec<Workload> =
            collected.into_iter().filter(|workload| !hints.seen.covers(workload, Instant::now())).collect();
        for planned in coalesce(&fresh) {
            // Marked before the request, so that hints that come meanwhile count as duplicates.
            hints.seen.mark(&planned.namespace, &planned.spec, Instant::now());
            if create::create(&client, &planned, &settings, &hints.metrics).await.is_err() {
                hints.seen.forget(&planned.namespace, &planned.spec);
            }
        }
    }
}

async fn next(hints: &mut HintReceiver, stop: &CancellationToken) -> Option<Workload> {
    let hint = tokio::select! {
        biased;
        hint = hints.queue.recv() => hint,
        () = stop.cancelled() => hints.queue.try_recv().ok(),
    };
    hint.inspect(|_| hints.metrics.queue_depth.dec())
}

async fn collect(
    hints: &mut HintReceiver,
    first: Workload,
    window: Duration,
    stopped: impl Future<Output = ()>,
) -> Vec<Workload> {
    let mut collected = vec![first];
    let end = tokio::time::sleep(window);
    let (mut end, mut stopped) = (std::pin::pin!(end), std::pin::pin!(stopped));
    while collected.len() < MAX_WINDOW_HINTS {
        tokio::select! {
            biased;
            hint = hints.queue.recv() => match hint {
                Some(hint) => {
                    hints.metrics.queue_depth.dec();
                    collected.push(hint);
                }
                None => break,
            },
            () = &mut end => break,
            () = &mut stopped => break,
        }
    }
    collected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(name: &str, image: &str) -> Workload {
        let images = vec![image.parse().unwrap()];
        Workload { namespace: "shop".into(), name: name.into(), images, ..Workload::default() }
    }

    #[tokio::test]
    async fn what_was_asked_for_is_a_duplicate() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (sender, _receiver) = channel(&metrics);
        assert_eq!(sender.offer(hint("a", "nginx")), Offered::Queued);
        let planned = coalesce(&[hint("a", "nginx")]);
        sender.seen().mark("shop", &planned[0].spec, Instant::now());
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
        let stop = CancellationToken::new();
        let first = next(&mut receiver, &stop).await.unwrap();
        let collected = collect(&mut receiver, first, Duration::from_secs(1), stop.cancelled()).await;
        assert_eq!((collected.len(), metrics.queue_depth.get()), (30, 0));
        assert_eq!(coalesce(&collected).len(), 1);
    }
}
