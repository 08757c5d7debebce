//! Which of a task's registries do not answer, and who may still ask them. *Pure.*
//!
//! A registry that fails on some nodes, and on none succeeds, is asked by two nodes at once from then on; the images of other
//! registries are pulled meanwhile. When as many of those that ask have run out of time as the retry rule gives tries to one
//! node, the registry's images are given up for the task. One success makes all well again.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    image::Reference,
    worker::{ContainerState, ImageOutcome, PodFacts, Reason, classify},
};

/// Nodes that ask a registry at once which does not answer.
const PROBES: usize = 2;

/// A try on a node: the node's index, and how many tries have ended.
type Try = (usize, u8);

/// The registries of a task.
#[derive(Debug, Default)]
pub(super) struct Registries {
    /// On how many nodes one must fail.
    threshold: usize,
    /// Of each image, the index of its registry.
    of_image: Vec<usize>,
    all: Vec<Registry>,
}

/// One registry.
#[derive(Debug, Default)]
struct Registry {
    host: String,
    /// Nodes on which it failed, with the try, and that nothing has spoken against.
    failing: HashMap<usize, u8>,
    /// Tries in which it failed before it answered somebody.
    excused: HashSet<Try>,
    /// What was said last.
    said: String,
    /// Nodes that ask it although it does not answer.
    probes: BTreeSet<usize>,
    /// How many of those ran out of time, one after another.
    lost: u32,
    /// Whether its images are given up.
    dead: bool,
}

impl Registry {
    fn nodes(&self) -> usize {
        self.failing.len()
    }
}

/// Whether this is what a node says of a registry that does not answer.
pub(super) fn is_silence(reason: Reason) -> bool {
    matches!(reason, Reason::RegistryUnreachable | Reason::Tls)
}

impl Registries {
    pub(super) fn new(images: &[Reference], threshold: usize) -> Self {
        let mut all: Vec<Registry> = Vec::new();
        let of_image = images
            .iter()
            .map(|image| {
                let host = image.registry();
                all.iter().position(|registry| registry.host == host).unwrap_or_else(|| {
                    all.push(Registry { host: host.to_owned(), ..Registry::default() });
                    all.len().saturating_sub(1)
                })
            })
            .collect();
        Self { threshold: threshold.max(1), of_image, all }
    }

    fn of(&self, image: usize) -> Option<&Registry> {
        self.all.get(*self.of_image.get(image)?)
    }

    fn of_mut(&mut self, image: usize) -> Option<&mut Registry> {
        self.all.get_mut(*self.of_image.get(image)?)
    }

    fn is_suspect(&self, registry: &Registry) -> bool {
        !registry.dead && registry.nodes() >= self.threshold
    }

    /// Reads a pod of a try that has not ended.
    pub(super) fn see(&mut self, index: usize, attempt: u8, pod: &PodFacts, images: &[Reference]) {
        for container in &pod.containers {
            let image = usize::from(container.image);
            match &container.state {
                ContainerState::Terminated(0, _) => self.answered(image),
                ContainerState::Waiting(Some(words))
                    if words.0.starts_with("ErrImage") || words.0.starts_with("Image") =>
                {
                    let Some(reference) = images.get(image) else { continue };
                    if let Some((reason, _)) = classify(&words.0, &words.1, reference.as_written()) {
                        self.failed(index, attempt, image, reason, &words.1);
                    }
                }
                _ => {}
            }
        }
    }

    fn failed(&mut self, index: usize, attempt: u8, image: usize, reason: Reason, message: &str) {
        let Some(registry) = self.of_mut(image).filter(|_| is_silence(reason)) else { return };
        if !registry.excused.contains(&(index, attempt)) && registry.failing.insert(index, attempt) != Some(attempt) {
            message.clone_into(&mut registry.said);
        }
    }

    fn answered(&mut self, image: usize) {
        let Some(registry) = self.of_mut(image) else { return };
        if !registry.failing.is_empty() || registry.dead {
            registry.excused.extend(registry.failing.drain());
            registry.probes.clear();
            (registry.lost, registry.dead) = (0, false);
        }
    }

