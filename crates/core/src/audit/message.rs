//! Parsing of the kubelet's messages of the reason `Pulled`.
//!
//! They are written by `pkg/kubelet/images/image_manager.go` and are not a stable API. Up to
//! Kubernetes 1.26 a message has the duration with up to nine decimals and nothing else, since 1.27
//! milliseconds and the duration including the time in the kubelet's queue, since 1.29 the size of
//! the image; 1.35 added that the pod can access a present image. A text after the known part is
//! ignored. Every client that may create Events can write any message, so that the length of the
//! message and all numbers are bounded.

// Input from other parties must not cause a panic: arithmetic saturates and indexing is checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::time::Duration;

/// Longest message that is parsed, in bytes: the limit of Kubernetes for new events (1,024). The
/// longest one of a kubelet has an image reference of 520 bytes and about 150 bytes around it.
pub(super) const MAX_MESSAGE_BYTES: usize = 1024;
/// Longest text of a duration: `2562047h47m16.854775807s`, the maximum of Go, has 24 bytes.
const MAX_DURATION_BYTES: usize = 24;
/// Longest wait that is believed. No image takes a day.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);
/// Largest image that is believed: 1 TiB.
pub(super) const MAX_IMAGE_BYTES: u64 = 1 << 40;
/// Prefix of client-go (`tools/record/events_cache.go`) for an event that replaces ten or more
/// events of one pod and reason within ten minutes; the text after it is the latest of their
/// messages.
const COMBINED_PREFIX: &str = "(combined from similar events): ";
/// Units of Go's durations, in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    // Micro sign and Greek letter.
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Contents of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PulledMessage<'a> {
    /// Image reference, as the pod names it.
    pub(super) image: &'a str,
    /// Durations and size of the pull; `None` if the image was present.
    pub(super) pull: Option<PullMessage>,
    /// True where the event stands for several with different messages.
    pub(super) is_combined: bool,
}

/// Durations and size of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PullMessage {
    /// Duration of the pull by the container runtime.
    pub(super) pull: Duration,
    /// Time for which the container waited, including the kubelet's queue.
    pub(super) waited: Duration,
    /// Size of the image on the node, where the message states it.
    pub(super) image_bytes: Option<u64>,
}

/// Parses a message. Returns `None` for every text that no kubelet writes for a present or pulled
/// image, and for numbers beyond the bounds.
pub(super) fn parse(message: &str) -> Option<PulledMessage<'_>> {
    if message.len() > MAX_MESSAGE_BYTES {
        return None;
    }
    let text = message.strip_prefix(COMBINED_PREFIX);
    let is_combined = text.is_some();
    let text = text.unwrap_or(message);
    if let Some(rest) = text.strip_prefix("Container image \"") {
        let (image, rest) = rest.split_once('"')?;
        let after = rest.strip_prefix(" already present on machine")?;
        let is_known = after.is_empty() || after.starts_with(' ');
        return is_known.then_some(PulledMessage { image, pull: None, is_combined });
    }
    let (image, rest) = text.strip_prefix("Successfully pulled image \"")?.split_once('"')?;
    let pull = Some(parse_pull(rest.strip_prefix(" in ")?)?);
    Some(PulledMessage { image, pull, is_combined })
}

/// Parses the part after `in`: `1.5s (2.25s including waiting). Image size: 9 bytes.`
fn parse_pull(text: &str) -> Option<PullMessage> {
    let (pull, rest) = text.split_once(' ').unwrap_or((text, ""));
    let pull = parse_duration(pull)?;
    let (waited, rest) = match rest.strip_prefix('(') {
        Some(rest) => {
            let (waited, rest) = rest.split_once(" including waiting)")?;
            // The wait contains the pull; a smaller one is forged, or was rounded.
            (parse_duration(waited)?.max(pull), rest)
        }
        None => (pull, rest),
    };
    let size = rest.strip_prefix(". Image size: ").and_then(|rest| rest.strip_suffix(" bytes."));
    let size = size.map(|digits| digits.parse().ok().filter(|size| *size <= MAX_IMAGE_BYTES));
    Some(PullMessage {
        pull,
        waited,
        image_bytes: match size {
            Some(size) => Some(size?),
            None => None,
        },
    })
}

/// Parses a duration in the format of Go's `time.Duration.String`, such as `1m2.5s` or `850ms`, of at
/// most [`MAX_WAIT`].
fn parse_duration(text: &str) -> Option<Duration> {
    if text.is_empty() || text.len() > MAX_DURATION_BYTES {
        return None;
    }
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !is_number(c))?);
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *nanoseconds)?)?;
        rest = after;
    }
    Some(Duration::from_nanos(total)).filter(|duration| *duration <= MAX_WAIT)
}

fn is_number(character: char) -> bool {
    character.is_ascii_digit() || character == '.'
}

