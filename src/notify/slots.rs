//! How many messages are sent at once, and how many in a minute.
//!
//! A task's author chooses the addresses: none of them may take the time of
//! other namespaces' messages, and none may make the server a source of floods.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    num::NonZeroU32,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages of one namespace sent at once. A receiver that never answers takes one for 10 s.
const PER_NAMESPACE: usize = 2;
/// Messages sent to one host at once: all namespaces of a cluster may report to the same.
const PER_HOST: usize = 4;
/// Messages sent at once. 8 namespaces can take them all, and then for 10 s at most: who waits is served in the order of
/// arrival, and each namespace waits with [`PER_NAMESPACE`] messages.
const TOTAL: usize = 16;
/// Tasks of one namespace that are worked on at once.
pub(super) const TASKS_PER_NAMESPACE: usize = 2;
/// Tasks that are worked on at once; most of them wait for one of the slots. Each takes some kilobytes.
pub(super) const TASKS: usize = 1000;
/// Keys remembered before those that are not in use are forgotten.
const MANY_KEYS: usize = 1000;

/// The slots. Dropping what was taken gives it back.
pub(super) struct Slots {
    namespaces: Keyed,
    hosts: Keyed,
    total: Arc<Semaphore>,
    rate: DefaultKeyedRateLimiter<String>,
}

/// A slot that is taken.
pub(super) struct Slot {
    _held: [Option<OwnedSemaphorePermit>; 3],
}

impl Slots {
    /// `per_minute`: messages of one namespace, redirects included.
    pub(super) fn new(per_minute: NonZeroU32) -> Self {
        Self {
            namespaces: Keyed::new(PER_NAMESPACE),
            hosts: Keyed::new(PER_HOST),
            total: Arc::new(Semaphore::new(TOTAL)),
            rate: RateLimiter::keyed(Quota::per_minute(per_minute)),
        }
    }

    /// Waits until a message of that namespace may be sent to that host. What all share is taken last, so that nobody holds it
    /// while waiting.
    pub(super) async fn take(&self, namespace: &str, host: &str) -> Slot {
        let own = self.namespaces.acquire(namespace).await;
        if self.rate.len() > MANY_KEYS {
            self.rate.retain_recent();
        }
        self.rate.until_key_ready(&namespace.to_owned()).await;
        let host = self.hosts.acquire(host).await;
        Slot { _held: [own, host, Arc::clone(&self.total).acquire_owned().await.ok()] }
    }

    /// Whether one more request of that namespace may be sent now: a redirect makes another one.
    pub(super) fn may_follow(&self, namespace: &str) -> bool {
        self.rate.check_key(&namespace.to_owned()).is_ok()
    }
}

/// A limit for each key.
struct Keyed {
    each: usize,
    known: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Keyed {
    fn new(each: usize) -> Self {
        Self { each, known: Mutex::default() }
    }

    async fn acquire(&self, key: &str) -> Option<OwnedSemaphorePermit> {
        let slots = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() > MANY_KEYS {
                // Who holds a slot, or waits for one, has a reference.
                known.retain(|_, slots| Arc::strong_count(slots) > 1);
            }
            Arc::clone(known.entry(key.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.each))))
        };
        slots.acquire_owned().await.ok()
    }
}

