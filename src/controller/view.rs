//! What one look at a task may see. *Pure.*

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::Timestamp;

use super::{
    turns::Held,
    world::{Pods, Workers},
};
use crate::{node::Facts, task::PrewarmPlanSpec, worker::WorkerFacts};

/// Whether a task may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    Held(Held),
}

/// What a step may look at.
pub(super) struct View<'a> {
    pub(super) nodes: &'a BTreeMap<String, Facts>,
    pub(super) workers: Option<&'a Workers>,
    pub(super) pods: &'a Pods,
    pub(super) plan: Option<&'a Arc<PrewarmPlanSpec>>,
    /// Whether others have made objects in a namespace that carry the labels of this task's workers.
    pub(super) contested: &'a dyn Fn(&str) -> bool,
    pub(super) turn: Turn,
    pub(super) now: Timestamp,
}

impl View<'_> {
    pub(super) fn workers(&self) -> impl Iterator<Item = &WorkerFacts> {
        self.workers.into_iter().flat_map(BTreeMap::values)
    }
}
