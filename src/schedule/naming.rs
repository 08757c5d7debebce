//! What ties a task to its schedule and its tick. *Pure.*

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use super::{PrewarmSchedule, Trigger};
use crate::task::{ORIGIN_LABEL, PrewarmTask, PrewarmTaskSpec};

/// On a task: the tick that it was made for, RFC 3339.
pub const TICK_ANNOTATION: &str = "prewarm.io/scheduled-at";
/// On a task: `schedule` or `manual`.
pub const TRIGGER_ANNOTATION: &str = "prewarm.io/trigger";

/// `task-YYYYMMDD-HHMMSS-` and eight digits, from a time in UTC.
fn task_name(time: Timestamp, digits: &str) -> String {
    format!("task-{}-{digits}", time.strftime("%Y%m%d-%H%M%S"))
}

/// A name that nobody else chooses.
#[must_use]
pub fn random_task_name(now: Timestamp) -> String {
    task_name(now, &format!("{:08x}", rand::random::<u32>()))
}

/// The name of the task of a tick: the same on every replica.
pub(super) fn tick_task_name(schedule_uid: &str, tick: Timestamp, trigger: Trigger) -> String {
    let digest = Sha256::digest(format!("{schedule_uid}/{}/{trigger:?}", tick.as_second()));
    task_name(tick, &crate::hex(digest.get(..4).unwrap_or(&digest)))
}

/// How a run's task came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The tick, or when the run was asked for.
    pub tick: Timestamp,
    /// Who asked.
    pub trigger: Trigger,
}

/// The task of a run.
#[must_use]
pub fn task_of(schedule: &PrewarmSchedule, name: &str, made: &Made) -> PrewarmTask {
    let texts = |pairs: &[(&str, String)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
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
                ("app.kubernetes.io/managed-by", "prewarmer".into()),
                (ORIGIN_LABEL, "schedule".into()),
            ])),
            annotations: Some(texts(&[(TICK_ANNOTATION, made.tick.to_string()), (TRIGGER_ANNOTATION, trigger.into())])),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        // A schedule's history is bounded by itself.
        spec: PrewarmTaskSpec { ttl_seconds_after_finished: None, ..schedule.spec.task_template.spec.clone() },
        status: None,
    }
}

/// Whether the owner is a schedule.
#[must_use]
pub fn is_schedule(owner: &OwnerReference) -> bool {
    owner.kind == PrewarmSchedule::kind(&()) && owner.api_version == PrewarmSchedule::api_version(&())
}

/// The schedule that made a task, by UID, and how: its controller. It is in the task's namespace, or nowhere.
#[must_use]
pub fn made_by(task: &PrewarmTask) -> Option<(String, Made)> {
    let owner = task.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    if !is_schedule(owner) || owner.uid.is_empty() {
        return None;
    }
    let created = || task.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let tick = task.annotations().get(TICK_ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or_else(created);
    let manual = task.annotations().get(TRIGGER_ANNOTATION).is_some_and(|text| text == "manual");
    let trigger = if manual { Trigger::Manual } else { Trigger::Schedule };
    Some((owner.uid.clone(), Made { tick, trigger }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::PrewarmScheduleSpec;

    #[test]
    fn a_tick_has_one_name_and_a_task_knows_its_tick() {
        let tick: Timestamp = "2026-11-21T02:30:00Z".parse().unwrap();
        let name = tick_task_name("uid", tick, Trigger::Schedule);
        assert!(name.starts_with("task-20261121-023000-") && name.len() == 29, "{name}");
        assert_eq!(name, tick_task_name("uid", tick, Trigger::Schedule));
        assert_ne!(name, tick_task_name("other", tick, Trigger::Schedule));
        assert_ne!(name, tick_task_name("uid", tick, Trigger::Manual));
        let spec = PrewarmScheduleSpec::new("@daily".into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
        let mut schedule = PrewarmSchedule::new("nightly", spec);
        schedule.metadata.uid = Some("uid".into());
        let made = Made { tick, trigger: Trigger::Manual };
        let task = task_of(&schedule, &name, &made);
        assert_eq!(made_by(&task), Some(("uid".into(), made)));
        let change = |change: fn(&mut OwnerReference)| {
            let mut task = task.clone();
            task.metadata.owner_references.iter_mut().flatten().for_each(change);
            made_by(&task)
        };
        assert_eq!(change(|owner| owner.controller = None), None, "any number may own; one controls");
        assert_eq!(change(|owner| owner.kind = "CronJob".into()), None);
        assert_eq!(change(|owner| owner.api_version = "prewarm.io/v1".into()), None);
        assert_eq!(made_by(&PrewarmTask::new("t", PrewarmTaskSpec::default())), None);
    }
}
