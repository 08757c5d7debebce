//! Tests of schedules with a simulated clock.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::*;
use crate::{schedule::PrewarmScheduleSpec, task::PrewarmTaskSpec};

/// Schedule, its tasks and a clock: simulates a leader without a cluster.
struct LeaderSimulation {
    schedule: PrewarmSchedule,
    runs: BTreeMap<String, ExecutionTask>,
    now: Timestamp,
    /// Number of times that a task was created, by name.
    created: HashMap<String, u32>,
}

fn at(text: &str) -> Timestamp {
    format!("2026-11-21T{text}Z").parse().unwrap()
}

impl LeaderSimulation {
    fn new(cron: &str, change: impl FnOnce(&mut PrewarmScheduleSpec)) -> Self {
        let mut spec =
            PrewarmScheduleSpec::new(cron.into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
        change(&mut spec);
        let mut schedule = PrewarmSchedule::new("s", spec);
        schedule.metadata.uid = Some("uid".into());
        schedule.metadata.creation_timestamp = Some(Time(at("00:00:00")));
        Self { schedule, runs: BTreeMap::new(), now: at("00:00:00"), created: HashMap::new() }
    }

    /// Reconciles once. With `crash` the status is not written.
    fn reconcile(&mut self, crash: bool) -> Vec<String> {
        let runs: Vec<ExecutionTask> = self.runs.values().cloned().collect();
        let decision = decide(&self.schedule, &runs, self.now);
        for (name, made) in &decision.start {
            // Names are unique in the API server.
            if !self.runs.contains_key(name) {
                *self.created.entry(name.clone()).or_default() += 1;
                let run = ExecutionTask {
                    task: name.clone(),
                    origin: made.clone(),
                    created: self.now,
                    outcome: ExecutionOutcome::Active,
                    cancelling: false,
                    started: Some(self.now.to_string()),
                    ended: None,
                    message: None,
                };
                self.runs.insert(name.clone(), run);
            }
        }
        for name in &decision.cancel {
            self.runs.get_mut(name).unwrap().cancelling = true;
        }
        for name in &decision.delete {
            self.runs.remove(name);
        }
        if !crash {
            self.schedule.status = Some(decision.status);
        }
        decision.start.into_iter().map(|(name, _)| name).collect()
    }

    fn reconcile_at(&mut self, time: &str) -> usize {
        self.now = at(time);
        self.reconcile(false).len()
    }

    fn end_task(&mut self, name: &str, outcome: ExecutionOutcome) {
        let run = self.runs.get_mut(name).unwrap();
        (run.outcome, run.ended) = (outcome, Some(self.now.to_string()));
    }

    fn end_all(&mut self, outcome: ExecutionOutcome) {
        let names: Vec<String> = self.runs.keys().cloned().collect();
        for name in names
            .iter()
            .filter(|name| self.runs[*name].outcome == ExecutionOutcome::Active)
            .cloned()
            .collect::<Vec<_>>()
        {
            self.end_task(&name, outcome);
        }
    }

    fn statuses(&self) -> Vec<&'static str> {
        let status = self.schedule.status.as_ref().unwrap();
        status.executions.iter().rev().map(|run| run.status.as_str()).collect()
    }
}

#[test]
fn each_scheduled_time_runs_once() {
    let mut world = LeaderSimulation::new("*/10 * * * *", |_| {});
    assert_eq!(world.reconcile_at("00:00:01"), 0, "created after that tick");
    assert_eq!(world.reconcile_at("00:09:59"), 0);
    assert_eq!(world.reconcile_at("00:10:00"), 1);
    assert_eq!(world.reconcile_at("00:10:01"), 0);
    world.end_all(ExecutionOutcome::Completed);
    assert_eq!(world.reconcile_at("00:20:03"), 1);
    assert_eq!(world.statuses(), ["success", "running"]);
    let status = world.schedule.status.as_ref().unwrap();
    assert_eq!(status.next_schedule_time.as_deref(), Some("2026-11-21T00:30:00Z"));
    assert_eq!((status.active.len(), status.executions[0].number), (1, 2));
}

#[test]
fn overlap_skip_records_a_skipped_execution() {
    let mut world = LeaderSimulation::new("*/10 * * * *", |_| {});
    assert_eq!(world.reconcile_at("00:10:00"), 1);
    assert_eq!((world.reconcile_at("00:20:00"), world.reconcile_at("00:20:09")), (0, 0));
    world.end_all(ExecutionOutcome::Failed);
    assert_eq!(world.reconcile_at("00:30:00"), 1);
    assert_eq!(world.statuses(), ["failed", "skipped", "running"]);
}