    /// Notes the end of a try, with one outcome per image; `tries` is how many the retry rule gives to a node. The images to
    /// be given up by that, with the reason and the words for it.
    pub(super) fn ended(
        &mut self,
        index: usize,
        attempt: u8,
        outcomes: &[ImageOutcome],
        tries: u32,
    ) -> Vec<(usize, Reason, String)> {
        let mut lost = BTreeSet::new();
        for (image, outcome) in outcomes.iter().enumerate() {
            let asked = self.of(image).is_some_and(|registry| registry.probes.contains(&index));
            match outcome {
                ImageOutcome::Failed(reason, message) | ImageOutcome::Open(Some((reason, message))) => {
                    // What was not asked for says nothing.
                    if self.of(image).is_some_and(|r| !r.dead && (asked || !self.is_suspect(r))) {
                        self.failed(index, attempt, image, *reason, message);
                    }
                    if asked && is_silence(*reason) {
                        lost.extend(self.of_image.get(image).copied());
                    }
                }
                ImageOutcome::Open(None) if asked => lost.extend(self.of_image.get(image).copied()),
                ImageOutcome::Open(None) | ImageOutcome::Warm(_) => {}
            }
        }
        let mut dead = BTreeSet::new();
        for at in lost {
            let Some(registry) = self.all.get_mut(at) else { continue };
            registry.lost = registry.lost.saturating_add(1);
            if registry.lost >= tries && !registry.dead {
                registry.dead = true;
                dead.insert(at);
            }
        }
        self.dismiss(index);
        let given_up = |(image, at): (usize, &usize)| {
            let registry = self.all.get(*at).filter(|_| dead.contains(at))?;
            let (host, nodes, said) = (&registry.host, registry.nodes(), &registry.said);
            let reason =
                if said.contains("x509") || said.contains("tls:") { Reason::Tls } else { Reason::RegistryUnreachable };
            Some((image, reason, format!("registry {host} did not answer on {nodes} nodes: {said}")))
        };
        self.of_image.iter().enumerate().filter_map(given_up).collect()
    }

    /// The node does not ask any more.
    pub(super) fn dismiss(&mut self, index: usize) {
        for registry in &mut self.all {
            registry.probes.remove(&index);
        }
    }

    /// Whether the node has to wait with the image, because its registry does not answer: others ask it. At its first try a
    /// node asks such a registry only where the task has no other, so that no batch is held up.
    pub(super) fn puts_off(&self, image: usize, index: usize, attempt: u8) -> bool {
        let Some(registry) = self.of(image).filter(|registry| self.is_suspect(registry)) else { return false };
        let all = || self.all.iter().all(|registry| self.is_suspect(registry) || registry.dead);
        if registry.probes.contains(&index) {
            return attempt == 0 && !all();
        }
        registry.probes.len() >= PROBES || attempt == 0 && !all()
    }

    /// The node asks for these images.
    pub(super) fn ask(&mut self, index: usize, images: impl IntoIterator<Item = usize>) {
        for image in images {
            let suspect = self.of(image).is_some_and(|registry| self.is_suspect(registry));
            if let Some(registry) = self.of_mut(image).filter(|_| suspect) {
                registry.probes.insert(index);
            }
        }
    }

    /// How many nodes more may ask, where a registry does not answer; none where all do.
    pub(super) fn probes_left(&self) -> Option<usize> {
        let suspects = self.all.iter().filter(|registry| self.is_suspect(registry));
        suspects.map(|registry| PROBES.saturating_sub(registry.probes.len())).min()
    }

    /// The registries that do not answer, with what was said.
    pub(super) fn silent(&self) -> impl Iterator<Item = (&str, usize, &str)> {
        let silent = self.all.iter().filter(|registry| registry.dead || self.is_suspect(registry));
        silent.map(|registry| (registry.host.as_str(), registry.nodes(), registry.said.as_str()))
    }

