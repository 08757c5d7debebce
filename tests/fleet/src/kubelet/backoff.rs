//! Exponential back-off of pulls and restarts (`client-go/util/flowcontrol/backoff.go`).

use std::time::Duration;

use crate::time::SimTime;

/// Limits of a back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// First wait.
    pub(super) initial: Duration,
    /// Longest wait. A back-off that was not extended for twice as long begins anew.
    pub(super) max: Duration,
}

/// Wait after a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Backoff(Option<Entry>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    wait: Duration,
    updated: SimTime,
}

impl Backoff {
    /// Extends the wait: doubles it, or sets it to the first one. `at` is the time of the failure.
    pub(super) fn extend(&mut self, limits: Limits, at: SimTime, now: SimTime) {
        let wait = match self.0 {
            Some(entry) if !entry.is_expired(limits, at) => {
                entry.wait.saturating_mul(2).min(limits.max)
            }
            _ => limits.initial,
        };
        self.0 = Some(Entry { wait, updated: now });
    }

    /// Reports whether a wait counted from its last extension is not over (pulls).
    pub(super) fn waits_since_update(self, limits: Limits, now: SimTime) -> bool {
        self.0.is_some_and(|entry| {
            !entry.is_expired(limits, now) && now.since(entry.updated) < entry.wait
        })
    }

    /// Reports whether a wait counted from the end of a container is not over (restarts).
    pub(super) fn waits_since(self, limits: Limits, end: SimTime, now: SimTime) -> bool {
        self.0.is_some_and(|entry| !entry.is_expired(limits, end) && now.since(end) < entry.wait)
    }
}

impl Entry {
    fn is_expired(self, limits: Limits, at: SimTime) -> bool {
        at.since(self.updated) > limits.max.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { initial: Duration::from_secs(10), max: Duration::from_secs(300) };

    fn at(seconds: u64) -> SimTime {
        SimTime::from_secs(seconds)
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let mut backoff = Backoff::default();
        assert!(!backoff.waits_since_update(LIMITS, at(0)));
        let mut now = 0;
        for wait in [10, 20, 40, 80, 160, 300, 300] {
            backoff.extend(LIMITS, at(now), at(now));
            assert!(backoff.waits_since_update(LIMITS, at(now + wait - 1)));
            assert!(!backoff.waits_since_update(LIMITS, at(now + wait)));
            now += wait;
        }
    }

    #[test]
    fn a_back_off_begins_anew_after_twice_the_maximum() {
        let mut backoff = Backoff::default();
        backoff.extend(LIMITS, at(0), at(0));
        backoff.extend(LIMITS, at(10), at(10));
        backoff.extend(LIMITS, at(700), at(700));
        assert!(!backoff.waits_since_update(LIMITS, at(710)));
    }

    #[test]
    fn restarts_wait_from_the_end_of_the_container() {
        let mut backoff = Backoff::default();
        backoff.extend(LIMITS, at(0), at(5));
        assert!(backoff.waits_since(LIMITS, at(100), at(109)));
        assert!(!backoff.waits_since(LIMITS, at(100), at(110)));
    }
}
