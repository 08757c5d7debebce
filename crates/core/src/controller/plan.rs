//! Plan: selects the nodes of a task, and stores them before the first worker.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::{
    effect::{Effect, check_nodes},
    node_check::NodeCandidate,
    settings::ControllerSettings,
    snapshot::{QueueDecision, Snapshot},
    task_object::obsolete_reason,
    task_state::TaskReconciler,
    tracker::NodeTracker,
};
use crate::task::{
    Phase, PrewarmPlanSpec, PrewarmTask,
    plan::{matching_nodes, select_nodes},
    validate::ValidTask,
};

impl TaskReconciler {
    /// Chooses the nodes and stores them as a `PrewarmPlan`, before the first worker.
    pub(super) fn plan(
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
        if let Some((phase, reason, message)) = self.reason_not_to_plan(task) {
            return self.finish(phase, reason, message, task, view.now);
        }
        if let Some((reason, message)) = self.reason_to_wait(task, view) {
            return self.set_phase(Phase::Pending, reason, &message, task, view.now);
        }
        self.checks_nodes = settings.node_checks_enabled;
        if let Some(checks) = self.pending_checks(valid, view, settings) {
            effects.push(checks);
            let message = "node checks are running";
            return self.set_phase(Phase::Snapshotting, "Checking", message, task, view.now);
        }
        let findings = self.findings.clone().unwrap_or_default();
        let mut spec = select_nodes(valid, view.nodes.values(), &findings, settings.breaker);
        self.limited.extend(limit_nodes(&mut spec, settings.limits.caps.nodes as usize));
        if spec.nodes.is_empty() {
            return self.finish_without_nodes(spec, task, view.now);
        }
        let message = "the PrewarmPlan is being stored";
        self.set_phase(Phase::Snapshotting, "Snapshotting", message, task, view.now);
        effects.push(Effect::CreatePlan(Arc::new(spec)));
    }

    /// Returns phase, reason and message of a task that ends without a plan.
    fn reason_not_to_plan<'a>(
        &self,
        task: &'a PrewarmTask,
    ) -> Option<(Phase, &'static str, &'a str)> {
        if !self.status.node_states.is_empty() {
            let message = "the task's PrewarmPlan was deleted, so its completed nodes are unknown; create a new task";
            return Some((Phase::Failed, "PlanLost", message));
        }
        obsolete_reason(task).map(|why| (Phase::Cancelled, "Obsolete", why))
    }

    /// Returns reason and message of a task that may not start yet.
    fn reason_to_wait(
        &self,
        task: &PrewarmTask,
        view: &Snapshot<'_>,
    ) -> Option<(&'static str, String)> {
        if self.has_started() {
            return None;
        }
        match view.queue_decision {
            _ if task.spec.suspend => Some(("Suspended", "suspended by spec.suspend".to_owned())),
            QueueDecision::Queued(held) => {
                Some(("Queued", held.message(&self.target.namespace).to_string()))
            }
            QueueDecision::Admitted => None,
        }
    }

    /// Returns the node checks that the selection needs and that have not run.
    fn pending_checks(
        &self,
        valid: &ValidTask,
        view: &Snapshot<'_>,
        settings: &ControllerSettings,
    ) -> Option<Effect> {
        if self.findings.is_some() {
            return None;
        }
        let candidates: Vec<NodeCandidate> = matching_nodes(valid, view.nodes.values())
            .filter(|(_, obstacle)| obstacle.is_none())
            .map(|(node, _)| NodeCandidate::from(node))
            .collect();
        let choose_for = (valid.nodes.of_total(candidates.len()) < candidates.len())
            .then(|| self.target.namespace.clone());
        (settings.node_checks_enabled || choose_for.is_some())
            .then(|| check_nodes(&valid.images, candidates, choose_for))
    }

    /// Ends a task for which no node was selected.
    fn finish_without_nodes(&mut self, spec: PrewarmPlanSpec, task: &PrewarmTask, now: Timestamp) {
        let message = if spec.ignored_count == 0 {
            "no node matches nodeSelector and nodeAffinity".to_owned()
        } else {
            format!(
                "all {} matching nodes are ineligible; see status.ignoredNodes",
                spec.ignored_count
            )
        };
        self.status.ignored_nodes = spec.ignored;
        self.status.ignored_node_count = spec.ignored_count;
        self.finish(Phase::Failed, "NoEligibleNodes", &message, task, now);
    }
}

/// Limits the number of nodes to the operator's limit, where 0 means none. Returns a message if
/// nodes were left out.
fn limit_nodes(spec: &mut PrewarmPlanSpec, most: usize) -> Option<String> {
    let selected = spec.nodes.len();
    if most == 0 || selected <= most {
        return None;
    }
    spec.nodes.truncate(most);
    Some(format!("{selected} nodes are limited to {most} (--max-nodes-per-task)"))
}
