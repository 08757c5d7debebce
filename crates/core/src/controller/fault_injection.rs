//! Panics on demand, for tests of panic containment. Compiled into tests only.

use std::{cell::RefCell, collections::HashSet};

thread_local! {
    static SET: RefCell<HashSet<(&'static str, String)>> = RefCell::default();
}

/// Makes the code at `place` panic for the task of this name, on the current thread.
pub(super) fn inject(place: &'static str, task: &str) {
    SET.with_borrow_mut(|set| set.insert((place, task.to_owned())));
}

/// Panics if a fault was injected for this place and task.
pub(super) fn panic_if_injected(place: &'static str, task: &str) {
    let hit = SET.with_borrow(|set| set.contains(&(place, task.to_owned())));
    assert!(!hit, "fault injected by a test at {place}");
}
