//! Results of effects: what the API server's answers change in the state of a task.

use k8s_openapi::jiff::Timestamp;

use super::{
    context::ReconcileContext,
    effect::{ApplyError, Effect, EffectOutput, WorkerCreation},
    measurement::Measurement,
    node_attempt::AttemptEnd,
    results::NodeOutcome,
    task_state::{AbortReason, TaskReconciler},
    time::add_millis,
    tracker::may_use_own_namespace,
};
use crate::{task::plan::NodeCheckFindings, worker::FailureReason};

/// Time after a rejection by the API server during which no effect of the task is sent, in
/// milliseconds.
const PAUSE_MS: i64 = 2000;

/// Maximum length of a message of the API server in a status, in characters.
const MAX_API_MESSAGE: usize = 500;

impl TaskReconciler {
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
                shared.measurements.extend(self.pending_end.take());
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
            (Effect::CheckNodes(_), result) => self.node_checks_finished(result),
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
            AttemptEnd { planned, valid, shared, now }.record(index, end, true);
        }
    }

    fn node_checks_finished(&mut self, result: Result<EffectOutput, ApplyError>) {
        let findings = result.ok().and_then(|output| output.check_results);
        self.findings = Some(findings.map_or_else(
            || NodeCheckFindings {
                unchecked: vec!["node checks failed".into()],
                ..NodeCheckFindings::default()
            },
            |findings| *findings,
        ));
    }

    fn probe_finished(&mut self, result: Result<EffectOutput, ApplyError>, now: Timestamp) {
        if let (Some(planned), Err(ApplyError::Rejected(reason, message))) =
            (&mut self.tracker, result)
        {
            planned.set_rejection(reason, message, now);
        }
    }
}

fn truncate_message(message: &str) -> String {
    message.chars().take(MAX_API_MESSAGE).collect()
}
