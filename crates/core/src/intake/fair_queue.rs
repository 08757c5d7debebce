//! Fair queue with one FIFO per namespace, served round-robin within rate and concurrency limits.
//! Pure: no client, no clock, no I/O.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use std::time::Instant;

use super::rate_limit::{NamespaceRateLimiter, RateLimited, RateLimits};

/// Concurrency limits.
#[derive(Debug, Clone, Copy)]
pub struct ConcurrencyLimits {
    /// Limit for all namespaces together.
    pub total: usize,
    /// Limit per namespace, so that a blocked namespace does not delay others.
    pub namespace: usize,
}

/// Fair queue. Each turn takes one item of a namespace, independent of how many items it has.
#[derive(Debug)]
pub struct FairQueue<T> {
    namespaces: HashMap<Arc<str>, NamespaceQueue<T>>,
    /// Namespaces with items that may be taken, each at most once, in round-robin order.
    ring: VecDeque<Arc<str>>,
    /// Namespaces whose rate limit is exhausted, by the time at which they may continue.
    paused: BTreeMap<(Instant, u64), Arc<str>>,
    /// Time until which all namespaces are paused because the total rate limit is exhausted.
    all_paused_until: Option<Instant>,
    limiter: NamespaceRateLimiter,
    concurrency: ConcurrencyLimits,
    busy: usize,
    waiting: usize,
    sequence: u64,
}

#[derive(Debug)]
struct NamespaceQueue<T> {
    items: VecDeque<T>,
    busy: usize,
    /// True while the namespace is in the ring or paused.
    scheduled: bool,
}

impl<T> FairQueue<T> {
    /// Creates an empty queue.
    #[must_use]
    pub fn new(rates: RateLimits, at_once: ConcurrencyLimits) -> Self {
        Self {
            namespaces: HashMap::new(),
            ring: VecDeque::new(),
            paused: BTreeMap::new(),
            all_paused_until: None,
            limiter: NamespaceRateLimiter::new(rates),
            concurrency: at_once,
            busy: 0,
            waiting: 0,
            sequence: 0,
        }
    }

    /// Appends an item to the queue of a namespace.
    pub fn push(&mut self, namespace: &Arc<str>, item: T) {
        let line = self.namespaces.entry(Arc::clone(namespace)).or_insert_with(|| NamespaceQueue {
            items: VecDeque::new(),
            busy: 0,
            scheduled: false,
        });
        line.items.push_back(item);
        self.waiting += 1;
        if !line.scheduled && line.busy < self.concurrency.namespace {
            line.scheduled = true;
            self.ring.push_back(Arc::clone(namespace));
        }
    }

    /// Takes the next item in round-robin order. The item counts as in progress until `finish` is
    /// called. Items for which `needed` returns false are removed.
    pub fn next(
        &mut self,
        now: Instant,
        mut needed: impl FnMut(&T) -> bool,
    ) -> Option<(Arc<str>, T)> {
        while let Some(entry) = self.paused.first_entry().filter(|entry| entry.key().0 <= now) {
            let namespace = entry.remove();
            self.ring.push_back(namespace);
        }
        if self.all_paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.all_paused_until = None;
        while self.busy < self.concurrency.total {
            let namespace = self.ring.pop_front()?;
            let Some(line) = self.namespaces.get_mut(&namespace) else { continue };
            line.scheduled = false;
            while line.items.front().is_some_and(|item| !needed(item)) {
                line.items.pop_front();
                self.waiting -= 1;
            }
            if line.items.is_empty() || line.busy >= self.concurrency.namespace {
                if line.items.is_empty() && line.busy == 0 {
                    self.namespaces.remove(&namespace);
                }
                continue;
            }
            match self.limiter.try_acquire(&namespace, now) {
                Ok(()) => {}
                Err(RateLimited::Total(until)) => {
                    line.scheduled = true;
                    self.ring.push_front(namespace);
                    self.all_paused_until = Some(until);
                    return None;
                }
                Err(RateLimited::Namespace(until)) => {
                    line.scheduled = true;
                    self.sequence += 1;
                    self.paused.insert((until, self.sequence), namespace);
                    continue;
                }
            }
            let item = line.items.pop_front()?;
            line.busy += 1;
            self.busy += 1;
            self.waiting -= 1;
            if !line.items.is_empty() && line.busy < self.concurrency.namespace {
                line.scheduled = true;
                self.ring.push_back(Arc::clone(&namespace));
            }
            return Some((namespace, item));
        }
        None
    }

