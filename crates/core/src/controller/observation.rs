//! Inputs of the controller: watch events and results of effects.

use std::sync::Arc;

use super::{
    effect::{ApplyError, Effect, EffectOutput},
    foreign_object::ForeignObject,
    watch::{WatchChange, WatchSource},
};
use crate::{
    node::NodeInfo,
    task::{PrewarmPlanSpec, PrewarmTask},
    worker::{PodInfo, WorkerInfo, provenance::PodClaim},
};

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
