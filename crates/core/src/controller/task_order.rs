//! Capacity that the existing workers leave, and the order in which tasks are reconciled.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    capacity::{Capacity, WorkerLimits, WorkerSlot, worker_slot},
    queue,
    snapshot::QueueDecision,
    task_controller::{Controller, TaskCounts},
};
use crate::task::{PrewarmTask, caps};

/// Time for which workers of an inactive task still count against the limits, because they are
/// being deleted. A worker that exists for longer, for example because of another controller's
/// finalizer, does not reduce the capacity for other tasks.
const INACTIVE_WORKERS_COUNT_FOR: SignedDuration = SignedDuration::from_secs(60);

impl Controller {
    /// Records since when tasks that have workers are inactive.
    pub(super) fn track_inactive(&mut self, now: Timestamp) {
        let idle = |uid: &&String| !self.reconcilers.contains_key(*uid);
        self.inactive_since.retain(|uid, _| self.state.workers().contains_key(uid) && idle(&uid));
        for uid in self.state.workers().keys().filter(idle) {
            if !self.inactive_since.contains_key(uid) {
                self.inactive_since.insert(uid.clone(), now);
            }
        }
    }

    /// Computes the capacity for this reconcile, and records for each task whether one of its
    /// workers pulls.
    pub(super) fn compute_capacity(&mut self, now: Timestamp) -> Capacity {
        let limits = &self.context.settings.limits;
        let alone =
            SignedDuration::try_from(limits.exclusive_node_time).unwrap_or(SignedDuration::MAX);
        let (workers, pods) = (self.state.workers(), self.state.pods());
        let mut seats: Vec<WorkerSlot<'_>> = Vec::new();
        let mut pulling: HashMap<String, usize> = HashMap::new();
        let lingers = |since: &Timestamp| now.duration_since(*since) < INACTIVE_WORKERS_COUNT_FOR;
        let mut at_work = HashSet::new();
        for (uid, _) in self.inactive_since.iter().filter(|(_, since)| lingers(since)) {
            let left = workers.get(uid).into_iter().flat_map(BTreeMap::values);
            let alive = left
                .filter_map(|worker| worker_slot(uid, &worker.namespace, worker, pods, now, alone));
            seats.extend(alive.take(self.state.max_active_workers(uid)));
        }
        for (uid, run) in &self.reconcilers {
            let own = run.worker_slots(
                workers.get(uid),
                pods,
                now,
                alone,
                self.state.max_active_workers(uid),
            );
            let nodes: HashSet<&str> = own.iter().map(|seat| seat.node).collect();
            for host in run.hosts() {
                let pulls = pulling.entry(host.clone()).or_default();
                *pulls = pulls.saturating_add(nodes.len());
            }
            if own.iter().any(|seat| seat.holds_node) {
                at_work.insert(uid.clone());
            }
            seats.extend(own);
        }
        let most = WorkerLimits {
            all: self.context.settings.max_workers,
            per_namespace: limits.workers_per_namespace,
        };
        let room = Capacity::new(seats, most, pulling, &self.context.budgets, now);
        for (uid, run) in &mut self.reconcilers {
            run.record_pulling(at_work.contains(uid), now);
        }
        room
    }

    /// Returns all open tasks in the order in which they are reconciled, and the tasks that must
    /// wait to start. A suspended task does not count against the maximum number of tasks.
    pub(super) fn admission_order<'a>(
        &self,
        open: &'a BTreeMap<String, Arc<PrewarmTask>>,
        now: Timestamp,
    ) -> (Vec<&'a str>, HashMap<&'a str, QueueDecision>, TaskCounts) {
        let limits = &self.context.settings.limits;
        let waiting = |(uid, task): (&'a String, &'a Arc<PrewarmTask>)| queue::QueuedTask {
            uid,
            namespace: task.metadata.namespace.as_deref().unwrap_or_default(),
            priority: caps::effective_priority(&limits.caps, task.spec.priority).0,
            created: task.creation_timestamp().map(|time| time.0),
        };
        let places = queue::TaskLimits {
            all: self.context.settings.max_concurrent_tasks,
            per_namespace: limits.tasks_per_namespace,
        };
        let (mut running, mut candidates) = (Vec::new(), Vec::new());
        for (uid, task) in open.iter().filter(|(_, task)| !task.spec.suspend) {
            let Some(run) = self.reconcilers.get(uid) else { continue };
            if run.takes_task_slot() {
                let namespace = task.metadata.namespace.as_deref().unwrap_or_default();
                running.push(queue::RunningTask { namespace, parked: run.is_parked(now) });
            } else if !run.has_started() {
                candidates.push(waiting((uid, task)));
            }
        }
        let held: Vec<(&str, &str)> =
            candidates.iter().map(|task| (task.uid, task.namespace)).collect();
        let (begin, why) = queue::admit(candidates, &running, places, now);
        let turn = |(uid, namespace): (&'a str, &str)| {
            Some((uid, QueueDecision::Queued(*why.get(namespace)?)))
        };
        let turns: HashMap<&str, QueueDecision> =
            held.into_iter().filter(|(uid, _)| !begin.contains(uid)).filter_map(turn).collect();
        let parked = running.iter().filter(|task| task.parked).count();
        let counts = TaskCounts {
            running: running.len().saturating_sub(parked),
            parked,
            waiting: turns.len(),
        };
        (
            queue::admission_order(
                open.iter().map(waiting).collect(),
                &self.context.capacity.workers_by_namespace(),
                now,
            ),
            turns,
            counts,
        )
    }
}
