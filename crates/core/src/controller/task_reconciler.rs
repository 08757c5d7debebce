//! Reconciler of one task: computes from a snapshot of the cluster and the task's state the effects
//! to apply and the status to write. Sends no requests and reads no clock.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    duration,
    task::{
        FieldError, MAX_BATCH_ENDS, OBSOLETE_ANNOTATION, Phase, PrewarmTask, PrewarmTaskStatus,
        caps::{self, Caps},
        plan::{NodeCheckFindings, matching_nodes, select_nodes},
        validate::{ValidTask, validate},
    },
    worker::{FailureReason, WorkerInfo},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use super::{
    ControllerSettings, ReconcileContext,
    capacity::{CapacityLimit, WorkerSlot},
    cluster_state::{self, Pods, Workers},
    conditions::{self, ConditionInputs, format_seconds},
    effect::{
        ApplyError, Effect, EffectOutput, PhaseEvent, StatusWrite, TaskRef, WorkerCreation,
        check_nodes,
    },
    gc,
    measurement::Measurement,
    node_check::NodeCandidate,
    plan_reconciler::{PlanReconciler, finish_attempt},
    results::NodeOutcome,
    snapshot::{QueueDecision, Snapshot},
    tracker::{NodeTracker, add_millis, may_use_own_namespace},
};

/// Minimum interval between two writes of a status, in milliseconds. Holds also for results that a
/// deletion waits for.
const WRITE_INTERVAL_MS: i64 = 1000;
/// Interval between writes of progress that nothing waits for, in milliseconds.
const PROGRESS_INTERVAL_MS: i64 = 5000;
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
/// Maximum length of a registry's message in a condition, in characters.
const MAX_REGISTRY_MESSAGE: usize = 200;

/// State of one open task between reconciles.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each flag is independent, and all combinations occur"
)]
pub(super) struct TaskReconciler {
    target: TaskRef,
    valid: Result<ValidTask, Vec<FieldError>>,
    /// Hosts of the registries of the task's images, sorted and distinct.
    hosts: Vec<String>,
    status: PrewarmTaskStatus,
    resource_version: Option<String>,
    /// Status as last stored in the API server.
    written_status: PrewarmTaskStatus,
    written_at: Option<Timestamp>,
    /// True when a result or an event waits for the next write of the status.
    urgent: bool,
    phase_events: Vec<PhaseEvent>,
    findings: Option<NodeCheckFindings>,
    /// True when nodes are checked beyond their own conditions.
    checks_nodes: bool,
    tracker: Option<NodeTracker>,
    inflight: HashSet<String>,
    paused_until: Option<Timestamp>,
    /// Message of the API server's last rejection, until a creation succeeds.
    last_rejection: Option<String>,
    /// Registry of the task whose concurrency is reduced, if any.
    limited_registry: Option<String>,
    /// Reason to end the task regardless of its nodes.
    abort_reason: Option<AbortReason>,
    /// True when the API server has rejected even the shortest status. Nothing is tried until the
    /// object changes.
    status_unwritable: bool,
    /// True when the object cannot be decoded, so that its status is unknown.
    unreadable: bool,
    /// Fields of the spec that exceed the operator's limits, as text.
    limited: Vec<String>,
    /// The same for the priority, which may change.
    limited_priority: Option<String>,
    /// Deadline of the task, and the setting that it comes from when the spec has none.
    deadline: (Duration, Option<&'static str>),
    /// True when the deadline has ended nodes of the task.
    expired: bool,
    /// Time when a worker of the task last pulled, a node of it ended, or its phase changed.
    last_progress: Option<Timestamp>,
}

/// Failure of the task that does not depend on its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AbortReason {
    reason: &'static str,
    message: String,
}

