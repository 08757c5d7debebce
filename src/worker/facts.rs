//! What is kept of worker Jobs and their pods.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{ContainerStatus, Pod},
    },
    jiff::Timestamp,
};
use kube::ResourceExt;

use super::{BATCH_LABEL, NODE_ANNOTATION, TASK_UID_LABEL};

/// The label by which the Job controller marks a Job's pods.
const JOB_NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// A worker Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The UID of its task.
    pub task_uid: String,
    /// The node that it is pinned to.
    pub node: String,
    /// The index of its batch.
    pub batch: u32,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Reason and message of its `Failed` condition.
    pub failed: Option<(String, String)>,
}

impl From<&Job> for JobFacts {
    fn from(job: &Job) -> Self {
        let label = |name: &str| job.labels().get(name).cloned().unwrap_or_default();
        let conditions = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        Self {
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
            task_uid: label(TASK_UID_LABEL),
            node: job.annotations().get(NODE_ANNOTATION).cloned().unwrap_or_default(),
            batch: label(BATCH_LABEL).parse().unwrap_or_default(),
            created: job.metadata.creation_timestamp.as_ref().map(|time| time.0),
            deleting: job.metadata.deletion_timestamp.is_some(),
            failed: conditions
                .iter()
                .find(|c| c.type_ == "Failed" && c.status == "True")
                .map(|c| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default())),
        }
    }
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// It waits, with the kubelet's reason and message.
    Waiting(String, String),
    /// It runs: its image is there.
    Running,
    /// It ended, with exit code, reason and message.
    Terminated(i32, String, String),
}

/// A container of a worker pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Where it stands.
    pub state: ContainerState,
    /// The runtime's id of its image, where it was created.
    pub image_id: String,
}

/// A worker pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Job that owns it.
    pub job: String,
    /// Its phase.
    pub phase: String,
    /// The kubelet's reason for refusing or evicting it.
    pub reason: String,
    /// The message beside it.
    pub message: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its containers, by name.
    pub containers: BTreeMap<String, ContainerFacts>,
    /// Its init containers, by name.
    pub init: BTreeMap<String, ContainerFacts>,
}

impl From<&Pod> for PodFacts {
    fn from(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            job: pod.labels().get(JOB_NAME_LABEL).cloned().unwrap_or_default(),
            phase: status.phase.unwrap_or_default(),
            reason: status.reason.unwrap_or_default(),
            message: status.message.unwrap_or_default(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            containers: containers(status.container_statuses),
            init: containers(status.init_container_statuses),
        }
    }
}

fn containers(statuses: Option<Vec<ContainerStatus>>) -> BTreeMap<String, ContainerFacts> {
    statuses.unwrap_or_default().into_iter().map(|status| (status.name.clone(), container(status))).collect()
}

fn container(status: ContainerStatus) -> ContainerFacts {
    let state = status.state.unwrap_or_default();
    let state = if let Some(end) = state.terminated {
        ContainerState::Terminated(end.exit_code, end.reason.unwrap_or_default(), end.message.unwrap_or_default())
    } else if state.running.is_some() {
        ContainerState::Running
    } else {
        let waiting = state.waiting.unwrap_or_default();
        ContainerState::Waiting(waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
    };
    ContainerFacts { state, image_id: status.image_id }
}
