//! Claims that wait for a look at their objects, and hints that wait for the end of a window. *Pure.*
//!
//! Anybody who reaches the webhook's port may claim anything, so every claim is
//! bounded before it costs a request: the same claim counts once, an object is
//! looked up once for all claims of it, a namespace has a share of the room and
//! of the lookups, and namespaces are served in turns. Hints from our own watch
//! have room of their own.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Claim, Hint, Key,
    limits::Rates,
    turns::{AtOnce, Turns},
};
use crate::workload::{Kind, Workload};

/// Objects that may wait for a look: a Helm upgrade of hundreds of workloads fits ten times, at about a kilobyte each.
pub(super) const QUEUE: usize = 4096;
/// Objects of one namespace that may wait: a quarter of the room.
pub(super) const NAMESPACE_SHARE: usize = QUEUE / 4;
/// Objects of all namespaces together that are not known (yet): the watch of namespaces is milliseconds behind, so that what is
/// real among them is known by the end of the window.
const UNKNOWN_SHARE: usize = 256;
/// Different claims of one object that may wait: a rollout of several changes within a window has that many.
const CLAIMS: usize = 4;
/// Lookups at once.
const LOOKUPS: AtOnce = AtOnce { total: 16, namespace: 8 };
/// An object is looked up this often, with these pauses before: 8 s in all. What is stored later is found by the watch, within 3 s
/// of being stored.
pub(super) const PAUSES_MS: [u64; 5] = [0, 250, 750, 2000, 5000];
/// An object that is not there is looked up again only while no more objects of its namespace wait: a flood costs one lookup for each
/// object, and what is real among many and stored late is found by the watch.
const CROWDED: usize = 64;
/// How long what was found waits for lookups of the same namespace that are still under way, so that it becomes one task.
const GRACE: Duration = Duration::from_secs(1);
/// How long an object that was not found is not looked up again, and how many are remembered (16 bytes each, twice).
const ABSENT_FOR: Duration = Duration::from_secs(60);
const MAX_ABSENT: usize = 4096;
/// The room of all namespaces that are not known. No namespace has this name.
const UNKNOWN: &str = "";

/// What became of a claim or a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It waits to be turned into a task.
    Queued,
    /// Everything it asks for was asked for already, or the same claim waits already.
    Duplicate,
    /// Its namespace has used up its share of the queue.
    Limited,
    /// The queue is full.
    Dropped,
    /// Its object was looked up lately, and did not exist.
    NotStored,
}

impl Offered {
    /// Returns the outcome as the metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Duplicate => "duplicate",
            Self::Limited => "limited",
            Self::Dropped => "dropped",
            Self::NotStored => "not_stored",
        }
    }
}

/// An object that is to be looked up.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) id: u64,
    pub(super) kind: Arc<Kind>,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What a lookup gave.
#[derive(Debug)]
pub(super) enum Seen {
    /// The object, and what it asks for.
    Stored { uid: String, version: String, workloads: Vec<Workload> },
    /// It is not there (yet), or the API server did not say.
    Missing,
    /// It may not be read: the watch finds what is real.
    Forbidden,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Hints of one namespace each, from which tasks are made.
    pub(super) batches: Vec<Vec<Hint>>,
    /// Objects to look up.
    pub(super) lookups: Vec<Lookup>,
    /// Claims that came to nothing.
    pub(super) lost: Lost,
}

/// Claims that came to nothing, by why.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) not_stored: usize,
    pub(super) forbidden: usize,
    pub(super) duplicate: usize,
    pub(super) dropped: usize,
}

type Object = (usize, String, String);

fn object(claim: &Claim) -> Object {
    (Arc::as_ptr(&claim.kind).addr(), claim.namespace.clone(), claim.name.clone())
}

#[derive(Debug)]
struct Entry {
    room: Arc<str>,
    object: Object,
    claims: Vec<Claim>,
    /// Claims that came while the object was being looked up: the answer may be older than they.
    late: Vec<Claim>,
    looks: usize,
    busy: bool,
}

/// What waits of one namespace.
#[derive(Debug, Default)]
struct Room {
    objects: HashMap<Object, u64>,
    /// Objects and hints that came within the open window.
    collected: Vec<u64>,
    coming: Vec<Hint>,
    open: bool,
    /// Hints of earlier windows, which wait for lookups that are under way.
    ready: Vec<Hint>,
    /// Whether an alarm is set for them.
    grace: bool,
}

