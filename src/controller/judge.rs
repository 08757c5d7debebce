//! From the workers on a node to what is to be said of it. *Pure.*

use std::ops::Range;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    Settings,
    known::{Known, Scope},
    planned::{Planned, Refused, later},
    record::End,
    registries::is_silence,
    view::View,
    world::may_pull,
};
use crate::{
    node::Facts,
    task::{PullPolicy, validate::ValidTask},
    worker::{ImageOutcome, PodOutcome, Reason, WorkerFacts, read},
};

/// A Job that has no pod after this long, in milliseconds, is asked after: the Job controller makes pods within a second,
/// unless it has hundreds of Jobs before it, or something refuses them.
const PODLESS_MS: i64 = 3_000;
/// A node that is not ready for this long has lost its worker: the kubelet's own restart takes less.
const UNREADY: SignedDuration = SignedDuration::from_secs(60);

/// What is to be said of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Its worker is at it.
    Open,
    /// Its Job has no pod, and nobody knows why.
    Podless,
    /// Its Job has no pod because the API server takes none.
    Refused(Refused),
    /// A worker should start, for this part and these images.
    Start(u16, Vec<usize>),
    /// A part has come to an end, but its worker waits for ever; it has to make room for the next part.
    Settle(u16, Vec<ImageOutcome>),
    /// The try has ended.
    End(End),
}

/// What one worker has come to.
enum Look {
    Outcomes(Vec<ImageOutcome>),
    Says(Judgement),
}

/// What is needed to judge.
pub(super) struct Judge<'a> {
    pub(super) valid: &'a ValidTask,
    pub(super) planned: &'a Planned,
    pub(super) view: &'a View<'a>,
    pub(super) settings: &'a Settings,
    pub(super) known: &'a Known,
    pub(super) scope: Scope,
}

