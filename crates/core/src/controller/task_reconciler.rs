//! Reconciler of one task: computes from a snapshot of the cluster and the task's state the effects
//! to apply and the status to write. Sends no requests and reads no clock.

use std::{collections::HashSet, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use super::{
    ControllerSettings, ReconcileContext,
    capacity::WorkerSlot,
    cluster_state::{self, Pods, Workers},
    conditions::format_seconds,
    effect::{ApplyError, Effect, EffectOutput, PhaseEvent, TaskRef, WorkerCreation},
    gc,
    measurement::Measurement,
    observe::finish_attempt,
    plan_reconciler::PlanReconciler,
    results::NodeOutcome,
    snapshot::Snapshot,
    status::{estimate_completion, record_batch_ends, task_ended},
    tracker::{NodeTracker, add_millis, may_use_own_namespace},
};
use crate::{
    task::{
        FieldError, OBSOLETE_ANNOTATION, Phase, PrewarmTask, PrewarmTaskStatus,
        caps::{self, Caps},
        plan::NodeCheckFindings,
        validate::{ValidTask, validate},
    },
    worker::{FailureReason, WorkerInfo},
};

/// Time without a pull after which a task is parked, in milliseconds. Longer than the time between
/// two batches.
const PARKED_AFTER_MS: i64 = 10_000;
/// Time after a rejection by the API server during which no effect of the task is sent, in
/// milliseconds.
const PAUSE_MS: i64 = 2000;

/// Maximum number of problems of a spec that a status lists. Each has up to 700 characters.
const MAX_PROBLEMS: usize = 10;
/// Maximum length of a message of the API server in a status, in characters.
const MAX_API_MESSAGE: usize = 500;
/// Annotation that marks an object in memory as unreadable; its value is the reason. Objects from
/// watches carry only the annotations that the controller uses, so no client can set it.
pub(super) const UNREADABLE_ANNOTATION: &str = "prewarm.io/unreadable";

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
    reason: &'static str,
    message: String,
}

impl AbortReason {
    fn internal_error() -> Self {
        let message = "an internal error ended this task; for details search the server's log for the task's UID";
        Self { reason: "InternalError", message: message.to_owned() }
    }
}

/// Work of one reconcile of a task.
enum Stage {
    /// Nothing: the API server has rejected a request moments ago, or every status of the task.
    Paused,
    /// Ends the task regardless of its nodes.
    Aborted(AbortReason),
    /// Ends the task because its spec is invalid, with the problems.
    Invalid(String),
    /// Deletes the workers and ends the task.
    Cancelling,
    /// Selects the nodes and stores them.
    Planning,
    /// Observes, reaps and dispatches workers.
    Running,
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
            target: target(task),
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

    /// Takes over the result of an effect.
    pub(super) fn effect_finished(
        &mut self,
        effect: &Effect,
        result: Result<EffectOutput, ApplyError>,
        shared: &mut ReconcileContext,
        now: Timestamp,
    ) {
        self.inflight.remove(&effect.key());
        #[cfg(test)]
        super::fault_injection::panic_if_injected("effect", &self.target.name);
        if result == Err(ApplyError::Panicked) {
            return self.abort_after_panic(effect);
        }
        match (effect, result) {
            (Effect::WriteStatus(write), Ok(written)) => {
                if write.status.phase.is_terminal() {
                    shared.measurements.push(task_ended(&self.target, &write.status, now));
                }
                self.written_status = write.status.clone();
                self.resource_version = written.resource_version.or(self.resource_version.take());
            }
            (Effect::WriteStatus(_), Err(ApplyError::Unstorable(message))) => {
                self.status_rejected(&message, shared);
            }
            (Effect::CreatePlan(_), Err(ApplyError::Unstorable(message))) => {
                let message = format!(
                    "the API server rejected the task's PrewarmPlan: {}",
                    truncate_message(&message)
                );
                self.abort_reason = Some(AbortReason { reason: "PlanRefused", message });
            }
            (Effect::WriteStatus(write), Err(refusal)) => {
                self.phase_events.splice(0..0, write.events.iter().cloned());
                self.urgent = true;
                self.pause(&refusal, now);
            }
            (Effect::CheckNodes(_), result) => {
                let failed = || {
                    Box::new(NodeCheckFindings {
                        unchecked: vec!["node checks failed".into()],
                        ..NodeCheckFindings::default()
                    })
                };
                self.findings = Some(
                    *result.ok().and_then(|written| written.check_results).unwrap_or_else(failed),
                );
            }
            (Effect::CreateWorker(creation), result) => {
                self.creation_finished(creation, result, shared, now);
            }
            (Effect::DryRun(_), result) => self.probe_finished(result, now),
            (_, Err(refusal)) => self.pause(&refusal, now),
            _ => {}
        }
    }

