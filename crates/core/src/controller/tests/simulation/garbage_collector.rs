//! The simulated garbage collector of kube-controller-manager: pods are deleted some rounds after
//! their Job, or Jobs after their pods.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Objects that wait for their deletion, each for a number of rounds that depends on chance.
pub(super) struct GarbageCollector<T> {
    /// Maximum number of rounds.
    delay: u8,
    /// Number of objects so far, from which the next number of rounds is derived.
    sequence: u64,
    waiting: Vec<(T, u8)>,
}

impl<T> GarbageCollector<T> {
    pub(super) fn new(delay: u8) -> Self {
        Self { delay, sequence: 0, waiting: Vec::new() }
    }

    /// Returns a number of at most `most` that depends on chance, the same in each run of a test.
    pub(super) fn next_number(&mut self, most: u8) -> u8 {
        self.sequence += 1;
        let mut hasher = DefaultHasher::new();
        (self.sequence, self.delay).hash(&mut hasher);
        u8::try_from(hasher.finish() % (u64::from(most) + 1)).unwrap()
    }

    /// Adds an object that is deleted after at most `delay` rounds.
    pub(super) fn add(&mut self, object: T) {
        let rounds = self.next_number(self.delay);
        self.waiting.push((object, rounds));
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|(object, _)| object)
    }

    /// Ends a round, and returns the objects that are deleted in it.
    pub(super) fn end_round(&mut self) -> Vec<T> {
        let due = self.waiting.extract_if(.., |(_, rounds)| *rounds == 0);
        let due = due.map(|(object, _)| object).collect();
        for (_, rounds) in &mut self.waiting {
            *rounds -= 1;
        }
        due
    }
}