#[derive(Debug)]
enum Alarm {
    /// The window of a namespace ends.
    Window(Arc<str>),
    /// An object is to be looked up again.
    Again(u64),
    /// What was found in a namespace waits no longer.
    Grace(Arc<str>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    rooms: HashMap<Arc<str>, Room>,
    entries: HashMap<u64, Entry>,
    lookups: Turns<u64>,
    alarms: BTreeMap<(Instant, u64), Alarm>,
    absent: Absent,
    window: Duration,
    hints: usize,
    sequence: u64,
    /// Nothing is waited for any more.
    closing: bool,
}

impl Queue {
    pub(super) fn new(window: Duration, rates: Rates, now: Instant) -> Self {
        Self {
            rooms: HashMap::new(),
            entries: HashMap::new(),
            lookups: Turns::new(rates, LOOKUPS),
            alarms: BTreeMap::new(),
            absent: Absent::new(now),
            window,
            hints: 0,
            sequence: 0,
            closing: false,
        }
    }

    /// Takes a claim. `known`: whether its namespace exists, as far as we know. The second value says whether something is to be
    /// done earlier than before.
    pub(super) fn claim(&mut self, claim: Claim, known: bool, now: Instant) -> (Offered, bool) {
        let (name, share) = if known { (claim.namespace.as_str(), NAMESPACE_SHARE) } else { (UNKNOWN, UNKNOWN_SHARE) };
        let object = object(&claim);
        if self.absent.has(&object, &claim.uid, now) {
            return (Offered::NotStored, false);
        }
        let here = self.rooms.get(name).map_or(0, |room| room.objects.len());
        let id = self.rooms.get(name).and_then(|room| room.objects.get(&object));
        if let Some(entry) = id.and_then(|id| self.entries.get_mut(id)) {
            return (entry.join(claim), false);
        }
        if here >= share {
            return (Offered::Limited, false);
        }
        if self.entries.len() >= QUEUE && !self.make_room(here) {
            return (Offered::Dropped, false);
        }
        let room = room_name(&self.rooms, name);
        self.sequence += 1;
        let id = self.sequence;
        let (claims, late) = (vec![claim], Vec::new());
        let entry = Entry { room: Arc::clone(&room), object: object.clone(), claims, late, looks: 0, busy: false };
        self.entries.insert(id, entry);
        let of = self.rooms.entry(Arc::clone(&room)).or_default();
        of.objects.insert(object, id);
        of.collected.push(id);
        (Offered::Queued, self.open(&room, now))
    }

    /// Takes a hint, as [`Self::claim`] does a claim.
    pub(super) fn hint(&mut self, hint: Hint, now: Instant) -> (Offered, bool) {
        let here = self.rooms.get(hint.namespace.as_str()).map_or(0, |room| room.coming.len() + room.ready.len());
        if here >= NAMESPACE_SHARE {
            return (Offered::Limited, false);
        }
        if self.hints >= QUEUE {
            return (Offered::Dropped, false);
        }
        let room = room_name(&self.rooms, &hint.namespace);
        self.hints += 1;
        self.rooms.entry(Arc::clone(&room)).or_default().coming.push(hint);
        (Offered::Queued, self.open(&room, now))
    }

    /// Opens the window of a room, unless it is open.
    fn open(&mut self, room: &Arc<str>, now: Instant) -> bool {
        let Some(of) = self.rooms.get_mut(room) else { return false };
        if std::mem::replace(&mut of.open, true) {
            return false;
        }
        let end = if self.closing { now } else { now + self.window };
        self.alarm(end, Alarm::Window(Arc::clone(room)))
    }

    /// Sets an alarm. Whether it is the first to go off.
    fn alarm(&mut self, at: Instant, alarm: Alarm) -> bool {
        self.sequence += 1;
        let first = self.alarms.first_key_value().is_none_or(|((first, _), _)| at < *first);
        self.alarms.insert((at, self.sequence), alarm);
        first
    }

    /// Takes a place from the namespace that has most, for one that has fewer than its share of a full queue.
    fn make_room(&mut self, here: usize) -> bool {
        if (here + 1) * self.rooms.len().max(1) > QUEUE {
            return false;
        }
        let Some((_, largest)) = self.rooms.iter().max_by_key(|(_, room)| room.objects.len()) else { return false };
        let idle = |id: &&u64| self.entries.get(*id).is_some_and(|entry| !entry.busy);
        let Some(id) = largest.objects.values().find(idle).copied() else { return false };
        self.remove(id);
        true
    }

    /// Forgets an object. How many claims of it there were.
    fn remove(&mut self, id: u64) -> usize {
        let Some(entry) = self.entries.remove(&id) else { return 0 };
        if let Some(room) = self.rooms.get_mut(&entry.room) {
            room.objects.remove(&entry.object);
        }
        entry.claims.len() + entry.late.len()
    }