/// Chooses what is worked on next: one task of each namespace in turn, beginning behind the namespace that was last, until
/// each has [`TASKS_PER_NAMESPACE`] at work or `room` is used up. `due` has the namespaces in the order in which their tasks
/// are to go. *Pure.*
pub(super) fn choose(
    due: impl IntoIterator<Item = String>,
    at_work: &HashMap<String, usize>,
    last: &str,
    room: usize,
) -> Vec<usize> {
    let mut waiting: BTreeMap<String, VecDeque<usize>> = BTreeMap::new();
    for (index, namespace) in due.into_iter().enumerate() {
        waiting.entry(namespace).or_default().push_back(index);
    }
    let behind = (Bound::Excluded(last.to_owned()), Bound::Unbounded);
    let order: Vec<String> = waiting.range::<String, _>(behind).chain(&waiting).map(|(name, _)| name.clone()).collect();
    let mut chosen = Vec::new();
    let mut free: HashMap<&str, usize> = HashMap::new();
    for _ in 0..TASKS_PER_NAMESPACE {
        // The second half repeats the first: each namespace once in a round.
        for name in order.iter().take(waiting.len()) {
            let busy = at_work.get(name).copied().unwrap_or(0);
            let left = free.entry(name).or_insert(TASKS_PER_NAMESPACE.saturating_sub(busy));
            if chosen.len() < room
                && *left > 0
                && let Some(index) = waiting.get_mut(name).and_then(VecDeque::pop_front)
            {
                *left = left.saturating_sub(1);
                chosen.push(index);
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn per_minute(many: u32) -> NonZeroU32 {
        NonZeroU32::new(many).unwrap()
    }

    fn chosen(due: &[&str], at_work: &[(&str, usize)], last: &str, room: usize) -> Vec<usize> {
        let at_work = at_work.iter().map(|(name, many)| ((*name).to_owned(), *many)).collect();
        choose(due.iter().map(|name| (*name).to_owned()), &at_work, last, room)
    }

    #[test]
    fn namespaces_take_turns() {
        assert_eq!(chosen(&["a", "a", "a", "b", "c"], &[], "", 10), [0, 3, 4, 1]);
        assert_eq!(chosen(&["a", "a", "a", "b", "c"], &[], "a", 10), [3, 4, 0, 1]);
        assert_eq!(chosen(&["a", "a", "a", "b", "c"], &[], "b", 2), [4, 0]);
        assert_eq!(chosen(&["a", "a", "b"], &[("a", 2), ("b", 1)], "", 10), [2]);
        assert_eq!(chosen(&["a", "b"], &[], "z", 10), [0, 1]);
        assert!(chosen(&[], &[], "", 10).is_empty() && chosen(&["a"], &[], "", 0).is_empty());
    }

    #[tokio::test]
    async fn a_namespace_and_a_host_have_their_shares() {
        let slots = Slots::new(per_minute(1000));
        let taken = [slots.take("a", "x").await, slots.take("a", "y").await];
        assert!(slots.take("a", "z").now_or_never().is_none(), "a has two");
        let more = [slots.take("b", "x").await, slots.take("b", "x").await, slots.take("c", "x").await];
        assert!(slots.take("d", "x").now_or_never().is_none(), "the host x has four");
        assert!(slots.take("d", "y").now_or_never().is_some());
        drop((taken, more));
        assert!(slots.take("a", "x").now_or_never().is_some());
    }

    #[tokio::test]
    async fn all_of_them_are_bounded() {
        let slots = Slots::new(per_minute(1000));
        let mut taken = Vec::new();
        for n in 0..TOTAL {
            taken.push(slots.take(&format!("n{n}"), &format!("h{n}")).await);
        }
        assert!(slots.take("other", "other").now_or_never().is_none());
        taken.pop();
        assert!(slots.take("other", "other").now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_namespace_has_so_many_in_a_minute() {
        let slots = Slots::new(per_minute(3));
        for _ in 0..2 {
            assert!(slots.take("a", "x").now_or_never().is_some());
        }
        assert!(slots.may_follow("a") && !slots.may_follow("a"));
        assert!(slots.take("a", "x").now_or_never().is_none() && slots.take("b", "x").now_or_never().is_some());
    }

    #[tokio::test]
    async fn keys_that_are_not_in_use_are_forgotten() {
        let keyed = Keyed::new(1);
        let held = keyed.acquire("held").await;
        for n in 0..MANY_KEYS * 2 {
            keyed.acquire(&n.to_string()).await;
        }
        assert!(keyed.known.lock().unwrap().len() <= MANY_KEYS + 2);
        assert!(keyed.acquire("held").now_or_never().is_none());
        drop(held);
    }
}
