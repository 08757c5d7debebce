//! Task controller: what is done for every open `PrewarmTask`.
//!
//! ```text
//!   observations (tasks, plans, nodes, Jobs, pods, results of effects)  ->  ClusterState
//!                                                                               |
//!                                      TaskReconciler::reconcile, one task at a time
//!                                                                               |
//!                                                     effects and measurements  <-+
//! ```
//!
//! Inputs: observations, and the time. Outputs: effects for the API server, and measurements. A new
//! leader continues from the objects in the API server. A panic in the work on one task fails that
//! task. May use `node`, `task` and `worker`.
//!
//! A file imports only from its own row and from the rows above:
//!
//! | files | content |
//! |---|---|
//! | `settings`, `time`, `watch`, `foreign_object`, `node_check`, `effect`, `observation`, `measurement`, `worker_cache`, `task_object` | values |
//! | `classify`, `containment`, `conditions`, `cluster_state`, `capacity`, `queue`, `warm_images`, `registry_breaker`, `results`, `tracker`, `gc` | state, and decisions on it |
//! | `snapshot`, `context` | what one reconcile of a task reads, and what all tasks share |
//! | `evaluate`, `plan_reconciler`, `node_attempt`, `observe`, `reap`, `dispatch` | work on the nodes of one task |
//! | `task_state`, `plan`, `status`, `effect_results`, `task_reconciler` | one task |
//! | `task_controller`, `task_order`, `collect_garbage` | all tasks |

// Values written by others must not cause a panic: sums saturate, and lookups return `Option`.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

#[cfg(any(test, feature = "test-util"))]
mod batch_fixture;
mod capacity;
mod classify;
mod cluster_state;
mod collect_garbage;
mod conditions;
mod containment;
mod context;
mod dispatch;
mod effect;
mod effect_results;
mod evaluate;
#[cfg(test)]
mod fault_injection;
mod foreign_object;
mod gc;
#[cfg(any(test, feature = "test-util"))]
mod harness;
mod measurement;
mod node_attempt;
mod node_check;
mod observation;
mod observe;
mod plan;
mod plan_reconciler;
mod propagation;
mod queue;
mod reap;
mod registry_breaker;
mod results;
mod settings;
mod snapshot;
mod status;
mod task_controller;
mod task_object;
mod task_order;
mod task_reconciler;
mod task_state;
#[cfg(test)]
mod tests;
mod time;
mod tracker;
mod warm_images;
mod watch;
mod worker_cache;

#[cfg(any(test, feature = "test-util"))]
pub use self::{
    batch_fixture::BatchFixture,
    harness::{ControllerHarness, RecordedRequest, SimulatedResponse, sample_settings},
};
pub use self::{
    classify::{classify_job, classify_plan, classify_pod, task_of},
    containment::{contain, panic_message},
    effect::{
        ApplyError, Effect, EffectOutput, PhaseEvent, StatusWrite, TaskRef, WorkerCreation,
        WorkerDeletion, WorkersDeletion,
    },
    foreign_object::ForeignObject,
    measurement::{Gauges, InternalError, Measurement},
    node_check::{CheckInput, NodeCandidate},
    observation::{EffectFinished, Observation, OwnedPlan, Ownership, WorkerPod},
    propagation::Propagation,
    settings::{ControllerSettings, FairnessLimits, WorkerNamespace},
    task_controller::Controller,
    watch::{WatchChange, WatchSource},
};
