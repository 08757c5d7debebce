//! Events in the simulated cluster: pods end, nodes change, other users act.

use std::sync::Arc;

use serde_json::json;

use super::{
    super::super::{
        classify::{classify_job, classify_pod},
        context::ReconcileContext,
        effect::ApplyError,
        foreign_object::ForeignObject,
        observation::{Observation, Ownership},
        task_state::TaskReconciler,
        watch::{WatchChange, WatchSource},
    },
    PodResult, Simulation,
};
use crate::{
    node::{Interner, NodeInfo},
    task::WorkerKind,
    worker::{
        Assignment, ContainerState, FailureReason, PodInfo, PodPhase, WorkerInfo, WorkerObject,
        build,
        provenance::{AllowedNamespaces, ProvenanceError},
    },
};

impl Simulation {
    /// Lets every newly created pod reach the same result.
    pub(in super::super) fn finish_new_pods(&mut self, outcome: PodResult) {
        let new = |pod: &&PodInfo| {
            pod.containers
                .iter()
                .all(|c| c.state == ContainerState::waiting("ContainerCreating", ""))
        };
        let mut names: Vec<String> =
            self.pods.values().filter(new).map(|pod| pod.name.clone()).collect();
        names.sort();
        for name in names {
            self.finish_one_pod(outcome, |pod| pod.name == name);
        }
    }

    /// Delivers a pod whose Job is not in the cache, or its deletion.
    pub(in super::super) fn set_pod_without_job(&mut self, exists: bool) {
        let pod = ForeignObject::new("shop", "early", "uid", ProvenanceError::UnknownJob);
        let pod = Ownership::Foreign(pod);
        let change = if exists { WatchChange::Applied(pod) } else { WatchChange::Deleted(pod) };
        self.cluster_state.apply(Observation::Pod(WatchSource::all("pods"), change), self.now);
    }

    /// Lets the oldest running pod reach a result.
    pub(in super::super) fn finish_pod(&mut self, outcome: PodResult) {
        self.finish_one_pod(outcome, |_| true);
    }

    /// Lets the pod with this name reach a result.
    pub(in super::super) fn finish_pod_named(&mut self, name: &str, outcome: PodResult) {
        self.finish_one_pod(outcome, |pod| &*pod.name == name);
    }

    fn finish_one_pod(&mut self, outcome: PodResult, which: impl Fn(&PodInfo) -> bool) {
        let workers = &self.workers;
        let at_work = |(key, pod): &(&String, &mut PodInfo)| {
            workers.contains_key(*key)
                && which(pod)
                && !pod.phase.is_final()
                && pod.containers.iter().any(|c| c.state != ContainerState::succeeded())
        };
        let Some((_, pod)) =
            self.pods.iter_mut().filter(at_work).min_by_key(|(_, pod)| pod.name.clone())
        else {
            return;
        };
        if outcome == PodResult::Rejected {
            (pod.phase, pod.reason, pod.message) =
                (PodPhase::Failed, "OutOfpods".into(), "too many pods".into());
            return self.mark_bare_pods_finished();
        }
        let node = &workers[&format!("{}/{}", pod.namespace, pod.worker)].node;
        for container in &mut pod.containers {
            let even = container.image_index % 2 == 0;
            container.state = match outcome {
                PodResult::Permanent if even => {
                    ContainerState::waiting("ErrImagePull", "not found")
                }
                PodResult::Transient if even => {
                    ContainerState::waiting("ErrImagePull", "dial tcp: i/o timeout")
                }
                _ => {
                    self.pulled.insert((node.clone(), container.image_index));
                    ContainerState::succeeded()
                }
            };
        }
        if pod.containers.iter().all(|container| container.state == ContainerState::succeeded()) {
            pod.phase = PodPhase::Succeeded;
            self.mark_bare_pods_finished();
        }
    }

    /// Marks bare pods as finished. A bare pod ends with its containers; a Job ends when the Job
    /// controller reports it, one reconcile later.
    pub(super) fn mark_bare_pods_finished(&mut self) {
        self.mark_finished(WorkerKind::Pod);
    }

    pub(super) fn mark_finished(&mut self, kind: WorkerKind) {
        for worker in self.workers.values_mut().filter(|worker| worker.kind == kind) {
            worker.finished |= self.pods.get(&worker.key()).is_some_and(|pod| pod.phase.is_final());
        }
    }

    /// Crashes the controller and starts a successor.
    pub(in super::super) fn crash(&mut self) {
        self.reconciler = TaskReconciler::resume(&self.task, &self.shared.settings);
        self.shared = ReconcileContext::new(Arc::clone(&self.shared.settings));
        // The start takes longer than the minimum interval between two writes.
        self.advance_time(1000);
    }