impl AbortReason {
    fn internal_error() -> Self {
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

    /// Computes the effects to apply now.
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
        if self.paused_until.is_some_and(|until| view.now < until) {
            return Vec::new();
        }
        self.paused_until = None;
        self.limited_priority =
            caps::effective_priority(&shared.settings.limits.caps, task.spec.priority).1;
        let reduced = |host: &&String| shared.budgets.is_reduced(host);
        self.limited_registry = self.hosts.iter().find(reduced).cloned();
        let mut effects = Vec::new();
        if self.status_unwritable {
            return effects;
        }
        if let Some(stopped) = self.abort_reason.clone() {
            self.abort(&stopped, task, view, &mut effects);
        } else if let Err(problems) = &self.valid {
            let message = join_problems(problems);
            self.finish(Phase::Failed, "InvalidSpec", &message, task, view.now);
        } else if task.spec.cancel {
            self.cancel(task, view, &mut effects);
        } else if self.tracker.is_none() {
            self.create_plan(task, view, &shared.settings, &mut effects);
        }
        if self.tracker.is_some() && !task.spec.cancel {
            self.process_nodes(task, view, shared, &mut effects);
        }
        self.write_status(view.now, &mut effects);
        effects.retain(|effect| self.inflight.insert(effect.key()));
        effects
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

    /// Chooses the nodes and stores them as a `PrewarmPlan`, before the first worker.
    fn create_plan(
        &mut self,
        task: &PrewarmTask,
        view: &Snapshot<'_>,
        settings: &ControllerSettings,
        effects: &mut Vec<Effect>,
    ) {
        let Ok(valid) = &self.valid else { return };
        if let Some(spec) = view.plan {
            self.tracker = Some(NodeTracker::new(
                valid,
                Arc::clone(spec),
                &self.status,
                settings.limits.registry_failure_threshold,
                view.now,
            ));
            return;
        }
        if !self.status.node_states.is_empty() {
            let message = "the task's PrewarmPlan was deleted, so its completed nodes are unknown; create a new task";
            self.finish(Phase::Failed, "PlanLost", message, task, view.now);
            return;
        }
        if let Some(why) = obsolete_reason(task) {
            return self.finish(Phase::Cancelled, "Obsolete", why, task, view.now);
        }
        let held = match view.queue_decision {
            _ if task.spec.suspend => Some(("Suspended", "suspended by spec.suspend".to_owned())),
            QueueDecision::Queued(held) => {
                Some(("Queued", held.message(&self.target.namespace).to_string()))
            }
            QueueDecision::Admitted => None,
        };
        if let Some((reason, message)) = held.filter(|_| !self.has_started()) {
            self.set_phase(Phase::Pending, reason, &message, task, view.now);
            return;
        }
        self.checks_nodes = settings.node_checks_enabled;
        if self.findings.is_none() {
            let able = matching_nodes(valid, view.nodes.values())
                .filter(|(_, obstacle)| obstacle.is_none());
            let able: Vec<NodeCandidate> =
                able.map(|(node, _)| NodeCandidate::from(node)).collect();
            let choose_for = (valid.nodes.of_total(able.len()) < able.len())
                .then(|| self.target.namespace.clone());
            if settings.node_checks_enabled || choose_for.is_some() {
                effects.push(check_nodes(&valid.images, able, choose_for));
                self.set_phase(
                    Phase::Snapshotting,
                    "Checking",
                    "node checks are running",
                    task,
                    view.now,
                );
                return;
            }
        }
        let findings = self.findings.clone().unwrap_or_default();
        let mut spec = select_nodes(valid, view.nodes.values(), &findings, settings.breaker);
        let most = settings.limits.caps.nodes as usize;
        if most > 0 && spec.nodes.len() > most {
            self.limited.push(format!(
                "{} nodes are limited to {most} (--max-nodes-per-task)",
                spec.nodes.len()
            ));
            spec.nodes.truncate(most);
        }
        let spec = Arc::new(spec);
        if spec.nodes.is_empty() {
            self.status.ignored_nodes.clone_from(&spec.ignored);
            self.status.ignored_node_count = spec.ignored_count;
            let message = if spec.ignored_count == 0 {
                "no node matches nodeSelector and nodeAffinity".to_owned()
            } else {
                format!(
                    "all {} matching nodes are ineligible; see status.ignoredNodes",
                    spec.ignored_count
                )
            };
            self.finish(Phase::Failed, "NoEligibleNodes", &message, task, view.now);
            return;
        }
        self.set_phase(
            Phase::Snapshotting,
            "Snapshotting",
            "the PrewarmPlan is being stored",
            task,
            view.now,
        );
        effects.push(Effect::CreatePlan(spec));
    }

    /// Observes, reaps and dispatches the workers of the plan's nodes, and ends the task when all
    /// have ended.
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
        let all = planned.results.all_ended();
        let recorded = self.status.node_states == self.written_status.node_states;
        if all && recorded && !left {
            self.complete(task, view.now);
        } else if all {
            self.set_phase(
                Phase::Finalizing,
                "Finalizing",
                "all nodes have ended; workers are being deleted",
                task,
                view.now,
            );
        } else if task.spec.suspend {
            self.set_phase(
                Phase::Running,
                "Suspended",
                "suspended by spec.suspend; running workers continue",
                task,
                view.now,
            );
        } else {
            let trouble = self
                .last_rejection
                .as_ref()
                .map(|said| format!("; the API server rejects requests: {said}"))
                .unwrap_or_default();
            let most = shared.settings.max_workers;
            let full = match full {
                Some(CapacityLimit::Cluster) => {
                    format!("; {most} of {most} workers are running (--max-workers)")
                }
                Some(CapacityLimit::Namespace(most)) => {
                    let namespace = &self.target.namespace;
                    format!(
                        "; namespace {namespace} has {most} of {most} workers (--max-workers-per-namespace)"
                    )
                }
                Some(CapacityLimit::Registry | CapacityLimit::Node | CapacityLimit::SameTask)
                | None => String::new(),
            };
            let message = format!("{place}{trouble}{full}");
            self.set_phase(Phase::Running, "Running", &message, task, view.now);
        }
    }