    /// Ends the task after a panic of an effect. When the status of that end cannot be written
    /// either, the task is left unchanged.
    fn abort_after_panic(&mut self, effect: &Effect) {
        self.urgent = true;
        self.status_unwritable =
            self.abort_reason.is_some() && matches!(effect, Effect::WriteStatus(_));
        self.abort_reason.get_or_insert_with(AbortReason::internal_error);
    }

    /// Ends the task with a short status after the API server has rejected its status, since it
    /// would reject the same status again. When the short one is rejected too, the task is left
    /// unchanged.
    fn status_rejected(&mut self, message: &str, shared: &mut ReconcileContext) {
        self.urgent = true;
        if self.abort_reason.is_some() {
            shared.measurements.push(Measurement::FinalStatusRejected {
                task: self.target.clone(),
                message: message.to_owned(),
            });
            self.status_unwritable = true;
            return;
        }
        let message =
            format!("the API server rejected the task's status: {}", truncate_message(message));
        self.abort_reason = Some(AbortReason { reason: "StatusRefused", message });
    }

    /// Ends a task regardless of its nodes. The status keeps only its short fields.
    fn abort(
        &mut self,
        stopped: &AbortReason,
        task: &PrewarmTask,
        view: &Snapshot<'_>,
        effects: &mut Vec<Effect>,
    ) {
        effects.extend(gc::delete_workers(view.workers, view.has_foreign_objects));
        self.tracker = None;
        self.status.failed_nodes = Vec::new();
        self.status.ignored_nodes = Vec::new();
        self.status.images = Vec::new();
        self.status.batch_ends = Vec::new();
        self.status.node_states = String::new();
        self.finish(Phase::Failed, stopped.reason, &stopped.message, task, view.now);
    }

    fn pause(&mut self, refusal: &ApplyError, now: Timestamp) {
        if let ApplyError::Transient(message) | ApplyError::Rejected(_, message) = refusal {
            self.paused_until = add_millis(now, PAUSE_MS);
            self.last_rejection = Some(message.clone());
        }
    }

    fn creation_finished(
        &mut self,
        creation: &WorkerCreation,
        result: Result<EffectOutput, ApplyError>,
        shared: &mut ReconcileContext,
        now: Timestamp,
    ) {
        let Some(planned) = &mut self.tracker else { return };
        let name = &creation.name;
        let Err(refusal) = result else {
            self.last_rejection = None;
            return planned.creation_acknowledged(name, now);
        };
        let index = planned.cancel_expectation(name);
        let (Some(index), ApplyError::Rejected(reason, message), Ok(valid)) =
            (index, &refusal, &self.valid)
        else {
            return self.pause(&refusal, now);
        };
        let at_home = creation.namespace == self.target.namespace;
        if at_home && planned.own_namespace_reason.is_some() {
            // The creation was sent before another was rejected. The next reconcile creates it in
            // our own namespace.
        } else if may_use_own_namespace(&shared.settings, valid, planned, (*reason, message)) {
            planned.use_own_namespace(message.clone());
        } else if *reason == FailureReason::QuotaExceeded && planned.uses_quota() {
            self.pause(&refusal, now);
        } else {
            planned.count_rejected_node();
            planned.set_rejection(*reason, message.clone(), now);
            let end = NodeOutcome::NodeFailed(*reason, message.clone());
            finish_attempt(planned, valid, shared, index, end, true, now);
        }
    }

    fn probe_finished(&mut self, result: Result<EffectOutput, ApplyError>, now: Timestamp) {
        if let (Some(planned), Err(ApplyError::Rejected(reason, message))) =
            (&mut self.tracker, result)
        {
            planned.set_rejection(reason, message, now);
        }
    }

    /// Computes the effects to apply now. The nodes are selected once; then each reconcile observes,
    /// reaps and dispatches workers, in this order, and writes the status.
    pub(super) fn reconcile(
        &mut self,
        task: &PrewarmTask,
        view: &Snapshot<'_>,
        shared: &mut ReconcileContext,
    ) -> Vec<Effect> {
        #[cfg(test)]
        super::fault_injection::panic_if_injected(
            if self.abort_reason.is_none() { "reconcile" } else { "abort" },
            &self.target.name,
        );
        self.limited_priority =
            caps::effective_priority(&shared.settings.limits.caps, task.spec.priority).1;
        let reduced = |host: &&String| shared.budgets.is_reduced(host);
        self.limited_registry = self.hosts.iter().find(reduced).cloned();
        let mut effects = Vec::new();
        match self.stage(task, view.now) {
            Stage::Paused => return effects,
            Stage::Aborted(reason) => self.abort(&reason, task, view, &mut effects),
            Stage::Invalid(problems) => {
                self.finish(Phase::Failed, "InvalidSpec", &problems, task, view.now);
            }
            Stage::Cancelling => self.cancel(task, view, &mut effects),
            Stage::Planning => self.plan(task, view, &shared.settings, &mut effects),
            Stage::Running => {}
        }
        if self.tracker.is_some() && !task.spec.cancel {
            self.process_nodes(task, view, shared, &mut effects);
        }
        self.write_status(view.now, &mut effects);
        effects.retain(|effect| self.inflight.insert(effect.key()));
        effects
    }

