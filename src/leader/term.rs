//! The leadership of this replica as it stands at this moment, for code that may act only while it holds.
//!
//! The election runs on a runtime of its own and tells when the Lease was last renewed. Everything that writes as the
//! leader looks here immediately before it writes: a process that was suspended for longer than the Lease lasts finds at its
//! first step that its term is over, before any timer or watch has told it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::RENEW_DEADLINE;

/// A moment by two clocks. The monotonic one stands still while a virtual machine is suspended; the wall clock may be set.
/// The longer of the two spans counts: a wall clock that is set forward costs one needless step-down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }

    pub(super) fn age(&self) -> Duration {
        self.at.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

#[derive(Debug, Default)]
struct State {
    /// Counts how often the Lease was obtained: a term of an earlier count is over for good.
    term: u64,
    /// When the Lease was last renewed; none while it is not ours.
    renewed: Option<Moment>,
}

/// Whether this replica leads. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Leadership(Arc<Mutex<State>>);

impl Leadership {
    /// The Lease was obtained or renewed by a request that was begun at `at`.
    pub(super) fn renewed(&self, at: Moment) {
        self.with(|state| {
            if state.renewed.replace(at).is_none() {
                state.term = state.term.wrapping_add(1);
            }
        });
    }

    /// The Lease is not ours any more.
    pub(super) fn lost(&self) {
        self.with(|state| state.renewed = None);
    }

    /// How long ago the Lease was renewed, if it is ours.
    pub(super) fn age(&self) -> Option<Duration> {
        self.with(|state| state.renewed.map(|renewed| renewed.age()))
    }

    /// Whether the Lease is ours, and was renewed within [`RENEW_DEADLINE`].
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.age().is_some_and(|age| age < RENEW_DEADLINE)
    }

    /// A term of leadership, which ends with `stop` at the latest. None while this replica does not lead.
    #[must_use]
    pub fn begin(&self, stop: &CancellationToken) -> Option<Term> {
        let term = Term { leadership: self.clone(), number: self.with(|state| state.term), over: stop.child_token() };
        term.holds().then_some(term)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One term of leadership. Clones end together.
#[derive(Debug, Clone)]
pub struct Term {
    leadership: Leadership,
    number: u64,
    over: CancellationToken,
}

impl Term {
    /// Whether the leader may still act. Ends the term for all who share it when it may not.
    #[must_use]
    pub fn holds(&self) -> bool {
        let same = self.leadership.with(|state| state.term) == self.number;
        if !same || !self.leadership.is_current() {
            self.over.cancel();
        }
        !self.over.is_cancelled()
    }

    /// Ends the term.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// Is cancelled when the term is over.
    #[must_use]
    pub fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Runs `work` as long as the term holds, and drops it where it stands when the term is over. Whether the term holds is
    /// looked at before each step of `work`.
    pub async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        let (mut work, mut over) = (pin!(work), pin!(self.over.cancelled()));
        poll_fn(|context| {
            if over.as_mut().poll(context).is_ready() || !self.holds() {
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
        assert!(leadership.begin(&stop).is_none());
        leadership.renewed(Moment::now());
        let term = leadership.begin(&stop).unwrap();
        tokio::time::advance(RENEW_DEADLINE / 2).await;
        leadership.renewed(Moment::now());
        tokio::time::advance(RENEW_DEADLINE.saturating_sub(Duration::from_millis(1))).await;
        assert!(term.holds());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!term.holds() && term.over().is_cancelled());
        leadership.renewed(Moment::now());
        assert!(!term.holds(), "a term that is over does not come back");
        assert!(leadership.begin(&stop).unwrap().holds());
    }

    /// Between two looks the Lease may have been lost and obtained again: others have led meanwhile.
    #[tokio::test]
    async fn a_term_does_not_outlive_a_loss() {
        let (leadership, stop) = (Leadership::default(), CancellationToken::new());
        leadership.renewed(Moment::now());
        let term = leadership.begin(&stop).unwrap();
        leadership.lost();
        leadership.renewed(Moment::now());
        assert!(!term.holds());
    }

    #[tokio::test]
    async fn a_term_ends_with_the_process() {
        let (leadership, stop) = (Leadership::default(), CancellationToken::new());
        leadership.renewed(Moment::now());
        let term = leadership.begin(&stop).unwrap();
        stop.cancel();
        assert!(!term.holds());
    }

    /// As in a process that was stopped and continued: the work is ready to go on, and no timer has fired yet.
    #[tokio::test(start_paused = true)]
    async fn work_that_wakes_up_too_late_does_nothing() {
        let (leadership, stop) = (Leadership::default(), CancellationToken::new());
        leadership.renewed(Moment::now());
        let term = leadership.begin(&stop).unwrap();
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
        leadership.renewed(Moment::now());
        let term = leadership.begin(&stop).unwrap();
        assert_eq!(term.run(async { 7 }).await, Some(7));
        let (result, ()) = tokio::join!(term.run(std::future::pending::<()>()), async { term.end() });
        assert!(result.is_none());
    }
}
