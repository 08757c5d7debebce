//! The simulated API server: applies effects, and asserts what they may do.

use std::sync::Arc;

use kube::ResourceExt;

use super::{
    super::super::{
        effect::{
            ApplyError, Effect, EffectOutput, StatusWrite, WorkerCreation, WorkerDeletion,
            WorkersDeletion,
        },
        propagation::Propagation,
        settings::WorkerNamespace,
        worker_cache::may_pull,
    },
    Simulation, Terminating,
};
use crate::{
    task::{BatchPolicy, WorkerKind, batches::NodeState},
    worker::{
        ContainerInfo, ContainerState, PodInfo, WorkerInfo,
        provenance::{self, AllowedNamespaces},
    },
};

impl Simulation {
    /// Reports whether the API server refuses to store the effect.
    pub(super) fn is_unstorable(&self, effect: &Effect) -> bool {
        let has = |what: &str| self.unstorable.contains(&what);
        match effect {
            Effect::CreatePlan(_) => has("plan"),
            Effect::WriteStatus(write) if write.status.phase.is_terminal() => has("end"),
            Effect::WriteStatus(write) => has("status") && !write.status.node_states.is_empty(),
            _ => false,
        }
    }

    pub(super) fn apply_effect(&mut self, effect: &Effect) -> Result<EffectOutput, ApplyError> {
        if self.is_unstorable(effect) {
            self.unstored_writes += 1;
            return Err(ApplyError::Unstorable("spec: Too long".into()));
        }
        match effect {
            Effect::CheckNodes(_) => unreachable!("the settings enable no node checks"),
            Effect::CreatePlan(plan) => {
                self.plan.get_or_insert_with(|| Arc::clone(plan));
            }
            Effect::CreateWorker(worker) => return self.create_worker(worker),
            Effect::DryRun(_) => {
                self.dry_runs += 1;
                return self.rejection.clone().map_or(Ok(EffectOutput::default()), Err);
            }
            Effect::DeleteWorker(deletion) => {
                let WorkerDeletion { namespace, name, uid, propagation, .. } = &**deletion;
                let which = |worker: &WorkerInfo| {
                    (&worker.namespace, &worker.name, &worker.uid) == (namespace, name, uid)
                };
                let mut nodes = self.workers.values().filter(|worker| which(worker));
                let node = nodes.next().map(|worker| worker.node.clone());
                self.deletions.extend(node.map(|node| (Some(node), *propagation)));
                self.delete_workers(which, *propagation);
            }
            Effect::DeleteWorkers(deletion) => {
                self.deletions.push((None, deletion.propagation));
                self.delete_collection(deletion);
            }
            Effect::WriteStatus(write) => return Ok(self.write_status(write)),
            Effect::DeleteTask(_) => unreachable!("a reconcile never deletes its task"),
        }
        Ok(EffectOutput::default())
    }

    fn write_status(&mut self, write: &StatusWrite) -> EffectOutput {
        assert!(!self.phase().is_terminal(), "a final phase changed to {:?}", write.status.phase);
        for (index, letter) in self.node_states().bytes().enumerate() {
            // A short status has no node states.
            let Some(after) = write.status.node_states.as_bytes().get(index).copied() else {
                continue;
            };
            let is_final = NodeState::from_byte(letter).is_final();
            assert!(
                !is_final || after == letter,
                "node {index} ended as {} and as {}",
                letter as char,
                after as char
            );
        }
        if let Some(last) = self.writes.last() {
            assert!(
                self.now.duration_since(*last).as_millis() >= 1000,
                "two writes within a second"
            );
        }
        self.writes.push(self.now);
        for told in &write.events {
            if !self.events.contains(&told.phase) {
                self.events.push(told.phase);
            }
        }
        self.version += 1;
        self.task.status = Some(write.status.clone());
        self.task.metadata.resource_version = Some(self.version.to_string());
        EffectOutput { resource_version: self.task.resource_version(), check_results: None }
    }

