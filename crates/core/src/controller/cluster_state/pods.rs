//! Pods of workers in the cluster state. Contains only those whose provenance is verified.

use k8s_openapi::jiff::Timestamp;

use super::{
    super::{
        foreign_object::ForeignObject,
        observation::{Ownership, WorkerPod},
        watch::{WatchChange, WatchSource},
    },
    cached_task::CachedTask,
    report::{ObservationReport, RateLimitNotice, rate_limit_notices},
    state::ClusterState,
    workers::PreviousWorker,
};
use crate::{
    task::WorkerKind,
    worker::{
        PodInfo,
        provenance::{ProvenanceError, verify_against_job, verify_against_task},
    },
};

impl ClusterState {
    pub(super) fn apply_pods(
        &mut self,
        source: &WatchSource,
        change: WatchChange<Ownership<Box<WorkerPod>>>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        match change {
            WatchChange::Applied(Ownership::Ours(pod)) => {
                let bare = pod.claim.job.is_none();
                let before = bare
                    .then(|| self.remove_worker(&pod.claim.worker))
                    .flatten()
                    .map(PreviousWorker::verified);
                self.add_pod(source, pod, before, now, news);
            }
            WatchChange::Applied(Ownership::Foreign(stranger)) => {
                self.remove_invalidated(WorkerKind::Pod, &stranger);
                self.add_foreign(source, stranger, news);
            }
            WatchChange::Deleted(Ownership::Ours(pod)) => {
                let id = pod.id();
                if pod.claim.job.is_none() {
                    self.remove_worker(&pod.claim.worker);
                    self.pending_workers.remove(&pod.info.namespace, &id);
                }
                self.pending_pods.remove(&pod.info.namespace, &id);
                self.foreign.remove(source, &id);
                self.remove_pod(&pod.info);
            }
            WatchChange::Deleted(Ownership::Foreign(stranger)) => {
                self.remove_invalidated(WorkerKind::Pod, &stranger);
                self.foreign.remove(source, &stranger.key);
            }
            WatchChange::Restarted(pods) => self.replace_pods(source, pods, now, news),
        }
    }

    /// Replaces the pods of a source by those of a list.
    fn replace_pods(
        &mut self,
        source: &WatchSource,
        pods: Vec<Ownership<Box<WorkerPod>>>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        let before = self.clear_source(WorkerKind::Pod, source);
        self.pending_pods.clear(source);
        self.pods.retain(|_, pod| !source.covers(&pod.namespace));
        let first = !self.synced.contains(source);
        // A list repeats rate limit messages that were counted before.
        let mut repeated = ObservationReport::default();
        for pod in pods {
            match pod {
                Ownership::Ours(pod) => {
                    let known = PreviousWorker::from_list(
                        before.get(&pod.id()),
                        &pod.claim.worker,
                        first,
                        now,
                    );
                    self.add_pod(source, pod, known, now, &mut repeated);
                }
                Ownership::Foreign(stranger) => self.add_foreign(source, stranger, news),
            }
        }
        self.synced.insert(source.clone());
    }

    pub(super) fn add_pod(
        &mut self,
        source: &WatchSource,
        pod: Box<WorkerPod>,
        before: Option<PreviousWorker>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        if pod.claim.job.is_none() {
            if !self.add_worker(source, pod.claim.worker.clone(), before, now, news) {
                return self.remove_pod(&pod.info);
            }
        } else if let Err(reason) = self.verify_job_pod(&pod) {
            if reason == ProvenanceError::UnknownJob && self.may_outlive_job(&pod) {
                self.foreign.remove(source, &pod.id());
            } else {
                let PodInfo { namespace, name, task_uid, .. } = &pod.info;
                let foreign = ForeignObject::new(namespace, name, task_uid, reason);
                self.add_foreign(source, foreign, news);
            }
            if reason == ProvenanceError::UnknownJob {
                self.pending_pods.insert(pod);
            }
            return;
        } else {
            self.foreign.remove(source, &pod.id());
            self.pending_pods.remove(&pod.info.namespace, &pod.id());
        }
        let (key, WorkerPod { info: pod, pulled_images: pulls, .. }) =
            (pod.info.worker_key(), *pod);
        let known = self.pods.get(&key);
        if known.is_some_and(|known| known.name != pod.name && known.created > pod.created) {
            return;
        }
        let task = self.tasks.get(&pod.task_uid).and_then(CachedTask::open);
        // A rate limit counts for a registry only where the pod pulls exactly the image that the
        // task names.
        let is_meant = |complaint: &RateLimitNotice| {
            let named = task.and_then(|task| task.spec.images.get(usize::from(complaint.image)));
            let pulled = pulls.iter().find(|(index, _)| *index == complaint.image);
            named.zip(pulled).is_some_and(|(named, (_, pulled))| **named == **pulled)
        };
        news.rate_limits.extend(rate_limit_notices(known, &pod).into_iter().filter(is_meant));
        self.pods.insert(key, pod);
    }

    /// Verifies a pod of a Job: its Job must be verified. A pod that was verified before stays so
    /// after its Job is deleted.
    fn verify_job_pod(&self, pod: &WorkerPod) -> Result<(), ProvenanceError> {
        let key = pod.info.worker_key();
        let job =
            self.workers.get(&pod.claim.worker.task_uid).and_then(|workers| workers.get(&key));
        match job {
            Some(job) => verify_against_job(&pod.claim, job),
            None if self.pods.get(&key).is_some_and(|known| known.name == pod.info.name) => Ok(()),
            None => Err(ProvenanceError::UnknownJob),
        }
    }

    /// Reports whether a pod of an unknown Job can be left of a worker that was deleted in the
    /// background, until the garbage collector of Kubernetes deletes it too: it has ended, and
    /// agrees with its task. Counted as foreign, it would prevent deletions by collection. A
    /// collection may delete such a pod of another user, who has forged all of these properties;
    /// Kubernetes deletes it anyway unless its Job exists.
    fn may_outlive_job(&self, pod: &WorkerPod) -> bool {
        let worker = &pod.claim.worker;
        let agrees = |task| verify_against_task(worker, task).is_ok();
        pod.info.phase.is_final() && self.tasks.get(&worker.task_uid).is_none_or(agrees)
    }

    fn remove_pod(&mut self, pod: &PodInfo) {
        let key = pod.worker_key();
        if self.pods.get(&key).is_some_and(|known| known.name == pod.name) {
            self.pods.remove(&key);
        }
    }
}
