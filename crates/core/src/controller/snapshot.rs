//! Snapshot of the cluster that one reconcile of a task reads. Pure: no client, no clock, no I/O.

use std::{collections::BTreeMap, sync::Arc};

use crate::{node::NodeInfo, task::PrewarmPlanSpec, worker::WorkerInfo};
use k8s_openapi::jiff::Timestamp;

use super::{
    cluster_state::ForeignClaim,
    queue::QueueLimit,
    worker_cache::{Pods, Workers},
};

/// Decision of the queue about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueDecision {
    Admitted,
    Queued(QueueLimit),
}

/// Snapshot for one reconcile of one task.
pub(super) struct Snapshot<'a> {
    pub(super) nodes: &'a BTreeMap<String, NodeInfo>,
    pub(super) workers: Option<&'a Workers>,
    pub(super) pods: &'a Pods,
    pub(super) plan: Option<&'a Arc<PrewarmPlanSpec>>,
    /// Returns whether a namespace contains foreign objects with the labels of this task's workers.
    pub(super) foreign_claim: &'a dyn Fn(&str) -> Option<ForeignClaim>,
    pub(super) queue_decision: QueueDecision,
    pub(super) now: Timestamp,
}

impl Snapshot<'_> {
    pub(super) fn workers(&self) -> impl Iterator<Item = &WorkerInfo> {
        self.workers.into_iter().flat_map(BTreeMap::values)
    }

    /// Reports whether a namespace contains foreign objects with the labels of this task's workers.
    pub(super) fn has_foreign_objects(&self, namespace: &str) -> bool {
        (self.foreign_claim)(namespace).is_some()
    }
}
