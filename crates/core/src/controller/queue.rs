//! Queue of tasks: which waiting tasks may start, and in which order tasks are reconciled.
//! Namespaces share evenly; within a namespace priority and age decide. Pure: no client, no clock,
//! no I/O.
//!
//! The next slot goes to the namespace with the fewest running tasks (max-min fairness). A
//! namespace that waits alone gets all slots, and two that wait share them evenly. Running tasks
//! are never preempted. Instead, a namespace without a running task gets a slot when all are taken,
//! from a reserve as large as the slots themselves. So the tasks of one namespace, however long
//! they last, delay no other namespace.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;

/// Waiting time that raises the priority of a task by one, so that a stream of tasks with a high
/// priority starves no other. The lowest priority passes the highest after 45 minutes.
const AGEING_INTERVAL: Duration = Duration::from_secs(300);
/// Maximum number of parked tasks that take no slot, as a multiple of `--max-concurrent-tasks`;
/// further ones count again. Each keeps its plan in memory, of up to 5,000 names: 100 of them take
/// 20 MB.
const PARKED_FACTOR: usize = 10;

/// Task in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueuedTask<'a> {
    pub(super) uid: &'a str,
    pub(super) namespace: &'a str,
    pub(super) priority: u32,
    pub(super) created: Option<Timestamp>,
}

/// Running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunningTask<'a> {
    pub(super) namespace: &'a str,
    /// True when the task makes no progress, so that its slot is free for others.
    pub(super) parked: bool,
}

/// Maximum numbers of running tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TaskLimits {
    /// Tasks in the cluster.
    pub(super) all: usize,
    /// Tasks of one namespace.
    pub(super) per_namespace: usize,
}

/// Limit that keeps a task in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueLimit {
    /// Running tasks in the cluster, with the limit.
    Cluster(usize),
    /// Running tasks of the namespace, with the limit.
    Namespace(usize),
}

impl QueueLimit {
    /// Returns a message for users about a task in this namespace.
    pub(super) fn message(self, namespace: &str) -> QueueMessage<'_> {
        QueueMessage(self, namespace)
    }
}

/// Message about a limit, with the task's namespace.
pub(super) struct QueueMessage<'a>(QueueLimit, &'a str);

impl fmt::Display for QueueMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            QueueLimit::Cluster(most) => {
                write!(
                    f,
                    "queued: the cluster has {most} of {most} running tasks (--max-concurrent-tasks)"
                )
            }
            QueueLimit::Namespace(most) => write!(
                f,
                "queued: namespace {} has {most} of {most} running tasks (--max-concurrent-tasks-per-namespace)",
                self.1
            ),
        }
    }
}

/// Numbers of running tasks.
struct RunningCounts<'a> {
    limits: TaskLimits,
    total: usize,
    namespaces: HashMap<&'a str, usize>,
}

impl<'a> RunningCounts<'a> {
    /// Counts running tasks. Parked tasks count only above limits of their own: in a namespace, as
    /// many as may run; in the cluster, ten times as many.
    fn new(running: &[RunningTask<'a>], places: TaskLimits) -> Self {
        let mut count = Self { limits: places, total: 0, namespaces: HashMap::new() };
        let mut parked: HashMap<&str, usize> = HashMap::new();
        for task in running {
            if task.parked {
                let count = parked.entry(task.namespace).or_default();
                *count = count.saturating_add(1);
            } else {
                count.add(task.namespace);
            }
        }
        let mut spared = 0_usize;
        for (namespace, parked) in parked {
            spared = spared.saturating_add(parked.min(places.per_namespace));
            for _ in places.per_namespace..parked {
                count.add(namespace);
            }
        }
        count.total = count
            .total
            .saturating_add(spared.saturating_sub(places.all.saturating_mul(PARKED_FACTOR)));
        count
    }

    fn add(&mut self, namespace: &'a str) {
        self.total = self.total.saturating_add(1);
        let count = self.namespaces.entry(namespace).or_default();
        *count = count.saturating_add(1);
    }

    fn running_in(&self, namespace: &str) -> usize {
        self.namespaces.get(namespace).copied().unwrap_or_default()
    }

    fn limit_reached(&self, namespace: &str) -> Option<QueueLimit> {
        let (TaskLimits { all, per_namespace }, own) = (self.limits, self.running_in(namespace));
        // The first task of a namespace may use the reserve.
        let most = if own == 0 { all.saturating_mul(2) } else { all };
        if own >= per_namespace {
            // Equal limits mean that the second was not set.
            Some(if per_namespace == all {
                QueueLimit::Cluster(all)
            } else {
                QueueLimit::Namespace(per_namespace)
            })
        } else {
            (self.total >= most).then_some(QueueLimit::Cluster(all))
        }
    }
}

/// Selects the waiting tasks that may start. Returns their UIDs, and the limit that holds back the
/// others, by namespace.
pub(super) fn admit<'a>(
    waiting: Vec<QueuedTask<'a>>,
    running: &[RunningTask<'a>],
    places: TaskLimits,
    now: Timestamp,
) -> (HashSet<&'a str>, HashMap<&'a str, QueueLimit>) {
    let mut count = RunningCounts::new(running, places);
    let mut namespaces: BTreeMap<&str, Vec<QueuedTask<'_>>> = BTreeMap::new();
    for task in waiting {
        namespaces.entry(task.namespace).or_default().push(task);
    }
    for tasks in namespaces.values_mut() {
        // The first one is popped from the end.
        tasks.sort_by_key(|task| std::cmp::Reverse(sort_key(task, now)));
    }
    let (mut begin, mut held) = (HashSet::new(), HashMap::new());
    loop {
        let turn = |(namespace, tasks): &(&&'a str, &Vec<QueuedTask<'a>>)| {
            (count.running_in(namespace), tasks.last().map(|task| sort_key(task, now)))
        };
        let Some(namespace) = namespaces.iter().min_by_key(turn).map(|(namespace, _)| *namespace)
        else {
            break;
        };
        let some = namespaces.get(namespace).is_some_and(|tasks| !tasks.is_empty());
        if let Some(why) = count.limit_reached(namespace).filter(|_| some) {
            held.insert(namespace, why);
            namespaces.remove(namespace);
        } else if let Some(task) = namespaces.get_mut(namespace).and_then(Vec::pop) {
            begin.insert(task.uid);
            count.add(namespace);
        } else {
            namespaces.remove(namespace);
        }
    }
    (begin, held)
}

/// Returns the UIDs in reconcile order: tasks of namespaces with the fewest `workers` first.
pub(super) fn admission_order<'a>(
    mut tasks: Vec<QueuedTask<'a>>,
    workers: &HashMap<&str, usize>,
    now: Timestamp,
) -> Vec<&'a str> {
    let key = |task: &QueuedTask<'a>| {
        (workers.get(task.namespace).copied().unwrap_or_default(), sort_key(task, now))
    };
    tasks.sort_by_cached_key(key);
    tasks.into_iter().map(|task| task.uid).collect()
}

