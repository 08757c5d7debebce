//! What the controller hears: what watches tell, and what came of its effects.

use std::sync::Arc;

use super::effect::{Effect, Refusal, Written};
use crate::{
    node::Facts,
    task::{PrewarmPlanSpec, PrewarmTask},
    worker::{PodFacts, WorkerFacts},
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

/// What the controller hears.
pub(super) enum Observation {
    Task(Change<Arc<PrewarmTask>>),
    Plan(Change<OwnedPlan>),
    Node(Change<Facts>),
    Job(Source, Change<WorkerFacts>),
    Pod(Source, Change<Box<SeenPod>>),
    /// An effect has ended.
    Done(Done),
}

/// A plan and the task that it belongs to.
#[derive(Debug, Clone)]
pub(super) struct OwnedPlan {
    pub(super) task_uid: String,
    pub(super) spec: Arc<PrewarmPlanSpec>,
}

/// A worker pod, and what it is as a worker where no Job made it.
#[derive(Debug, Clone)]
pub(super) struct SeenPod {
    pub(super) facts: PodFacts,
    pub(super) worker: Option<WorkerFacts>,
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
