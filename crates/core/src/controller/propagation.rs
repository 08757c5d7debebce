//! Propagation of deletions: whether a Job is deleted before or after its pods. Pure: no client, no
//! clock, no I/O.

use super::worker_cache::Pods;
use crate::{task::WorkerKind, worker::WorkerInfo};

/// Order in which a worker and its dependents are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The worker is deleted at once. A pod that is left of a Job is deleted afterwards by the
    /// garbage collector of kube-controller-manager.
    Background,
    /// A Job is deleted by that garbage collector after its pods, at the cost of one more write.
    Foreground,
}

impl Propagation {
    /// Returns the propagation for workers that one request deletes: in the background if nothing
    /// of them can pull any more. Otherwise a pod could outlive its Job and still pull when the next
    /// worker starts on its node.
    pub(super) fn for_workers<'a>(
        workers: impl IntoIterator<Item = &'a WorkerInfo>,
        pods: &Pods,
    ) -> Self {
        if workers.into_iter().all(|worker| is_settled(worker, pods)) {
            Self::Background
        } else {
            Self::Foreground
        }
    }
}

/// Reports whether the deletion of a worker leaves no pod that can pull: a bare pod has no
/// dependents, and a finished Job creates no pod. A pod that is not in a final phase can belong to a
/// finished Job: before Kubernetes 1.31, Jobs failed before their pods had ended.
fn is_settled(worker: &WorkerInfo, pods: &Pods) -> bool {
    let has_ended = || pods.get(&worker.key()).is_none_or(|pod| pod.phase.is_final());
    worker.kind == WorkerKind::Pod || worker.finished && has_ended()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::worker::{PodInfo, PodPhase};

    fn worker(kind: WorkerKind, finished: bool) -> WorkerInfo {
        let (namespace, name) = ("shop".into(), "a".into());
        WorkerInfo { kind, namespace, name, finished, ..WorkerInfo::default() }
    }

    #[rstest]
    #[case(WorkerKind::Job, true, Some(PodPhase::Succeeded), Propagation::Background)]
    #[case(WorkerKind::Job, true, Some(PodPhase::Failed), Propagation::Background)]
    #[case(WorkerKind::Job, true, None, Propagation::Background)]
    #[case(WorkerKind::Job, true, Some(PodPhase::Pending), Propagation::Foreground)]
    #[case(WorkerKind::Job, false, Some(PodPhase::Succeeded), Propagation::Foreground)]
    #[case(WorkerKind::Job, false, Some(PodPhase::Pending), Propagation::Foreground)]
    #[case(WorkerKind::Job, false, None, Propagation::Foreground)]
    #[case(WorkerKind::Pod, false, Some(PodPhase::Pending), Propagation::Background)]
    fn job_is_deleted_in_the_background_when_nothing_of_it_can_pull(
        #[case] kind: WorkerKind,
        #[case] finished: bool,
        #[case] phase: Option<PodPhase>,
        #[case] expected: Propagation,
    ) {
        let worker = worker(kind, finished);
        let pod = phase.map(|phase| (worker.key(), PodInfo { phase, ..PodInfo::default() }));
        assert_eq!(Propagation::for_workers([&worker], &pod.into_iter().collect()), expected);
    }

    #[test]
    fn one_worker_that_may_pull_decides_for_all() {
        let (ended, open) = (worker(WorkerKind::Job, true), worker(WorkerKind::Job, false));
        assert_eq!(
            Propagation::for_workers([&ended, &open], &Pods::new()),
            Propagation::Foreground
        );
        assert_eq!(
            Propagation::for_workers([&ended, &ended], &Pods::new()),
            Propagation::Background
        );
    }
}
