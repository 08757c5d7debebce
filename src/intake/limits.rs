//! How often something may be done, in all and for each namespace. *Pure.*

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

/// So many seconds' worth may be done at once, after a pause. A rollout of 500 workloads in one namespace is looked up without a
/// wait at 50 a second, and whoever names objects that do not exist costs 500 requests and then 50 a second.
pub const BURST_SECONDS: u32 = 10;
/// Namespaces that are remembered; those whose burst is whole again are forgotten first.
const MAX_NAMESPACES: usize = 4096;

/// How often something may be done in a second. Ten seconds' worth may be done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// In all namespaces together.
    pub total: u32,
    /// In each namespace.
    pub namespace: u32,
}

/// Room for one rate: the time at which all that was done is paid for (a leaky bucket as a meter, or GCRA).
#[derive(Debug, Clone, Copy)]
struct Pace {
    each: Duration,
    ahead: Duration,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self { each, ahead: each * (per_second.max(1) * BURST_SECONDS - 1) }
    }

    /// When one more may be done, after what is paid for at `paid`.
    fn ready(self, paid: Instant) -> Instant {
        paid.checked_sub(self.ahead).unwrap_or(paid)
    }
}

/// Which limit stands in the way, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// That of all namespaces.
    Total(Instant),
    /// That of the namespace.
    Namespace(Instant),
}

/// What may still be done.
#[derive(Debug)]
pub(super) struct Limiter {
    total: Pace,
    namespace: Pace,
    paid: Option<Instant>,
    namespaces: HashMap<Arc<str>, Instant>,
}

impl Limiter {
    pub(super) fn new(rates: Rates) -> Self {
        let (total, namespace) = (Pace::new(rates.total), Pace::new(rates.namespace));
        Self { total, namespace, paid: None, namespaces: HashMap::new() }
    }

    /// Takes one, where both limits allow it.
    pub(super) fn take(&mut self, namespace: &Arc<str>, now: Instant) -> Result<(), Full> {
        let total = self.paid.unwrap_or(now).max(now);
        if self.total.ready(total) > now {
            return Err(Full::Total(self.total.ready(total)));
        }
        let own = self.namespaces.get(namespace).copied().unwrap_or(now).max(now);
        if self.namespace.ready(own) > now {
            return Err(Full::Namespace(self.namespace.ready(own)));
        }
        self.paid = Some(total + self.total.each);
        if self.namespaces.len() >= MAX_NAMESPACES && !self.namespaces.contains_key(namespace) {
            self.namespaces.retain(|_, paid| *paid > now);
        }
        self.namespaces.insert(Arc::clone(namespace), own + self.namespace.each);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut limiter = Limiter::new(Rates { total: 100, namespace: 10 });
        let (shop, begun): (Arc<str>, Instant) = ("shop".into(), Instant::now());
        let mut taken = |now: Instant| (0..1000).take_while(|_| limiter.take(&shop, now).is_ok()).count();
        assert_eq!(taken(begun), 100);
        assert_eq!(taken(begun + Duration::from_millis(99)), 0);
        assert_eq!(taken(begun + Duration::from_secs(3)), 30);
        assert_eq!(taken(begun + Duration::from_secs(3600)), 100, "what was not used is not saved up");
    }

    #[test]
    fn one_namespace_does_not_use_up_what_others_need() {
        let mut limiter = Limiter::new(Rates { total: 100, namespace: 10 });
        let now = Instant::now();
        let names: Vec<Arc<str>> = (0..20).map(|n| format!("n{n}").into()).collect();
        let taken: usize =
            names.iter().map(|name| (0..1000).take_while(|_| limiter.take(name, now).is_ok()).count()).sum();
        assert_eq!(taken, 1000, "the limit of all");
        assert!(matches!(limiter.take(&"n30".into(), now), Err(Full::Total(at)) if at > now));
        let mut limiter = Limiter::new(Rates { total: 100, namespace: 10 });
        while limiter.take(&names[0], now).is_ok() {}
        assert!(matches!(limiter.take(&names[0], now), Err(Full::Namespace(at)) if at > now));
        assert_eq!(limiter.take(&names[1], now), Ok(()));
    }
}
