//! Inputs of the controller: watch events and results of effects.

use std::sync::Arc;

use prewarmer_core::{
    node::NodeInfo,
    task::{PrewarmPlanSpec, PrewarmTask},
    worker::{PodInfo, WorkerInfo, provenance::PodClaim},
};

use super::{
    effect::{ApplyError, Effect, EffectOutput},
    foreign::ForeignObject,
};

/// Kind and namespace that a watch covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct WatchSource {
    pub(super) kind: &'static str,
    /// Namespace that is watched. `None` means all namespaces.
    pub(super) namespace: Option<String>,
}

impl WatchSource {
    pub(super) fn all(kind: &'static str) -> Self {
        Self { kind, namespace: None }
    }

    /// Reports whether the watch delivers objects of the namespace.
    pub(super) fn covers(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

/// Watch event of one kind.
#[derive(Debug)]
pub(super) enum WatchChange<T> {
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
pub(super) enum Ownership<T> {
    Ours(T),
    Foreign(ForeignObject),
}

/// Input of the controller.
pub(super) enum Observation {
    Task(WatchChange<Arc<PrewarmTask>>),
    Plan(WatchSource, WatchChange<Ownership<OwnedPlan>>),
    Node(WatchChange<NodeInfo>),
    Job(WatchSource, WatchChange<Ownership<WorkerInfo>>),
    Pod(WatchSource, WatchChange<Ownership<Box<WorkerPod>>>),
    /// Result of an effect.
    EffectFinished(EffectFinished),
}

/// Plan and the task that owns it.
#[derive(Debug, Clone)]
pub(super) struct OwnedPlan {
    pub(super) namespace: String,
    /// Name of the task.
    pub(super) task: String,
    pub(super) task_uid: String,
    pub(super) spec: Arc<PrewarmPlanSpec>,
}

/// Pod, and the worker that it claims to be or to belong to.
#[derive(Debug, Clone)]
pub(super) struct WorkerPod {
    pub(super) info: PodInfo,
    pub(super) claim: PodClaim,
    /// Images that the pod pulls, by index in the task.
    pub(super) pulled_images: Box<[(u16, Box<str>)]>,
}

impl WorkerPod {
    /// Returns namespace and name of the pod.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.info.namespace, self.info.name)
    }
}

/// Result of an effect.
#[derive(Debug)]
pub(super) struct EffectFinished {
    /// UID of the task.
    pub(super) task_uid: String,
    /// Effect that was executed.
    pub(super) effect: Effect,
    /// Output of the effect, or its error.
    pub(super) result: Result<EffectOutput, ApplyError>,
}
