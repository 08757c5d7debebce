//! Evaluation of a worker pod: the outcome of each image.

use super::{ContainerInfo, ContainerState, FailureReason, PodInfo, PodPhase, Retry, classify};
use crate::image::ImageRef;

/// Outcome of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageOutcome {
    /// Not decided yet, with the kubelet's last error.
    Pending(Option<(FailureReason, String)>),
    /// Present on the node, with the digest if the runtime reports it.
    Warm(Option<String>),
    /// Failed permanently, with reason and message.
    Failed(FailureReason, String),
}

/// Outcome of a worker pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodOutcome {
    /// One outcome per requested image, in the requested order.
    Images(Vec<ImageOutcome>),
    /// Failure of the node or of the helper image, from which no image can be evaluated.
    NodeFailed(FailureReason, String),
}

/// Evaluates a pod that pulls those of the task's `images` with the indexes `asked`. `helper` is
/// the reference of the helper image.
#[must_use]
pub fn pod_outcome(pod: &PodInfo, images: &[ImageRef], asked: &[u16], helper: &str) -> PodOutcome {
    if let Some((reason, message)) = kubelet_rejection(pod).or_else(|| helper_failure(pod, helper))
    {
        return PodOutcome::NodeFailed(reason, message);
    }
    let image = |index: &u16| match (pod.container(*index), images.get(usize::from(*index))) {
        (Some(facts), Some(reference)) => image_outcome(facts, reference),
        _ => ImageOutcome::Pending(None),
    };
    PodOutcome::Images(asked.iter().map(image).collect())
}

/// Returns the failure of a pod that the kubelet never ran, such as `OutOfpods`, `NodeAffinity` or
/// `Evicted`.
fn kubelet_rejection(pod: &PodInfo) -> Option<(FailureReason, String)> {
    let untouched = pod.containers.iter().all(|c| matches!(c.state, ContainerState::Waiting(_)));
    if pod.phase != PodPhase::Failed || pod.reason.is_empty() || !untouched {
        return None;
    }
    let text = format!("{}: {}", pod.reason, pod.message);
    let reason = match pod.reason.as_str() {
        "Evicted" if pod.message.to_lowercase().contains("storage") => FailureReason::DiskPressure,
        "DeadlineExceeded" => FailureReason::Timeout,
        _ => FailureReason::NodeRefused,
    };
    Some((reason, text))
}

/// Returns the failure of a pod whose helper image cannot be pulled or run. It is a failure of the
/// node, not of the images.
fn helper_failure(pod: &PodInfo, helper: &str) -> Option<(FailureReason, String)> {
    let installing = pod.install_state.as_ref().and_then(|state| match state {
        ContainerState::Waiting(Some(words)) => classify_waiting(&words.0, &words.1, helper),
        ContainerState::Terminated(code, words) if *code != 0 => {
            let (reason, message) = words.as_deref().cloned().unwrap_or_default();
            Some((
                FailureReason::RunError,
                Retry::Permanent,
                format!("{reason} {message} (exit code {code})"),
            ))
        }
        _ => None,
    });
    let mounting = || {
        pod.containers.iter().find_map(|facts| match &facts.state {
            ContainerState::Waiting(Some(words)) if words.1.contains(helper) => {
                classify_waiting(&words.0, &words.1, helper)
            }
            _ => None,
        })
    };
    let (reason, verdict, message) = installing.or_else(mounting)?;
    (verdict == Retry::Permanent).then(|| (reason, format!("helper image {helper}: {message}")))
}

fn classify_waiting(
    reason: &str,
    message: &str,
    image: &str,
) -> Option<(FailureReason, Retry, String)> {
    classify(reason, message, image)
        .map(|(found, verdict)| (found, verdict, format!("{reason}: {message}")))
}

fn image_outcome(facts: &ContainerInfo, image: &ImageRef) -> ImageOutcome {
    match &facts.state {
        ContainerState::Running | ContainerState::Waiting(None) => ImageOutcome::Pending(None),
        ContainerState::Terminated(0, _) => {
            ImageOutcome::Warm(digest_of(facts.image_id.as_deref().unwrap_or(""), image))
        }
        ContainerState::Terminated(code, words) => {
            let (reason, message) = words.as_deref().cloned().unwrap_or_default();
            let text = format!("helper exited with code {code}: {reason} {message}");
            let platform = message.contains("exec format error");
            ImageOutcome::Failed(
                if platform { FailureReason::PlatformMismatch } else { FailureReason::RunError },
                text.trim().into(),
            )
        }
        ContainerState::Waiting(Some(words)) => {
            match classify_waiting(&words.0, &words.1, image.as_written()) {
                None => ImageOutcome::Pending(None),
                Some((found, Retry::Retryable, text)) => ImageOutcome::Pending(Some((found, text))),
                Some((found, Retry::Permanent, text)) => ImageOutcome::Failed(found, text),
            }
        }
    }
}

