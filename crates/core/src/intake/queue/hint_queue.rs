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
    absent::AbsentObjects,
    objects::{
        NamespaceHints, QueuedObject, SortedHints, intern_namespace, merge_hints, object_key,
    },
    work::{DueWork, Lookup, LookupResult, OfferOutcome},
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
/// Delays before each attempt to look up an object, in milliseconds: 8 s in total. The watch finds
/// objects that are stored later, within 3 s of being stored.
pub const LOOKUP_DELAYS_MS: [u64; 5] = [0, 250, 750, 2000, 5000];
/// Maximum number of waiting objects of a namespace at which a missing object is looked up again. A
/// flood therefore causes one lookup per object. The watch finds existing objects that are stored
/// late.
pub(super) const MAX_OBJECTS_FOR_RETRY: usize = 64;
/// Maximum time for which confirmed hints wait for lookups in progress in the same namespace, so
/// that they are coalesced into one task.
pub(super) const COALESCE_GRACE: Duration = Duration::from_secs(1);
/// Key under which objects of all unknown namespaces wait. No namespace has an empty name.
const UNKNOWN_NAMESPACES: &str = "";

#[derive(Debug)]
enum QueueTimer {
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
    namespaces: HashMap<Arc<str>, NamespaceHints>,
    objects: HashMap<u64, QueuedObject>,
    lookups: FairQueue<u64>,
    timers: BTreeMap<(Instant, u64), QueueTimer>,
    absent: AbsentObjects,
    window: Duration,
    confirmed_hints: usize,
    sequence: u64,
    /// True once the queue is closed: windows and delays end at once.
    closing: bool,
}

