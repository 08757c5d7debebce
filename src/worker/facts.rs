//! What is kept of workers and their pods: a typed Pod of 46 KB comes down to a kilobyte.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::{
    TASK_UID_LABEL,
    pod::{INSTALL_CONTAINER, image_index},
};
use crate::{
    node::Interner,
    reduced::{ContainerStatus, ReducedJob, ReducedPod},
    task::WorkerKind,
};

/// The label by which the Job controller marks a Job's pods.
pub(super) const JOB_NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// A worker: a Job, or a bare pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerFacts {
    /// What it is.
    pub kind: WorkerKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its own UID.
    pub uid: Box<str>,
    /// The UID of its task.
    pub task_uid: String,
    /// Its task's name, as a label has it.
    pub task: Box<str>,
    /// Its task's namespace.
    pub task_namespace: Box<str>,
    /// The node that it is pinned to.
    pub node: String,
    /// The index of its batch.
    pub batch: u32,
    /// Which try on the node it is, from 0.
    pub attempt: u8,
    /// Which part of the images it pulls, from 0.
    pub part: u16,
    /// The images that it pulls, by their index in the task.
    pub asked: Box<[u16]>,
    /// When it was created, by the API server's clock.
    pub created: Option<Timestamp>,
    /// Since when it is known, by the controller's clock: time-outs count from here.
    pub since: Option<Timestamp>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether nothing of it runs any more.
    pub finished: bool,
    /// Reason and message of a Job's `Failed` condition.
    pub failed: Option<Box<(String, String)>>,
}

impl WorkerFacts {
    /// Namespace and name, by which its pod is found.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it is in another namespace than its task.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.namespace != *self.task_namespace
    }

    pub(super) fn with_pod_status(self, pod: &ReducedPod) -> Self {
        Self { finished: PodPhase::of(pod).is_final(), ..self }
    }

    pub(super) fn with_job_status(self, job: &ReducedJob) -> Self {
        let is = |name: &str| job.status.conditions.iter().find(|c| c.type_ == name && c.status == "True");
        let failed = is("Failed")
            .map(|c| Box::new((c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default())));
        Self { finished: is("Complete").is_some() || failed.is_some(), failed, ..self }
    }
}

/// A pod's phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodPhase {
    /// Its containers have not all started.
    #[default]
    Pending,
    /// One of them runs.
    Running,
    /// All ended well.
    Succeeded,
    /// All ended, and not all well.
    Failed,
}

impl PodPhase {
    fn of(pod: &ReducedPod) -> Self {
        match pod.status.phase.as_str() {
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Pending,
        }
    }

    /// Whether nothing of the pod runs any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Reason and message, where there is either.
type Words = Option<Box<(String, String)>>;

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// It waits, with the kubelet's reason and message.
    Waiting(Words),
    /// It runs: its image is there.
    Running,
    /// It ended, with exit code, reason and message; the words of a good end are not kept.
    Terminated(i32, Words),
}

impl ContainerState {
    /// It waits for what the kubelet says.
    #[must_use]
    pub fn waiting(reason: &str, message: &str) -> Self {
        Self::Waiting(Some(Box::new((reason.to_owned(), message.to_owned()))))
    }

    /// It ended well.
    #[must_use]
    pub fn done() -> Self {
        Self::Terminated(0, None)
    }
}

/// A container of a worker pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// The index of its image in the task.
    pub image: u16,
    /// Where it stands.
    pub state: ContainerState,
    /// The runtime's id of its image, where it was created.
    pub image_id: Option<Arc<str>>,
}

/// A worker pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The worker that it belongs to: its Job, or itself.
    pub worker: String,
    /// The UID of its task.
    pub task_uid: String,
    /// Its phase.
    pub phase: PodPhase,
    /// The kubelet's reason for refusing or evicting it.
    pub reason: String,
    /// The message beside it.
    pub message: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its containers.
    pub containers: Box<[ContainerFacts]>,
    /// The init container that installs the helper.
    pub install: Option<ContainerState>,
}

