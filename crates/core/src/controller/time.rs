//! Arithmetic of times.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Returns a time some milliseconds later.
pub(super) fn add_millis(time: Timestamp, milliseconds: i64) -> Option<Timestamp> {
    time.checked_add(SignedDuration::from_millis(milliseconds)).ok()
}

/// Returns a time some duration later, or the time itself on overflow.
pub(super) fn add_duration(time: Timestamp, span: Duration) -> Timestamp {
    i64::try_from(span.as_millis()).ok().and_then(|ms| add_millis(time, ms)).unwrap_or(time)
}
