//! Evaluation of one node from its workers and their pods: what has ended, and what is to be done
//! next. Input: the node tracker, a snapshot and the warm image cache. Pure: no client, no clock,
//! no I/O.

use std::ops::{ControlFlow, Range};

use crate::{
    node::NodeInfo,
    task::{PullPolicy, validate::ValidTask},
    worker::{FailureReason, ImageOutcome, PodOutcome, WorkerInfo, pod_outcome},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    registry_breaker::is_unreachable,
    results::{NodeOutcome, PartOutcomes},
    settings::ControllerSettings,
    snapshot::Snapshot,
    time::add_millis,
    tracker::{NodeTracker, WorkerRejection},
    warm_images::{CredentialScope, WarmImageCache},
    worker_cache::may_pull,
};

/// Age after which a Job without a pod is probed, in milliseconds. The Job controller creates pods
/// within a second, unless it has hundreds of Jobs queued or something rejects them.
const PODLESS_MS: i64 = 3_000;
/// Time after which a node that is not ready counts as lost. A restart of the kubelet takes less.
const UNREADY_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// Status of a node's workers in its current attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WorkerStatus {
    /// Worker in progress.
    InProgress,
    /// Job without a pod, for an unknown reason.
    NoPod,
    /// Job without a pod because the API server rejects its pods.
    Rejected(WorkerRejection),
    /// Worker due, with its part and the indexes of its images.
    StartWorker(u16, Vec<usize>),
    /// Part complete, with its outcomes. Its worker never ends by itself and must be deleted before
    /// the next part.
    PartFinished(u16, PartOutcomes),
    /// Attempt ended.
    Ended(NodeOutcome),
}

/// Attempt on a node, as the workers show it.
struct ObservedAttempt<'a> {
    /// Index of the node.
    index: usize,
    node: &'a NodeInfo,
    workers: &'a [&'a WorkerInfo],
    /// Number of the attempt, from 0.
    number: u8,
    /// `true`: the time limit of the node has passed.
    late: bool,
}

/// Inputs of an evaluation.
pub(super) struct NodeEvaluator<'a> {
    pub(super) valid: &'a ValidTask,
    pub(super) tracker: &'a NodeTracker,
    pub(super) snapshot: &'a Snapshot<'a>,
    pub(super) settings: &'a ControllerSettings,
    pub(super) warm_images: &'a WarmImageCache,
    pub(super) scope: CredentialScope,
}

