//! Registry breakers of a task: reduce the concurrency for registries that do not answer. Pure: no
//! client, no clock, no I/O.
//!
//! A breaker trips when its registry fails on a number of nodes and succeeds on none. From then on
//! two nodes at a time pull from the registry, as probes; the images of other registries are pulled
//! meanwhile. When as many probes have timed out as the retry rule gives attempts to one node, the
//! registry's images are abandoned for the task. One success resets the breaker.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    image::ImageRef,
    worker::{ContainerState, FailureReason, ImageOutcome, PodInfo, classify},
};

/// Maximum number of nodes that pull at the same time from a registry that does not answer.
const MAX_PROBES: usize = 2;

/// Attempt on a node: the node's index, and the number of ended attempts before it.
type Attempt = (usize, u8);

/// Breakers of a task's registries.
#[derive(Debug, Default)]
pub(super) struct RegistryBreakers {
    /// Number of nodes on which a registry must fail before its breaker trips.
    threshold: usize,
    /// Index of the registry, by image index.
    registry_of_image: Vec<usize>,
    registries: Vec<RegistryState>,
}

/// State of one registry.
#[derive(Debug, Default)]
struct RegistryState {
    host: String,
    /// Nodes on which the registry fails, with the attempt, since its last success.
    failing: HashMap<usize, u8>,
    /// Attempts that failed before a success of the registry. Their failures do not count again.
    resolved: HashSet<Attempt>,
    /// Message of the last failure.
    last_message: String,
    /// Nodes that pull from the registry while its breaker is tripped.
    probes: BTreeSet<usize>,
    /// Number of consecutive probes that timed out.
    timeouts: u32,
    /// True when the registry's images are abandoned.
    abandoned: bool,
}

impl RegistryState {
    fn failing_nodes(&self) -> usize {
        self.failing.len()
    }

    /// Returns the reason and the message with which its images are abandoned.
    fn abandonment(&self) -> (FailureReason, String) {
        let (host, nodes, said) = (&self.host, self.failing_nodes(), &self.last_message);
        let reason = if said.contains("x509") || said.contains("tls:") {
            FailureReason::Tls
        } else {
            FailureReason::RegistryUnreachable
        };
        (reason, format!("registry {host} did not answer on {nodes} nodes: {said}"))
    }
}

/// Reports whether the reason means that the registry does not answer.
pub(super) fn is_unreachable(reason: FailureReason) -> bool {
    matches!(reason, FailureReason::RegistryUnreachable | FailureReason::Tls)
}

impl RegistryBreakers {
    pub(super) fn new(images: &[ImageRef], threshold: usize) -> Self {
        let mut all: Vec<RegistryState> = Vec::new();
        let of_image = images
            .iter()
            .map(|image| {
                let host = image.registry();
                all.iter().position(|registry| registry.host == host).unwrap_or_else(|| {
                    all.push(RegistryState { host: host.to_owned(), ..RegistryState::default() });
                    all.len().saturating_sub(1)
                })
            })
            .collect();
        Self { threshold: threshold.max(1), registry_of_image: of_image, registries: all }
    }

    fn registry(&self, image: usize) -> Option<&RegistryState> {
        self.registries.get(*self.registry_of_image.get(image)?)
    }

    fn registry_mut(&mut self, image: usize) -> Option<&mut RegistryState> {
        self.registries.get_mut(*self.registry_of_image.get(image)?)
    }

    fn is_tripped(&self, registry: &RegistryState) -> bool {
        !registry.abandoned && registry.failing_nodes() >= self.threshold
    }

    /// Reads a pod of an attempt that has not ended.
    pub(super) fn observe_pod(
        &mut self,
        index: usize,
        attempt: u8,
        pod: &PodInfo,
        images: &[ImageRef],
    ) {
        for container in &pod.containers {
            let image = usize::from(container.image_index);
            match &container.state {
                ContainerState::Terminated(0, _) => self.record_success(image),
                ContainerState::Waiting(Some(words))
                    if words.0.starts_with("ErrImage") || words.0.starts_with("Image") =>
                {
                    let Some(reference) = images.get(image) else { continue };
                    if let Some((reason, _)) = classify(&words.0, &words.1, reference.as_written())
                    {
                        self.record_failure(index, attempt, image, reason, &words.1);
                    }
                }
                _ => {}
            }
        }
    }