/// Returns the digest of an `imageID` such as `host/repository@sha256:...`, but only if it belongs
/// to the repository of `image`. With image volumes, a container's `imageID` is that of the helper
/// image.
fn digest_of(image_id: &str, image: &ImageRef) -> Option<String> {
    let (name, digest) = image_id.split_once('@')?;
    name.parse::<ImageRef>().ok().filter(|found| found.repository() == image.repository())?;
    Some(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Vec<ImageRef> {
        ["r.example/a:1", "r.example/b:1"].iter().map(|text| text.parse().unwrap()).collect()
    }

    fn pod(states: Vec<ContainerState>) -> PodInfo {
        let facts = |(image, state): (u16, _)| ContainerInfo {
            image_index: image,
            state,
            image_id: Some("r.example/a@sha256:12".into()),
        };
        PodInfo { containers: (0..).zip(states).map(facts).collect(), ..PodInfo::default() }
    }

    fn outcome_of_all(pod: &PodInfo) -> PodOutcome {
        pod_outcome(pod, &images(), &[0, 1], "helper:1")
    }

    #[test]
    fn failed_image_does_not_affect_the_other() {
        let bad = ContainerState::waiting("ErrImagePull", "r.example/b:1: not found");
        let failed = ImageOutcome::Failed(
            FailureReason::ImageNotFound,
            "ErrImagePull: r.example/b:1: not found".into(),
        );
        let expected =
            PodOutcome::Images(vec![ImageOutcome::Warm(Some("sha256:12".into())), failed]);
        assert_eq!(outcome_of_all(&pod(vec![ContainerState::succeeded(), bad])), expected);
    }

    #[test]
    fn only_assigned_images_have_an_outcome() {
        let done =
            ContainerInfo { image_index: 1, state: ContainerState::succeeded(), image_id: None };
        let pod = PodInfo { containers: [done].into(), ..PodInfo::default() };
        assert_eq!(
            pod_outcome(&pod, &images(), &[1], "helper:1"),
            PodOutcome::Images(vec![ImageOutcome::Warm(None)])
        );
    }

    #[test]
    fn digest_of_another_repository_is_ignored() {
        assert_eq!(digest_of("r.example/helper@sha256:12", &images()[0]), None);
        assert_eq!(digest_of("sha256:12", &images()[0]), None);
    }

    #[test]
    fn rejected_pod_is_a_node_failure() {
        let refused = |reason: &str, message: &str| PodInfo {
            phase: PodPhase::Failed,
            reason: reason.into(),
            message: message.into(),
            ..PodInfo::default()
        };
        let cases = [
            ("OutOfpods", "too many pods", FailureReason::NodeRefused),
            (
                "Evicted",
                "The node was low on resource: ephemeral-storage.",
                FailureReason::DiskPressure,
            ),
            (
                "DeadlineExceeded",
                "Pod was active on the node longer than the specified deadline",
                FailureReason::Timeout,
            ),
        ];
        for (reason, message, expected) in cases {
            let text = format!("{reason}: {message}");
            assert_eq!(
                outcome_of_all(&refused(reason, message)),
                PodOutcome::NodeFailed(expected, text)
            );
        }
    }

    #[test]
    fn helper_image_failure_is_a_node_failure() {
        let trouble = ContainerState::waiting("ErrImagePull", "failed to pull helper:1: not found");
        let by_init = PodInfo { install_state: Some(trouble.clone()), ..pod(vec![]) };
        for pod in [by_init, pod(vec![trouble])] {
            assert!(matches!(
                outcome_of_all(&pod),
                PodOutcome::NodeFailed(FailureReason::ImageNotFound, _)
            ));
        }
    }

    #[test]
    fn retryable_error_stays_pending() {
        let timeout = ContainerState::waiting("ErrImagePull", "dial tcp: i/o timeout");
        let pod = pod(vec![timeout, ContainerState::waiting("ContainerCreating", "")]);
        let PodOutcome::Images(outcomes) = outcome_of_all(&pod) else { panic!("images") };
        assert!(matches!(
            &outcomes[0],
            ImageOutcome::Pending(Some((FailureReason::RegistryUnreachable, _)))
        ));
        assert_eq!(outcomes[1], ImageOutcome::Pending(None));
    }
}
