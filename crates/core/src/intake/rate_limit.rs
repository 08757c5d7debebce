//! Rate limiting, in total and per namespace. Pure: no client, no clock, no I/O.

use std::{collections::HashMap, sync::Arc, time::Duration};

use std::time::Instant;

/// Burst size, in seconds of the rate. At 50 lookups per second, a rollout of 500 workloads in one
/// namespace is looked up without delay.
pub const BURST_SECONDS: u32 = 10;
/// Maximum number of namespaces in the limiter. Above it, those with a full burst are removed.
const MAX_NAMESPACES: usize = 4096;

/// Rate limits in operations per second, with a burst of ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Limit for all namespaces together.
    pub total: u32,
    /// Limit for each namespace.
    pub namespace: u32,
}

/// Parameters of one rate limit by GCRA (a leaky bucket as a meter), whose only state is the
/// theoretical arrival time of the next operation.
#[derive(Debug, Clone, Copy)]
struct Gcra {
    interval: Duration,
    burst_tolerance: Duration,
}

impl Gcra {
    fn new(per_second: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self { interval: each, burst_tolerance: each * (per_second.max(1) * BURST_SECONDS - 1) }
    }

    /// Returns the earliest time of the next operation at the theoretical arrival time `paid`.
    fn ready_at(self, paid: Instant) -> Instant {
        paid.checked_sub(self.burst_tolerance).unwrap_or(paid)
    }
}

/// Rate limit that is exhausted, with the time at which it permits the next operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimited {
    /// Limit of all namespaces.
    Total(Instant),
    /// Limit of the namespace.
    Namespace(Instant),
}

/// Rate limiter with one limit in total and one per namespace.
#[derive(Debug)]
pub struct NamespaceRateLimiter {
    total: Gcra,
    namespace: Gcra,
    total_arrival: Option<Instant>,
    namespaces: HashMap<Arc<str>, Instant>,
}

impl NamespaceRateLimiter {
    /// Creates a limiter with full bursts.
    #[must_use]
    pub fn new(rates: RateLimits) -> Self {
        let (total, namespace) = (Gcra::new(rates.total), Gcra::new(rates.namespace));
        Self { total, namespace, total_arrival: None, namespaces: HashMap::new() }
    }

    /// Takes one permit if both limits allow it; otherwise returns the exhausted limit.
    pub fn try_acquire(&mut self, namespace: &Arc<str>, now: Instant) -> Result<(), RateLimited> {
        let total = self.total_arrival.unwrap_or(now).max(now);
        if self.total.ready_at(total) > now {
            return Err(RateLimited::Total(self.total.ready_at(total)));
        }
        let own = self.namespaces.get(namespace).copied().unwrap_or(now).max(now);
        if self.namespace.ready_at(own) > now {
            return Err(RateLimited::Namespace(self.namespace.ready_at(own)));
        }
        self.total_arrival = Some(total + self.total.interval);
        self.charge(namespace, 1, now);
        Ok(())
    }

    /// Takes permits from the limit of a namespace, also more than it has. Its next operation is
    /// permitted when the rate has made up for them.
    pub fn charge(&mut self, namespace: &Arc<str>, permits: u32, now: Instant) {
        if self.namespaces.len() >= MAX_NAMESPACES && !self.namespaces.contains_key(namespace) {
            self.namespaces.retain(|_, paid| *paid > now);
        }
        let own = self.namespaces.get(namespace).copied().unwrap_or(now).max(now);
        self.namespaces.insert(Arc::clone(namespace), own + self.namespace.interval * permits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut limiter = NamespaceRateLimiter::new(RateLimits { total: 100, namespace: 10 });
        let (shop, begun): (Arc<str>, Instant) = ("shop".into(), Instant::now());
        let mut taken = |now: Instant| {
            (0..1000).take_while(|_| limiter.try_acquire(&shop, now).is_ok()).count()
        };
        assert_eq!(taken(begun), 100);
        assert_eq!(taken(begun + Duration::from_millis(99)), 0);
        assert_eq!(taken(begun + Duration::from_secs(3)), 30);
        assert_eq!(
            taken(begun + Duration::from_secs(3600)),
            100,
            "unused capacity does not exceed the burst"
        );
    }

    #[test]
    fn charge_delays_only_its_namespace() {
        let mut limiter = NamespaceRateLimiter::new(RateLimits { total: 1000, namespace: 10 });
        let (shop, bank): (Arc<str>, Arc<str>) = ("shop".into(), "bank".into());
        let now = Instant::now();
        limiter.charge(&shop, 110, now);
        let until = now + Duration::from_millis(1100);
        assert_eq!(limiter.try_acquire(&shop, now), Err(RateLimited::Namespace(until)));
        assert_eq!(limiter.try_acquire(&bank, now), Ok(()));
        assert_eq!(limiter.try_acquire(&shop, until), Ok(()));
    }

    #[test]
    fn namespace_limit_leaves_capacity_for_others() {
        let mut limiter = NamespaceRateLimiter::new(RateLimits { total: 100, namespace: 10 });
        let now = Instant::now();
        let names: Vec<Arc<str>> = (0..20).map(|n| format!("n{n}").into()).collect();
        let taken: usize = names
            .iter()
            .map(|name| (0..1000).take_while(|_| limiter.try_acquire(name, now).is_ok()).count())
            .sum();
        assert_eq!(taken, 1000, "the total limit");
        assert!(
            matches!(limiter.try_acquire(&"n30".into(), now), Err(RateLimited::Total(at)) if at > now)
        );
        let mut limiter = NamespaceRateLimiter::new(RateLimits { total: 100, namespace: 10 });
        while limiter.try_acquire(&names[0], now).is_ok() {}
        assert!(
            matches!(limiter.try_acquire(&names[0], now), Err(RateLimited::Namespace(at)) if at > now)
        );
        assert_eq!(limiter.try_acquire(&names[1], now), Ok(()));
    }
}