    /// Takes further permits from the rate limit of a namespace, which delays its next items.
    pub fn charge(&mut self, namespace: &Arc<str>, permits: u32, now: Instant) {
        self.limiter.charge(namespace, permits, now);
    }

    /// Records that an item of the namespace is no longer in progress.
    pub fn finish(&mut self, namespace: &Arc<str>) {
        let Some(line) = self.namespaces.get_mut(namespace) else { return };
        line.busy = line.busy.saturating_sub(1);
        self.busy = self.busy.saturating_sub(1);
        if line.items.is_empty() {
            if line.busy == 0 && !line.scheduled {
                self.namespaces.remove(namespace);
            }
        } else if !line.scheduled {
            line.scheduled = true;
            self.ring.push_back(Arc::clone(namespace));
        }
    }

    /// Returns the earliest time at which paused items may be taken, if items are paused.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let paused = self.paused.first_key_value().map(|((at, _), _)| *at);
        match self.all_paused_until.filter(|_| !self.ring.is_empty()) {
            Some(all) => Some(paused.map_or(all, |at| at.min(all))),
            None => paused,
        }
    }

    /// Returns the number of items of a namespace that wait or are in progress.
    #[must_use]
    pub fn namespace_len(&self, namespace: &str) -> usize {
        self.namespaces.get(namespace).map_or(0, |line| line.items.len() + line.busy)
    }

    /// Returns the number of waiting items.
    #[must_use]
    pub fn waiting_len(&self) -> usize {
        self.waiting
    }

    /// Returns the number of items in progress.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.busy
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fair_queue(at_once: ConcurrencyLimits) -> FairQueue<u32> {
        FairQueue::new(RateLimits { total: 100, namespace: 10 }, at_once)
    }

    fn take_all(turns: &mut FairQueue<u32>, now: Instant) -> Vec<(String, u32)> {
        std::iter::from_fn(|| turns.next(now, |_| true))
            .map(|(name, item)| (name.to_string(), item))
            .collect()
    }

    #[test]
    fn namespaces_are_served_round_robin() {
        let mut turns = fair_queue(ConcurrencyLimits { total: 100, namespace: 100 });
        let (crowd, one): (Arc<str>, Arc<str>) = ("crowd".into(), "one".into());
        for item in 0..50 {
            turns.push(&crowd, item);
        }
        turns.push(&one, 7);
        let order = take_all(&mut turns, Instant::now());
        assert_eq!(order.len(), 51);
        assert_eq!(order[1], ("one".to_owned(), 7), "served after one item of the other namespace");
        assert_eq!((turns.waiting_len(), turns.in_progress()), (0, 51));
    }

    #[test]
    fn concurrency_is_limited_per_namespace() {
        let mut turns = fair_queue(ConcurrencyLimits { total: 5, namespace: 2 });
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for item in 0..10 {
            turns.push(&a, item);
        }
        turns.push(&b, 0);
        let now = Instant::now();
        assert_eq!(
            take_all(&mut turns, now).len(),
            3,
            "two items of namespace a and one of namespace b"
        );
        turns.finish(&a);
        assert_eq!(take_all(&mut turns, now), [("a".to_owned(), 2)]);
        turns.finish(&b);
        assert_eq!(turns.namespace_len("b"), 0);
        assert_eq!(turns.namespace_len("a"), 9);
    }

    #[test]
    fn exhausted_rate_pauses_only_its_namespace() {
        let mut turns = fair_queue(ConcurrencyLimits { total: 1000, namespace: 1000 });
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for item in 0..150 {
            turns.push(&a, item);
        }
        let begun = Instant::now();
        assert_eq!(take_all(&mut turns, begun).len(), 100);
        turns.push(&b, 1);
        assert_eq!(take_all(&mut turns, begun), [("b".to_owned(), 1)]);
        let wakes = turns.next_deadline().unwrap();
        assert!(
            wakes > begun && wakes <= begun + Duration::from_millis(100),
            "{:?}",
            wakes - begun
        );
        assert_eq!(take_all(&mut turns, begun + Duration::from_secs(1)).len(), 10);
        assert_eq!(turns.waiting_len(), 40);
    }

    #[test]
    fn unneeded_items_take_no_permit() {
        let mut turns = fair_queue(ConcurrencyLimits { total: 10, namespace: 10 });
        let a: Arc<str> = "a".into();
        for item in 0..1000 {
            turns.push(&a, item);
        }
        let (_, item) = turns.next(Instant::now(), |item| *item == 999).unwrap();
        assert_eq!((item, turns.waiting_len()), (999, 0));
    }
}
