//! Reconciler of one task: computes from a snapshot of the cluster and the task's state the effects
//! to apply and the status to write. Sends no requests and reads no clock.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::{
    capacity::CapacityLimit,
    context::ReconcileContext,
    effect::Effect,
    gc,
    plan_reconciler::{BatchPosition, PlanReconciler},
    snapshot::Snapshot,
    status::{estimate_completion, record_batch_ends},
    task_object::obsolete_reason,
    task_state::{AbortReason, TaskReconciler},
};
use crate::{
    task::{FieldError, Phase, PrewarmTask, caps},
    timestamp,
};

/// Maximum number of problems of a spec that a status lists. Each has up to 700 characters.
const MAX_PROBLEMS: usize = 10;

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

/// Result of a pass over the nodes of a plan.
struct NodePass {
    place: BatchPosition,
    /// True when workers are left that must be deleted.
    workers_left: bool,
    /// Limit of the cluster or the namespace that prevented a further worker.
    limit_reached: Option<CapacityLimit>,
    /// Number of nodes that had ended before the pass.
    processed_before: usize,
}

impl TaskReconciler {
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
        self.observe_limits(task, shared);
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
        // A stored plan that has just been read is worked on at once.
        if !task.spec.cancel
            && let Some(pass) = self.process_nodes(task, view, shared, &mut effects)
        {
            self.record_pass(&pass, view.now);
            let NodePass { place, workers_left, limit_reached, .. } = pass;
            let max_workers = shared.settings.max_workers;
            self.update_phase(task, place, workers_left, limit_reached, max_workers, view.now);
        }
        self.write_status(view.now, &mut effects);
        effects.retain(|effect| self.inflight.insert(effect.key()));
        effects
    }

    /// Records which limits of the operator and of registries apply to the task now.
    fn observe_limits(&mut self, task: &PrewarmTask, shared: &ReconcileContext) {
        self.limited_priority =
            caps::effective_priority(&shared.settings.limits.caps, task.spec.priority).1;
        let reduced = |host: &&String| shared.budgets.is_reduced(host);
        self.limited_registry = self.hosts.iter().find(reduced).cloned();
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

    /// Ends a task regardless of its nodes. The status keeps only its short fields.
    fn abort(
        &mut self,
        stopped: &AbortReason,
        task: &PrewarmTask,
        view: &Snapshot<'_>,
        effects: &mut Vec<Effect>,
    ) {
        effects.extend(delete_all_workers(view));
        self.tracker = None;
        self.status.failed_nodes = Vec::new();
        self.status.ignored_nodes = Vec::new();
        self.status.images = Vec::new();
        self.status.batch_ends = Vec::new();
        self.status.node_states = String::new();
        self.finish(Phase::Failed, stopped.reason, &stopped.message, task, view.now);
    }

    fn cancel(&mut self, task: &PrewarmTask, view: &Snapshot<'_>, effects: &mut Vec<Effect>) {
        effects.extend(delete_all_workers(view));
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

    /// Observes, reaps and dispatches the workers of the plan's nodes. `None` while there is no
    /// plan.
    fn process_nodes(
        &mut self,
        task: &PrewarmTask,
        view: &Snapshot<'_>,
        shared: &mut ReconcileContext,
        effects: &mut Vec<Effect>,
    ) -> Option<NodePass> {
        let (Some(planned), Ok(valid)) = (&mut self.tracker, &self.valid) else { return None };
        if self.status.start_time.is_none() {
            self.status.start_time = Some(timestamp::format(view.now));
        }
        let overdue = is_overdue(self.status.start_time.as_deref(), self.deadline.0, view.now);
        self.expired |= overdue && !planned.results.all_ended();
        let processed_before = planned.results.processed_nodes();
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
        self.urgent |= work.is_urgent();
        Some(NodePass {
            place: work.position(),
            workers_left: work.has_workers_left(),
            limit_reached: work.limit_reached(),
            processed_before,
        })
    }

    /// Records the results of a pass over the nodes in the status.
    fn record_pass(&mut self, pass: &NodePass, now: Timestamp) {
        let Some(planned) = &self.tracker else { return };
        self.status.current_batch_index = pass.place.current;
        self.status.total_batches = pass.place.total;
        self.status.ignored_nodes.clone_from(&planned.spec.ignored);
        self.status.ignored_node_count = planned.spec.ignored_count;
        planned.results.write_to(&mut self.status);
        let ended = if planned.results.all_ended() { pass.place.total } else { pass.place.current };
        record_batch_ends(&mut self.status, ended, now);
        if planned.results.processed_nodes() != pass.processed_before {
            self.last_progress = Some(now);
            self.status.estimated_completion = estimate_completion(&self.status, now);
        }
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

/// Returns the deletion of all workers of the task in a snapshot.
fn delete_all_workers(view: &Snapshot<'_>) -> Vec<Effect> {
    gc::delete_workers(view.workers, view.pods, |namespace| view.has_foreign_objects(namespace))
}

fn is_overdue(start: Option<&str>, deadline: Duration, now: Timestamp) -> bool {
    let start = start.and_then(timestamp::parse);
    start.is_some_and(|start| now > start && now.duration_since(start).unsigned_abs() >= deadline)
}
