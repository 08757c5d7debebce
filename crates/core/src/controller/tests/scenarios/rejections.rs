//! Rejections of workers by the API server.

use crate::{
    task::{LocalReference, Phase, PrewarmTaskSpec, WorkerKind},
    worker::FailureReason,
};

use super::{
    super::{
        super::{
            effect::ApplyError,
            settings::{ControllerSettings, WorkerNamespace},
        },
        simulation::{PodResult, Simulation, settings},
    },
    fixture::{finish_all_pods, spec, status},
};

#[test]
fn rejection_of_all_pods_fails_the_task_within_seconds() {
    let mut simulation = Simulation::new(30, spec(1, 10));
    (simulation.creates_pods, simulation.rejection) = (
        false,
        Some(ApplyError::Rejected(FailureReason::Forbidden, "violates PodSecurity".into())),
    );
    simulation.wait(12);
    let status = status(&simulation);
    assert_eq!((status.phase, status.failed_node_count), (Phase::Failed, 30));
    assert_eq!(status.failed_nodes[0].reason, "Forbidden");
    assert_eq!(simulation.history.len(), 10, "the rejection is known after one batch");
}

#[test]
fn rejected_workers_move_to_our_own_namespace_if_allowed() {
    for worker in [WorkerKind::Job, WorkerKind::Pod] {
        let away =
            || ControllerSettings { worker_namespace: WorkerNamespace::Fallback, ..settings() };
        let refused = |spec| {
            let mut simulation = Simulation::with_settings(3, spec, away());
            (simulation.creates_pods, simulation.rejection) =
                (false, Some(ApplyError::Rejected(FailureReason::QuotaExceeded, "full".into())));
            finish_all_pods(&mut simulation, PodResult::Success);
            simulation
        };
        let task = PrewarmTaskSpec { worker, ..spec(1, 3) };
        let simulation = refused(task.clone());
        assert_eq!(
            (simulation.phase(), simulation.node_states()),
            (Phase::Completed, "sss"),
            "{worker:?}"
        );
        let said = status(&simulation).conditions;
        assert!(said.iter().any(|condition| condition.type_ == "WorkersInFallbackNamespace"
            && condition.message == "full"));
        let secrets = Some(vec![LocalReference { name: "s".into() }]);
        let simulation = refused(PrewarmTaskSpec { image_pull_secrets: secrets, ..task });
        assert_eq!(
            (simulation.phase(), simulation.node_states()),
            (Phase::Failed, "fff"),
            "a task with credentials stays in its namespace"
        );
        assert_eq!(status(&simulation).failed_nodes[0].reason, "QuotaExceeded");
    }
}

#[test]
fn a_policy_is_bypassed_only_with_fallback_on_policy() {
    for allowed in [false, true] {
        let away = ControllerSettings {
            worker_namespace: WorkerNamespace::Fallback,
            fallback_on_policy: allowed,
            ..settings()
        };
        let mut simulation = Simulation::with_settings(3, spec(1, 3), away);
        (simulation.creates_pods, simulation.rejection) = (
            false,
            Some(ApplyError::Rejected(
                FailureReason::Forbidden,
                "admission webhook \"p\" denied the request: no".into(),
            )),
        );
        finish_all_pods(&mut simulation, PodResult::Success);
        let expected = if allowed { (Phase::Completed, "sss") } else { (Phase::Failed, "fff") };
        assert_eq!((simulation.phase(), simulation.node_states()), expected);
    }
}

#[test]
fn a_transient_rejection_is_reported_and_retried() {
    let mut simulation =
        Simulation::new(1, PrewarmTaskSpec { worker: WorkerKind::Pod, ..spec(1, 1) });
    simulation.rejection = Some(ApplyError::Transient("failed calling webhook".into()));
    simulation.wait(10);
    let said = status(&simulation).conditions[0].message.clone();
    assert!(said.contains("failed calling webhook"), "{said}");
    simulation.rejection = None;
    simulation.run_to_end();
    assert_eq!(simulation.node_states(), "s");
}