    /// Creates an object that differs from a worker in one property, as a user who knows all labels
    /// could. If it counted as a worker, the node would have one that was never created, and the
    /// invariants of the task would break.
    pub(in super::super) fn forge_worker(&mut self, how: u8) {
        self.forged += 1;
        let now = self.now;
        self.cluster_state
            .apply(Observation::Task(WatchChange::Applied(Arc::new(self.task.clone()))), now);
        let node = format!("n{:02}", how % 12);
        let valid = crate::task::validate::validate(&self.task.spec).unwrap();
        let uid = if how.is_multiple_of(8) { "another" } else { "uid" };
        let at = Assignment {
            namespace: "shop",
            task_namespace: "shop",
            task: "t",
            task_uid: uid,
            batch: 0,
            node: &node,
            attempt: 0,
            part: 0,
            images: if how % 8 == 1 { &[99] } else { &[0] },
            method: crate::task::PullMethod::Helper,
        };
        let valid = crate::task::validate::ValidTask {
            images: if how % 8 == 1 {
                vec!["forged:1".parse().unwrap(); 100]
            } else {
                valid.images.clone()
            },
            ..valid
        };
        let made = build(&valid, &at, &self.shared.settings.worker);
        let mut object = match &made {
            WorkerObject::Job(job) => serde_json::to_value(job).unwrap(),
            WorkerObject::Pod(pod) => serde_json::to_value(pod).unwrap(),
        };
        object["metadata"]["uid"] = json!(format!("forged-{}", self.forged));
        match how % 8 {
            2 => object["metadata"]["namespace"] = json!("evil"),
            3 => object["metadata"]["ownerReferences"] = json!([]),
            4 => object["metadata"]["name"] = json!(format!("forged-{}", self.forged)),
            5 => object["metadata"]["annotations"]["prewarm.io/images"] = json!(""),
            6 => object["metadata"]["labels"]["prewarm.io/attempt"] = json!("1"),
            7 => object["metadata"]["ownerReferences"][0]["kind"] = json!("ConfigMap"),
            _ => {}
        }
        let places = AllowedNamespaces { own: Some("prewarmer".into()) };
        let observation = match made {
            WorkerObject::Job(_) => {
                let seen = classify_job(&serde_json::from_value(object).unwrap(), &places);
                Observation::Job(WatchSource::all("jobs"), WatchChange::Applied(seen))
            }
            WorkerObject::Pod(_) => {
                let seen = classify_pod(
                    &serde_json::from_value(object).unwrap(),
                    &places,
                    &Interner::default(),
                );
                Observation::Pod(WatchSource::all("pods"), WatchChange::Applied(seen))
            }
        };
        self.cluster_state.apply(observation, now);
        for (key, worker) in self.cluster_state.workers().values().flatten() {
            self.workers.insert(key.clone(), worker.clone());
        }
    }

    /// Starts another task on a node that has no worker of this one.
    pub(in super::super) fn occupy_node(&mut self, node: u8) {
        let node = format!("n{node:02}");
        if !self.workers.values().any(|worker| worker.node == node)
            && !self.reconciler.expected_nodes().any(|claimed| claimed == node)
        {
            self.overtaken_nodes.insert(node.clone());
            self.busy_nodes.insert(node);
        }
    }

    /// Deletes a node. A node on which a worker runs has ended with that, also if it returns.
    pub(in super::super) fn delete_node(&mut self, node: u8) {
        let node = format!("n{node:02}");
        if self.workers.values().any(|worker| worker.node == node) {
            self.overtaken_nodes.insert(node.clone());
        }
        self.nodes.remove(&node);
    }

    pub(in super::super) fn change_node(&mut self, node: u8, change: impl Fn(&mut NodeInfo)) {
        if let Some(facts) = self.nodes.get_mut(&format!("n{node:02}")) {
            change(facts);
        }
    }

    pub(in super::super) fn make_unready(&mut self, node: u8) {
        let now = self.now;
        self.change_node(node, |facts| (facts.ready, facts.unready_since) = (false, Some(now)));
    }

    /// Recreates a deleted node, or makes an existing one schedulable and ready again.
    pub(in super::super) fn return_node(&mut self, node: u8, of: usize) {
        let name = format!("n{node:02}");
        if usize::from(node) < of {
            self.nodes.insert(name.clone(), NodeInfo::sample(&name));
        }
    }

    /// Lets the API server reject all new pods, for example because of a quota.
    pub(in super::super) fn refuse_pods(&mut self) {
        let quota = ApplyError::Rejected(FailureReason::QuotaExceeded, "exceeded quota".into());
        (self.creates_pods, self.rejection) = (false, Some(quota));
    }

    /// Ends the rejection of pods. The Job controller creates those that were rejected.
    pub(in super::super) fn accept_pods(&mut self) {
        (self.creates_pods, self.rejection) = (true, None);
        let waiting: Vec<WorkerInfo> = self
            .workers
            .values()
            .filter(|worker| !self.pods.contains_key(&worker.key()) && !worker.deleting)
            .cloned()
            .collect();
        for worker in waiting {
            self.overtaken_nodes.insert(worker.node.clone());
            self.create_pod(&worker);
        }
    }

    /// Deletes a worker, as another user would.
    pub(in super::super) fn delete_some_worker(&mut self, which: u8) {
        let keys: Vec<String> = self.workers.keys().cloned().collect();
        if let Some(key) = keys.get(usize::from(which) % keys.len().max(1)) {
            self.workers.remove(key);
            self.pods.remove(key);
            self.creations.remove(key);
        }
    }
}
