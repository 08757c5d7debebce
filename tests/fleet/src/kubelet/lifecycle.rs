//! Admission, end and removal of pods (`pkg/kubelet/lifecycle/predicate.go`, `pod_workers.go`).
//!
//! The end of a pod cancels a pull at the container runtime. A pull that waits for its turn stays in
//! the queue and fails when the turn comes; the pod ends then. Containers that are stopped end after
//! [`KubeletSettings::stop_time`](super::KubeletSettings) with exit code 0, or with 137 at the end of
//! the grace period if that is shorter (assumption: every program handles the signal).

use std::{sync::Arc, time::Duration};

use super::{
    event::Event,
    record::{Life, Pod, Problem, RunState, Stage, Start},
    state::Kubelet,
    status::pod_status,
    timers::Timer,
};
use crate::{
    counters::PodStart,
    ids::PodId,
    output::Report,
    pod::{ContainerKind, Phase, PodSpec, Termination},
    world::World,
};

/// Exit code of a container that was killed.
const KILLED: i32 = 137;

impl Kubelet {
    /// Accepts or rejects a pod that was bound to the node.
    pub(super) fn admit(&mut self, id: PodId, spec: Arc<PodSpec>, world: &mut World) {
        let mut pod = Pod::new(spec, world.now);
        if let Some((reason, message)) = self.rejection(&pod.spec) {
            pod.life = Life::Ended;
            world.event(self.node, &pod.spec, Event::pod_ended(reason, message.clone()));
            let message = format!("Pod was rejected: {message}");
            pod.verdict = Some(Problem { reason, message });
            self.pods.insert(id, pod);
            self.report_pod(id, world);
            return;
        }
        if let Some(deadline) = pod.spec.active_deadline {
            self.timers.set(Timer::Deadline(id), world.now.after(deadline));
        }
        self.pods.insert(id, pod);
        self.request_sync(id, world);
    }

    /// Returns reason and message if the kubelet rejects a pod.
    fn rejection(&self, spec: &PodSpec) -> Option<(&'static str, String)> {
        let used = self.pods.values().filter(|pod| pod.life != Life::Ended).count();
        let capacity = self.settings.max_pods;
        if used >= capacity {
            let message = format!(
                "Node didn't have enough resource: pods, requested: 1, used: {used}, capacity: {capacity}"
            );
            return Some(("OutOfpods", message));
        }
        if spec.untolerated(&self.taints).is_some() {
            let message =
                "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
            return Some(("TaintToleration", message.to_owned()));
        }
        let message = "The node had condition: [DiskPressure]. ";
        self.pressure.is_true.then(|| ("Evicted", message.to_owned()))
    }

    /// Ends a pod because its object was deleted, with another grace period if specified. The pod is
    /// removed when all containers have ended.
    pub(super) fn delete(&mut self, id: PodId, grace: Option<Duration>, world: &mut World) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        pod.is_deleted = true;
        pod.grace = grace.unwrap_or(pod.grace);
        match pod.life {
            Life::Active => self.stop(id, world),
            Life::Stopping => {}
            Life::Ended => self.remove(id, world),
        }
    }

    /// Ends a pod that was active for too long.
    pub(super) fn deadline_exceeded(&mut self, id: PodId, world: &mut World) {
        let Some(pod) = self.pods.get_mut(&id).filter(|pod| pod.life == Life::Active) else {
            return;
        };
        let (reason, message) = (
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline".to_owned(),
        );
        let event = Event { is_warning: false, ..Event::pod_ended(reason, message.clone()) };
        world.event(self.node, &pod.spec, event);
        pod.verdict = Some(Problem { reason, message });
        self.stop(id, world);
    }

    /// Begins to end a pod.
    pub(super) fn stop(&mut self, id: PodId, world: &mut World) {
        let Some(pod) = self.pods.get_mut(&id).filter(|pod| pod.life == Life::Active) else {
            return;
        };
        pod.life = Life::Stopping;
        if matches!(pod.sync.stage, Stage::Pulling(..)) {
            self.with_puller(|puller, host| puller.cancel(id, host, world));
        } else {
            self.kill(id, world);
        }
    }

    /// Stops the containers of a pod whose worker waits for nothing.
    pub(super) fn kill(&mut self, id: PodId, world: &mut World) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        pod.sync.stage = Stage::Idle;
        pod.sync.queue.clear();
        pod.sync.is_pending = false;
        for timer in [Timer::Step(id), Timer::Retry(id), Timer::Relist(id), Timer::Deadline(id)] {
            self.timers.cancel(timer);
        }
        if !pod.has_running_containers() {
            self.stopped(id, world);
            return;
        }
        let containers = pod.spec.containers.iter().zip(&pod.containers);
        for (container, _) in containers.filter(|(_, container)| container.is_running()) {
            let event = Event::killing(&container.name, PodSpec::field_path(container));
            world.event(self.node, &pod.spec, event);
        }
        let wait = self.settings.stop_time.min(pod.grace);
        self.timers.set(Timer::Stopped(id), world.now.after(wait));
    }

    /// Handles the end of the stopped containers: reports the last status, and removes the pod if
    /// its object was deleted.
    pub(super) fn stopped(&mut self, id: PodId, world: &mut World) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        let exit_code = if self.settings.stop_time <= pod.grace { 0 } else { KILLED };
        for (index, container) in (0..).zip(&mut pod.containers) {
            self.timers.cancel(Timer::Exit(id, index));
            if let RunState::Running(started) = container.state {
                let finished = world.now;
                container.state = RunState::Ended(Termination { exit_code, started, finished });
            }
        }
        pod.life = Life::Ended;
        let is_deleted = pod.is_deleted;
        self.report_pod(id, world);
        if is_deleted {
            self.remove(id, world);
        }
    }

    /// Removes a pod that has ended, and its object.
    fn remove(&mut self, id: PodId, world: &mut World) {
        if let Some(pod) = self.pods.remove(&id) {
            self.timers.cancel_pod(id, pod.containers.len());
            world.report(self.node, Report::PodRemoved { pod: pod.spec });
        }
    }

    /// Removes a pod whose object no longer exists, without reports.
    pub(super) fn forget(&mut self, id: PodId, world: &mut World) {
        if let Some(pod) = self.pods.remove(&id) {
            self.timers.cancel_pod(id, pod.containers.len());
            self.with_puller(|puller, host| puller.remove_pod(id, host, world));
        }
    }

    /// Reports the status of a pod if it has changed, and counts the start of the pod.
    pub(super) fn report_pod(&mut self, id: PodId, world: &mut World) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        let status = pod_status(pod, world.now);
        if pod.reported.as_ref() == Some(&status) {
            return;
        }
        let has_started =
            pod.roles().any(|(kind, container)| kind == ContainerKind::App && container.starts > 0);
        if has_started && status.phase != Phase::Pending && pod.start != Start::Counted {
            let start = std::mem::replace(&mut pod.start, Start::Counted);
            world.counters.started(PodStart {
                node: self.node,
                is_workload: pod.spec.is_workload,
                bound: pod.bound,
                running: world.now,
                is_warm: start == Start::Warm,
            });
        }
        pod.reported = Some(status.clone());
        let (pod, status) = (Arc::clone(&pod.spec), Box::new(status));
        world.report(self.node, Report::PodStatus { pod, status });
    }
}
