//! Effects: changes that the controller requests from the executor, as values.

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::Resource;

use crate::{
    image::ImageRef,
    task::{
        Phase, PrewarmPlanSpec, PrewarmTask, PrewarmTaskStatus, WorkerKind, plan::NodeCheckFindings,
    },
    worker::{FailureReason, WorkerInfo, WorkerObject},
};

use super::{
    node_check::{CheckInput, NodeCandidate},
    propagation::Propagation,
    worker_cache::Pods,
};

/// Task that an effect belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl TaskRef {
    /// Returns the identification of a task.
    pub(super) fn of(task: &PrewarmTask) -> Self {
        let meta = task.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrewarmTask {}/{} ({})", self.namespace, self.name, self.uid)
    }
}

/// Change of phase, sent as a Kubernetes Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseEvent {
    /// New phase.
    pub phase: Phase,
    /// Message for the user.
    pub message: String,
}

/// Status to write, with the Events of its phase changes.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusWrite {
    /// New status.
    pub status: PrewarmTaskStatus,
    /// Resource version that the status is based on.
    pub version: Option<String>,
    /// Events to send, before the status is written.
    pub events: Vec<PhaseEvent>,
}

/// Worker to create, serialized for the API server. A hundred typed pods of twenty images would
/// take 10 MB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCreation {
    /// Kind of the worker.
    pub kind: WorkerKind,
    /// Namespace of the worker.
    pub namespace: String,
    /// Name of the worker.
    pub name: String,
    /// JSON of the object.
    pub body: Vec<u8>,
}

impl WorkerCreation {
    /// Serializes a worker. Fails when it cannot be written as JSON.
    pub fn new(worker: &WorkerObject) -> Result<Self, serde_json::Error> {
        let (kind, body) = match worker {
            WorkerObject::Job(job) => (WorkerKind::Job, serde_json::to_vec(job)?),
            WorkerObject::Pod(pod) => (WorkerKind::Pod, serde_json::to_vec(pod)?),
        };
        let namespace = worker.metadata().namespace.clone().unwrap_or_default();
        Ok(Self { kind, namespace, name: worker.name().to_owned(), body })
    }
}

/// Worker to delete, identified by UID. A worker that was recreated under the same name is not
/// deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerDeletion {
    /// Kind of the worker.
    pub kind: WorkerKind,
    /// Namespace of the worker.
    pub namespace: String,
    /// Name of the worker.
    pub name: String,
    /// UID that is a precondition of the deletion.
    pub uid: Box<str>,
    /// Order of the deletion of a Job and its pods.
    pub propagation: Propagation,
}

/// Workers of the task to delete by collection, with their pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkersDeletion {
    /// Kind of the workers.
    pub kind: WorkerKind,
    /// Namespace of the workers.
    pub namespace: String,
    /// Batch of the workers. `None` deletes those of all batches.
    pub batch: Option<u32>,
    /// Order of the deletion of Jobs and their pods.
    pub propagation: Propagation,
}

/// Change requested by a reconcile.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Runs the node checks.
    CheckNodes(Box<CheckInput>),
    /// Creates the plan of the task.
    CreatePlan(Arc<PrewarmPlanSpec>),
    /// Creates a worker.
    CreateWorker(Box<WorkerCreation>),
    /// Creates the pod as a dry run, to find out whether the API server accepts it.
    DryRun(Box<Pod>),
    /// Deletes a worker.
    DeleteWorker(Box<WorkerDeletion>),
    /// Deletes all workers of the task in a namespace, or those of one batch.
    DeleteWorkers(WorkersDeletion),
    /// Writes the status of the task, and sends its Events.
    WriteStatus(Box<StatusWrite>),
    /// Deletes the task at the resource version on which the decision is based.
    DeleteTask(Option<String>),
}

impl Effect {
    /// Returns the deletion of one worker.
    pub(super) fn delete_worker(worker: &WorkerInfo, pods: &Pods) -> Self {
        Self::DeleteWorker(Box::new(WorkerDeletion {
            kind: worker.kind,
            namespace: worker.namespace.clone(),
            name: worker.name.clone(),
            uid: worker.uid.clone(),
            propagation: Propagation::for_workers([worker], pods),
        }))
    }

    /// Returns verb and resource, for metrics and logs.
    #[must_use]
    pub fn verb_and_resource(&self) -> (&'static str, &'static str) {
        let plural = |kind: WorkerKind| if kind == WorkerKind::Job { "jobs" } else { "pods" };
        match self {
            Self::CheckNodes(_) => ("examine", "nodes"),
            Self::CreatePlan(_) => ("create", "prewarmplans"),
            Self::CreateWorker(creation) => ("create", plural(creation.kind)),
            Self::DryRun(_) => ("dryrun", "pods"),
            Self::DeleteWorker(deleted) => ("delete", plural(deleted.kind)),
            Self::DeleteWorkers(deleted) => ("deletecollection", plural(deleted.kind)),
            Self::WriteStatus(_) => ("patch", "prewarmtasks"),
            Self::DeleteTask(_) => ("delete", "prewarmtasks"),
        }
    }

    /// Returns the key of the effect. No second effect with this key is sent while one is running.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::CheckNodes(_) => "examine".into(),
            Self::CreatePlan(_) => "plan".into(),
            Self::CreateWorker(creation) => {
                format!("create/{}/{}", creation.namespace, creation.name)
            }
            Self::DryRun(_) => "probe".into(),
            Self::DeleteWorker(deleted) => {
                format!("delete/{}/{}/{}", deleted.namespace, deleted.name, deleted.uid)
            }
            Self::DeleteWorkers(WorkersDeletion { namespace, batch: Some(batch), .. }) => {
                format!("delete-batch/{namespace}/{batch}")
            }
            Self::DeleteWorkers(WorkersDeletion { namespace, batch: None, .. }) => {
                format!("delete-all/{namespace}")
            }
            Self::WriteStatus(_) => "status".into(),
            Self::DeleteTask(_) => "delete-task".into(),
        }
    }
}

/// Output of an effect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EffectOutput {
    /// New resource version of the object, after a status write.
    pub resource_version: Option<String>,
    /// Results of node checks.
    pub check_results: Option<Box<NodeCheckFindings>>,
}

/// Error of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    /// The object was changed or deleted concurrently. The newest version must be seen before the
    /// next attempt.
    Conflict(String),
    /// Transient failure: another attempt may succeed.
    Transient(String),
    /// Rejection of the object by the API server in its current state, with the failure reason.
    Rejected(FailureReason, String),
    /// The API server cannot store this plan or status: it is too large or not valid. Retries
    /// cannot succeed.
    Unstorable(String),
    /// Panic during execution. It was logged.
    Panicked,
}

/// Returns an effect that checks these nodes for these images. With a namespace, the nodes are
/// chosen among them.
pub fn check_nodes(
    images: &[ImageRef],
    nodes: Vec<NodeCandidate>,
    choose_for: Option<String>,
) -> Effect {
    Effect::CheckNodes(Box::new(CheckInput {
        images: images.to_vec(),
        nodes,
        rank_for_namespace: choose_for,
    }))
}
