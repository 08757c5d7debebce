//! Names, labels and owner references that connect a task to its schedule and scheduled time. Pure:
//! no client, no clock, no I/O, except for random names.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use super::{PrewarmSchedule, Trigger};
use crate::{
    annotations::{SCHEDULED_AT_ANNOTATION, TRIGGER_ANNOTATION},
    labels::{MANAGED_BY, ORIGIN_LABEL},
    task::{PrewarmTask, PrewarmTaskSpec},
    timestamp,
};

/// Returns `task-YYYYMMDD-HHMMSS-` and eight digits, from a time in UTC.
fn task_name(time: Timestamp, digits: &str) -> String {
    format!("task-{}-{digits}", time.strftime("%Y%m%d-%H%M%S"))
}

/// Returns a task name with random digits.
#[must_use]
pub fn random_task_name(now: Timestamp) -> String {
    task_name(now, &format!("{:08x}", rand::random::<u32>()))
}

/// Returns the name of the task for a scheduled time, which is the same on every replica.
pub fn scheduled_task_name(schedule_uid: &str, tick: Timestamp, trigger: Trigger) -> String {
    let digest = Sha256::digest(format!("{schedule_uid}/{}/{trigger:?}", tick.as_second()));
    task_name(tick, &crate::hex(digest.get(..4).unwrap_or(&digest)))
}

/// Scheduled time and origin of an execution's task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionOrigin {
    /// Scheduled time, or the time of the request of a manual execution.
    pub scheduled_at: Timestamp,
    /// Origin of the execution.
    pub trigger: Trigger,
}

/// Returns the task of an execution.
#[must_use]
pub fn build_task(schedule: &PrewarmSchedule, name: &str, made: &ExecutionOrigin) -> PrewarmTask {
    let texts = |pairs: &[(&str, String)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
    };
    let trigger = if made.trigger == Trigger::Manual { "manual" } else { "schedule" };
    let owner = OwnerReference {
        api_version: PrewarmSchedule::api_version(&()).into_owned(),
        kind: PrewarmSchedule::kind(&()).into_owned(),
        name: schedule.name_any(),
        uid: schedule.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    PrewarmTask {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: schedule.namespace(),
            labels: Some(texts(&[
                (MANAGED_BY.0, MANAGED_BY.1.into()),
                (ORIGIN_LABEL, "schedule".into()),
            ])),
            annotations: Some(texts(&[
                (SCHEDULED_AT_ANNOTATION, timestamp::format(made.scheduled_at)),
                (TRIGGER_ANNOTATION, trigger.into()),
            ])),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        // The schedule's history already limits the number of ended tasks.
        spec: PrewarmTaskSpec {
            ttl_seconds_after_finished: None,
            ..schedule.spec.task_template.spec.clone()
        },
        status: None,
    }
}

/// Reports whether the owner is a schedule.
#[must_use]
pub fn is_schedule(owner: &OwnerReference) -> bool {
    owner.kind == PrewarmSchedule::kind(&())
        && owner.api_version == PrewarmSchedule::api_version(&())
}

/// Returns the UID of the schedule that created a task, with scheduled time and origin. Only the
/// controller reference counts; the schedule is in the task's namespace.
#[must_use]
pub fn creating_schedule(task: &PrewarmTask) -> Option<(String, ExecutionOrigin)> {
    let owner = task.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    if !is_schedule(owner) || owner.uid.is_empty() {
        return None;
    }
    let created = || task.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let tick = task
        .annotations()
        .get(SCHEDULED_AT_ANNOTATION)
        .and_then(|text| timestamp::parse(text))
        .unwrap_or_else(created);
    let manual = task.annotations().get(TRIGGER_ANNOTATION).is_some_and(|text| text == "manual");
    let trigger = if manual { Trigger::Manual } else { Trigger::Schedule };
    Some((owner.uid.clone(), ExecutionOrigin { scheduled_at: tick, trigger }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::PrewarmScheduleSpec;

    #[test]
    fn scheduled_time_and_task_map_to_each_other() {
        let tick: Timestamp = "2026-11-21T02:30:00Z".parse().unwrap();
        let name = scheduled_task_name("uid", tick, Trigger::Schedule);
        assert!(name.starts_with("task-20261121-023000-") && name.len() == 29, "{name}");
        assert_eq!(name, scheduled_task_name("uid", tick, Trigger::Schedule));
        assert_ne!(name, scheduled_task_name("other", tick, Trigger::Schedule));
        assert_ne!(name, scheduled_task_name("uid", tick, Trigger::Manual));
        let spec =
            PrewarmScheduleSpec::new("@daily".into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
        let mut schedule = PrewarmSchedule::new("nightly", spec);
        schedule.metadata.uid = Some("uid".into());
        let made = ExecutionOrigin { scheduled_at: tick, trigger: Trigger::Manual };
        let task = build_task(&schedule, &name, &made);
        assert_eq!(creating_schedule(&task), Some(("uid".into(), made)));
        let change = |change: fn(&mut OwnerReference)| {
            let mut task = task.clone();
            task.metadata.owner_references.iter_mut().flatten().for_each(change);
            creating_schedule(&task)
        };
        assert_eq!(
            change(|owner| owner.controller = None),
            None,
            "any number may own; one controls"
        );
        assert_eq!(change(|owner| owner.kind = "CronJob".into()), None);
        assert_eq!(change(|owner| owner.api_version = "prewarm.io/v1".into()), None);
        assert_eq!(creating_schedule(&PrewarmTask::new("t", PrewarmTaskSpec::default())), None);
    }
}
