//! Status of a pod, as the kubelet generates it (`pkg/kubelet/kubelet_pods.go`: `getPhase`,
//! `convertToAPIContainerStatuses`).

use super::record::{Container, Life, Pod, RunState};
use crate::{
    pod::{
        Condition, ConditionKind, ContainerKind, ContainerSpec, ContainerState, ContainerStatus,
        Phase, PodStatus,
    },
    time::SimTime,
};

/// Returns the status of a pod, and keeps the times at which its conditions changed.
pub(super) fn pod_status(pod: &mut Pod, now: SimTime) -> PodStatus {
    let phase = phase(pod);
    update_conditions(pod, phase, now);
    let pod = &*pod;
    let statuses = |wanted: fn(ContainerKind) -> bool| {
        let all = pod.spec.containers.iter().zip(&pod.containers);
        all.filter(|(spec, _)| wanted(spec.kind))
            .map(|(spec, container)| container_status(pod, spec, container))
            .collect()
    };
    let verdict = pod.verdict.as_ref();
    PodStatus {
        phase,
        reason: verdict.map_or("", |verdict| verdict.reason),
        message: verdict.map(|verdict| verdict.message.clone()).unwrap_or_default(),
        started: pod.bound,
        conditions: pod.conditions.clone(),
        init_containers: statuses(|kind| kind != ContainerKind::App),
        containers: statuses(|kind| kind == ContainerKind::App),
    }
}

/// Reports whether an init container has yet to succeed, or a sidecar to start.
fn is_initializing(pod: &Pod) -> bool {
    pod.roles().any(|(kind, container)| match kind {
        ContainerKind::Init => container.ended().is_none_or(|end| end.exit_code != 0),
        ContainerKind::Sidecar => container.state == RunState::Absent,
        ContainerKind::App => false,
    })
}

fn phase(pod: &Pod) -> Phase {
    if pod.has_running_containers() {
        // A terminal phase is reported when no container runs.
        let waits = |kind, container: &Container| {
            kind == ContainerKind::App && container.state == RunState::Absent
        };
        let is_pending =
            is_initializing(pod) || pod.roles().any(|(kind, container)| waits(kind, container));
        return if is_pending { Phase::Pending } else { Phase::Running };
    }
    if pod.verdict.is_some() {
        return Phase::Failed;
    }
    let apps = || pod.roles().filter(|(kind, _)| *kind == ContainerKind::App);
    if pod.life == Life::Ended {
        let has_succeeded =
            |container: &Container| container.ended().is_some_and(|end| end.exit_code == 0);
        let succeeded =
            !pod.has_failed_init() && apps().all(|(_, container)| has_succeeded(container));
        return if succeeded { Phase::Succeeded } else { Phase::Failed };
    }
    // The kubelet delays a terminal phase until it has ended the pod (`mergePodStatus`).
    let has_started = |container: &Container| container.ended().is_some();
    // The API server accepts no pod without containers; the kubelet would keep it pending.
    if is_initializing(pod) || apps().count() == 0 || !apps().all(|(_, c)| has_started(c)) {
        return Phase::Pending;
    }
    Phase::Running
}

fn update_conditions(pod: &mut Pod, phase: Phase, now: SimTime) {
    if pod.verdict.is_some() && !pod.has_sandbox {
        return;
    }
    let is_ready = phase == Phase::Running
        && pod.roles().all(|(kind, container)| match kind {
            ContainerKind::Init => true,
            ContainerKind::Sidecar | ContainerKind::App => container.is_running(),
        });
    let holds = |kind| match kind {
        ConditionKind::PodReadyToStartContainers => pod.has_sandbox && pod.life != Life::Ended,
        ConditionKind::Initialized => !is_initializing(pod),
        ConditionKind::ContainersReady | ConditionKind::Ready => is_ready,
    };
    let update = |kind| {
        let is_true = holds(kind);
        let before = pod.conditions.iter().find(|condition| condition.kind == kind);
        let since = before.filter(|condition| condition.is_true == is_true);
        Condition { kind, is_true, since: since.map_or(now, |condition| condition.since) }
    };
    pod.conditions = ConditionKind::ALL.into_iter().map(update).collect();
}

fn container_status(pod: &Pod, spec: &ContainerSpec, container: &Container) -> ContainerStatus {
    let state = match (&container.problem, container.state) {
        (_, RunState::Running(since)) => ContainerState::Running(since),
        (Some(problem), _) if pod.life == Life::Active => {
            ContainerState::Waiting { reason: problem.reason, message: problem.message.clone() }
        }
        (_, RunState::Ended(end)) => ContainerState::Terminated(end),
        // The status manager does so for every pod that it ends (`TerminatePod`), but a rejected pod
        // was never started.
        (_, RunState::Absent)
            if pod.life == Life::Ended && (pod.has_sandbox || pod.verdict.is_none()) =>
        {
            ContainerState::Unknown
        }
        (_, RunState::Absent) => ContainerState::Waiting {
            reason: if pod.spec.has_init_containers() {
                "PodInitializing"
            } else {
                "ContainerCreating"
            },
            message: String::new(),
        },
    };
    let is_waiting = matches!(state, ContainerState::Waiting { .. });
    let image = container.image.as_ref();
    ContainerStatus {
        name: spec.name.clone(),
        image: image.map_or_else(|| spec.image.clone(), |image| image.name.clone()),
        image_id: image.map(|image| image.digest_name.clone()).unwrap_or_default(),
        last_termination: if is_waiting { container.ended() } else { container.last },
        is_ready: match spec.kind {
            ContainerKind::Init => container.ended().is_some_and(|end| end.exit_code == 0),
            ContainerKind::Sidecar | ContainerKind::App => container.is_running(),
        },
        restarts: container.starts.saturating_sub(1),
        state,
    }
}
