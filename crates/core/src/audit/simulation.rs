//! Simulation of the tasks that Prewarmer would have created, by the order of the events in time.
//!
//! A task begins when the first recorded container of an image begins to wait, and ends on all of
//! its nodes at the time at which its last batch ends. What begins to wait later, on a node that
//! existed at the begin and had not pulled the image, is spared. What is uncertain about times counts
//! against Prewarmer:
//!
//! - admission is before the first container waits, and the first batches end before the last one;
//! - the pull of each batch takes as long as the slowest recorded pull of the image;
//! - containers that begin to wait during the task are not spared at all;
//! - a rollout before the first recorded event is not known, so that its later pods count as the
//!   first ones;
//! - later tasks for the same image are not simulated, nor is the warming of new nodes.

use std::{collections::HashMap, time::Duration};

use super::{
    nodes::Nodes,
    owners::{DELETED, WorkloadId},
    recording::ImageStart,
};
use crate::{task::validate::AUTO_NODES, workload::SYSTEM_NAMESPACES};

/// Time from an admission to the first worker: a window of 1 s for further hints, lookup, creation
/// and plan of the task (0.12 s, docs/measurements.md), rounded up.
const TASK_START: Duration = Duration::from_secs(3);
/// Time of a batch besides its pull: creation of the worker, start of its containers, result and
/// deletion. `make demo` warms two batches in 6 s, tests with a real kubelet one in less than 20 s
/// including a pull; rounded up.
const BATCH_OVERHEAD: Duration = Duration::from_secs(5);
/// Time for which a container still waits for a present image by the pull policy `Always`, while the
/// kubelet asks the registry whether the tag has moved. Events of such pulls state 0.3 to 0.5 s.
const RESOLUTION: Duration = Duration::from_secs(1);
/// Nodes that a task works on at the same time (`spec.batchSize`; a test compares).
const BATCH_SIZE: u32 = 10;
/// Kinds that are warmed without further settings, apart from Pods and Jobs.
const WARMED_KINDS: [&str; 6] =
    ["CronJob", "DaemonSet", "Deployment", "ReplicaSet", "ReplicationController", "StatefulSet"];

/// Settings of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulationSettings {
    /// Set if Pods without a controller and Jobs without a `CronJob` create tasks. Mostly they start
    /// once, and wait for their images while these are warmed on other nodes.
    pub warm_one_shots: bool,
    /// Largest number of nodes of a task, other than those of `DaemonSet`s.
    pub most_nodes: u32,
    /// Number of nodes that a task works on at the same time.
    pub batch_size: u32,
}

impl Default for SimulationSettings {
    fn default() -> Self {
        Self { warm_one_shots: false, most_nodes: AUTO_NODES, batch_size: BATCH_SIZE }
    }
}

/// Reason why a wait is not spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    /// The container waited before a task for its image could have ended.
    Early,
    /// The node had the image in the record before: it was deleted there, or is pulled `Always`.
    Repeated,
    /// The node was created after the begin of the task, or is deleted.
    NewNode,
    /// Pod or Job that starts once.
    OneShot,
    /// System namespace, or a kind that needs a setting.
    NotWarmed,
    /// The pod is deleted, and no workload is known for it.
    Deleted,
}

/// Result of a pull, in milliseconds for one occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Spared, with the part of the wait that is.
    Spared(u64),
    /// Not spared.
    Waited(Reason),
}

/// Task for an image; times in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct SimulatedTask {
    begin: i64,
    end: i64,
}

/// First tasks for one image.
#[derive(Debug, Clone, Copy, Default)]
struct ImageTasks {
    /// Task on at most [`SimulationSettings::most_nodes`] nodes.
    some_nodes: Option<SimulatedTask>,
    /// Task on all nodes.
    all_nodes: Option<SimulatedTask>,
}

