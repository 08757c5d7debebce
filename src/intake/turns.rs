//! Lines of work, one for each namespace, that are served in turns. *Pure.*

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use super::limits::{Full, Limiter, Rates};

/// How much is at work at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct AtOnce {
    /// In all namespaces together.
    pub(super) total: usize,
    /// In each: what one namespace has to wait for holds up no other.
    pub(super) namespace: usize,
}

/// Lines of work. A namespace with a thousand items and one with a single item are served alike, one item at a time.
#[derive(Debug)]
pub(super) struct Turns<T> {
    lines: HashMap<Arc<str>, Line<T>>,
    /// Namespaces with something to do, each once.
    ring: VecDeque<Arc<str>>,
    /// Namespaces that have used up their rate, and when they may go on.
    paused: BTreeMap<(Instant, u64), Arc<str>>,
    /// Until when all have to wait, because the rate of all together is used up.
    all_paused: Option<Instant>,
    limiter: Limiter,
    at_once: AtOnce,
    busy: usize,
    waiting: usize,
    sequence: u64,
}

#[derive(Debug)]
struct Line<T> {
    items: VecDeque<T>,
    busy: usize,
    /// Whether it stands in the ring or is paused.
    queued: bool,
}

impl<T> Turns<T> {
    pub(super) fn new(rates: Rates, at_once: AtOnce) -> Self {
        Self {
            lines: HashMap::new(),
            ring: VecDeque::new(),
            paused: BTreeMap::new(),
            all_paused: None,
            limiter: Limiter::new(rates),
            at_once,
            busy: 0,
            waiting: 0,
            sequence: 0,
        }
    }

    /// Adds an item to the end of a namespace's line.
    pub(super) fn push(&mut self, namespace: &Arc<str>, item: T) {
        let line = self.lines.entry(Arc::clone(namespace)).or_insert_with(|| Line {
            items: VecDeque::new(),
            busy: 0,
            queued: false,
        });
        line.items.push_back(item);
        self.waiting += 1;
        if !line.queued && line.busy < self.at_once.namespace {
            line.queued = true;
            self.ring.push_back(Arc::clone(namespace));
        }
    }

    /// Takes the next item whose turn it is. It is at work until [`Self::done`]; `needed` says whether it is still to be done.
    pub(super) fn next(&mut self, now: Instant, mut needed: impl FnMut(&T) -> bool) -> Option<(Arc<str>, T)> {
        while let Some(entry) = self.paused.first_entry().filter(|entry| entry.key().0 <= now) {
            let namespace = entry.remove();
            self.ring.push_back(namespace);
        }
        if self.all_paused.is_some_and(|until| until > now) {
            return None;
        }
        self.all_paused = None;
        while self.busy < self.at_once.total {
            let namespace = self.ring.pop_front()?;
            let Some(line) = self.lines.get_mut(&namespace) else { continue };
            line.queued = false;
            while line.items.front().is_some_and(|item| !needed(item)) {
                line.items.pop_front();
                self.waiting -= 1;
            }
            if line.items.is_empty() || line.busy >= self.at_once.namespace {
                if line.items.is_empty() && line.busy == 0 {
                    self.lines.remove(&namespace);
                }
                continue;
            }
            match self.limiter.take(&namespace, now) {
                Ok(()) => {}
                Err(Full::Total(until)) => {
                    line.queued = true;
                    self.ring.push_front(namespace);
                    self.all_paused = Some(until);
                    return None;
                }
                Err(Full::Namespace(until)) => {
                    line.queued = true;
                    self.sequence += 1;
                    self.paused.insert((until, self.sequence), namespace);
                    continue;
                }
            }
            let item = line.items.pop_front()?;
            line.busy += 1;
            self.busy += 1;
            self.waiting -= 1;
            if !line.items.is_empty() && line.busy < self.at_once.namespace {
                line.queued = true;
                self.ring.push_back(Arc::clone(&namespace));
            }
            return Some((namespace, item));
        }
        None
    }

