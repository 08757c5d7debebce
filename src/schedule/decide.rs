//! What is to be done for a schedule now. *Pure.*

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{
    Cron, Execution, ExecutionStatus, Made, OverlapPolicy, PrewarmSchedule, PrewarmScheduleStatus, QueuedRun, Trigger,
    naming::tick_task_name, problems,
};
use crate::task::Condition;

/// A clock that is behind what was done by more than this was wrong before: it is believed now. Less is waited for.
const CLOCK_STEP: SignedDuration = SignedDuration::from_mins(10);
/// A task that was made this long ago and is not known does not exist any more.
const UNSEEN: SignedDuration = SignedDuration::from_mins(1);
/// How far missed ticks are counted.
const MAX_MISSED: usize = 100;

/// What became of a run's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has not ended.
    Open,
    /// It completed.
    Completed,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// The task of a run, as far as its schedule needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFacts {
    /// Its name.
    pub task: String,
    /// How it came about.
    pub made: Made,
    /// When it was created.
    pub created: Timestamp,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether it is being cancelled.
    pub cancelling: bool,
    /// When it was begun, RFC 3339.
    pub started: Option<String>,
    /// When it ended, RFC 3339.
    pub ended: Option<String>,
    /// Why, where it did not complete.
    pub message: Option<String>,
}

/// What is to be done, and the status that is true when it is done.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decision {
    /// Tasks to be created.
    pub(super) start: Vec<(String, Made)>,
    /// Tasks to be cancelled, because they took too long.
    pub(super) cancel: Vec<String>,
    /// Tasks to be deleted, because they are not remembered any more.
    pub(super) forget: Vec<String>,
    /// The status.
    pub(super) status: PrewarmScheduleStatus,
    /// When to look again at the latest, without any news.
    pub(super) wake: Option<Timestamp>,
}

/// What becomes of a run that somebody asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Manual {
    /// It begins.
    Start,
    /// It waits for these.
    Queue(Vec<String>),
    /// It is refused, because of these.
    Refuse(Vec<String>),
}

/// What becomes of a run by hand.
#[must_use]
pub fn decide_manual(policy: OverlapPolicy, runs: &[RunFacts], queued: bool) -> Manual {
    let open: Vec<String> = open(runs).map(|run| run.task.clone()).collect();
    match policy {
        _ if open.is_empty() => Manual::Start,
        OverlapPolicy::Allow => Manual::Start,
        OverlapPolicy::Queue if !queued => Manual::Queue(open),
        OverlapPolicy::Skip | OverlapPolicy::Queue => Manual::Refuse(open),
    }
}

fn open(runs: &[RunFacts]) -> impl Iterator<Item = &RunFacts> {
    runs.iter().filter(|run| run.outcome == Outcome::Open)
}

fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// What is to be done now. `runs` are the tasks that exist.
pub(super) fn decide(schedule: &PrewarmSchedule, runs: &[RunFacts], now: Timestamp) -> Decision {
    let mut work = Work {
        schedule,
        now,
        status: schedule.status.clone().unwrap_or_default(),
        start: Vec::new(),
        active: open(runs).map(|run| run.task.clone()).collect(),
    };
    work.record(runs);
    let wrong = problems(&schedule.spec);
    let cron = Cron::parse(&schedule.spec.schedule, schedule.spec.time_zone.as_deref().unwrap_or_default());
    let cron = cron.ok().filter(|_| wrong.is_empty());
    work.observe(cron.is_some());
    work.dequeue();
    let next = cron.filter(|_| schedule.spec.enabled).and_then(|cron| {
        work.tick(&cron);
        cron.next(now)
    });
    let (cancel, expiry) = work.expired(runs);
    let forget = work.forget(runs);
    work.finish(next, wrong.first().map(ToString::to_string));
    let wake = [next, expiry].into_iter().flatten().min();
    Decision { start: work.start, cancel, forget, status: work.status, wake }
}

struct Work<'a> {
    schedule: &'a PrewarmSchedule,
    now: Timestamp,
    status: PrewarmScheduleStatus,
    start: Vec<(String, Made)>,
    active: BTreeSet<String>,
}

