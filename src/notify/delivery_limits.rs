//! Concurrency and rate limits of notifications.
//!
//! The author of a task chooses the addresses. No address may delay the messages of other
//! namespaces, and none may turn the server into a source of request floods.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    num::NonZeroU32,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum number of concurrent messages per namespace. A receiver that never responds takes one
/// permit for 10 s.
const MAX_PER_NAMESPACE: usize = 2;
/// Maximum number of concurrent messages per host: all namespaces of a cluster may use the same
/// host.
const MAX_PER_HOST: usize = 4;
/// Maximum number of concurrent messages in total. Eight namespaces can take all permits, for at
/// most 10 s: waiting messages are served in the order of arrival, and each namespace waits with at
/// most two messages.
const MAX_TOTAL: usize = 16;
/// Maximum number of tasks in progress per namespace.
pub(super) const MAX_ACTIVE_TASKS_PER_NAMESPACE: usize = 2;
/// Maximum number of tasks in progress. Most of them wait for a permit. Each takes a few kilobytes.
pub(super) const MAX_ACTIVE_TASKS: usize = 1000;
/// Number of keys above which unused keys are removed.
const MAX_IDLE_KEYS: usize = 1000;

/// Limits of concurrent messages and of messages per minute. A permit is released on drop.
pub(super) struct DeliveryLimits {
    namespaces: KeyedSemaphores,
    hosts: KeyedSemaphores,
    total: Arc<Semaphore>,
    rate: DefaultKeyedRateLimiter<String>,
}

/// Permit to send one message, released on drop.
pub(super) struct DeliveryPermit {
    _permits: [Option<OwnedSemaphorePermit>; 3],
}

impl DeliveryLimits {
    /// Creates the limits. `per_minute` is the number of messages per namespace, redirects
    /// included.
    pub(super) fn new(per_minute: NonZeroU32) -> Self {
        Self {
            namespaces: KeyedSemaphores::new(MAX_PER_NAMESPACE),
            hosts: KeyedSemaphores::new(MAX_PER_HOST),
            total: Arc::new(Semaphore::new(MAX_TOTAL)),
            rate: RateLimiter::keyed(Quota::per_minute(per_minute)),
        }
    }

    /// Waits until a message of the namespace may be sent to the host. The shared permit is
    /// acquired last, so that no task holds it while it waits.
    pub(super) async fn acquire(&self, namespace: &str, host: &str) -> DeliveryPermit {
        let own = self.namespaces.acquire(namespace).await;
        if self.rate.len() > MAX_IDLE_KEYS {
            self.rate.retain_recent();
        }
        self.rate.until_key_ready(&namespace.to_owned()).await;
        let host = self.hosts.acquire(host).await;
        DeliveryPermit { _permits: [own, host, Arc::clone(&self.total).acquire_owned().await.ok()] }
    }

    /// Reports whether the rate limit permits one more request of the namespace now, for a
    /// redirect.
    pub(super) fn try_redirect(&self, namespace: &str) -> bool {
        self.rate.check_key(&namespace.to_owned()).is_ok()
    }
}

