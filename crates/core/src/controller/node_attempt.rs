//! End of an attempt on a node: its result, the retry, and the images that are known to be warm.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::{
    context::ReconcileContext, measurement::Measurement, plan_reconciler::PlanReconciler,
    results::NodeOutcome, time::add_duration, tracker::NodeTracker, warm_images::CredentialScope,
};
use crate::{
    node::NodeInfo,
    task::{batches::NodeState, validate::ValidTask},
    worker::{FailureReason, ImageOutcome},
};

impl PlanReconciler<'_> {
    pub(super) fn finish_node(&mut self, index: usize, end: NodeOutcome, again: bool) {
        let since = self
            .workers_by_node
            .get(&index)
            .and_then(|workers| workers.iter().filter_map(|worker| worker.first_seen).min());
        if let NodeOutcome::Images(outcomes) | NodeOutcome::Deferred(outcomes) = &end {
            self.cache_warm_images(index, outcomes);
        }
        let mut attempt = AttemptEnd {
            planned: self.tracker,
            valid: self.valid,
            shared: self.shared,
            now: self.snapshot.now,
        };
        let state = attempt.record(index, end, again);
        if let Some(since) = since {
            self.shared.measurements.push(Measurement::PullEnded {
                task: self.target.clone(),
                node: self.tracker.node(index).to_owned(),
                state,
                start: since,
                end: self.snapshot.now,
            });
        }
        self.workers_by_node.remove(&index);
        // Workers of failed nodes are deleted only after the failure is in the stored status, and
        // other nodes wait for that.
        self.urgent |= !matches!(state, NodeState::Succeeded | NodeState::AlreadyWarm);
    }

    /// Records in the warm image cache which images are on a node now, if it is still the machine
    /// on which the workers were observed, and which images the namespace has access to.
    fn cache_warm_images(&mut self, index: usize, outcomes: &[ImageOutcome]) {
        let (now, scope) =
            (self.snapshot.now, CredentialScope::new(&self.target.namespace, self.valid));
        let node =
            self.tracker.spec.nodes.get(index).and_then(|node| self.snapshot.nodes.get(node));
        let same = |node: &&NodeInfo| {
            node.ready && self.tracker.identity(index).is_none_or(|met| met == node.identity)
        };
        let node = node.filter(same).map(|node| node.identity);
        let workers = self.workers_by_node.get(&index).map_or(&[][..], Vec::as_slice);
        for (at, (image, outcome)) in (0u16..).zip(self.valid.images.iter().zip(outcomes)) {
            if !matches!(outcome, ImageOutcome::Warm(_)) {
                continue;
            }
            if let Some(node) = node {
                self.shared.warm_images.insert(scope, node, image, now);
            }
            if let Some(worker) = workers.iter().find(|worker| worker.images.contains(&at)) {
                // Workers in our own namespace have no credentials.
                let of = if worker.is_outside_task_namespace() {
                    CredentialScope::PUBLIC
                } else {
                    scope
                };
                self.shared.warm_images.record_access(of, image, now);
            }
        }
    }
}

/// End of an attempt on a node. The two callers borrow different parts of a task.
pub(super) struct AttemptEnd<'a> {
    pub(super) planned: &'a mut NodeTracker,
    pub(super) valid: &'a ValidTask,
    pub(super) shared: &'a mut ReconcileContext,
    pub(super) now: Timestamp,
}

impl AttemptEnd<'_> {
    /// Records the end, and schedules a retry where `again` and the retry rule allow one. Returns
    /// the resulting state of the node.
    pub(super) fn record(&mut self, index: usize, end: NodeOutcome, again: bool) -> NodeState {
        let spec = Arc::clone(&self.planned.spec);
        let node = spec.nodes.get(index).map_or("", String::as_str);
        let attempt = self.planned.results.state(index).attempt();
        let behind = matches!(end, NodeOutcome::Deferred(_));
        let again = again && (behind || attempt < self.valid.retry.limit);
        if let NodeOutcome::Images(outcomes) = &end {
            self.abandon_images(index, attempt, outcomes);
        }
        let all = self.valid.images.len();
        let warm = warm_images(&end);
        self.planned.finish_attempt(index);
        let reasons = failure_reasons(&end, all);
        let state = self.planned.results.finish_attempt(index, node, end, again, self.now);
        if let NodeState::Retrying(tries) = state {
            let delay = || add_duration(self.now, self.valid.retry.delay(tries));
            let due = if behind { self.now } else { delay() };
            self.planned.retry_at.insert(index, due);
        }
        let images = match state {
            NodeState::Skipped | NodeState::Retrying(_) => Vec::new(),
            _ => self.image_results(state, &warm),
        };
        let failed = images.iter().any(|(_, warm)| !warm);
        let reasons = if failed { reasons } else { Vec::new() };
        let measurement = Measurement::AttemptEnded { state, images, reasons };
        self.shared.measurements.push(measurement);
        state
    }

    /// Returns the name of each image, and whether it is on the node. `warm` are the results of the
    /// workers, if there were any.
    fn image_results(&self, state: NodeState, warm: &[bool]) -> Vec<(String, bool)> {
        let all = matches!(state, NodeState::Succeeded | NodeState::AlreadyWarm);
        let images = self.valid.images.iter().enumerate();
        let is_warm = |index: usize| all || warm.get(index).copied().unwrap_or(false);
        images.map(|(index, image)| (image.name_as_written().to_owned(), is_warm(index))).collect()
    }

    /// Abandons the images of registries that have not answered in any try.
    fn abandon_images(&mut self, index: usize, attempt: u8, outcomes: &[ImageOutcome]) {
        let tries = u32::from(self.valid.retry.limit).saturating_add(1);
        for (image, reason, message) in
            self.planned.registries.finish_attempt(index, attempt, outcomes, tries)
        {
            self.planned.results.abandon_image(image, reason, &message);
        }
    }
}

/// Returns for each image of the task whether it was found or made warm; empty without workers.
fn warm_images(end: &NodeOutcome) -> Vec<bool> {
    match end {
        NodeOutcome::Images(outcomes) | NodeOutcome::Deferred(outcomes) => {
            outcomes.iter().map(|outcome| matches!(outcome, ImageOutcome::Warm(_))).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns the failure reasons of a node's images, with the number of images of each.
fn failure_reasons(end: &NodeOutcome, all: usize) -> Vec<(FailureReason, u64)> {
    match end {
        NodeOutcome::Images(outcomes) | NodeOutcome::Deferred(outcomes) => outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                ImageOutcome::Failed(reason, _) | ImageOutcome::Pending(Some((reason, _))) => {
                    Some((*reason, 1))
                }
                ImageOutcome::Pending(None) => Some((FailureReason::Unknown, 1)),
                ImageOutcome::Warm(_) => None,
            })
            .collect(),
        NodeOutcome::NodeFailed(reason, _) => vec![(*reason, all as u64)],
        NodeOutcome::AlreadyWarm | NodeOutcome::Skipped(..) | NodeOutcome::Abandoned => Vec::new(),
    }
}
