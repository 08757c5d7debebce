//! Classification of watched objects: whether each claims consistently to be Prewarmer's.

use std::sync::Arc;

use kube::{ResourceExt, core::DeserializeGuard};

use super::{
    foreign_object::ForeignObject,
    observation::{OwnedPlan, Ownership, WorkerPod},
    task_object::plan_name,
};
use crate::{
    annotations::UNREADABLE_ANNOTATION,
    node::Interner,
    slim::{SlimJob, SlimPod},
    task::{OBSOLETE_ANNOTATION, PrewarmPlan, PrewarmTask},
    worker::{
        PodInfo, TASK_UID_LABEL, WorkerInfo,
        provenance::{self, AllowedNamespaces, ProvenanceError},
    },
};

/// Maximum number of characters of a decoding error that are kept.
const MAX_ERROR_CHARS: usize = 300;

/// Returns the task of a watch event, and the error if it cannot be decoded. Such a task has an
/// annotation that makes it fail with this error, so that one malformed object does not stop the
/// watch.
#[must_use]
pub fn task_of(guarded: DeserializeGuard<PrewarmTask>) -> (Arc<PrewarmTask>, Option<String>) {
    let (mut task, error) = match guarded.0 {
        Ok(task) => (task, None),
        Err(invalid) => {
            let task = PrewarmTask { metadata: invalid.metadata, ..PrewarmTask::default() };
            (task, Some(invalid.error.chars().take(MAX_ERROR_CHARS).collect::<String>()))
        }
    };
    // Managed fields are not used, and are half the size of an ended task.
    task.metadata.managed_fields = None;
    let annotations = task.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| key == OBSOLETE_ANNOTATION);
    annotations.extend(error.clone().map(|error| (UNREADABLE_ANNOTATION.to_owned(), error)));
    (Arc::new(task), error)
}

/// Verifies that a plan is owned by a task and named after it.
#[must_use]
pub fn classify_plan(plan: PrewarmPlan) -> Ownership<OwnedPlan> {
    let (namespace, name) = (plan.namespace().unwrap_or_default(), plan.name_any());
    match provenance::owner_task(&plan.metadata) {
        Some(owner) if plan_name(&owner.uid) == name => {
            let (task, task_uid) = (owner.name.clone(), owner.uid.clone());
            Ownership::Ours(OwnedPlan { namespace, task, task_uid, spec: Arc::new(plan.spec) })
        }
        owner => {
            let reason =
                if owner.is_some() { ProvenanceError::Name } else { ProvenanceError::Owner };
            Ownership::Foreign(ForeignObject::new(&namespace, &name, "", reason))
        }
    }
}

fn foreign_object<T>(object: &impl ResourceExt, reason: ProvenanceError) -> Ownership<T> {
    let uid = object.labels().get(TASK_UID_LABEL).map_or("", String::as_str);
    Ownership::Foreign(ForeignObject::new(
        &object.namespace().unwrap_or_default(),
        &object.name_any(),
        uid,
        reason,
    ))
}

/// Verifies that a Job is a worker, as far as that is possible without its task.
#[must_use]
pub fn classify_job(job: &SlimJob, places: &AllowedNamespaces) -> Ownership<WorkerInfo> {
    match provenance::verify_job(job, places) {
        Ok(worker) => Ownership::Ours(worker),
        Err(reason) => foreign_object(job, reason),
    }
}

/// Verifies that a pod is a worker, as far as that is possible without its task and its Job.
pub fn classify_pod(
    pod: &SlimPod,
    places: &AllowedNamespaces,
    texts: &Interner,
) -> Ownership<Box<WorkerPod>> {
    match provenance::verify_pod(pod, places) {
        Ok(claim) => {
            let pulls = provenance::pulled_images(pod);
            Ownership::Ours(Box::new(WorkerPod {
                info: PodInfo::new(pod, texts),
                claim,
                pulled_images: pulls,
            }))
        }
        Err(reason) => foreign_object(pod, reason),
    }
}
