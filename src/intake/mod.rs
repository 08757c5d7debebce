//! Intake: confirms, deduplicates and coalesces hints, and creates `PrewarmTask`s from them.
//!
//! In: hints of admitted objects, whose only effect is a lookup of the object,
//! and confirmed hints of stored objects from our own watch. Both pass a bounded
//! queue that never blocks admission. Out: `PrewarmTask`s with deterministic
//! names, so that two replicas or a retry create one task, not two. Lookups and
//! writes are rate limited per namespace and in total, and namespaces are served
//! round-robin. May use `cluster_context`.

#[cfg(test)]
mod api_tests;
mod create;
mod lookup;
mod metrics;
mod settings;

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures::FutureExt;
use kube::Client;
use prewarmer_core::{
    intake::{
        CoalescedTasks, ConfirmedHint, DedupIndex, DedupKey, Hint, OfferOutcome, TaskDraft,
        TaskName, coalesce_hints,
        fair_queue::{ConcurrencyLimits, FairQueue},
        queue::{self, DiscardedHints, DueWork, HintQueue},
    },
    workload::{OneShotReason, Policy},
};
use prewarmer_kube::{
    metrics::ObjectErrorMetrics,
    object_error::{WorkKind, record_panic},
};
use tokio::{sync::Notify, task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub(crate) use create::mark_obsolete;
pub(crate) use metrics::IntakeMetrics;
pub(crate) use settings::{IntakeArgs, IntakeSettings};

use self::lookup::{LookupContext, look_up};
use crate::{cluster_context::ClusterContextStore, runtime_now, telemetry::task_span};

/// Concurrency limits of writes. A write that is retried takes up to 12 s. Four such writes block
/// their own namespace, but no other one.
const WRITE_CONCURRENCY: ConcurrencyLimits = ConcurrencyLimits { total: 64, namespace: 4 };
/// Maximum number of pending writes per namespace. A task of a hundred images takes 10 KB. Above
/// this limit or the total limit, hints are dropped.
const MAX_NAMESPACE_WRITES: usize = 256;
const MAX_PENDING_WRITES: usize = 2048;

struct IntakeState {
    queue: Mutex<HintQueue>,
    /// Notification that the next deadline has moved forward.
    changed: Notify,
    dedup_index: Arc<DedupIndex>,
    context: ClusterContextStore,
    object_errors: ObjectErrorMetrics,
    metrics: IntakeMetrics,
    settings: IntakeSettings,
}

impl IntakeState {
    fn queue(&self) -> MutexGuard<'_, HintQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_outcome(&self, offered: OfferOutcome) -> OfferOutcome {
        self.metrics.hints.with_label_values(&[offered.as_str()]).inc();
        offered
    }

    fn count_discarded(&self, lost: DiscardedHints) {
        let DiscardedHints { not_stored, forbidden, duplicate, dropped } = lost;
        let all = [
            ("not_stored", not_stored),
            ("forbidden", forbidden),
            ("duplicate", duplicate),
            ("dropped", dropped),
        ];
        for (outcome, count) in all.into_iter().filter(|(_, count)| *count > 0) {
            self.metrics.hints.with_label_values(&[outcome]).inc_by(count as u64);
        }
    }
}

/// Sender of hints from admission reviews. Clones share one queue.
#[derive(Clone)]
pub struct ReviewHints(Arc<IntakeState>);

/// Sender of confirmed hints from our own watch, which reads objects from the API server. Clones
/// share one queue.
#[derive(Clone)]
pub(crate) struct WatchHints(Arc<IntakeState>);

/// Receiver of hints and confirmed hints, for [`run`].
pub(crate) struct HintReceiver(Arc<IntakeState>);

/// Creates a queue and returns its sender for reviews, its sender for our own watch, and its
/// receiver for [`run`].
#[must_use]
pub(crate) fn channel(
    object_errors: ObjectErrorMetrics,
    metrics: IntakeMetrics,
    settings: IntakeSettings,
    around: ClusterContextStore,
) -> (ReviewHints, WatchHints, HintReceiver) {
    let shared = Arc::new(IntakeState {
        queue: Mutex::new(HintQueue::new(settings.coalesce_window, settings.lookup_limits)),
        changed: Notify::new(),
        dedup_index: Arc::default(),
        context: around,
        object_errors,
        metrics,
        settings,
    });
    (ReviewHints(Arc::clone(&shared)), WatchHints(Arc::clone(&shared)), HintReceiver(shared))
}

