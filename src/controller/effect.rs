//! What the controller may do to the outside: effects, as values.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::{
    health::{Candidate, Examination},
    image::Reference,
    task::{Phase, PrewarmPlanSpec, PrewarmTaskStatus, WorkerKind, plan::Findings},
    worker::{Reason, Worker, WorkerFacts},
};

/// The task that an effect is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// A change of phase, to be told as a Kubernetes Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) phase: Phase,
    pub(super) message: String,
}

/// A status to write, and the changes of phase that it brings.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StatusWrite {
    pub(super) status: PrewarmTaskStatus,
    /// The resource version that it is based on.
    pub(super) version: Option<String>,
    pub(super) told: Vec<Told>,
}

/// A worker to create, as the API server is to get it: a hundred typed pods of twenty images would take 10 MB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Creation {
    pub(super) kind: WorkerKind,
    pub(super) namespace: String,
    pub(super) name: String,
    /// JSON.
    pub(super) body: Vec<u8>,
}

impl Creation {
    /// An error means that the worker cannot be written as JSON.
    pub(super) fn new(worker: &Worker) -> Result<Self, serde_json::Error> {
        let (kind, body) = match worker {
            Worker::Job(job) => (WorkerKind::Job, serde_json::to_vec(job)?),
            Worker::Pod(pod) => (WorkerKind::Pod, serde_json::to_vec(pod)?),
        };
        let namespace = worker.metadata().namespace.clone().unwrap_or_default();
        Ok(Self { kind, namespace, name: worker.name().to_owned(), body })
    }
}

/// A worker to delete: this one, and none that was made anew under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doomed {
    pub(super) kind: WorkerKind,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Box<str>,
}

/// What should be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Effect {
    /// Ask the checks of nodes.
    Examine(Box<Examination>),
    CreatePlan(Arc<PrewarmPlanSpec>),
    Create(Box<Creation>),
    /// Ask by a dry run whether the API server would take the pod.
    Probe(Box<Pod>),
    Delete(Box<Doomed>),
    /// All workers of the task in a namespace, or those of one batch.
    DeleteMany(WorkerKind, String, Option<u32>),
    WriteStatus(Box<StatusWrite>),
    /// With the resource version that the decision is based on.
    DeleteTask(Option<String>),
}

impl Effect {
    /// The deletion of one worker.
    pub(super) fn delete(worker: &WorkerFacts) -> Self {
        Self::Delete(Box::new(Doomed {
            kind: worker.kind,
            namespace: worker.namespace.clone(),
            name: worker.name.clone(),
            uid: worker.uid.clone(),
        }))
    }

    /// Verb and resource, for metrics and logs.
    pub(super) fn request(&self) -> (&'static str, &'static str) {
        let plural = |kind: WorkerKind| if kind == WorkerKind::Job { "jobs" } else { "pods" };
        match self {
            Self::Examine(_) => ("examine", "nodes"),
            Self::CreatePlan(_) => ("create", "prewarmplans"),
            Self::Create(creation) => ("create", plural(creation.kind)),
            Self::Probe(_) => ("dryrun", "pods"),
            Self::Delete(doomed) => ("delete", plural(doomed.kind)),
            Self::DeleteMany(kind, ..) => ("deletecollection", plural(*kind)),
            Self::WriteStatus(_) => ("patch", "prewarmtasks"),
            Self::DeleteTask(_) => ("delete", "prewarmtasks"),
        }
    }

    /// What it is known by while it is under way: none is sent a second time meanwhile.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Examine(_) => "examine".into(),
            Self::CreatePlan(_) => "plan".into(),
            Self::Create(creation) => format!("create/{}/{}", creation.namespace, creation.name),
            Self::Probe(_) => "probe".into(),
            Self::Delete(doomed) => format!("delete/{}/{}/{}", doomed.namespace, doomed.name, doomed.uid),
            Self::DeleteMany(_, namespace, Some(batch)) => format!("delete-batch/{namespace}/{batch}"),
            Self::DeleteMany(_, namespace, None) => format!("delete-all/{namespace}"),
            Self::WriteStatus(_) => "status".into(),
            Self::DeleteTask(_) => "delete-task".into(),
        }
    }
}

/// What an effect leaves.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Written {
    /// For a status: the object's new resource version.
    pub(super) resource_version: Option<String>,
    /// For an examination.
    pub(super) findings: Option<Box<Findings>>,
}

/// Why an effect failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Somebody else wrote in between: what is newest must be seen first.
    Stale(String),
    /// Another try may succeed.
    Passing(String),
    /// The API server will not take it as things are.
    Final(Reason, String),
    /// The API server does not store a plan or status like this: it is too large, or not valid. Another try is in vain.
    Unstorable(String),
    /// It panicked; the panic was logged.
    Broken,
}

/// An examination of these nodes for these images; with a namespace, to choose among them.
pub(super) fn examination(images: &[Reference], nodes: Vec<Candidate>, choose_for: Option<String>) -> Effect {
    Effect::Examine(Box::new(Examination { images: images.to_vec(), nodes, choose_for }))
}
