//! Dependencies of the workload watch, and its clients.

use std::{sync::Arc, time::Duration};

use kube::{Api, Client, core::ApiResource};
use prewarmer_core::{workload::Policy, workload_watch::ImageRefs};
use prewarmer_kube::metrics::ObjectErrorMetrics;

use super::{dynamic_workload::DynamicWorkload, metrics::WorkloadWatchMetrics};
use crate::{cluster_context::ClusterContextStore, intake::WatchHints};

/// Dependencies of the workload watch.
#[derive(Clone)]
pub(crate) struct WorkloadWatcher {
    /// Client for watches and lists.
    pub client: Client,
    /// Policy that evaluates workloads.
    pub policy: Arc<Policy>,
    /// Cluster context.
    pub context: ClusterContextStore,
    /// Destination of hints, and index of open tasks.
    pub hints: WatchHints,
    /// Time during which hints are collected.
    pub window: Duration,
    /// Store of the images that workloads need.
    pub image_refs: ImageRefs,
    /// Metrics of panics and of objects that cannot be decoded.
    pub object_errors: ObjectErrorMetrics,
    /// Metrics of the workload watch.
    pub metrics: WorkloadWatchMetrics,
}

/// Returns the client of a kind, in one namespace or in all.
pub(super) fn dynamic_api(
    watcher: &WorkloadWatcher,
    namespace: Option<&str>,
    resource: &ApiResource,
) -> Api<DynamicWorkload> {
    match namespace {
        Some(namespace) => Api::namespaced_with(watcher.client.clone(), namespace, resource),
        None => Api::all_with(watcher.client.clone(), resource),
    }
}