    /// What is to be done now. `known` says whether a namespace exists, and `covered` whether all of the keys are asked for
    /// already.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        known: impl Fn(&str) -> bool,
        covered: impl Fn(&[Key]) -> bool,
    ) -> Step {
        let mut step = Step::default();
        while let Some(entry) = self.alarms.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Alarm::Window(room) => self.end_window(&room, now, &known, &mut step),
                Alarm::Grace(room) => self.flush(&room, &mut step),
                Alarm::Again(id) => {
                    if let Some(entry) = self.entries.get(&id) {
                        let room = Arc::clone(&entry.room);
                        self.lookups.push(&room, id);
                    }
                }
            }
        }
        let mut done = Vec::new();
        loop {
            let entries = &self.entries;
            let needed = |id: &u64| {
                let Some(entry) = entries.get(id) else { return false };
                let all = entry.claims.iter().all(|claim| claim.fresh().is_some_and(&covered));
                if all {
                    done.push(*id);
                }
                !all
            };
            let Some((_, id)) = self.lookups.next(now, needed) else { break };
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.busy = true;
            if let Some(Claim { kind, namespace, name, .. }) = entry.claims.first() {
                let (kind, namespace, name) = (Arc::clone(kind), namespace.clone(), name.clone());
                step.lookups.push(Lookup { id, kind, namespace, name });
            }
        }
        for id in done {
            let room = self.entries.get(&id).map(|entry| Arc::clone(&entry.room));
            step.lost.duplicate += self.remove(id);
            if let Some(room) = room.filter(|room| self.lookups.of(room) == 0) {
                self.flush(&room, &mut step);
            }
        }
        step
    }

    fn end_window(&mut self, room: &Arc<str>, now: Instant, known: &impl Fn(&str) -> bool, step: &mut Step) {
        let Some(of) = self.rooms.get_mut(room) else { return };
        of.open = false;
        let collected = std::mem::take(&mut of.collected);
        let mut coming = std::mem::take(&mut of.coming);
        of.ready.append(&mut coming);
        for id in collected {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if &**room != UNKNOWN {
                self.lookups.push(room, id);
                continue;
            }
            let (object, namespace) = (entry.object.clone(), entry.object.1.clone());
            let there = self.rooms.get(namespace.as_str());
            let (full, twice) =
                there.map_or((false, false), |r| (r.objects.len() >= NAMESPACE_SHARE, r.objects.contains_key(&object)));
            if known(&namespace) && !full && !twice {
                let name = room_name(&self.rooms, &namespace);
                entry.room = Arc::clone(&name);
                self.rooms.entry(Arc::clone(&name)).or_default().objects.insert(object.clone(), id);
                if let Some(unknown) = self.rooms.get_mut(room) {
                    unknown.objects.remove(&object);
                }
                self.lookups.push(&name, id);
            } else {
                for claim in &entry.claims {
                    self.absent.note(&object, &claim.uid, now);
                }
                step.lost.not_stored += self.remove(id);
            }
        }
        if self.lookups.of(room) == 0 {
            self.flush(room, step);
        } else {
            self.wait(room, now);
        }
    }

    /// Has what was found wait for the lookups of its namespace that are under way, but not for long.
    fn wait(&mut self, room: &Arc<str>, now: Instant) {
        let Some(of) = self.rooms.get_mut(room) else { return };
        if !of.ready.is_empty() && !std::mem::replace(&mut of.grace, true) {
            self.alarm(now + GRACE, Alarm::Grace(Arc::clone(room)));
        }
    }

    fn flush(&mut self, room: &Arc<str>, step: &mut Step) {
        let Some(of) = self.rooms.get_mut(room) else { return };
        of.grace = false;
        let ready = std::mem::take(&mut of.ready);
        self.hints = self.hints.saturating_sub(ready.len());
        if !of.open && of.objects.is_empty() {
            self.rooms.remove(room);
        }
        if !ready.is_empty() {
            step.batches.push(ready);
        }
    }

    /// Takes what a lookup gave.
    pub(super) fn seen(&mut self, id: u64, seen: Seen, now: Instant) -> Step {
        let mut step = Step::default();
        let Some(entry) = self.entries.get_mut(&id) else { return step };
        let room = Arc::clone(&entry.room);
        entry.busy = false;
        self.lookups.done(&room);
        let claims = std::mem::take(&mut entry.claims);
        let (mut later, mut absent, mut here) = (Vec::new(), Vec::new(), Vec::new());
        match &seen {
            Seen::Stored { uid, version, .. } => {
                for claim in claims {
                    if claim.uid != *uid {
                        absent.push(claim);
                    } else if claim.replaces.as_ref() == Some(version) {
                        later.push(claim);
                    } else {
                        here.push(claim);
                    }
                }
            }
            Seen::Missing => later = claims,
            Seen::Forbidden => {
                step.lost.forbidden += claims.len() + self.remove(id);
                self.settle(&room, now, &mut step);
                return step;
            }
        }
        let crowded = self.rooms.get(&room).is_some_and(|of| of.objects.len() > CROWDED);
        if entry.looks + 1 >= PAUSES_MS.len() || crowded || self.closing {
            absent.append(&mut later);
        }
        entry.looks = if entry.late.is_empty() { entry.looks + 1 } else { 0 };
        later.append(&mut entry.late);
        let pause = PAUSES_MS.get(entry.looks.max(1)).copied().unwrap_or_default();
        let object = entry.object.clone();
        if later.is_empty() {
            self.remove(id);
        } else {
            entry.claims = later;
            let at = if self.closing { now } else { now + Duration::from_millis(pause) };
            self.alarm(at, Alarm::Again(id));
        }
        step.lost.not_stored += absent.len();
        for claim in &absent {
            self.absent.note(&object, &claim.uid, now);
        }
        if let Seen::Stored { workloads, .. } = seen
            && let Some(hint) = merged(&here, workloads)
            && let Some(of) = self.rooms.get_mut(&room)
        {
            self.hints += 1;
            of.ready.push(hint);
        }
        self.settle(&room, now, &mut step);
        step
    }

    /// Gives away what was found in a namespace, if nothing of it is being looked up.
    fn settle(&mut self, room: &Arc<str>, now: Instant, step: &mut Step) {
        if self.lookups.of(room) == 0 {
            self.flush(room, step);
        } else {
            self.wait(room, now);
        }
    }

    /// Ends all windows and pauses: what waits is looked up now, and once.
    pub(super) fn close(&mut self, now: Instant) {
        self.closing = true;
        for (_, alarm) in std::mem::take(&mut self.alarms) {
            self.alarm(now, alarm);
        }
    }

    /// When there is something to do.
    pub(super) fn wakes(&self) -> Option<Instant> {
        let alarm = self.alarms.first_key_value().map(|((at, _), _)| *at);
        [alarm, self.lookups.wakes()].into_iter().flatten().min()
    }

    /// How much waits: objects that are to be looked up, and hints.
    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.hints
    }
}

