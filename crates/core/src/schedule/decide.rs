//! Decision of what to do for a schedule at a given time. Pure: no client, no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{
    Cron, Execution, ExecutionOrigin, ExecutionStatus, OverlapPolicy, PrewarmSchedule,
    PrewarmScheduleStatus, QueuedRun, Trigger, naming::scheduled_task_name, validate_spec,
};
use crate::{task::Condition, timestamp};

/// Largest backward step of the clock that is waited out. With a larger step the earlier clock is
/// considered wrong, and the current one is trusted.
const MAX_CLOCK_STEP: SignedDuration = SignedDuration::from_mins(10);
/// Age after which a task that is not in the cache is considered deleted.
const MISSING_TASK_TIMEOUT: SignedDuration = SignedDuration::from_mins(1);
/// Largest number of missed scheduled times that are counted.
const MAX_MISSED: usize = 100;

/// Outcome of the task of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionOutcome {
    /// The task has not ended.
    Active,
    /// The task completed.
    Completed,
    /// The task failed.
    Failed,
    /// The task was cancelled.
    Cancelled,
}

/// Task of an execution, reduced to what its schedule needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionTask {
    /// Name of the task.
    pub task: String,
    /// Scheduled time and origin.
    pub origin: ExecutionOrigin,
    /// Creation time.
    pub created: Timestamp,
    /// Outcome of the task.
    pub outcome: ExecutionOutcome,
    /// True while the task is being cancelled.
    pub cancelling: bool,
    /// Start time, RFC 3339.
    pub started: Option<String>,
    /// End time, RFC 3339.
    pub ended: Option<String>,
    /// Reason where the task did not complete.
    pub message: Option<String>,
}

/// Actions for a schedule, and its status once they are done.
#[derive(Debug, Default, PartialEq)]
pub struct ScheduleDecision {
    /// Tasks to create.
    pub start: Vec<(String, ExecutionOrigin)>,
    /// Tasks to cancel, because they exceeded `timeoutSeconds`.
    pub cancel: Vec<String>,
    /// Tasks to delete, because the history does not contain them any more.
    pub delete: Vec<String>,
    /// Status to write.
    pub status: PrewarmScheduleStatus,
    /// Latest time of the next reconcile, without any watch event.
    pub next_reconcile: Option<Timestamp>,
}

/// Handling of a manual execution.
#[derive(Debug, PartialEq, Eq)]
pub enum ManualDecision {
    /// The execution starts.
    Start,
    /// The execution waits for these tasks.
    Queue(Vec<String>),
    /// The execution is refused because of these tasks.
    Refuse(Vec<String>),
}

/// Decides about a manual execution. `queued`: whether an execution is already waiting.
#[must_use]
pub fn decide_manual(
    policy: OverlapPolicy,
    runs: &[ExecutionTask],
    queued: bool,
) -> ManualDecision {
    let open: Vec<String> = active_tasks(runs).map(|run| run.task.clone()).collect();
    match policy {
        _ if open.is_empty() => ManualDecision::Start,
        OverlapPolicy::Allow => ManualDecision::Start,
        OverlapPolicy::Queue if !queued => ManualDecision::Queue(open),
        OverlapPolicy::Skip | OverlapPolicy::Queue => ManualDecision::Refuse(open),
    }
}

fn active_tasks(runs: &[ExecutionTask]) -> impl Iterator<Item = &ExecutionTask> {
    runs.iter().filter(|run| run.outcome == ExecutionOutcome::Active)
}

/// Decides what to do now. `runs` are the existing tasks of the schedule.
pub fn decide(
    schedule: &PrewarmSchedule,
    runs: &[ExecutionTask],
    now: Timestamp,
) -> ScheduleDecision {
    let mut work = DecisionBuilder {
        schedule,
        now,
        status: schedule.status.clone().unwrap_or_default(),
        start: Vec::new(),
        active: active_tasks(runs).map(|run| run.task.clone()).collect(),
    };
    work.update_history(runs);
    let wrong = validate_spec(&schedule.spec);
    let cron = Cron::parse(
        &schedule.spec.schedule,
        schedule.spec.time_zone.as_deref().unwrap_or_default(),
    );
    let cron = cron.ok().filter(|_| wrong.is_empty());
    work.observe_spec(cron.is_some());
    work.dequeue();
    let next = cron.filter(|_| schedule.spec.enabled).and_then(|cron| {
        work.handle_scheduled_time(&cron);
        cron.next_time(now)
    });
    let (cancel, expiry) = work.timed_out_tasks(runs);
    let forget = work.prune_history(runs);
    work.finish_status(next, wrong.first().map(ToString::to_string));
    let wake = [next, expiry].into_iter().flatten().min();
    ScheduleDecision {
        start: work.start,
        cancel,
        delete: forget,
        status: work.status,
        next_reconcile: wake,
    }
}

