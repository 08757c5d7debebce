//! `PrewarmSchedule`: tasks at times of day.
//!
//! ```text
//!   schedules, their tasks, the clock  ->  decide (pure)  ->  run: creates, cancels and deletes tasks, writes the status
//! ```
//!
//! In: schedules and the tasks made for them, as the catalog knows them. Out:
//! `PrewarmTask`s, one for each tick however many replicas there are: a task's
//! name follows from the schedule and the tick, and the status is written with
//! the version that it was decided on. May call `catalog` and `task`.

mod cron;
mod decide;
mod naming;
mod resource;
mod run;

pub use self::{
    cron::{Cron, time_zone},
    decide::{Manual, Outcome, RunFacts, decide_manual},
    naming::{Made, TICK_ANNOTATION, TRIGGER_ANNOTATION, is_schedule, made_by, random_task_name, task_of},
    resource::{
        Execution, ExecutionStatus, OverlapPolicy, PrewarmSchedule, PrewarmScheduleSpec, PrewarmScheduleStatus,
        QueuedRun, TaskTemplate, Trigger,
    },
    run::run,
};
use crate::task::{Problem, validate::validate};

/// Longest text of a cron expression.
const MAX_CRON: usize = 200;

/// Reads the whole spec; every problem is named with its field.
#[must_use]
pub fn problems(spec: &PrewarmScheduleSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let zone = spec.time_zone.as_deref().unwrap_or_default();
    if let Err(reason) = time_zone(zone) {
        problems.push(Problem::new("spec.timeZone", zone, &reason));
    }
    if spec.schedule.len() > MAX_CRON {
        problems.push(Problem::new("spec.schedule", "", &format!("expected at most {MAX_CRON} characters")));
    } else if let Err(reason) = Cron::parse(&spec.schedule, "") {
        problems.push(Problem::new("spec.schedule", &spec.schedule, &reason));
    }
    let of_task = validate(&spec.task_template.spec).err().unwrap_or_default();
    problems.extend(of_task.into_iter().map(|problem| {
        let field = problem.field.replacen("spec.", "spec.taskTemplate.spec.", 1);
        Problem { field, ..problem }
    }));
    problems
}
