//! Fields that are kept of workers and their pods. A typed Pod of 46 KB is reduced to 1 KB.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::{
    TASK_UID_LABEL,
    pod::{INSTALL_CONTAINER, image_index},
};
use crate::{
    node::Interner,
    slim::{ContainerStatus, SlimJob, SlimPod},
    task::WorkerKind,
};

/// Label with which the Job controller marks the pods of a Job.
pub(super) const JOB_NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// Worker: a Job or a bare pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Kind of the worker.
    pub kind: WorkerKind,
    /// Namespace of the worker.
    pub namespace: String,
    /// Name of the worker.
    pub name: String,
    /// UID of the worker.
    pub uid: Box<str>,
    /// UID of the task.
    pub task_uid: String,
    /// Name of the task as a label value, shortened where necessary.
    pub task: Box<str>,
    /// Namespace of the task.
    pub task_namespace: Box<str>,
    /// Node that the worker is pinned to.
    pub node: String,
    /// Index of the batch.
    pub batch: u32,
    /// Attempt on the node, from 0.
    pub attempt: u8,
    /// Part of the images, from 0.
    pub part: u16,
    /// Images that the worker pulls, by index in the task.
    pub images: Box<[u16]>,
    /// Creation time, by the API server's clock.
    pub created: Option<Timestamp>,
    /// Time at which the worker was first seen, by the controller's clock. Timeouts count from
    /// here.
    pub first_seen: Option<Timestamp>,
    /// Set while the worker is being deleted.
    pub deleting: bool,
    /// Set when no container of the worker runs any more.
    pub finished: bool,
    /// Reason and message of a Job's `Failed` condition.
    pub failure: Option<Box<(String, String)>>,
}

impl WorkerInfo {
    /// Returns namespace and name, the key of its pod.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Reports whether the worker is in another namespace than its task.
    #[must_use]
    pub fn is_outside_task_namespace(&self) -> bool {
        self.namespace != *self.task_namespace
    }

    pub(super) fn with_pod_status(self, pod: &SlimPod) -> Self {
        Self { finished: PodPhase::from_pod(pod).is_final(), ..self }
    }

    pub(super) fn with_job_status(self, job: &SlimJob) -> Self {
        let is = |name: &str| {
            job.status.conditions.iter().find(|c| c.type_ == name && c.status == "True")
        };
        let failed = is("Failed").map(|c| {
            Box::new((c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default()))
        });
        Self { finished: is("Complete").is_some() || failed.is_some(), failure: failed, ..self }
    }
}

/// Phase of a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodPhase {
    /// Not all containers have started.
    #[default]
    Pending,
    /// At least one container runs.
    Running,
    /// All containers have exited with code 0.
    Succeeded,
    /// All containers have exited, at least one of them with an error.
    Failed,
}

impl PodPhase {
    /// Returns the phase in the status of a pod.
    #[must_use]
    pub fn from_pod(pod: &SlimPod) -> Self {
        match pod.status.phase.as_str() {
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Pending,
        }
    }

    /// Reports whether no container of the pod runs any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Reason and message, `None` where both are absent.
type ReasonAndMessage = Option<Box<(String, String)>>;

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Waiting, with the kubelet's reason and message.
    Waiting(ReasonAndMessage),
    /// Running: its image is present.
    Running,
    /// Exited, with exit code, reason and message. Reason and message are not kept for exit code 0.
    Terminated(i32, ReasonAndMessage),
}

impl ContainerState {
    /// Returns a waiting state with the kubelet's reason and message.
    #[must_use]
    pub fn waiting(reason: &str, message: &str) -> Self {
        Self::Waiting(Some(Box::new((reason.to_owned(), message.to_owned()))))
    }

    /// Returns a terminated state with exit code 0.
    #[must_use]
    pub fn succeeded() -> Self {
        Self::Terminated(0, None)
    }
}

/// Container of a worker pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Index of the image in the task.
    pub image_index: u16,
    /// State of the container.
    pub state: ContainerState,
    /// Image ID of the container runtime, set once the container was created.
    pub image_id: Option<Arc<str>>,
}

/// Worker pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodInfo {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Name of the worker: the Job's, or the bare pod's own.
    pub worker: String,
    /// UID of the task.
    pub task_uid: String,
    /// Phase of the pod.
    pub phase: PodPhase,
    /// Reason with which the kubelet rejected or evicted the pod.
    pub reason: String,
    /// Message that belongs to `reason`.
    pub message: String,
    /// Creation time.
    pub created: Option<Timestamp>,
    /// Containers that pull images.
    pub containers: Box<[ContainerInfo]>,
    /// State of the init container that installs the helper.
    pub install_state: Option<ContainerState>,
}