    fn create_worker(&mut self, creation: &WorkerCreation) -> Result<EffectOutput, ApplyError> {
        let is_job = creation.kind == WorkerKind::Job;
        let places = AllowedNamespaces { own: Some(self.shared.settings.own_namespace.clone()) };
        let facts = if is_job {
            provenance::verify_job(&serde_json::from_slice(&creation.body).unwrap(), &places)
                .unwrap()
        } else {
            provenance::verify_pod(&serde_json::from_slice(&creation.body).unwrap(), &places)
                .unwrap()
                .worker
        };
        provenance::verify_against_task(&facts, &self.task).unwrap();
        if let Some(refusal) =
            self.rejection.clone().filter(|_| !is_job && facts.namespace == "shop")
        {
            return Err(refusal);
        }
        let key = facts.key();
        if self.workers.contains_key(&key) {
            return Ok(EffectOutput::default());
        }
        self.assert_may_create(&facts);
        self.history.push((facts.node.clone(), facts.batch));
        self.attempt_starts.entry((facts.node.clone(), facts.attempt)).or_insert(self.now);
        *self.creations.entry(key.clone()).or_default() += 1;
        assert_eq!(self.creations[&key], 1, "{key} was created twice");
        if self.creates_pods || facts.namespace != "shop" {
            self.create_pod(&facts);
        }
        self.sequence += 1;
        let uid = format!("worker-{}", self.sequence).into();
        self.workers.insert(
            key,
            WorkerInfo { created: Some(self.now), first_seen: Some(self.now), uid, ..facts },
        );
        Ok(EffectOutput::default())
    }

    pub(super) fn create_pod(&mut self, worker: &WorkerInfo) {
        self.sequence += 1;
        let container = |image: &u16| ContainerInfo {
            image_index: *image,
            state: ContainerState::waiting("ContainerCreating", ""),
            image_id: None,
        };
        let pod = PodInfo {
            namespace: worker.namespace.clone(),
            name: format!("{:06}", self.sequence),
            worker: worker.name.clone(),
            task_uid: worker.task_uid.clone(),
            containers: worker.images.iter().map(container).collect(),
            ..PodInfo::default()
        };
        self.pods.insert(worker.key(), pod);
    }

    /// Asserts that no ended node is started again, and that a batch waits for the one before it.
    fn assert_may_create(&self, worker: &WorkerInfo) {
        let plan = self.plan.as_ref().expect("the plan precedes the workers");
        let index = plan
            .nodes
            .iter()
            .position(|node| *node == worker.node)
            .expect("the node is in the plan");
        let letter = self
            .node_states()
            .as_bytes()
            .get(index)
            .map_or(NodeState::Waiting, |l| NodeState::from_byte(*l));
        assert!(
            !letter.is_final(),
            "{} was warmed again after its result was recorded",
            worker.node
        );
        assert!(
            !self.busy_nodes.contains(&worker.node),
            "{} is in use by another task",
            worker.node
        );
        let on_node = |object: &&Terminating| match object {
            Terminating::Worker(_) => false,
            Terminating::Pod(job, pod) => job.node == worker.node && !pod.phase.is_final(),
        };
        let orphan = self.garbage_collector.waiting().find(on_node);
        assert!(orphan.is_none(), "{} was started while {orphan:?} pulls", worker.node);
        let in_line = |node: &String| !self.overtaken_nodes.contains(node);
        if self.task.spec.batch_policy == BatchPolicy::Barrier
            && worker.attempt == 0
            && in_line(&worker.node)
        {
            let first = index / plan.at_once as usize * plan.at_once as usize;
            let earlier = |other: &&WorkerInfo| {
                other.attempt == 0
                    && in_line(&other.node)
                    && plan.nodes[..first].contains(&other.node)
                    && !other.deleting
            };
            let open = |other: &WorkerInfo| {
                let pod = &self.pods.get(&other.key());
                pod.is_some_and(|pod| {
                    pod.containers
                        .iter()
                        .all(|c| c.state == ContainerState::waiting("ContainerCreating", ""))
                }) && self.nodes.get(&other.node).is_some_and(|node| node.unready_since.is_none())
            };
            // Nodes that have timed out do not count.
            let in_time = |other: &&WorkerInfo| {
                let begun = self.attempt_starts[&(other.node.clone(), other.attempt)];
                self.now.duration_since(begun).as_secs() < 60
            };
            let mut at_work = self.workers.values().filter(earlier).filter(in_time);
            let begun = at_work.find(|other| may_pull(other, &self.pods) && open(other));
            assert!(begun.is_none(), "{} was started while {begun:?} was running", worker.node);
        }
    }

