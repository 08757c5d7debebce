//! Cron expressions in a time zone. Pure: no client, no clock, no I/O.

use croner::parser::{CronParser, Seconds, Year};
use jiff::{Timestamp, Zoned, tz::TimeZone};

/// Nicknames that replace the five fields.
const NICKNAMES: [&str; 7] =
    ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

const EXPECTED: &str = "expected minute, hour, day of the month, month and day of the week, such as \"30 2 * * MON-FRI\", or \
     @hourly, @daily, @weekly, @monthly, @yearly";

/// Error of a cron expression or its time zone. The text describes what is expected.
#[derive(Debug, thiserror::Error)]
pub enum CronError {
    /// Neither five fields nor a known nickname.
    #[error("{EXPECTED}")]
    Format,
    /// Invalid field.
    #[error("{0}; {EXPECTED}")]
    Field(#[source] croner::errors::CronError),
    /// Name that the IANA database does not contain.
    #[error("unknown time zone: expected a name such as UTC or Europe/Berlin")]
    TimeZone,
    /// Expression without any scheduled time.
    #[error("the expression never matches: no such day in any year")]
    NeverMatches,
}

/// Cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Cron {
    fields: croner::Cron,
    zone: TimeZone,
}

/// Returns the time zone of that name in the IANA database; UTC where the name is empty.
pub fn parse_time_zone(name: &str) -> Result<TimeZone, CronError> {
    if name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| CronError::TimeZone)
}

impl Cron {
    /// Parses five fields, or a nickname such as `@daily`. The error describes what is expected.
    pub fn parse(text: &str, zone: &str) -> Result<Self, CronError> {
        let text = text.trim();
        let well_formed = if text.starts_with('@') {
            NICKNAMES.contains(&text.to_lowercase().as_str())
        } else {
            text.split_whitespace().count() == 5
        };
        if !well_formed {
            return Err(CronError::Format);
        }
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let fields = parser.parse(text).map_err(CronError::Field)?;
        let cron = Self { fields, zone: parse_time_zone(zone)? };
        if cron.next_time(Timestamp::UNIX_EPOCH).is_none() {
            return Err(CronError::NeverMatches);
        }
        Ok(cron)
    }

    /// Returns a description of the expression in English.
    #[must_use]
    pub fn describe(&self) -> String {
        self.fields.describe()
    }

    /// Converts a time to the time zone of the expression.
    #[must_use]
    pub fn to_local(&self, time: Timestamp) -> Zoned {
        time.to_zoned(self.zone.clone())
    }

    /// Returns the first scheduled time after `time`.
    #[must_use]
    pub fn next_time(&self, time: Timestamp) -> Option<Timestamp> {
        self.fields
            .find_next_occurrence(&time.to_zoned(self.zone.clone()), false)
            .ok()
            .map(|tick| tick.timestamp())
    }

