//! The heartbeat of the leader's work.
//!
//! The controller beats at the end of each round of its loop, which comes at least once a second and waits for no request.
//! A leader whose heart does not beat gives up the Lease (`leader`), and is not live (`/healthz`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A leader that has completed no round for this long hangs: a round takes milliseconds, and begins at least once a second.
///
/// A hung leader is replaced within 20 s. The election looks at the heartbeat every 1.875 s at most and releases the Lease;
/// the standby looks at the Lease as often: 7 + 1.9 + 1.9 = 11 s, and two requests. Where the release cannot be written, the
/// Lease has been renewed for the last time by then, and expires 9 s later: 7 + 1.9 + 9 + 1.9 = 19.8 s. The kubelet, which
/// asks `/healthz` every 3 s and waits 2 s for the answer, restarts it after two failures: 7 + 2 x 3 + 2 = 15 s.
pub const HUNG: Duration = Duration::from_secs(7);

/// The heartbeat. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat(Arc<Mutex<Option<Instant>>>);

impl Heartbeat {
    /// The leader's work begins, and is expected to beat until it ends.
    #[must_use]
    pub fn begin(&self) -> Beating {
        self.set(Some(Instant::now()));
        Beating(self.clone())
    }

    /// A round is complete.
    pub fn beat(&self) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some() {
            *last = Some(Instant::now());
        }
    }

    /// How long ago it beat. None while there is no work that should.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|last| last.elapsed())
    }

    /// Whether there is work that should beat and does not.
    #[must_use]
    pub fn is_hung(&self) -> bool {
        self.age().is_some_and(|age| age >= HUNG)
    }

    fn set(&self, to: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

/// The leader's work is under way while this exists.
#[derive(Debug)]
pub struct Beating(Heartbeat);

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_work_that_does_not_beat_hangs() {
        let heartbeat = Heartbeat::default();
        heartbeat.beat();
        assert_eq!((heartbeat.age(), heartbeat.is_hung()), (None, false));
        let work = heartbeat.begin();
        tokio::time::advance(HUNG.saturating_sub(Duration::from_millis(1))).await;
        assert!(!heartbeat.is_hung());
        heartbeat.beat();
        tokio::time::advance(HUNG).await;
        assert!(heartbeat.is_hung());
        drop(work);
        assert!(!heartbeat.is_hung() && heartbeat.age().is_none());
    }
}
