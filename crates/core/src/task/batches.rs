//! States of a task's nodes, and the current batch.

use std::ops::Range;

use super::{BatchPolicy, MAX_RETRIES};

/// State of one node of a task: one character of `status.nodeStates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Not tried, or the first try has not ended.
    Waiting,
    /// Number of failed tries, 1 to 5, of a node that will be retried. 0: postponed before its
    /// first try, because a worker of another task occupied the node when its batch was dispatched.
    Retrying(u8),
    /// Every image is warm.
    Succeeded,
    /// Every image was already warm.
    AlreadyWarm,
    /// Failed, without further retries.
    Failed,
    /// Not tried.
    Skipped,
}

impl NodeState {
    /// All values of [`NodeState::as_str`].
    pub const ALL_LABELS: [&str; 5] = ["failed", "retried", "succeeded", "already_warm", "skipped"];

    /// Returns the label value used in metrics and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting | Self::Failed => "failed",
            Self::Retrying(_) => "retried",
            Self::Succeeded => "succeeded",
            Self::AlreadyWarm => "already_warm",
            Self::Skipped => "skipped",
        }
    }

    /// Parses a character of `status.nodeStates`. An unknown character counts as waiting, so that
    /// the node is checked again.
    #[must_use]
    pub fn from_byte(letter: u8) -> Self {
        match letter {
            b's' => Self::Succeeded,
            b'w' => Self::AlreadyWarm,
            b'f' => Self::Failed,
            b'k' => Self::Skipped,
            b'0'..=b'9' => Self::Retrying(
                letter.saturating_sub(b'0').min(u8::try_from(MAX_RETRIES).unwrap_or(u8::MAX)),
            ),
            _ => Self::Waiting,
        }
    }

    /// Returns the character that `status.nodeStates` uses.
    #[must_use]
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Waiting => b'.',
            Self::Retrying(tries) => b'0'.saturating_add(tries.min(9)),
            Self::Succeeded => b's',
            Self::AlreadyWarm => b'w',
            Self::Failed => b'f',
            Self::Skipped => b'k',
        }
    }

    /// Reports whether the state is final.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Retrying(_))
    }

    /// Returns the number of tries that have ended, which is the number of the current or next try.
    #[must_use]
    pub fn attempt(self) -> u8 {
        if let Self::Retrying(tries) = self { tries } else { 0 }
    }

    fn has_failed(self) -> bool {
        matches!(self, Self::Failed | Self::Retrying(1..))
    }
}

/// Consecutive nodes of a plan that are worked on at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Index of the batch, from 0.
    pub index: u32,
    /// Range of the plan's nodes.
    pub nodes: Range<usize>,
}

/// Batches of the first tries of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batches {
    /// First batch with a node whose first try has not ended; none when all first tries have ended.
    pub current_batch: Option<Batch>,
    /// Number of batches; for `Doubling`, provided that no further node fails.
    pub total: u32,
}

/// Divides the plan into batches. Depends on the node states only, so that a restarted controller
/// computes the same batches.
#[must_use]
pub fn divide_into_batches(letters: &[u8], policy: BatchPolicy, at_once: usize) -> Batches {
    let (total, at_once) = (letters.len(), at_once.max(1));
    let mut current = None;
    let (mut start, mut index) = (0, 0);
    let mut size = match policy {
        BatchPolicy::Barrier => at_once,
        BatchPolicy::Rolling => total,
        BatchPolicy::Doubling => 1,
    };
    while start < total {
        let nodes = start..start.saturating_add(size).min(total);
        let part = letters.get(nodes.clone()).unwrap_or_default();
        let states = || part.iter().map(|letter| NodeState::from_byte(*letter));
        if current.is_none() && states().any(|state| state == NodeState::Waiting) {
            current = Some(Batch { index, nodes: nodes.clone() });
        }
        if policy == BatchPolicy::Doubling && !states().any(NodeState::has_failed) {
            size = size.saturating_mul(2).min(at_once);
        }
        start = nodes.end;
        index = index.saturating_add(1);
    }
    Batches { current_batch: current, total: index }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("....", BatchPolicy::Barrier, 2, Some((0, 0..2)), 2)]
    #[case("s...", BatchPolicy::Barrier, 2, Some((0, 0..2)), 2)]
    #[case("sf..", BatchPolicy::Barrier, 2, Some((1, 2..4)), 2)]
    #[case("1k.....", BatchPolicy::Barrier, 2, Some((1, 2..4)), 4)]
    #[case("sfwk", BatchPolicy::Barrier, 2, None, 2)]
    #[case("s.s.", BatchPolicy::Rolling, 2, Some((0, 0..4)), 1)]
    #[case("", BatchPolicy::Barrier, 2, None, 0)]
    #[case("..........", BatchPolicy::Doubling, 4, Some((0, 0..1)), 4)]
    #[case("s.........", BatchPolicy::Doubling, 4, Some((1, 1..3)), 4)]
    #[case("sss.......", BatchPolicy::Doubling, 4, Some((2, 3..7)), 4)]
    #[case("f.........", BatchPolicy::Doubling, 4, Some((1, 1..2)), 5)]
    #[case("ff........", BatchPolicy::Doubling, 4, Some((2, 2..3)), 6)]
    #[case("0.0.....", BatchPolicy::Barrier, 2, Some((0, 0..2)), 4)]
    #[case("00......", BatchPolicy::Barrier, 2, Some((1, 2..4)), 4)]
    #[case("s0s.......", BatchPolicy::Doubling, 4, Some((2, 3..7)), 4)]
    #[case("s1s.......", BatchPolicy::Doubling, 4, Some((2, 3..5)), 5)]
    #[case("sssssss.........", BatchPolicy::Doubling, 4, Some((3, 7..11)), 6)]
    fn nodes_are_divided_by_batch_policy(
        #[case] letters: &str,
        #[case] policy: BatchPolicy,
        #[case] at_once: usize,
        #[case] current: Option<(u32, Range<usize>)>,
        #[case] total: u32,
    ) {
        let current = current.map(|(index, nodes)| Batch { index, nodes });
        assert_eq!(
            divide_into_batches(letters.as_bytes(), policy, at_once),
            Batches { current_batch: current, total }
        );
    }

    #[test]
    fn every_state_round_trips_through_its_byte() {
        for letter in *b".012345swfk" {
            assert_eq!(NodeState::from_byte(letter).as_byte(), letter);
        }
        assert_eq!(NodeState::from_byte(b'?'), NodeState::Waiting);
    }
}
