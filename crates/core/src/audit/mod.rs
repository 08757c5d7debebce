//! Advice before an installation: how long pods waited for images, by the kubelets' events, and
//! what Prewarmer would have spared.
//!
//! Inputs: events of the reason `Pulled`, and the owners of pods, as values. Output: a report. Pure:
//! no client, no clock, no I/O. May use `image`, `node`, `task`, `worker` and `workload`.
//!
//! ```text
//!   events -> message (parsed) -> recording (starts) -+
//!   pods, ReplicaSets, Jobs -> owners (workloads) ----+-> simulation -> summary -> report, advice
//!   nodes --------------------------------------------+
//! ```

mod advice;
mod event;
mod message;
mod nodes;
mod owners;
mod recording;
mod report;
mod simulation;
mod summary;
#[cfg(test)]
mod tests;

pub use advice::{advice, assumptions};
pub use event::AuditEvent;
pub use nodes::Nodes;
pub use owners::{OwnedKind, Owners};
pub use recording::Recording;
pub use report::{AuditReport, ImageRow, NodeCount, NotSpared, Seconds, WorkloadRow};
pub use simulation::SimulationSettings;
pub use summary::{AuditInput, summarize};
