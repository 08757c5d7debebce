//! Durations in the format of Kubernetes and Go: `500ms`, `10m`, `1h30m`. Pure: no client, no
//! clock, no I/O.

use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;

use crate::timestamp;

/// Text that is not a duration, or that is longer than a [`Duration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 500ms, 30s, 10m or 1h30m")]
pub struct DurationError;

/// Parses a duration. The error states the expected format.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(DurationError)?;
        let number: f64 = rest[..digits].parse().map_err(|_| DurationError)?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(DurationError),
        };
        let part = Duration::try_from_secs_f64(number * unit).map_err(|_| DurationError)?;
        total = total.checked_add(part).ok_or(DurationError)?;
        rest = &rest[end..];
    }
    if text.is_empty() { Err(DurationError) } else { Ok(total) }
}

/// Formats a duration for [`parse`], in whole seconds or, below one second, in milliseconds.
#[must_use]
pub fn format(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds == 0 {
        return if span.is_zero() { "0s".to_owned() } else { format!("{}ms", span.as_millis()) };
    }
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let part = |(amount, unit): &(u64, &str)| (*amount > 0).then(|| format!("{amount}{unit}"));
    parts.iter().filter_map(part).collect::<Vec<_>>().concat()
}

/// Formats a duration for people as kubectl formats ages, with the two largest units where the
/// second one matters: `45s`, `5m`, `3h12m`, `2d4h`. A negative duration is `0s`.
#[must_use]
pub fn format_human(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |major: i64, unit: char, minor: i64, small: char| {
        if minor == 0 { format!("{major}{unit}") } else { format!("{major}{unit}{minor}{small}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, 'd', hours % 24, 'h'),
        () => format!("{days}d"),
    }
}

/// Returns the time from `start` to `end`, both RFC 3339; `None` if one is missing or invalid.
#[must_use]
pub fn elapsed(start: Option<&str>, end: Option<&str>) -> Option<SignedDuration> {
    Some(timestamp::parse(end?)?.duration_since(timestamp::parse(start?)?))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("500ms", Some(500))]
    #[case("1s", Some(1000))]
    #[case("1.5s", Some(1500))]
    #[case("1h30m", Some(5_400_000))]
    #[case("0s", Some(0))]
    #[case("", None)]
    #[case("10", None)]
    #[case("10d", None)]
    #[case("-1s", None)]
    #[case("s", None)]
    #[case("99999999999999999999h", None)]
    fn parses_durations(#[case] text: &str, #[case] milliseconds: Option<u64>) {
        assert_eq!(parse(text).ok(), milliseconds.map(Duration::from_millis));
    }

    #[test]
    fn formatted_durations_can_be_parsed() {
        for text in ["0s", "500ms", "1s", "10m", "1h30m", "24h", "2h5s"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }

    #[rstest]
    #[case(-5, "0s")]
    #[case(119, "119s")]
    #[case(120, "2m")]
    #[case(150, "2m30s")]
    #[case(600, "10m")]
    #[case(3 * 3600 + 600, "3h10m")]
    #[case(86_400, "24h")]
    #[case(3 * 86_400 + 7200, "3d2h")]
    #[case(90 * 86_400, "90d")]
    fn durations_are_formatted_as_by_kubectl(#[case] seconds: i64, #[case] expected: &str) {
        assert_eq!(format_human(SignedDuration::from_secs(seconds)), expected);
    }

    #[test]
    fn elapsed_between_times() {
        let (start, end) = (Some("2026-11-21T10:00:00Z"), Some("2026-11-21T11:30:00+01:00"));
        assert_eq!(elapsed(start, end), Some(SignedDuration::from_mins(30)));
        assert_eq!(elapsed(end, start), Some(SignedDuration::from_mins(-30)));
        assert!(elapsed(start, None).is_none() && elapsed(Some("soon"), end).is_none());
    }
}
