//! Assignment of images of one node to a worker, and the settings of all workers.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::names;
use crate::task::{PullMethod, PullPolicy};

/// Settings that apply to every worker.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Owner reference of workers in another namespace than their task, which the task cannot own.
    /// Uninstalling Prewarmer deletes its object and thereby these workers.
    pub owner: Option<OwnerReference>,
    /// Service account of workers in another namespace than their task. `None` uses the namespace's
    /// default account.
    pub service_account: Option<String>,
    /// Reference of the helper image.
    pub image: String,
    /// Pull policy of the helper image.
    pub image_pull_policy: PullPolicy,
    /// Priority class of worker pods.
    pub priority_class: Option<String>,
    /// Time to live of a finished Job that no controller deletes.
    pub ttl: Duration,
    /// Maximum number of images that one pod pulls. A node with more images gets one pod after
    /// another.
    pub images_per_pod: usize,
}

/// Images of one node that one worker pulls.
#[derive(Debug, Clone, Copy)]
pub struct Assignment<'a> {
    /// Namespace of the worker.
    pub namespace: &'a str,
    /// Namespace of the task.
    pub task_namespace: &'a str,
    /// Name of the task.
    pub task: &'a str,
    /// UID of the task.
    pub task_uid: &'a str,
    /// Index of the batch.
    pub batch: u32,
    /// Name of the node.
    pub node: &'a str,
    /// Attempt on this node, from 0.
    pub attempt: u8,
    /// Part of the images, from 0.
    pub part: u16,
    /// Images to pull, by index in the task.
    pub images: &'a [usize],
    /// Pull method of the node, already resolved: never `Auto`.
    pub method: PullMethod,
}

impl Assignment<'_> {
    /// Returns the name of the worker. It depends only on task, node, attempt and part, so that a
    /// restarted controller or a repeated request meets the existing worker.
    #[must_use]
    pub fn worker_name(&self) -> String {
        let (attempt, part) = (self.attempt.to_string(), self.part.to_string());
        names::worker_name(&[self.task_uid, self.node, &attempt, &part])
    }
}
