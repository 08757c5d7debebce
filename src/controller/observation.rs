//! What the controller hears: what watches tell, and what came of its effects.

use std::sync::Arc;

use super::{
    effect::{Effect, Refusal, Written},
    foreign::Stranger,
};
use crate::{
    node::Facts,
    task::{PrewarmPlanSpec, PrewarmTask},
    worker::{PodFacts, WorkerFacts, provenance::PodClaim},
};

/// What a watch looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) kind: &'static str,
    /// None: all of them.
    pub(super) namespace: Option<String>,
}

impl Source {
    pub(super) fn all(kind: &'static str) -> Self {
        Self { kind, namespace: None }
    }

    /// Whether objects of the namespace are seen.
    pub(super) fn covers(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

/// A change of one kind.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// New or changed.
    Put(T),
    /// Gone.
    Drop(T),
    /// All there is: after a first or renewed list.
    Replace(Vec<T>),
}

/// An object with our labels: one that may be ours, as far as it says itself, or one that is not.
#[derive(Debug)]
pub(super) enum Sighting<T> {
    Ours(T),
    Foreign(Stranger),
}

/// What the controller hears.
pub(super) enum Observation {
    Task(Change<Arc<PrewarmTask>>),
    Plan(Source, Change<Sighting<OwnedPlan>>),
    Node(Change<Facts>),
    Job(Source, Change<Sighting<WorkerFacts>>),
    Pod(Source, Change<Sighting<Box<SeenPod>>>),
    /// An effect has ended.
    Done(Done),
}

/// A plan and the task that owns it.
#[derive(Debug, Clone)]
pub(super) struct OwnedPlan {
    pub(super) namespace: String,
    /// The task's name.
    pub(super) task: String,
    pub(super) task_uid: String,
    pub(super) spec: Arc<PrewarmPlanSpec>,
}

/// A pod, and the worker that it says it is or belongs to.
#[derive(Debug, Clone)]
pub(super) struct SeenPod {
    pub(super) facts: PodFacts,
    pub(super) claim: PodClaim,
    /// The images that it asks for, by their index in the task.
    pub(super) pulls: Box<[(u16, Box<str>)]>,
}

impl SeenPod {
    /// Namespace and its own name.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.facts.namespace, self.facts.name)
    }
}

/// An effect that has ended.
#[derive(Debug)]
pub(super) struct Done {
    /// The task's UID.
    pub(super) uid: String,
    /// Which effect.
    pub(super) effect: Effect,
    /// What came of it.
    pub(super) result: Result<Written, Refusal>,
}
