//! Time of a renewal of the Lease, by two clocks.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Time by the monotonic clock and the wall clock. The monotonic clock does not advance while a
/// virtual machine is suspended; the wall clock may be set. The longer of the two durations counts:
/// a wall clock that is set forward causes one unnecessary step-down.
#[derive(Debug, Clone, Copy)]
pub(super) struct DualClockInstant {
    at: Instant,
    wall: SystemTime,
}

impl DualClockInstant {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }

    pub(super) fn age(&self) -> Duration {
        self.at.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}
