//! Verification that a Job or pod with our labels is a worker of this installation. Pure: no
//! client, no clock, no I/O.
//!
//! Labels prove nothing, because every user who may create pods can set them. Verified are only
//! properties that Prewarmer, or a user with write access to the task's own namespace, can produce:
//! the namespace, the owner reference with the task's UID, the name derived from task, node,
//! attempt and part, the node, and that labels and annotations agree with all of these.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use super::{
    ATTEMPT_LABEL, BATCH_LABEL, IMAGES_ANNOTATION, MANAGED_BY, NODE_ANNOTATION, NODE_LABEL,
    PART_LABEL, TASK_LABEL, TASK_NAMESPACE_ANNOTATION, TASK_UID_LABEL, WorkerInfo,
    info::JOB_NAME_LABEL,
    names::{label_value, worker_name},
    pod::image_index,
};
use crate::{
    slim::{SlimJob, SlimPod},
    task::{MAX_RETRIES, PrewarmTask, WorkerKind},
};

/// Cause for which an object with our labels fails provenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProvenanceError {
    /// Labels or annotations of a worker are missing, malformed or inconsistent.
    Labels,
    /// The name is not the one derived from task, node, attempt and part.
    Name,
    /// The pod is not pinned to the node in its labels.
    Node,
    /// A controller owner reference to the task is missing where it is required.
    Owner,
    /// The namespace is not one in which workers of the task are created.
    Namespace,
    /// No task has the UID in the labels, at least not yet.
    UnknownTask,
    /// Name, kind of worker, number of images or number of attempts do not match the task.
    Task,
    /// The pod's controller is not a known worker Job, at least not yet.
    UnknownJob,
    /// Labels or annotations of the pod do not match its Job.
    Job,
    /// The task already has the maximum number of workers.
    TooMany,
}

impl ProvenanceError {
    /// Returns the value of the metric label `reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Name => "name",
            Self::Node => "node",
            Self::Owner => "owner",
            Self::Namespace => "namespace",
            Self::UnknownTask => "unknown_task",
            Self::Task => "task",
            Self::UnknownJob => "unknown_job",
            Self::Job => "job",
            Self::TooMany => "too_many",
        }
    }

    /// Reports whether one of our own workers can be rejected with this cause for a moment: watches
    /// are not ordered relative to each other, and a pod is deleted after its owner.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::UnknownTask | Self::UnknownJob)
    }

    /// Returns a description for users.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Labels => {
                "labels or annotations of a worker are missing or contradict one another"
            }
            Self::Name => "the name does not match the worker that the labels describe",
            Self::Node => "spec.nodeName is not the node that the labels name",
            Self::Owner => "no controller owner reference refers to the PrewarmTask",
            Self::Namespace => "workers of its PrewarmTask are not created in this namespace",
            Self::UnknownTask => "its namespace has no PrewarmTask with the UID in its labels",
            Self::Task => "it does not match the spec of its PrewarmTask",
            Self::UnknownJob => "its controller is not a known worker Job",
            Self::Job => "its labels or annotations do not match its Job",
            Self::TooMany => "its PrewarmTask already has the maximum number of workers",
        }
    }
}

/// Namespaces in which workers may exist without an owner reference to their task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedNamespaces {
    /// Prewarmer's own namespace, set if workers of tasks of other namespaces may be created there.
    /// Tenants cannot write to it.
    pub own: Option<String>,
}

/// Pod that claims to be a worker, or to belong to a worker Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    /// Worker that the pod claims to be or to belong to.
    pub worker: WorkerInfo,
    /// UID of the Job that created the pod. `None` for a bare pod.
    pub job: Option<Box<str>>,
}

/// Verifies a worker Job as far as possible without its task.
pub fn verify_job(
    job: &SlimJob,
    places: &AllowedNamespaces,
) -> Result<WorkerInfo, ProvenanceError> {
    let worker = parse_worker(
        WorkerKind::Job,
        &job.metadata,
        job.name_any(),
        &job.spec.template.spec.node_name,
    )?;
    verify_owner(&job.metadata, &worker, places)?;
    Ok(worker.with_job_status(job))
}

