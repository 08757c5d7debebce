//! Decisions of Prewarmer, as functions of values: no client, no async runtime, no clock, no
//! metrics.
//!
//! | module | decisions |
//! |---|---|
//! | [`task`] | validation of `PrewarmTask`s, selection of nodes, batches |
//! | [`schedule`] | times of `PrewarmSchedule`s, and their next action |
//! | [`workload`] | images, placement, credentials and options of a workload |
//! | [`intake`] | deduplication and coalescing of hints, queues and rate limits |
//! | [`workload_watch`] | images that workloads need, progress of rollouts |
//! | [`node`] | nodes and their eligibility |
//! | [`worker`] | the Job or pod that pulls images, and the evaluation of its state |
//! | [`pod_start`] | pod starts, classified as warm or cold |
//! | [`settings`] | checks of settings, and default names of an installation |
//! | [`slim`] | API objects with only the fields that are used |

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

pub mod controller;
pub mod intake;
pub mod node;
pub mod pod_start;
pub mod schedule;
pub mod settings;
pub mod slim;
pub mod task;
pub mod worker;
pub mod workload;
pub mod workload_watch;

pub use prewarmer_api::{annotations, dns, duration, image, labels, timestamp};

/// Encodes bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Counts equal values, in the order of their first occurrence. Takes time proportional to the
/// number of distinct values for each value, which suits reasons and other values of a short list.
pub fn count_values<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<(T, usize)> {
    let mut counts: Vec<(T, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => counts.push((value, 1)),
        }
    }
    counts
}

/// Returns the trimmed, non-empty items of a comma-separated list.
pub fn comma_separated(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_in_the_order_of_their_first_occurrence() {
        assert_eq!(count_values(["b", "a", "b", "c", "b"]), [("b", 3), ("a", 1), ("c", 1)]);
    }

    #[test]
    fn nothing_has_no_counts() {
        assert_eq!(count_values::<&str>([]), []);
    }
}
