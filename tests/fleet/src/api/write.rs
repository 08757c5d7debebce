//! Writes statuses, Events and images of nodes.

use k8s_openapi::{
    api::core::v1::{
        ContainerImage, ContainerState as ApiState, ContainerStateRunning,
        ContainerStateTerminated, ContainerStateWaiting, ContainerStatus as ApiContainerStatus,
        Event as ApiEvent, EventSource, NodeCondition, ObjectReference, PodCondition,
        PodStatus as ApiPodStatus,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};

use super::Clock;
use crate::{
    kubelet::Event,
    pod::{Condition, ContainerState, ContainerStatus, PodSpec, PodStatus, Termination},
    store::ReportedImage,
};

/// Exit code and message of a container that had not been created when its pod ended
/// (`TerminatePod` in `pkg/kubelet/status/status_manager.go`).
const UNKNOWN_EXIT_CODE: i32 = 137;
const UNKNOWN_MESSAGE: &str = "The container could not be located when the pod was terminated";

impl PodStatus {
    /// Returns the status as an object of the API server, without addresses and without the
    /// condition `PodScheduled`.
    #[must_use]
    pub fn to_api(&self, clock: &Clock) -> ApiPodStatus {
        let statuses = |all: &[ContainerStatus]| {
            (!all.is_empty()).then(|| all.iter().map(|one| container_status(one, clock)).collect())
        };
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let conditions = self.conditions.iter().map(|one| condition(one, clock));
        ApiPodStatus {
            phase: Some(self.phase.as_str().to_owned()),
            reason: text(self.reason),
            message: text(&self.message),
            start_time: Some(clock.time(self.started)),
            conditions: Some(conditions.collect()),
            init_container_statuses: statuses(&self.init_containers),
            container_statuses: statuses(&self.containers),
            ..ApiPodStatus::default()
        }
    }
}

fn condition(condition: &Condition, clock: &Clock) -> PodCondition {
    PodCondition {
        type_: condition.kind.as_str().to_owned(),
        status: if condition.is_true { "True" } else { "False" }.to_owned(),
        last_transition_time: Some(clock.time(condition.since)),
        ..PodCondition::default()
    }
}

fn container_status(status: &ContainerStatus, clock: &Clock) -> ApiContainerStatus {
    let state = match &status.state {
        ContainerState::Waiting { reason, message } => ApiState {
            waiting: Some(ContainerStateWaiting {
                reason: Some((*reason).to_owned()),
                message: (!message.is_empty()).then(|| message.clone()),
            }),
            ..ApiState::default()
        },
        ContainerState::Running(since) => ApiState {
            running: Some(ContainerStateRunning { started_at: Some(clock.time(*since)) }),
            ..ApiState::default()
        },
        ContainerState::Terminated(end) => terminated(end, clock),
        ContainerState::Unknown => ApiState {
            terminated: Some(ContainerStateTerminated {
                exit_code: UNKNOWN_EXIT_CODE,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some(UNKNOWN_MESSAGE.to_owned()),
                ..ContainerStateTerminated::default()
            }),
            ..ApiState::default()
        },
    };
    ApiContainerStatus {
        name: status.name.clone(),
        image: status.image.clone(),
        image_id: status.image_id.clone(),
        ready: status.is_ready,
        started: Some(matches!(status.state, ContainerState::Running(_))),
        restart_count: i32::try_from(status.restarts).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: status.last_termination.as_ref().map(|end| terminated(end, clock)),
        ..ApiContainerStatus::default()
    }
}

fn terminated(end: &Termination, clock: &Clock) -> ApiState {
    ApiState {
        terminated: Some(ContainerStateTerminated {
            exit_code: end.exit_code,
            reason: Some(end.reason().to_owned()),
            started_at: Some(clock.time(end.started)),
            finished_at: Some(clock.time(end.finished)),
            ..ContainerStateTerminated::default()
        }),
        ..ApiState::default()
    }
}

impl Event {
    /// Returns the Event as an object of the API server. `name` must be unique in the namespace.
    #[must_use]
    pub fn to_api(&self, pod: &PodSpec, node: &str, name: String, at: Timestamp) -> ApiEvent {
        ApiEvent {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                field_path: self.field_path.clone(),
                ..ObjectReference::default()
            },
            type_: Some(if self.is_warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(self.reason.to_owned()),
            message: Some(self.message.clone()),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(node.to_owned()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(node.to_owned()),
            first_timestamp: Some(Time(at)),
            last_timestamp: Some(Time(at)),
            count: Some(1),
            ..ApiEvent::default()
        }
    }
}

impl ReportedImage {
    /// Returns the image as in a node's status.
    #[must_use]
    pub fn to_api(&self) -> ContainerImage {
        ContainerImage {
            names: Some(self.names.clone()),
            size_bytes: Some(i64::try_from(self.size).unwrap_or(i64::MAX)),
        }
    }
}

/// Returns the condition `DiskPressure` of a node with the kubelet's reasons.
#[must_use]
pub fn disk_pressure_condition(
    has_pressure: bool,
    since: Timestamp,
    heartbeat: Timestamp,
) -> NodeCondition {
    let (status, reason, message) = if has_pressure {
        ("True", "KubeletHasDiskPressure", "kubelet has disk pressure")
    } else {
        ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    };
    NodeCondition {
        type_: "DiskPressure".to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(since)),
        last_heartbeat_time: Some(Time(heartbeat)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kubelet::testing::pod,
        pod::{ConditionKind, Phase},
        time::SimTime,
    };

    const CLOCK: Clock = Clock { epoch: Timestamp::UNIX_EPOCH, acceleration: 1 };

    fn status(state: ContainerState) -> PodStatus {
        let container = ContainerStatus {
            name: "web".into(),
            image: "registry.example/web:1".into(),
            image_id: String::new(),
            state,
            last_termination: None,
            is_ready: false,
            restarts: 0,
        };
        let since = SimTime::from_secs(1);
        PodStatus {
            phase: Phase::Pending,
            reason: "",
            message: String::new(),
            started: since,
            conditions: vec![Condition { kind: ConditionKind::Ready, is_true: false, since }],
            init_containers: Vec::new(),
            containers: vec![container],
        }
    }

    #[test]
    fn waiting_reasons_and_messages_are_written() {
        let reason = "ErrImagePull";
        let waiting = ContainerState::Waiting { reason, message: "not found".into() };
        let written = status(waiting).to_api(&CLOCK);
        assert_eq!(written.phase.as_deref(), Some("Pending"));
        assert_eq!((written.reason, written.init_container_statuses), (None, None));
        let state = written.container_statuses.unwrap().remove(0).state.unwrap().waiting.unwrap();
        assert_eq!(state.reason.as_deref(), Some(reason));
        assert_eq!(state.message.as_deref(), Some("not found"));
        let condition = written.conditions.unwrap().remove(0);
        assert_eq!((condition.type_.as_str(), condition.status.as_str()), ("Ready", "False"));
    }

    #[test]
    fn ends_of_containers_are_written_with_their_times() {
        let end = Termination {
            exit_code: 1,
            started: SimTime::from_secs(2),
            finished: SimTime::from_secs(3),
        };
        let mut written = status(ContainerState::Terminated(end)).to_api(&CLOCK);
        let status = written.container_statuses.as_mut().unwrap().remove(0);
        let end = status.state.unwrap().terminated.unwrap();
        assert_eq!((end.exit_code, end.reason.as_deref()), (1, Some("Error")));
        let finished = Timestamp::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(3));
        assert_eq!(end.finished_at.map(|time| time.0), finished.ok());
        assert_eq!(status.started, Some(false));
    }

    #[test]
    fn events_refer_to_the_container() {
        let event = Event::started("spec.containers{web}".into());
        let at = Timestamp::UNIX_EPOCH;
        let written = event.to_api(&pod("web"), "node-1", "web.1".into(), at);
        assert_eq!(written.involved_object.field_path.as_deref(), Some("spec.containers{web}"));
        assert_eq!(written.reason.as_deref(), Some("Started"));
        assert_eq!(written.type_.as_deref(), Some("Normal"));
        assert_eq!(written.metadata.namespace, written.involved_object.namespace);
    }
}