/// Verifies a worker pod as far as possible without its task and its Job.
pub fn verify_pod(pod: &SlimPod, places: &AllowedNamespaces) -> Result<PodClaim, ProvenanceError> {
    let meta = &pod.metadata;
    let Some(job) = pod.labels().get(JOB_NAME_LABEL) else {
        let worker = parse_worker(WorkerKind::Pod, meta, pod.name_any(), &pod.spec.node_name)?;
        verify_owner(meta, &worker, places)?;
        return Ok(PodClaim { worker: worker.with_pod_status(pod), job: None });
    };
    let worker = parse_worker(WorkerKind::Job, meta, job.clone(), &pod.spec.node_name)?;
    let owner = controller_of(meta).filter(|owner| {
        owner.kind == "Job"
            && owner.api_version == "batch/v1"
            && owner.name == *job
            && !owner.uid.is_empty()
    });
    let owner = owner.ok_or(ProvenanceError::Owner)?;
    verify_namespace(&worker, places)?;
    Ok(PodClaim { worker, job: Some(owner.uid.as_str().into()) })
}

/// Returns the images of a pod, as written in its spec, by index in the task.
#[must_use]
pub fn pulled_images(pod: &SlimPod) -> Box<[(u16, Box<str>)]> {
    let volumes = pod
        .spec
        .volumes
        .iter()
        .filter_map(|volume| Some((&volume.name, &volume.image.as_ref()?.reference)));
    let volumes: Vec<_> = volumes.collect();
    let containers =
        pod.spec.containers.iter().map(|container| (&container.name, &container.image));
    // The containers of a pod that mounts images run the helper image.
    let all: Vec<_> = if volumes.is_empty() { containers.collect() } else { volumes };
    all.into_iter()
        .filter_map(|(name, image)| Some((image_index(name)?, image.as_str().into())))
        .collect()
}

/// Properties of a task that its workers must agree with.
#[derive(Debug, Clone, Copy)]
pub struct WorkerOwner<'a> {
    /// Namespace of the task.
    pub namespace: &'a str,
    /// Name of the task.
    pub name: &'a str,
    /// Kind of the task's workers.
    pub worker: WorkerKind,
    /// Number of images of the task.
    pub images: usize,
}

impl<'a> From<&'a PrewarmTask> for WorkerOwner<'a> {
    fn from(task: &'a PrewarmTask) -> Self {
        Self {
            namespace: task.metadata.namespace.as_deref().unwrap_or_default(),
            name: task.metadata.name.as_deref().unwrap_or_default(),
            worker: task.spec.worker,
            images: task.spec.images.len(),
        }
    }
}

/// Verifies that a worker matches its task. Only properties derived from the spec are compared; a
/// spec does not change.
pub fn verify_against_task<'a>(
    worker: &WorkerInfo,
    task: impl Into<WorkerOwner<'a>>,
) -> Result<(), ProvenanceError> {
    let WorkerOwner { namespace, name, worker: kind, images } = task.into();
    if namespace != &*worker.task_namespace {
        return Err(ProvenanceError::Namespace);
    }
    let fits = *worker.task == *label_value(name)
        && kind == worker.kind
        && u32::from(worker.attempt) <= MAX_RETRIES
        && usize::from(worker.part) < images
        && worker.images.iter().all(|image| usize::from(*image) < images);
    if fits { Ok(()) } else { Err(ProvenanceError::Task) }
}

/// Verifies that a pod belongs to this Job.
pub fn verify_against_job(claim: &PodClaim, job: &WorkerInfo) -> Result<(), ProvenanceError> {
    if claim.job.as_deref() != Some(&*job.uid) {
        return Err(ProvenanceError::UnknownJob);
    }
    let pod = &claim.worker;
    let agree = (pod.kind, &pod.task_uid, &pod.task, &pod.task_namespace)
        == (job.kind, &job.task_uid, &job.task, &job.task_namespace)
        && (&pod.node, pod.batch, pod.attempt, pod.part, &pod.images)
            == (&job.node, job.batch, job.attempt, job.part, &job.images);
    if agree { Ok(()) } else { Err(ProvenanceError::Job) }
}

/// Returns the controller owner reference if it refers to a `PrewarmTask` with a UID. The caller
/// must compare the owner's name.
#[must_use]
pub fn owner_task(meta: &ObjectMeta) -> Option<&OwnerReference> {
    controller_of(meta).filter(|owner| {
        owner.kind == PrewarmTask::kind(&())
            && owner.api_version == PrewarmTask::api_version(&())
            && !owner.uid.is_empty()
    })
}

fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Parses the worker described by labels and annotations, and compares it with its name and its
/// node.
fn parse_worker(
    kind: WorkerKind,
    meta: &ObjectMeta,
    name: String,
    pinned: &str,
) -> Result<WorkerInfo, ProvenanceError> {
    let label = |name: &str| meta.labels.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let annotation =
        |name: &str| meta.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let present = |text: Option<&str>| {
        text.filter(|text| !text.is_empty()).map(str::to_owned).ok_or(ProvenanceError::Labels)
    };
    if label(MANAGED_BY.0) != Some(MANAGED_BY.1) {
        return Err(ProvenanceError::Labels);
    }
    let node = present(annotation(NODE_ANNOTATION))?;
    let task_uid = present(label(TASK_UID_LABEL))?;
    let task = present(label(TASK_LABEL))?;
    let task_namespace = present(annotation(TASK_NAMESPACE_ANNOTATION))?;
    if label(NODE_LABEL) != Some(label_value(&node).as_str()) {
        return Err(ProvenanceError::Labels);
    }
    let batch: u32 = parse_number(label(BATCH_LABEL))?;
    let attempt: u8 = parse_number(label(ATTEMPT_LABEL))?;
    let part: u16 = parse_number(label(PART_LABEL))?;
    let asked = parse_image_indexes(annotation(IMAGES_ANNOTATION).unwrap_or_default())?;
    if name != worker_name(&[&task_uid, &node, &attempt.to_string(), &part.to_string()]) {
        return Err(ProvenanceError::Name);
    }
    if pinned != node {
        return Err(ProvenanceError::Node);
    }
    Ok(WorkerInfo {
        kind,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name,
        uid: meta.uid.clone().unwrap_or_default().into(),
        task_uid,
        task: task.into(),
        task_namespace: task_namespace.into(),
        node,
        batch,
        attempt,
        part,
        images: asked,
        created: meta.creation_timestamp.as_ref().map(|time| time.0),
        first_seen: None,
        deleting: meta.deletion_timestamp.is_some(),
        finished: false,
        failure: None,
    })
}

/// Parses a number in canonical form: no sign and no leading zeros.
fn parse_number<T: std::str::FromStr + ToString>(text: Option<&str>) -> Result<T, ProvenanceError> {
    let text = text.ok_or(ProvenanceError::Labels)?;
    let number: T = text.parse().map_err(|_| ProvenanceError::Labels)?;
    if number.to_string() == text { Ok(number) } else { Err(ProvenanceError::Labels) }
}

/// Parses image indexes in strictly ascending order. At least one is required, because Prewarmer
/// creates no worker without images.
fn parse_image_indexes(text: &str) -> Result<Box<[u16]>, ProvenanceError> {
    let indexes = text
        .split(',')
        .map(|index| parse_number(Some(index)))
        .collect::<Result<Box<[u16]>, _>>()?;
    if indexes.is_sorted_by(|a, b| a < b) { Ok(indexes) } else { Err(ProvenanceError::Labels) }
}

fn verify_namespace(
    worker: &WorkerInfo,
    places: &AllowedNamespaces,
) -> Result<(), ProvenanceError> {
    let at_home = worker.namespace == *worker.task_namespace;
    let in_ours = places.own.as_deref() == Some(worker.namespace.as_str());
    if at_home || in_ours { Ok(()) } else { Err(ProvenanceError::Namespace) }
}

/// Verifies that a worker is owned by its task. A task of another namespace cannot own workers in
/// Prewarmer's own namespace; there the namespace itself is the proof.
fn verify_owner(
    meta: &ObjectMeta,
    worker: &WorkerInfo,
    places: &AllowedNamespaces,
) -> Result<(), ProvenanceError> {
    verify_namespace(worker, places)?;
    if worker.is_outside_task_namespace() {
        return Ok(());
    }
    let is_task = |owner: &OwnerReference| {
        owner.uid == worker.task_uid && label_value(&owner.name) == *worker.task
    };
    if owner_task(meta).is_some_and(is_task) { Ok(()) } else { Err(ProvenanceError::Owner) }
}

#[cfg(test)]
mod tests;