/// Returns the sort key of a task, smallest first: priority raised by waiting time, then age, then
/// UID.
fn sort_key<'a>(
    task: &QueuedTask<'a>,
    now: Timestamp,
) -> (std::cmp::Reverse<u64>, Option<Timestamp>, &'a str) {
    let waited =
        task.created.map_or(0, |since| now.duration_since(since).as_secs().max(0).unsigned_abs());
    (
        std::cmp::Reverse(
            u64::from(task.priority)
                .saturating_add(waited.checked_div(AGEING_INTERVAL.as_secs()).unwrap_or(0)),
        ),
        task.created,
        task.uid,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: TaskLimits = TaskLimits { all: 10, per_namespace: 10 };

    fn task(uid: &str, priority: u32, created: i64) -> QueuedTask<'_> {
        QueuedTask {
            uid,
            namespace: "shop",
            priority,
            created: Timestamp::from_second(created).ok(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn running(namespace: &str) -> RunningTask<'_> {
        RunningTask { namespace, parked: false }
    }

    #[test]
    fn tasks_are_ordered_by_priority_then_age_then_uid() {
        let waiting =
            vec![task("young", 5, 20), task("old", 5, 10), task("b", 9, 30), task("a", 9, 30)];
        assert_eq!(
            admission_order(waiting.clone(), &HashMap::new(), at(31)),
            ["a", "b", "old", "young"]
        );
        let one = TaskLimits { all: 1, per_namespace: 1 };
        assert_eq!(admit(waiting, &[], one, at(31)).0, HashSet::from(["a"]));
    }

    #[test]
    fn waiting_raises_the_priority() {
        let waiting = || vec![task("humble", 1, 0), task("urgent", 10, 3000)];
        let one = TaskLimits { all: 1, per_namespace: 1 };
        assert_eq!(admit(waiting(), &[], one, at(1000)).0, HashSet::from(["urgent"]));
        assert_eq!(admit(waiting(), &[], one, at(3001)).0, HashSet::from(["humble"]));
    }

    #[test]
    fn a_single_namespace_gets_all_slots() {
        let names: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
        let waiting: Vec<QueuedTask<'_>> = names.iter().map(|name| task(name, 5, 0)).collect();
        let (begin, held) = admit(waiting, &[], LIMITS, at(0));
        assert_eq!(begin.len(), 10);
        assert_eq!(held["shop"].message("shop").to_string().matches("10 of 10").count(), 1);
    }

    #[test]
    fn a_namespace_without_running_tasks_uses_the_reserve() {
        let other = QueuedTask { namespace: "bank", ..task("b", 1, 0) };
        let (begin, held) =
            admit(vec![task("a", 10, 0), other], &[running("shop"); 10], LIMITS, at(0));
        assert_eq!(begin, HashSet::from(["b"]));
        assert_eq!(held, HashMap::from([("shop", QueueLimit::Cluster(10))]));
        let second = QueuedTask { namespace: "bank", ..task("b", 1, 0) };
        let mut taken = vec![running("shop"); 10];
        taken.push(running("bank"));
        assert!(
            admit(vec![second], &taken, LIMITS, at(0)).0.is_empty(),
            "each namespace gets one slot of the reserve"
        );
    }

    #[test]
    fn slots_are_shared_evenly() {
        let names: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
        let waiting = names.iter().enumerate().map(|(n, name)| {
            let namespace = if n < 15 { "shop" } else { "bank" };
            QueuedTask { namespace, ..task(name, if n < 15 { 10 } else { 1 }, 0) }
        });
        let (begin, _) = admit(waiting.collect(), &[], LIMITS, at(0));
        assert_eq!(begin.iter().filter(|name| **name >= "15").count(), 5, "{begin:?}");
    }

    #[test]
    fn the_limit_per_namespace_holds() {
        let places = TaskLimits { all: 10, per_namespace: 5 };
        let (begin, held) = admit(vec![task("a", 5, 0)], &[running("shop"); 5], places, at(0));
        assert!(begin.is_empty());
        let expected = "queued: namespace shop has 5 of 5 running tasks (--max-concurrent-tasks-per-namespace)";
        assert_eq!(held["shop"].message("shop").to_string(), expected);
    }

    #[test]
    fn parked_tasks_take_no_slot_up_to_a_limit() {
        let parked = |namespace| RunningTask { namespace, parked: true };
        let ten = [parked("shop"); 10];
        assert_eq!(admit(vec![task("a", 5, 0)], &ten, LIMITS, at(0)).0.len(), 1);
        let many = vec![parked("shop"); 20];
        assert!(admit(vec![task("a", 5, 0)], &many, LIMITS, at(0)).0.is_empty());
        let names: Vec<String> = (0..12).map(|n| format!("ns{n}")).collect();
        let crowd: Vec<RunningTask<'_>> =
            names.iter().flat_map(|name| vec![parked(name); 10]).collect();
        let count = RunningCounts::new(&crowd, LIMITS);
        assert_eq!((count.total, count.running_in("ns1")), (20, 0));
    }

    /// Namespace and priority of waiting tasks; namespace and parked state of running ones; the
    /// limits of the cluster and of a namespace.
    type QueueInput = (Vec<(u8, u32)>, Vec<(u8, bool)>, usize, usize);

    fn queue_input() -> impl Strategy<Value = QueueInput> {
        (
            proptest::collection::vec((0u8..6, 1u32..=10), 0..40),
            proptest::collection::vec((0u8..6, proptest::bool::weighted(0.3)), 0..30),
            1usize..12,
            1usize..12,
        )
    }

    proptest! {
        /// Limits hold, no slot stays free while a task may take it, and no namespace starves.
        #[test]
        fn slots_are_assigned_fairly((waiting, taken, all, own) in queue_input()) {
            let names: Vec<String> = (0..6).map(|n| format!("ns{n}")).collect();
            let uids: Vec<String> = (0..waiting.len()).map(|n| format!("{n:03}")).collect();
            let places = TaskLimits { all, per_namespace: own.min(all) };
            let tasks: Vec<QueuedTask<'_>> = waiting.iter().zip(&uids).map(|((namespace, priority), uid)| QueuedTask {
                uid, namespace: &names[usize::from(*namespace)], priority: *priority, created: None,
            }).collect();
            let running: Vec<RunningTask<'_>> = taken.iter()
                .map(|(namespace, parked)| RunningTask { namespace: &names[usize::from(*namespace)], parked: *parked })
                .collect();
            let before = RunningCounts::new(&running, places);
            let (begin, held) = admit(tasks.clone(), &running, places, at(0));
            let begun = |namespace: &str| {
                tasks.iter().filter(|task| task.namespace == namespace && begin.contains(task.uid)).count()
            };
            let left = |namespace: &str| tasks.iter().filter(|task| task.namespace == namespace).count() - begun(namespace);
            let after: usize = before.total + begin.len();
            prop_assert!(begin.is_empty() || after <= 2 * all);
            for namespace in names.iter().map(String::as_str) {
                let (old, new) = (before.running_in(namespace), before.running_in(namespace) + begun(namespace));
                prop_assert!(begun(namespace) == 0 || new <= places.per_namespace, "{namespace} has {new}");
                prop_assert_eq!(left(namespace) > 0, held.contains_key(namespace));
                if left(namespace) > 0 {
                    // Work conserving: it waits because its own limit or the cluster's is reached.
                    prop_assert!(new >= places.per_namespace || after >= all);
                    // No starvation: a namespace without a running task waits only when the reserve
                    // is used up.
                    prop_assert!(new > 0 || after >= 2 * all);
                    // Max-min: no namespace that got a slot had more running tasks than this one
                    // has now.
                    for other in names.iter().map(String::as_str).filter(|other| begun(other) > 0) {
                        let reached = before.running_in(other) + begun(other) - 1;
                        prop_assert!(reached <= new || new >= places.per_namespace || old > 0, "{other} before {namespace}");
                    }
                }
            }
        }
    }
}