    /// Returns the first `many` scheduled times after `time`.
    #[must_use]
    pub fn next_times(&self, time: Timestamp, many: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next_time(time), |tick| self.next_time(*tick))
            .take(many)
            .collect()
    }

    /// Returns the last scheduled time at or before `time`.
    #[must_use]
    pub fn previous(&self, time: Timestamp) -> Option<Timestamp> {
        self.fields
            .find_previous_occurrence(&time.to_zoned(self.zone.clone()), true)
            .ok()
            .map(|tick| tick.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ticks(cron: &str, zone: &str, from: &str, many: usize) -> Vec<String> {
        let cron = Cron::parse(cron, zone).unwrap();
        let local =
            |tick: Timestamp| tick.to_zoned(cron.zone.clone()).strftime("%d %H:%M%:z").to_string();
        cron.next_times(at(from), many).into_iter().map(local).collect()
    }

    #[rstest]
    #[case("30 2 * * *", &["21 02:30+00:00", "22 02:30+00:00"])]
    #[case("*/20 9-10 * * MON-FRI", &["23 09:00+00:00", "23 09:20+00:00", "23 09:40+00:00", "23 10:00+00:00"])]
    #[case("0 0 1,15 DEC *", &["01 00:00+00:00", "15 00:00+00:00"])]
    #[case("@daily", &["22 00:00+00:00"])]
    #[case("@Hourly", &["21 01:00+00:00"])]
    #[case("5 4 * * sun", &["22 04:05+00:00"])]
    #[case("5 4 * * 7", &["22 04:05+00:00"])]
    #[case("0 12 13 * FRI", &["27 12:00+00:00", "04 12:00+00:00", "11 12:00+00:00", "13 12:00+00:00"])]
    fn expressions_have_these_times(#[case] cron: &str, #[case] expected: &[&str]) {
        assert_eq!(ticks(cron, "", "2026-11-21T00:00:30Z", expected.len()), expected);
    }

    /// Clocks in Berlin change from 02:00 to 03:00 on 28 March 2027. A time that does not exist is
    /// replaced by the end of the gap.
    #[test]
    fn nonexistent_local_times_are_moved() {
        let day = "2027-03-27T12:00:00Z";
        assert_eq!(
            ticks("30 2 * * *", "Europe/Berlin", day, 2),
            ["28 03:00+02:00", "29 02:30+02:00"]
        );
        assert_eq!(
            ticks("*/30 * * * *", "Europe/Berlin", "2027-03-28T00:15:00Z", 3),
            ["28 01:30+01:00", "28 03:00+02:00", "28 03:30+02:00"]
        );
    }

    /// Clocks in Berlin change from 03:00 to 02:00 on 25 October 2026. A fixed time of day occurs
    /// once; an interval continues.
    #[test]
    fn repeated_local_times_run_once() {
        let day = "2026-10-24T12:00:00Z";
        assert_eq!(
            ticks("30 2 * * *", "Europe/Berlin", day, 2),
            ["25 02:30+02:00", "26 02:30+01:00"]
        );
        assert_eq!(
            ticks("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:15:00Z", 4),
            ["25 02:30+02:00", "25 02:00+01:00", "25 02:30+01:00", "25 03:00+01:00"]
        );
    }

    #[rstest]
    #[case("* * * *")]
    #[case("* * * * * *")]
    #[case("60 * * * *")]
    #[case("0 0 31 2 *")]
    #[case("@every 5m")]
    #[case("@reboot")]
    #[case("")]
    #[case("a b c d e")]
    #[case("*/0 * * * *")]
    fn invalid_expressions_are_rejected(#[case] cron: &str) {
        let error = Cron::parse(cron, "").unwrap_err().to_string();
        assert!(error.contains("expected") || error.contains("no such day"), "{error}");
    }

    #[test]
    fn time_zones_are_validated() {
        assert!(
            parse_time_zone("America/St_Johns").is_ok()
                && parse_time_zone("").is_ok()
                && parse_time_zone("UTC").is_ok()
        );
        assert!(matches!(Cron::parse("@daily", "Mars/Olympus"), Err(CronError::TimeZone)));
    }

    proptest! {
        /// For any expression and day, scheduled times increase, and the last one at or before a
        /// scheduled time is that time.
        #[test]
        fn scheduled_times_increase(minute in 0..60u8, hour in 0..24u8, step in 1..30u8, start in 1_770_000_000i64..1_810_000_000) {
            for text in [format!("{minute} {hour} * * *"), format!("*/{step} * * * *"), format!("{minute} */3 * * *")] {
                let cron = Cron::parse(&text, "Europe/Berlin").unwrap();
                let start = Timestamp::from_second(start).unwrap();
                let next = cron.next_time(start).unwrap();
                prop_assert!(next > start);
                let last = cron.previous(next).unwrap();
                prop_assert_eq!(last, next, "{}", text);
                prop_assert!(cron.previous(start).unwrap() <= start);
            }
        }
    }
}
