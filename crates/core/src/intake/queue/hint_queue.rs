//! Queue of hints, driven by timers and by the results of lookups.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{
        dedup_keys::DedupKey,
        fair_queue::{ConcurrencyLimits, FairQueue},
        hint::{ConfirmedHint, Hint},
        rate_limit::RateLimits,
    },
    lookup_memory::{LookupMemory, MAX_RETRY_DELAY, OutcomeScope},
    objects::{NamespaceHints, QueuedObject, intern_namespace},
    recurring_images::RecurringImages,
    work::{DueWork, OfferOutcome},
};

/// Maximum number of objects that wait for a lookup: ten times the size of a Helm upgrade of
/// hundreds of workloads, at about one kilobyte per object.
pub const MAX_OBJECTS: usize = 4096;
/// Maximum number of waiting objects per namespace: a quarter of the capacity.
pub const MAX_NAMESPACE_OBJECTS: usize = MAX_OBJECTS / 4;
/// Maximum number of waiting objects of all namespaces that are not (yet) in the cache. The watch
/// of namespaces lags by milliseconds, so existing namespaces are in the cache by the end of the
/// window.
pub(super) const MAX_UNKNOWN_OBJECTS: usize = 256;
/// Concurrency limits of lookups.
const LOOKUP_CONCURRENCY: ConcurrencyLimits = ConcurrencyLimits { total: 16, namespace: 8 };
/// Maximum time for which confirmed hints wait for lookups in progress in the same namespace, so
/// that they are coalesced into one task.
pub(super) const COALESCE_GRACE: Duration = Duration::from_secs(1);
/// Key under which objects of all unknown namespaces wait. No namespace has an empty name.
const UNKNOWN_NAMESPACES: &str = "";

#[derive(Debug)]
pub(super) enum QueueTimer {
    /// End of the window of a namespace.
    Window(Arc<str>),
    /// Repeated lookup of an object.
    Retry(u64),
    /// End of the grace time of a namespace's confirmed hints.
    Grace(Arc<str>),
}

/// Queue of hints, described in the documentation of the parent module.
#[derive(Debug)]
pub struct HintQueue {
    pub(super) namespaces: HashMap<Arc<str>, NamespaceHints>,
    pub(super) objects: HashMap<u64, QueuedObject>,
    pub(super) lookups: FairQueue<u64>,
    timers: BTreeMap<(Instant, u64), QueueTimer>,
    pub(super) memory: LookupMemory,
    pub(super) recurring_images: RecurringImages,
    window: Duration,
    pub(super) confirmed_hints: usize,
    sequence: u64,
    /// True once the queue is closed: windows and delays end at once.
    pub(super) closing: bool,
}

impl HintQueue {
    /// Creates an empty queue with a hint window and the rate limits of lookups.
    #[must_use]
    pub fn new(window: Duration, rates: RateLimits) -> Self {
        Self {
            namespaces: HashMap::new(),
            objects: HashMap::new(),
            lookups: FairQueue::new(rates, LOOKUP_CONCURRENCY),
            timers: BTreeMap::new(),
            memory: LookupMemory::default(),
            recurring_images: RecurringImages::default(),
            window,
            confirmed_hints: 0,
            sequence: 0,
            closing: false,
        }
    }

    /// Queues a hint. `known` states whether its namespace is in the cache. The second value
    /// reports whether the next deadline has moved forward.
    pub fn push_hint(&mut self, hint: Hint, known: bool, now: Instant) -> (OfferOutcome, bool) {
        let (name, share) = if known {
            (hint.namespace.as_str(), MAX_NAMESPACE_OBJECTS)
        } else {
            (UNKNOWN_NAMESPACES, MAX_UNKNOWN_OBJECTS)
        };
        let object = self.memory.object_key(&hint);
        if let Some(outcome) = self.memory.outcome(name, object, &hint, now) {
            return (outcome, false);
        }
        let here = self.namespaces.get(name).map_or(0, |room| room.objects.len());
        let id = self.namespaces.get(name).and_then(|room| room.objects.get(&object));
        if let Some(entry) = id.and_then(|id| self.objects.get_mut(id)) {
            return (entry.add_hint(hint), false);
        }
        let latest = now + self.window + MAX_RETRY_DELAY;
        let is_paused = self.memory.next_lookup_at(name, object).is_some_and(|at| at > latest);
        if here >= share || is_paused {
            return (OfferOutcome::Limited, false);
        }
        if self.objects.len() >= MAX_OBJECTS && !self.evict_for(here) {
            return (OfferOutcome::Dropped, false);
        }
        let room = intern_namespace(&self.namespaces, name);
        self.sequence += 1;
        let id = self.sequence;
        let (claims, late) = (vec![hint], Vec::new());
        let entry = QueuedObject {
            namespace: Arc::clone(&room),
            key: object,
            hints: claims,
            late_hints: late,
            attempts: 0,
            in_progress: false,
            waiting_since: now,
        };
        self.objects.insert(id, entry);
        let of = self.namespaces.entry(Arc::clone(&room)).or_default();
        of.objects.insert(object, id);
        of.collected.push(id);
        (OfferOutcome::Queued, self.open_window(&room, now))
    }

