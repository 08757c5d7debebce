//! What all tasks share: workers in the cluster, nodes, and the patience of registries. *Pure.*

use std::{collections::HashMap, time::Duration};

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

/// Workers of one namespace's tasks on one node: one that pulls, and one that waits in the kubelet's back-off or has had its
/// time alone.
const PER_NODE_AND_NAMESPACE: usize = 2;
/// Workers on one node in all: less than a tenth of the 110 pods that a kubelet takes by default.
const PER_NODE: usize = 10;

/// A worker that is alive, or about to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat<'a> {
    pub(super) node: &'a str,
    /// The task's namespace, and not the worker's.
    pub(super) namespace: &'a str,
    /// The task's UID.
    pub(super) task: &'a str,
    /// Whether the node is its own. One that waits in the kubelet's back-off, or has pulled for long, has it no more.
    pub(super) holds: bool,
}

/// How many workers there may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Most {
    /// In the cluster.
    pub(super) all: usize,
    /// Of one namespace's tasks.
    pub(super) per_namespace: usize,
}

/// Why no worker may start on a node now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// There are enough in the cluster.
    Cluster,
    /// The namespace has enough: so many.
    Namespace(usize),
    /// A registry gets enough pulls.
    Registry,
    /// A worker of another task is on the node.
    Node,
    /// A worker of the same task is on the node still.
    Own,
}

/// Workers on one node.
#[derive(Debug, Default)]
struct Crowd {
    /// Whether one of them has the node to itself.
    held: bool,
    /// Task and namespace of each.
    all: Vec<(String, String)>,
}

/// What is left to start, in one round of all tasks.
#[derive(Debug, Default)]
pub(super) struct Room {
    most: Most,
    workers: usize,
    nodes: HashMap<String, Crowd>,
    namespaces: HashMap<String, usize>,
    hosts: HashMap<String, usize>,
}