/// Simulates the tasks and returns a verdict for the first occurrence of each start; `None` for
/// starts with a present image. `workloads` are those of the starts, in the same order.
pub(super) fn simulate(
    starts: &[ImageStart],
    workloads: &[WorkloadId],
    nodes: &Nodes,
    settings: &SimulationSettings,
) -> Vec<Option<Verdict>> {
    let simulation = Simulation {
        tasks: tasks(starts, workloads, nodes.count(), settings),
        present_since: present_since(starts),
        nodes,
        settings: *settings,
    };
    let both = starts.iter().zip(workloads);
    both.map(|(start, workload)| simulation.verdict(start, workload)).collect()
}

/// Tasks, and the presence of images on nodes.
struct Simulation<'a> {
    tasks: HashMap<&'a str, ImageTasks>,
    /// Time since which an image was present on a node, by image and node.
    present_since: HashMap<(&'a str, &'a str), i64>,
    nodes: &'a Nodes,
    settings: SimulationSettings,
}

impl Simulation<'_> {
    fn verdict(&self, start: &ImageStart, workload: &WorkloadId) -> Option<Verdict> {
        let pull = start.pull?;
        let begin = start.begin();
        let place = (&*start.image, &*start.node);
        if self.present_since.get(&place).is_some_and(|since| *since < begin) {
            return Some(Verdict::Waited(Reason::Repeated));
        }
        let tasks = self.tasks.get(&*start.image).copied().unwrap_or_default();
        let ended = |task: Option<SimulatedTask>| task.filter(|task| task.end <= begin);
        let (on_all, on_some) = (ended(tasks.all_nodes), ended(tasks.some_nodes));
        let warms = |task: Option<SimulatedTask>| {
            task.is_some_and(|task| self.nodes.existed(&start.node, task.begin))
        };
        let left = if start.is_moving { milliseconds(RESOLUTION) } else { 0 };
        let spared = pull.waited.saturating_sub(left);
        Some(if warms(on_all) {
            Verdict::Spared(spared)
        } else if warms(on_some) {
            // The expected value, where the task selects some of the nodes.
            let all = self.nodes.count().max(1);
            let selected = self.settings.most_nodes.min(all);
            Verdict::Spared(spared * u64::from(selected) / u64::from(all))
        } else if on_all.or(on_some).is_some() {
            Verdict::Waited(Reason::NewNode)
        } else {
            Verdict::Waited(unwarmed(workload, &self.settings).unwrap_or(Reason::Early))
        })
    }
}

/// Returns why a workload creates no task; `None` if it creates one.
fn unwarmed(workload: &WorkloadId, settings: &SimulationSettings) -> Option<Reason> {
    match &*workload.kind {
        _ if SYSTEM_NAMESPACES.contains(&&*workload.namespace) => Some(Reason::NotWarmed),
        "Pod" | "Job" if settings.warm_one_shots => None,
        "Pod" | "Job" => Some(Reason::OneShot),
        kind if WARMED_KINDS.contains(&kind) => None,
        DELETED => Some(Reason::Deleted),
        _ => Some(Reason::NotWarmed),
    }
}

/// Returns the tasks with the earliest ends for each image.
fn tasks<'a>(
    starts: &'a [ImageStart],
    workloads: &[WorkloadId],
    nodes: u32,
    settings: &SimulationSettings,
) -> HashMap<&'a str, ImageTasks> {
    let mut slowest: HashMap<&str, u64> = HashMap::new();
    for start in starts {
        let pull = start.pull.map_or(0, |pull| pull.duration);
        let known = slowest.entry(&start.image).or_default();
        *known = pull.max(*known);
    }
    let mut tasks: HashMap<&str, ImageTasks> = HashMap::new();
    for (start, workload) in starts.iter().zip(workloads) {
        if unwarmed(workload, settings).is_some() {
            continue;
        }
        let pull = slowest.get(&*start.image).copied().unwrap_or_default();
        let on_all = &*workload.kind == "DaemonSet" || nodes <= settings.most_nodes;
        let selected = if on_all { nodes } else { settings.most_nodes };
        let begin = start.begin();
        let end = begin.saturating_add(task_duration(selected, pull, settings));
        let of_image = tasks.entry(&start.image).or_default();
        let slot = if on_all { &mut of_image.all_nodes } else { &mut of_image.some_nodes };
        if slot.is_none_or(|known| end < known.end) {
            *slot = Some(SimulatedTask { begin, end });
        }
    }
    tasks
}

