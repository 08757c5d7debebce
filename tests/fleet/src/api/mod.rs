//! Conversion from and to the objects of the API server, so that the program that connects the
//! simulator with one only transfers them.

mod read;
mod write;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

pub use self::{
    read::{DEFAULT_RUN_TIME, EXIT_CODE_ANNOTATION, PodError, RUN_TIME_ANNOTATION},
    write::disk_pressure_condition,
};
use crate::time::{SimTime, micros};

/// Relation between simulated time and the time of day. With an acceleration of 10, ten simulated
/// seconds pass in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Time of day at the start of the simulation.
    pub epoch: Timestamp,
    /// Simulated seconds of one second; 0 counts as 1.
    pub acceleration: u32,
}

impl Clock {
    /// Returns the time of day of a point in simulated time; the last one that can be represented
    /// for later points.
    #[must_use]
    pub fn timestamp(&self, at: SimTime) -> Timestamp {
        let micros = at.as_micros().checked_div(u64::from(self.acceleration.max(1)));
        let micros = i64::try_from(micros.unwrap_or_default()).unwrap_or(i64::MAX);
        self.epoch.checked_add(SignedDuration::from_micros(micros)).unwrap_or(Timestamp::MAX)
    }

    /// Returns the point in simulated time of a time of day; the start for earlier ones.
    #[must_use]
    pub fn sim_time(&self, at: Timestamp) -> SimTime {
        let elapsed = at.duration_since(self.epoch).unsigned_abs();
        if at < self.epoch {
            return SimTime::ZERO;
        }
        SimTime::from_micros(micros(elapsed).saturating_mul(u64::from(self.acceleration.max(1))))
    }

    fn time(&self, at: SimTime) -> Time {
        Time(self.timestamp(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accelerated_clock_passes_simulated_time_faster() {
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock { epoch, acceleration: 10 };
        let later: Timestamp = "2026-01-01T00:00:06Z".parse().unwrap();
        assert_eq!(clock.timestamp(SimTime::from_secs(60)), later);
        assert_eq!(clock.sim_time(later), SimTime::from_secs(60));
        let earlier: Timestamp = "2025-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(clock.sim_time(earlier), SimTime::ZERO);
    }

    #[test]
    fn the_clock_has_no_gap_at_its_ends() {
        let clock = Clock { epoch: Timestamp::MAX, acceleration: 0 };
        assert_eq!(clock.timestamp(SimTime::MAX), Timestamp::MAX);
        let clock = Clock { epoch: Timestamp::MIN, acceleration: u32::MAX };
        assert_eq!(clock.sim_time(Timestamp::MAX), SimTime::MAX);
    }
}
