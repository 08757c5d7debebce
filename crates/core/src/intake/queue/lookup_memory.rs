//! Memory of recent lookups. It bounds the lookups of one object, however many hints name it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{dedup_keys::dedup_keys_of_all, hint::Hint},
    work::{LookupResult, OfferOutcome},
};
use crate::workload::WorkloadKind;

/// Delays before each attempt to look up an object, in milliseconds: 8 s in total. The watch finds
/// objects that are stored later, within 3 s of being stored.
pub const LOOKUP_DELAYS_MS: [u64; 5] = [0, 250, 750, 2000, 5000];
/// Longest delay for which an object waits in the queue because it was looked up recently.
pub(super) const MAX_RETRY_DELAY: Duration =
    Duration::from_millis(LOOKUP_DELAYS_MS[LOOKUP_DELAYS_MS.len() - 1]);
/// Time for which the outcome of a lookup answers equal hints, and for which an object's lookups
/// are counted.
pub(super) const MEMORY_TTL: Duration = Duration::from_secs(120);
/// Longest delay between two lookups of an object whose template does not change. It is shorter
/// than [`MEMORY_TTL`], so that the count does not expire during the delay.
const MAX_DELAY: Duration = Duration::from_secs(80);
/// Maximum number of objects in the memory, at up to 250 bytes each: 2 MB. Twice the capacity of
/// the queue.
pub(super) const MAX_OBJECTS_IN_MEMORY: usize = 8192;
/// Maximum number of outcomes per object: those of the hints of one lookup.
pub(super) const MAX_OUTCOMES: usize = 4;

/// Hash of an object's kind, namespace and name with a random key, which no client can predict.
pub(super) type ObjectKey = u64;

/// Hints that the outcome of a lookup applies to.
#[derive(Debug, Clone, Copy)]
pub(super) enum OutcomeScope {
    /// All hints with the UID: no such object is stored, or may be read.
    Object,
    /// Hints that report the same change.
    Change,
}

/// Outcome of a lookup for the hints with one hash.
#[derive(Debug, Clone, Copy)]
struct SettledHint {
    hash: u64,
    outcome: OfferOutcome,
    since: Instant,
}

#[derive(Debug)]
struct ObjectMemory {
    /// Lookups since the one that found a new template.
    lookups: u32,
    last_lookup: Option<Instant>,
    /// Hash of the UID and of the images, placement and options of the stored object.
    template: Option<u64>,
    settled: Vec<SettledHint>,
    changed_at: Instant,
}

/// Outcomes and times of recent lookups, by namespace. A full memory forgets the older half of the
/// namespace with the most objects, so that a flood of hints about one namespace leaves the others
/// in the memory.
#[derive(Debug, Default)]
pub(super) struct LookupMemory {
    hasher: RandomState,
    namespaces: HashMap<Arc<str>, HashMap<ObjectKey, ObjectMemory>>,
    len: usize,
}

impl LookupMemory {
    pub(super) fn object_key(&self, hint: &Hint) -> ObjectKey {
        let WorkloadKind { group, version, kind, .. } = &*hint.kind;
        self.hasher.hash_one((group, version, kind, &hint.namespace, &hint.name))
    }

    /// Returns the hash of a hint that is equal to others about the same change.
    fn change_hash(&self, hint: &Hint) -> u64 {
        self.hasher.hash_one((&hint.uid, &hint.replaced_version, hint.new_keys(), &hint.kept))
    }

    /// Returns the outcome of a recent lookup for the hint, if there was one.
    pub(super) fn outcome(
        &self,
        namespace: &str,
        object: ObjectKey,
        hint: &Hint,
        now: Instant,
    ) -> Option<OfferOutcome> {
        let known = self.namespaces.get(namespace)?.get(&object)?;
        let hashes = [self.hasher.hash_one(&hint.uid), self.change_hash(hint)];
        let is_recent = |one: &&SettledHint| now < one.since + MEMORY_TTL;
        let mut recent = known.settled.iter().filter(is_recent);
        recent.find(|one| hashes.contains(&one.hash)).map(|one| one.outcome)
    }

    /// Returns the earliest time of the next lookup of an object. The delay doubles with every
    /// lookup that finds the same template, or no object.
    pub(super) fn next_lookup_at(&self, namespace: &str, object: ObjectKey) -> Option<Instant> {
        let known = self.namespaces.get(namespace)?.get(&object)?;
        Some(known.last_lookup? + delay_after(known.lookups))
    }