/// Semaphores by key, each with the same number of permits.
struct KeyedSemaphores {
    permits_per_key: usize,
    semaphores: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl KeyedSemaphores {
    fn new(each: usize) -> Self {
        Self { permits_per_key: each, semaphores: Mutex::default() }
    }

    async fn acquire(&self, key: &str) -> Option<OwnedSemaphorePermit> {
        let slots = {
            let mut known = self.semaphores.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() > MAX_IDLE_KEYS {
                // Each holder of a permit, and each waiter, has a reference.
                known.retain(|_, slots| Arc::strong_count(slots) > 1);
            }
            Arc::clone(
                known
                    .entry(key.to_owned())
                    .or_insert_with(|| Arc::new(Semaphore::new(self.permits_per_key))),
            )
        };
        slots.acquire_owned().await.ok()
    }
}

/// Selects the tasks to process next: one task of each namespace in turn, starting after the
/// namespace `last`, until each namespace has its maximum in progress or `capacity` is used. `due`
/// lists the namespaces of the waiting tasks in order. Returns indexes of `due`. Performs no I/O.
pub(super) fn select_round_robin(
    due: impl IntoIterator<Item = String>,
    at_work: &HashMap<String, usize>,
    last: &str,
    capacity: usize,
) -> Vec<usize> {
    let mut waiting: BTreeMap<String, VecDeque<usize>> = BTreeMap::new();
    for (index, namespace) in due.into_iter().enumerate() {
        waiting.entry(namespace).or_default().push_back(index);
    }
    let behind = (Bound::Excluded(last.to_owned()), Bound::Unbounded);
    let order: Vec<String> =
        waiting.range::<String, _>(behind).chain(&waiting).map(|(name, _)| name.clone()).collect();
    let mut chosen = Vec::new();
    let mut free: HashMap<&str, usize> = HashMap::new();
    for _ in 0..MAX_ACTIVE_TASKS_PER_NAMESPACE {
        // The second half repeats the first, so that each namespace occurs once per round.
        for name in order.iter().take(waiting.len()) {
            let busy = at_work.get(name).copied().unwrap_or(0);
            let left =
                free.entry(name).or_insert(MAX_ACTIVE_TASKS_PER_NAMESPACE.saturating_sub(busy));
            if chosen.len() < capacity
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

    fn selected(due: &[&str], at_work: &[(&str, usize)], last: &str, room: usize) -> Vec<usize> {
        let at_work = at_work.iter().map(|(name, many)| ((*name).to_owned(), *many)).collect();
        select_round_robin(due.iter().map(|name| (*name).to_owned()), &at_work, last, room)
    }

    #[test]
    fn namespaces_are_selected_round_robin() {
        assert_eq!(selected(&["a", "a", "a", "b", "c"], &[], "", 10), [0, 3, 4, 1]);
        assert_eq!(selected(&["a", "a", "a", "b", "c"], &[], "a", 10), [3, 4, 0, 1]);
        assert_eq!(selected(&["a", "a", "a", "b", "c"], &[], "b", 2), [4, 0]);
        assert_eq!(selected(&["a", "a", "b"], &[("a", 2), ("b", 1)], "", 10), [2]);
        assert_eq!(selected(&["a", "b"], &[], "z", 10), [0, 1]);
        assert!(selected(&[], &[], "", 10).is_empty() && selected(&["a"], &[], "", 0).is_empty());
    }

    #[tokio::test]
    async fn concurrency_is_limited_per_namespace_and_host() {
        let slots = DeliveryLimits::new(per_minute(1000));
        let taken = [slots.acquire("a", "x").await, slots.acquire("a", "y").await];
        assert!(
            slots.acquire("a", "z").now_or_never().is_none(),
            "two messages of the namespace a are in progress"
        );
        let more = [
            slots.acquire("b", "x").await,
            slots.acquire("b", "x").await,
            slots.acquire("c", "x").await,
        ];
        assert!(
            slots.acquire("d", "x").now_or_never().is_none(),
            "four messages to the host x are in progress"
        );
        assert!(slots.acquire("d", "y").now_or_never().is_some());
        drop((taken, more));
        assert!(slots.acquire("a", "x").now_or_never().is_some());
    }

    #[tokio::test]
    async fn concurrency_is_limited_in_total() {
        let slots = DeliveryLimits::new(per_minute(1000));
        let mut taken = Vec::new();
        for n in 0..MAX_TOTAL {
            taken.push(slots.acquire(&format!("n{n}"), &format!("h{n}")).await);
        }
        assert!(slots.acquire("other", "other").now_or_never().is_none());
        taken.pop();
        assert!(slots.acquire("other", "other").now_or_never().is_some());
    }

    #[tokio::test]
    async fn rate_is_limited_per_namespace() {
        let slots = DeliveryLimits::new(per_minute(3));
        for _ in 0..2 {
            assert!(slots.acquire("a", "x").now_or_never().is_some());
        }
        assert!(slots.try_redirect("a") && !slots.try_redirect("a"));
        assert!(
            slots.acquire("a", "x").now_or_never().is_none()
                && slots.acquire("b", "x").now_or_never().is_some()
        );
    }

    #[tokio::test]
    async fn unused_keys_are_removed() {
        let keyed = KeyedSemaphores::new(1);
        let held = keyed.acquire("held").await;
        for n in 0..MAX_IDLE_KEYS * 2 {
            keyed.acquire(&n.to_string()).await;
        }
        assert!(keyed.semaphores.lock().unwrap().len() <= MAX_IDLE_KEYS + 2);
        assert!(keyed.acquire("held").now_or_never().is_none());
        drop(held);
    }
}