    fn record_failure(
        &mut self,
        index: usize,
        attempt: u8,
        image: usize,
        reason: FailureReason,
        message: &str,
    ) {
        let Some(registry) = self.registry_mut(image).filter(|_| is_unreachable(reason)) else {
            return;
        };
        if !registry.resolved.contains(&(index, attempt))
            && registry.failing.insert(index, attempt) != Some(attempt)
        {
            message.clone_into(&mut registry.last_message);
        }
    }

    fn record_success(&mut self, image: usize) {
        let Some(registry) = self.registry_mut(image) else { return };
        if !registry.failing.is_empty() || registry.abandoned {
            registry.resolved.extend(registry.failing.drain());
            registry.probes.clear();
            (registry.timeouts, registry.abandoned) = (0, false);
        }
    }

    /// Records the end of an attempt, with one outcome per image. `tries` is the number of attempts
    /// that the retry rule gives to a node. Returns the images to abandon, with reason and message.
    pub(super) fn finish_attempt(
        &mut self,
        index: usize,
        attempt: u8,
        outcomes: &[ImageOutcome],
        tries: u32,
    ) -> Vec<(usize, FailureReason, String)> {
        let lost = self.observe_outcomes(index, attempt, outcomes);
        let abandoned = self.count_timeouts(lost, tries);
        self.release_probes(index);
        self.registry_of_image
            .iter()
            .enumerate()
            .filter(|(_, at)| abandoned.contains(at))
            .filter_map(|(image, at)| {
                let (reason, message) = self.registries.get(*at)?.abandonment();
                Some((image, reason, message))
            })
            .collect()
    }

    /// Records the outcomes of an attempt. Returns the registries that a probe of the node did not
    /// reach.
    fn observe_outcomes(
        &mut self,
        index: usize,
        attempt: u8,
        outcomes: &[ImageOutcome],
    ) -> BTreeSet<usize> {
        let mut lost = BTreeSet::new();
        for (image, outcome) in outcomes.iter().enumerate() {
            let asked =
                self.registry(image).is_some_and(|registry| registry.probes.contains(&index));
            match outcome {
                ImageOutcome::Failed(reason, message)
                | ImageOutcome::Pending(Some((reason, message))) => {
                    // An image that was not requested gives no information about its registry.
                    if self
                        .registry(image)
                        .is_some_and(|r| !r.abandoned && (asked || !self.is_tripped(r)))
                    {
                        self.record_failure(index, attempt, image, *reason, message);
                    }
                    if asked && is_unreachable(*reason) {
                        lost.extend(self.registry_of_image.get(image).copied());
                    }
                }
                ImageOutcome::Pending(None) if asked => {
                    lost.extend(self.registry_of_image.get(image).copied());
                }
                ImageOutcome::Pending(None) | ImageOutcome::Warm(_) => {}
            }
        }
        lost
    }

    /// Counts a timeout of each registry. Returns those that are abandoned after it.
    fn count_timeouts(&mut self, lost: BTreeSet<usize>, tries: u32) -> BTreeSet<usize> {
        let mut abandoned = BTreeSet::new();
        for at in lost {
            let Some(registry) = self.registries.get_mut(at) else { continue };
            registry.timeouts = registry.timeouts.saturating_add(1);
            if registry.timeouts >= tries && !registry.abandoned {
                registry.abandoned = true;
                abandoned.insert(at);
            }
        }
        abandoned
    }

    /// Releases the probes of a node.
    pub(super) fn release_probes(&mut self, index: usize) {
        for registry in &mut self.registries {
            registry.probes.remove(&index);
        }
    }