    /// Ends the task once every node has ended and no worker is left to delete.
    fn complete(&mut self, task: &PrewarmTask, now: Timestamp) {
        let (Some(planned), Ok(valid)) = (&self.tracker, &self.valid) else { return };
        let mut summary = planned.results.summary();
        if self.expired {
            summary.push_str("; ended by its ");
            summary.push_str(&self.deadline_text());
        }
        let (threshold, total) = (valid.success_threshold, planned.spec.nodes.len() as u64);
        if u64::from(planned.results.warm_nodes()).saturating_mul(100)
            >= u64::from(threshold).saturating_mul(total)
        {
            self.finish(Phase::Completed, "Completed", &summary, task, now);
        } else if let Some(why) = obsolete_reason(task) {
            self.finish(Phase::Cancelled, "Obsolete", &format!("{why}; {summary}"), task, now);
        } else {
            let message = format!("{summary}; spec.successThreshold is {threshold}%");
            self.finish(Phase::Failed, "SuccessThresholdNotReached", &message, task, now);
        }
    }

    fn deadline_text(&self) -> String {
        let (deadline, setting) = self.deadline;
        let setting = setting.map(|setting| format!(" ({setting})")).unwrap_or_default();
        format!("deadline of {}{setting}", duration::format(deadline))
    }

    fn finish(
        &mut self,
        phase: Phase,
        reason: &str,
        message: &str,
        task: &PrewarmTask,
        now: Timestamp,
    ) {
        if self.status.completion_time.is_none() {
            self.status.completion_time = Some(format_seconds(now));
        }
        self.status.estimated_completion = None;
        self.set_phase(phase, reason, message, task, now);
    }

