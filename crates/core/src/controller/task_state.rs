//! State of one open task between reconciles, and its reconstruction from the task's status.

use std::{collections::HashSet, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    capacity::{WorkerSlot, worker_slot},
    effect::{PhaseEvent, TaskRef},
    measurement::Measurement,
    settings::ControllerSettings,
    task_object::unreadable_reason,
    time::add_millis,
    tracker::NodeTracker,
    worker_cache::{Pods, Workers},
};
use crate::{
    task::{
        FieldError, Phase, PrewarmTask, PrewarmTaskStatus,
        caps::{self, Caps},
        plan::NodeCheckFindings,
        validate::{ValidTask, validate},
    },
    worker::WorkerInfo,
};

/// Time without a pull after which a task is parked, in milliseconds. Longer than the time between
/// two batches.
const PARKED_AFTER_MS: i64 = 10_000;

/// State of one open task between reconciles.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each flag is independent, and all combinations occur"
)]
pub(super) struct TaskReconciler {
    pub(super) target: TaskRef,
    pub(super) valid: Result<ValidTask, Vec<FieldError>>,
    /// Hosts of the registries of the task's images, sorted and distinct.
    pub(super) hosts: Vec<String>,
    pub(super) status: PrewarmTaskStatus,
    pub(super) resource_version: Option<String>,
    /// Status as last stored in the API server.
    pub(super) written_status: PrewarmTaskStatus,
    pub(super) written_at: Option<Timestamp>,
    /// True when a result or an event waits for the next write of the status.
    pub(super) urgent: bool,
    pub(super) phase_events: Vec<PhaseEvent>,
    /// Measurement of the task's end, from the first write of a final status until it is known to
    /// be stored: by the response, or by the watch, which may deliver the task before the response
    /// arrives, or without one.
    pub(super) pending_end: Option<Measurement>,
    pub(super) findings: Option<NodeCheckFindings>,
    /// True when nodes are checked beyond their own conditions.
    pub(super) checks_nodes: bool,
    pub(super) tracker: Option<NodeTracker>,
    pub(super) inflight: HashSet<String>,
    pub(super) paused_until: Option<Timestamp>,
    /// Message of the API server's last rejection, until a creation succeeds.
    pub(super) last_rejection: Option<String>,
    /// Registry of the task whose concurrency is reduced, if any.
    pub(super) limited_registry: Option<String>,
    /// Reason to end the task regardless of its nodes.
    pub(super) abort_reason: Option<AbortReason>,
    /// True when the API server has rejected even the shortest status. Nothing is tried until the
    /// object changes.
    pub(super) status_unwritable: bool,
    /// True when the object cannot be decoded, so that its status is unknown.
    pub(super) unreadable: bool,
    /// Fields of the spec that exceed the operator's limits, as text.
    pub(super) limited: Vec<String>,
    /// The same for the priority, which may change.
    pub(super) limited_priority: Option<String>,
    /// Deadline of the task, and the setting that it comes from when the spec has none.
    pub(super) deadline: (Duration, Option<&'static str>),
    /// True when the deadline has ended nodes of the task.
    pub(super) expired: bool,
    /// Time when a worker of the task last pulled, a node of it ended, or its phase changed.
    pub(super) last_progress: Option<Timestamp>,
}

/// Failure of the task that does not depend on its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AbortReason {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl AbortReason {
    pub(super) fn internal_error() -> Self {
        let message = "an internal error ended this task; for details search the server's log for the task's UID";
        Self { reason: "InternalError", message: message.to_owned() }
    }
}

impl TaskReconciler {
    /// Restores a task from its status.
    pub(super) fn resume(task: &PrewarmTask, settings: &ControllerSettings) -> Self {
        match unreadable_reason(task) {
            Some(why) => {
                let stopped = AbortReason {
                    reason: "InvalidSpec",
                    message: format!("the task cannot be decoded: {why}"),
                };
                Self {
                    abort_reason: Some(stopped),
                    unreadable: true,
                    ..Self::from_parts(task, Err(Vec::new()))
                }
            }
            None => Self::with_caps(task, &settings.limits.caps),
        }
    }

    /// Builds the state of a readable task, within the operator's limits.
    fn with_caps(task: &PrewarmTask, caps: &Caps) -> Self {
        let mut limited = Vec::new();
        let valid = validate(&task.spec).and_then(|mut valid| {
            let problems = caps::check_limits(caps, &valid);
            limited = caps::apply_limits(caps, &mut valid);
            if problems.is_empty() { Ok(valid) } else { Err(problems) }
        });
        let deadline = valid
            .as_ref()
            .map_or((Duration::MAX, None), |valid| caps::effective_deadline(caps, valid));
        Self { limited, deadline, ..Self::from_parts(task, valid) }
    }

    /// Builds the state of a task whose reconcile has panicked. The task ends, and its spec is not
    /// read again.
    pub(super) fn broken(task: &PrewarmTask) -> Self {
        Self {
            abort_reason: Some(AbortReason::internal_error()),
            ..Self::from_parts(task, Err(Vec::new()))
        }
    }

