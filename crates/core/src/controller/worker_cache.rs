//! Workers and pods as the informers last saw them, and which of them are active.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::worker::{PodInfo, WorkerInfo};

/// Workers of one task, by `namespace/name`.
pub(super) type Workers = BTreeMap<String, WorkerInfo>;

/// Pods by `namespace/worker`. Holds the newest pod where a Job has had several.
pub(super) type Pods = HashMap<String, PodInfo>;

/// Reports whether the worker counts against the limits. A Job counts until the Job controller has
/// marked it as finished, a moment after its pod has ended. A worker that is only retained does not
/// count.
pub(super) fn is_active(worker: &WorkerInfo) -> bool {
    !worker.finished
}

/// Reports whether the worker pulls, or may still start to pull.
pub(super) fn may_pull(worker: &WorkerInfo, pods: &Pods) -> bool {
    !worker.finished && !pods.get(&worker.key()).is_some_and(|pod| pod.phase.is_final())
}

/// Reports whether the worker occupies its node exclusively: while it pulls, for `alone` at most,
/// and not while all its remaining images are in the kubelet's backoff, in which nothing is pulled
/// for minutes.
pub(super) fn occupies_node(
    worker: &WorkerInfo,
    pods: &Pods,
    now: Timestamp,
    alone: SignedDuration,
) -> bool {
    let waits = || pods.get(&worker.key()).is_some_and(PodInfo::is_in_backoff);
    let young = worker.first_seen.is_none_or(|since| now.duration_since(since) < alone);
    is_active(worker) && young && !waits()
}
