//! Where a task's nodes stand, and which batch is at work.

use std::ops::Range;

use super::{BatchPolicy, resource::MAX_RETRIES};

/// Where one node of a task stands: a letter of `status.nodeStates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Not tried to its end yet.
    Waiting,
    /// Failed that often, 1 to 5, and to be tried again; 0: put behind before its first try, because the node was at work for
    /// another task when its batch had its turn.
    Retrying(u8),
    /// Every image is warm.
    Succeeded,
    /// Every image was known to be there.
    AlreadyWarm,
    /// Failed for good.
    Failed,
    /// Not tried.
    Skipped,
}

impl NodeState {
    /// The word that metrics and spans have for it.
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

    /// Reads a letter; what is no letter of ours counts as waiting, so that the node is looked at again.
    #[must_use]
    pub fn from_letter(letter: u8) -> Self {
        match letter {
            b's' => Self::Succeeded,
            b'w' => Self::AlreadyWarm,
            b'f' => Self::Failed,
            b'k' => Self::Skipped,
            b'0'..=b'9' => {
                Self::Retrying(letter.saturating_sub(b'0').min(u8::try_from(MAX_RETRIES).unwrap_or(u8::MAX)))
            }
            _ => Self::Waiting,
        }
    }

    /// The letter.
    #[must_use]
    pub fn letter(self) -> u8 {
        match self {
            Self::Waiting => b'.',
            Self::Retrying(tries) => b'0'.saturating_add(tries.min(9)),
            Self::Succeeded => b's',
            Self::AlreadyWarm => b'w',
            Self::Failed => b'f',
            Self::Skipped => b'k',
        }
    }

    /// Whether nothing more happens on the node.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Retrying(_))
    }

    /// How many tries have ended: the number of the try that is next or at work.
    #[must_use]
    pub fn attempt(self) -> u8 {
        if let Self::Retrying(tries) = self { tries } else { 0 }
    }

    fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::Retrying(1..))
    }
}

/// A stretch of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// From 0.
    pub index: u32,
    /// Its nodes.
    pub nodes: Range<usize>,
}

/// The first tries of a task, batch by batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batches {
    /// The batch at work: the first with a node whose first try has not ended. None when all have.
    pub current: Option<Batch>,
    /// How many there are; for `Doubling`, if all goes well from here on.
    pub total: u32,
}

/// Cuts the plan into batches. A function of where the nodes stand alone, so that a restarted controller comes to the same.
#[must_use]
pub fn batches(letters: &[u8], policy: BatchPolicy, at_once: usize) -> Batches {
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
        let states = || part.iter().map(|letter| NodeState::from_letter(*letter));
        if current.is_none() && states().any(|state| state == NodeState::Waiting) {
            current = Some(Batch { index, nodes: nodes.clone() });
        }
        if policy == BatchPolicy::Doubling && !states().any(NodeState::is_bad) {
            size = size.saturating_mul(2).min(at_once);
        }
        start = nodes.end;
        index = index.saturating_add(1);
    }
    Batches { current, total: index }
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
    fn cutting(
        #[case] letters: &str,
        #[case] policy: BatchPolicy,
        #[case] at_once: usize,
        #[case] current: Option<(u32, Range<usize>)>,
        #[case] total: u32,
    ) {
        let current = current.map(|(index, nodes)| Batch { index, nodes });
        assert_eq!(batches(letters.as_bytes(), policy, at_once), Batches { current, total });
    }

    #[test]
    fn letters_come_back() {
        for letter in *b".012345swfk" {
            assert_eq!(NodeState::from_letter(letter).letter(), letter);
        }
        assert_eq!(NodeState::from_letter(b'?'), NodeState::Waiting);
    }
}