    /// Reports whether the node must defer the image because its registry does not answer and
    /// others probe it. In its first attempt a node probes only where the task has no other
    /// registry, so that no batch is delayed.
    pub(super) fn defers(&self, image: usize, index: usize, attempt: u8) -> bool {
        let Some(registry) = self.registry(image).filter(|registry| self.is_tripped(registry))
        else {
            return false;
        };
        let all = || {
            self.registries.iter().all(|registry| self.is_tripped(registry) || registry.abandoned)
        };
        if registry.probes.contains(&index) {
            return attempt == 0 && !all();
        }
        registry.probes.len() >= MAX_PROBES || attempt == 0 && !all()
    }

    /// Records that the node pulls these images. They become probes where the breaker is tripped.
    pub(super) fn start_probe(&mut self, index: usize, images: impl IntoIterator<Item = usize>) {
        for image in images {
            let suspect = self.registry(image).is_some_and(|registry| self.is_tripped(registry));
            if let Some(registry) = self.registry_mut(image).filter(|_| suspect) {
                registry.probes.insert(index);
            }
        }
    }

    /// Returns the number of free probes where a breaker is tripped; none if no breaker is.
    pub(super) fn probes_left(&self) -> Option<usize> {
        let suspects = self.registries.iter().filter(|registry| self.is_tripped(registry));
        suspects.map(|registry| MAX_PROBES.saturating_sub(registry.probes.len())).min()
    }

    /// Returns the registries that do not answer, with the number of failing nodes and the last
    /// message.
    pub(super) fn unreachable(&self) -> impl Iterator<Item = (&str, usize, &str)> {
        let silent = self
            .registries
            .iter()
            .filter(|registry| registry.abandoned || self.is_tripped(registry));
        silent.map(|registry| {
            (registry.host.as_str(), registry.failing_nodes(), registry.last_message.as_str())
        })
    }