    /// An item of the namespace is no longer at work.
    pub(super) fn done(&mut self, namespace: &Arc<str>) {
        let Some(line) = self.lines.get_mut(namespace) else { return };
        line.busy = line.busy.saturating_sub(1);
        self.busy = self.busy.saturating_sub(1);
        if line.items.is_empty() {
            if line.busy == 0 && !line.queued {
                self.lines.remove(namespace);
            }
        } else if !line.queued {
            line.queued = true;
            self.ring.push_back(Arc::clone(namespace));
        }
    }

    /// When there may be something to do again without anything being pushed or done.
    pub(super) fn wakes(&self) -> Option<Instant> {
        let paused = self.paused.first_key_value().map(|((at, _), _)| *at);
        match self.all_paused.filter(|_| !self.ring.is_empty()) {
            Some(all) => Some(paused.map_or(all, |at| at.min(all))),
            None => paused,
        }
    }

    /// How many items of a namespace wait or are at work.
    pub(super) fn of(&self, namespace: &str) -> usize {
        self.lines.get(namespace).map_or(0, |line| line.items.len() + line.busy)
    }

    /// How many items wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many items are at work.
    pub(super) fn busy(&self) -> usize {
        self.busy
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn turns(at_once: AtOnce) -> Turns<u32> {
        Turns::new(Rates { total: 100, namespace: 10 }, at_once)
    }

    fn take(turns: &mut Turns<u32>, now: Instant) -> Vec<(String, u32)> {
        std::iter::from_fn(|| turns.next(now, |_| true)).map(|(name, item)| (name.to_string(), item)).collect()
    }

    #[test]
    fn a_crowd_does_not_stand_before_a_single_one() {
        let mut turns = turns(AtOnce { total: 100, namespace: 100 });
        let (crowd, one): (Arc<str>, Arc<str>) = ("crowd".into(), "one".into());
        for item in 0..50 {
            turns.push(&crowd, item);
        }
        turns.push(&one, 7);
        let order = take(&mut turns, Instant::now());
        assert_eq!(order.len(), 51);
        assert_eq!(order[1], ("one".to_owned(), 7), "it is served after one of the crowd");
        assert_eq!((turns.waiting(), turns.busy()), (0, 51));
    }

    #[test]
    fn only_so_many_are_at_work_and_others_take_over() {
        let mut turns = turns(AtOnce { total: 5, namespace: 2 });
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for item in 0..10 {
            turns.push(&a, item);
        }
        turns.push(&b, 0);
        let now = Instant::now();
        assert_eq!(take(&mut turns, now).len(), 3, "two of the one, and the other's");
        turns.done(&a);
        assert_eq!(take(&mut turns, now), [("a".to_owned(), 2)]);
        turns.done(&b);
        assert_eq!(turns.of("b"), 0);
        assert_eq!(turns.of("a"), 9);
    }

    #[test]
    fn who_has_used_up_the_rate_waits_and_others_do_not() {
        let mut turns = turns(AtOnce { total: 1000, namespace: 1000 });
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for item in 0..150 {
            turns.push(&a, item);
        }
        let begun = Instant::now();
        assert_eq!(take(&mut turns, begun).len(), 100);
        turns.push(&b, 1);
        assert_eq!(take(&mut turns, begun), [("b".to_owned(), 1)]);
        let wakes = turns.wakes().unwrap();
        assert!(wakes > begun && wakes <= begun + Duration::from_millis(100), "{:?}", wakes - begun);
        assert_eq!(take(&mut turns, begun + Duration::from_secs(1)).len(), 10);
        assert_eq!(turns.waiting(), 40);
    }

    #[test]
    fn what_is_not_needed_any_more_costs_nothing() {
        let mut turns = turns(AtOnce { total: 10, namespace: 10 });
        let a: Arc<str> = "a".into();
        for item in 0..1000 {
            turns.push(&a, item);
        }
        let (_, item) = turns.next(Instant::now(), |item| *item == 999).unwrap();
        assert_eq!((item, turns.waiting()), (999, 0));
    }
}
