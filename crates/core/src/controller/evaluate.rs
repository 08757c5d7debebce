//! Evaluation of one node from its workers and their pods: what has ended, and what is to be done
//! next. Input: the node tracker, a snapshot and the warm image cache. Pure: no client, no clock,
//! no I/O.

use std::ops::Range;

use crate::{
    node::NodeInfo,
    task::{PullPolicy, validate::ValidTask},
    worker::{FailureReason, ImageOutcome, PodOutcome, WorkerInfo, pod_outcome},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    registry_breaker::is_unreachable,
    results::NodeOutcome,
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
    PartFinished(u16, Vec<ImageOutcome>),
    /// Attempt ended.
    Ended(NodeOutcome),
}

/// Status of one worker.
enum WorkerResult {
    Outcomes(Vec<ImageOutcome>),
    Status(WorkerStatus),
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
        let name = self.tracker.node(index);
        let Some(facts) = self.snapshot.nodes.get(name) else {
            return node_lost("the node was deleted while it was being warmed");
        };
        if !workers.is_empty()
            && facts
                .unready_since
                .is_some_and(|since| self.snapshot.now.duration_since(since) >= UNREADY_TIMEOUT)
        {
            return node_lost("the node became not ready while it was being warmed");
        }
        let known = workers.iter().filter_map(|worker| worker.first_seen).min();
        let late = [known, self.tracker.attempt_start(index)]
            .into_iter()
            .flatten()
            .any(|since| self.is_timed_out(since));
        if !late && workers.iter().any(|worker| worker.deleting) {
            return WorkerStatus::InProgress;
        }
        let attempt = self.tracker.results.state(index).attempt();
        let mut outcomes = vec![ImageOutcome::Pending(None); self.valid.images.len()];
        let size = self.settings.worker.images_per_pod.max(1);
        let mut waiting = None;
        for (part, first) in (0u16..).zip((0..outcomes.len()).step_by(size)) {
            let images = first..first.saturating_add(size).min(outcomes.len());
            if let Some(settled) = self.tracker.finished_part(index, part) {
                for (image, outcome) in images.zip(settled) {
                    set_outcome(&mut outcomes, image, outcome.clone());
                }
                continue;
            }
            let Some(worker) = workers.iter().find(|worker| worker.part == part) else {
                let asked: Vec<usize> = images
                    .clone()
                    .filter(|image| self.needs_pull(*image, facts) && !self.defers(*image, index))
                    .collect();
                // A retry pulls all of its images at once, because the name of their worker depends
                // on the attempt.
                if attempt > 0
                    && workers.is_empty()
                    && !late
                    && images.clone().any(|image| self.is_deferred(image, index, facts))
                {
                    return WorkerStatus::InProgress;
                }
                if !asked.is_empty() && !late {
                    return waiting.map_or(
                        WorkerStatus::StartWorker(part, asked),
                        |images: Range<usize>| {
                            let part = images
                                .start
                                .checked_div(size)
                                .and_then(|part| u16::try_from(part).ok());
                            WorkerStatus::PartFinished(
                                part.unwrap_or(u16::MAX),
                                outcomes.get(images).unwrap_or_default().to_vec(),
                            )
                        },
                    );
                }
                let settled = images.filter(|image| !asked.contains(image));
                settled.for_each(|image| {
                    set_outcome(
                        &mut outcomes,
                        image,
                        self.outcome_without_pull(image, index, facts),
                    );
                });
                continue;
            };
            let found = match self.worker_result(index, worker, late) {
                WorkerResult::Status(judgement) => return judgement,
                WorkerResult::Outcomes(found) => found,
            };
            images.clone().for_each(|image| {
                set_outcome(&mut outcomes, image, self.outcome_without_pull(image, index, facts));
            });
            waiting = Some(images).filter(|_| may_pull(worker, self.snapshot.pods)).or(waiting);
            for (image, outcome) in worker.images.iter().zip(found) {
                set_outcome(&mut outcomes, usize::from(*image), outcome);
            }
        }
        if attempt == 0 && !late && self.has_deferred_images(index, &outcomes) {
            return WorkerStatus::Ended(NodeOutcome::Deferred(outcomes));
        }
        let warm = outcomes.iter().all(|outcome| matches!(outcome, ImageOutcome::Warm(_)));
        WorkerStatus::Ended(if workers.is_empty() && warm {
            NodeOutcome::AlreadyWarm
        } else {
            NodeOutcome::Images(outcomes)
        })
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

    /// Reports whether the image is known to be on the node. Never true for a tag with the pull
    /// policy `Always`.
    ///
    /// The node's own report counts only for tasks without credentials, because with them the
    /// kubelet would have to check at the registry, and only for images that the task's namespace
    /// has access to. Otherwise a task would disclose which nodes hold images that others have
    /// pulled with their secrets.
    fn is_warm(&self, image: usize, node: &NodeInfo) -> bool {
        let Some(image) = self.valid.images.get(image) else { return false };
        if self.valid.image_pull_policy == PullPolicy::Always && image.digest().is_none() {
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

    fn worker_result(&self, index: usize, worker: &WorkerInfo, late: bool) -> WorkerResult {
        let Some(pod) = self.snapshot.pods.get(&worker.key()) else {
            return WorkerResult::Status(self.status_without_pod(worker, late));
        };
        match pod_outcome(pod, &self.valid.images, &worker.images, &self.settings.worker.image) {
            PodOutcome::NodeFailed(reason, message) => {
                WorkerResult::Status(WorkerStatus::Ended(NodeOutcome::NodeFailed(reason, message)))
            }
            PodOutcome::Images(outcomes) => {
                let open =
                    outcomes.iter().any(|outcome| matches!(outcome, ImageOutcome::Pending(_)));
                let put_off = |(image, outcome): (&u16, &ImageOutcome)| match outcome {
                    ImageOutcome::Pending(Some((reason, _))) => {
                        is_unreachable(*reason) && self.defers(usize::from(*image), index)
                    }
                    ImageOutcome::Pending(None) => false,
                    ImageOutcome::Warm(_) | ImageOutcome::Failed(..) => true,
                };
                let over = !open
                    || late
                    || worker.failure.is_some()
                    || worker.images.iter().zip(&outcomes).all(put_off);
                if over {
                    WorkerResult::Outcomes(outcomes)
                } else {
                    WorkerResult::Status(WorkerStatus::InProgress)
                }
            }
        }
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

/// Stores the outcome of an image. Indexes beyond the task's images come from an annotation that
/// another user has changed, and are ignored.
fn set_outcome(outcomes: &mut [ImageOutcome], image: usize, outcome: ImageOutcome) {
    if let Some(place) = outcomes.get_mut(image) {
        *place = outcome;
    }
}

fn node_lost(message: &str) -> WorkerStatus {
    WorkerStatus::Ended(NodeOutcome::NodeFailed(FailureReason::NodeLost, message.into()))
}