#[test]
fn overlap_allow_runs_concurrently() {
    let mut world =
        LeaderSimulation::new("*/10 * * * *", |spec| spec.overlap_policy = OverlapPolicy::Allow);
    assert_eq!(
        (
            world.reconcile_at("00:10:00"),
            world.reconcile_at("00:20:00"),
            world.reconcile_at("00:30:00")
        ),
        (1, 1, 1)
    );
    assert_eq!(world.statuses(), ["running"; 3]);
}

#[test]
fn overlap_queue_holds_one_execution() {
    let mut world =
        LeaderSimulation::new("*/10 * * * *", |spec| spec.overlap_policy = OverlapPolicy::Queue);
    assert_eq!(
        (
            world.reconcile_at("00:10:00"),
            world.reconcile_at("00:20:00"),
            world.reconcile_at("00:30:00")
        ),
        (1, 0, 0)
    );
    assert_eq!(world.statuses(), ["running", "skipped"]);
    assert!(world.schedule.status.as_ref().unwrap().queued.is_some());
    world.end_all(ExecutionOutcome::Completed);
    world.now = at("00:31:00");
    let begun = world.reconcile(false);
    assert!(begun[0].starts_with("task-20261121-002000-"), "the tick that waited: {begun:?}");
    assert!(world.schedule.status.as_ref().unwrap().queued.is_none());
    // A waiting execution and a scheduled time at the same moment: the waiting one starts, the
    // other waits.
    assert_eq!(world.reconcile_at("00:40:00"), 0);
    world.end_all(ExecutionOutcome::Completed);
    assert_eq!(world.reconcile_at("00:50:00"), 1);
    assert!(world.schedule.status.as_ref().unwrap().queued.is_some());
}

/// Two manual requests within one second: the first starts, the second waits; both have the same
/// time and origin.
#[test]
fn queued_execution_differs_from_one_of_the_same_second() {
    let mut world =
        LeaderSimulation::new("@yearly", |spec| spec.overlap_policy = OverlapPolicy::Queue);
    world.reconcile_at("10:00:00");
    let made = ExecutionOrigin { scheduled_at: at("10:00:00"), trigger: Trigger::Manual };
    let first = ExecutionTask {
        task: "by-hand".into(),
        origin: made.clone(),
        created: world.now,
        outcome: ExecutionOutcome::Active,
        cancelling: false,
        started: None,
        ended: None,
        message: None,
    };
    world.runs.insert(first.task.clone(), first);
    let queued = QueuedRun { scheduled_time: made.scheduled_at.to_string(), trigger: made.trigger };
    world.schedule.status.as_mut().unwrap().queued = Some(queued);
    assert_eq!(world.reconcile_at("10:00:01"), 0);
    assert!(world.schedule.status.as_ref().unwrap().queued.is_some(), "still queued");
    world.end_all(ExecutionOutcome::Completed);
    assert_eq!(world.reconcile_at("10:00:02"), 1, "starts when the first has ended");
    assert_eq!(world.statuses(), ["success", "running"]);
}

#[test]
fn executions_time_out() {
    let mut world = LeaderSimulation::new("*/10 * * * *", |spec| spec.timeout_seconds = Some(60));
    assert_eq!(world.reconcile_at("00:10:00"), 1);
    let runs: Vec<ExecutionTask> = world.runs.values().cloned().collect();
    assert_eq!(decide(&world.schedule, &runs, at("00:10:30")).next_reconcile, Some(at("00:11:00")));
    world.reconcile_at("00:11:00");
    assert!(world.runs.values().all(|run| run.cancelling));
    world.end_all(ExecutionOutcome::Cancelled);
    world.reconcile_at("00:11:05");
    assert_eq!(world.statuses(), ["timeout"]);
}

#[test]
fn cancellation_by_a_user_is_not_a_timeout() {
    let mut world = LeaderSimulation::new("*/10 * * * *", |spec| spec.timeout_seconds = Some(60));
    world.reconcile_at("00:10:00");
    world.now = at("00:10:20");
    world.end_all(ExecutionOutcome::Cancelled);
    world.reconcile_at("00:10:21");
    assert_eq!(world.statuses(), ["failed"]);
    world.schedule.spec.timeout_seconds = Some(1);
    world.reconcile_at("00:10:30");
    assert_eq!(world.statuses(), ["failed"], "ended executions are not evaluated again");
}

#[test]
fn last_missed_time_runs_after_downtime() {
    let mut world = LeaderSimulation::new("*/10 * * * *", |_| {});
    world.reconcile_at("00:10:00");
    world.end_all(ExecutionOutcome::Completed);
    world.now = at("03:05:00");
    let begun = world.reconcile(false);
    assert!(begun.len() == 1 && begun[0].starts_with("task-20261121-030000-"), "{begun:?}");
    assert_eq!(world.statuses(), ["success", "skipped", "running"]);
    let status = world.schedule.status.as_ref().unwrap();
    assert!(
        status.executions[1]
            .message
            .as_ref()
            .unwrap()
            .starts_with("16 scheduled times since 2026-11-21T00:20:00Z")
    );
}