struct DecisionBuilder<'a> {
    schedule: &'a PrewarmSchedule,
    now: Timestamp,
    status: PrewarmScheduleStatus,
    start: Vec<(String, ExecutionOrigin)>,
    active: BTreeSet<String>,
}

impl DecisionBuilder<'_> {
    /// Updates the history from the tasks. A task that is not in the history was created just
    /// before a crash, or by a manual request.
    fn update_history(&mut self, runs: &[ExecutionTask]) {
        let old = self.pruned_tasks(runs);
        let is_new = |run: &&ExecutionTask| !self.is_in_history(run) && !old.contains(&run.task);
        let mut news: Vec<&ExecutionTask> = runs.iter().filter(is_new).collect();
        news.sort_by_key(|run| (run.created, run.task.clone()));
        for run in news {
            // Compared by name: a manual execution may have the same second as the one that waits
            // for its end.
            if self.queued_task().as_ref() == Some(&run.task) {
                self.status.queued = None;
            }
            if run.origin.trigger == Trigger::Schedule {
                self.mark_handled(run.origin.scheduled_at);
            }
            self.add_execution(&run.origin, Some(run.task.clone()), ExecutionStatus::Running, None);
        }
        let by_task: BTreeMap<&str, &ExecutionTask> =
            runs.iter().map(|run| (run.task.as_str(), run)).collect();
        let limit = self.schedule.spec.timeout_seconds.map(|s| SignedDuration::from_secs(s.into()));
        let now = self.now;
        // Ended executions are not evaluated again, even with another timeout.
        for execution in
            self.status.executions.iter_mut().filter(|run| run.status == ExecutionStatus::Running)
        {
            let Some(task) = &execution.task else { continue };
            if let Some(run) = by_task.get(task.as_str()) {
                update_execution(execution, run, limit);
                continue;
            }
            let made = timestamp::parse(&execution.scheduled_time).unwrap_or(now);
            if now.duration_since(made) > MISSING_TASK_TIMEOUT {
                execution.status = ExecutionStatus::Failed;
                execution.completion_time = Some(timestamp::format(now));
                execution.message = Some("the task was deleted".into());
            }
        }
    }

    fn is_in_history(&self, run: &ExecutionTask) -> bool {
        self.status.executions.iter().any(|known| known.task.as_ref() == Some(&run.task))
    }

    /// Returns tasks that have ended and are older than the whole history: they are being deleted.
    fn pruned_tasks(&self, runs: &[ExecutionTask]) -> BTreeSet<String> {
        let Some(oldest) =
            runs.iter().filter(|run| self.is_in_history(run)).map(|run| run.created).min()
        else {
            return BTreeSet::new();
        };
        let left = runs.iter().filter(|run| {
            run.outcome != ExecutionOutcome::Active
                && run.created <= oldest
                && !self.is_in_history(run)
        });
        left.map(|run| run.task.clone()).collect()
    }

    fn add_execution(
        &mut self,
        made: &ExecutionOrigin,
        task: Option<String>,
        status: ExecutionStatus,
        message: Option<String>,
    ) {
        self.status.execution_count = self.status.execution_count.saturating_add(1);
        let ended = (status != ExecutionStatus::Running).then(|| timestamp::format(self.now));
        self.status.executions.insert(
            0,
            Execution {
                number: self.status.execution_count,
                scheduled_time: timestamp::format(made.scheduled_at),
                trigger: made.trigger,
                task,
                status,
                start_time: None,
                completion_time: ended,
                message,
            },
        );
    }

    fn mark_handled(&mut self, tick: Timestamp) {
        let last = self.status.last_schedule_time.as_deref().and_then(timestamp::parse);
        if last.is_none_or(|last| last < tick) {
            self.status.last_schedule_time = Some(timestamp::format(tick));
        }
    }

    /// Records since when the schedule is in effect: a new one since its creation; one that was
    /// enabled or got another expression or time zone, since now.
    fn observe_spec(&mut self, valid: bool) {
        let spec = &self.schedule.spec;
        let zone = spec.time_zone.as_deref().unwrap_or("UTC");
        let key =
            if spec.enabled && valid { format!("{} {zone}", spec.schedule) } else { String::new() };
        if self.status.observed_schedule.as_ref() != Some(&key) {
            let created = self.schedule.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let first = self.status.observed_schedule.is_none();
            let since = created.filter(|created| first && *created < self.now).unwrap_or(self.now);
            self.status.since = Some(timestamp::format(since));
            self.status.observed_schedule = Some(key);
        }
    }

    /// Returns the time after which scheduled times are handled.
    fn handled_until(&mut self) -> Timestamp {
        let last = |text: &Option<String>| text.as_deref().and_then(timestamp::parse);
        let base =
            last(&self.status.last_schedule_time).max(last(&self.status.since)).unwrap_or(self.now);
        if base.duration_since(self.now) > MAX_CLOCK_STEP {
            self.status.since = Some(timestamp::format(self.now));
            self.status.last_schedule_time = None;
            return self.now;
        }
        base
    }

    /// Returns the task of the waiting execution.
    fn queued_task(&self) -> Option<String> {
        let queued = self.status.queued.as_ref()?;
        Some(self.task_name(timestamp::parse(&queued.scheduled_time)?, queued.trigger))
    }

    fn task_name(&self, tick: Timestamp, trigger: Trigger) -> String {
        scheduled_task_name(
            self.schedule.metadata.uid.as_deref().unwrap_or_default(),
            tick,
            trigger,
        )
    }

    /// Starts the waiting execution when no other is running.
    fn dequeue(&mut self) {
        if !self.active.is_empty() {
            return;
        }
        let Some(queued) = self.status.queued.take() else { return };
        let tick = timestamp::parse(&queued.scheduled_time).unwrap_or(self.now);
        self.start_execution(ExecutionOrigin { scheduled_at: tick, trigger: queued.trigger });
    }

    fn start_execution(&mut self, made: ExecutionOrigin) {
        let name = self.task_name(made.scheduled_at, made.trigger);
        self.active.insert(name.clone());
        self.add_execution(&made, Some(name.clone()), ExecutionStatus::Running, None);
        self.start.push((name, made));
    }

    /// Handles the last scheduled time that has passed, unless it was handled before.
    fn handle_scheduled_time(&mut self, cron: &Cron) {
        let base = self.handled_until();
        let Some(tick) = cron.previous(self.now).filter(|tick| *tick > base) else { return };
        self.record_missed(cron, base, tick);
        self.mark_handled(tick);
        let text = timestamp::format(tick);
        let done = |run: &Execution| run.trigger == Trigger::Schedule && run.scheduled_time == text;
        if self.status.executions.iter().any(done) {
            return;
        }
        let made = ExecutionOrigin { scheduled_at: tick, trigger: Trigger::Schedule };
        let late = self.now.duration_since(tick);
        if let Some(most) = self.schedule.spec.starting_deadline_seconds
            && late > SignedDuration::from_secs(most.into())
        {
            let why = format!("{} s late; startingDeadlineSeconds is {most}", late.as_secs());
            return self.add_execution(&made, None, ExecutionStatus::Skipped, Some(why));
        }
        let at_work = self.active.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.schedule.spec.overlap_policy {
            _ if self.active.is_empty() => self.start_execution(made),
            OverlapPolicy::Allow => self.start_execution(made),
            OverlapPolicy::Skip => {
                self.add_execution(
                    &made,
                    None,
                    ExecutionStatus::Skipped,
                    Some(format!("still running: {at_work}")),
                );
            }
            OverlapPolicy::Queue if self.status.queued.is_none() => {
                self.status.queued =
                    Some(QueuedRun { scheduled_time: text, trigger: Trigger::Schedule });
            }
            OverlapPolicy::Queue => {
                let why = format!("still running: {at_work}; another execution is already waiting");
                self.add_execution(&made, None, ExecutionStatus::Skipped, Some(why));
            }
        }
    }

    /// Records all but the last of several missed scheduled times as one skipped execution.
    fn record_missed(&mut self, cron: &Cron, base: Timestamp, tick: Timestamp) {
        let before = std::iter::successors(cron.next_time(base), |time| cron.next_time(*time));
        let missed: Vec<Timestamp> =
            before.take_while(|time| *time < tick).take(MAX_MISSED).collect();
        let (Some(first), Some(last)) = (missed.first(), missed.last()) else { return };
        let many = if missed.len() == MAX_MISSED {
            format!("{MAX_MISSED} or more")
        } else {
            missed.len().to_string()
        };
        let why = format!(
            "{many} scheduled times since {first} were missed, because no leader was running"
        );
        self.add_execution(
            &ExecutionOrigin { scheduled_at: *last, trigger: Trigger::Schedule },
            None,
            ExecutionStatus::Skipped,
            Some(why),
        );
    }

    /// Returns the tasks that exceed `timeoutSeconds`, and the time at which the next one will.
    fn timed_out_tasks(&self, runs: &[ExecutionTask]) -> (Vec<String>, Option<Timestamp>) {
        let Some(limit) = self.schedule.spec.timeout_seconds else { return (Vec::new(), None) };
        let limit = SignedDuration::from_secs(limit.into());
        let end = |run: &ExecutionTask| run.created.checked_add(limit).unwrap_or(Timestamp::MAX);
        let waiting = || active_tasks(runs).filter(|run| !run.cancelling);
        let over =
            waiting().filter(|run| end(run) <= self.now).map(|run| run.task.clone()).collect();
        (over, waiting().map(end).filter(|end| *end > self.now).min())
    }

    /// Truncates the history. Returns the tasks of the removed executions.
    fn prune_history(&mut self, runs: &[ExecutionTask]) -> Vec<String> {
        let (mut kept, limit) = (0, self.schedule.spec.history_limit.max(1));
        let mut gone = self.pruned_tasks(runs);
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

    fn finish_status(&mut self, next: Option<Timestamp>, wrong: Option<String>) {
        let status = &mut self.status;
        status.next_schedule_time = next.map(timestamp::format);
        status.active = self.active.iter().cloned().collect();
        status.observed_generation = self.schedule.metadata.generation;
        let (ready, reason, message) = match wrong {
            Some(wrong) => ("False", "Invalid", wrong),
            None if self.schedule.spec.enabled => ("True", "Scheduled", String::new()),
            None => {
                ("True", "NotEnabled", "spec.enabled is false: no executions are started".into())
            }
        };
        let old =
            status.conditions.iter().find(|known| known.type_ == "Ready" && known.status == ready);
        status.conditions = vec![Condition {
            type_: "Ready".into(),
            status: ready.into(),
            last_transition_time: old.map_or_else(
                || timestamp::format(self.now),
                |known| known.last_transition_time.clone(),
            ),
            reason: reason.into(),
            message,
            observed_generation: self.schedule.metadata.generation,
        }];
    }
}

fn update_execution(execution: &mut Execution, run: &ExecutionTask, limit: Option<SignedDuration>) {
    let took =
        run.ended.as_deref().and_then(timestamp::parse).map(|end| end.duration_since(run.created));
    let late = limit.is_some_and(|limit| took.is_some_and(|took| took >= limit));
    execution.start_time.clone_from(&run.started);
    execution.completion_time.clone_from(&run.ended);
    (execution.status, execution.message) = match run.outcome {
        ExecutionOutcome::Active => (ExecutionStatus::Running, None),
        ExecutionOutcome::Completed => (ExecutionStatus::Success, None),
        ExecutionOutcome::Cancelled if late => {
            (ExecutionStatus::Timeout, Some("ran longer than timeoutSeconds".into()))
        }
        ExecutionOutcome::Failed | ExecutionOutcome::Cancelled => {
            (ExecutionStatus::Failed, run.message.clone())
        }
    };
}

#[cfg(test)]
mod tests;
