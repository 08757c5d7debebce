//! Current leadership of this replica, for code that may act only during a term.
//!
//! The election runs on a separate runtime and records the last renewal of the Lease. All code that
//! writes as the leader checks the term immediately before the write: a process that was suspended
//! for longer than the duration of the Lease detects that its term is over before any timer fires
//! or any watch event arrives.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::clock::DualClockInstant;

/// Time without a renewal after which a leader steps down: 3 s before another replica may take the
/// Lease.
pub(super) const RENEW_DEADLINE: Duration = Duration::from_secs(6);

#[derive(Debug, Default)]
struct LeadershipState {
    /// Number of times that the Lease was acquired. A term with a lower number is over permanently.
    term_number: u64,
    /// Time of the last renewal of the Lease; `None` while this replica does not hold it.
    renewed_at: Option<DualClockInstant>,
}

/// Leadership of this replica. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Leadership(Arc<Mutex<LeadershipState>>);

impl Leadership {
    /// Returns the leadership of a replica that has just acquired the Lease, for tests.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn acquired() -> Self {
        let leadership = Self::default();
        leadership.record_renewal(DualClockInstant::now());
        leadership
    }

    /// Records that the Lease was acquired or renewed by a request that started at `at`.
    pub(super) fn record_renewal(&self, at: DualClockInstant) {
        self.with_state(|state| {
            if state.renewed_at.replace(at).is_none() {
                state.term_number = state.term_number.wrapping_add(1);
            }
        });
    }

    /// Records that this replica does not hold the Lease.
    pub(super) fn record_loss(&self) {
        self.with_state(|state| state.renewed_at = None);
    }

    /// Returns the time since the last renewal of the Lease, or `None` when this replica does not
    /// hold it.
    pub(super) fn renewal_age(&self) -> Option<Duration> {
        self.with_state(|state| state.renewed_at.map(|renewed| renewed.age()))
    }

    /// Reports whether this replica holds the Lease and renewed it within [`RENEW_DEADLINE`].
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.renewal_age().is_some_and(|age| age < RENEW_DEADLINE)
    }

    /// Returns the time after which the leadership ends unless the Lease is renewed; zero when this
    /// replica does not lead.
    fn time_left(&self) -> Duration {
        let left = self.renewal_age().and_then(|age| RENEW_DEADLINE.checked_sub(age));
        left.unwrap_or_default()
    }

    /// Returns the current term, which ends with `stop` at the latest. Returns `None` while this
    /// replica does not lead.
    #[must_use]
    pub fn current_term(&self, stop: &CancellationToken) -> Option<Term> {
        let term = Term {
            leadership: self.clone(),
            number: self.with_state(|state| state.term_number),
            cancelled: stop.child_token(),
        };
        term.is_active().then_some(term)
    }

    fn with_state<T>(&self, act: impl FnOnce(&mut LeadershipState) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Term of leadership. Clones share its end.
#[derive(Debug, Clone)]
pub struct Term {
    leadership: Leadership,
    number: u64,
    cancelled: CancellationToken,
}

impl Term {
    /// Reports whether the leader may still act. Where it may not, ends the term for all clones.
    #[must_use]
    pub fn is_active(&self) -> bool {
        let same = self.leadership.with_state(|state| state.term_number) == self.number;
        if !same || !self.leadership.is_current() {
            self.cancelled.cancel();
        }
        !self.cancelled.is_cancelled()
    }

    /// Returns the time after which the term ends unless the Lease is renewed.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.leadership.time_left()
    }

    /// Ends the term.
    pub fn end(&self) {
        self.cancelled.cancel();
    }

    /// Returns the token that is cancelled when the term is over.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Runs `work` until it completes or the term is over, and returns `None` in the latter case.
    /// The term is checked before each poll of `work`; at its end `work` is dropped.
    pub async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        let (mut work, mut over) = (pin!(work), pin!(self.cancelled.cancelled()));
        poll_fn(|context| {
            if over.as_mut().poll(context).is_ready() || !self.is_active() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(context).map(Some)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_term_ends_with_the_lease() {
        let (leadership, stop) = (Leadership::default(), CancellationToken::new());
        assert!(leadership.current_term(&stop).is_none());
        leadership.record_renewal(DualClockInstant::now());
        let term = leadership.current_term(&stop).unwrap();
        tokio::time::advance(RENEW_DEADLINE / 2).await;
        leadership.record_renewal(DualClockInstant::now());
        tokio::time::advance(RENEW_DEADLINE.saturating_sub(Duration::from_millis(1))).await;
        assert!(term.is_active());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!term.is_active() && term.cancellation().is_cancelled());
        leadership.record_renewal(DualClockInstant::now());
        assert!(!term.is_active(), "a term that is over stays over");
        assert!(leadership.current_term(&stop).unwrap().is_active());
    }

    /// Between two checks the Lease may have been lost and acquired again, while another replica
    /// led.
    #[tokio::test]
    async fn a_term_does_not_outlive_a_loss() {
        let (leadership, stop) = (Leadership::default(), CancellationToken::new());
        leadership.record_renewal(DualClockInstant::now());
        let term = leadership.current_term(&stop).unwrap();
        leadership.record_loss();
        leadership.record_renewal(DualClockInstant::now());
        assert!(!term.is_active());
    }

    #[tokio::test]
    async fn a_term_ends_with_the_process() {
        let (leadership, stop) = (Leadership::default(), CancellationToken::new());
        leadership.record_renewal(DualClockInstant::now());
        let term = leadership.current_term(&stop).unwrap();
        stop.cancel();
        assert!(!term.is_active());
    }

    /// Simulates a process that was stopped and continued: the work is ready to be polled, and no
    /// timer has fired yet.
    #[tokio::test(start_paused = true)]
    async fn work_is_not_polled_after_its_term_expired_during_suspension() {
        let (leadership, stop) = (Leadership::default(), CancellationToken::new());
        leadership.record_renewal(DualClockInstant::now());
        let term = leadership.current_term(&stop).unwrap();
        let (wake, woken) = tokio::sync::oneshot::channel::<()>();
        let mut acted = false;
        let work = async {
            let _ = woken.await;
            acted = true;
        };
        let suspended = async {
            tokio::time::advance(Duration::from_secs(30)).await;
            let _ = wake.send(());
        };
        let (result, ()) = tokio::join!(term.run(work), suspended);
        assert!(result.is_none() && !acted);
    }

    #[tokio::test]
    async fn work_is_aborted_when_its_term_is_ended() {
        let (leadership, stop) = (Leadership::default(), CancellationToken::new());
        leadership.record_renewal(DualClockInstant::now());
        let term = leadership.current_term(&stop).unwrap();
        assert_eq!(term.run(async { 7 }).await, Some(7));
        let (result, ()) =
            tokio::join!(term.run(std::future::pending::<()>()), async { term.end() });
        assert!(result.is_none());
    }
}