impl ReviewHints {
    /// Queues a hint and returns the outcome, which the metrics count. Never blocks.
    #[allow(clippy::must_use_candidate, reason = "the metrics have counted it")]
    pub fn offer(&self, hint: Hint) -> OfferOutcome {
        let shared = &self.0;
        let now = runtime_now();
        if hint.new_keys().is_some_and(|keys| shared.dedup_index.covers(keys, now)) {
            return shared.count_outcome(OfferOutcome::Duplicate);
        }
        let known = shared.context.namespace_exists(&hint.namespace);
        let (offered, wake) = shared.queue().push_hint(hint, known, now);
        if wake {
            shared.changed.notify_one();
        }
        shared.count_outcome(offered)
    }

    /// Counts a review of a pod or Job that counts as one-shot and is not warmed.
    pub fn count_one_shot(&self, reason: OneShotReason) {
        self.0.metrics.one_shot.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a review without a hint for its workload. `outcome` is `opted_out` or `unidentified`.
    pub fn count_without_hint(&self, outcome: &str) {
        self.0.metrics.hints.with_label_values(&[outcome]).inc();
    }
}

impl WatchHints {
    /// Queues a confirmed hint and returns the outcome, which the metrics count. Never blocks.
    #[allow(clippy::must_use_candidate, reason = "the metrics have counted it")]
    pub(crate) fn offer(&self, confirmed: ConfirmedHint) -> OfferOutcome {
        let shared = &self.0;
        let now = runtime_now();
        if shared.dedup_index.covers(confirmed.new_keys(), now) {
            return shared.count_outcome(OfferOutcome::Duplicate);
        }
        let (offered, wake) = shared.queue().push_confirmed_hint(confirmed, now);
        if wake {
            shared.changed.notify_one();
        }
        shared.count_outcome(offered)
    }

