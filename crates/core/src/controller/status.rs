//! Status: phases, conditions, and the writes of the status.

use k8s_openapi::jiff::Timestamp;

use super::{
    capacity::CapacityLimit,
    conditions::{self, ConditionInputs},
    effect::{Effect, PhaseEvent, StatusWrite, TaskRef},
    measurement::Measurement,
    plan_reconciler::BatchPosition,
    task_object::obsolete_reason,
    task_state::TaskReconciler,
    time::add_millis,
};
use crate::{
    duration,
    task::{MAX_BATCH_ENDS, Phase, PrewarmTask, PrewarmTaskStatus},
    timestamp,
};

/// Minimum interval between two writes of a status, in milliseconds. Holds also for results that a
/// deletion waits for.
const WRITE_INTERVAL_MS: i64 = 1000;
/// Interval between writes of progress that nothing waits for, in milliseconds.
const PROGRESS_INTERVAL_MS: i64 = 5000;
/// Maximum length of a registry's message in a condition, in characters.
const MAX_REGISTRY_MESSAGE: usize = 200;

impl TaskReconciler {
    /// Sets the phase after a reconcile of the nodes: the end of the task once every node has ended
    /// and no worker is left to delete.
    pub(super) fn update_phase(
        &mut self,
        task: &PrewarmTask,
        place: BatchPosition,
        left: bool,
        full: Option<CapacityLimit>,
        max_workers: usize,
        now: Timestamp,
    ) {
        let Some(planned) = &self.tracker else { return };
        let all = planned.results.all_ended();
        let recorded = self.status.node_states == self.written_status.node_states;
        if all && recorded && !left {
            self.complete(task, now);
        } else if all {
            self.set_phase(
                Phase::Finalizing,
                "Finalizing",
                "all nodes have ended; workers are being deleted",
                task,
                now,
            );
        } else if task.spec.suspend {
            self.set_phase(
                Phase::Running,
                "Suspended",
                "suspended by spec.suspend; running workers continue",
                task,
                now,
            );
        } else {
            let trouble = self
                .last_rejection
                .as_ref()
                .map(|said| format!("; the API server rejects requests: {said}"))
                .unwrap_or_default();
            let full = full.map(|limit| self.limit_text(limit, max_workers)).unwrap_or_default();
            let message = format!("{place}{trouble}{full}");
            self.set_phase(Phase::Running, "Running", &message, task, now);
        }
    }

    /// Returns the part of the message that names the reached limit of workers; empty for the
    /// limits that end by themselves.
    fn limit_text(&self, limit: CapacityLimit, max_workers: usize) -> String {
        match limit {
            CapacityLimit::Cluster => {
                format!("; {max_workers} of {max_workers} workers are running (--max-workers)")
            }
            CapacityLimit::Namespace(most) => {
                let namespace = &self.target.namespace;
                format!(
                    "; namespace {namespace} has {most} of {most} workers (--max-workers-per-namespace)"
                )
            }
            CapacityLimit::Registry | CapacityLimit::Node | CapacityLimit::SameTask => {
                String::new()
            }
        }
    }

