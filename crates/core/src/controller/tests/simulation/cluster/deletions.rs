//! Deletions in the simulated cluster with several tasks: by the controller, by other users and by
//! the garbage collector.

use std::collections::BTreeSet;

use serde_json::json;

use super::{
    super::super::super::{
        effect::{TaskRef, WorkersDeletion},
        observation::Observation,
        propagation::Propagation,
        watch::{WatchChange, WatchSource},
    },
    BATCH_LABEL, ClusterSimulation, Responses, SimWorker, Terminating, job_of, name_of, pod_of,
};
use crate::task::WorkerKind;

impl ClusterSimulation {
    /// Returns the Jobs that were deleted before their pods, which are left.
    pub(super) fn orphans(&self) -> impl Iterator<Item = &SimWorker> {
        self.garbage_collector.waiting().filter_map(|object| match object {
            Terminating::Worker(_) => None,
            Terminating::Pod(worker) => Some(worker),
        })
    }

    /// Deletes workers by collection: Jobs in the background after their pods. A response that is
    /// lost may be the one for the pods, so that the Jobs are left.
    pub(super) fn delete_collection(&mut self, target: &TaskRef, deletion: &WorkersDeletion) {
        let WorkersDeletion { kind, namespace, batch, propagation } = deletion;
        let which = |worker: &SimWorker| {
            let label = worker.object["metadata"]["labels"][BATCH_LABEL].as_str();
            worker.kind == *kind
                && worker.task_uid() == target.uid
                && worker.text("/metadata/namespace") == namespace
                && batch.is_none_or(|batch| label == Some(batch.to_string().as_str()))
        };
        if (*kind, *propagation) == (WorkerKind::Job, Propagation::Background) {
            let matching: Vec<usize> =
                (0..self.workers.len()).filter(|at| which(&self.workers[*at])).collect();
            for at in matching {
                let worker = &self.workers[at];
                assert!(!worker.is_active(), "{} was deleted while it pulls", name_of(worker));
                self.remove_pod(at);
            }
            if self.responses == Responses::Lost && self.garbage_collector.next_number(1) == 0 {
                return;
            }
        }
        self.delete_workers(which, *propagation);
    }

    /// Deletes the workers that match: Jobs in the foreground after their pods, Jobs in the
    /// background before them, and bare pods at once.
    pub(super) fn delete_workers(
        &mut self,
        which: impl Fn(&SimWorker) -> bool,
        propagation: Propagation,
    ) {
        if propagation == Propagation::Foreground {
            let now = json!(self.now.to_string());
            for at in 0..self.workers.len() {
                let worker = &mut self.workers[at];
                assert!(
                    worker.kind == WorkerKind::Job || !which(worker),
                    "a pod has no dependents"
                );
                if which(worker) && !worker.is_being_deleted() {
                    worker.object["metadata"]["deletionTimestamp"] = now.clone();
                    let uid = worker.text("/metadata/uid").to_owned();
                    self.garbage_collector.add(Terminating::Worker(uid));
                    self.deliver_worker(at);
                }
            }
            return;
        }
        while let Some(at) = self.workers.iter().position(&which) {
            if self.workers[at].kind == WorkerKind::Pod || self.workers[at].pod_deleted {
                self.remove_worker(at);
                continue;
            }
            let job = self.workers.remove(at);
            assert!(!job.is_active(), "a pod pulls without its Job {}", name_of(&job));
            let gone = WatchChange::Deleted(job_of(&job.object));
            self.handle(Observation::Job(WatchSource::all("jobs"), gone));
            self.garbage_collector.add(Terminating::Pod(job));
        }
    }

    /// Deletes a worker, as another user would.
    pub(in super::super::super) fn delete_some_worker(&mut self, which: u8) {
        if !self.workers.is_empty() {
            let which = usize::from(which) % self.workers.len();
            self.remove_worker(which);
        }
    }

    fn remove_pod(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        if !std::mem::replace(&mut worker.pod_deleted, true) {
            let gone = WatchChange::Deleted(pod_of(&worker.pod));
            self.handle(Observation::Pod(WatchSource::all("pods"), gone));
        }
    }

    /// Removes a worker after its pod.
    fn remove_worker(&mut self, at: usize) {
        self.remove_pod(at);
        let worker = self.workers.remove(at);
        if worker.kind == WorkerKind::Job {
            let gone = WatchChange::Deleted(job_of(&worker.object));
            self.handle(Observation::Job(WatchSource::all("jobs"), gone));
        }
    }

    pub(super) fn collect_garbage(&mut self) {
        for object in self.garbage_collector.end_round() {
            match object {
                Terminating::Worker(uid) => {
                    let is_meant = |worker: &SimWorker| worker.text("/metadata/uid") == uid;
                    if let Some(at) = self.workers.iter().position(is_meant) {
                        self.remove_worker(at);
                    }
                }
                Terminating::Pod(worker) => {
                    let gone = WatchChange::Deleted(pod_of(&worker.pod));
                    self.handle(Observation::Pod(WatchSource::all("pods"), gone));
                }
            }
        }
    }

    /// Asserts that the controller holds no pods but those that exist, and counts none as foreign.
    pub(super) fn assert_cached_pods(&self) {
        let state = &self.controller.state;
        assert!(state.foreign_counts().is_empty(), "{:?}", state.foreign_counts());
        let name = |worker: &SimWorker| worker.pod["metadata"]["name"].as_str().unwrap().to_owned();
        let left = self.workers.iter().filter(|worker| !worker.pod_deleted);
        let existing: BTreeSet<String> = left.chain(self.orphans()).map(name).collect();
        for pod in state.pods().values() {
            assert!(existing.contains(&pod.name), "pod {} was deleted", pod.name);
        }
    }
}
