//! Lookups of queued objects: which are due, and what follows from their results.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{dedup_keys::DedupKey, hint::Hint},
    hint_queue::{HintQueue, QueueTimer},
    lookup_memory::{LOOKUP_DELAYS_MS, MAX_RETRY_DELAY, OutcomeScope},
    objects::{SortedHints, merge_hints},
    work::{DiscardedHints, DueWork, Lookup, LookupResult, OfferOutcome},
};
use crate::workload::{OwnerKind, Workload};

/// Maximum number of waiting objects of a namespace at which a missing object is looked up again. A
/// flood therefore causes one lookup per object. The watch finds existing objects that are stored
/// late.
pub(super) const MAX_OBJECTS_FOR_RETRY: usize = 64;
/// Maximum time for which an object waits for its turn to be looked up. The rate limits allow a
/// namespace's share of the queue within this time, unless many lookups find nothing; the watch
/// finds existing objects before.
pub(super) const MAX_LOOKUP_WAIT: Duration = Duration::from_secs(10);
/// Permits of the rate limit that a lookup without a result takes. By default, a client that names
/// objects that do not exist causes 50 requests, and then 5 per second.
pub(super) const MISS_COST: u32 = 10;

impl HintQueue {
    /// Appends an object to the queue of lookups.
    pub(super) fn push_lookup(&mut self, id: u64, now: Instant) {
        let Some(entry) = self.objects.get_mut(&id) else { return };
        entry.waiting_since = now;
        let room = Arc::clone(&entry.namespace);
        self.lookups.push(&room, id);
    }

    /// Takes the lookups that the limits allow. Removes objects that tasks cover by now, and objects
    /// that have waited too long.
    pub(super) fn start_lookups(
        &mut self,
        now: Instant,
        covered: impl Fn(&[DedupKey]) -> bool,
        step: &mut DueWork,
    ) {
        let mut done = Vec::new();
        loop {
            let (entries, closing) = (&self.objects, self.closing);
            let needed = |id: &u64| {
                let Some(entry) = entries.get(id) else { return false };
                let all = entry.hints.iter().all(|claim| claim.new_keys().is_some_and(&covered));
                let late = !closing && now > entry.waiting_since + MAX_LOOKUP_WAIT;
                if all || late {
                    done.push((*id, all));
                }
                !all && !late
            };
            let Some((_, id)) = self.lookups.next(now, needed) else { break };
            let Some(entry) = self.objects.get_mut(&id) else { continue };
            entry.in_progress = true;
            if let Some(hint) = entry.hints.first() {
                step.lookups.push(Lookup {
                    id,
                    kind: Arc::clone(&hint.kind),
                    namespace: hint.namespace.clone(),
                    name: hint.name.clone(),
                    is_placed_by_name: hint.is_placed_by_name,
                });
            }
        }
        for (id, is_covered) in done {
            let room = self.objects.get(&id).map(|entry| Arc::clone(&entry.namespace));
            let hints = self.remove(id);
            let lost = &mut step.discarded;
            *(if is_covered { &mut lost.duplicate } else { &mut lost.dropped }) += hints;
            if let Some(room) = room.filter(|room| self.lookups.namespace_len(room) == 0) {
                self.release_hints(&room, step);
            }
        }
    }