    /// Ends the task once every node has ended and no worker is left to delete.
    pub(super) fn complete(&mut self, task: &PrewarmTask, now: Timestamp) {
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

    pub(super) fn deadline_text(&self) -> String {
        let (deadline, setting) = self.deadline;
        let setting = setting.map(|setting| format!(" ({setting})")).unwrap_or_default();
        format!("deadline of {}{setting}", duration::format(deadline))
    }

    pub(super) fn finish(
        &mut self,
        phase: Phase,
        reason: &str,
        message: &str,
        task: &PrewarmTask,
        now: Timestamp,
    ) {
        if self.status.completion_time.is_none() {
            self.status.completion_time = Some(timestamp::format(now));
        }
        self.status.estimated_completion = None;
        self.set_phase(phase, reason, message, task, now);
    }

    pub(super) fn set_phase(
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
        self.status.phase = phase;
        self.status.observed_generation = generation;
        let limited: Vec<&str> =
            self.limited.iter().chain(&self.limited_priority).map(String::as_str).collect();
        let inputs = ConditionInputs {
            phase,
            reason,
            message,
            throttled: self.throttled(phase),
            limited_fields: limited.join("; "),
            workers_in_fallback_namespace: self
                .tracker
                .as_ref()
                .and_then(|planned| planned.own_namespace_reason.clone()),
            node_check_errors: self.node_check_errors(),
            generation,
        };
        self.status.conditions =
            conditions::compute_conditions(&self.written_status.conditions, &inputs, now);
    }

    /// Returns reason and message of the condition `Throttled`, if fewer nodes are worked on at the
    /// same time than requested.
    fn throttled(&self, phase: Phase) -> Option<(&'static str, String)> {
        let planned = self.tracker.as_ref();
        if let Some(why) = planned.and_then(|planned| planned.spec.throttled.clone()) {
            return Some(("CircuitBreaker", why));
        }
        if phase.is_terminal() {
            return None;
        }
        let silent = planned.and_then(|planned| planned.registries.unreachable().next());
        if let Some((host, nodes, said)) = silent {
            let said: String = said.chars().take(MAX_REGISTRY_MESSAGE).collect();
            let message = format!(
                "registry {host} does not answer on {nodes} nodes; pulls from it are limited: {said}"
            );
            return Some(("RegistryUnreachable", message));
        }
        let host = self.limited_registry.as_ref()?;
        let message = format!("registry {host} limits requests: fewer nodes pull from it at once");
        Some(("RegistryLimit", message))
    }

    /// Returns the errors of the node checks, if nodes were checked.
    fn node_check_errors(&self) -> Option<String> {
        let unchecked = &self.tracker.as_ref()?.spec.unchecked;
        let checked = self.checks_nodes && self.findings.is_some();
        (checked || !unchecked.is_empty()).then(|| unchecked.join("; "))
    }

    /// Writes the status if it has changed and the last write is long enough ago.
    pub(super) fn write_status(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
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
        let is_end = self.status.phase.is_terminal();
        self.pending_end = is_end.then(|| task_ended(&self.target, &self.status, now));
        effects.push(Effect::WriteStatus(Box::new(StatusWrite {
            status: self.status.clone(),
            version: self.resource_version.clone(),
            events: std::mem::take(&mut self.phase_events),
        })));
    }
}

/// Records the end of so many batches in `batchEnds`, in seconds since the start. Batches already
/// recorded keep their times.
pub(super) fn record_batch_ends(status: &mut PrewarmTaskStatus, ended: u32, now: Timestamp) {
    let start = status.start_time.as_deref().and_then(timestamp::parse);
    let since = start.map_or(0, |start| now.duration_since(start).as_secs());
    let ended = usize::try_from(ended).unwrap_or(MAX_BATCH_ENDS).min(MAX_BATCH_ENDS);
    if status.batch_ends.len() < ended {
        status.batch_ends.resize(ended, u32::try_from(since).unwrap_or_default());
    }
}

/// Estimates the completion time from the pace so far; none before the first node has ended.
pub(super) fn estimate_completion(status: &PrewarmTaskStatus, now: Timestamp) -> Option<String> {
    let start = timestamp::parse(status.start_time.as_deref()?)?;
    let ended = status
        .succeeded_nodes
        .saturating_add(status.failed_node_count)
        .saturating_add(status.skipped_nodes);
    let left = status.total_nodes.checked_sub(ended)?;
    let per_node = now.duration_since(start).as_millis().checked_div(i128::from(ended))?;
    let left = i64::try_from(per_node.saturating_mul(i128::from(left))).ok()?;
    add_millis(now, left).map(timestamp::format)
}

fn task_ended(target: &TaskRef, status: &PrewarmTaskStatus, now: Timestamp) -> Measurement {
    let start = status.start_time.as_deref().and_then(timestamp::parse);
    Measurement::TaskEnded { task: target.clone(), phase: status.phase, start, end: now }
}