    /// Reports whether a reconcile of the task has panicked.
    pub(super) fn is_broken(&self) -> bool {
        self.abort_reason == Some(AbortReason::internal_error())
    }

    fn from_parts(task: &PrewarmTask, valid: Result<ValidTask, Vec<FieldError>>) -> Self {
        let status = task.status.clone().unwrap_or_default();
        #[cfg(test)]
        super::fault_injection::panic_if_injected(
            if valid.is_ok() { "resume" } else { "broken" },
            task.metadata.name.as_deref().unwrap_or(""),
        );
        let mut hosts: Vec<String> = valid
            .iter()
            .flat_map(|valid| valid.images.iter().map(|image| image.registry().to_owned()))
            .collect();
        hosts.sort();
        hosts.dedup();
        Self {
            target: TaskRef::of(task),
            valid,
            hosts,
            written_status: status.clone(),
            status,
            resource_version: task.resource_version(),
            written_at: None,
            urgent: false,
            phase_events: Vec::new(),
            findings: None,
            checks_nodes: false,
            tracker: None,
            inflight: HashSet::new(),
            pending_end: None,
            paused_until: None,
            last_rejection: None,
            limited_registry: None,
            abort_reason: None,
            status_unwritable: false,
            unreadable: false,
            limited: Vec::new(),
            limited_priority: None,
            deadline: (Duration::MAX, None),
            expired: false,
            last_progress: None,
        }
    }

    /// Returns the task's live workers in the cache, `most` at most, and the expected ones.
    pub(super) fn worker_slots<'a>(
        &'a self,
        workers: Option<&'a Workers>,
        pods: &Pods,
        now: Timestamp,
        alone: SignedDuration,
        most: usize,
    ) -> Vec<WorkerSlot<'a>> {
        let TaskRef { namespace, uid, .. } = &self.target;
        let alive = workers.into_iter().flat_map(Workers::values);
        let seen = alive
            .filter_map(|worker| worker_slot(uid, namespace, worker, pods, now, alone))
            .take(most);
        seen.chain(self.expected_nodes().map(|node| WorkerSlot {
            node,
            namespace,
            task: uid,
            holds_node: true,
        }))
        .collect()
    }

    /// Records whether a worker of the task is pulling.
    pub(super) fn record_pulling(&mut self, pulls: bool, now: Timestamp) {
        if pulls || self.last_progress.is_none() {
            self.last_progress = Some(now);
        }
    }

    /// Reports whether nothing was pulled for the task for [`PARKED_AFTER_MS`]. Its slot is then
    /// free for other tasks, and the task continues without one.
    pub(super) fn is_parked(&self, now: Timestamp) -> bool {
        self.last_progress
            .and_then(|at| add_millis(at, PARKED_AFTER_MS))
            .is_some_and(|at| at <= now)
    }

    /// Returns the task's registries that do not answer.
    pub(super) fn unreachable_registries(&self) -> impl Iterator<Item = &str> {
        self.tracker
            .iter()
            .flat_map(|planned| planned.registries.unreachable())
            .map(|(host, ..)| host)
    }

    pub(super) fn target(&self) -> &TaskRef {
        &self.target
    }

    /// Reports whether the task has left the queue.
    pub(super) fn has_started(&self) -> bool {
        self.status.phase != Phase::Pending
    }

    /// Reports whether the task takes one of the slots for running tasks. A task that only waits
    /// for the deletion of its workers takes none: that depends on Kubernetes and may take long.
    pub(super) fn takes_task_slot(&self) -> bool {
        self.has_started()
            && self.status.phase != Phase::Finalizing
            && !self.status.phase.is_terminal()
    }

    /// Returns the hosts of the registries of the task's images.
    pub(super) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns the registry of an image, by its index in the task.
    pub(super) fn registry_of(&self, image: u16) -> Option<&str> {
        Some(self.valid.as_ref().ok()?.images.get(usize::from(image))?.registry())
    }

    /// Reports whether the worker's result is stored in the API server.
    pub(super) fn is_recorded(&self, worker: &WorkerInfo) -> bool {
        let letters = self.written_status.node_states.as_bytes();
        self.tracker.as_ref().is_some_and(|planned| planned.is_recorded(worker, letters))
    }

    /// Returns the nodes whose worker was created and is not yet in the cache.
    pub(super) fn expected_nodes(&self) -> impl Iterator<Item = &str> {
        self.tracker.iter().flat_map(NodeTracker::expected_nodes)
    }

    /// Takes over the newest object. A status written by this controller may be newer than the
    /// cache, so the resource version only moves forward.
    pub(super) fn observe_task(&mut self, task: &PrewarmTask) {
        #[cfg(test)]
        super::fault_injection::panic_if_injected("observe", &self.target.name);
        let number =
            |version: &Option<String>| version.as_deref().and_then(|v| v.parse::<u64>().ok());
        let seen = task.resource_version();
        if number(&seen) >= number(&self.resource_version) {
            self.status_unwritable &= seen == self.resource_version;
            self.resource_version = seen;
            if !self.unreadable {
                self.written_status = task.status.clone().unwrap_or_default();
            }
        }
    }
}