#[test]
fn starting_deadline_skips_late_executions() {
    let mut world =
        LeaderSimulation::new("0 * * * *", |spec| spec.starting_deadline_seconds = Some(120));
    assert_eq!(world.reconcile_at("01:02:00"), 1, "two minutes late is in time");
    world.end_all(ExecutionOutcome::Completed);
    assert_eq!((world.reconcile_at("02:02:01"), world.reconcile_at("02:30:00")), (0, 0));
    assert_eq!(world.statuses(), ["success", "skipped"]);
}

#[test]
fn times_missed_while_disabled_do_not_run() {
    let mut world = LeaderSimulation::new("*/10 * * * *", |spec| spec.enabled = false);
    assert_eq!(world.reconcile_at("00:10:00"), 0);
    world.schedule.spec.enabled = true;
    assert_eq!((world.reconcile_at("00:29:00"), world.reconcile_at("00:30:00")), (0, 1));
    // Times of a new expression that lie in the past are not made up for.
    world.end_all(ExecutionOutcome::Completed);
    world.schedule.spec.schedule = "*/7 * * * *".into();
    assert_eq!((world.reconcile_at("00:36:00"), world.reconcile_at("00:42:00")), (0, 1));
    // A change of another field loses no scheduled time.
    world.end_all(ExecutionOutcome::Completed);
    world.schedule.spec.history_limit = 3;
    assert_eq!(world.reconcile_at("00:49:10"), 1);
}

#[test]
fn change_of_time_zone_takes_effect() {
    let mut world =
        LeaderSimulation::new("0 9 * * *", |spec| spec.time_zone = Some("Europe/Berlin".into()));
    assert_eq!((world.reconcile_at("07:59:00"), world.reconcile_at("08:00:00")), (0, 1));
    world.end_all(ExecutionOutcome::Completed);
    world.schedule.spec.time_zone = Some("Europe/London".into());
    assert_eq!((world.reconcile_at("08:30:00"), world.reconcile_at("09:00:00")), (0, 1));
    assert_eq!(world.created.len(), 2);
}

#[test]
fn clock_steps_back_without_repetition() {
    let mut world = LeaderSimulation::new("*/10 * * * *", |_| {});
    assert_eq!(
        (
            world.reconcile_at("00:10:00"),
            world.reconcile_at("00:05:00"),
            world.reconcile_at("00:10:00")
        ),
        (1, 0, 0)
    );
    world.end_all(ExecutionOutcome::Completed);
    assert_eq!(world.reconcile_at("00:20:00"), 1);
    // After a larger step nothing is repeated, and the next execution does not wait until the clock
    // has caught up.
    world.end_all(ExecutionOutcome::Completed);
    assert_eq!(world.reconcile_at("05:00:00"), 1);
    world.end_all(ExecutionOutcome::Completed);
    assert_eq!(
        (
            world.reconcile_at("00:15:00"),
            world.reconcile_at("00:20:00"),
            world.reconcile_at("00:30:00")
        ),
        (0, 0, 1)
    );
    assert!(world.created.values().all(|many| *many == 1));
}

#[test]
fn manual_executions_follow_the_overlap_policy() {
    let mut world = LeaderSimulation::new("0 0 1 1 *", |_| {});
    world.reconcile_at("00:01:00");
    let made = ExecutionOrigin { scheduled_at: at("00:02:00"), trigger: Trigger::Manual };
    let run = |outcome| ExecutionTask {
        task: "by-hand".into(),
        origin: made.clone(),
        created: at("00:02:00"),
        outcome,
        cancelling: false,
        started: None,
        ended: None,
        message: None,
    };
    world.runs.insert("by-hand".into(), run(ExecutionOutcome::Active));
    world.reconcile_at("00:02:01");
    assert_eq!(world.statuses(), ["running"]);
    assert_eq!(world.schedule.status.as_ref().unwrap().executions[0].trigger, Trigger::Manual);
    let (open, ended) = ([run(ExecutionOutcome::Active)], [run(ExecutionOutcome::Completed)]);
    assert_eq!(decide_manual(OverlapPolicy::Skip, &ended, false), ManualDecision::Start);
    assert_eq!(decide_manual(OverlapPolicy::Allow, &open, false), ManualDecision::Start);
    assert_eq!(
        decide_manual(OverlapPolicy::Skip, &open, false),
        ManualDecision::Refuse(vec!["by-hand".into()])
    );
    assert_eq!(
        decide_manual(OverlapPolicy::Queue, &open, false),
        ManualDecision::Queue(vec!["by-hand".into()])
    );
    assert_eq!(
        decide_manual(OverlapPolicy::Queue, &open, true),
        ManualDecision::Refuse(vec!["by-hand".into()])
    );
}