    fn stage(&self, task: &PrewarmTask, now: Timestamp) -> Stage {
        if self.status_unwritable || self.paused_until.is_some_and(|until| now < until) {
            Stage::Paused
        } else if let Some(reason) = &self.abort_reason {
            Stage::Aborted(reason.clone())
        } else if let Err(problems) = &self.valid {
            Stage::Invalid(join_problems(problems))
        } else if task.spec.cancel {
            Stage::Cancelling
        } else if self.tracker.is_none() {
            Stage::Planning
        } else {
            Stage::Running
        }
    }

    fn cancel(&mut self, task: &PrewarmTask, view: &Snapshot<'_>, effects: &mut Vec<Effect>) {
        effects.extend(gc::delete_workers(view.workers, view.has_foreign_objects));
        // A creation in flight could arrive after the deletion, so its result is awaited first.
        if view.workers().next().is_some()
            || self.inflight.iter().any(|key| key.starts_with("create/"))
        {
            self.set_phase(
                Phase::Finalizing,
                "Cancelling",
                "workers are being deleted (spec.cancel)",
                task,
                view.now,
            );
        } else {
            self.finish(Phase::Cancelled, "Cancelled", "cancelled by spec.cancel", task, view.now);
        }
    }

    /// Observes, reaps and dispatches the workers of the plan's nodes, and records their results.
    fn process_nodes(
        &mut self,
        task: &PrewarmTask,
        view: &Snapshot<'_>,
        shared: &mut ReconcileContext,
        effects: &mut Vec<Effect>,
    ) {
        let (Some(planned), Ok(valid)) = (&mut self.tracker, &self.valid) else { return };
        if self.status.start_time.is_none() {
            self.status.start_time = Some(format_seconds(view.now));
        }
        let overdue = is_overdue(self.status.start_time.as_deref(), self.deadline.0, view.now);
        self.expired |= overdue && !planned.results.all_ended();
        let moved = planned.results.processed_nodes();
        let mut work = PlanReconciler::new(
            &self.target,
            valid,
            planned,
            view,
            shared,
            &self.written_status,
            &self.hosts,
        );
        work.observe(overdue);
        if obsolete_reason(task).is_some() {
            work.skip_idle_nodes();
        }
        work.reap(effects);
        if !task.spec.suspend {
            work.dispatch(effects);
        }
        let (place, left, full) = (work.position(), work.has_workers_left(), work.limit_reached());
        self.urgent |= work.is_urgent();
        self.status.current_batch_index = place.current;
        self.status.total_batches = place.total;
        self.status.ignored_nodes.clone_from(&planned.spec.ignored);
        self.status.ignored_node_count = planned.spec.ignored_count;
        planned.results.write_to(&mut self.status);
        let ended = if planned.results.all_ended() { place.total } else { place.current };
        record_batch_ends(&mut self.status, ended, view.now);
        if planned.results.processed_nodes() != moved {
            self.last_progress = Some(view.now);
            self.status.estimated_completion = estimate_completion(&self.status, view.now);
        }
        self.update_phase(task, place, left, full, shared.settings.max_workers, view.now);
    }
}

/// Joins the first [`MAX_PROBLEMS`] problems for a condition and an Event.
fn join_problems(problems: &[FieldError]) -> String {
    let mut texts: Vec<String> =
        problems.iter().take(MAX_PROBLEMS).map(ToString::to_string).collect();
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join("; ")
}

fn truncate_message(message: &str) -> String {
    message.chars().take(MAX_API_MESSAGE).collect()
}

/// Returns why the object cannot be decoded, if so.
fn unreadable_reason(task: &PrewarmTask) -> Option<&str> {
    task.annotations().get(UNREADABLE_ANNOTATION).map(String::as_str)
}

/// Returns why the task is obsolete, if so.
pub(super) fn obsolete_reason(task: &PrewarmTask) -> Option<&str> {
    task.annotations().get(OBSOLETE_ANNOTATION).map(String::as_str)
}

pub(super) fn target(task: &PrewarmTask) -> TaskRef {
    let meta = task.meta();
    TaskRef {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

fn is_overdue(start: Option<&str>, deadline: Duration, now: Timestamp) -> bool {
    let start = start.and_then(|time| time.parse::<Timestamp>().ok());
    start.is_some_and(|start| now > start && now.duration_since(start).unsigned_abs() >= deadline)
}

/// Returns the capacity that a worker takes in this namespace; none if it is not alive.
pub(super) fn worker_slot<'a>(
    task: &'a str,
    namespace: &'a str,
    worker: &'a WorkerInfo,
    pods: &Pods,
    now: Timestamp,
    alone: SignedDuration,
) -> Option<WorkerSlot<'a>> {
    let holds = cluster_state::occupies_node(worker, pods, now, alone);
    cluster_state::is_active(worker).then_some(WorkerSlot {
        node: &worker.node,
        namespace,
        task,
        holds_node: holds,
    })
}
