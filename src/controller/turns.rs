//! Which waiting tasks may begin, and in which order tasks are worked on: namespaces share, then priority and age count.
//! *Pure.*
//!
//! Places go to the namespace with the fewest running tasks first (max-min), so the places of a namespace that waits alone are
//! all its own, and two that wait share evenly. Nothing is taken back. Instead, a namespace of which no task runs gets a place
//! when all are taken, from a reserve as large as the places themselves: one namespace's tasks, however long they last, hold up
//! no other.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;

/// After each such span of waiting a task counts as one priority higher, so that a stream of urgent tasks starves no other:
/// the lowest priority passes the highest after 45 minutes.
const AGEING: Duration = Duration::from_secs(300);
/// Tasks that make no progress take no place up to this many times `--max-concurrent-tasks`; then they count again. Each keeps
/// its plan in memory, of up to 5,000 names: 100 of them take 20 MB.
const PARKED: usize = 10;

/// A task that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting<'a> {
    pub(super) uid: &'a str,
    pub(super) namespace: &'a str,
    pub(super) priority: u32,
    pub(super) created: Option<Timestamp>,
}

/// A task that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running<'a> {
    pub(super) namespace: &'a str,
    /// Whether it makes no progress, so that its place is given to others.
    pub(super) parked: bool,
}

/// How many tasks may run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    /// In the cluster.
    pub(super) all: usize,
    /// Of one namespace.
    pub(super) per_namespace: usize,
}

/// Which limit holds a task back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// So many tasks run.
    All(usize),
    /// So many tasks of its namespace run.
    Namespace(usize),
}

impl Held {
    /// For people, of a task in this namespace.
    pub(super) fn message(self, namespace: &str) -> Message<'_> {
        Message(self, namespace)
    }
}

/// A sentence about a limit.
pub(super) struct Message<'a>(Held, &'a str);

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Held::All(most) => {
                write!(f, "waits until fewer tasks run: {most} of {most} do (--max-concurrent-tasks)")
            }
            Held::Namespace(most) => write!(
                f,
                "namespace {} has {most} of {most} running tasks (--max-concurrent-tasks-per-namespace)",
                self.1
            ),
        }
    }
}

/// Counts of running tasks.
struct Count<'a> {
    places: Places,
    all: usize,
    namespaces: HashMap<&'a str, usize>,
}

