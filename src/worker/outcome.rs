//! Reads a worker pod: what has become of each image.

use super::{ContainerFacts, ContainerState, PodFacts, PodPhase, Reason, Verdict, classify};
use crate::image::Reference;

/// What has become of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageOutcome {
    /// Not decided; with what the kubelet last complained of.
    Open(Option<(Reason, String)>),
    /// On the node, with its digest where the runtime tells it.
    Warm(Option<String>),
    /// Not to be had.
    Failed(Reason, String),
}

/// What has become of a worker pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodOutcome {
    /// One outcome per image that was asked for, in that order.
    Images(Vec<ImageOutcome>),
    /// The node, or our own helper, is the trouble: no image can be judged.
    Node(Reason, String),
}

/// Reads the pod, which was asked for these of the task's `images`. `helper` is the reference of the helper's image.
#[must_use]
pub fn read(pod: &PodFacts, images: &[Reference], asked: &[u16], helper: &str) -> PodOutcome {
    if let Some((reason, message)) = refused(pod).or_else(|| helper_trouble(pod, helper)) {
        return PodOutcome::Node(reason, message);
    }
    let image = |index: &u16| match (pod.container(*index), images.get(usize::from(*index))) {
        (Some(facts), Some(reference)) => container(facts, reference),
        _ => ImageOutcome::Open(None),
    };
    PodOutcome::Images(asked.iter().map(image).collect())
}

/// A pod that the kubelet never ran: `OutOfpods`, `NodeAffinity`, `Evicted`, ...
fn refused(pod: &PodFacts) -> Option<(Reason, String)> {
    let untouched = pod.containers.iter().all(|c| matches!(c.state, ContainerState::Waiting(_)));
    if pod.phase != PodPhase::Failed || pod.reason.is_empty() || !untouched {
        return None;
    }
    let text = format!("{}: {}", pod.reason, pod.message);
    let reason = match pod.reason.as_str() {
        "Evicted" if pod.message.to_lowercase().contains("storage") => Reason::DiskPressure,
        "DeadlineExceeded" => Reason::Timeout,
        _ => Reason::NodeRefused,
    };
    Some((reason, text))
}

/// Our helper's own image cannot be had: said of the node, not of the images.
fn helper_trouble(pod: &PodFacts, helper: &str) -> Option<(Reason, String)> {
    let installing = pod.install.as_ref().and_then(|state| match state {
        ContainerState::Waiting(Some(words)) => complaint(&words.0, &words.1, helper),
        ContainerState::Terminated(code, words) if *code != 0 => {
            let (reason, message) = words.as_deref().cloned().unwrap_or_default();
            Some((Reason::RunError, Verdict::Hopeless, format!("{reason} {message} (exit code {code})")))
        }
        _ => None,
    });
    let mounting = || {
        pod.containers.iter().find_map(|facts| match &facts.state {
            ContainerState::Waiting(Some(words)) if words.1.contains(helper) => complaint(&words.0, &words.1, helper),
            _ => None,
        })
    };
    let (reason, verdict, message) = installing.or_else(mounting)?;
    (verdict == Verdict::Hopeless).then(|| (reason, format!("the worker's own image {helper}: {message}")))
}

fn complaint(reason: &str, message: &str, image: &str) -> Option<(Reason, Verdict, String)> {
    classify(reason, message, image).map(|(found, verdict)| (found, verdict, format!("{reason}: {message}")))
}

fn container(facts: &ContainerFacts, image: &Reference) -> ImageOutcome {
    match &facts.state {
        ContainerState::Running | ContainerState::Waiting(None) => ImageOutcome::Open(None),
        ContainerState::Terminated(0, _) => ImageOutcome::Warm(digest(facts.image_id.as_deref().unwrap_or(""), image)),
        ContainerState::Terminated(code, words) => {
            let (reason, message) = words.as_deref().cloned().unwrap_or_default();
            let text = format!("the helper ended with exit code {code}: {reason} {message}");
            let platform = message.contains("exec format error");
            ImageOutcome::Failed(if platform { Reason::PlatformMismatch } else { Reason::RunError }, text.trim().into())
        }
        ContainerState::Waiting(Some(words)) => match complaint(&words.0, &words.1, image.as_written()) {
            None => ImageOutcome::Open(None),
            Some((found, Verdict::Passing, text)) => ImageOutcome::Open(Some((found, text))),
            Some((found, Verdict::Hopeless, text)) => ImageOutcome::Failed(found, text),
        },
    }
}