    /// Returns the message for an image that is deferred on a node.
    pub(super) fn deferral_message(&self, image: usize) -> String {
        let (host, said) = self
            .registry(image)
            .map_or(("", ""), |registry| (&registry.host, &registry.last_message));
        format!(
            "not pulled on this node, because registry {host} does not answer on other nodes: {said}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::ContainerInfo;

    const TIMEOUT_MESSAGE: &str = "dial tcp 192.0.2.1:443: i/o timeout";

    fn images(names: &[&str]) -> Vec<ImageRef> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn pod(states: &[ContainerState]) -> PodInfo {
        let container = |(image, state): (u16, &ContainerState)| ContainerInfo {
            image_index: image,
            state: state.clone(),
            image_id: None,
        };
        PodInfo { containers: (0..).zip(states).map(container).collect(), ..PodInfo::default() }
    }

    fn pull_failure() -> ContainerState {
        ContainerState::waiting("ErrImagePull", TIMEOUT_MESSAGE)
    }

    fn timed_out() -> ImageOutcome {
        ImageOutcome::Pending(Some((FailureReason::RegistryUnreachable, TIMEOUT_MESSAGE.into())))
    }

    #[test]
    fn failures_on_three_nodes_trip_the_breaker_to_two_probes() {
        let names = images(&["dead.example/a:1", "dead.example/b:1"]);
        let mut registries = RegistryBreakers::new(&names, 3);
        for index in 0..3 {
            assert_eq!((registries.probes_left(), registries.defers(0, 9, 0)), (None, false));
            registries.observe_pod(index, 0, &pod(&[pull_failure(), pull_failure()]), &names);
            registries.observe_pod(index, 0, &pod(&[pull_failure(), pull_failure()]), &names);
        }
        assert_eq!(registries.probes_left(), Some(2));
        registries.start_probe(0, [0, 1]);
        registries.start_probe(1, [0]);
        assert_eq!(registries.probes_left(), Some(0));
        assert!(
            !registries.defers(0, 0, 0) && registries.defers(0, 2, 0) && registries.defers(1, 2, 1)
        );
        registries.release_probes(1);
        assert!(!registries.defers(0, 2, 1));
        assert_eq!(
            registries.unreachable().collect::<Vec<_>>(),
            [("dead.example", 3, TIMEOUT_MESSAGE)]
        );
    }

    #[test]
    fn other_registries_are_not_delayed() {
        let names = images(&["dead.example/a:1", "good.example/b:1"]);
        let mut registries = RegistryBreakers::new(&names, 3);
        for index in 0..3 {
            registries.observe_pod(
                index,
                0,
                &pod(&[pull_failure(), ContainerState::succeeded()]),
                &names,
            );
        }
        assert!(
            registries.defers(0, 0, 0) && registries.defers(0, 9, 0),
            "no first attempt waits for it"
        );
        assert!(!registries.defers(1, 0, 0) && !registries.defers(0, 9, 1));
    }

    #[test]
    fn one_success_resets_the_breaker() {
        let names = images(&["r.example/a:1"]);
        let mut registries = RegistryBreakers::new(&names, 3);
        for index in 0..3 {
            registries.observe_pod(index, 0, &pod(&[pull_failure()]), &names);
        }
        registries.observe_pod(3, 0, &pod(&[ContainerState::succeeded()]), &names);
        assert_eq!(registries.probes_left(), None);
        for index in 0..5 {
            registries.observe_pod(index, 0, &pod(&[pull_failure()]), &names);
        }
        assert_eq!(
            registries.probes_left(),
            None,
            "failures before the success do not count again, and two are new"
        );
        registries.observe_pod(5, 0, &pod(&[pull_failure()]), &names);
        assert_eq!(registries.probes_left(), Some(2));
    }

    #[test]
    fn images_are_abandoned_when_the_probes_time_out() {
        let names = images(&["dead.example/a:1", "good.example/b:1"]);
        for tries in [1, 3] {
            let mut registries = RegistryBreakers::new(&names, 2);
            for index in 0..2 {
                registries.observe_pod(
                    index,
                    0,
                    &pod(&[pull_failure(), ContainerState::succeeded()]),
                    &names,
                );
            }
            let outcomes = [timed_out(), ImageOutcome::Warm(None)];
            for index in 1..tries {
                registries.start_probe(index, [0]);
                assert!(
                    registries
                        .finish_attempt(index, 1, &outcomes, tries.try_into().unwrap())
                        .is_empty()
                );
            }
            assert!(
                registries.finish_attempt(99, 0, &outcomes, 1).is_empty(),
                "it was not requested there"
            );
            registries.start_probe(9, [0]);
            let given_up = registries.finish_attempt(9, 1, &outcomes, tries.try_into().unwrap());
            assert_eq!(given_up.len(), 1, "{given_up:?}");
            assert_eq!((given_up[0].0, given_up[0].1), (0, FailureReason::RegistryUnreachable));
            assert!(
                given_up[0].2.starts_with("registry dead.example did not answer on "),
                "{}",
                given_up[0].2
            );
            assert_eq!(registries.probes_left(), None);
        }
    }

    #[test]
    fn the_breaker_of_an_abandoned_registry_that_answers_again_can_trip_again() {
        let names = images(&["r.example/a:1"]);
        let mut registries = RegistryBreakers::new(&names, 1);
        registries.observe_pod(0, 0, &pod(&[pull_failure()]), &names);
        registries.start_probe(1, [0]);
        assert_eq!(registries.finish_attempt(1, 0, &[timed_out()], 1).len(), 1);
        assert_eq!(registries.probes_left(), None);
        registries.observe_pod(2, 0, &pod(&[ContainerState::succeeded()]), &names);
        registries.observe_pod(3, 0, &pod(&[pull_failure()]), &names);
        assert_eq!(registries.probes_left(), Some(2));
    }

    #[test]
    fn a_missing_image_does_not_trip_the_breaker() {
        let names = images(&["r.example/a:1"]);
        let mut registries = RegistryBreakers::new(&names, 1);
        registries.observe_pod(
            0,
            0,
            &pod(&[ContainerState::waiting("ErrImagePull", "not found")]),
            &names,
        );
        registries.observe_pod(
            0,
            0,
            &pod(&[ContainerState::waiting("ContainerCreating", "")]),
            &names,
        );
        assert_eq!(registries.probes_left(), None);
    }
}
