//! Which waiting tasks may begin. *Pure.*

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// After each such span of waiting a task counts as one priority higher, so that a stream of urgent tasks starves no other:
/// the lowest priority passes the highest after 45 minutes.
const AGEING: Duration = Duration::from_secs(300);

/// A task that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting<'a> {
    pub(super) uid: &'a str,
    pub(super) priority: u32,
    pub(super) created: Option<Timestamp>,
}

/// The first `room` of them: by priority and waiting, then by age.
pub(super) fn next(mut waiting: Vec<Waiting<'_>>, room: usize, now: Timestamp) -> Vec<&str> {
    waiting.sort_by_key(|task| order(task, now));
    waiting.into_iter().take(room).map(|task| task.uid).collect()
}

/// Smaller goes first.
pub(super) fn order<'a>(task: &Waiting<'a>, now: Timestamp) -> (std::cmp::Reverse<u64>, Option<Timestamp>, &'a str) {
    let waited = task.created.map_or(0, |since| now.duration_since(since).as_secs().max(0).unsigned_abs());
    (
        std::cmp::Reverse(u64::from(task.priority).saturating_add(waited.checked_div(AGEING.as_secs()).unwrap_or(0))),
        task.created,
        task.uid,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(uid: &str, priority: u32, created: i64) -> Waiting<'_> {
        Waiting { uid, priority, created: Timestamp::from_second(created).ok() }
    }

    #[test]
    fn by_priority_then_age_then_name() {
        let waiting = vec![task("young", 5, 20), task("old", 5, 10), task("b", 9, 30), task("a", 9, 30)];
        let now = Timestamp::from_second(31).unwrap();
        assert_eq!(next(waiting.clone(), 9, now), ["a", "b", "old", "young"]);
        assert_eq!(next(waiting, 1, now), ["a"]);
    }

    #[test]
    fn nobody_starves() {
        let waiting = || vec![task("humble", 1, 0), task("urgent", 10, 3000)];
        assert_eq!(next(waiting(), 1, Timestamp::from_second(1000).unwrap()), ["urgent"]);
        assert_eq!(next(waiting(), 1, Timestamp::from_second(3001).unwrap()), ["humble"]);
    }
}
