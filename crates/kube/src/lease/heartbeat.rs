//! Heartbeat of the controller loop of the leader.
//!
//! The controller records a heartbeat at the end of each iteration of its loop, which runs at least
//! every 2.25 s and waits for no request. A leader without a heartbeat releases the Lease
//! (`lease`), and its liveness probe fails (`/healthz`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Age of the heartbeat from which the controller loop counts as hung. An iteration takes
/// milliseconds and starts at least every 2.25 s.
///
/// A hung leader is replaced within 20 s. The election checks the heartbeat every 1.875 s at most
/// and releases the Lease; the standby watches the Lease, or reads it at the same interval:
/// 7 + 1.9 + 1.9 = 11 s, and two requests. Where the release cannot be written, the Lease was last renewed by then and
/// expires 9 s later: 7 + 1.9 + 9 + 1.9 = 19.8 s. The kubelet, which probes `/healthz` every 3 s
/// with a timeout of 2 s, restarts the container after two failures: 7 + 2 x 3 + 2 = 15 s.
pub const HUNG_AFTER: Duration = Duration::from_secs(7);

/// Heartbeat of the controller loop. Clones share its state.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat(Arc<Mutex<Option<Instant>>>);

impl Heartbeat {
    /// Starts the heartbeat for a term. Heartbeats are expected until the returned guard is
    /// dropped.
    #[must_use]
    pub fn begin(&self) -> HeartbeatGuard {
        self.set(Some(Instant::now()));
        HeartbeatGuard(self.clone())
    }

    /// Records a completed iteration. Has no effect before [`Heartbeat::begin`].
    pub fn beat(&self) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some() {
            *last = Some(Instant::now());
        }
    }

    /// Returns the time since the last heartbeat, or `None` while no heartbeat is expected.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|last| last.elapsed())
    }

    /// Reports whether a heartbeat is expected and overdue.
    #[must_use]
    pub fn is_hung(&self) -> bool {
        self.age().is_some_and(|age| age >= HUNG_AFTER)
    }

    /// Records a heartbeat each second until the future is dropped, as the controller loop does.
    #[cfg(test)]
    pub(super) async fn beat_until_dropped(&self) {
        let _term = self.begin();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.beat();
        }
    }

    fn set(&self, to: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

/// Guard of the expectation of heartbeats. Dropping it ends the expectation.
#[derive(Debug)]
pub struct HeartbeatGuard(Heartbeat);

impl Drop for HeartbeatGuard {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_an_overdue_heartbeat_counts_as_hung() {
        let heartbeat = Heartbeat::default();
        heartbeat.beat();
        assert_eq!((heartbeat.age(), heartbeat.is_hung()), (None, false));
        let work = heartbeat.begin();
        tokio::time::advance(HUNG_AFTER.saturating_sub(Duration::from_millis(1))).await;
        assert!(!heartbeat.is_hung());
        heartbeat.beat();
        tokio::time::advance(HUNG_AFTER).await;
        assert!(heartbeat.is_hung());
        drop(work);
        assert!(!heartbeat.is_hung() && heartbeat.age().is_none());
    }
}