impl NodeEvaluator<'_> {
    /// Evaluates a node from the workers of its current attempt. A node with more images than one
    /// pod may have gets one worker after another, each for its part of the images. All stay until
    /// the node has ended.
    pub(super) fn evaluate(&self, index: usize, workers: &[&WorkerInfo]) -> WorkerStatus {
        let Some(node) = self.snapshot.nodes.get(self.tracker.node(index)) else {
            return node_lost("the node was deleted while it was being warmed");
        };
        if !workers.is_empty() && self.is_unready(node) {
            return node_lost("the node became not ready while it was being warmed");
        }
        let late = self.is_late(index, workers);
        if !late && workers.iter().any(|worker| worker.deleting) {
            return WorkerStatus::InProgress;
        }
        let number = self.tracker.results.state(index).attempt();
        let attempt = ObservedAttempt { index, node, workers, number, late };
        match self.image_outcomes(&attempt) {
            ControlFlow::Break(status) => status,
            ControlFlow::Continue(outcomes) => {
                WorkerStatus::Ended(self.node_outcome(&attempt, outcomes))
            }
        }
    }

    /// Reports whether the node has been not ready for so long that it counts as lost.
    fn is_unready(&self, node: &NodeInfo) -> bool {
        node.unready_since
            .is_some_and(|since| self.snapshot.now.duration_since(since) >= UNREADY_TIMEOUT)
    }

    /// Reports whether the time limit of the node has passed since the attempt started.
    fn is_late(&self, index: usize, workers: &[&WorkerInfo]) -> bool {
        let first_seen = workers.iter().filter_map(|worker| worker.first_seen).min();
        [first_seen, self.tracker.attempt_start(index)]
            .into_iter()
            .flatten()
            .any(|since| self.is_timed_out(since))
    }

    /// Returns the outcomes of all images, part by part, or the status of the first part that has
    /// not ended. Further parts pull the images that the workers of the first ones were created
    /// without, because they were abandoned or deferred, and that another node has pulled since.
    /// Each part has an image of its own, so that the number of a part stays below the number of
    /// images, as the check of provenance requires.
    fn image_outcomes(
        &self,
        attempt: &ObservedAttempt<'_>,
    ) -> ControlFlow<WorkerStatus, Vec<ImageOutcome>> {
        let mut found = FoundOutcomes::new(self.valid.images.len());
        let size = self.settings.worker.images_per_pod.max(1);
        let mut parts = 0u16;
        for first in (0..found.outcomes.len()).step_by(size) {
            let images = first..first.saturating_add(size).min(found.outcomes.len());
            let has_worker = self.read_part(attempt, parts, &mut found)?;
            let due = if has_worker {
                self.omitted_images(attempt, images.clone(), &found)
            } else {
                self.due_images(attempt, images.clone())?
            };
            if !has_worker && !due.is_empty() && !attempt.late {
                return ControlFlow::Break(next_step(parts, due, found.pulling));
            }
            for image in images.filter(|image| !due.contains(image)) {
                if !found.is_pulled(image) {
                    found.set(image, self.outcome_without_pull(image, attempt.index, attempt.node));
                }
            }
            parts = parts.saturating_add(1);
        }
        while self.read_part(attempt, parts, &mut found)? {
            parts = parts.saturating_add(1);
        }
        let mut due = self.omitted_images(attempt, 0..found.outcomes.len(), &found);
        due.truncate(size);
        if !due.is_empty() && !attempt.late {
            return ControlFlow::Break(next_step(parts, due, found.pulling));
        }
        ControlFlow::Continue(found.outcomes)
    }

    /// Reads the outcomes of a part's worker, and reports whether the part has one, now or before.
    /// Returns the status of a worker that has not ended.
    fn read_part(
        &self,
        attempt: &ObservedAttempt<'_>,
        part: u16,
        found: &mut FoundOutcomes,
    ) -> ControlFlow<WorkerStatus, bool> {
        if let Some(settled) = self.tracker.finished_part(attempt.index, part) {
            found.add(settled);
            return ControlFlow::Continue(true);
        }
        let Some(worker) = attempt.workers.iter().find(|worker| worker.part == part) else {
            return ControlFlow::Continue(false);
        };
        let outcomes = self.worker_outcomes(attempt, worker)?;
        let pulled: Vec<_> = worker.images.iter().map(|i| usize::from(*i)).zip(outcomes).collect();
        found.add(&pulled);
        if may_pull(worker, self.snapshot.pods) {
            found.pulling = Some((part, pulled));
        }
        ControlFlow::Continue(true)
    }

    /// Returns the images that no worker of the attempt pulls, and that must be pulled now.
    fn omitted_images(
        &self,
        attempt: &ObservedAttempt<'_>,
        images: Range<usize>,
        found: &FoundOutcomes,
    ) -> Vec<usize> {
        images.filter(|image| !found.is_pulled(*image) && self.is_due(*image, attempt)).collect()
    }

    /// Reports whether an image that no worker pulls must be pulled now.
    fn is_due(&self, image: usize, attempt: &ObservedAttempt<'_>) -> bool {
        self.needs_pull(image, attempt.node) && !self.defers(image, attempt.index)
    }

    /// Returns the images of a part without a worker that must be pulled now.
    fn due_images(
        &self,
        attempt: &ObservedAttempt<'_>,
        mut images: Range<usize>,
    ) -> ControlFlow<WorkerStatus, Vec<usize>> {
        let due = images.clone().filter(|image| self.is_due(*image, attempt)).collect();
        // A retry pulls all of its images at once, because the name of their worker depends on the
        // attempt.
        if attempt.number > 0
            && attempt.workers.is_empty()
            && !attempt.late
            && images.any(|image| self.is_deferred(image, attempt.index, attempt.node))
        {
            return ControlFlow::Break(WorkerStatus::InProgress);
        }
        ControlFlow::Continue(due)
    }

    /// Returns the outcome of the node from those of its images.
    fn node_outcome(
        &self,
        attempt: &ObservedAttempt<'_>,
        outcomes: Vec<ImageOutcome>,
    ) -> NodeOutcome {
        if attempt.number == 0
            && !attempt.late
            && self.has_deferred_images(attempt.index, &outcomes)
        {
            return NodeOutcome::Deferred(outcomes);
        }
        let warm = outcomes.iter().all(|outcome| matches!(outcome, ImageOutcome::Warm(_)));
        if attempt.workers.is_empty() && warm {
            NodeOutcome::AlreadyWarm
        } else {
            NodeOutcome::Images(outcomes)
        }
    }

    fn is_timed_out(&self, since: Timestamp) -> bool {
        self.snapshot.now > since
            && self.snapshot.now.duration_since(since).unsigned_abs() >= self.valid.timeout
    }

    /// Reports whether the image must be pulled on the node.
    fn needs_pull(&self, image: usize, node: &NodeInfo) -> bool {
        self.tracker.results.abandoned(image).is_none() && !self.is_warm(image, node)
    }

    fn defers(&self, image: usize, index: usize) -> bool {
        self.tracker.registries.defers(image, index, self.tracker.results.state(index).attempt())
    }

    /// Reports whether the image must be pulled on the node and is deferred by its registry's
    /// breaker.
    fn is_deferred(&self, image: usize, index: usize, node: &NodeInfo) -> bool {
        self.defers(image, index) && self.needs_pull(image, node)
    }

    /// Reports whether an image is missing only because its registry does not answer, so that it is
    /// to be tried again later.
    fn has_deferred_images(&self, index: usize, outcomes: &[ImageOutcome]) -> bool {
        outcomes.iter().enumerate().any(|(image, outcome)| {
            let missing = matches!(outcome,
                ImageOutcome::Failed(reason, _) | ImageOutcome::Pending(Some((reason, _))) if is_unreachable(*reason));
            missing && self.defers(image, index)
        })
    }

    /// Reports whether the image is known to be on the node. Never true with the pull policy
    /// `Always`: the tag may have moved since the node or a worker pulled it.
    ///
    /// The node's own report counts only for tasks without credentials, because with them the
    /// kubelet would have to check at the registry, and only for images that the task's namespace
    /// has access to. Otherwise a task would disclose which nodes hold images that others have
    /// pulled with their secrets.
    fn is_warm(&self, image: usize, node: &NodeInfo) -> bool {
        let Some(image) = self.valid.images.get(image) else { return false };
        if self.valid.pull_policy(image) == PullPolicy::Always {
            return false;
        }
        let now = self.snapshot.now;
        let is_public =
            || self.settings.public_registries.iter().any(|host| host == image.registry());
        let may_know = || is_public() || self.warm_images.has_access(self.scope, image, now);
        let reported = !self.valid.has_credentials() && node.reports_image(image) && may_know();
        reported || self.warm_images.contains(self.scope, node.identity, image, now)
    }

    /// Returns the outcome of an image that no worker pulls: abandoned, deferred, or present.
    fn outcome_without_pull(&self, image: usize, index: usize, node: &NodeInfo) -> ImageOutcome {
        if self.is_deferred(image, index, node) {
            return ImageOutcome::Failed(
                FailureReason::RegistryUnreachable,
                self.tracker.registries.deferral_message(image),
            );
        }
        match self.tracker.results.abandoned(image) {
            Some(why) => ImageOutcome::Failed(
                FailureReason::from_name(&why.reason),
                format!(
                    "not pulled on this node, because the image was abandoned: {}",
                    why.message
                ),
            ),
            None => ImageOutcome::Warm(None),
        }
    }

    /// Returns the outcomes of the worker's images, or the status of a worker that has not ended.
    fn worker_outcomes(
        &self,
        attempt: &ObservedAttempt<'_>,
        worker: &WorkerInfo,
    ) -> ControlFlow<WorkerStatus, Vec<ImageOutcome>> {
        let Some(pod) = self.snapshot.pods.get(&worker.key()) else {
            return ControlFlow::Break(self.status_without_pod(worker, attempt.late));
        };
        match pod_outcome(pod, &self.valid.images, &worker.images, &self.settings.worker.image) {
            PodOutcome::NodeFailed(reason, message) => {
                let outcome = NodeOutcome::NodeFailed(reason, message);
                ControlFlow::Break(WorkerStatus::Ended(outcome))
            }
            PodOutcome::Images(outcomes) if self.has_ended(attempt, worker, &outcomes) => {
                ControlFlow::Continue(outcomes)
            }
            PodOutcome::Images(_) => ControlFlow::Break(WorkerStatus::InProgress),
        }
    }

    /// Reports whether nothing more is to be expected from a worker with these outcomes.
    fn has_ended(
        &self,
        attempt: &ObservedAttempt<'_>,
        worker: &WorkerInfo,
        outcomes: &[ImageOutcome],
    ) -> bool {
        let is_settled = |(image, outcome): (&u16, &ImageOutcome)| match outcome {
            ImageOutcome::Pending(Some((reason, _))) => {
                is_unreachable(*reason) && self.defers(usize::from(*image), attempt.index)
            }
            ImageOutcome::Pending(None) => false,
            ImageOutcome::Warm(_) | ImageOutcome::Failed(..) => true,
        };
        !outcomes.iter().any(|outcome| matches!(outcome, ImageOutcome::Pending(_)))
            || attempt.late
            || worker.failure.is_some()
            || worker.images.iter().zip(outcomes).all(is_settled)
    }

    fn status_without_pod(&self, worker: &WorkerInfo, late: bool) -> WorkerStatus {
        if let Some(failed) = &worker.failure {
            let (reason, message) = &**failed;
            let why = if reason == "DeadlineExceeded" {
                FailureReason::Timeout
            } else {
                FailureReason::Unknown
            };
            return WorkerStatus::Ended(NodeOutcome::NodeFailed(
                why,
                format!("{reason}: {message}"),
            ));
        }
        if late {
            let message = "the Job created no pod in time; see its events and those of kube-controller-manager";
            return WorkerStatus::Ended(NodeOutcome::NodeFailed(
                FailureReason::Timeout,
                message.into(),
            ));
        }
        let patience = worker.first_seen.and_then(|since| add_millis(since, PODLESS_MS));
        if patience.is_none_or(|end| self.snapshot.now < end) {
            return WorkerStatus::InProgress;
        }
        match &self.tracker.rejection {
            // The task's own pods may be what fills the quota. Quota is free again when they have
            // ended.
            Some(refused)
                if refused.reason == FailureReason::QuotaExceeded && self.has_running_pods() =>
            {
                WorkerStatus::NoPod
            }
            Some(refused) => WorkerStatus::Rejected(refused.clone()),
            None => WorkerStatus::NoPod,
        }
    }

    /// Reports whether a worker of the task has a running pod.
    fn has_running_pods(&self) -> bool {
        let at_work = |worker: &WorkerInfo| {
            self.snapshot.pods.get(&worker.key()).is_some_and(|pod| !pod.phase.is_final())
        };
        self.snapshot.workers().any(at_work)
    }
}