    /// Records a lookup.
    pub(super) fn record(
        &mut self,
        namespace: &Arc<str>,
        object: ObjectKey,
        seen: &LookupResult,
        now: Instant,
    ) {
        let template = match seen {
            LookupResult::Stored { uid, workloads, .. } => {
                Some(self.hasher.hash_one((uid, dedup_keys_of_all(workloads))))
            }
            LookupResult::Missing | LookupResult::Forbidden => None,
        };
        let known = self.entry(namespace, object, now);
        let changed = template.is_some() && known.template != template;
        known.lookups = if changed { 0 } else { known.lookups.saturating_add(1) };
        known.template = template.or(known.template);
        known.last_lookup = Some(now);
    }

    /// Records the outcome of a lookup for these hints, and for all others in the scope.
    pub(super) fn settle(
        &mut self,
        namespace: &Arc<str>,
        object: ObjectKey,
        hints: &[Hint],
        (scope, outcome): (OutcomeScope, OfferOutcome),
        now: Instant,
    ) {
        for hint in hints {
            let hash = match scope {
                OutcomeScope::Object => self.hasher.hash_one(&hint.uid),
                OutcomeScope::Change => self.change_hash(hint),
            };
            let known = self.entry(namespace, object, now);
            known.settled.retain(|one| one.hash != hash);
            if known.settled.len() >= MAX_OUTCOMES {
                known.settled.remove(0);
            }
            known.settled.push(SettledHint { hash, outcome, since: now });
        }
    }

    /// Returns the entry of an object, without what has expired.
    fn entry(
        &mut self,
        namespace: &Arc<str>,
        object: ObjectKey,
        now: Instant,
    ) -> &mut ObjectMemory {
        let is_known =
            self.namespaces.get(namespace).is_some_and(|objects| objects.contains_key(&object));
        if !is_known {
            if self.len >= MAX_OBJECTS_IN_MEMORY {
                self.make_space(now);
            }
            self.len += 1;
        }
        let objects = self.namespaces.entry(Arc::clone(namespace)).or_default();
        let known = objects.entry(object).or_insert_with(|| ObjectMemory::new(now));
        if known.changed_at + MEMORY_TTL <= now {
            *known = ObjectMemory::new(now);
        }
        known.changed_at = now;
        known
    }

    /// Removes what has expired, and where that is not enough, the older half of the namespace with
    /// the most objects.
    fn make_space(&mut self, now: Instant) {
        for objects in self.namespaces.values_mut() {
            objects.retain(|_, known| now < known.changed_at + MEMORY_TTL);
        }
        self.count();
        if self.len >= MAX_OBJECTS_IN_MEMORY
            && let Some(largest) = self.namespaces.values_mut().max_by_key(|objects| objects.len())
        {
            let mut times: Vec<Instant> = largest.values().map(|known| known.changed_at).collect();
            times.sort_unstable();
            let (middle, mut excess) = (times[times.len() / 2], times.len() / 2 + 1);
            largest.retain(|_, known| {
                let keep = known.changed_at > middle || excess == 0;
                excess -= usize::from(!keep);
                keep
            });
            self.count();
        }
    }

    fn count(&mut self) {
        self.namespaces.retain(|_, objects| !objects.is_empty());
        self.len = self.namespaces.values().map(HashMap::len).sum();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl ObjectMemory {
    fn new(now: Instant) -> Self {
        Self { lookups: 0, last_lookup: None, template: None, settled: Vec::new(), changed_at: now }
    }
}

/// Returns the delay after this number of lookups: those of [`LOOKUP_DELAYS_MS`], and then doubled
/// each time.
fn delay_after(lookups: u32) -> Duration {
    let index = usize::try_from(lookups).unwrap_or(usize::MAX);
    if let Some(delay) = LOOKUP_DELAYS_MS.get(index) {
        return Duration::from_millis(*delay);
    }
    let last = LOOKUP_DELAYS_MS.last().copied().unwrap_or_default();
    let doublings = index.saturating_sub(LOOKUP_DELAYS_MS.len() - 1).min(16);
    Duration::from_millis(last << doublings).min(MAX_DELAY)
}
