//! Capacity shared by all tasks: workers in the cluster, per namespace and per node, and concurrent
//! pulls per registry. Pure: no client, no clock, no I/O.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::worker_cache::{Pods, is_active, occupies_node};
use crate::worker::WorkerInfo;

/// Minimum interval between two halvings of a registry's budget. The kubelet repeats a pull after
/// 10 s at the earliest, so errors within it count once.
const HALVE_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// Interval at which a budget grows while the registry reports no rate limit.
const GROW_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// Divisor of the full budget that gives one step of growth. Growth from one pull to the full
/// budget takes 200 s.
const GROWTH_DIVISOR: usize = 20;

/// Budgets of concurrent pulls, by registry.
#[derive(Debug)]
pub(super) struct RegistryBudgets {
    full: usize,
    hosts: HashMap<String, RegistryBudget>,
}

/// Budget of a registry that has recently reported a rate limit.
#[derive(Debug)]
struct RegistryBudget {
    limit: usize,
    halved_at: Timestamp,
    grown_at: Timestamp,
    paused_until: Timestamp,
}

impl RegistryBudgets {
    pub(super) fn new(full: usize) -> Self {
        Self { full: full.max(1), hosts: HashMap::new() }
    }

    /// Reduces the budget of a registry that has reported a rate limit. With `pause`, no pull
    /// starts for that long.
    pub(super) fn reduce(&mut self, host: &str, pause: Option<Duration>, now: Timestamp) {
        let full = self.full;
        let fresh = RegistryBudget {
            limit: full,
            halved_at: Timestamp::MIN,
            grown_at: now,
            paused_until: Timestamp::MIN,
        };
        let budget = self.hosts.entry(host.to_owned()).or_insert(fresh);
        if budget.halved_at == Timestamp::MIN
            || now.duration_since(budget.halved_at) >= HALVE_INTERVAL
        {
            budget.limit = (budget.limit / 2).max(1);
            budget.halved_at = now;
        }
        budget.grown_at = now;
        let pause = pause
            .and_then(|pause| SignedDuration::try_from(pause).ok())
            .and_then(|p| now.checked_add(p).ok());
        budget.paused_until = budget.paused_until.max(pause.unwrap_or(Timestamp::MIN));
    }

    /// Increases reduced budgets, and removes those that are full again.
    pub(super) fn recover(&mut self, now: Timestamp) {
        let full = self.full;
        self.hosts.retain(|_, budget| {
            while now.duration_since(budget.grown_at) >= GROW_INTERVAL && budget.limit < full {
                budget.limit = budget.limit.saturating_add((full / GROWTH_DIVISOR).max(1));
                budget.grown_at = budget.grown_at.checked_add(GROW_INTERVAL).unwrap_or(now);
            }
            budget.limit < full || now < budget.paused_until
        });
    }

    fn limit(&self, host: &str, now: Timestamp) -> usize {
        match self.hosts.get(host) {
            Some(budget) if now < budget.paused_until => 0,
            Some(budget) => budget.limit.min(self.full),
            None => self.full,
        }
    }

    /// Returns the number of registries whose budget is reduced.
    pub(super) fn reduced_count(&self) -> usize {
        self.hosts.len()
    }

    /// Reports whether the registry's budget is reduced.
    pub(super) fn is_reduced(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }
}

/// Maximum number of workers of one namespace's tasks on one node: one that pulls, and one that
/// waits in the kubelet's back-off or has used up its time of exclusive use.
const MAX_PER_NODE_AND_NAMESPACE: usize = 2;
/// Maximum number of workers on one node: less than a tenth of the kubelet's default of 110 pods.
const MAX_PER_NODE: usize = 10;

/// Worker that is alive or about to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkerSlot<'a> {
    pub(super) node: &'a str,
    /// Namespace of the task, which may differ from the worker's.
    pub(super) namespace: &'a str,
    /// UID of the task.
    pub(super) task: &'a str,
    /// True when the worker has exclusive use of the node. False when it waits in the kubelet's
    /// back-off, or has pulled for long.
    pub(super) holds_node: bool,
}

/// Returns the capacity that a worker takes in this namespace; none if it is not alive.
pub(super) fn worker_slot<'a>(
    task: &'a str,
    namespace: &'a str,
    worker: &'a WorkerInfo,
    pods: &Pods,
    now: Timestamp,
    alone: SignedDuration,
) -> Option<WorkerSlot<'a>> {
    let holds = occupies_node(worker, pods, now, alone);
    is_active(worker).then_some(WorkerSlot {
        node: &worker.node,
        namespace,
        task,
        holds_node: holds,
    })
}

/// Maximum numbers of workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WorkerLimits {
    /// Workers in the cluster.
    pub(super) all: usize,
    /// Workers of one namespace's tasks.
    pub(super) per_namespace: usize,
}

