//! Reads a worker pod: what has become of each image.

use super::{
    ContainerFacts, ContainerState, PodFacts, Reason, Verdict, classify,
    job::{INSTALL_CONTAINER, container_name},
};
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
    /// One outcome per image, in the task's order.
    Images(Vec<ImageOutcome>),
    /// The node, or our own helper, is the trouble: no image can be judged.
    Node(Reason, String),
}

/// Reads the pod. `helper` is the reference of the helper's image.
#[must_use]
pub fn read(pod: &PodFacts, images: &[Reference], helper: &str) -> PodOutcome {
    if let Some((reason, message)) = refused(pod).or_else(|| helper_trouble(pod, helper)) {
        return PodOutcome::Node(reason, message);
    }
    let image = |(index, reference): (usize, &Reference)| {
        pod.containers.get(&container_name(index)).map_or(ImageOutcome::Open(None), |facts| container(facts, reference))
    };
    PodOutcome::Images(images.iter().enumerate().map(image).collect())
}

/// A pod that the kubelet never ran: `OutOfpods`, `NodeAffinity`, `Evicted`, ...
fn refused(pod: &PodFacts) -> Option<(Reason, String)> {
    let untouched = pod.containers.values().all(|c| matches!(c.state, ContainerState::Waiting(..)));
    if pod.phase != "Failed" || pod.reason.is_empty() || !untouched {
        return None;
    }
    let text = format!("{}: {}", pod.reason, pod.message);
    let pressure = pod.reason == "Evicted" && pod.message.to_lowercase().contains("storage");
    Some((if pressure { Reason::DiskPressure } else { Reason::NodeRefused }, text))
}

/// Our helper's own image cannot be had: said of the node, not of the images.
fn helper_trouble(pod: &PodFacts, helper: &str) -> Option<(Reason, String)> {
    let installing = pod.init.get(INSTALL_CONTAINER).and_then(|facts| match &facts.state {
        ContainerState::Waiting(reason, message) => complaint(reason, message, helper),
        ContainerState::Terminated(code, reason, message) if *code != 0 => {
            Some((Reason::RunError, Verdict::Hopeless, format!("{reason} {message} (exit code {code})")))
        }
        _ => None,
    });
    let names_helper = |(reason, message): (&String, &String)| {
        message.contains(helper).then(|| complaint(reason, message, helper)).flatten()
    };
    let mounting = || {
        pod.containers.values().find_map(|facts| match &facts.state {
            ContainerState::Waiting(reason, message) => names_helper((reason, message)),
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
        ContainerState::Running => ImageOutcome::Open(None),
        ContainerState::Terminated(0, ..) => ImageOutcome::Warm(digest(&facts.image_id, image)),
        ContainerState::Terminated(code, reason, message) => {
            let text = format!("the helper ended with exit code {code}: {reason} {message}");
            let platform = message.contains("exec format error");
            ImageOutcome::Failed(if platform { Reason::PlatformMismatch } else { Reason::RunError }, text.trim().into())
        }
        ContainerState::Waiting(reason, message) => match classify(reason, message, image.as_written()) {
            None => ImageOutcome::Open(None),
            Some((found, Verdict::Passing)) => ImageOutcome::Open(Some((found, format!("{reason}: {message}")))),
            Some((found, Verdict::Hopeless)) => ImageOutcome::Failed(found, format!("{reason}: {message}")),
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
    use std::collections::BTreeMap;

    use super::*;

    fn images() -> Vec<Reference> {
        ["r.example/a:1", "r.example/b:1"].iter().map(|text| text.parse().unwrap()).collect()
    }

    fn pod(states: Vec<ContainerState>) -> PodFacts {
        let facts = |state| ContainerFacts { state, image_id: "r.example/a@sha256:12".into() };
        let containers = states.into_iter().enumerate().map(|(i, state)| (container_name(i), facts(state))).collect();
        PodFacts { phase: "Pending".into(), containers, ..PodFacts::default() }
    }

    fn waiting(reason: &str, message: &str) -> ContainerState {
        ContainerState::Waiting(reason.into(), message.into())
    }

    #[test]
    fn one_bad_image_leaves_the_other_alone() {
        let done = ContainerState::Terminated(0, "Completed".into(), String::new());
        let pod = pod(vec![done, waiting("ErrImagePull", "r.example/b:1: not found")]);
        let PodOutcome::Images(outcomes) = read(&pod, &images(), "helper:1") else { panic!("images") };
        assert_eq!(outcomes[0], ImageOutcome::Warm(Some("sha256:12".into())));
        assert_eq!(
            outcomes[1],
            ImageOutcome::Failed(Reason::ImageNotFound, "ErrImagePull: r.example/b:1: not found".into())
        );
    }

    #[test]
    fn the_digest_of_another_image_is_not_taken() {
        assert_eq!(digest("r.example/helper@sha256:12", &images()[0]), None);
        assert_eq!(digest("sha256:12", &images()[0]), None);
    }

    #[test]
    fn a_refused_pod_speaks_of_the_node() {
        let pod = PodFacts {
            phase: "Failed".into(),
            reason: "OutOfpods".into(),
            message: "too many pods".into(),
            ..PodFacts::default()
        };
        let expected = PodOutcome::Node(Reason::NodeRefused, "OutOfpods: too many pods".into());
        assert_eq!(read(&pod, &images(), "helper:1"), expected);
    }

    #[test]
    fn a_helper_that_cannot_be_pulled_is_no_images_fault() {
        let trouble = waiting("ErrImagePull", "failed to pull helper:1: not found");
        let facts = ContainerFacts { state: trouble.clone(), image_id: String::new() };
        let by_init = PodFacts { init: BTreeMap::from([(INSTALL_CONTAINER.into(), facts)]), ..pod(vec![]) };
        for pod in [by_init, pod(vec![trouble])] {
            assert!(matches!(read(&pod, &images(), "helper:1"), PodOutcome::Node(Reason::ImageNotFound, _)));
        }
    }

    #[test]
    fn a_passing_complaint_stays_open() {
        let pod = pod(vec![waiting("ErrImagePull", "dial tcp: i/o timeout"), waiting("ContainerCreating", "")]);
        let PodOutcome::Images(outcomes) = read(&pod, &images(), "helper:1") else { panic!("images") };
        assert!(matches!(&outcomes[0], ImageOutcome::Open(Some((Reason::RegistryUnreachable, _)))));
        assert_eq!(outcomes[1], ImageOutcome::Open(None));
    }
}
