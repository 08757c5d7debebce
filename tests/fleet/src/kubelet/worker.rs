//! Synchronization of pods (`SyncPod` of the kubelet and of `kuberuntime_manager.go`).
//!
//! Facts that decide the order of events:
//!
//! - A pod has one worker. It reports the status, creates the sandbox, ensures the images of the
//!   image volumes one after another, then starts the next init container, or all containers of the
//!   application one after another. It waits for each pull, so that the images of one pod are pulled
//!   one after another also with parallel pulls.
//! - A container that cannot start does not keep those after it from starting, unless it is an init
//!   container.
//! - The status is reported at the *start* of a synchronization, and when the sandbox is ready
//!   (`OnPodSandboxReady`). A failure is therefore visible from the next synchronization on.
//! - The kubelet notices started and ended containers, and the created sandbox, at its next relist,
//!   and then synchronizes again. That is why the first failed pull is followed at once by
//!   `BackOff`.
//! - After a failure the pod is synchronized again in 10 to 15 seconds. This holds for back-off, too:
//!   the kubelet means to wait for the usual resynchronization then, but counts the successful
//!   configuration of the sandbox as another result.
//!
//! Images of volumes are ensured in each synchronization of a pod that has a sandbox, so that a started
//! pod has a second event about them.

use std::{sync::Arc, time::Duration};

use super::{
    ensure::{Ensured, ImageNeed},
    event::Event,
    puller::PullResult,
    record::{Life, Pod, Problem, Purpose, RunState, Stage, UsedImage},
    state::Kubelet,
    timers::Timer,
};
use crate::{
    ids::PodId,
    pod::{PodSpec, RunTime, Termination},
    time::SimTime,
    world::World,
};

/// Waiting reason of a container whose restart waits.
const CRASH_LOOP_BACKOFF: &str = "CrashLoopBackOff";

impl Kubelet {
    /// Synchronizes a pod now, or after the synchronization under way.
    pub(super) fn request_sync(&mut self, id: PodId, world: &mut World) {
        let Some(pod) = self.pods.get_mut(&id).filter(|pod| pod.life == Life::Active) else {
            return;
        };
        if pod.sync.stage != Stage::Idle {
            pod.sync.is_pending = true;
            return;
        }
        if pod.is_finished() {
            // The containers have ended, but the pod has not.
            self.report_pod(id, world);
            self.stop(id, world);
            return;
        }
        pod.sync.is_pending = false;
        pod.sync.has_failed = false;
        pod.sync.queue = pod.containers_to_start();
        pod.volumes.fill(None);
        let (has_sandbox, is_idle) =
            (pod.has_sandbox, pod.sync.queue.is_empty() && pod.spec.volumes.is_empty());
        self.report_pod(id, world);
        self.timers.cancel(Timer::Retry(id));
        if !has_sandbox {
            self.wait(id, Stage::Sandbox, self.settings.sandbox_time, world.now);
        } else if !is_idle {
            self.set_stage(id, Stage::Volumes(0));
            self.proceed(id, world);
        }
    }

    fn set_stage(&mut self, id: PodId, stage: Stage) {
        if let Some(pod) = self.pods.get_mut(&id) {
            pod.sync.stage = stage;
        }
    }

    /// Continues with a stage after some time.
    fn wait(&mut self, id: PodId, stage: Stage, time: Duration, now: SimTime) {
        self.set_stage(id, stage);
        self.timers.set(Timer::Step(id), now.after(time));
    }

    /// Synchronizes a pod when the kubelet next looks at its containers.
    pub(super) fn relist(&mut self, id: PodId, now: SimTime) {
        let tick = now.next_tick(self.settings.relist_period, self.offset);
        self.timers.set_earlier(Timer::Relist(id), tick);
    }

