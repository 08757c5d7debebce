//! Workers in the cluster state: Jobs, and bare pods. Contains only those whose provenance is
//! verified.

use k8s_openapi::jiff::Timestamp;

use super::{
    super::{
        foreign_object::ForeignObject,
        observation::Ownership,
        watch::{WatchChange, WatchSource},
        worker_cache::Workers,
    },
    report::ObservationReport,
    state::ClusterState,
};
use crate::{
    task::WorkerKind,
    worker::{
        WorkerInfo,
        provenance::{ProvenanceError, verify_against_task},
    },
};

/// Maximum number of workers of one task: 5,000 nodes with two retained parts each. A worker takes
/// 0.5 KB.
const MAX_WORKERS_OF_TASK: usize = 10_000;

/// State of a worker before an observation.
pub(super) struct PreviousWorker {
    uid: Box<str>,
    since: Option<Timestamp>,
    /// Set if the worker was verified before.
    was_verified: bool,
}

impl PreviousWorker {
    pub(super) fn verified(worker: WorkerInfo) -> Self {
        Self { uid: worker.uid, since: worker.first_seen, was_verified: true }
    }

    /// Returns the previous state of a worker of a list. In the `first` list nothing is known: such
    /// a worker counts as started at its creation.
    pub(super) fn from_list(
        before: Option<&WorkerInfo>,
        worker: &WorkerInfo,
        first: bool,
        now: Timestamp,
    ) -> Option<Self> {
        let made = || worker.created.map(|created| created.min(now));
        match before {
            Some(before) => Some(Self::verified(before.clone())),
            None => {
                first.then(|| Self { uid: worker.uid.clone(), since: made(), was_verified: false })
            }
        }
    }
}

impl ClusterState {
    pub(super) fn apply_jobs(
        &mut self,
        source: &WatchSource,
        change: WatchChange<Ownership<WorkerInfo>>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) {
        match change {
            WatchChange::Applied(Ownership::Ours(worker)) => {
                let before = self.remove_worker(&worker).map(PreviousWorker::verified);
                self.add_worker(source, worker, before, now, news);
            }
            WatchChange::Applied(Ownership::Foreign(stranger)) => {
                self.remove_invalidated(WorkerKind::Job, &stranger);
                self.add_foreign(source, stranger, news);
            }
            WatchChange::Deleted(Ownership::Ours(worker)) => {
                self.remove_worker(&worker);
                self.pending_workers.remove(&worker.namespace, &worker.key());
                self.foreign.remove(source, &worker.key());
            }
            WatchChange::Deleted(Ownership::Foreign(stranger)) => {
                self.remove_invalidated(WorkerKind::Job, &stranger);
                self.foreign.remove(source, &stranger.key);
            }
            WatchChange::Restarted(workers) => {
                let before = self.clear_source(WorkerKind::Job, source);
                self.pending_workers.clear(source);
                let first = !self.synced.contains(source);
                for worker in workers {
                    match worker {
                        Ownership::Ours(worker) => {
                            let known = PreviousWorker::from_list(
                                before.get(&worker.key()),
                                &worker,
                                first,
                                now,
                            );
                            self.add_worker(source, worker, known, now, news);
                        }
                        Ownership::Foreign(stranger) => self.add_foreign(source, stranger, news),
                    }
                }
                self.synced.insert(source.clone());
            }
        }
    }

