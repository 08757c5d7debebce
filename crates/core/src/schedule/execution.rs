//! Executions of schedules: the tasks that a schedule has created.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::{ExecutionOrigin, ExecutionOutcome, ExecutionTask, creating_schedule};
use crate::task::{Phase, PrewarmTask};

/// Execution of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleExecution {
    /// UID of the schedule.
    pub schedule: String,
    /// State of the execution.
    pub facts: ExecutionTask,
}

/// Returns the execution that a task is, if a schedule has created it.
#[must_use]
pub fn execution_of(task: &PrewarmTask) -> Option<ScheduleExecution> {
    let (schedule, origin) = creating_schedule(task)?;
    Some(ScheduleExecution { schedule, facts: execution_facts(task, origin) })
}

fn execution_facts(task: &PrewarmTask, made: ExecutionOrigin) -> ExecutionTask {
    let status = task.status.clone().unwrap_or_default();
    let outcome = match status.phase {
        Phase::Completed => ExecutionOutcome::Completed,
        Phase::Failed => ExecutionOutcome::Failed,
        Phase::Cancelled => ExecutionOutcome::Cancelled,
        _ => ExecutionOutcome::Active,
    };
    let why = status.conditions.iter().find(|one| one.type_ == "Failed" && one.status == "True");
    ExecutionTask {
        task: task.name_any(),
        origin: made,
        created: task.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        outcome,
        cancelling: task.spec.cancel,
        started: status.start_time,
        ended: status.completion_time,
        message: why.map(|one| one.message.clone()),
    }
}