    /// Handles the end of a wait.
    pub(super) fn step_done(&mut self, id: PodId, world: &mut World) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        match pod.sync.stage {
            Stage::Sandbox => {
                pod.has_sandbox = true;
                pod.sync.stage = Stage::Volumes(0);
                self.report_pod(id, world);
                self.relist(id, world.now);
            }
            Stage::Creating(index) => {
                self.report_container(id, index, Event::created, world);
                self.wait(id, Stage::Starting(index), self.settings.start_time, world.now);
                return;
            }
            Stage::Starting(index) => self.container_started(id, index, world),
            Stage::Idle | Stage::Volumes(_) | Stage::Containers | Stage::Pulling(..) => return,
        }
        self.proceed(id, world);
    }

    /// Makes the next steps of a synchronization until one has to wait.
    fn proceed(&mut self, id: PodId, world: &mut World) {
        while let Some(pod) = self.pods.get_mut(&id) {
            match pod.sync.stage {
                Stage::Volumes(index) => match volume_need(pod, index) {
                    None => pod.sync.stage = Stage::Containers,
                    Some(need) => self.ensure(id, Purpose::Volume(index), &need, world),
                },
                Stage::Containers => match pod.sync.queue.front().copied() {
                    None => {
                        self.end_sync(id, world);
                        return;
                    }
                    Some(index) => self.start_container(id, index, world),
                },
                _ => return,
            }
        }
    }

    fn ensure(&mut self, id: PodId, purpose: Purpose, need: &ImageNeed, world: &mut World) {
        match self.ensure_image(id, need, world) {
            Ensured::Ready(result) => self.image_ready(id, purpose, result, world),
            Ensured::Pulling => self.set_stage(id, Stage::Pulling(purpose, world.now)),
        }
    }

    /// Delivers the results of pulls to their pods.
    pub(super) fn deliver_results(&mut self, world: &mut World) {
        while let Some(PullResult { pod: id, result }) = self.puller.results.pop_front() {
            let Some(pod) = self.pods.get(&id) else {
                continue;
            };
            let Stage::Pulling(purpose, requested) = pod.sync.stage else {
                continue;
            };
            let need = match purpose {
                Purpose::Volume(index) => volume_need(pod, index),
                Purpose::Container(index) => container_need(pod, index),
            };
            if let Some(need) = need {
                let is_active = pod.life == Life::Active;
                let result = self.image_pulled(id, &need, requested, result, world);
                if is_active || result.is_err() {
                    self.image_ready(id, purpose, result, world);
                }
                if is_active {
                    self.proceed(id, world);
                } else {
                    self.kill(id, world);
                }
            }
        }
    }

    /// Continues after an image was ensured.
    fn image_ready(
        &mut self,
        id: PodId,
        purpose: Purpose,
        result: Result<UsedImage, Problem>,
        world: &mut World,
    ) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        match (purpose, result) {
            (Purpose::Volume(index), result) => {
                pod.sync.has_failed |= result.is_err();
                if let Some(volume) = pod.volumes.get_mut(index) {
                    *volume = Some(result);
                }
                pod.sync.stage = Stage::Volumes(index.saturating_add(1));
            }
            (Purpose::Container(index), Ok(image)) => {
                self.create_container(id, index, image, world);
            }
            (Purpose::Container(index), Err(problem)) => {
                let reason = problem.reason;
                self.report_container(id, index, |path| Event::failed(reason, path), world);
                self.container_failed(id, index, problem);
            }
        }
    }

    /// Starts the container at the front of the queue, unless its restart waits or a volume lacks
    /// its image.
    fn start_container(&mut self, id: PodId, index: usize, world: &mut World) {
        let limits = self.backoff_limits();
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        let spec = Arc::clone(&pod.spec);
        let (Some(container), Some(container_spec)) =
            (pod.containers.get_mut(index), spec.containers.get(index))
        else {
            pod.sync.queue.pop_front();
            return;
        };
        if let Some(end) = container.ended() {
            if container.restart_backoff.waits_since(limits, end.finished, world.now) {
                let (name, pod_name) = (&container_spec.name, pod.full_name());
                let path = PodSpec::field_path(container_spec);
                let event = Event::restart_backoff(name, &pod_name, path);
                let message = event.message.clone();
                world.event(self.node, &spec, event);
                self.container_failed(id, index, Problem { reason: CRASH_LOOP_BACKOFF, message });
                return;
            }
            container.restart_backoff.extend(limits, end.finished, world.now);
        }
        if let Some(problem) = failed_mount(pod, index) {
            self.container_failed(id, index, problem);
        } else if let Some(need) = container_need(pod, index) {
            self.ensure(id, Purpose::Container(index), &need, world);
        }
    }

    /// Records why a container does not start, and continues with the next one. An init container is
    /// always the last one of the queue.
    fn container_failed(&mut self, id: PodId, index: usize, problem: Problem) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        if let Some(container) = pod.containers.get_mut(index) {
            container.problem = Some(problem);
        }
        pod.sync.has_failed = true;
        pod.sync.stage = Stage::Containers;
        pod.sync.queue.pop_front();
    }

    fn create_container(&mut self, id: PodId, index: usize, image: UsedImage, world: &World) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        let mounted: Vec<_> = mounted_images(pod, index)
            .filter_map(|volume| volume.as_ref().ok().map(|image| image.id))
            .collect();
        if pod.spec.is_workload {
            for used in mounted.iter().chain([&image.id]) {
                self.store.mark_used(used);
            }
        }
        if let Some(container) = pod.containers.get_mut(index) {
            container.problem = None;
            container.image = Some(image);
            container.mounted = mounted;
        }
        self.wait(id, Stage::Creating(index), self.settings.create_time, world.now);
    }

    fn container_started(&mut self, id: PodId, index: usize, world: &mut World) {
        self.report_container(id, index, Event::started, world);
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        if let Some(container) = pod.containers.get_mut(index) {
            container.last = container.ended();
            container.state = RunState::Running(world.now);
            container.starts = container.starts.saturating_add(1);
        }
        if let Some(RunTime::Limited { time, .. }) =
            pod.spec.containers.get(index).map(|container| container.run_time)
        {
            self.timers.set(Timer::Exit(id, index), world.now.after(time));
        }
        pod.sync.queue.pop_front();
        pod.sync.stage = Stage::Containers;
        self.relist(id, world.now);
    }

    /// Handles the end of a container after its run time.
    pub(super) fn container_exited(&mut self, id: PodId, index: usize, world: &World) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        let run_time = pod.spec.containers.get(index).map(|container| container.run_time);
        if let Some(container) = pod.containers.get_mut(index)
            && let RunState::Running(started) = container.state
            && let Some(RunTime::Limited { exit_code, .. }) = run_time
        {
            let finished = world.now;
            container.state = RunState::Ended(Termination { exit_code, started, finished });
            self.relist(id, world.now);
        }
    }

    fn end_sync(&mut self, id: PodId, world: &mut World) {
        let Some(pod) = self.pods.get_mut(&id) else {
            return;
        };
        pod.sync.stage = Stage::Idle;
        let (has_failed, is_pending) = (pod.sync.has_failed, pod.sync.is_pending);
        if has_failed {
            let period = self.settings.retry_period;
            let jitter = self.random.duration_below(period.checked_div(2).unwrap_or_default());
            let at = world.now.after(period.saturating_add(jitter));
            self.timers.set(Timer::Retry(id), at);
        }
        if is_pending {
            // No further one is pending afterwards: only timers request one.
            self.request_sync(id, world);
        }
    }

    /// Adds an event about a container, by the path of the container.
    pub(super) fn report_container(
        &self,
        id: PodId,
        index: usize,
        event: impl FnOnce(String) -> Event,
        world: &mut World,
    ) {
        if let Some(pod) = self.pods.get(&id)
            && let Some(container) = pod.spec.containers.get(index)
        {
            world.event(self.node, &pod.spec, event(PodSpec::field_path(container)));
        }
    }
}