impl Work<'_> {
    /// Takes what became of the tasks into the history. A task that is not in it was made just before a crash, or by hand.
    fn record(&mut self, runs: &[RunFacts]) {
        let old = self.forgotten(runs);
        let is_new = |run: &&RunFacts| !self.knows(run) && !old.contains(&run.task);
        let mut news: Vec<&RunFacts> = runs.iter().filter(is_new).collect();
        news.sort_by_key(|run| (run.created, run.task.clone()));
        for run in news {
            // By name: a run that is triggered by hand may have the second of the one that waits for its end.
            if self.waiting().as_ref() == Some(&run.task) {
                self.status.queued = None;
            }
            if run.made.trigger == Trigger::Schedule {
                self.acted_on(run.made.tick);
            }
            self.add(&run.made, Some(run.task.clone()), ExecutionStatus::Running, None);
        }
        let by_task: BTreeMap<&str, &RunFacts> = runs.iter().map(|run| (run.task.as_str(), run)).collect();
        let limit = self.schedule.spec.timeout_seconds.map(|s| SignedDuration::from_secs(s.into()));
        let now = self.now;
        // What has ended is not judged again: not by another timeout either.
        for execution in self.status.executions.iter_mut().filter(|run| run.status == ExecutionStatus::Running) {
            let Some(task) = &execution.task else { continue };
            if let Some(run) = by_task.get(task.as_str()) {
                tell(execution, run, limit);
                continue;
            }
            let made = time(&execution.scheduled_time).unwrap_or(now);
            if now.duration_since(made) > UNSEEN {
                execution.status = ExecutionStatus::Failed;
                execution.completion_time = Some(seconds(now));
                execution.message = Some("the task was deleted".into());
            }
        }
    }

    fn knows(&self, run: &RunFacts) -> bool {
        self.status.executions.iter().any(|known| known.task.as_ref() == Some(&run.task))
    }

    /// Tasks that have ended, and are older than all that the history remembers: they are being deleted.
    fn forgotten(&self, runs: &[RunFacts]) -> BTreeSet<String> {
        let Some(oldest) = runs.iter().filter(|run| self.knows(run)).map(|run| run.created).min() else {
            return BTreeSet::new();
        };
        let left = runs.iter().filter(|run| run.outcome != Outcome::Open && run.created <= oldest && !self.knows(run));
        left.map(|run| run.task.clone()).collect()
    }

    fn add(&mut self, made: &Made, task: Option<String>, status: ExecutionStatus, message: Option<String>) {
        self.status.execution_count = self.status.execution_count.saturating_add(1);
        let ended = (status != ExecutionStatus::Running).then(|| seconds(self.now));
        self.status.executions.insert(
            0,
            Execution {
                number: self.status.execution_count,
                scheduled_time: made.tick.to_string(),
                trigger: made.trigger,
                task,
                status,
                start_time: None,
                completion_time: ended,
                message,
            },
        );
    }

    fn acted_on(&mut self, tick: Timestamp) {
        let last = self.status.last_schedule_time.as_deref().and_then(time);
        if last.is_none_or(|last| last < tick) {
            self.status.last_schedule_time = Some(seconds(tick));
        }
    }

    /// A schedule that is new, enabled again or given other times counts from now on: a new one from its creation.
    fn observe(&mut self, valid: bool) {
        let spec = &self.schedule.spec;
        let zone = spec.time_zone.as_deref().unwrap_or("UTC");
        let key = if spec.enabled && valid { format!("{} {zone}", spec.schedule) } else { String::new() };
        if self.status.observed_schedule.as_ref() != Some(&key) {
            let created = self.schedule.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let first = self.status.observed_schedule.is_none();
            let since = created.filter(|created| first && *created < self.now).unwrap_or(self.now);
            self.status.since = Some(seconds(since));
            self.status.observed_schedule = Some(key);
        }
    }

    /// The time after which ticks count.
    fn base(&mut self) -> Timestamp {
        let last = |text: &Option<String>| text.as_deref().and_then(time);
        let base = last(&self.status.last_schedule_time).max(last(&self.status.since)).unwrap_or(self.now);
        if base.duration_since(self.now) > CLOCK_STEP {
            self.status.since = Some(seconds(self.now));
            self.status.last_schedule_time = None;
            return self.now;
        }
        base
    }

    /// The task of the run that waits.
    fn waiting(&self) -> Option<String> {
        let queued = self.status.queued.as_ref()?;
        Some(self.task_of(time(&queued.scheduled_time)?, queued.trigger))
    }

    fn task_of(&self, tick: Timestamp, trigger: Trigger) -> String {
        tick_task_name(self.schedule.metadata.uid.as_deref().unwrap_or_default(), tick, trigger)
    }

    /// The run that waits begins when nothing is at work.
    fn dequeue(&mut self) {
        if !self.active.is_empty() {
            return;
        }
        let Some(queued) = self.status.queued.take() else { return };
        let tick = time(&queued.scheduled_time).unwrap_or(self.now);
        self.begin(Made { tick, trigger: queued.trigger });
    }

    fn begin(&mut self, made: Made) {
        let name = self.task_of(made.tick, made.trigger);
        self.active.insert(name.clone());
        self.add(&made, Some(name.clone()), ExecutionStatus::Running, None);
        self.start.push((name, made));
    }

    /// The last tick that has passed, if nobody has acted on it.
    fn tick(&mut self, cron: &Cron) {
        let base = self.base();
        let Some(tick) = cron.last(self.now).filter(|tick| *tick > base) else { return };
        self.missed(cron, base, tick);
        self.acted_on(tick);
        let text = tick.to_string();
        let done = |run: &Execution| run.trigger == Trigger::Schedule && run.scheduled_time == text;
        if self.status.executions.iter().any(done) {
            return;
        }
        let made = Made { tick, trigger: Trigger::Schedule };
        let late = self.now.duration_since(tick);
        if let Some(most) = self.schedule.spec.starting_deadline_seconds
            && late > SignedDuration::from_secs(most.into())
        {
            let why = format!("{} s late, and startingDeadlineSeconds is {most}", late.as_secs());
            return self.add(&made, None, ExecutionStatus::Skipped, Some(why));
        }
        let at_work = self.active.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.schedule.spec.overlap_policy {
            _ if self.active.is_empty() => self.begin(made),
            OverlapPolicy::Allow => self.begin(made),
            OverlapPolicy::Skip => {
                self.add(&made, None, ExecutionStatus::Skipped, Some(format!("{at_work} is still at work")));
            }
            OverlapPolicy::Queue if self.status.queued.is_none() => {
                self.status.queued = Some(QueuedRun { scheduled_time: text, trigger: Trigger::Schedule });
            }
            OverlapPolicy::Queue => {
                let why = format!("{at_work} is still at work, and another run waits already");
                self.add(&made, None, ExecutionStatus::Skipped, Some(why));
            }
        }
    }

    /// Of several ticks that passed while nobody was there, all but the last are recorded as one run that was skipped.
    fn missed(&mut self, cron: &Cron, base: Timestamp, tick: Timestamp) {
        let before = std::iter::successors(cron.next(base), |time| cron.next(*time));
        let missed: Vec<Timestamp> = before.take_while(|time| *time < tick).take(MAX_MISSED).collect();
        let (Some(first), Some(last)) = (missed.first(), missed.last()) else { return };
        let many = if missed.len() == MAX_MISSED { format!("{MAX_MISSED} or more") } else { missed.len().to_string() };
        let why = format!("{many} ticks from {first} on passed while nobody was there");
        self.add(&Made { tick: *last, trigger: Trigger::Schedule }, None, ExecutionStatus::Skipped, Some(why));
    }

    /// The tasks that take too long, and when the next one will.
    fn expired(&self, runs: &[RunFacts]) -> (Vec<String>, Option<Timestamp>) {
        let Some(limit) = self.schedule.spec.timeout_seconds else { return (Vec::new(), None) };
        let limit = SignedDuration::from_secs(limit.into());
        let end = |run: &RunFacts| run.created.checked_add(limit).unwrap_or(Timestamp::MAX);
        let waiting = || open(runs).filter(|run| !run.cancelling);
        let over = waiting().filter(|run| end(run) <= self.now).map(|run| run.task.clone()).collect();
        (over, waiting().map(end).filter(|end| *end > self.now).min())
    }

    /// Shortens the history; the tasks of what is left out go too.
    fn forget(&mut self, runs: &[RunFacts]) -> Vec<String> {
        let (mut kept, limit) = (0, self.schedule.spec.history_limit.max(1));
        let mut gone = self.forgotten(runs);
        self.status.executions.retain(|run| {
            if run.status == ExecutionStatus::Running {
                return true;
            }
            kept = u32::saturating_add(kept, 1);
            if kept > limit {
                gone.extend(run.task.clone());
            }
            kept <= limit
        });
        runs.iter().map(|run| run.task.clone()).filter(|task| gone.contains(task)).collect()
    }

    fn finish(&mut self, next: Option<Timestamp>, wrong: Option<String>) {
        let status = &mut self.status;
        status.next_schedule_time = next.map(seconds);
        status.active = self.active.iter().cloned().collect();
        status.observed_generation = self.schedule.metadata.generation;
        let (ready, reason, message) = match wrong {
            Some(wrong) => ("False", "Invalid", wrong),
            None if self.schedule.spec.enabled => ("True", "Scheduled", String::new()),
            None => ("True", "NotEnabled", "enabled is false: there are no runs".into()),
        };
        let old = status.conditions.iter().find(|known| known.type_ == "Ready" && known.status == ready);
        status.conditions = vec![Condition {
            type_: "Ready".into(),
            status: ready.into(),
            last_transition_time: old.map_or_else(|| seconds(self.now), |known| known.last_transition_time.clone()),
            reason: reason.into(),
            message,
            observed_generation: self.schedule.metadata.generation,
        }];
    }
}

fn tell(execution: &mut Execution, run: &RunFacts, limit: Option<SignedDuration>) {
    let took = run.ended.as_deref().and_then(time).map(|end| end.duration_since(run.created));
    let late = limit.is_some_and(|limit| took.is_some_and(|took| took >= limit));
    execution.start_time.clone_from(&run.started);
    execution.completion_time.clone_from(&run.ended);
    (execution.status, execution.message) = match run.outcome {
        Outcome::Open => (ExecutionStatus::Running, None),
        Outcome::Completed => (ExecutionStatus::Success, None),
        Outcome::Cancelled if late => (ExecutionStatus::Timeout, Some("longer than timeoutSeconds".into())),
        Outcome::Failed | Outcome::Cancelled => (ExecutionStatus::Failed, run.message.clone()),
    };
}

#[cfg(test)]
mod tests;
