//! Objects, patches and parameters of the requests. Pure: no client, no clock, no I/O.

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Resource,
    api::{DeleteParams, ObjectMeta, Preconditions},
};
use prewarmer_core::{
    controller::{PhaseEvent, Propagation, StatusWrite, TaskRef},
    task::{Phase, PrewarmPlan, PrewarmPlanSpec, PrewarmTask, owner_reference},
    worker::{MANAGED_BY, event_name},
};
use serde_json::json;

/// Maximum length of an Event message that the API server accepts, in bytes.
const MAX_EVENT_MESSAGE: usize = 1024;
/// Reporting component of Events.
const REPORTING_COMPONENT: &str = "prewarmer";

/// Returns parameters that delete only the object with this UID and, where given, this resource
/// version.
pub(super) fn delete_params(
    how: DeleteParams,
    uid: &str,
    resource_version: Option<String>,
) -> DeleteParams {
    how.preconditions(Preconditions {
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        resource_version,
    })
}

/// Returns parameters with the propagation of a decision.
pub(super) fn propagation_params(propagation: Propagation) -> DeleteParams {
    match propagation {
        Propagation::Background => DeleteParams::background(),
        Propagation::Foreground => DeleteParams::foreground(),
    }
}

/// Returns a merge patch with the resource version, so that a previous leader that has not noticed
/// the end of its term cannot overwrite the status of its successor.
pub(super) fn status_patch(write: &StatusWrite) -> serde_json::Value {
    json!({
        "apiVersion": "prewarm.io/v1alpha1",
        "kind": "PrewarmTask",
        "metadata": { "resourceVersion": write.version },
        "status": write.status,
    })
}

/// Returns the plan of a task.
pub(super) fn plan_object(target: &TaskRef, spec: &PrewarmPlanSpec) -> PrewarmPlan {
    let metadata = ObjectMeta {
        name: Some(format!("plan-{}", target.uid)),
        namespace: Some(target.namespace.clone()),
        labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
        owner_references: Some(vec![owner_reference(&target.name, &target.uid)]),
        ..ObjectMeta::default()
    };
    PrewarmPlan { metadata, spec: spec.clone() }
}

/// Returns the Event of a phase. Its name is derived from task and phase, so that each phase has
/// one Event however often it is sent.
pub(super) fn phase_event(target: &TaskRef, event: &PhaseEvent, now: Timestamp) -> Event {
    let phase = event.phase.as_str();
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(&target.name, &target.uid, phase)),
            namespace: Some(target.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(PrewarmTask::api_version(&()).into_owned()),
            kind: Some(PrewarmTask::kind(&()).into_owned()),
            namespace: Some(target.namespace.clone()),
            name: Some(target.name.clone()),
            uid: Some(target.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(if event.phase == Phase::Failed { "Warning" } else { "Normal" }.into()),
        reason: Some(phase.into()),
        message: Some(event.message.chars().take(MAX_EVENT_MESSAGE / 4).collect()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(REPORTING_COMPONENT.into()), host: None }),
        reporting_component: Some(REPORTING_COMPONENT.into()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_per_phase() {
        let target = TaskRef { namespace: "shop".into(), name: "t".repeat(253), uid: "u".into() };
        let event = |phase| PhaseEvent { phase, message: "m".into() };
        let name = |phase, second| {
            let now = Timestamp::from_second(second).unwrap();
            phase_event(&target, &event(phase), now).metadata.name.unwrap()
        };
        assert_eq!(name(Phase::Running, 1), name(Phase::Running, 2));
        assert_ne!(name(Phase::Running, 1), name(Phase::Failed, 1));
        assert!(name(Phase::Running, 1).len() <= 253);
    }
}
