//! Settings of the task controller.

use std::{sync::Arc, time::Duration};

use crate::{
    task::{caps::Caps, plan::BatchSizeBreaker},
    worker::WorkerSettings,
};

/// Namespace in which workers are created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WorkerNamespace {
    /// Namespace of the task, with the task's pull credentials.
    #[default]
    Workload,
    /// Prewarmer's own namespace, for tasks that need no credentials of their namespace.
    Own,
    /// Prewarmer's own namespace, for tasks whose namespace rejects workers and that need no
    /// credentials of it.
    Fallback,
}

/// Limits that keep the tasks of one namespace from delaying those of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FairnessLimits {
    /// Maximum number of tasks of one namespace that run at the same time.
    pub tasks_per_namespace: usize,
    /// Maximum number of workers of all tasks of one namespace.
    pub workers_per_namespace: usize,
    /// Time for which a pulling worker occupies its node exclusively.
    pub exclusive_node_time: Duration,
    /// Number of nodes on which a registry must fail before its concurrency is reduced.
    pub registry_failure_threshold: usize,
    /// Upper bounds of what a task's spec may request.
    pub caps: Arc<Caps>,
}

impl Default for FairnessLimits {
    /// Returns the defaults of the command-line settings.
    fn default() -> Self {
        Self {
            tasks_per_namespace: 10,
            workers_per_namespace: 270,
            exclusive_node_time: Duration::from_secs(60),
            registry_failure_threshold: 3,
            caps: Arc::default(),
        }
    }
}

/// Settings of the task controller.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// Settings from which workers are built.
    pub worker: WorkerSettings,
    /// Maximum number of tasks that run at the same time.
    pub max_concurrent_tasks: usize,
    /// Only namespace that is watched. `None` watches all namespaces.
    pub namespace: Option<String>,
    /// Namespace in which Prewarmer itself runs.
    pub own_namespace: String,
    /// Namespace in which workers are created.
    pub worker_namespace: WorkerNamespace,
    /// With `Fallback`: also create workers in Prewarmer's namespace when a policy rejects them,
    /// not only for a quota or a `LimitRange`.
    pub fallback_on_policy: bool,
    /// Thresholds above which the number of nodes that a task works on at the same time is reduced.
    pub breaker: BatchSizeBreaker,
    /// Enables node checks before nodes are chosen.
    pub node_checks_enabled: bool,
    /// Maximum number of active workers in the cluster.
    pub max_workers: usize,
    /// Limits per namespace.
    pub limits: FairnessLimits,
    /// Maximum number of workers that pull from one registry at the same time.
    pub registry_concurrency: usize,
    /// Time for which a pulled image counts as present on its node.
    pub warm_image_ttl: Duration,
    /// Hosts of registries that allow anonymous pulls of all images. Their images on nodes count as
    /// warm for every namespace.
    pub public_registries: Vec<String>,
    /// Maximum number of retained finished workers in the cluster.
    pub max_retained_workers: usize,
}
