//! Simulated time, and durations in the notation of Go.

use std::time::Duration;

/// Microseconds of one second.
const MICROS_PER_SECOND: u64 = 1_000_000;
/// Microseconds of one millisecond.
const MICROS_PER_MILLI: u64 = 1_000;

/// Point in simulated time, in microseconds since the start of the simulation. All arithmetic
/// saturates: the last point is 584,542 years after the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimTime(u64);

impl SimTime {
    /// Start of the simulation.
    pub const ZERO: Self = Self(0);
    /// Last representable point.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the point this many microseconds after the start.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns the point this many milliseconds after the start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(MICROS_PER_MILLI))
    }

    /// Returns the point this many seconds after the start.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// Returns the microseconds since the start.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Returns the point this much later.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(micros(wait)))
    }

    /// Returns the time since another point; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Returns the first tick after this point of a ticker with this period, which has a tick
    /// `offset` after the start. A period of zero counts as one microsecond.
    #[must_use]
    pub fn next_tick(self, period: Duration, offset: Duration) -> Self {
        let period = micros(period).max(1);
        let phase = micros(offset).checked_rem(period).unwrap_or_default();
        let Some(elapsed) = self.0.checked_sub(phase) else {
            return Self(phase);
        };
        let passed = elapsed.checked_div(period).unwrap_or_default();
        Self(phase.saturating_add(passed.saturating_add(1).saturating_mul(period)))
    }
}

/// Returns a duration in whole microseconds.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Formats a duration as Go does after truncation to milliseconds, such as `1m2.5s`, `345ms` or
/// `0s`: the notation of the kubelet's events.
#[must_use]
pub fn go_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    let (seconds, fraction) = (millis / 1_000, millis % 1_000);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    let prefix = match (hours, minutes) {
        (0, 0) => String::new(),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    };
    let decimals = if fraction == 0 { String::new() } else { format!(".{fraction:03}") };
    format!("{prefix}{}{}s", seconds % 60, decimals.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0s")]
    #[case(345, "345ms")]
    #[case(1_000, "1s")]
    #[case(1_200, "1.2s")]
    #[case(1_234, "1.234s")]
    #[case(60_000, "1m0s")]
    #[case(62_500, "1m2.5s")]
    #[case(3_600_000, "1h0m0s")]
    #[case(3_723_040, "1h2m3.04s")]
    fn durations_have_the_notation_of_go(#[case] millis: u64, #[case] expected: &str) {
        assert_eq!(go_duration(Duration::from_millis(millis)), expected);
    }

    #[test]
    fn the_next_tick_is_after_the_point() {
        let period = Duration::from_secs(10);
        let offset = Duration::from_secs(23);
        let tick = |at| SimTime::from_secs(at).next_tick(period, offset);
        assert_eq!(tick(0), SimTime::from_secs(3));
        assert_eq!(tick(3), SimTime::from_secs(13));
        assert_eq!(tick(12), SimTime::from_secs(13));
        assert_eq!(SimTime::MAX.next_tick(period, offset), SimTime::MAX);
    }

    #[test]
    fn time_saturates() {
        assert_eq!(SimTime::MAX.after(Duration::MAX), SimTime::MAX);
        assert_eq!(SimTime::ZERO.since(SimTime::MAX), Duration::ZERO);
        assert_eq!(SimTime::from_secs(u64::MAX), SimTime::MAX);
    }
}
