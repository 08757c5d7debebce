//! Reconcile of changed workloads: hints for changes that admission did not report, and marks on
//! obsolete tasks.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use prewarmer_core::{
    intake::{ConfirmedHint, OfferOutcome, dedup_keys_of_all},
    shrink_sparse,
    workload::{ObjectView, WarmDecision, WorkloadKind},
    workload_watch::{
        image_refs,
        index::{WorkloadId, WorkloadIndex},
        progress,
    },
};
use prewarmer_kube::object_error::{WorkKind, catch_panic};
use tokio::{
    sync::{
        mpsc::{Receiver, Sender},
        watch,
    },
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use super::{
    event::WorkloadEvent, lists::list_namespace, rewritten_images::detect_rewritten_images,
    watcher::WorkloadWatcher,
};
use crate::{intake::mark_obsolete, runtime_now};

/// Time after the hint window in which hints are expected to create a task for a change: the
/// webhook's timeout, the lookup, and the requests.
const SETTLE_DELAY: Duration = Duration::from_secs(3);
/// Interval at which all namespaces with open tasks are checked for obsolete tasks, in case an
/// event was missed.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Time for which a replica that does not lead keeps changes without a task: four times the time
/// that a new leader needs to start.
const FOLLOWER_RETENTION: Duration = Duration::from_secs(60);

/// Changes of workloads, and the hints and marks of tasks that they lead to.
pub(super) struct WorkloadReconciler {
    watcher: WorkloadWatcher,
    settle: Duration,
    kinds: Vec<Arc<WorkloadKind>>,
    index: WorkloadIndex,
    /// Kinds that were listed completely.
    listed: HashSet<usize>,
    /// Changes that are checked after hints have had time to create a task.
    pending: HashMap<WorkloadId, PendingChange>,
    /// Namespaces whose tasks are to be checked, with the time of the check.
    obsolete_checks: HashMap<String, Instant>,
    sender: Sender<WorkloadEvent>,
    is_leader: watch::Receiver<bool>,
}

/// Change to be checked.
struct PendingChange {
    due_at: Instant,
    observed_at: Instant,
    hint: ConfirmedHint,
}

impl WorkloadReconciler {
    /// Creates a reconciler without known workloads. `sender` is the queue that [`Self::run`] reads.
    pub(super) fn new(
        watcher: WorkloadWatcher,
        kinds: Vec<Arc<WorkloadKind>>,
        sender: Sender<WorkloadEvent>,
        is_leader: watch::Receiver<bool>,
    ) -> Self {
        Self {
            settle: watcher.window + SETTLE_DELAY,
            index: WorkloadIndex::new(watcher.image_refs.clone()),
            watcher,
            kinds,
            listed: HashSet::new(),
            pending: HashMap::new(),
            obsolete_checks: HashMap::new(),
            sender,
            is_leader,
        }
    }

    /// Reconciles until `stop`, or until all watches have ended.
    pub(super) async fn run(mut self, mut inbox: Receiver<WorkloadEvent>, stop: CancellationToken) {
        let mut changes = self.watcher.context.subscribe();
        let mut all = runtime_now() + self.settle;
        loop {
            let soonest = self
                .pending
                .values()
                .map(|due| due.due_at)
                .chain(self.obsolete_checks.values().copied())
                .min();
            let next = soonest.unwrap_or(all).min(all);
            tokio::select! {
                () = stop.cancelled() => return,
                news = inbox.recv() => match news {
                    Some(news) => {
                        self.handle(news);
                        while let Ok(news) = inbox.try_recv() {
                            self.handle(news);
                        }
                    }
                    None => return,
                },
                Ok(()) = changes.changed() => self.list_changed_namespaces(&stop),
                Ok(()) = self.is_leader.changed() => all = runtime_now(),
                () = sleep_until(next.into()) => {}
            }
            let now = runtime_now();
            if now >= all {
                all = now + CHECK_INTERVAL;
                let due = |namespace: String| (namespace, now);
                self.obsolete_checks.extend(
                    self.watcher
                        .hints
                        .dedup_index()
                        .namespaces_with_open_tasks()
                        .into_iter()
                        .map(due),
                );
            }
            self.offer_due_hints(now);
            self.mark_obsolete_tasks(now);
        }
    }

    fn handle(&mut self, news: WorkloadEvent) {
        match news {
            WorkloadEvent::Applied { kind, object, first } => self.apply(kind, *object, first),
            WorkloadEvent::Deleted { kind, namespace, name } => {
                self.remove(WorkloadId { kind, namespace, name });
            }
            WorkloadEvent::ListCompleted { kind, all } => {
                self.listed.insert(kind);
                for namespace in self.index.retain_listed(kind, &all, runtime_now()) {
                    self.schedule_obsolete_check(namespace);
                }
            }
        }
    }

    /// Removes an object that needs no images any more.
    fn remove(&mut self, id: WorkloadId) {
        self.pending.remove(&id);
        if self.index.remove(&id, runtime_now()) {
            self.schedule_obsolete_check(id.namespace);
        }
    }

    /// Schedules a check of the namespace's tasks after its changes have settled.
    fn schedule_obsolete_check(&mut self, namespace: String) {
        self.obsolete_checks.entry(namespace).or_insert(runtime_now() + self.settle);
    }

    fn apply(&mut self, kind_index: usize, object: ObjectView, first: bool) {
        let (watcher, kind) = (&self.watcher, &Arc::clone(&self.kinds[kind_index]));
        let metadata = &object.metadata;
        let id = WorkloadId {
            kind: kind_index,
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
        };
        let consider = || watcher.policy.evaluate(kind, &object, &id.namespace, &watcher.context);
        let name = format!("{} {}/{}", kind.kind, id.namespace, id.name);
        let verdict = match catch_panic(&watcher.object_errors, WorkKind::Workload, name, consider)
        {
            None | Some((WarmDecision::Ignored(_), _)) => return self.remove(id),
            Some((verdict, _)) => verdict,
        };
        // Which images recur is known only to the replica that received their reviews: they are
        // needed, but the watch requests no task for them.
        let depends_on_recurrence = matches!(verdict, WarmDecision::IfRecurring(..));
        let workloads = verdict.needed_workloads();
        let keys = dedup_keys_of_all(&workloads);
        let old = depends_on_recurrence
            || first && !progress::is_in_progress(kind, &object, Timestamp::now());
        let before = self.index.get(&id).map(<[_]>::to_vec);
        if before.as_ref() != Some(&keys) {
            self.index.insert(id.clone(), keys.clone(), image_refs::image_hashes(&workloads), old);
            if !old {
                let kept = match self.pending.remove(&id) {
                    Some(earlier) => earlier.hint.into_previous_keys(),
                    None => before.unwrap_or_default(),
                };
                if !keys.is_empty() {
                    let hint = ConfirmedHint::from_stored(
                        &id.namespace,
                        Timestamp::now(),
                        workloads,
                        kept,
                    );
                    let now = runtime_now();
                    self.pending.insert(
                        id.clone(),
                        PendingChange { due_at: now + self.settle, observed_at: now, hint },
                    );
                }
                self.schedule_obsolete_check(id.namespace.clone());
            }
        }
        if *self.is_leader.borrow()
            && progress::is_complete(kind, &object)
            && self.index.take_comparison(&id)
        {
            tokio::spawn(detect_rewritten_images(
                self.watcher.clone(),
                Arc::clone(kind),
                kind_index,
                object,
                self.sender.clone(),
            ));
        }
    }

    /// Checks changes that are due. The leader offers hints for those without a task; other
    /// replicas wait for the leader.
    fn offer_due_hints(&mut self, now: Instant) {
        let leads = *self.is_leader.borrow();
        let ripe: Vec<(WorkloadId, PendingChange)> =
            self.pending.extract_if(|_, due| due.due_at <= now).collect();
        shrink_sparse(&mut self.pending);
        for (id, due) in ripe {
            // The hint may have created a task at about the time when this replica saw the change.
            let since = due.observed_at.checked_sub(self.settle).unwrap_or(due.observed_at);
            if self.watcher.hints.dedup_index().covers_or_attempted(due.hint.new_keys(), since, now)
            {
                continue;
            }
            if leads {
                let (kind, namespace, name) = (&self.kinds[id.kind].kind, &id.namespace, &id.name);
                match self.watcher.hints.offer(due.hint.clone()) {
                    // The queue is full; the hint is offered again later.
                    OfferOutcome::Limited | OfferOutcome::Dropped => {
                        self.pending.insert(id, PendingChange { due_at: now + self.settle, ..due });
                    }
                    _ => {
                        tracing::info!(
                            kind,
                            namespace,
                            name,
                            "created a hint for a change missed by admission"
                        );
                        self.watcher.metrics.recovered.inc();
                    }
                }
            } else if now.duration_since(due.observed_at) < FOLLOWER_RETENTION {
                self.pending.insert(id, PendingChange { due_at: now + self.settle, ..due });
            }
        }
    }

    /// Marks tasks that no workload of their namespace needs any more.
    fn mark_obsolete_tasks(&mut self, now: Instant) {
        if !self.built_in_kinds_listed() {
            self.obsolete_checks.values_mut().for_each(|at| *at = (*at).max(now + self.settle));
            return;
        }
        let ripe: Vec<String> = self
            .obsolete_checks
            .extract_if(|_, at| *at <= now)
            .map(|(namespace, _)| namespace)
            .collect();
        // A later leader checks all namespaces.
        for namespace in ripe.into_iter().filter(|_| *self.is_leader.borrow()) {
            let ledger = self.watcher.hints.dedup_index();
            let since = now.checked_sub(self.settle).unwrap_or(now);
            let (wanted, leaving) = self.index.needed_keys(&namespace, since);
            if leaving {
                self.obsolete_checks.insert(namespace.clone(), now + self.settle);
            }
            for (task, asked) in ledger.unneeded_tasks(&namespace, &wanted) {
                if !self.all_kinds_listed(&asked.workloads) {
                    continue;
                }
                if now.duration_since(asked.first_seen()) < self.settle {
                    self.obsolete_checks.insert(namespace.clone(), now + self.settle);
                    continue;
                }
                let there = asked
                    .workloads
                    .iter()
                    .any(|title| self.index.contains(&self.kinds, &namespace, title));
                let why = if there {
                    "its workloads now require other images or none"
                } else {
                    "its workloads were deleted"
                };
                let watcher = self.watcher.clone();
                ledger.invalidate(&task);
                tokio::spawn(async move {
                    mark_obsolete(&watcher.client, &task, why).await;
                });
            }
        }
    }

    /// Reports whether all workloads, as `Kind/name`, are of kinds that are watched and listed.
    fn all_kinds_listed(&self, workloads: &BTreeSet<String>) -> bool {
        let kind = |title: &String| {
            title.split_once('/').map_or(String::new(), |(kind, _)| kind.to_owned())
        };
        let seen = |name: String| {
            (0..self.kinds.len()).any(|n| self.kinds[n].kind == name && self.listed.contains(&n))
        };
        !workloads.is_empty() && workloads.iter().map(kind).all(seen)
    }

    /// Reports whether all built-in kinds are listed. Before that, an image without a known
    /// workload may still be needed.
    fn built_in_kinds_listed(&self) -> bool {
        (0..self.kinds.len()).all(|n| self.kinds[n].is_custom() || self.listed.contains(&n))
    }

    /// Lists the workloads of namespaces whose annotations have changed.
    fn list_changed_namespaces(&self, stop: &CancellationToken) {
        for namespace in self.watcher.context.take_changed_namespaces() {
            if !self.watcher.policy.covers_namespace(&namespace) {
                continue;
            }
            for (index, kind) in self.kinds.iter().enumerate() {
                let (watcher, kind, namespace) =
                    (self.watcher.clone(), kind.clone(), namespace.clone());
                let (sender, stop) = (self.sender.clone(), stop.clone());
                tokio::spawn(async move {
                    stop.run_until_cancelled(list_namespace(
                        watcher, kind, index, namespace, sender,
                    ))
                    .await;
                });
            }
        }
    }
}