#[test]
fn history_limit_deletes_old_tasks() {
    let mut world = LeaderSimulation::new("* * * * *", |spec| spec.history_limit = 3);
    for minute in 1..30 {
        assert_eq!(world.reconcile_at(&format!("00:{minute:02}:00")), 1);
        world.end_all(ExecutionOutcome::Completed);
    }
    world.reconcile_at("00:29:30");
    assert_eq!((world.statuses().len(), world.runs.len()), (3, 3));
    assert_eq!(world.schedule.status.as_ref().unwrap().execution_count, 29);
}

/// The watch may still return a task that was deleted a moment ago.
#[test]
fn pruned_tasks_are_not_recorded_again() {
    let mut world = LeaderSimulation::new("* * * * *", |spec| spec.history_limit = 2);
    let mut ghosts = BTreeMap::new();
    for minute in 1..6 {
        world.reconcile_at(&format!("00:{minute:02}:00"));
        world.end_all(ExecutionOutcome::Completed);
        ghosts.extend(world.runs.clone());
        world.runs = ghosts.clone();
        world.reconcile_at(&format!("00:{minute:02}:30"));
    }
    assert_eq!((world.statuses(), world.runs.len()), (vec!["success"; 2], 2));
    assert_eq!(world.schedule.status.as_ref().unwrap().execution_count, 5);
}

#[test]
fn invalid_schedule_sets_the_ready_condition() {
    let mut world = LeaderSimulation::new("every day", |_| {});
    assert_eq!(world.reconcile_at("00:10:00"), 0);
    let condition = world.schedule.status.as_ref().unwrap().conditions[0].clone();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "Invalid"));
    world.schedule.spec.schedule = "*/5 * * * *".into();
    assert_eq!(
        (world.reconcile_at("00:14:00"), world.reconcile_at("00:15:00")),
        (0, 1),
        "times missed while invalid are not made up for"
    );
}

#[test]
fn deleted_task_is_recorded_as_failed() {
    let mut world = LeaderSimulation::new("*/10 * * * *", |_| {});
    world.reconcile_at("00:10:00");
    world.runs.clear();
    world.reconcile_at("00:10:30");
    assert_eq!(world.statuses(), ["running"], "the cache may not contain it yet");
    world.reconcile_at("00:11:01");
    assert_eq!(world.statuses(), ["failed"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Leaders fail between the creation of a task and the write of the status, clocks of leaders
    /// differ by seconds, and tasks end at any time. Every scheduled time during which a leader ran
    /// has one task, or a record of the reason why not.
    #[test]
    fn no_scheduled_time_runs_twice(
        policy in prop_oneof![Just(OverlapPolicy::Skip), Just(OverlapPolicy::Allow), Just(OverlapPolicy::Queue)],
        steps in prop::collection::vec((1..150i64, any::<bool>(), -20..20i64, any::<bool>()), 1..120),
    ) {
        let mut world = LeaderSimulation::new("*/2 * * * *", |spec| {
            spec.overlap_policy = policy;
            spec.history_limit = 100;
        });
        let mut true_time = world.now;
        for (seconds, crash, skew, end) in steps {
            true_time = true_time.checked_add(SignedDuration::from_secs(seconds)).unwrap();
            world.now = true_time.checked_add(SignedDuration::from_secs(skew)).unwrap();
            world.reconcile(crash);
            if end {
                world.end_all(ExecutionOutcome::Completed);
            }
            let at_work = world.runs.values().filter(|run| run.outcome == ExecutionOutcome::Active).count();
            prop_assert!(policy == OverlapPolicy::Allow || at_work <= 1, "{at_work} at work");
        }
        world.reconcile(false);
        prop_assert!(world.created.values().all(|many| *many == 1), "{:?}", world.created);
        let ticks: Vec<Timestamp> = world.runs.values().map(|run| run.origin.scheduled_at).collect();
        let distinct: BTreeSet<Timestamp> = ticks.iter().copied().collect();
        prop_assert_eq!(ticks.len(), distinct.len());
        let status = world.schedule.status.as_ref().unwrap();
        let recorded: Vec<&str> = status.executions.iter().filter_map(|run| run.task.as_deref()).collect();
        prop_assert_eq!(recorded.len(), world.runs.len(), "every task is in the history exactly once");
        let numbers: Vec<u32> = status.executions.iter().map(|run| run.number).collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a > b), "{numbers:?}");
    }
}
