//! What all tasks share: workers in the cluster, nodes, and the patience of registries. *Pure.*

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// A registry's budget is halved at most this often: the kubelet repeats a pull after 10 s at the earliest, and one wave of
/// refusals is one complaint.
const HALVE: SignedDuration = SignedDuration::from_secs(10);
/// Without a complaint it grows this often,
const GROW: SignedDuration = SignedDuration::from_secs(10);
/// by this part of the full budget: from one pull back to all of them takes 200 s.
const STEP: usize = 20;

/// How many pulls at once each registry gets.
#[derive(Debug)]
pub(super) struct Budgets {
    full: usize,
    hosts: HashMap<String, Budget>,
}

/// A registry that has complained lately.
#[derive(Debug)]
struct Budget {
    limit: usize,
    halved: Timestamp,
    grown: Timestamp,
    closed_until: Timestamp,
}

impl Budgets {
    pub(super) fn new(full: usize) -> Self {
        Self { full: full.max(1), hosts: HashMap::new() }
    }

    /// The registry asked for fewer requests, and perhaps for none for a while.
    pub(super) fn complain(&mut self, host: &str, pause: Option<Duration>, now: Timestamp) {
        let full = self.full;
        let fresh = Budget { limit: full, halved: Timestamp::MIN, grown: now, closed_until: Timestamp::MIN };
        let budget = self.hosts.entry(host.to_owned()).or_insert(fresh);
        if budget.halved == Timestamp::MIN || now.duration_since(budget.halved) >= HALVE {
            budget.limit = (budget.limit / 2).max(1);
            budget.halved = now;
        }
        budget.grown = now;
        let pause = pause.and_then(|pause| SignedDuration::try_from(pause).ok()).and_then(|p| now.checked_add(p).ok());
        budget.closed_until = budget.closed_until.max(pause.unwrap_or(Timestamp::MIN));
    }

    /// Lets budgets grow back; those that are full again are forgotten.
    pub(super) fn recover(&mut self, now: Timestamp) {
        let full = self.full;
        self.hosts.retain(|_, budget| {
            while now.duration_since(budget.grown) >= GROW && budget.limit < full {
                budget.limit = budget.limit.saturating_add((full / STEP).max(1));
                budget.grown = budget.grown.checked_add(GROW).unwrap_or(now);
            }
            budget.limit < full || now < budget.closed_until
        });
    }

    fn limit(&self, host: &str, now: Timestamp) -> usize {
        match self.hosts.get(host) {
            Some(budget) if now < budget.closed_until => 0,
            Some(budget) => budget.limit.min(self.full),
            None => self.full,
        }
    }

    /// How many registries get fewer pulls than they might.
    pub(super) fn reduced(&self) -> usize {
        self.hosts.len()
    }

    /// Whether the registry gets fewer pulls than it might.
    pub(super) fn is_reduced(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }
}

/// What is left to start, in one round of all tasks.
#[derive(Debug, Default)]
pub(super) struct Room {
    busy: HashSet<String>,
    workers: usize,
    hosts: HashMap<String, usize>,
}

impl Room {
    /// `busy`: nodes with a worker at work. `cap`: how many there may be in the cluster. `pulling`: how many workers pull from each registry.
    pub(super) fn new(
        busy: HashSet<String>,
        cap: usize,
        pulling: HashMap<String, usize>,
        budgets: &Budgets,
        now: Timestamp,
    ) -> Self {
        let left = |(host, used): (String, usize)| {
            let left = budgets.limit(&host, now).saturating_sub(used);
            (host, left)
        };
        Self { workers: cap.saturating_sub(busy.len()), busy, hosts: pulling.into_iter().map(left).collect() }
    }

    /// Whether a worker may start on the node; if so, its share is taken.
    pub(super) fn take(&mut self, node: &str, hosts: &[String]) -> bool {
        let free = self.workers > 0
            && !self.busy.contains(node)
            && hosts.iter().all(|host| self.hosts.get(host).is_none_or(|left| *left > 0));
        if free {
            self.workers = self.workers.saturating_sub(1);
            self.busy.insert(node.to_owned());
            for host in hosts {
                if let Some(left) = self.hosts.get_mut(host) {
                    *left = left.saturating_sub(1);
                }
            }
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_budget_halves_once_a_wave_and_recovers() {
        let mut budgets = Budgets::new(100);
        for second in [0, 1, 2, 9] {
            budgets.complain("r", None, at(second));
        }
        assert_eq!((budgets.limit("r", at(9)), budgets.limit("other", at(9))), (50, 100));
        budgets.complain("r", None, at(10));
        assert_eq!(budgets.limit("r", at(10)), 25);
        budgets.recover(at(19));
        assert_eq!(budgets.limit("r", at(19)), 25);
        budgets.recover(at(40));
        assert_eq!(budgets.limit("r", at(40)), 40);
        budgets.recover(at(1000));
        assert!(!budgets.is_reduced("r"));
        assert_eq!(budgets.limit("r", at(1000)), 100);
    }

    #[test]
    fn it_never_ends_at_nothing() {
        let mut budgets = Budgets::new(3);
        for wave in 0..10 {
            budgets.complain("r", None, at(wave * 10));
        }
        assert_eq!(budgets.limit("r", at(90)), 1);
    }

    #[test]
    fn a_registry_that_asks_to_be_left_alone_is() {
        let mut budgets = Budgets::new(10);
        budgets.complain("r", Some(Duration::from_secs(120)), at(0));
        budgets.recover(at(119));
        assert_eq!(budgets.limit("r", at(119)), 0);
        budgets.recover(at(120));
        assert!(budgets.limit("r", at(120)) > 0);
    }

    #[test]
    fn room_is_shared() {
        let budgets = Budgets::new(2);
        let hosts = vec!["r".to_owned()];
        let pulling = HashMap::from([("r".to_owned(), 0)]);
        let mut room = Room::new(HashSet::from(["b".to_owned()]), 4, pulling, &budgets, at(0));
        assert!(!room.take("b", &hosts), "busy");
        assert!(room.take("a", &hosts));
        assert!(!room.take("a", &hosts), "busy now");
        assert!(room.take("c", &hosts));
        assert!(!room.take("d", &hosts), "the registry has enough");
        assert!(room.take("d", &[]));
        assert!(!room.take("e", &[]), "the cluster has enough");
    }
}