impl<'a> Count<'a> {
    /// Parked tasks count only beyond their own limits: of a namespace, as many as may run; in all, [`PARKED`] times as many.
    fn new(running: &[Running<'a>], places: Places) -> Self {
        let mut count = Self { places, all: 0, namespaces: HashMap::new() };
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
        count.all = count.all.saturating_add(spared.saturating_sub(places.all.saturating_mul(PARKED)));
        count
    }

    fn add(&mut self, namespace: &'a str) {
        self.all = self.all.saturating_add(1);
        let count = self.namespaces.entry(namespace).or_default();
        *count = count.saturating_add(1);
    }

    fn of(&self, namespace: &str) -> usize {
        self.namespaces.get(namespace).copied().unwrap_or_default()
    }

    fn held(&self, namespace: &str) -> Option<Held> {
        let (Places { all, per_namespace }, own) = (self.places, self.of(namespace));
        // The first task of a namespace may take from the reserve.
        let most = if own == 0 { all.saturating_mul(2) } else { all };
        if own >= per_namespace {
            // Where the two limits are the same, the second was not set.
            Some(if per_namespace == all { Held::All(all) } else { Held::Namespace(per_namespace) })
        } else {
            (self.all >= most).then_some(Held::All(all))
        }
    }
}

/// Which of the waiting tasks may begin, and what holds back those of each other namespace.
pub(super) fn admit<'a>(
    waiting: Vec<Waiting<'a>>,
    running: &[Running<'a>],
    places: Places,
    now: Timestamp,
) -> (HashSet<&'a str>, HashMap<&'a str, Held>) {
    let mut count = Count::new(running, places);
    let mut namespaces: BTreeMap<&str, Vec<Waiting<'_>>> = BTreeMap::new();
    for task in waiting {
        namespaces.entry(task.namespace).or_default().push(task);
    }
    for tasks in namespaces.values_mut() {
        // The first is taken from the end.
        tasks.sort_by_key(|task| std::cmp::Reverse(order(task, now)));
    }
    let (mut begin, mut held) = (HashSet::new(), HashMap::new());
    loop {
        let turn = |(namespace, tasks): &(&&'a str, &Vec<Waiting<'a>>)| {
            (count.of(namespace), tasks.last().map(|task| order(task, now)))
        };
        let Some(namespace) = namespaces.iter().min_by_key(turn).map(|(namespace, _)| *namespace) else { break };
        let some = namespaces.get(namespace).is_some_and(|tasks| !tasks.is_empty());
        if let Some(why) = count.held(namespace).filter(|_| some) {
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

/// The order in which tasks are worked on: those of namespaces with the fewest `workers` first.
pub(super) fn in_order<'a>(
    mut tasks: Vec<Waiting<'a>>,
    workers: &HashMap<&str, usize>,
    now: Timestamp,
) -> Vec<&'a str> {
    let key = |task: &Waiting<'a>| (workers.get(task.namespace).copied().unwrap_or_default(), order(task, now));
    tasks.sort_by_cached_key(key);
    tasks.into_iter().map(|task| task.uid).collect()
}

/// Smaller goes first: by priority and waiting, then by age.
fn order<'a>(task: &Waiting<'a>, now: Timestamp) -> (std::cmp::Reverse<u64>, Option<Timestamp>, &'a str) {
    let waited = task.created.map_or(0, |since| now.duration_since(since).as_secs().max(0).unsigned_abs());
    (
        std::cmp::Reverse(u64::from(task.priority).saturating_add(waited.checked_div(AGEING.as_secs()).unwrap_or(0))),
        task.created,
        task.uid,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACES: Places = Places { all: 10, per_namespace: 10 };

    fn task(uid: &str, priority: u32, created: i64) -> Waiting<'_> {
        Waiting { uid, namespace: "shop", priority, created: Timestamp::from_second(created).ok() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn running(namespace: &str) -> Running<'_> {
        Running { namespace, parked: false }
    }

    #[test]
    fn by_priority_then_age_then_name() {
        let waiting = vec![task("young", 5, 20), task("old", 5, 10), task("b", 9, 30), task("a", 9, 30)];
        assert_eq!(in_order(waiting.clone(), &HashMap::new(), at(31)), ["a", "b", "old", "young"]);
        let one = Places { all: 1, per_namespace: 1 };
        assert_eq!(admit(waiting, &[], one, at(31)).0, HashSet::from(["a"]));
    }

    #[test]
    fn nobody_starves() {
        let waiting = || vec![task("humble", 1, 0), task("urgent", 10, 3000)];
        let one = Places { all: 1, per_namespace: 1 };
        assert_eq!(admit(waiting(), &[], one, at(1000)).0, HashSet::from(["urgent"]));
        assert_eq!(admit(waiting(), &[], one, at(3001)).0, HashSet::from(["humble"]));
    }

    #[test]
    fn a_namespace_alone_has_all_places() {
        let names: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
        let waiting: Vec<Waiting<'_>> = names.iter().map(|name| task(name, 5, 0)).collect();
        let (begin, held) = admit(waiting, &[], PLACES, at(0));
        assert_eq!(begin.len(), 10);
        assert_eq!(held["shop"].message("shop").to_string().matches("10 of 10").count(), 1);
    }

    #[test]
    fn another_namespace_begins_though_all_places_are_taken() {
        let other = Waiting { namespace: "bank", ..task("b", 1, 0) };
        let (begin, held) = admit(vec![task("a", 10, 0), other], &[running("shop"); 10], PLACES, at(0));
        assert_eq!(begin, HashSet::from(["b"]));
        assert_eq!(held, HashMap::from([("shop", Held::All(10))]));
        let second = Waiting { namespace: "bank", ..task("b", 1, 0) };
        let mut taken = vec![running("shop"); 10];
        taken.push(running("bank"));
        assert!(admit(vec![second], &taken, PLACES, at(0)).0.is_empty(), "one place of the reserve for each");
    }

    #[test]
    fn places_are_shared_evenly() {
        let names: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
        let waiting = names.iter().enumerate().map(|(n, name)| {
            let namespace = if n < 15 { "shop" } else { "bank" };
            Waiting { namespace, ..task(name, if n < 15 { 10 } else { 1 }, 0) }
        });
        let (begin, _) = admit(waiting.collect(), &[], PLACES, at(0));
        assert_eq!(begin.iter().filter(|name| **name >= "15").count(), 5, "{begin:?}");
    }

    #[test]
    fn a_namespace_has_a_limit_of_its_own() {
        let places = Places { all: 10, per_namespace: 5 };
        let (begin, held) = admit(vec![task("a", 5, 0)], &[running("shop"); 5], places, at(0));
        assert!(begin.is_empty());
        let expected = "namespace shop has 5 of 5 running tasks (--max-concurrent-tasks-per-namespace)";
        assert_eq!(held["shop"].message("shop").to_string(), expected);
    }

    #[test]
    fn parked_tasks_take_no_place_until_there_are_too_many() {
        let parked = |namespace| Running { namespace, parked: true };
        let ten = [parked("shop"); 10];
        assert_eq!(admit(vec![task("a", 5, 0)], &ten, PLACES, at(0)).0.len(), 1);
        let many = vec![parked("shop"); 20];
        assert!(admit(vec![task("a", 5, 0)], &many, PLACES, at(0)).0.is_empty());
        let names: Vec<String> = (0..12).map(|n| format!("ns{n}")).collect();
        let crowd: Vec<Running<'_>> = names.iter().flat_map(|name| vec![parked(name); 10]).collect();
        let count = Count::new(&crowd, PLACES);
        assert_eq!((count.all, count.of("ns1")), (20, 0));
    }

    /// Of waiting tasks namespace and priority, of running ones namespace and whether they are parked; the two limits.
    type World = (Vec<(u8, u32)>, Vec<(u8, bool)>, usize, usize);

    fn world() -> impl Strategy<Value = World> {
        (
            proptest::collection::vec((0u8..6, 1u32..=10), 0..40),
            proptest::collection::vec((0u8..6, proptest::bool::weighted(0.3)), 0..30),
            1usize..12,
            1usize..12,
        )
    }

    proptest! {
        /// Limits hold, no place stays empty while somebody may take it, and no namespace is left out.
        #[test]
        fn places_are_given_fairly((waiting, taken, all, own) in world()) {
            let names: Vec<String> = (0..6).map(|n| format!("ns{n}")).collect();
            let uids: Vec<String> = (0..waiting.len()).map(|n| format!("{n:03}")).collect();
            let places = Places { all, per_namespace: own.min(all) };
            let tasks: Vec<Waiting<'_>> = waiting.iter().zip(&uids).map(|((namespace, priority), uid)| Waiting {
                uid, namespace: &names[usize::from(*namespace)], priority: *priority, created: None,
            }).collect();
            let running: Vec<Running<'_>> = taken.iter()
                .map(|(namespace, parked)| Running { namespace: &names[usize::from(*namespace)], parked: *parked })
                .collect();
            let before = Count::new(&running, places);
            let (begin, held) = admit(tasks.clone(), &running, places, at(0));
            let begun = |namespace: &str| {
                tasks.iter().filter(|task| task.namespace == namespace && begin.contains(task.uid)).count()
            };
            let left = |namespace: &str| tasks.iter().filter(|task| task.namespace == namespace).count() - begun(namespace);
            let after: usize = before.all + begin.len();
            prop_assert!(begin.is_empty() || after <= 2 * all);
            for namespace in names.iter().map(String::as_str) {
                let (old, new) = (before.of(namespace), before.of(namespace) + begun(namespace));
                prop_assert!(begun(namespace) == 0 || new <= places.per_namespace, "{namespace} has {new}");
                prop_assert_eq!(left(namespace) > 0, held.contains_key(namespace));
                if left(namespace) > 0 {
                    // Work conserving: it waits because its own limit or the cluster's is reached.
                    prop_assert!(new >= places.per_namespace || after >= all);
                    // No starvation: one of which nothing runs waits only when the reserve is used up, too.
                    prop_assert!(new > 0 || after >= 2 * all);
                    // Max-min: nobody got a place who had more than it has now.
                    for other in names.iter().map(String::as_str).filter(|other| begun(other) > 0) {
                        let reached = before.of(other) + begun(other) - 1;
                        prop_assert!(reached <= new || new >= places.per_namespace || old > 0, "{other} before {namespace}");
                    }
                }
            }
        }
    }
}