    /// Queues a confirmed hint. The second value reports whether the next deadline has moved
    /// forward.
    pub fn push_confirmed_hint(
        &mut self,
        confirmed: ConfirmedHint,
        now: Instant,
    ) -> (OfferOutcome, bool) {
        let here = self
            .namespaces
            .get(confirmed.namespace.as_str())
            .map_or(0, |room| room.incoming.len() + room.ready.len());
        if here >= MAX_NAMESPACE_OBJECTS {
            return (OfferOutcome::Limited, false);
        }
        if self.confirmed_hints >= MAX_OBJECTS {
            return (OfferOutcome::Dropped, false);
        }
        let room = intern_namespace(&self.namespaces, &confirmed.namespace);
        self.confirmed_hints += 1;
        self.namespaces.entry(Arc::clone(&room)).or_default().incoming.push(confirmed);
        (OfferOutcome::Queued, self.open_window(&room, now))
    }

    /// Opens the window of a namespace unless it is open, and reports whether the next deadline has
    /// moved forward.
    fn open_window(&mut self, room: &Arc<str>, now: Instant) -> bool {
        let Some(of) = self.namespaces.get_mut(room) else { return false };
        if std::mem::replace(&mut of.window_open, true) {
            return false;
        }
        let end = if self.closing { now } else { now + self.window };
        self.set_timer(end, QueueTimer::Window(Arc::clone(room)))
    }

    /// Sets a timer and reports whether it is the earliest one.
    pub(super) fn set_timer(&mut self, at: Instant, alarm: QueueTimer) -> bool {
        self.sequence += 1;
        let first = self.timers.first_key_value().is_none_or(|((first, _), _)| at < *first);
        self.timers.insert((at, self.sequence), alarm);
        first
    }

    /// Evicts a waiting object of the namespace with the most objects, if the requesting namespace
    /// has less than its fair share of a full queue. Reports whether an object was evicted.
    fn evict_for(&mut self, here: usize) -> bool {
        if (here + 1) * self.namespaces.len().max(1) > MAX_OBJECTS {
            return false;
        }
        let Some((_, largest)) = self.namespaces.iter().max_by_key(|(_, room)| room.objects.len())
        else {
            return false;
        };
        let idle = |id: &&u64| self.objects.get(*id).is_some_and(|entry| !entry.in_progress);
        let Some(id) = largest.objects.values().find(idle).copied() else { return false };
        self.remove(id);
        true
    }

    /// Removes an object and returns the number of its hints.
    pub(super) fn remove(&mut self, id: u64) -> usize {
        let Some(entry) = self.objects.remove(&id) else { return 0 };
        if let Some(room) = self.namespaces.get_mut(&entry.namespace) {
            room.objects.remove(&entry.key);
        }
        entry.hints.len() + entry.late_hints.len()
    }