    /// Adds a worker that is consistent in itself if it also matches its task. Reports whether it
    /// was added.
    pub(super) fn add_worker(
        &mut self,
        source: &WatchSource,
        worker: WorkerInfo,
        before: Option<PreviousWorker>,
        now: Timestamp,
        news: &mut ObservationReport,
    ) -> bool {
        let key = worker.key();
        let before = before.filter(|before| before.uid == worker.uid);
        let counted = before.as_ref().is_some_and(|before| before.was_verified);
        if let Err(reason) = self.verify_worker(&worker, counted) {
            self.add_foreign(
                source,
                ForeignObject::new(&worker.namespace, &worker.name, &worker.task_uid, reason),
                news,
            );
            if reason == ProvenanceError::UnknownTask {
                self.pending_workers.insert(worker);
            }
            return false;
        }
        self.foreign.remove(source, &key);
        self.pending_workers.remove(&worker.namespace, &key);
        let since = before.and_then(|before| before.since).or(Some(now));
        let (namespace, is_job) = (worker.namespace.clone(), worker.kind == WorkerKind::Job);
        let worker = WorkerInfo { first_seen: since, ..worker };
        self.workers.entry(worker.task_uid.clone()).or_default().insert(key.clone(), worker);
        if is_job {
            for pod in
                self.pending_pods.take_matching(&namespace, |pod| pod.info.worker_key() == key)
            {
                let source = self.watch_source(WorkerKind::Pod, &namespace);
                self.add_pod(&source, pod, None, now, news);
            }
        }
        true
    }

    /// Verifies a worker. Of a deleted task, a worker is accepted if it `counted` before the
    /// deletion or is in Prewarmer's namespace, where only Prewarmer creates workers: such workers
    /// must be deleted. The garbage collector of Kubernetes deletes the others, because their owner
    /// no longer exists.
    fn verify_worker(&self, worker: &WorkerInfo, counted: bool) -> Result<(), ProvenanceError> {
        match self.tasks.get(&worker.task_uid) {
            Some(task) => verify_against_task(worker, task)?,
            None if counted || worker.is_outside_task_namespace() => {}
            None => return Err(ProvenanceError::UnknownTask),
        }
        let full = self
            .workers
            .get(&worker.task_uid)
            .is_some_and(|workers| workers.len() >= MAX_WORKERS_OF_TASK);
        if full { Err(ProvenanceError::TooMany) } else { Ok(()) }
    }

    /// Removes a worker and returns its previous state. Its name is derived from the task, so it
    /// belongs to no other task.
    pub(super) fn remove_worker(&mut self, worker: &WorkerInfo) -> Option<WorkerInfo> {
        let workers = self.workers.get_mut(&worker.task_uid)?;
        let key = worker.key();
        let taken =
            if workers.get(&key)?.kind == worker.kind { workers.remove(&key) } else { None };
        if workers.is_empty() {
            self.workers.remove(&worker.task_uid);
        }
        taken
    }

    /// Removes an object that was verified before and was changed so that it is foreign now.
    pub(super) fn remove_invalidated(&mut self, kind: WorkerKind, stranger: &ForeignObject) {
        let key = &stranger.key;
        let has =
            |workers: &&mut Workers| workers.get(key).is_some_and(|worker| worker.kind == kind);
        if let Some(worker) =
            self.workers.values_mut().find(has).and_then(|workers| workers.remove(key))
        {
            self.workers.retain(|uid, workers| *uid != worker.task_uid || !workers.is_empty());
        }
        let Some((namespace, name)) = key.split_once('/') else { return };
        match kind {
            WorkerKind::Job => self.pending_workers.remove(namespace, key),
            WorkerKind::Pod => {
                self.pending_pods.remove(namespace, key);
                self.pods.retain(|_, pod| pod.name != name || pod.namespace != namespace);
            }
        }
    }

    /// Removes and returns all workers of a kind that a watch delivered, because the watch
    /// restarts.
    pub(super) fn clear_source(&mut self, kind: WorkerKind, source: &WatchSource) -> Workers {
        let mut known = Workers::new();
        for workers in self.workers.values_mut() {
            let (old, kept) =
                std::mem::take(workers).into_iter().partition::<Workers, _>(|(_, worker)| {
                    worker.kind == kind && source.covers(&worker.namespace)
                });
            *workers = kept;
            known.extend(old);
        }
        self.workers.retain(|_, workers| !workers.is_empty());
        self.foreign.clear(source);
        known
    }
}
