//! Objects that were looked up and not found.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use super::objects::ObjectKey;

/// Time for which an object that was not found is not looked up again. At most `MAX_ABSENT` objects
/// are stored in each of two generations, with 16 bytes each.
pub(super) const ABSENT_TTL: Duration = Duration::from_secs(60);
const MAX_ABSENT: usize = 4096;

/// Set of objects that were looked up and not found. It stores hashes with a random key, which no
/// client can predict, in two generations.
#[derive(Debug)]
pub(super) struct AbsentObjects {
    hasher: RandomState,
    current: HashSet<u64>,
    previous: HashSet<u64>,
    rotated_at: Instant,
}

impl AbsentObjects {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            current: HashSet::new(),
            previous: HashSet::new(),
            rotated_at: now,
        }
    }

    fn rotate(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.rotated_at);
        if age >= ABSENT_TTL || self.current.len() >= MAX_ABSENT {
            self.previous = std::mem::take(&mut self.current);
            self.rotated_at = now;
            if age >= 2 * ABSENT_TTL {
                self.previous.clear();
            }
        }
    }

    pub(super) fn insert(&mut self, object: &ObjectKey, uid: &str, now: Instant) {
        self.rotate(now);
        self.current.insert(self.hasher.hash_one((object, uid)));
    }

    pub(super) fn contains(&mut self, object: &ObjectKey, uid: &str, now: Instant) -> bool {
        if self.current.is_empty() && self.previous.is_empty() {
            return false;
        }
        self.rotate(now);
        let hash = self.hasher.hash_one((object, uid));
        self.current.contains(&hash) || self.previous.contains(&hash)
    }
}
