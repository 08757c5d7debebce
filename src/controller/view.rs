//! What one look at a task may see. *Pure.*

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::Timestamp;

use super::world::{Pods, Workers};
use crate::{node::Facts, task::PrewarmPlanSpec, worker::WorkerFacts};

/// What a step may look at.
pub(super) struct View<'a> {
    pub(super) nodes: &'a BTreeMap<String, Facts>,
    pub(super) workers: Option<&'a Workers>,
    pub(super) pods: &'a Pods,
    pub(super) plan: Option<&'a Arc<PrewarmPlanSpec>>,
    /// Whether others have made objects in a namespace that carry the labels of this task's workers.
    pub(super) contested: &'a dyn Fn(&str) -> bool,
    pub(super) may_begin: bool,
    pub(super) now: Timestamp,
}

impl View<'_> {
    pub(super) fn workers(&self) -> impl Iterator<Item = &WorkerFacts> {
        self.workers.into_iter().flat_map(BTreeMap::values)
    }
}