    /// Processes the result of a lookup and returns the resulting work.
    pub fn handle_lookup_result(&mut self, id: u64, seen: LookupResult, now: Instant) -> DueWork {
        let mut step = DueWork::default();
        let Some(entry) = self.objects.get_mut(&id) else { return step };
        let (room, object) = (Arc::clone(&entry.namespace), entry.key);
        entry.in_progress = false;
        self.lookups.finish(&room);
        let claims = std::mem::take(&mut entry.hints);
        self.memory.record(&room, object, &seen, now);
        let sorted = match &seen {
            LookupResult::Stored { uid, version, .. } => SortedHints::new(claims, uid, version),
            LookupResult::Missing => SortedHints { later: claims, ..SortedHints::default() },
            LookupResult::Forbidden => SortedHints { absent: claims, ..SortedHints::default() },
        };
        if sorted.confirmed.is_empty() {
            self.lookups.charge(&room, MISS_COST - 1, now);
        }
        let confirmed = self.settle_hints(id, sorted, &seen, now, &mut step.discarded);
        if let LookupResult::Stored { mut workloads, recurs_for, .. } = seen
            && !confirmed.is_empty()
            && self.retain_recurring(&room, &mut workloads, recurs_for, now, &mut step)
            && let Some(hint) = merge_hints(&confirmed, workloads)
            && let Some(of) = self.namespaces.get_mut(&room)
        {
            self.confirmed_hints += 1;
            of.ready.push(hint);
        }
        self.release_or_wait(&room, now, &mut step);
        step
    }

    /// Records the images of a confirmed object whose controller is of the kind `owner`, and drops
    /// those that do not recur. Reports whether any image remains to be warmed.
    fn retain_recurring(
        &mut self,
        namespace: &Arc<str>,
        workloads: &mut Vec<Workload>,
        owner: Option<OwnerKind>,
        now: Instant,
        step: &mut DueWork,
    ) -> bool {
        let Some(owner) = owner else { return true };
        for workload in workloads.iter_mut() {
            workload.retain_images(|image| {
                self.recurring_images.observe(namespace, &owner, image, now)
            });
        }
        workloads.retain(|workload| !workload.images.is_empty());
        step.not_recurring += usize::from(workloads.is_empty());
        !workloads.is_empty()
    }

    /// Remembers the outcome of a lookup, sets the time of the next one for the hints that need
    /// another, and removes the object if none does. Returns the confirmed hints.
    fn settle_hints(
        &mut self,
        id: u64,
        sorted: SortedHints,
        seen: &LookupResult,
        now: Instant,
        discarded: &mut DiscardedHints,
    ) -> Vec<Hint> {
        let SortedHints { confirmed, absent, mut later } = sorted;
        let Some(entry) = self.objects.get_mut(&id) else { return confirmed };
        let (room, object) = (&entry.namespace, entry.key);
        let (outcome, count) = match seen {
            LookupResult::Forbidden => (OfferOutcome::Forbidden, &mut discarded.forbidden),
            _ => (OfferOutcome::NotStored, &mut discarded.not_stored),
        };
        *count += absent.len();
        self.memory.settle(room, object, &absent, (OutcomeScope::Object, outcome), now);
        let confirms = (OutcomeScope::Change, OfferOutcome::Duplicate);
        self.memory.settle(room, object, &confirmed, confirms, now);
        let crowded =
            self.namespaces.get(room).is_some_and(|of| of.objects.len() > MAX_OBJECTS_FOR_RETRY);
        if entry.attempts + 1 >= LOOKUP_DELAYS_MS.len() || crowded || self.closing {
            discarded.not_stored += later.len();
            let scope = match seen {
                LookupResult::Stored { .. } => OutcomeScope::Change,
                LookupResult::Missing | LookupResult::Forbidden => OutcomeScope::Object,
            };
            self.memory.settle(room, object, &later, (scope, outcome), now);
            later.clear();
        }
        entry.attempts = if entry.late_hints.is_empty() { entry.attempts + 1 } else { 0 };
        later.append(&mut entry.late_hints);
        let pause = LOOKUP_DELAYS_MS.get(entry.attempts.max(1)).copied().unwrap_or_default();
        let retry = now + Duration::from_millis(pause);
        let next = self.memory.next_lookup_at(room, object).map_or(retry, |at| at.max(retry));
        if next > now + MAX_RETRY_DELAY && !self.closing {
            discarded.dropped += later.len();
            later.clear();
        }
        if later.is_empty() {
            self.remove(id);
        } else {
            entry.hints = later;
            let at = if self.closing { now } else { next };
            self.set_timer(at, QueueTimer::Retry(id));
        }
        confirmed
    }
}