    /// Deletes workers by collection: Jobs in the background after their pods. A response that is
    /// lost may be the one for the pods, so that the Jobs are left.
    fn delete_collection(&mut self, deletion: &WorkersDeletion) {
        let WorkersDeletion { kind, namespace, batch, propagation } = deletion;
        let which = |worker: &WorkerInfo| {
            worker.kind == *kind
                && worker.namespace == *namespace
                && batch.is_none_or(|batch| worker.batch == batch)
        };
        if (*kind, *propagation) == (WorkerKind::Job, Propagation::Background) {
            for worker in self.workers.values().filter(|worker| which(worker)) {
                let pod = self.pods.remove(&worker.key());
                let pulls = pod.is_some_and(|pod| !pod.phase.is_final());
                assert!(!pulls, "the pod of {} was deleted while it pulls", worker.node);
            }
            if self.lose_responses && self.garbage_collector.next_number(1) == 0 {
                return;
            }
        }
        self.delete_workers(which, *propagation);
    }

    /// Deletes the workers that match: those in the foreground after their pods, and Jobs in the
    /// background at once. Asserts that their results are recorded, and that nothing pulls any more
    /// in what outlives its Job.
    fn delete_workers(&mut self, which: impl Fn(&WorkerInfo) -> bool, propagation: Propagation) {
        self.assert_may_delete(&which);
        let background = propagation == Propagation::Background;
        for worker in self.workers.values_mut().filter(|worker| which(worker)) {
            if !worker.deleting {
                worker.deleting = true;
                if worker.kind == WorkerKind::Pod || !background {
                    self.garbage_collector.add(Terminating::Worker(worker.key()));
                }
            }
        }
        let jobs = |worker: &WorkerInfo| worker.kind == WorkerKind::Job && which(worker);
        for (key, job) in self.workers.extract_if(.., |_, worker| background && jobs(worker)) {
            if let Some(pod) = self.pods.get(&key) {
                self.garbage_collector.add(Terminating::Pod(Box::new(job), Box::new(pod.clone())));
            } else {
                assert!(job.finished, "the Job of {} may still create a pod", job.node);
            }
        }
        self.assert_no_orphan_pulls();
    }

    /// Asserts that no pod that may pull outlives its Job.
    fn assert_no_orphan_pulls(&self) {
        for object in self.garbage_collector.waiting() {
            if let Terminating::Pod(job, pod) = object {
                assert!(pod.phase.is_final(), "a pod on {} pulls without its Job", job.node);
            }
        }
    }

    fn assert_may_delete(&mut self, which: impl Fn(&WorkerInfo) -> bool) {
        let letters = self.node_states().as_bytes().to_vec();
        let nodes = self.plan.as_ref().map(|plan| plan.nodes.clone()).unwrap_or_default();
        for worker in self.workers.values().filter(|worker| which(worker)) {
            let index = nodes.iter().position(|node| *node == worker.node);
            let letter = index
                .and_then(|index| letters.get(index))
                .map_or(NodeState::Waiting, |l| NodeState::from_byte(*l));
            let recorded = letter.is_final() || letter.attempt() > worker.attempt;
            let elsewhere = self.shared.settings.worker_namespace == WorkerNamespace::Fallback;
            // A worker with one part of the node's images may be deleted earlier, when its pod has
            // ended or waits in the kubelet's backoff: the next part replaces it. A crash then
            // repeats the part.
            let in_parts = self.task.spec.images.len() > self.shared.settings.worker.images_per_pod;
            let replaced = in_parts && !self.pods.get(&worker.key()).is_some_and(is_pulling);
            // Nothing can be recorded where the API server stores no status, or for a worker whose
            // annotation another user has emptied.
            let unrecordable = !self.unstorable.is_empty() || worker.images.is_empty();
            assert!(
                recorded || self.task.spec.cancel || elsewhere || replaced || unrecordable,
                "{} was deleted before its result was recorded",
                worker.node
            );
            if !recorded {
                self.creations.remove(&worker.key());
            }
        }
    }
}

/// Reports whether a container of the pod has no result yet.
pub(super) fn is_pulling(pod: &PodInfo) -> bool {
    !pod.phase.is_final()
        && pod
            .containers
            .iter()
            .any(|container| container.state == ContainerState::waiting("ContainerCreating", ""))
}
