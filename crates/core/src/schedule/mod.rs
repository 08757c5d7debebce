//! `PrewarmSchedule`: times of a cron expression, and the next action of a schedule.
//!
//! Inputs: a schedule, its tasks and the time. Outputs: the tasks to create, cancel and delete, and
//! the status. Each scheduled time has exactly one task with any number of replicas, because the
//! task's name is derived from the schedule and the time. May use `task`.

mod cron;
pub mod decide;
mod execution;
mod naming;

pub use prewarmer_api::schedule::*;

pub use self::{
    cron::{Cron, CronError, parse_time_zone},
    decide::{ExecutionOutcome, ExecutionTask, ManualDecision, decide_manual},
    execution::{ScheduleExecution, execution_of},
    naming::{ExecutionOrigin, build_task, creating_schedule, is_schedule, random_task_name},
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
        problems.push(FieldError::new("spec.timeZone", zone, &reason.to_string()));
    }
    if spec.schedule.len() > MAX_CRON {
        problems.push(FieldError::new(
            "spec.schedule",
            "",
            &format!("expected at most {MAX_CRON} characters"),
        ));
    } else if let Err(reason) = Cron::parse(&spec.schedule, "") {
        problems.push(FieldError::new("spec.schedule", &spec.schedule, &reason.to_string()));
    }
    let of_task = validate(&spec.task_template.spec).err().unwrap_or_default();
    problems.extend(of_task.into_iter().map(|problem| {
        let field = problem.field.replacen("spec.", "spec.taskTemplate.spec.", 1);
        FieldError { field, ..problem }
    }));
    problems
}