impl PodInfo {
    /// Reduces a pod to the needed fields.
    #[must_use]
    pub fn new(pod: &SlimPod, texts: &Interner) -> Self {
        let status = &pod.status;
        let label = |name: &str| pod.labels().get(name).cloned();
        let installer = |status: &&ContainerStatus| status.name == INSTALL_CONTAINER;
        let container = |status: &ContainerStatus| {
            let image_id = (!status.image_id.is_empty()).then(|| texts.intern(&status.image_id));
            Some(ContainerInfo {
                image_index: image_index(&status.name)?,
                state: container_state(status),
                image_id,
            })
        };
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            worker: label(JOB_NAME_LABEL).unwrap_or_else(|| pod.name_any()),
            task_uid: label(TASK_UID_LABEL).unwrap_or_default(),
            phase: PodPhase::from_pod(pod),
            reason: status.reason.clone(),
            message: status.message.clone(),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            containers: status.container_statuses.iter().filter_map(container).collect(),
            install_state: status
                .init_container_statuses
                .iter()
                .find(installer)
                .map(container_state),
        }
    }

    /// Returns namespace and name of the pod's worker.
    #[must_use]
    pub fn worker_key(&self) -> String {
        format!("{}/{}", self.namespace, self.worker)
    }

    /// Reports whether nothing is being pulled: each container that has not exited is in the
    /// kubelet's backoff, or waits for a cause that the kubelet cannot resolve now.
    #[must_use]
    pub fn is_in_backoff(&self) -> bool {
        let idle = |state: &ContainerState| match state {
            ContainerState::Waiting(Some(words)) => {
                !matches!(words.0.as_str(), "" | "ContainerCreating" | "PodInitializing")
            }
            _ => false,
        };
        if self.phase.is_final() {
            return false;
        }
        if let Some(install) = self
            .install_state
            .as_ref()
            .filter(|state| !matches!(state, ContainerState::Terminated(0, _)))
        {
            return idle(install);
        }
        let mut left = self
            .containers
            .iter()
            .filter(|c| !matches!(c.state, ContainerState::Terminated(..)))
            .peekable();
        left.peek().is_some() && left.all(|container| idle(&container.state))
    }

    /// Returns the container of an image.
    #[must_use]
    pub fn container(&self, image: u16) -> Option<&ContainerInfo> {
        self.containers.iter().find(|container| container.image_index == image)
    }
}

fn container_state(status: &ContainerStatus) -> ContainerState {
    let words = |reason: &Option<String>, message: &Option<String>| {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        (reason.is_some() || message.is_some()).then(|| Box::new((text(reason), text(message))))
    };
    let state = &status.state;
    if let Some(end) = &state.terminated {
        let kept = if end.exit_code == 0 { None } else { words(&end.reason, &end.message) };
        ContainerState::Terminated(end.exit_code, kept)
    } else if state.running.is_some() {
        ContainerState::Running
    } else {
        ContainerState::Waiting(
            state.waiting.as_ref().and_then(|waiting| words(&waiting.reason, &waiting.message)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(states: Vec<ContainerState>) -> PodInfo {
        let facts =
            |(image, state): (u16, _)| ContainerInfo { image_index: image, state, image_id: None };
        PodInfo { containers: (0..).zip(states).map(facts).collect(), ..PodInfo::default() }
    }

    #[test]
    fn backoff_requires_all_unfinished_containers_to_wait() {
        let (bad, again) = (
            || ContainerState::waiting("ErrImagePull", "dial tcp: i/o timeout"),
            || ContainerState::waiting("ImagePullBackOff", "Back-off pulling image"),
        );
        let creating = || ContainerState::waiting("ContainerCreating", "");
        assert!(pod(vec![bad(), again(), ContainerState::succeeded()]).is_in_backoff());
        assert!(!pod(vec![bad(), creating()]).is_in_backoff(), "the second is being pulled");
        assert!(!pod(vec![creating()]).is_in_backoff());
        assert!(!pod(vec![ContainerState::Waiting(None)]).is_in_backoff());
        assert!(!pod(vec![]).is_in_backoff(), "no container status yet");
        assert!(!pod(vec![ContainerState::succeeded()]).is_in_backoff());
        assert!(!pod(vec![ContainerState::Running]).is_in_backoff());
        assert!(!PodInfo { phase: PodPhase::Failed, ..pod(vec![bad()]) }.is_in_backoff());
    }

    #[test]
    fn install_container_in_backoff_puts_the_pod_in_backoff() {
        let initializing = || ContainerState::waiting("PodInitializing", "");
        let with = |install| PodInfo { install_state: Some(install), ..pod(vec![initializing()]) };
        assert!(with(ContainerState::waiting("ImagePullBackOff", "")).is_in_backoff());
        assert!(!with(initializing()).is_in_backoff());
        assert!(!with(ContainerState::Running).is_in_backoff());
        assert!(!with(ContainerState::succeeded()).is_in_backoff());
    }
}
