//! Measurements: facts for metrics, trace spans and logs.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::{effect::TaskRef, foreign_object::ForeignObject};
use crate::{
    task::{Phase, batches::NodeState},
    worker::{FailureReason, provenance::ProvenanceError},
};

/// Fact that occurred once.
#[derive(Debug, Clone, PartialEq)]
pub enum Measurement {
    /// Task that has ended, with its final status stored.
    TaskEnded {
        /// Task.
        task: TaskRef,
        /// Final phase.
        phase: Phase,
        /// Start of the task, if it has started.
        start: Option<Timestamp>,
        /// End of the task.
        end: Timestamp,
    },
    /// Attempt on a node that has ended.
    AttemptEnded {
        /// Resulting state of the node.
        state: NodeState,
        /// Images whose result is final, by name without tag and digest, and whether they are on
        /// the node.
        images: Vec<(String, bool)>,
        /// Numbers of failed images by reason.
        reasons: Vec<(FailureReason, u64)>,
    },
    /// Workers of a node that have ended.
    PullEnded {
        /// Task.
        task: TaskRef,
        /// Name of the node.
        node: String,
        /// Resulting state of the node.
        state: NodeState,
        /// First observation of a worker.
        start: Timestamp,
        /// End of the last worker.
        end: Timestamp,
    },
    /// Node deferred to a later batch because another task uses it.
    NodeDeferred,
    /// Foreign object with the labels of workers that was not known before.
    ForeignObject {
        /// Resource, plural.
        kind: &'static str,
        /// Object.
        object: ForeignObject,
    },
    /// Final status that the API server has rejected. The task is left unchanged.
    FinalStatusRejected {
        /// Task.
        task: TaskRef,
        /// Message of the API server.
        message: String,
    },
    /// Panic in the work on one object.
    InternalError(InternalError),
}

/// Panic in the work on one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalError {
    /// Object, for people.
    pub object: String,
    /// Message of the panic.
    pub message: String,
}

/// Current values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Tasks that have started.
    pub active_tasks: usize,
    /// Running tasks that count against the maximum.
    pub running_tasks: usize,
    /// Running tasks that do not count, because nothing progresses.
    pub parked_tasks: usize,
    /// Tasks that wait to start.
    pub waiting_tasks: usize,
    /// Registries that do not answer.
    pub unreachable_registries: usize,
    /// Registries with a reduced number of pulls.
    pub limited_registries: usize,
    /// Foreign objects by resource and reason.
    pub foreign_objects: BTreeMap<(&'static str, ProvenanceError), usize>,
    /// Nodes with an active worker, summed over all tasks.
    pub active_nodes: usize,
}