    fn set_phase(
        &mut self,
        phase: Phase,
        reason: &str,
        message: &str,
        task: &PrewarmTask,
        now: Timestamp,
    ) {
        let generation = task.metadata.generation;
        if self.status.phase != phase {
            self.last_progress = Some(now);
            self.phase_events.push(PhaseEvent { phase, message: message.to_owned() });
            self.urgent = true;
        }
        let plan = self.tracker.as_ref().map(|planned| &planned.spec);
        let tripped =
            plan.and_then(|plan| plan.throttled.clone()).map(|why| ("CircuitBreaker", why));
        let slowed = || {
            let host = self.limited_registry.as_ref().filter(|_| !phase.is_terminal())?;
            Some((
                "RegistryLimit",
                format!("registry {host} limits requests: fewer nodes pull from it at once"),
            ))
        };
        let silent = || {
            let registries = self
                .tracker
                .as_ref()
                .filter(|_| !phase.is_terminal())
                .map(|planned| &planned.registries)?;
            let (host, nodes, said) = registries.unreachable().next()?;
            let said: String = said.chars().take(MAX_REGISTRY_MESSAGE).collect();
            let message = format!(
                "registry {host} does not answer on {nodes} nodes; pulls from it are limited: {said}"
            );
            Some(("RegistryUnreachable", message))
        };
        let throttled = tripped.or_else(silent).or_else(slowed);
        let mut limited = self.limited.clone();
        limited.extend(self.limited_priority.clone());
        let away = self.tracker.as_ref().and_then(|planned| planned.own_namespace_reason.clone());
        let checked = plan.filter(|plan| {
            self.checks_nodes && self.findings.is_some() || !plan.unchecked.is_empty()
        });
        let unchecked = checked.map(|plan| plan.unchecked.join("; "));
        self.status.phase = phase;
        self.status.observed_generation = generation;
        let limited = limited.join("; ");
        let word = ConditionInputs {
            phase,
            reason,
            message,
            throttled,
            limited_fields: limited,
            workers_elsewhere: away,
            node_check_errors: unchecked,
            generation,
        };
        self.status.conditions =
            conditions::compute_conditions(&self.written_status.conditions, &word, now);
    }

    /// Writes the status if it has changed and the last write is long enough ago.
    fn write_status(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let reasons = |status: &PrewarmTaskStatus| -> Vec<(String, String)> {
            status.conditions.iter().map(|c| (c.type_.clone(), c.reason.clone())).collect()
        };
        let urgent = self.urgent || reasons(&self.status) != reasons(&self.written_status);
        let interval = if urgent { WRITE_INTERVAL_MS } else { PROGRESS_INTERVAL_MS };
        let too_soon =
            self.written_at.and_then(|at| add_millis(at, interval)).is_some_and(|next| now < next);
        let writing = self.inflight.contains("status");
        if self.status == self.written_status || too_soon || writing {
            return;
        }
        (self.written_at, self.urgent) = (Some(now), false);
        effects.push(Effect::WriteStatus(Box::new(StatusWrite {
            status: self.status.clone(),
            version: self.resource_version.clone(),
            events: std::mem::take(&mut self.phase_events),
        })));
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
fn obsolete_reason(task: &PrewarmTask) -> Option<&str> {
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

fn task_ended(target: &TaskRef, status: &PrewarmTaskStatus, now: Timestamp) -> Measurement {
    let start = status.start_time.as_deref().and_then(|time| time.parse().ok());
    Measurement::TaskEnded { task: target.clone(), phase: status.phase, start, end: now }
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

/// Records the end of so many batches in `batchEnds`, in seconds since the start. Batches already
/// recorded keep their times.
fn record_batch_ends(status: &mut PrewarmTaskStatus, ended: u32, now: Timestamp) {
    let start = status.start_time.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
    let since = start.map_or(0, |start| now.duration_since(start).as_secs());
    let ended = usize::try_from(ended).unwrap_or(MAX_BATCH_ENDS).min(MAX_BATCH_ENDS);
    if status.batch_ends.len() < ended {
        status.batch_ends.resize(ended, u32::try_from(since).unwrap_or_default());
    }
}

/// Estimates the completion time from the pace so far; none before the first node has ended.
fn estimate_completion(status: &PrewarmTaskStatus, now: Timestamp) -> Option<String> {
    let start: Timestamp = status.start_time.as_deref()?.parse().ok()?;
    let ended = status
        .succeeded_nodes
        .saturating_add(status.failed_node_count)
        .saturating_add(status.skipped_nodes);
    let left = status.total_nodes.checked_sub(ended)?;
    let per_node = now.duration_since(start).as_millis().checked_div(i128::from(ended))?;
    let left = i64::try_from(per_node.saturating_mul(i128::from(left))).ok()?;
    add_millis(now, left).map(format_seconds)
}
