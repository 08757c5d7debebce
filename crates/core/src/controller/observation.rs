//! Inputs of the controller: watch events and results of effects.

use std::sync::Arc;

use kube::{ResourceExt, core::DeserializeGuard};

use crate::{
    node::{Interner, NodeInfo},
    slim::{SlimJob, SlimPod},
    task::{OBSOLETE_ANNOTATION, PrewarmPlan, PrewarmPlanSpec, PrewarmTask},
    worker::{
        PodInfo, TASK_UID_LABEL, WorkerInfo,
        provenance::{self, AllowedNamespaces, PodClaim, ProvenanceError},
    },
};

/// Maximum number of characters of a decoding error that are kept.
const MAX_ERROR_CHARS: usize = 300;

use super::{
    cluster_state::plan_name,
    effect::{ApplyError, Effect, EffectOutput},
    foreign::ForeignObject,
    task_reconciler::UNREADABLE_ANNOTATION,
};

/// Kind and namespace that a watch covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WatchSource {
    /// Resource, plural.
    pub kind: &'static str,
    /// Namespace that is watched. `None` means all namespaces.
    pub namespace: Option<String>,
}

impl WatchSource {
    /// Returns the watch of a resource in all namespaces.
    #[must_use]
    pub fn all(kind: &'static str) -> Self {
        Self { kind, namespace: None }
    }

    /// Reports whether the watch delivers objects of the namespace.
    #[must_use]
    pub fn covers(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

/// Watch event of one kind.
#[derive(Debug)]
pub enum WatchChange<T> {
    /// Object that was created or changed.
    Applied(T),
    /// Object that was deleted.
    Deleted(T),
    /// Complete list: the first one, or the one after a restart of the watch.
    Restarted(Vec<T>),
}

/// Object with our labels: one that claims consistently to be ours, or a foreign one. The claim is
/// not yet compared with the owner.
#[derive(Debug)]
pub enum Ownership<T> {
    /// Object of this installation.
    Ours(T),
    /// Foreign object.
    Foreign(ForeignObject),
}

/// Input of the controller.
pub enum Observation {
    /// Change of a task.
    Task(WatchChange<Arc<PrewarmTask>>),
    /// Change of a plan.
    Plan(WatchSource, WatchChange<Ownership<OwnedPlan>>),
    /// Change of a node.
    Node(WatchChange<NodeInfo>),
    /// Change of a Job.
    Job(WatchSource, WatchChange<Ownership<WorkerInfo>>),
    /// Change of a pod.
    Pod(WatchSource, WatchChange<Ownership<Box<WorkerPod>>>),
    /// Result of an effect.
    EffectFinished(EffectFinished),
}

/// Plan and the task that owns it.
#[derive(Debug, Clone)]
pub struct OwnedPlan {
    /// Namespace of the task.
    pub namespace: String,
    /// Name of the task.
    pub task: String,
    /// UID of the task.
    pub task_uid: String,
    /// Nodes of the task.
    pub spec: Arc<PrewarmPlanSpec>,
}

/// Pod, and the worker that it claims to be or to belong to.
#[derive(Debug, Clone)]
pub struct WorkerPod {
    /// State of the pod.
    pub info: PodInfo,
    /// Worker that the pod claims to be or to belong to.
    pub claim: PodClaim,
    /// Images that the pod pulls, by index in the task.
    pub pulled_images: Box<[(u16, Box<str>)]>,
}

impl WorkerPod {
    /// Returns namespace and name of the pod.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.info.namespace, self.info.name)
    }
}

/// Result of an effect.
#[derive(Debug)]
pub struct EffectFinished {
    /// UID of the task.
    pub task_uid: String,
    /// Effect that was executed.
    pub effect: Effect,
    /// Output of the effect, or its error.
    pub result: Result<EffectOutput, ApplyError>,
}

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
