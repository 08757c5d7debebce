//! Tasks in the cluster state: open ones in full, of ended ones only what is still needed.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::effect::TaskRef;
use crate::{
    duration,
    task::{PrewarmTask, WorkerKind},
    timestamp,
    worker::provenance::WorkerOwner,
};

/// Task in the cluster state.
#[derive(Debug, Clone)]
pub(in crate::controller) enum CachedTask {
    /// Task that has not ended.
    Open(Arc<PrewarmTask>),
    /// Task that has ended.
    Ended(Box<EndedTask>),
}

/// Parts of an ended task that garbage collection and the verification of its workers need, 0.4 KB
/// in place of 2.5 KB: tasks are stored by the thousand after their end.
#[derive(Debug, Clone)]
pub(in crate::controller) struct EndedTask {
    pub(in crate::controller) target: TaskRef,
    pub(in crate::controller) resource_version: Option<String>,
    /// Set if the task is being deleted.
    pub(in crate::controller) is_deleted: bool,
    pub(in crate::controller) has_pending_notifications: bool,
    pub(in crate::controller) ttl_seconds: Option<u32>,
    /// Retention time of the workers; zero if the spec has none or an invalid one.
    pub(in crate::controller) retain: Duration,
    /// End of the task; `None` if the status has none or an invalid one.
    pub(in crate::controller) completion_time: Option<Timestamp>,
    worker: WorkerKind,
    images: usize,
}

impl EndedTask {
    /// Returns the parts of a task. Times are parsed here, because garbage collection compares those
    /// of all ended tasks each time.
    pub(in crate::controller) fn new(task: &PrewarmTask) -> Self {
        let completion_time =
            task.status.as_ref().and_then(|status| status.completion_time.as_deref());
        let retain = task.spec.retain.as_deref();
        Self {
            target: TaskRef::of(task),
            resource_version: task.resource_version(),
            is_deleted: task.metadata.deletion_timestamp.is_some(),
            has_pending_notifications: task.has_pending_notifications(),
            ttl_seconds: task.spec.ttl_seconds_after_finished,
            retain: retain.and_then(|text| duration::parse(text).ok()).unwrap_or_default(),
            completion_time: completion_time.and_then(timestamp::parse),
            worker: task.spec.worker,
            images: task.spec.images.len(),
        }
    }
}

impl From<Arc<PrewarmTask>> for CachedTask {
    fn from(task: Arc<PrewarmTask>) -> Self {
        if task.phase().is_terminal() {
            Self::Ended(Box::new(EndedTask::new(&task)))
        } else {
            Self::Open(task)
        }
    }
}

impl<'a> From<&'a CachedTask> for WorkerOwner<'a> {
    fn from(task: &'a CachedTask) -> Self {
        match task {
            CachedTask::Open(task) => Self::from(&**task),
            CachedTask::Ended(task) => Self {
                namespace: &task.target.namespace,
                name: &task.target.name,
                worker: task.worker,
                images: task.images,
            },
        }
    }
}

impl CachedTask {
    /// Returns the task if it has not ended.
    pub(in crate::controller) fn open(&self) -> Option<&Arc<PrewarmTask>> {
        match self {
            Self::Open(task) => Some(task),
            Self::Ended(_) => None,
        }
    }

    /// Returns the parts of the task if it has ended.
    pub(in crate::controller) fn ended(&self) -> Option<&EndedTask> {
        match self {
            Self::Open(_) => None,
            Self::Ended(task) => Some(task),
        }
    }

    /// Reports whether the task is being deleted.
    pub(in crate::controller) fn is_deleted(&self) -> bool {
        match self {
            Self::Open(task) => task.metadata.deletion_timestamp.is_some(),
            Self::Ended(task) => task.is_deleted,
        }
    }
}
