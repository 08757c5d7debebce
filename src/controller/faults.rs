//! Panics on demand, for tests of what contains them. Compiled into tests only.

use std::{cell::RefCell, collections::HashSet};

thread_local! {
    static SET: RefCell<HashSet<(&'static str, String)>> = RefCell::default();
}

/// From now on, work at this place on the task of this name panics, on this thread.
pub(super) fn set(place: &'static str, task: &str) {
    SET.with_borrow_mut(|set| set.insert((place, task.to_owned())));
}

/// Panics where that was asked for.
pub(super) fn hit(place: &'static str, task: &str) {
    let hit = SET.with_borrow(|set| set.contains(&(place, task.to_owned())));
    assert!(!hit, "a fault that a test has set at {place}");
}
