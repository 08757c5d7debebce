//! Schedules under a clock that the tests set.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::*;
use crate::{schedule::PrewarmScheduleSpec, task::PrewarmTaskSpec};

/// A schedule, its tasks and a clock: what a leader does, without a cluster.
struct World {
    schedule: PrewarmSchedule,
    runs: BTreeMap<String, RunFacts>,
    now: Timestamp,
    /// How often a task was created, by name.
    created: HashMap<String, u32>,
}

fn at(text: &str) -> Timestamp {
    format!("2026-11-21T{text}Z").parse().unwrap()
}

impl World {
    fn new(cron: &str, change: impl FnOnce(&mut PrewarmScheduleSpec)) -> Self {
        let mut spec = PrewarmScheduleSpec::new(cron.into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
        change(&mut spec);
        let mut schedule = PrewarmSchedule::new("s", spec);
        schedule.metadata.uid = Some("uid".into());
        schedule.metadata.creation_timestamp = Some(Time(at("00:00:00")));
        Self { schedule, runs: BTreeMap::new(), now: at("00:00:00"), created: HashMap::new() }
    }

    /// Creates and deletes; the status is lost where `crash` says so.
    fn look(&mut self, crash: bool) -> Vec<String> {
        let runs: Vec<RunFacts> = self.runs.values().cloned().collect();
        let decision = decide(&self.schedule, &runs, self.now);
        for (name, made) in &decision.start {
            // The API server has one object of a name.
            if !self.runs.contains_key(name) {
                *self.created.entry(name.clone()).or_default() += 1;
                let run = RunFacts {
                    task: name.clone(),
                    made: made.clone(),
                    created: self.now,
                    outcome: Outcome::Open,
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
        for name in &decision.forget {
            self.runs.remove(name);
        }
        if !crash {
            self.schedule.status = Some(decision.status);
        }
        decision.start.into_iter().map(|(name, _)| name).collect()
    }

    fn go(&mut self, time: &str) -> usize {
        self.now = at(time);
        self.look(false).len()
    }

    fn end(&mut self, name: &str, outcome: Outcome) {
        let run = self.runs.get_mut(name).unwrap();
        (run.outcome, run.ended) = (outcome, Some(self.now.to_string()));
    }

    fn end_all(&mut self, outcome: Outcome) {
        let names: Vec<String> = self.runs.keys().cloned().collect();
        for name in names.iter().filter(|name| self.runs[*name].outcome == Outcome::Open).cloned().collect::<Vec<_>>() {
            self.end(&name, outcome);
        }
    }

    fn statuses(&self) -> Vec<&'static str> {
        let status = self.schedule.status.as_ref().unwrap();
        status.executions.iter().rev().map(|run| run.status.as_str()).collect()
    }
}

#[test]
fn each_tick_runs_once() {
    let mut world = World::new("*/10 * * * *", |_| {});
    assert_eq!(world.go("00:00:01"), 0, "created after that tick");
    assert_eq!(world.go("00:09:59"), 0);
    assert_eq!(world.go("00:10:00"), 1);
    assert_eq!(world.go("00:10:01"), 0);
    world.end_all(Outcome::Completed);
    assert_eq!(world.go("00:20:03"), 1);
    assert_eq!(world.statuses(), ["success", "running"]);
    let status = world.schedule.status.as_ref().unwrap();
    assert_eq!(status.next_schedule_time.as_deref(), Some("2026-11-21T00:30:00Z"));
    assert_eq!((status.active.len(), status.executions[0].number), (1, 2));
}

#[test]
fn skip() {
    let mut world = World::new("*/10 * * * *", |_| {});
    assert_eq!(world.go("00:10:00"), 1);
    assert_eq!((world.go("00:20:00"), world.go("00:20:09")), (0, 0));
    world.end_all(Outcome::Failed);
    assert_eq!(world.go("00:30:00"), 1);
    assert_eq!(world.statuses(), ["failed", "skipped", "running"]);
}

#[test]
fn allow() {
    let mut world = World::new("*/10 * * * *", |spec| spec.overlap_policy = OverlapPolicy::Allow);
    assert_eq!((world.go("00:10:00"), world.go("00:20:00"), world.go("00:30:00")), (1, 1, 1));
    assert_eq!(world.statuses(), ["running"; 3]);
}

#[test]
fn queue_holds_one() {
    let mut world = World::new("*/10 * * * *", |spec| spec.overlap_policy = OverlapPolicy::Queue);
    assert_eq!((world.go("00:10:00"), world.go("00:20:00"), world.go("00:30:00")), (1, 0, 0));
    assert_eq!(world.statuses(), ["running", "skipped"]);
    assert!(world.schedule.status.as_ref().unwrap().queued.is_some());
    world.end_all(Outcome::Completed);
    world.now = at("00:31:00");
    let begun = world.look(false);
    assert!(begun[0].starts_with("task-20261121-002000-"), "the tick that waited: {begun:?}");
    assert!(world.schedule.status.as_ref().unwrap().queued.is_none());
    // A run that waits and a tick at the same moment: the one begins, the other waits.
    assert_eq!(world.go("00:40:00"), 0);
    world.end_all(Outcome::Completed);
    assert_eq!(world.go("00:50:00"), 1);
    assert!(world.schedule.status.as_ref().unwrap().queued.is_some());
}

/// Two triggers within one second: the first begins, the second waits, and both have the same time and trigger.
#[test]
fn what_waits_is_not_taken_for_the_run_of_the_same_second() {
    let mut world = World::new("@yearly", |spec| spec.overlap_policy = OverlapPolicy::Queue);
    world.go("10:00:00");
    let made = Made { tick: at("10:00:00"), trigger: Trigger::Manual };
    let first = RunFacts {
        task: "by-hand".into(),
        made: made.clone(),
        created: world.now,
        outcome: Outcome::Open,
        cancelling: false,
        started: None,
        ended: None,
        message: None,
    };
    world.runs.insert(first.task.clone(), first);
    let queued = QueuedRun { scheduled_time: made.tick.to_string(), trigger: made.trigger };
    world.schedule.status.as_mut().unwrap().queued = Some(queued);
    assert_eq!(world.go("10:00:01"), 0);
    assert!(world.schedule.status.as_ref().unwrap().queued.is_some(), "it waits");
    world.end_all(Outcome::Completed);
    assert_eq!(world.go("10:00:02"), 1, "it begins when the first has ended");
    assert_eq!(world.statuses(), ["success", "running"]);
}

#[test]
fn too_long() {
    let mut world = World::new("*/10 * * * *", |spec| spec.timeout_seconds = Some(60));
    assert_eq!(world.go("00:10:00"), 1);
    let runs: Vec<RunFacts> = world.runs.values().cloned().collect();
    assert_eq!(decide(&world.schedule, &runs, at("00:10:30")).wake, Some(at("00:11:00")));
    world.go("00:11:00");
    assert!(world.runs.values().all(|run| run.cancelling));
    world.end_all(Outcome::Cancelled);
    world.go("00:11:05");
    assert_eq!(world.statuses(), ["timeout"]);
}

#[test]
fn cancelled_by_somebody_is_no_timeout() {
    let mut world = World::new("*/10 * * * *", |spec| spec.timeout_seconds = Some(60));
    world.go("00:10:00");
    world.now = at("00:10:20");
    world.end_all(Outcome::Cancelled);
    world.go("00:10:21");
    assert_eq!(world.statuses(), ["failed"]);
    world.schedule.spec.timeout_seconds = Some(1);
    world.go("00:10:30");
    assert_eq!(world.statuses(), ["failed"], "history was judged anew");
}

#[test]
fn after_downtime_the_last_tick_is_made_up_for() {
    let mut world = World::new("*/10 * * * *", |_| {});
    world.go("00:10:00");
    world.end_all(Outcome::Completed);
    world.now = at("03:05:00");
    let begun = world.look(false);
    assert!(begun.len() == 1 && begun[0].starts_with("task-20261121-030000-"), "{begun:?}");
    assert_eq!(world.statuses(), ["success", "skipped", "running"]);
    let status = world.schedule.status.as_ref().unwrap();
    assert!(status.executions[1].message.as_ref().unwrap().starts_with("16 ticks from 2026-11-21T00:20:00Z"));
}

#[test]
fn after_downtime_a_tick_may_be_too_late() {
    let mut world = World::new("0 * * * *", |spec| spec.starting_deadline_seconds = Some(120));
    assert_eq!(world.go("01:02:00"), 1, "two minutes late is in time");
    world.end_all(Outcome::Completed);
    assert_eq!((world.go("02:02:01"), world.go("02:30:00")), (0, 0));
    assert_eq!(world.statuses(), ["success", "skipped"]);
}

#[test]
fn what_passes_while_not_enabled_is_not_made_up_for() {
    let mut world = World::new("*/10 * * * *", |spec| spec.enabled = false);
    assert_eq!(world.go("00:10:00"), 0);
    world.schedule.spec.enabled = true;
    assert_eq!((world.go("00:29:00"), world.go("00:30:00")), (0, 1));
    // Nor what other times would have had in the past.
    world.end_all(Outcome::Completed);
    world.schedule.spec.schedule = "*/7 * * * *".into();
    assert_eq!((world.go("00:36:00"), world.go("00:42:00")), (0, 1));
    // But a change of something else loses no tick.
    world.end_all(Outcome::Completed);
    world.schedule.spec.history_limit = 3;
    assert_eq!(world.go("00:49:10"), 1);
}

#[test]
fn another_time_zone() {
    let mut world = World::new("0 9 * * *", |spec| spec.time_zone = Some("Europe/Berlin".into()));
    assert_eq!((world.go("07:59:00"), world.go("08:00:00")), (0, 1));
    world.end_all(Outcome::Completed);
    world.schedule.spec.time_zone = Some("Europe/London".into());
    assert_eq!((world.go("08:30:00"), world.go("09:00:00")), (0, 1));
    assert_eq!(world.created.len(), 2);
}

#[test]
fn a_clock_that_steps_back_repeats_nothing() {
    let mut world = World::new("*/10 * * * *", |_| {});
    assert_eq!((world.go("00:10:00"), world.go("00:05:00"), world.go("00:10:00")), (1, 0, 0));
    world.end_all(Outcome::Completed);
    assert_eq!(world.go("00:20:00"), 1);
    // By more than a moment: what was run stays run, and what comes next is not held up until the clock has caught up.
    world.end_all(Outcome::Completed);
    assert_eq!(world.go("05:00:00"), 1);
    world.end_all(Outcome::Completed);
    assert_eq!((world.go("00:15:00"), world.go("00:20:00"), world.go("00:30:00")), (0, 0, 1));
    assert!(world.created.values().all(|many| *many == 1));
}

#[test]
fn runs_by_hand() {
    let mut world = World::new("0 0 1 1 *", |_| {});
    world.go("00:01:00");
    let made = Made { tick: at("00:02:00"), trigger: Trigger::Manual };
    let run = |outcome| RunFacts {
        task: "by-hand".into(),
        made: made.clone(),
        created: at("00:02:00"),
        outcome,
        cancelling: false,
        started: None,
        ended: None,
        message: None,
    };
    world.runs.insert("by-hand".into(), run(Outcome::Open));
    world.go("00:02:01");
    assert_eq!(world.statuses(), ["running"]);
    assert_eq!(world.schedule.status.as_ref().unwrap().executions[0].trigger, Trigger::Manual);
    let (open, ended) = ([run(Outcome::Open)], [run(Outcome::Completed)]);
    assert_eq!(decide_manual(OverlapPolicy::Skip, &ended, false), Manual::Start);
    assert_eq!(decide_manual(OverlapPolicy::Allow, &open, false), Manual::Start);
    assert_eq!(decide_manual(OverlapPolicy::Skip, &open, false), Manual::Refuse(vec!["by-hand".into()]));
    assert_eq!(decide_manual(OverlapPolicy::Queue, &open, false), Manual::Queue(vec!["by-hand".into()]));
    assert_eq!(decide_manual(OverlapPolicy::Queue, &open, true), Manual::Refuse(vec!["by-hand".into()]));
}

#[test]
fn history_is_bounded_and_tasks_go_with_it() {
    let mut world = World::new("* * * * *", |spec| spec.history_limit = 3);
    for minute in 1..30 {
        assert_eq!(world.go(&format!("00:{minute:02}:00")), 1);
        world.end_all(Outcome::Completed);
    }
    world.go("00:29:30");
    assert_eq!((world.statuses().len(), world.runs.len()), (3, 3));
    assert_eq!(world.schedule.status.as_ref().unwrap().execution_count, 29);
}

/// The watch may still show what was deleted a moment ago.
#[test]
fn what_was_forgotten_is_not_taken_for_news() {
    let mut world = World::new("* * * * *", |spec| spec.history_limit = 2);
    let mut ghosts = BTreeMap::new();
    for minute in 1..6 {
        world.go(&format!("00:{minute:02}:00"));
        world.end_all(Outcome::Completed);
        ghosts.extend(world.runs.clone());
        world.runs = ghosts.clone();
        world.go(&format!("00:{minute:02}:30"));
    }
    assert_eq!((world.statuses(), world.runs.len()), (vec!["success"; 2], 2));
    assert_eq!(world.schedule.status.as_ref().unwrap().execution_count, 5);
}

#[test]
fn what_cannot_be_worked_by_is_said() {
    let mut world = World::new("every day", |_| {});
    assert_eq!(world.go("00:10:00"), 0);
    let condition = world.schedule.status.as_ref().unwrap().conditions[0].clone();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "Invalid"));
    world.schedule.spec.schedule = "*/5 * * * *".into();
    assert_eq!((world.go("00:14:00"), world.go("00:15:00")), (0, 1), "what was missed meanwhile is not made up for");
}

#[test]
fn a_task_that_was_deleted_is_recorded() {
    let mut world = World::new("*/10 * * * *", |_| {});
    world.go("00:10:00");
    world.runs.clear();
    world.go("00:10:30");
    assert_eq!(world.statuses(), ["running"], "perhaps it is not seen yet");
    world.go("00:11:01");
    assert_eq!(world.statuses(), ["failed"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Leaders die between creating a task and writing it down; clocks of different leaders differ by seconds; tasks end
    /// whenever they want: every tick that somebody was there for has one task, or a record of why not.
    #[test]
    fn no_tick_runs_twice(
        policy in prop_oneof![Just(OverlapPolicy::Skip), Just(OverlapPolicy::Allow), Just(OverlapPolicy::Queue)],
        steps in prop::collection::vec((1..150i64, any::<bool>(), -20..20i64, any::<bool>()), 1..120),
    ) {
        let mut world = World::new("*/2 * * * *", |spec| {
            spec.overlap_policy = policy;
            spec.history_limit = 100;
        });
        let mut true_time = world.now;
        for (seconds, crash, skew, end) in steps {
            true_time = true_time.checked_add(SignedDuration::from_secs(seconds)).unwrap();
            world.now = true_time.checked_add(SignedDuration::from_secs(skew)).unwrap();
            world.look(crash);
            if end {
                world.end_all(Outcome::Completed);
            }
            let at_work = world.runs.values().filter(|run| run.outcome == Outcome::Open).count();
            prop_assert!(policy == OverlapPolicy::Allow || at_work <= 1, "{at_work} at work");
        }
        world.look(false);
        prop_assert!(world.created.values().all(|many| *many == 1), "{:?}", world.created);
        let ticks: Vec<Timestamp> = world.runs.values().map(|run| run.made.tick).collect();
        let distinct: BTreeSet<Timestamp> = ticks.iter().copied().collect();
        prop_assert_eq!(ticks.len(), distinct.len());
        let status = world.schedule.status.as_ref().unwrap();
        let recorded: Vec<&str> = status.executions.iter().filter_map(|run| run.task.as_deref()).collect();
        prop_assert_eq!(recorded.len(), world.runs.len(), "every task is in the history, once");
        let numbers: Vec<u32> = status.executions.iter().map(|run| run.number).collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a > b), "{numbers:?}");
    }
}
