//! Times in statuses and annotations: texts in RFC 3339, in UTC and whole seconds, as Kubernetes
//! writes them. Pure: no client, no clock, no I/O.

use k8s_openapi::jiff::Timestamp;

/// Parses a time with any offset and any precision. Returns `None` for an invalid time, and for
/// one without an offset.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Removes the fraction of the second.
#[must_use]
pub fn truncate_to_seconds(time: Timestamp) -> Timestamp {
    // Cannot fail: every second of a valid time is a valid time.
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Formats a time for [`parse`], in UTC and whole seconds.
#[must_use]
pub fn format(time: Timestamp) -> String {
    truncate_to_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2026-11-21T10:00:00Z", Some(1_795_255_200))]
    #[case("2026-11-21T11:00:00+01:00", Some(1_795_255_200))]
    #[case("2026-11-21T10:00:00.75Z", Some(1_795_255_200))]
    #[case("2026-11-21", None)]
    #[case("2026-11-21T10:00:00", None)]
    #[case("soon", None)]
    #[case("", None)]
    fn texts_are_parsed(#[case] text: &str, #[case] second: Option<i64>) {
        assert_eq!(parse(text).map(Timestamp::as_second), second);
    }

    #[test]
    fn formatted_time_has_whole_seconds() {
        let time: Timestamp = "2026-11-21T11:00:59.999999999+01:00".parse().unwrap();
        assert_eq!(format(time), "2026-11-21T10:00:59Z");
    }

    #[test]
    fn formatted_time_is_parsed_to_the_truncated_time() {
        let time: Timestamp = "2026-11-21T10:00:59.5Z".parse().unwrap();
        assert_eq!(parse(&format(time)), Some(truncate_to_seconds(time)));
    }

    #[rstest]
    #[case(Timestamp::MIN)]
    #[case(Timestamp::MAX)]
    fn limits_are_truncated(#[case] limit: Timestamp) {
        assert_eq!(truncate_to_seconds(limit).as_second(), limit.as_second());
    }
}