fn volume_need(pod: &Pod, index: usize) -> Option<ImageNeed> {
    let volume = pod.spec.volumes.get(index)?;
    Some(ImageNeed { image: volume.image.clone(), policy: volume.pull_policy, field_path: None })
}

fn container_need(pod: &Pod, index: usize) -> Option<ImageNeed> {
    let container = pod.spec.containers.get(index)?;
    Some(ImageNeed {
        image: container.image.clone(),
        policy: container.pull_policy,
        field_path: Some(PodSpec::field_path(container)),
    })
}

/// Iterates over the images of the volumes that a container mounts.
fn mounted_images(pod: &Pod, index: usize) -> impl Iterator<Item = &Result<UsedImage, Problem>> {
    let volumes = pod.spec.volumes.iter().zip(&pod.volumes);
    let mounts = pod.spec.containers.get(index).map(|spec| spec.mounts.as_slice());
    let mounts = mounts.unwrap_or_default();
    volumes.filter(|(volume, _)| mounts.contains(&volume.name)).filter_map(|(_, i)| i.as_ref())
}

/// Returns the problem of the first image volume that a container mounts and that has no image.
fn failed_mount(pod: &Pod, index: usize) -> Option<Problem> {
    mounted_images(pod, index).find_map(|image| image.as_ref().err().cloned())
}
