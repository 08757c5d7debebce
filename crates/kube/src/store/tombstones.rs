//! Tombstones of recently deleted objects. A response of the API server that arrives after the
//! watch event of the deletion must not bring the object back.

use std::collections::VecDeque;

/// Number of tombstones that are kept. A response is late by a second at most, in which fewer
/// objects are deleted.
const CAPACITY: usize = 1000;

/// UIDs of deleted objects, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tombstones(VecDeque<Box<str>>);

impl Tombstones {
    pub(super) fn insert(&mut self, uid: &str) {
        if self.0.len() >= CAPACITY {
            self.0.pop_front();
        }
        self.0.push_back(uid.into());
    }

    pub(super) fn contains(&self, uid: &str) -> bool {
        self.0.iter().any(|gone| **gone == *uid)
    }
}