    /// Processes all timers that are due and returns the resulting work. `known` reports whether a
    /// namespace is in the cache, and `covered` whether tasks already cover all of the keys.
    pub fn process_due(
        &mut self,
        now: Instant,
        known: impl Fn(&str) -> bool,
        covered: impl Fn(&[DedupKey]) -> bool,
    ) -> DueWork {
        let mut step = DueWork::default();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                QueueTimer::Window(room) => self.end_window(&room, now, &known, &mut step),
                QueueTimer::Grace(room) => self.release_hints(&room, &mut step),
                QueueTimer::Retry(id) => self.push_lookup(id, now),
            }
        }
        self.start_lookups(now, covered, &mut step);
        step
    }

    fn end_window(
        &mut self,
        room: &Arc<str>,
        now: Instant,
        known: &impl Fn(&str) -> bool,
        step: &mut DueWork,
    ) {
        let Some(of) = self.namespaces.get_mut(room) else { return };
        of.window_open = false;
        let collected = std::mem::take(&mut of.collected);
        let mut coming = std::mem::take(&mut of.incoming);
        of.ready.append(&mut coming);
        for id in collected {
            if &**room == UNKNOWN_NAMESPACES && !self.move_to_namespace(id, known) {
                let Some(entry) = self.objects.get(&id) else { continue };
                let not_stored = (OutcomeScope::Object, OfferOutcome::NotStored);
                self.memory.settle(room, entry.key, &entry.hints, not_stored, now);
                step.discarded.not_stored += self.remove(id);
                continue;
            }
            let Some(entry) = self.objects.get(&id) else { continue };
            let at = self.memory.next_lookup_at(&entry.namespace, entry.key);
            match at.filter(|at| *at > now && !self.closing) {
                Some(at) => {
                    self.set_timer(at, QueueTimer::Retry(id));
                }
                None => self.push_lookup(id, now),
            }
        }
        if self.lookups.namespace_len(room) == 0 {
            self.release_hints(room, step);
        } else {
            self.set_grace_timer(room, now);
        }
    }

    /// Moves an object from those of unknown namespaces to its own, and reports whether that is
    /// possible: the namespace is in the cache by now, and has space for the object.
    fn move_to_namespace(&mut self, id: u64, known: &impl Fn(&str) -> bool) -> bool {
        let Some(entry) = self.objects.get_mut(&id) else { return false };
        let (object, first) = (entry.key, entry.hints.first());
        let Some(namespace) = first.map(|hint| hint.namespace.clone()) else { return false };
        let there = self.namespaces.get(namespace.as_str());
        let has_space = there.is_none_or(|of| {
            of.objects.len() < MAX_NAMESPACE_OBJECTS && !of.objects.contains_key(&object)
        });
        if !has_space || !known(&namespace) {
            return false;
        }
        let name = intern_namespace(&self.namespaces, &namespace);
        if let Some(unknown) = self.namespaces.get_mut(UNKNOWN_NAMESPACES) {
            unknown.objects.remove(&object);
        }
        entry.namespace = Arc::clone(&name);
        self.namespaces.entry(name).or_default().objects.insert(object, id);
        true
    }

    /// Sets the grace timer of the namespace's confirmed hints, which wait for lookups in progress.
    fn set_grace_timer(&mut self, room: &Arc<str>, now: Instant) {
        let Some(of) = self.namespaces.get_mut(room) else { return };
        if !of.ready.is_empty() && !std::mem::replace(&mut of.grace_timer_set, true) {
            self.set_timer(now + COALESCE_GRACE, QueueTimer::Grace(Arc::clone(room)));
        }
    }

    pub(super) fn release_hints(&mut self, room: &Arc<str>, step: &mut DueWork) {
        let Some(of) = self.namespaces.get_mut(room) else { return };
        of.grace_timer_set = false;
        let ready = std::mem::take(&mut of.ready);
        self.confirmed_hints = self.confirmed_hints.saturating_sub(ready.len());
        if !of.window_open && of.objects.is_empty() {
            self.namespaces.remove(room);
        }
        if !ready.is_empty() {
            step.batches.push(ready);
        }
    }

    /// Releases the confirmed hints of a namespace, or sets their grace timer while lookups are in
    /// progress.
    pub(super) fn release_or_wait(&mut self, room: &Arc<str>, now: Instant, step: &mut DueWork) {
        if self.lookups.namespace_len(room) == 0 {
            self.release_hints(room, step);
        } else {
            self.set_grace_timer(room, now);
        }
    }

    /// Closes the queue: all windows and delays end now, and every waiting object is looked up
    /// once.
    pub fn close(&mut self, now: Instant) {
        self.closing = true;
        for (_, alarm) in std::mem::take(&mut self.timers) {
            self.set_timer(now, alarm);
        }
    }

    /// Returns the next deadline, if there is one.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let alarm = self.timers.first_key_value().map(|((at, _), _)| *at);
        [alarm, self.lookups.next_deadline()].into_iter().flatten().min()
    }

    /// Returns the number of waiting objects and confirmed hints.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len() + self.confirmed_hints
    }

    /// Reports whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