/// Multiplies a decimal number with a unit. Digits below a nanosecond are dropped.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut total = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        total = total.checked_add(place.checked_mul(u64::from(digit.to_digit(10)?))?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// Image, and of a pull its duration and wait in microseconds, and the size.
    type Contents<'a> = (&'a str, Option<(u128, u128, Option<u64>)>);

    fn read(message: &str) -> Option<Contents<'_>> {
        let parsed = parse(message)?;
        let pull = parsed.pull;
        Some((
            parsed.image,
            pull.map(|pull| (pull.pull.as_micros(), pull.waited.as_micros(), pull.image_bytes)),
        ))
    }

    /// Messages of kubelets 1.20 to 1.36, and of one that combines events.
    #[rstest]
    #[case::up_to_1_34("Container image \"a:1\" already present on machine", Some(("a:1", None)))]
    #[case::since_1_35(
        "Container image \"a:1\" already present on machine and can be accessed by the pod",
        Some(("a:1", None))
    )]
    #[case::up_to_1_26("Successfully pulled image \"a:1\" in 3.258473923s", Some(("a:1", Some((3_258_473, 3_258_473, None)))))]
    #[case::up_to_1_26_short("Successfully pulled image \"a:1\" in 850.123456ms", Some(("a:1", Some((850_123, 850_123, None)))))]
    #[case::since_1_27(
        "Successfully pulled image \"a:1\" in 1m2.5s (1m3s including waiting)",
        Some(("a:1", Some((62_500_000, 63_000_000, None))))
    )]
    #[case::since_1_29(
        "Successfully pulled image \"ghcr.io/o/llm:latest\" in 308ms (4.308s including waiting). Image size: 64753325 bytes.",
        Some(("ghcr.io/o/llm:latest", Some((308_000, 4_308_000, Some(64_753_325)))))
    )]
    #[case::long("Successfully pulled image \"a\" in 1h0m0.007s (2h1m0s including waiting). Image size: 0 bytes.", Some(("a", Some((3_600_007_000, 7_260_000_000, Some(0))))))]
    #[case::zero("Successfully pulled image \"a\" in 0s (0s including waiting)", Some(("a", Some((0, 0, None)))))]
    #[case::microseconds("Successfully pulled image \"a\" in 12.5\u{b5}s", Some(("a", Some((12, 12, None)))))]
    #[case::combined(
        "(combined from similar events): Successfully pulled image \"a\" in 111ms (111ms including waiting). Image size: 55991820 bytes.",
        Some(("a", Some((111_000, 111_000, Some(55_991_820)))))
    )]
    #[case::waits_less_than_it_pulls("Successfully pulled image \"a\" in 9s (1s including waiting)", Some(("a", Some((9_000_000, 9_000_000, None)))))]
    #[case::later_text("Successfully pulled image \"a\" in 9s (9s including waiting) from a peer", Some(("a", Some((9_000_000, 9_000_000, None)))))]
    #[case::pulling("Pulling image \"a:1\"", None)]
    #[case::failed("Failed to pull image \"a:1\": in 3s", None)]
    #[case::back_off("Back-off pulling image \"a:1\"", None)]
    #[case::never("Container image \"a:1\" is not present with pull policy of Never", None)]
    #[case::glued("Container image \"a\" already present on machines", None)]
    #[case::no_unit("Successfully pulled image \"a\" in 10", None)]
    #[case::negative("Successfully pulled image \"a\" in -3s", None)]
    #[case::two_points("Successfully pulled image \"a\" in 1.2.3s", None)]
    #[case::no_digits("Successfully pulled image \"a\" in .5s", None)]
    #[case::days("Successfully pulled image \"a\" in 24h0m1s", None)]
    #[case::overflow("Successfully pulled image \"a\" in 9999999999999999999h", None)]
    #[case::large(
        "Successfully pulled image \"a\" in 1s (1s including waiting). Image size: 1099511627777 bytes.",
        None
    )]
    #[case::unclosed("Successfully pulled image \"a in 1s", None)]
    #[case::empty("", None)]
    fn messages_of_kubelets_are_parsed(
        #[case] message: &str,
        #[case] expected: Option<Contents<'_>>,
    ) {
        assert_eq!(read(message), expected);
    }

    #[test]
    fn long_messages_are_not_parsed() {
        let message = |length: usize| {
            let image =
                "a".repeat(length - "Container image \"\" already present on machine".len());
            format!("Container image \"{image}\" already present on machine")
        };
        assert!(parse(&message(MAX_MESSAGE_BYTES)).is_some());
        assert!(parse(&message(MAX_MESSAGE_BYTES + 1)).is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_messages_have_bounded_results(message in any::<String>()) {
            assert_bounded(&message);
        }

        /// Messages of the form of a kubelet with arbitrary parts.
        #[test]
        fn forged_messages_have_bounded_results(
            image in "[^\"]{0,60}",
            pull in "([0-9.]{0,21}(h|m|s|ms|\u{b5}s|ns)){0,3}",
            waited in "[0-9.hmsn\u{b5}-]{0,30}",
            size in "-?[0-9]{0,24}",
        ) {
            assert_bounded(&format!(
                "Successfully pulled image \"{image}\" in {pull} ({waited} including waiting). Image size: {size} bytes."
            ));
            assert_bounded(&format!("Successfully pulled image \"{image}\" in {pull}"));
        }

        #[test]
        fn durations_of_go_are_read_to_the_millisecond(milliseconds in 0_u64..=86_400_000) {
            let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
            let text = format!("{}h{}m{}.{rest:03}s", seconds / 3600, seconds / 60 % 60, seconds % 60);
            prop_assert_eq!(parse_duration(&text), Some(Duration::from_millis(milliseconds)));
        }
    }

    fn assert_bounded(message: &str) {
        let Some(parsed) = parse(message) else { return };
        assert!(message.len() <= MAX_MESSAGE_BYTES && parsed.image.len() < message.len());
        if let Some(pull) = parsed.pull {
            assert!(pull.pull <= pull.waited && pull.waited <= MAX_WAIT, "{pull:?}");
            assert!(pull.image_bytes.is_none_or(|size| size <= MAX_IMAGE_BYTES), "{pull:?}");
        }
    }
}