/// Outcomes of a node's images, as far as its workers have been read.
struct FoundOutcomes {
    /// Outcomes by index of the image.
    outcomes: Vec<ImageOutcome>,
    /// `true` for images that a worker of the attempt pulls or has pulled.
    pulled: Vec<bool>,
    /// Last part whose worker may still pull, with the outcomes of its images.
    pulling: Option<(u16, PartOutcomes)>,
}

impl FoundOutcomes {
    fn new(images: usize) -> Self {
        let outcomes = vec![ImageOutcome::Pending(None); images];
        Self { outcomes, pulled: vec![false; images], pulling: None }
    }

    fn is_pulled(&self, image: usize) -> bool {
        self.pulled.get(image).copied().unwrap_or_default()
    }

    /// Adds the outcomes of a worker. Indexes beyond the task's images come from an annotation that
    /// another user has changed, and are ignored.
    fn add(&mut self, part: &[(usize, ImageOutcome)]) {
        for (image, outcome) in part {
            self.set(*image, outcome.clone());
            if let Some(pulled) = self.pulled.get_mut(*image) {
                *pulled = true;
            }
        }
    }

    fn set(&mut self, image: usize, outcome: ImageOutcome) {
        if let Some(place) = self.outcomes.get_mut(image) {
            *place = outcome;
        }
    }
}

/// Returns the status of a node whose next part is due: the worker before it is ended first, if it
/// may still pull.
fn next_step(part: u16, due: Vec<usize>, pulling: Option<(u16, PartOutcomes)>) -> WorkerStatus {
    match pulling {
        None => WorkerStatus::StartWorker(part, due),
        Some((earlier, outcomes)) => WorkerStatus::PartFinished(earlier, outcomes),
    }
}

fn node_lost(message: &str) -> WorkerStatus {
    WorkerStatus::Ended(NodeOutcome::NodeFailed(FailureReason::NodeLost, message.into()))
}