impl Room {
    /// `seats`: the workers there are. `pulling`: how many workers pull from each registry. Workers that hold no node count in
    /// the cluster only beyond as many as may hold one: so there are never more than twice [`Most::all`].
    pub(super) fn new<'a>(
        seats: impl IntoIterator<Item = Seat<'a>>,
        most: Most,
        pulling: HashMap<String, usize>,
        budgets: &Budgets,
        now: Timestamp,
    ) -> Self {
        let left = |(host, used): (String, usize)| {
            let left = budgets.limit(&host, now).saturating_sub(used);
            (host, left)
        };
        let mut room = Self { most, hosts: pulling.into_iter().map(left).collect(), ..Self::default() };
        let (mut holding, mut idle) = (0_usize, 0_usize);
        for seat in seats {
            let count = if seat.holds { &mut holding } else { &mut idle };
            *count = count.saturating_add(1);
            room.seat(seat);
        }
        room.workers = most.all.saturating_sub(holding.saturating_add(idle.saturating_sub(most.all)));
        room
    }

    fn seat(&mut self, seat: Seat<'_>) {
        let crowd = self.nodes.entry(seat.node.to_owned()).or_default();
        crowd.held |= seat.holds;
        crowd.all.push((seat.task.to_owned(), seat.namespace.to_owned()));
        match self.namespaces.get_mut(seat.namespace) {
            Some(count) => *count = count.saturating_add(1),
            None => drop(self.namespaces.insert(seat.namespace.to_owned(), 1)),
        }
    }

    /// Workers of each namespace's tasks.
    pub(super) fn namespaces(&self) -> HashMap<&str, usize> {
        self.namespaces.iter().map(|(name, count)| (name.as_str(), *count)).collect()
    }

    /// Whether a worker of the task may be on the node beside those that are.
    pub(super) fn is_free(&self, node: &str, task: &str, namespace: &str) -> Result<(), Full> {
        let Some(crowd) = self.nodes.get(node) else { return Ok(()) };
        let same = |which: fn(&(String, String)) -> &str, name: &str| {
            crowd.all.iter().filter(|seat| which(seat) == name).count()
        };
        if same(|seat| &seat.0, task) > 0 {
            return Err(Full::Own);
        }
        let crowded = crowd.all.len() >= PER_NODE || same(|seat| &seat.1, namespace) >= PER_NODE_AND_NAMESPACE;
        if crowd.held || crowded { Err(Full::Node) } else { Ok(()) }
    }

    /// Takes room for a worker of the task on the node.
    pub(super) fn take(&mut self, node: &str, task: &str, namespace: &str, hosts: &[String]) -> Result<(), Full> {
        self.is_free(node, task, namespace)?;
        if self.workers == 0 {
            return Err(Full::Cluster);
        }
        if self.namespaces.get(namespace).is_some_and(|own| *own >= self.most.per_namespace) {
            return Err(Full::Namespace(self.most.per_namespace));
        }
        if hosts.iter().any(|host| self.hosts.get(host).is_some_and(|left| *left == 0)) {
            return Err(Full::Registry);
        }
        self.workers = self.workers.saturating_sub(1);
        self.seat(Seat { node, namespace, task, holds: true });
        for host in hosts {
            if let Some(left) = self.hosts.get_mut(host) {
                *left = left.saturating_sub(1);
            }
        }
        Ok(())
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

    fn seat<'a>(node: &'a str, namespace: &'a str, task: &'a str, holds: bool) -> Seat<'a> {
        Seat { node, namespace, task, holds }
    }

    fn room(seats: &[Seat<'_>], all: usize, per_namespace: usize) -> Room {
        let most = Most { all, per_namespace };
        Room::new(seats.iter().copied(), most, HashMap::new(), &Budgets::new(9), at(0))
    }

    #[test]
    fn room_is_shared() {
        let budgets = Budgets::new(2);
        let hosts = vec!["r".to_owned()];
        let pulling = HashMap::from([("r".to_owned(), 0)]);
        let most = Most { all: 4, per_namespace: 9 };
        let mut room = Room::new([seat("b", "bank", "t", true)], most, pulling, &budgets, at(0));
        assert_eq!(room.take("b", "u", "shop", &hosts), Err(Full::Node));
        assert_eq!(room.take("a", "u", "shop", &hosts), Ok(()));
        assert_eq!(room.take("a", "u", "shop", &hosts), Err(Full::Own));
        assert_eq!(room.take("c", "u", "shop", &hosts), Ok(()));
        assert_eq!(room.take("d", "u", "shop", &hosts), Err(Full::Registry));
        assert_eq!(room.take("d", "u", "shop", &[]), Ok(()));
        assert_eq!(room.take("e", "u", "shop", &[]), Err(Full::Cluster));
    }

    #[test]
    fn who_waits_in_back_off_holds_no_node() {
        let idle = |namespace, task| seat("a", namespace, task, false);
        let mut one = room(&[idle("bank", "t1")], 9, 9);
        assert_eq!(one.take("a", "u", "shop", &[]), Ok(()));
        assert_eq!(one.take("a", "v", "shop", &[]), Err(Full::Node), "the second has the node to itself");
        let mut two = room(&[idle("bank", "t1"), idle("bank", "t2")], 9, 9);
        assert_eq!(two.take("a", "t3", "bank", &[]), Err(Full::Node), "a namespace has two workers on a node at most");
        assert_eq!(two.take("a", "t1", "bank", &[]), Err(Full::Own));
        assert_eq!(two.take("a", "u", "shop", &[]), Ok(()));
        let names: Vec<String> = (0..10).map(|n| format!("ns{n}")).collect();
        let ten: Vec<Seat<'_>> = names.iter().map(|name| idle(name, name)).collect();
        assert_eq!(room(&ten, 99, 99).take("a", "u", "shop", &[]), Err(Full::Node));
    }

    #[test]
    fn one_namespace_does_not_take_all_workers() {
        let names: Vec<String> = (0..9).map(|n| format!("n{n}")).collect();
        let nine: Vec<Seat<'_>> = names.iter().map(|name| seat(name, "bank", name, true)).collect();
        let mut full = room(&nine, 10, 9);
        assert_eq!(full.take("x", "t", "bank", &[]), Err(Full::Namespace(9)));
        assert_eq!(full.take("x", "u", "shop", &[]), Ok(()));
        assert_eq!(full.take("y", "u", "shop", &[]), Err(Full::Cluster));
    }

    #[test]
    fn idle_workers_count_beyond_as_many_as_may_work() {
        let names: Vec<String> = (0..15).map(|n| format!("n{n}")).collect();
        let idle: Vec<Seat<'_>> = names.iter().map(|name| seat(name, name, name, false)).collect();
        let mut room = room(&idle, 10, 9);
        let taken = (0..10).filter(|n| room.take(&format!("m{n}"), "u", "shop", &[]).is_ok()).count();
        assert_eq!(taken, 5);
    }
}
