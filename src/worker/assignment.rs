//! What a worker is to do, and what holds for all of them.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::names;
use crate::task::PullMethod;

/// What holds for every worker.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Owns the workers that no task can own, because they are in another namespace than it: with it they go when Prewarmer is
    /// uninstalled.
    pub owner: Option<OwnerReference>,
    /// The account of workers in another namespace than their task's; the namespace's default where there is none.
    pub service_account: Option<String>,
    /// The helper's image.
    pub image: String,
    /// The priority class of worker pods.
    pub priority_class: Option<String>,
    /// How long a finished Job may stay when no controller removes it.
    pub ttl: Duration,
    /// How many images one pod pulls at most; a node with more gets one pod after another.
    pub images_per_pod: usize,
}

/// One node's share of a task.
#[derive(Debug, Clone, Copy)]
pub struct Assignment<'a> {
    /// The worker's namespace.
    pub namespace: &'a str,
    /// The task's namespace.
    pub task_namespace: &'a str,
    /// The task's name.
    pub task: &'a str,
    /// The task's UID.
    pub uid: &'a str,
    /// The index of the batch.
    pub batch: u32,
    /// The node's name.
    pub node: &'a str,
    /// Which try on this node it is, from 0.
    pub attempt: u8,
    /// Which part of the images it is, from 0.
    pub part: u16,
    /// The images to pull, by their index in the task.
    pub asked: &'a [usize],
    /// The method, as [`method_for`] chose it.
    pub method: PullMethod,
}

impl Assignment<'_> {
    /// The worker's name: always the same for a task, a node, a try and a part, so that a restarted controller or a repeated
    /// request meets the worker that is there.
    #[must_use]
    pub fn worker_name(&self) -> String {
        let (attempt, part) = (self.attempt.to_string(), self.part.to_string());
        names::worker_name(&[self.uid, self.node, &attempt, &part])
    }
}