impl Entry {
    /// Adds a further claim of the object.
    fn join(&mut self, claim: Claim) -> Offered {
        if self.claims.iter().chain(&self.late).any(|known| known.says_the_same(&claim)) {
            return Offered::Duplicate;
        }
        if self.claims.len() + self.late.len() >= CLAIMS {
            return Offered::Limited;
        }
        let to = if self.busy { &mut self.late } else { &mut self.claims };
        to.push(claim);
        Offered::Queued
    }
}

/// The hint that follows from a stored object and the claims of it: what all of them say was there before counts as there.
fn merged(claims: &[Claim], workloads: Vec<Workload>) -> Option<Hint> {
    let (first, others) = claims.split_first()?;
    if workloads.is_empty() {
        return None;
    }
    let mut kept = first.kept.clone();
    for other in others {
        let also: HashSet<&Key> = other.kept.iter().collect();
        kept.retain(|key| also.contains(key));
    }
    let since = claims.iter().map(|claim| claim.since).min()?;
    Some(Hint::stored(&first.namespace, since, workloads, kept))
}

fn room_name(rooms: &HashMap<Arc<str>, Room>, name: &str) -> Arc<str> {
    rooms.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
}

/// Objects that were looked up and not found, by a hash that nobody outside can predict, in two generations.
#[derive(Debug)]
struct Absent {
    hasher: RandomState,
    young: HashSet<u64>,
    old: HashSet<u64>,
    turned: Instant,
}

impl Absent {
    fn new(now: Instant) -> Self {
        Self { hasher: RandomState::new(), young: HashSet::new(), old: HashSet::new(), turned: now }
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.turned);
        if age >= ABSENT_FOR || self.young.len() >= MAX_ABSENT {
            self.old = std::mem::take(&mut self.young);
            self.turned = now;
            if age >= 2 * ABSENT_FOR {
                self.old.clear();
            }
        }
    }

    fn note(&mut self, object: &Object, uid: &str, now: Instant) {
        self.turn(now);
        self.young.insert(self.hasher.hash_one((object, uid)));
    }

    fn has(&mut self, object: &Object, uid: &str, now: Instant) -> bool {
        if self.young.is_empty() && self.old.is_empty() {
            return false;
        }
        self.turn(now);
        let hash = self.hasher.hash_one((object, uid));
        self.young.contains(&hash) || self.old.contains(&hash)
    }
}

#[cfg(test)]
mod tests;