    /// Returns the index of requested images, which the caller updates with the tasks that exist.
    #[must_use]
    pub(crate) fn dedup_index(&self) -> &Arc<DedupIndex> {
        &self.0.dedup_index
    }
}

/// Creates tasks from hints until `stop`; hints that are queued by then are still processed.
pub(crate) async fn run(
    client: Client,
    hints: HintReceiver,
    policy: Arc<Policy>,
    stop: CancellationToken,
) {
    let shared = hints.0;
    let writes = FairQueue::new(shared.settings.creation_limits, WRITE_CONCURRENCY);
    let reader = LookupContext { client, policy, context: shared.context.clone() };
    let mut intake = Intake {
        shared,
        lookup_context: reader,
        writes,
        lookups: JoinSet::new(),
        active_writes: JoinSet::new(),
        closing: false,
    };
    while let ControlFlow::Continue(wakes) = intake.process_due() {
        intake.wait_for_work(wakes, &stop).await;
    }
}

/// Write request to the API server.
#[derive(Debug)]
enum TaskWrite {
    Create(Box<TaskDraft>),
    MarkObsolete(TaskName, String),
}

impl TaskWrite {
    fn task_name(&self) -> TaskName {
        match self {
            Self::Create(planned) => (planned.namespace.clone(), planned.name.clone()),
            Self::MarkObsolete(task, _) => task.clone(),
        }
    }
}

struct Intake {
    shared: Arc<IntakeState>,
    lookup_context: LookupContext,
    writes: FairQueue<TaskWrite>,
    lookups: JoinSet<(u64, queue::LookupResult)>,
    active_writes: JoinSet<Arc<str>>,
    closing: bool,
}

impl Intake {
    /// Processes everything that is due and returns the next deadline, if there is one. Returns
    /// `Break` when `run` must end.
    fn process_due(&mut self) -> ControlFlow<(), Option<Instant>> {
        let now = runtime_now();
        let (shared, around) = (Arc::clone(&self.shared), &self.lookup_context.context);
        let (known, covered) = (
            |name: &str| around.namespace_exists(name),
            |keys: &[DedupKey]| shared.dedup_index.covers(keys, now),
        );
        let step = shared.queue().process_due(now, known, covered);
        self.handle_output(step);
        while let Some((namespace, write)) = self.writes.next(now, |_| true) {
            self.spawn_write(namespace, write);
        }
        let (waiting, wakes) = {
            let queue = shared.queue();
            (queue.len(), queue.next_deadline())
        };
        shared.metrics.queue_depth.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let idle = waiting == 0 && self.writes.waiting_len() == 0 && self.writes.in_progress() == 0;
        if self.closing && idle {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue([wakes, self.writes.next_deadline()].into_iter().flatten().min())
    }

    /// Waits for the deadline, the end of a request, a new hint or `stop`.
    async fn wait_for_work(&mut self, wakes: Option<Instant>, stop: &CancellationToken) {
        let time = async {
            match wakes {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            Some(answered) = self.lookups.join_next() => {
                let mut all = vec![answered];
                all.extend(std::iter::from_fn(|| self.lookups.try_join_next()));
                for (id, found) in all.into_iter().flatten() {
                    let next = shared.queue().handle_lookup_result(id, found, runtime_now());
                    self.handle_output(next);
                }
            }
            Some(written) = self.active_writes.join_next() => {
                let mut all = vec![written];
                all.extend(std::iter::from_fn(|| self.active_writes.try_join_next()));
                for namespace in all.into_iter().flatten() {
                    self.writes.finish(&namespace);
                }
            }
            () = shared.changed.notified() => {}
            () = time => {}
            () = stop.cancelled(), if !self.closing => {
                self.closing = true;
                shared.queue().close(runtime_now());
            }
        }
    }

    fn handle_output(&mut self, step: DueWork) {
        self.shared.count_discarded(step.discarded);
        if step.not_recurring > 0 {
            let reason = OneShotReason::NewImage.as_str();
            let counter = self.shared.metrics.one_shot.with_label_values(&[reason]);
            counter.inc_by(step.not_recurring as u64);
        }
        for lookup in step.lookups {
            self.lookups.spawn(look_up(self.lookup_context.clone(), lookup));
        }
        for hints in step.batches {
            self.queue_writes(&hints);
        }
    }

    /// Coalesces the hints of one namespace and queues the writes. A task is inserted into the
    /// index before it is created, so that hints received meanwhile count as duplicates.
    fn queue_writes(&mut self, hints: &[ConfirmedHint]) {
        let Some(namespace) = hints.first().map(|hint| Arc::<str>::from(hint.namespace.as_str()))
        else {
            return;
        };
        if self.writes.namespace_len(&namespace) >= MAX_NAMESPACE_WRITES
            || self.writes.waiting_len() >= MAX_PENDING_WRITES
        {
            tracing::warn!(%namespace, hints = hints.len(), "dropped hints: too many task writes are pending");
            self.shared.metrics.hints.with_label_values(&["limited"]).inc_by(hints.len() as u64);
            return;
        }
        let ledger = &self.shared.dedup_index;
        let CoalescedTasks { tasks, obsolete } = coalesce_hints(hints, ledger, runtime_now());
        for planned in tasks {
            let name = (planned.namespace.clone(), planned.name.clone());
            let whole = planned.more_workloads == 0;
            ledger.insert(
                name,
                planned.keys.clone(),
                planned.workloads.clone(),
                whole,
                runtime_now(),
            );
            self.writes.push(&namespace, TaskWrite::Create(Box::new(planned)));
        }
        for (task, why) in obsolete {
            ledger.invalidate(&task);
            self.writes.push(&namespace, TaskWrite::MarkObsolete(task, why));
        }
    }

    fn spawn_write(&mut self, namespace: Arc<str>, write: TaskWrite) {
        let (client, shared) = (self.lookup_context.client.clone(), Arc::clone(&self.shared));
        let task = write.task_name();
        let again = Arc::clone(&self.shared);
        let written = async move {
            match write {
                TaskWrite::Create(planned) => create_task(&client, *planned, &shared).await,
                TaskWrite::MarkObsolete(task, why) => {
                    mark_obsolete(&client, &task, &why).await;
                }
            }
        };
        let span = task_span(&task.0, &task.1);
        let written = std::panic::AssertUnwindSafe(written).catch_unwind().instrument(span);
        self.active_writes.spawn(async move {
            if let Err(payload) = written.await {
                let object = format!("PrewarmTask {}/{}", task.0, task.1);
                record_panic(&again.object_errors, WorkKind::Creation, object, payload.as_ref());
                // The task is no longer in the index: the next hint for it starts a new attempt.
                again.dedup_index.remove(&task);
            }
            namespace
        });
    }
}

async fn create_task(client: &Client, planned: TaskDraft, shared: &IntakeState) {
    let name = (planned.namespace.clone(), planned.name.clone());
    match create::create_or_get_task(client, &planned, &shared.settings).await {
        Ok(made) if made == name.1 => {}
        Ok(made) => {
            shared.dedup_index.remove(&name);
            let whole = planned.more_workloads == 0;
            shared.dedup_index.insert(
                (name.0, made),
                planned.keys,
                planned.workloads,
                whole,
                runtime_now(),
            );
        }
        Err(create::CreationFailed) => shared.dedup_index.remove(&name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use prewarmer_core::workload::{Workload, WorkloadKinds};
    use prometheus::Registry;

    fn workload(name: &str, image: &str) -> Workload {
        let images = vec![image.parse().unwrap()];
        Workload { namespace: "shop".into(), name: name.into(), images, ..Workload::default() }
    }

    fn hint(kinds: &WorkloadKinds, name: &str, image: &str) -> Hint {
        let kind = kinds.find_by_api_version("apps/v1", "Deployment").unwrap();
        let object = kind.parse_value(json!({"metadata": {"name": name, "uid": "u"}})).unwrap();
        Hint::new(kind, "shop", &object)
            .unwrap()
            .with_workloads(&[workload(name, image)], Vec::new())
    }

    fn senders() -> (ReviewHints, WatchHints, IntakeMetrics) {
        let registry = Registry::new();
        let metrics = IntakeMetrics::register(&registry).unwrap();
        let (reviews, watched, _) = channel(
            ObjectErrorMetrics::register(&registry).unwrap(),
            metrics.clone(),
            IntakeSettings::default(),
            ClusterContextStore::default(),
        );
        (reviews, watched, metrics)
    }

    #[tokio::test]
    async fn queued_or_covered_hint_is_duplicate() {
        let (reviews, watched, metrics) = senders();
        let kinds = WorkloadKinds::default();
        assert_eq!(reviews.offer(hint(&kinds, "a", "nginx")), OfferOutcome::Queued);
        assert_eq!(
            reviews.offer(hint(&kinds, "a", "nginx")),
            OfferOutcome::Duplicate,
            "an equal hint"
        );
        let planned = coalesce_hints(
            &[ConfirmedHint::from_stored(
                "shop",
                jiff::Timestamp::now(),
                vec![workload("a", "nginx")],
                Vec::new(),
            )],
            watched.dedup_index(),
            runtime_now(),
        );
        let planned = planned.tasks.into_iter().next().unwrap();
        let name = (planned.namespace, planned.name);
        watched.dedup_index().insert(name, planned.keys, planned.workloads, true, runtime_now());
        assert_eq!(
            reviews.offer(hint(&kinds, "b", "docker.io/library/nginx:latest")),
            OfferOutcome::Duplicate
        );
        let confirmed = ConfirmedHint::from_stored(
            "shop",
            jiff::Timestamp::now(),
            vec![workload("b", "nginx")],
            Vec::new(),
        );
        assert_eq!(watched.offer(confirmed), OfferOutcome::Duplicate);
        assert_eq!(reviews.offer(hint(&kinds, "a", "nginx:2")), OfferOutcome::Queued);
        assert_eq!(metrics.hints.with_label_values(&["duplicate"]).get(), 3);
    }
}