/// Limit that prevents a worker on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CapacityLimit {
    /// Number of workers in the cluster.
    Cluster,
    /// Number of workers of the namespace, with its value.
    Namespace(usize),
    /// Budget of a registry.
    Registry,
    /// Worker of another task on the node.
    Node,
    /// Worker of the same task still on the node.
    SameTask,
}

/// Workers on one node.
#[derive(Debug, Default)]
struct NodeWorkers {
    /// True when one of them has exclusive use of the node.
    exclusive: bool,
    /// Task UID and namespace of each worker.
    workers: Vec<(String, String)>,
}

/// Remaining capacity in one round over all tasks.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    limits: WorkerLimits,
    workers_left: usize,
    workers_by_node: HashMap<String, NodeWorkers>,
    workers_by_namespace: HashMap<String, usize>,
    registry_pulls_left: HashMap<String, usize>,
}

impl Capacity {
    /// Computes the capacity that the existing workers leave. `pulling` is the number of workers
    /// that pull from each registry.
    ///
    /// Workers that hold no node count against the limit of the cluster only above that limit, so
    /// there are never more than twice that many.
    pub(super) fn new<'a>(
        seats: impl IntoIterator<Item = WorkerSlot<'a>>,
        most: WorkerLimits,
        pulling: HashMap<String, usize>,
        budgets: &RegistryBudgets,
        now: Timestamp,
    ) -> Self {
        let left = |(host, used): (String, usize)| {
            let left = budgets.limit(&host, now).saturating_sub(used);
            (host, left)
        };
        let mut room = Self {
            limits: most,
            registry_pulls_left: pulling.into_iter().map(left).collect(),
            ..Self::default()
        };
        let (mut holding, mut idle) = (0_usize, 0_usize);
        for seat in seats {
            let count = if seat.holds_node { &mut holding } else { &mut idle };
            *count = count.saturating_add(1);
            room.add_worker(seat);
        }
        room.workers_left =
            most.all.saturating_sub(holding.saturating_add(idle.saturating_sub(most.all)));
        room
    }

    fn add_worker(&mut self, seat: WorkerSlot<'_>) {
        let crowd = self.workers_by_node.entry(seat.node.to_owned()).or_default();
        crowd.exclusive |= seat.holds_node;
        crowd.workers.push((seat.task.to_owned(), seat.namespace.to_owned()));
        match self.workers_by_namespace.get_mut(seat.namespace) {
            Some(count) => *count = count.saturating_add(1),
            None => drop(self.workers_by_namespace.insert(seat.namespace.to_owned(), 1)),
        }
    }

    /// Returns the number of workers of each namespace's tasks.
    pub(super) fn workers_by_namespace(&self) -> HashMap<&str, usize> {
        self.workers_by_namespace.iter().map(|(name, count)| (name.as_str(), *count)).collect()
    }

    /// Checks whether a worker of the task may run on the node together with those already there.
    pub(super) fn check_node(
        &self,
        node: &str,
        task: &str,
        namespace: &str,
    ) -> Result<(), CapacityLimit> {
        let Some(crowd) = self.workers_by_node.get(node) else { return Ok(()) };
        let same = |which: fn(&(String, String)) -> &str, name: &str| {
            crowd.workers.iter().filter(|seat| which(seat) == name).count()
        };
        if same(|seat| &seat.0, task) > 0 {
            return Err(CapacityLimit::SameTask);
        }
        let crowded = crowd.workers.len() >= MAX_PER_NODE
            || same(|seat| &seat.1, namespace) >= MAX_PER_NODE_AND_NAMESPACE;
        if crowd.exclusive || crowded { Err(CapacityLimit::Node) } else { Ok(()) }
    }

    /// Reserves capacity for a worker of the task on the node.
    pub(super) fn try_reserve(
        &mut self,
        node: &str,
        task: &str,
        namespace: &str,
        hosts: &[String],
    ) -> Result<(), CapacityLimit> {
        self.check_node(node, task, namespace)?;
        if self.workers_left == 0 {
            return Err(CapacityLimit::Cluster);
        }
        if self
            .workers_by_namespace
            .get(namespace)
            .is_some_and(|own| *own >= self.limits.per_namespace)
        {
            return Err(CapacityLimit::Namespace(self.limits.per_namespace));
        }
        if hosts
            .iter()
            .any(|host| self.registry_pulls_left.get(host).is_some_and(|left| *left == 0))
        {
            return Err(CapacityLimit::Registry);
        }
        self.workers_left = self.workers_left.saturating_sub(1);
        self.add_worker(WorkerSlot { node, namespace, task, holds_node: true });
        for host in hosts {
            if let Some(left) = self.registry_pulls_left.get_mut(host) {
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
    fn a_budget_is_halved_once_per_interval_and_recovers() {
        let mut budgets = RegistryBudgets::new(100);
        for second in [0, 1, 2, 9] {
            budgets.reduce("r", None, at(second));
        }
        assert_eq!((budgets.limit("r", at(9)), budgets.limit("other", at(9))), (50, 100));
        budgets.reduce("r", None, at(10));
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
    fn a_budget_is_never_less_than_one() {
        let mut budgets = RegistryBudgets::new(3);
        for wave in 0..10 {
            budgets.reduce("r", None, at(wave * 10));
        }
        assert_eq!(budgets.limit("r", at(90)), 1);
    }

    #[test]
    fn a_pause_stops_all_pulls_from_its_registry() {
        let mut budgets = RegistryBudgets::new(10);
        budgets.reduce("r", Some(Duration::from_secs(120)), at(0));
        budgets.recover(at(119));
        assert_eq!(budgets.limit("r", at(119)), 0);
        budgets.recover(at(120));
        assert!(budgets.limit("r", at(120)) > 0);
    }

    fn slot<'a>(node: &'a str, namespace: &'a str, task: &'a str, holds: bool) -> WorkerSlot<'a> {
        WorkerSlot { node, namespace, task, holds_node: holds }
    }

    fn capacity(seats: &[WorkerSlot<'_>], all: usize, per_namespace: usize) -> Capacity {
        let most = WorkerLimits { all, per_namespace };
        Capacity::new(seats.iter().copied(), most, HashMap::new(), &RegistryBudgets::new(9), at(0))
    }

    #[test]
    fn capacity_is_shared_between_tasks() {
        let budgets = RegistryBudgets::new(2);
        let hosts = vec!["r".to_owned()];
        let pulling = HashMap::from([("r".to_owned(), 0)]);
        let most = WorkerLimits { all: 4, per_namespace: 9 };
        let mut room =
            Capacity::new([slot("b", "bank", "t", true)], most, pulling, &budgets, at(0));
        assert_eq!(room.try_reserve("b", "u", "shop", &hosts), Err(CapacityLimit::Node));
        assert_eq!(room.try_reserve("a", "u", "shop", &hosts), Ok(()));
        assert_eq!(room.try_reserve("a", "u", "shop", &hosts), Err(CapacityLimit::SameTask));
        assert_eq!(room.try_reserve("c", "u", "shop", &hosts), Ok(()));
        assert_eq!(room.try_reserve("d", "u", "shop", &hosts), Err(CapacityLimit::Registry));
        assert_eq!(room.try_reserve("d", "u", "shop", &[]), Ok(()));
        assert_eq!(room.try_reserve("e", "u", "shop", &[]), Err(CapacityLimit::Cluster));
    }

    #[test]
    fn a_worker_in_back_off_holds_no_node() {
        let idle = |namespace, task| slot("a", namespace, task, false);
        let mut one = capacity(&[idle("bank", "t1")], 9, 9);
        assert_eq!(one.try_reserve("a", "u", "shop", &[]), Ok(()));
        assert_eq!(
            one.try_reserve("a", "v", "shop", &[]),
            Err(CapacityLimit::Node),
            "the second has exclusive use of the node"
        );
        let mut two = capacity(&[idle("bank", "t1"), idle("bank", "t2")], 9, 9);
        assert_eq!(
            two.try_reserve("a", "t3", "bank", &[]),
            Err(CapacityLimit::Node),
            "a namespace has two workers on a node at most"
        );
        assert_eq!(two.try_reserve("a", "t1", "bank", &[]), Err(CapacityLimit::SameTask));
        assert_eq!(two.try_reserve("a", "u", "shop", &[]), Ok(()));
        let names: Vec<String> = (0..10).map(|n| format!("ns{n}")).collect();
        let ten: Vec<WorkerSlot<'_>> = names.iter().map(|name| idle(name, name)).collect();
        assert_eq!(
            capacity(&ten, 99, 99).try_reserve("a", "u", "shop", &[]),
            Err(CapacityLimit::Node)
        );
    }

    #[test]
    fn one_namespace_does_not_take_all_workers() {
        let names: Vec<String> = (0..9).map(|n| format!("n{n}")).collect();
        let nine: Vec<WorkerSlot<'_>> =
            names.iter().map(|name| slot(name, "bank", name, true)).collect();
        let mut full = capacity(&nine, 10, 9);
        assert_eq!(full.try_reserve("x", "t", "bank", &[]), Err(CapacityLimit::Namespace(9)));
        assert_eq!(full.try_reserve("x", "u", "shop", &[]), Ok(()));
        assert_eq!(full.try_reserve("y", "u", "shop", &[]), Err(CapacityLimit::Cluster));
    }

    #[test]
    fn idle_workers_count_beyond_as_many_as_may_work() {
        let names: Vec<String> = (0..15).map(|n| format!("n{n}")).collect();
        let idle: Vec<WorkerSlot<'_>> =
            names.iter().map(|name| slot(name, name, name, false)).collect();
        let mut room = capacity(&idle, 10, 9);
        let taken = (0..10)
            .filter(|n| room.try_reserve(&format!("m{n}"), "u", "shop", &[]).is_ok())
            .count();
        assert_eq!(taken, 5);
    }
}
