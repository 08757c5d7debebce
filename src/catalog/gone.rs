//! What was deleted a moment ago: an answer of the API server that comes after the watch has told of it is not taken.

use std::collections::VecDeque;

/// So many are remembered. An answer is late by a second at most, and nobody deletes a thousand in that.
const REMEMBERED: usize = 1000;

/// The UIDs of deleted objects.
#[derive(Debug, Default)]
pub(super) struct Gone(VecDeque<Box<str>>);

impl Gone {
    pub(super) fn add(&mut self, uid: &str) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(uid.into());
    }

    pub(super) fn has(&self, uid: &str) -> bool {
        self.0.iter().any(|gone| **gone == *uid)
    }
}