/// The digest out of an `imageID` such as `host/repository@sha256:...`; only where it speaks of this image: with image
/// volumes the container's `imageID` is the helper's.
fn digest(image_id: &str, image: &Reference) -> Option<String> {
    let (name, digest) = image_id.split_once('@')?;
    name.parse::<Reference>().ok().filter(|found| found.repository() == image.repository())?;
    Some(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Vec<Reference> {
        ["r.example/a:1", "r.example/b:1"].iter().map(|text| text.parse().unwrap()).collect()
    }

    fn pod(states: Vec<ContainerState>) -> PodFacts {
        let facts =
            |(image, state): (u16, _)| ContainerFacts { image, state, image_id: Some("r.example/a@sha256:12".into()) };
        PodFacts { containers: (0..).zip(states).map(facts).collect(), ..PodFacts::default() }
    }

    fn read_all(pod: &PodFacts) -> PodOutcome {
        read(pod, &images(), &[0, 1], "helper:1")
    }

    #[test]
    fn one_bad_image_leaves_the_other_alone() {
        let bad = ContainerState::waiting("ErrImagePull", "r.example/b:1: not found");
        let failed = ImageOutcome::Failed(Reason::ImageNotFound, "ErrImagePull: r.example/b:1: not found".into());
        let expected = PodOutcome::Images(vec![ImageOutcome::Warm(Some("sha256:12".into())), failed]);
        assert_eq!(read_all(&pod(vec![ContainerState::done(), bad])), expected);
    }

    #[test]
    fn only_what_was_asked_for_is_read() {
        let done = ContainerFacts { image: 1, state: ContainerState::done(), image_id: None };
        let pod = PodFacts { containers: [done].into(), ..PodFacts::default() };
        assert_eq!(read(&pod, &images(), &[1], "helper:1"), PodOutcome::Images(vec![ImageOutcome::Warm(None)]));
    }

    #[test]
    fn the_digest_of_another_image_is_not_taken() {
        assert_eq!(digest("r.example/helper@sha256:12", &images()[0]), None);
        assert_eq!(digest("sha256:12", &images()[0]), None);
    }

    #[test]
    fn a_refused_pod_speaks_of_the_node() {
        let refused = |reason: &str, message: &str| PodFacts {
            phase: PodPhase::Failed,
            reason: reason.into(),
            message: message.into(),
            ..PodFacts::default()
        };
        let cases = [
            ("OutOfpods", "too many pods", Reason::NodeRefused),
            ("Evicted", "The node was low on resource: ephemeral-storage.", Reason::DiskPressure),
            ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline", Reason::Timeout),
        ];
        for (reason, message, expected) in cases {
            let text = format!("{reason}: {message}");
            assert_eq!(read_all(&refused(reason, message)), PodOutcome::Node(expected, text));
        }
    }

    #[test]
    fn a_helper_that_cannot_be_pulled_is_no_images_fault() {
        let trouble = ContainerState::waiting("ErrImagePull", "failed to pull helper:1: not found");
        let by_init = PodFacts { install: Some(trouble.clone()), ..pod(vec![]) };
        for pod in [by_init, pod(vec![trouble])] {
            assert!(matches!(read_all(&pod), PodOutcome::Node(Reason::ImageNotFound, _)));
        }
    }

    #[test]
    fn a_passing_complaint_stays_open() {
        let timeout = ContainerState::waiting("ErrImagePull", "dial tcp: i/o timeout");
        let pod = pod(vec![timeout, ContainerState::waiting("ContainerCreating", "")]);
        let PodOutcome::Images(outcomes) = read_all(&pod) else { panic!("images") };
        assert!(matches!(&outcomes[0], ImageOutcome::Open(Some((Reason::RegistryUnreachable, _)))));
        assert_eq!(outcomes[1], ImageOutcome::Open(None));
    }
}