/// Returns the time from an admission to the end of the last batch, in milliseconds. `pull` is the
/// duration of the pull in each batch.
fn task_duration(nodes: u32, pull: u64, settings: &SimulationSettings) -> i64 {
    let batches = u64::from(nodes.max(1).div_ceil(settings.batch_size.max(1)));
    let batch = milliseconds(BATCH_OVERHEAD).saturating_add(pull);
    let all = milliseconds(TASK_START).saturating_add(batches.saturating_mul(batch));
    i64::try_from(all).unwrap_or(i64::MAX)
}

/// Returns the earliest time at which each image was present on each node.
fn present_since(starts: &[ImageStart]) -> HashMap<(&str, &str), i64> {
    let mut times: HashMap<(&str, &str), i64> = HashMap::new();
    for start in starts {
        let known = times.entry((&start.image, &start.node)).or_insert(start.at);
        *known = start.at.min(*known);
    }
    times
}

/// Returns the whole milliseconds of a constant above.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        audit::recording::Pull,
        task::{Amount, PrewarmTaskSpec},
        workload::WorkloadKinds,
    };

    const WEB: (&str, &str, &str) = ("shop", "Deployment", "web");

    /// Start of a container that began to wait at `begin` and waited `waited`, in seconds, of which
    /// the pull took all.
    fn start(node: &str, image: &str, begin: i64, waited: u64) -> ImageStart {
        ImageStart {
            namespace: "shop".into(),
            pod: "web-1".into(),
            node: node.into(),
            image: image.into(),
            is_moving: false,
            at: (begin + i64::try_from(waited).unwrap()) * 1000,
            count: 1,
            pull: Some(Pull { duration: waited * 1000, waited: waited * 1000, image_bytes: None }),
        }
    }

    fn present(node: &str, image: &str, at: i64) -> ImageStart {
        ImageStart { pull: None, ..start(node, image, at, 0) }
    }

    fn workload((namespace, kind, name): (&str, &str, &str)) -> WorkloadId {
        WorkloadId { namespace: namespace.into(), kind: kind.into(), name: name.into() }
    }

    /// Simulates starts of these workloads with the defaults.
    fn run(nodes: u32, starts: &[((&str, &str, &str), ImageStart)]) -> Vec<Option<Verdict>> {
        run_with(SimulationSettings::default(), nodes, starts)
    }

    fn run_with(
        settings: SimulationSettings,
        nodes: u32,
        starts: &[((&str, &str, &str), ImageStart)],
    ) -> Vec<Option<Verdict>> {
        let workloads: Vec<WorkloadId> = starts.iter().map(|(id, _)| workload(*id)).collect();
        let starts: Vec<ImageStart> = starts.iter().map(|(_, start)| start.clone()).collect();
        simulate(&starts, &workloads, &Nodes::of_count(nodes), &settings)
    }

    const EARLY: Option<Verdict> = Some(Verdict::Waited(Reason::Early));

    #[allow(clippy::unnecessary_wraps, reason = "a verdict as of a start")]
    fn spared(seconds: u64) -> Option<Verdict> {
        Some(Verdict::Spared(seconds * 1000))
    }

    /// Three nodes are one batch: the task of the pull at 100 s ends at 100 + 3 + 5 + 20 = 128 s.
    #[rstest]
    #[case::before_the_end(127, EARLY)]
    #[case::at_the_end(128, spared(20))]
    #[case::later(500, spared(20))]
    fn a_pull_after_the_end_of_the_task_is_spared(
        #[case] begin: i64,
        #[case] expected: Option<Verdict>,
    ) {
        let starts = [(WEB, start("a", "i", 100, 20)), (WEB, start("b", "i", begin, 20))];
        assert_eq!(run(3, &starts), [EARLY, expected]);
    }

    /// The order of the list does not matter: lists are in the order of names.
    #[test]
    fn the_first_start_in_time_creates_the_task() {
        let starts = [(WEB, start("b", "i", 500, 20)), (WEB, start("a", "i", 100, 20))];
        assert_eq!(run(3, &starts), [spared(20), EARLY]);
    }

    /// The slower pull of the two, 50 s, is that of the task: 100 + 3 + 5 + 50 = 158 s.
    #[rstest]
    #[case(157, EARLY)]
    #[case(158, spared(50))]
    fn a_batch_takes_as_long_as_the_slowest_pull(
        #[case] begin: i64,
        #[case] expected: Option<Verdict>,
    ) {
        let starts = [(WEB, start("a", "i", 100, 20)), (WEB, start("b", "i", begin, 50))];
        assert_eq!(run(3, &starts), [EARLY, expected]);
    }

    /// 25 nodes are three batches: 100 + 3 + 3 x (5 + 20) = 178 s.
    #[rstest]
    #[case(177, EARLY)]
    #[case(178, spared(20))]
    fn batches_follow_one_another(#[case] begin: i64, #[case] expected: Option<Verdict>) {
        let starts = [(WEB, start("a", "i", 100, 20)), (WEB, start("b", "i", begin, 20))];
        assert_eq!(run(25, &starts), [EARLY, expected]);
    }

    /// 100 of 400 nodes in ten batches: 100 + 3 + 10 x (5 + 20) = 353 s, and a quarter is spared. A
    /// `DaemonSet` is warmed on all 400 nodes, in 40 batches: 100 + 3 + 40 x 25 = 1103 s.
    #[rstest]
    #[case(WEB, 352, EARLY)]
    #[case(WEB, 353, spared(5))]
    #[case(("shop", "DaemonSet", "agent"), 1102, EARLY)]
    #[case(("shop", "DaemonSet", "agent"), 1103, spared(20))]
    fn a_task_on_some_nodes_spares_their_share(
        #[case] id: (&str, &str, &str),
        #[case] begin: i64,
        #[case] expected: Option<Verdict>,
    ) {
        let starts = [(id, start("a", "i", 100, 20)), (id, start("b", "i", begin, 20))];
        assert_eq!(run(400, &starts), [EARLY, expected]);
    }

    /// Two pods on one node wait for the same pull, and a third one comes after it.
    #[test]
    fn overlapping_pulls_of_one_node_are_not_repetitions() {
        let starts = [
            (WEB, start("a", "i", 100, 20)),
            (WEB, start("a", "i", 110, 10)),
            (WEB, start("a", "i", 121, 1)),
            (WEB, present("a", "i", 125)),
        ];
        assert_eq!(run(3, &starts), [EARLY, EARLY, Some(Verdict::Waited(Reason::Repeated)), None]);
        // After the task, both pods that wait for one pull are spared.
        let starts = [
            (WEB, start("a", "i", 100, 20)),
            (WEB, start("b", "i", 200, 20)),
            (WEB, start("b", "i", 210, 10)),
        ];
        assert_eq!(run(3, &starts), [EARLY, spared(20), spared(10)]);
    }

    #[test]
    fn an_image_that_was_present_is_not_warmed_again() {
        let starts = [(WEB, present("a", "i", 100)), (WEB, start("a", "i", 500, 20))];
        assert_eq!(run(3, &starts), [None, Some(Verdict::Waited(Reason::Repeated))]);
    }

    /// A warm start creates a task too: 100 + 3 + 5 + 20 = 128 s.
    #[rstest]
    #[case(127, EARLY)]
    #[case(128, spared(20))]
    fn a_present_image_is_warmed_on_the_other_nodes(
        #[case] begin: i64,
        #[case] expected: Option<Verdict>,
    ) {
        let starts = [(WEB, present("a", "i", 100)), (WEB, start("b", "i", begin, 20))];
        assert_eq!(run(3, &starts), [None, expected]);
    }

    #[rstest]
    #[case(("shop", "Job", "import"), Reason::OneShot)]
    #[case(("shop", "Pod", "tool"), Reason::OneShot)]
    #[case(("kube-system", "Deployment", "dns"), Reason::NotWarmed)]
    #[case(("shop", "Rollout", "web"), Reason::NotWarmed)]
    #[case(("shop", "Node", "a"), Reason::NotWarmed)]
    #[case(("shop", DELETED, "web"), Reason::Deleted)]
    fn some_workloads_create_no_task(#[case] id: (&str, &str, &str), #[case] reason: Reason) {
        let starts = [(id, start("a", "i", 100, 20)), (id, start("b", "i", 500, 20))];
        let expected = Some(Verdict::Waited(reason));
        assert_eq!(run(3, &starts), [expected, expected]);
    }

    #[test]
    fn one_shots_are_warmed_by_a_setting() {
        let id = ("shop", "Job", "import");
        let starts = [(id, start("a", "i", 100, 20)), (id, start("b", "i", 500, 20))];
        let settings = SimulationSettings { warm_one_shots: true, ..SimulationSettings::default() };
        assert_eq!(run_with(settings, 3, &starts), [EARLY, spared(20)]);
    }

    #[test]
    fn a_task_spares_other_workloads_with_the_image() {
        let job = ("shop", "Job", "import");
        let starts = [
            (WEB, start("a", "i", 100, 20)),
            (job, start("b", "i", 500, 20)),
            (job, start("b", "other", 500, 20)),
        ];
        assert_eq!(run(3, &starts), [EARLY, spared(20), Some(Verdict::Waited(Reason::OneShot))]);
    }

    #[test]
    fn a_moving_tag_is_resolved_although_it_is_present() {
        let moving =
            |begin, waited| ImageStart { is_moving: true, ..start("b", "i", begin, waited) };
        let starts = [(WEB, start("a", "i", 100, 20)), (WEB, moving(500, 20))];
        assert_eq!(run(3, &starts), [EARLY, spared(19)]);
    }

    #[test]
    fn waits_count_from_their_begin_whatever_the_pull_took() {
        // Nine of ten seconds in the kubelet's queue: the task's pull takes 1 s, and it ends at
        // 100 + 3 + 5 + 1 = 109 s.
        let queued = |node, begin| {
            let mut start = start(node, "i", begin, 10);
            start.pull = Some(Pull { duration: 1000, waited: 10_000, image_bytes: None });
            (WEB, start)
        };
        let starts = [queued("a", 100), queued("b", 108), queued("c", 109)];
        assert_eq!(run(3, &starts), [EARLY, EARLY, spared(10)]);
    }

    #[test]
    fn extreme_times_and_settings_do_not_overflow() {
        let mut first = start("a", "i", 0, 86_400);
        first.at = i64::MIN;
        let mut last = start("b", "i", 0, 86_400);
        last.at = i64::MAX;
        let settings =
            SimulationSettings { most_nodes: 0, batch_size: 0, ..SimulationSettings::default() };
        let results = run_with(settings, u32::MAX, &[(WEB, first), (WEB, last)]);
        assert_eq!(results, [EARLY, Some(Verdict::Spared(0))]);
    }

    #[test]
    fn defaults_are_those_of_tasks_and_kinds() {
        let spec = PrewarmTaskSpec::new(vec!["a".into()]);
        assert_eq!(spec.batch_size, Amount::Count(BATCH_SIZE));
        let mut kinds: Vec<String> =
            WorkloadKinds::default().iter().map(|kind| kind.kind.clone()).collect();
        kinds.retain(|kind| kind != "Pod" && kind != "Job");
        kinds.sort();
        assert_eq!(kinds, WARMED_KINDS);
    }

    /// The task begins at 100 s and ends at 128 s.
    #[rstest]
    #[case::before(Some(100), spared(20))]
    #[case::after(Some(101), Some(Verdict::Waited(Reason::NewNode)))]
    #[case::deleted(None, Some(Verdict::Waited(Reason::NewNode)))]
    fn nodes_that_join_after_the_begin_of_a_task_are_not_warmed(
        #[case] created: Option<i64>,
        #[case] expected: Option<Verdict>,
    ) {
        let mut nodes = Nodes::default();
        nodes.insert("a", 0);
        if let Some(created) = created {
            nodes.insert("b", created * 1000);
        }
        let starts = [start("a", "i", 100, 20), start("b", "i", 500, 20)];
        let workloads = [workload(WEB), workload(WEB)];
        let verdicts = simulate(&starts, &workloads, &nodes, &SimulationSettings::default());
        assert_eq!(verdicts, [EARLY, expected]);
    }
}
