//! Watches of all workloads, as the authoritative source behind hints.
//!
//! Input: watches of all kinds with a pod template except pods, reduced to the images that each
//! workload needs. Output: hints for changes that admission did not report (the webhook was not
//! available, a namespace opted in, a later webhook changed the object); marks on tasks that no
//! workload needs any more; knowledge of rewritten images. Every replica watches, so that a new
//! leader knows the changes before its term, including those that the previous leader did not
//! handle; only the leader acts. May use `cluster_context` and `intake`.
//!
//! Pods without a controller are not watched: their images are already being pulled.

mod dynamic_workload;
mod event;
mod lists;
mod metrics;
mod reconciler;
mod rewritten_images;
mod watcher;

use std::sync::Arc;

use prewarmer_core::workload::WorkloadKind;
use tokio::sync::{mpsc::channel, watch};
use tokio_util::sync::CancellationToken;

use self::{lists::watch_kind, reconciler::WorkloadReconciler};
pub(crate) use self::{metrics::WorkloadWatchMetrics, watcher::WorkloadWatcher};
use crate::supervise::{ComponentFailure, ComponentSet};

/// Maximum number of events in the queue.
const QUEUE_CAPACITY: usize = 500;

/// Watches until `stop`. The cluster context and the existing tasks must be known before the call.
/// The error names a watch that ended early.
pub(crate) async fn run(
    own: WorkloadWatcher,
    leads: watch::Receiver<bool>,
    stop: CancellationToken,
) -> Result<(), ComponentFailure> {
    let (sender, inbox) = channel(QUEUE_CAPACITY);
    // The state before the start is not a change.
    let _ = own.context.take_changed_namespaces();
    let kinds: Vec<Arc<WorkloadKind>> =
        own.policy.kinds.iter().filter(|kind| !kind.is_pod()).cloned().collect();
    let mut watches = ComponentSet::default();
    for (index, kind) in kinds.iter().enumerate() {
        let follow = watch_kind(own.clone(), Arc::clone(kind), index, sender.clone(), stop.clone());
        watches.spawn("workload watch: informer", follow);
    }
    let state = WorkloadReconciler::new(own, kinds, sender, leads);
    let failure = tokio::select! {
        () = state.run(inbox, stop.clone()) => None,
        failure = watches.next_failure() => Some(failure).filter(|_| !stop.is_cancelled()),
    };
    if let Some(failure) = failure {
        return Err(failure);
    }
    let _ = watches.join_all().await;
    Ok(())
}