impl HintQueue {
    /// Creates an empty queue with a hint window and the rate limits of lookups.
    #[must_use]
    pub fn new(window: Duration, rates: RateLimits, now: Instant) -> Self {
        Self {
            namespaces: HashMap::new(),
            objects: HashMap::new(),
            lookups: FairQueue::new(rates, LOOKUP_CONCURRENCY),
            timers: BTreeMap::new(),
            absent: AbsentObjects::new(now),
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
        let object = object_key(&hint);
        if self.absent.contains(&object, &hint.uid, now) {
            return (OfferOutcome::NotStored, false);
        }
        let here = self.namespaces.get(name).map_or(0, |room| room.objects.len());
        let id = self.namespaces.get(name).and_then(|room| room.objects.get(&object));
        if let Some(entry) = id.and_then(|id| self.objects.get_mut(id)) {
            return (entry.add_hint(hint), false);
        }
        if here >= share {
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
            key: object.clone(),
            hints: claims,
            late_hints: late,
            attempts: 0,
            in_progress: false,
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
    fn set_timer(&mut self, at: Instant, alarm: QueueTimer) -> bool {
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
    fn remove(&mut self, id: u64) -> usize {
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
                QueueTimer::Retry(id) => {
                    if let Some(entry) = self.objects.get(&id) {
                        let room = Arc::clone(&entry.namespace);
                        self.lookups.push(&room, id);
                    }
                }
            }
        }
        let mut done = Vec::new();
        loop {
            let entries = &self.objects;
            let needed = |id: &u64| {
                let Some(entry) = entries.get(id) else { return false };
                let all = entry.hints.iter().all(|claim| claim.new_keys().is_some_and(&covered));
                if all {
                    done.push(*id);
                }
                !all
            };
            let Some((_, id)) = self.lookups.next(now, needed) else { break };
            let Some(entry) = self.objects.get_mut(&id) else { continue };
            entry.in_progress = true;
            if let Some(Hint { kind, namespace, name, .. }) = entry.hints.first() {
                let (kind, namespace, name) = (Arc::clone(kind), namespace.clone(), name.clone());
                step.lookups.push(Lookup { id, kind, namespace, name });
            }
        }
        for id in done {
            let room = self.objects.get(&id).map(|entry| Arc::clone(&entry.namespace));
            step.discarded.duplicate += self.remove(id);
            if let Some(room) = room.filter(|room| self.lookups.namespace_len(room) == 0) {
                self.release_hints(&room, &mut step);
            }
        }
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
            let Some(entry) = self.objects.get_mut(&id) else { continue };
            if &**room != UNKNOWN_NAMESPACES {
                self.lookups.push(room, id);
                continue;
            }
            let (object, namespace) = (entry.key.clone(), entry.key.1.clone());
            let there = self.namespaces.get(namespace.as_str());
            let (full, twice) = there.map_or((false, false), |r| {
                (r.objects.len() >= MAX_NAMESPACE_OBJECTS, r.objects.contains_key(&object))
            });
            if known(&namespace) && !full && !twice {
                let name = intern_namespace(&self.namespaces, &namespace);
                entry.namespace = Arc::clone(&name);
                self.namespaces
                    .entry(Arc::clone(&name))
                    .or_default()
                    .objects
                    .insert(object.clone(), id);
                if let Some(unknown) = self.namespaces.get_mut(room) {
                    unknown.objects.remove(&object);
                }
                self.lookups.push(&name, id);
            } else {
                for claim in &entry.hints {
                    self.absent.insert(&object, &claim.uid, now);
                }
                step.discarded.not_stored += self.remove(id);
            }
        }
        if self.lookups.namespace_len(room) == 0 {
            self.release_hints(room, step);
        } else {
            self.set_grace_timer(room, now);
        }
    }

    /// Sets the grace timer of the namespace's confirmed hints, which wait for lookups in progress.
    fn set_grace_timer(&mut self, room: &Arc<str>, now: Instant) {
        let Some(of) = self.namespaces.get_mut(room) else { return };
        if !of.ready.is_empty() && !std::mem::replace(&mut of.grace_timer_set, true) {
            self.set_timer(now + COALESCE_GRACE, QueueTimer::Grace(Arc::clone(room)));
        }
    }

    fn release_hints(&mut self, room: &Arc<str>, step: &mut DueWork) {
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

    /// Processes the result of a lookup and returns the resulting work.
    pub fn handle_lookup_result(&mut self, id: u64, seen: LookupResult, now: Instant) -> DueWork {
        let mut step = DueWork::default();
        let Some(entry) = self.objects.get_mut(&id) else { return step };
        let room = Arc::clone(&entry.namespace);
        entry.in_progress = false;
        self.lookups.finish(&room);
        let claims = std::mem::take(&mut entry.hints);
        let SortedHints { confirmed, mut absent, mut later } = match &seen {
            LookupResult::Stored { uid, version, .. } => SortedHints::new(claims, uid, version),
            LookupResult::Missing => SortedHints { later: claims, ..SortedHints::default() },
            LookupResult::Forbidden => {
                step.discarded.forbidden += claims.len() + self.remove(id);
                self.release_or_wait(&room, now, &mut step);
                return step;
            }
        };
        let crowded =
            self.namespaces.get(&room).is_some_and(|of| of.objects.len() > MAX_OBJECTS_FOR_RETRY);
        if entry.attempts + 1 >= LOOKUP_DELAYS_MS.len() || crowded || self.closing {
            absent.append(&mut later);
        }
        entry.attempts = if entry.late_hints.is_empty() { entry.attempts + 1 } else { 0 };
        later.append(&mut entry.late_hints);
        let pause = LOOKUP_DELAYS_MS.get(entry.attempts.max(1)).copied().unwrap_or_default();
        let object = entry.key.clone();
        if later.is_empty() {
            self.remove(id);
        } else {
            entry.hints = later;
            let at = if self.closing { now } else { now + Duration::from_millis(pause) };
            self.set_timer(at, QueueTimer::Retry(id));
        }
        step.discarded.not_stored += absent.len();
        for claim in &absent {
            self.absent.insert(&object, &claim.uid, now);
        }
        if let LookupResult::Stored { workloads, .. } = seen
            && let Some(hint) = merge_hints(&confirmed, workloads)
            && let Some(of) = self.namespaces.get_mut(&room)
        {
            self.confirmed_hints += 1;
            of.ready.push(hint);
        }
        self.release_or_wait(&room, now, &mut step);
        step
    }

    /// Releases the confirmed hints of a namespace, or sets their grace timer while lookups are in
    /// progress.
    fn release_or_wait(&mut self, room: &Arc<str>, now: Instant, step: &mut DueWork) {
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
