//! Plan: selects the nodes of a task, and stores them before the first worker.

use std::sync::Arc;

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
    Phase, PrewarmTask,
    plan::{matching_nodes, select_nodes},
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
}
