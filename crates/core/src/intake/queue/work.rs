//! Inputs and outputs of the queue: outcomes of offers, lookups and their results, and work that is
//! due.

use std::sync::Arc;

use super::super::hint::ConfirmedHint;
use crate::workload::{OwnerKind, Workload, WorkloadKind};

/// Outcome of queueing a hint or a confirmed hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferOutcome {
    /// The hint is queued.
    Queued,
    /// Tasks already cover all its images, or an equal hint is queued or was confirmed recently.
    Duplicate,
    /// The namespace has used its share of the queue, or the object its number of hints or lookups.
    Limited,
    /// The queue is full.
    Dropped,
    /// A recent lookup did not find the object.
    NotStored,
    /// A recent lookup had no permission to read the object.
    Forbidden,
}

impl OfferOutcome {
    /// Returns the value of the metrics label `outcome`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Duplicate => "duplicate",
            Self::Limited => "limited",
            Self::Dropped => "dropped",
            Self::NotStored => "not_stored",
            Self::Forbidden => "forbidden",
        }
    }
}

/// Object to look up.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// Number of the lookup.
    pub id: u64,
    /// Kind of the object.
    pub kind: Arc<WorkloadKind>,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Set if the object was admitted with a `nodeName`.
    pub is_placed_by_name: bool,
}

/// Result of a lookup.
#[derive(Debug)]
pub enum LookupResult {
    /// Stored object with its UID, `resourceVersion` and workloads.
    Stored {
        /// UID of the object.
        uid: String,
        /// Resource version of the object.
        version: String,
        /// Workloads of the object.
        workloads: Vec<Workload>,
        /// Kind of the controller among whose objects an image must recur to be warmed; `None` where
        /// all images are warmed.
        recurs_for: Option<OwnerKind>,
    },
    /// Object that is not stored (yet), or a lookup that failed.
    Missing,
    /// Missing permission to read the object; the watch finds existing objects.
    Forbidden,
}

/// Work that is due.
#[derive(Debug, Default)]
pub struct DueWork {
    /// Batches of confirmed hints to coalesce, each of one namespace.
    pub batches: Vec<Vec<ConfirmedHint>>,
    /// Objects to look up.
    pub lookups: Vec<Lookup>,
    /// Numbers of discarded hints.
    pub discarded: DiscardedHints,
    /// Number of confirmed objects that are not warmed, because none of their images recurs.
    pub not_recurring: usize,
}

/// Numbers of discarded hints by reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DiscardedHints {
    /// Objects that are not stored, or are other objects.
    pub not_stored: usize,
    /// Objects that the server has no permission to read.
    pub forbidden: usize,
    /// Objects whose images are covered already.
    pub duplicate: usize,
    /// Hints dropped because a limit was reached, or after they had waited too long.
    pub dropped: usize,
}
