//! `PrewarmSchedule`: creates tasks at the times of a cron expression.
//!
//! ```text
//!   schedules, their tasks, the clock -> decide (pure) -> run: creates, cancels and deletes tasks,
//!                                                         writes the status
//! ```
//!
//! Inputs: schedules and their tasks, from the catalog's stores. Outputs: `PrewarmTask`s, exactly
//! one for each scheduled time with any number of replicas: the task's name is derived from the
//! schedule and the time, and the status is written with the resource version that the decision was
//! based on. May use `store` and `task`.

mod cron;
mod decide;
mod naming;
mod resource;
mod run;

pub use self::{
    cron::{Cron, parse_time_zone},
    decide::{ExecutionOutcome, ExecutionTask, ManualDecision, decide_manual},
    naming::{
        ExecutionOrigin, SCHEDULED_AT_ANNOTATION, TRIGGER_ANNOTATION, build_task,
        creating_schedule, is_schedule, random_task_name,
    },
    resource::{
        Execution, ExecutionStatus, OverlapPolicy, PrewarmSchedule, PrewarmScheduleSpec,
        PrewarmScheduleStatus, QueuedRun, TaskTemplate, Trigger,
    },
    run::run,
};
use crate::task::{FieldError, validate::validate};

/// Longest cron expression, in characters.
const MAX_CRON: usize = 200;

/// Validates a spec. Returns every problem with its field.
#[must_use]
pub fn validate_spec(spec: &PrewarmScheduleSpec) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let zone = spec.time_zone.as_deref().unwrap_or_default();
    if let Err(reason) = parse_time_zone(zone) {
        problems.push(FieldError::new("spec.timeZone", zone, &reason));
    }
    if spec.schedule.len() > MAX_CRON {
        problems.push(FieldError::new(
            "spec.schedule",
            "",
            &format!("expected at most {MAX_CRON} characters"),
        ));
    } else if let Err(reason) = Cron::parse(&spec.schedule, "") {
        problems.push(FieldError::new("spec.schedule", &spec.schedule, &reason));
    }
    let of_task = validate(&spec.task_template.spec).err().unwrap_or_default();
    problems.extend(of_task.into_iter().map(|problem| {
        let field = problem.field.replacen("spec.", "spec.taskTemplate.spec.", 1);
        FieldError { field, ..problem }
    }));
    problems
}
