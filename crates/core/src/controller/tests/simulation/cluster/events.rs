//! Events in the simulated cluster with several tasks: pods end, nodes and tasks change, the
//! controller crashes.

use std::sync::Arc;

use serde_json::json;

use super::{
    super::{
        super::super::{Controller, observation::Observation, watch::WatchChange},
        PodResult,
    },
    ClusterSimulation, Responses, node_name,
};
use crate::{
    node::NodeInfo,
    task::{PrewarmTask, PrewarmTaskSpec, WorkerKind},
};

impl ClusterSimulation {
    pub(in super::super::super) fn create_task(&mut self, spec: PrewarmTaskSpec) {
        let number = self.next();
        let uid = format!("uid-{number}");
        let namespace = if number.is_multiple_of(3) { "bank" } else { "shop" };
        let created = self.now.to_string();
        let metadata = json!({"name": format!("t{number}"), "namespace": namespace, "uid": uid,
            "resourceVersion": number.to_string(), "creationTimestamp": created});
        let task = PrewarmTask {
            metadata: serde_json::from_value(metadata).unwrap(),
            ..PrewarmTask::new("", spec)
        };
        self.tasks.insert(uid.clone(), (task, None));
        self.deliver_task(&uid);
    }

    pub(in super::super::super) fn change_task(
        &mut self,
        which: u8,
        change: impl Fn(&mut PrewarmTaskSpec),
    ) {
        let uids: Vec<String> = self.tasks.keys().cloned().collect();
        let uid = &uids[usize::from(which) % uids.len()];
        let version = self.next().to_string();
        let (task, _) = self.tasks.get_mut(uid).unwrap();
        change(&mut task.spec);
        task.metadata.resource_version = Some(version);
        self.deliver_task(uid);
    }

    pub(in super::super::super) fn delete_node(&mut self, node: u8) {
        if let Some(node) = self.nodes.remove(&node_name(node)) {
            self.handle(Observation::Node(WatchChange::Deleted(node)));
        }
    }

    pub(in super::super::super) fn return_node(&mut self, node: u8) {
        let name = node_name(node);
        self.nodes.insert(name.clone(), NodeInfo::sample(&name));
        self.handle(Observation::Node(WatchChange::Applied(NodeInfo::sample(&name))));
    }

    pub(in super::super::super) fn set_responses(&mut self, when: Responses) {
        self.responses = when;
    }

    /// Crashes the controller and starts a successor.
    pub(in super::super::super) fn crash(&mut self) {
        self.has_crashed = true;
        self.late.clear();
        self.controller = Controller::new(5, Arc::clone(&self.settings));
        // The start takes longer than the minimum interval between two writes.
        self.advance_time(1000);
        self.deliver_lists();
    }

    /// Lets the pod of one of the active workers reach a result.
    pub(in super::super::super) fn finish_pod(&mut self, which: u8, end: PodResult) {
        let active: Vec<usize> =
            (0..self.workers.len()).filter(|at| self.workers[*at].is_active()).collect();
        if active.is_empty() {
            return;
        }
        let at = active[usize::from(which) % active.len()];
        let worker = &mut self.workers[at];
        let node = worker.node().to_owned();
        let uid = worker.task_uid().to_owned();
        let images = &self.tasks[&uid].0.spec.images;
        let mut failed = false;
        if end == PodResult::Rejected {
            worker.pod["status"] = json!({"phase": "Failed", "reason": "OutOfpods", "message": "too many pods",
                "containerStatuses": worker.pod["status"]["containerStatuses"]});
        } else {
            for container in worker.pod["status"]["containerStatuses"].as_array_mut().unwrap() {
                let name = container["name"].as_str().unwrap();
                let image: usize = name.strip_prefix("image-").unwrap().parse().unwrap();
                let message = match end {
                    PodResult::Permanent if image.is_multiple_of(2) => Some("not found"),
                    PodResult::Transient if image.is_multiple_of(2) => {
                        Some("dial tcp: i/o timeout")
                    }
                    _ => None,
                };
                failed |= message.is_some();
                container["state"] = if let Some(message) = message {
                    json!({"waiting": {"reason": "ErrImagePull", "message": message}})
                } else {
                    self.pulled.insert((uid.clone(), node.clone(), images[image].clone()));
                    json!({"terminated": {"exitCode": 0, "reason": "Completed"}})
                };
            }
            worker.pod["status"]["phase"] = json!(if failed { "Pending" } else { "Succeeded" });
        }
        if worker.kind == WorkerKind::Job && !worker.is_active() {
            let result = if end == PodResult::Rejected { "Failed" } else { "Complete" };
            worker.object["status"] = json!({"conditions": [{"type": result, "status": "True"}]});
        }
        self.deliver_worker(at);
    }
}