impl Judge<'_> {
    /// Judges a node by the workers of its present try. A node with more images than one pod may have gets one worker after
    /// another, each for its part of the images; all stay until the node has ended.
    pub(super) fn node(&self, index: usize, workers: &[&WorkerFacts]) -> Judgement {
        let name = self.planned.node(index);
        let Some(facts) = self.view.nodes.get(name) else {
            return lost("the node was deleted while it was being warmed");
        };
        if !workers.is_empty()
            && facts.unready_since.is_some_and(|since| self.view.now.duration_since(since) >= UNREADY)
        {
            return lost("the node stopped being ready while it was being warmed");
        }
        let known = workers.iter().filter_map(|worker| worker.since).min();
        let late = [known, self.planned.begun(index)].into_iter().flatten().any(|since| self.is_over(since));
        if !late && workers.iter().any(|worker| worker.deleting) {
            return Judgement::Open;
        }
        let attempt = self.planned.record.state(index).attempt();
        let mut outcomes = vec![ImageOutcome::Open(None); self.valid.images.len()];
        let size = self.settings.worker.images_per_pod.max(1);
        let mut waiting = None;
        for (part, first) in (0u16..).zip((0..outcomes.len()).step_by(size)) {
            let images = first..first.saturating_add(size).min(outcomes.len());
            if let Some(settled) = self.planned.settled(index, part) {
                for (image, outcome) in images.zip(settled) {
                    put(&mut outcomes, image, outcome.clone());
                }
                continue;
            }
            let Some(worker) = workers.iter().find(|worker| worker.part == part) else {
                let asked: Vec<usize> =
                    images.clone().filter(|image| self.needs(*image, facts) && !self.puts_off(*image, index)).collect();
                // A further try asks for all of its images at once: their worker has the name of the try.
                if attempt > 0
                    && workers.is_empty()
                    && !late
                    && images.clone().any(|image| self.is_put_off(image, index, facts))
                {
                    return Judgement::Open;
                }
                if !asked.is_empty() && !late {
                    return waiting.map_or(Judgement::Start(part, asked), |images: Range<usize>| {
                        let part = images.start.checked_div(size).and_then(|part| u16::try_from(part).ok());
                        Judgement::Settle(part.unwrap_or(u16::MAX), outcomes.get(images).unwrap_or_default().to_vec())
                    });
                }
                let settled = images.filter(|image| !asked.contains(image));
                settled.for_each(|image| put(&mut outcomes, image, self.without_asking(image, index, facts)));
                continue;
            };
            let found = match self.look(index, worker, late) {
                Look::Says(judgement) => return judgement,
                Look::Outcomes(found) => found,
            };
            images.clone().for_each(|image| put(&mut outcomes, image, self.without_asking(image, index, facts)));
            waiting = Some(images).filter(|_| may_pull(worker, self.view.pods)).or(waiting);
            for (image, outcome) in worker.asked.iter().zip(found) {
                put(&mut outcomes, usize::from(*image), outcome);
            }
        }
        if attempt == 0 && !late && self.is_behind(index, &outcomes) {
            return Judgement::End(End::Behind(outcomes));
        }
        let warm = outcomes.iter().all(|outcome| matches!(outcome, ImageOutcome::Warm(_)));
        Judgement::End(if workers.is_empty() && warm { End::AlreadyWarm } else { End::Images(outcomes) })
    }

    fn is_over(&self, since: Timestamp) -> bool {
        self.view.now > since && self.view.now.duration_since(since).unsigned_abs() >= self.valid.timeout
    }

    /// Whether the image has to be asked for on the node.
    fn needs(&self, image: usize, node: &Facts) -> bool {
        self.planned.record.given_up(image).is_none() && !self.is_there(image, node)
    }

    fn puts_off(&self, image: usize, index: usize) -> bool {
        self.planned.registries.puts_off(image, index, self.planned.record.state(index).attempt())
    }

    /// Whether the image has to be asked for on the node, and may not now.
    fn is_put_off(&self, image: usize, index: usize, node: &Facts) -> bool {
        self.puts_off(image, index) && self.needs(image, node)
    }

    /// Whether something is missing only because its registry does not answer, which is to be asked later again.
    fn is_behind(&self, index: usize, outcomes: &[ImageOutcome]) -> bool {
        outcomes.iter().enumerate().any(|(image, outcome)| {
            let missing = matches!(outcome,
                ImageOutcome::Failed(reason, _) | ImageOutcome::Open(Some((reason, _))) if is_silence(*reason));
            missing && self.puts_off(image, index)
        })
    }

    /// Whether the image is known to be on the node. A tag that is to be checked again never is. What the node reports
    /// counts only for tasks without credentials (with them, the kubelet would have to check at the registry), and only of images
    /// that the task's namespace may know of: else a task would tell which nodes hold what others have pulled with their secrets.
    fn is_there(&self, image: usize, node: &Facts) -> bool {
        let Some(image) = self.valid.images.get(image) else { return false };
        if self.valid.image_pull_policy == PullPolicy::Always && image.digest().is_none() {
            return false;
        }
        let now = self.view.now;
        let is_public = || self.settings.public_registries.iter().any(|host| host == image.registry());
        let may_know = || is_public() || self.known.may_know(self.scope, image, now);
        let reported = !self.valid.has_credentials() && node.reports(image) && may_know();
        reported || self.known.has(self.scope, node.identity, image, now)
    }

    /// What became of an image that was not asked for: it was given up, or put off, or it was there.
    fn without_asking(&self, image: usize, index: usize, node: &Facts) -> ImageOutcome {
        if self.is_put_off(image, index, node) {
            return ImageOutcome::Failed(Reason::RegistryUnreachable, self.planned.registries.why(image));
        }
        match self.planned.record.given_up(image) {
            Some(why) => ImageOutcome::Failed(
                Reason::from_word(&why.reason),
                format!("not asked for on this node, because no other could have it: {}", why.message),
            ),
            None => ImageOutcome::Warm(None),
        }
    }

    fn look(&self, index: usize, worker: &WorkerFacts, late: bool) -> Look {
        let Some(pod) = self.view.pods.get(&worker.key()) else { return Look::Says(self.podless(worker, late)) };
        match read(pod, &self.valid.images, &worker.asked, &self.settings.worker.image) {
            PodOutcome::Node(reason, message) => Look::Says(Judgement::End(End::Node(reason, message))),
            PodOutcome::Images(outcomes) => {
                let open = outcomes.iter().any(|outcome| matches!(outcome, ImageOutcome::Open(_)));
                let put_off = |(image, outcome): (&u16, &ImageOutcome)| match outcome {
                    ImageOutcome::Open(Some((reason, _))) => {
                        is_silence(*reason) && self.puts_off(usize::from(*image), index)
                    }
                    ImageOutcome::Open(None) => false,
                    ImageOutcome::Warm(_) | ImageOutcome::Failed(..) => true,
                };
                let over = !open || late || worker.failed.is_some() || worker.asked.iter().zip(&outcomes).all(put_off);
                if over { Look::Outcomes(outcomes) } else { Look::Says(Judgement::Open) }
            }
        }
    }

    fn podless(&self, worker: &WorkerFacts, late: bool) -> Judgement {
        if let Some(failed) = &worker.failed {
            let (reason, message) = &**failed;
            let why = if reason == "DeadlineExceeded" { Reason::Timeout } else { Reason::Unknown };
            return Judgement::End(End::Node(why, format!("{reason}: {message}")));
        }
        if late {
            let message = "the Job made no pod in time: see its events, and those of kube-controller-manager";
            return Judgement::End(End::Node(Reason::Timeout, message.into()));
        }
        let patience = worker.since.and_then(|since| later(since, PODLESS_MS));
        if patience.is_none_or(|end| self.view.now < end) {
            return Judgement::Open;
        }
        match &self.planned.refused {
            // Our own pods may be what fills the quota: when they have ended there is room.
            Some(refused) if refused.reason == Reason::QuotaExceeded && self.has_pods() => Judgement::Podless,
            Some(refused) => Judgement::Refused(refused.clone()),
            None => Judgement::Podless,
        }
    }

    /// Whether a worker of the task has a pod at work.
    fn has_pods(&self) -> bool {
        let at_work = |worker: &WorkerFacts| self.view.pods.get(&worker.key()).is_some_and(|pod| !pod.phase.is_final());
        self.view.workers().any(at_work)
    }
}

/// Notes the outcome of an image. An index that the task does not have comes from an annotation that somebody has changed.
fn put(outcomes: &mut [ImageOutcome], image: usize, outcome: ImageOutcome) {
    if let Some(place) = outcomes.get_mut(image) {
        *place = outcome;
    }
}

fn lost(message: &str) -> Judgement {
    Judgement::End(End::Node(Reason::NodeLost, message.into()))
}
