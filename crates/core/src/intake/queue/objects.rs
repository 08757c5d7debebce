//! Waiting objects with their hints, by namespace.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{
    super::{
        dedup_keys::DedupKey,
        hint::{ConfirmedHint, Hint},
    },
    lookup_memory::ObjectKey,
    work::OfferOutcome,
};
use crate::workload::Workload;

/// Maximum number of different hints per object: enough for several changes within one window.
pub(super) const MAX_HINTS_PER_OBJECT: usize = 4;

#[derive(Debug)]
pub(super) struct QueuedObject {
    pub(super) namespace: Arc<str>,
    pub(super) key: ObjectKey,
    pub(super) hints: Vec<Hint>,
    /// Hints received during a lookup of the object, whose result may be older than the hints.
    pub(super) late_hints: Vec<Hint>,
    pub(super) attempts: usize,
    pub(super) in_progress: bool,
    /// Time since which the object waits for its turn to be looked up.
    pub(super) waiting_since: Instant,
}

impl QueuedObject {
    /// Adds a further hint of the object.
    pub(super) fn add_hint(&mut self, hint: Hint) -> OfferOutcome {
        if self.hints.iter().chain(&self.late_hints).any(|known| known.is_equal_hint(&hint)) {
            return OfferOutcome::Duplicate;
        }
        if self.hints.len() + self.late_hints.len() >= MAX_HINTS_PER_OBJECT {
            return OfferOutcome::Limited;
        }
        let to = if self.in_progress { &mut self.late_hints } else { &mut self.hints };
        to.push(hint);
        OfferOutcome::Queued
    }
}

/// Waiting objects and hints of one namespace.
#[derive(Debug, Default)]
pub(super) struct NamespaceHints {
    pub(super) objects: HashMap<ObjectKey, u64>,
    /// Objects received within the open window.
    pub(super) collected: Vec<u64>,
    pub(super) incoming: Vec<ConfirmedHint>,
    pub(super) window_open: bool,
    /// Confirmed hints of earlier windows, which wait for lookups in progress.
    pub(super) ready: Vec<ConfirmedHint>,
    /// True while a grace timer is set for `ready`.
    pub(super) grace_timer_set: bool,
}

/// Hints about a looked-up object.
#[derive(Default)]
pub(super) struct SortedHints {
    /// Hints that the stored object confirms.
    pub(super) confirmed: Vec<Hint>,
    /// Hints about an object that is not stored.
    pub(super) absent: Vec<Hint>,
    /// Hints about a change that may still be stored.
    pub(super) later: Vec<Hint>,
}

impl SortedHints {
    /// Sorts hints by the UID and the resource version of the stored object.
    pub(super) fn new(hints: Vec<Hint>, uid: &str, version: &str) -> Self {
        let mut sorted = Self::default();
        for hint in hints {
            if hint.uid != uid {
                sorted.absent.push(hint);
            } else if hint.replaced_version.as_deref() == Some(version) {
                sorted.later.push(hint);
            } else {
                sorted.confirmed.push(hint);
            }
        }
        sorted
    }
}

/// Merges the hints of a stored object into one confirmed hint. Only keys that all hints report as
/// needed before count as present.
pub(super) fn merge_hints(hints: &[Hint], workloads: Vec<Workload>) -> Option<ConfirmedHint> {
    let (first, others) = hints.split_first()?;
    if workloads.is_empty() {
        return None;
    }
    let mut kept = first.kept.clone();
    for other in others {
        let also: HashSet<&DedupKey> = other.kept.iter().collect();
        kept.retain(|key| also.contains(key));
    }
    let since = hints.iter().map(|claim| claim.since).min()?;
    Some(ConfirmedHint::from_stored(&first.namespace, since, workloads, kept))
}

pub(super) fn intern_namespace(rooms: &HashMap<Arc<str>, NamespaceHints>, name: &str) -> Arc<str> {
    rooms.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
}