impl PodFacts {
    /// Reduces a pod.
    #[must_use]
    pub fn new(pod: &ReducedPod, texts: &Interner) -> Self {
        let status = &pod.status;
        let label = |name: &str| pod.labels().get(name).cloned();
        let installer = |status: &&ContainerStatus| status.name == INSTALL_CONTAINER;
        let container = |status: &ContainerStatus| {
            let image_id = (!status.image_id.is_empty()).then(|| texts.text(&status.image_id));
            Some(ContainerFacts { image: image_index(&status.name)?, state: state(status), image_id })
        };
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            worker: label(JOB_NAME_LABEL).unwrap_or_else(|| pod.name_any()),
            task_uid: label(TASK_UID_LABEL).unwrap_or_default(),
            phase: PodPhase::of(pod),
            reason: status.reason.clone(),
            message: status.message.clone(),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            containers: status.container_statuses.iter().filter_map(container).collect(),
            install: status.init_container_statuses.iter().find(installer).map(state),
        }
    }

    /// Namespace and name of its worker.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.worker)
    }

    /// Whether nothing is pulled for it: each container that has not ended waits for the end of the kubelet's back-off, or for
    /// what the kubelet cannot do now.
    #[must_use]
    pub fn waits_in_back_off(&self) -> bool {
        let idle = |state: &ContainerState| match state {
            ContainerState::Waiting(Some(words)) => {
                !matches!(words.0.as_str(), "" | "ContainerCreating" | "PodInitializing")
            }
            _ => false,
        };
        if self.phase.is_final() {
            return false;
        }
        if let Some(install) = self.install.as_ref().filter(|state| !matches!(state, ContainerState::Terminated(0, _)))
        {
            return idle(install);
        }
        let mut left = self.containers.iter().filter(|c| !matches!(c.state, ContainerState::Terminated(..))).peekable();
        left.peek().is_some() && left.all(|container| idle(&container.state))
    }

    /// The container of an image.
    #[must_use]
    pub fn container(&self, image: u16) -> Option<&ContainerFacts> {
        self.containers.iter().find(|container| container.image == image)
    }
}

fn state(status: &ContainerStatus) -> ContainerState {
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
        ContainerState::Waiting(state.waiting.as_ref().and_then(|waiting| words(&waiting.reason, &waiting.message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(states: Vec<ContainerState>) -> PodFacts {
        let facts = |(image, state): (u16, _)| ContainerFacts { image, state, image_id: None };
        PodFacts { containers: (0..).zip(states).map(facts).collect(), ..PodFacts::default() }
    }

    #[test]
    fn who_waits_in_back_off() {
        let (bad, again) = (
            || ContainerState::waiting("ErrImagePull", "dial tcp: i/o timeout"),
            || ContainerState::waiting("ImagePullBackOff", "Back-off pulling image"),
        );
        let creating = || ContainerState::waiting("ContainerCreating", "");
        assert!(pod(vec![bad(), again(), ContainerState::done()]).waits_in_back_off());
        assert!(!pod(vec![bad(), creating()]).waits_in_back_off(), "the second is being pulled");
        assert!(!pod(vec![creating()]).waits_in_back_off());
        assert!(!pod(vec![ContainerState::Waiting(None)]).waits_in_back_off());
        assert!(!pod(vec![]).waits_in_back_off(), "the kubelet has not seen it");
        assert!(!pod(vec![ContainerState::done()]).waits_in_back_off());
        assert!(!pod(vec![ContainerState::Running]).waits_in_back_off());
        assert!(!PodFacts { phase: PodPhase::Failed, ..pod(vec![bad()]) }.waits_in_back_off());
    }

    #[test]
    fn a_helper_that_waits_holds_up_the_rest() {
        let initializing = || ContainerState::waiting("PodInitializing", "");
        let with = |install| PodFacts { install: Some(install), ..pod(vec![initializing()]) };
        assert!(with(ContainerState::waiting("ImagePullBackOff", "")).waits_in_back_off());
        assert!(!with(initializing()).waits_in_back_off());
        assert!(!with(ContainerState::Running).waits_in_back_off());
        assert!(!with(ContainerState::done()).waits_in_back_off());
    }
}