    /// Why the image is not asked for on a node now.
    pub(super) fn why(&self, image: usize) -> String {
        let (host, said) = self.of(image).map_or(("", ""), |registry| (&registry.host, &registry.said));
        format!("not asked for on this node now, because registry {host} does not answer on others: {said}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::ContainerFacts;

    const SAID: &str = "dial tcp 192.0.2.1:443: i/o timeout";

    fn images(names: &[&str]) -> Vec<Reference> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn pod(states: &[ContainerState]) -> PodFacts {
        let container =
            |(image, state): (u16, &ContainerState)| ContainerFacts { image, state: state.clone(), image_id: None };
        PodFacts { containers: (0..).zip(states).map(container).collect(), ..PodFacts::default() }
    }

    fn bad() -> ContainerState {
        ContainerState::waiting("ErrImagePull", SAID)
    }

    fn open() -> ImageOutcome {
        ImageOutcome::Open(Some((Reason::RegistryUnreachable, SAID.into())))
    }

    #[test]
    fn a_registry_that_fails_on_three_nodes_is_asked_by_two() {
        let names = images(&["dead.example/a:1", "dead.example/b:1"]);
        let mut registries = Registries::new(&names, 3);
        for index in 0..3 {
            assert_eq!((registries.probes_left(), registries.puts_off(0, 9, 0)), (None, false));
            registries.see(index, 0, &pod(&[bad(), bad()]), &names);
            registries.see(index, 0, &pod(&[bad(), bad()]), &names);
        }
        assert_eq!(registries.probes_left(), Some(2));
        registries.ask(0, [0, 1]);
        registries.ask(1, [0]);
        assert_eq!(registries.probes_left(), Some(0));
        assert!(!registries.puts_off(0, 0, 0) && registries.puts_off(0, 2, 0) && registries.puts_off(1, 2, 1));
        registries.dismiss(1);
        assert!(!registries.puts_off(0, 2, 1));
        assert_eq!(registries.silent().collect::<Vec<_>>(), [("dead.example", 3, SAID)]);
    }

    #[test]
    fn other_registries_are_not_held_up() {
        let names = images(&["dead.example/a:1", "good.example/b:1"]);
        let mut registries = Registries::new(&names, 3);
        for index in 0..3 {
            registries.see(index, 0, &pod(&[bad(), ContainerState::done()]), &names);
        }
        assert!(registries.puts_off(0, 0, 0) && registries.puts_off(0, 9, 0), "no first try waits for it");
        assert!(!registries.puts_off(1, 0, 0) && !registries.puts_off(0, 9, 1));
    }

    #[test]
    fn one_answer_makes_all_well() {
        let names = images(&["r.example/a:1"]);
        let mut registries = Registries::new(&names, 3);
        for index in 0..3 {
            registries.see(index, 0, &pod(&[bad()]), &names);
        }
        registries.see(3, 0, &pod(&[ContainerState::done()]), &names);
        assert_eq!(registries.probes_left(), None);
        for index in 0..5 {
            registries.see(index, 0, &pod(&[bad()]), &names);
        }
        assert_eq!(
            registries.probes_left(),
            None,
            "what failed before it answered does not count again, and two are new"
        );
        registries.see(5, 0, &pod(&[bad()]), &names);
        assert_eq!(registries.probes_left(), Some(2));
    }

    #[test]
    fn when_those_that_ask_run_out_of_time_its_images_are_given_up() {
        let names = images(&["dead.example/a:1", "good.example/b:1"]);
        for tries in [1, 3] {
            let mut registries = Registries::new(&names, 2);
            for index in 0..2 {
                registries.see(index, 0, &pod(&[bad(), ContainerState::done()]), &names);
            }
            let outcomes = [open(), ImageOutcome::Warm(None)];
            for index in 1..tries {
                registries.ask(index, [0]);
                assert!(registries.ended(index, 1, &outcomes, tries.try_into().unwrap()).is_empty());
            }
            assert!(registries.ended(99, 0, &outcomes, 1).is_empty(), "it was not asked there");
            registries.ask(9, [0]);
            let given_up = registries.ended(9, 1, &outcomes, tries.try_into().unwrap());
            assert_eq!(given_up.len(), 1, "{given_up:?}");
            assert_eq!((given_up[0].0, given_up[0].1), (0, Reason::RegistryUnreachable));
            assert!(given_up[0].2.starts_with("registry dead.example did not answer on "), "{}", given_up[0].2);
            assert_eq!(registries.probes_left(), None);
        }
    }

    #[test]
    fn a_missing_image_says_nothing_of_its_registry() {
        let names = images(&["r.example/a:1"]);
        let mut registries = Registries::new(&names, 1);
        registries.see(0, 0, &pod(&[ContainerState::waiting("ErrImagePull", "not found")]), &names);
        registries.see(0, 0, &pod(&[ContainerState::waiting("ContainerCreating", "")]), &names);
        assert_eq!(registries.probes_left(), None);
    }
}
