//! Tasks that cannot be processed end, with the reason in their status.

use crate::{
    annotations::UNREADABLE_ANNOTATION,
    task::{Phase, PrewarmTaskSpec, PrewarmTaskStatus},
};
use rstest::rstest;

use super::{
    super::task_state::TaskReconciler,
    simulation::{PodResult, Simulation},
};

fn spec() -> PrewarmTaskSpec {
    let images = ["nginx:1", "redis:7", "busybox:1"].map(str::to_owned).to_vec();
    PrewarmTaskSpec { timeout: "60s".into(), ..PrewarmTaskSpec::new(images) }
}

fn status(simulation: &Simulation) -> PrewarmTaskStatus {
    simulation.task.status.clone().unwrap_or_default()
}

/// Returns phase, reason and message of the condition `Failed`.
fn failure(simulation: &Simulation) -> (Phase, String, String) {
    let status = status(simulation);
    let failed =
        status.conditions.into_iter().find(|condition| condition.type_ == "Failed").unwrap();
    (status.phase, failed.reason, failed.message)
}

fn finish_all_pods(simulation: &mut Simulation) {
    for _ in 0..40 {
        simulation.finish_pod(PodResult::Success);
        simulation.advance_time(600);
        simulation.reconcile();
    }
}

/// The sum of this `retain` and a Job's own time to live overflows a duration.
#[rstest]
#[case("5124095576030430h59m", "spec.retain")]
#[case("24h1s", "spec.retain")]
fn a_duration_above_its_maximum_is_an_invalid_spec(#[case] retain: &str, #[case] field: &str) {
    let mut simulation =
        Simulation::new(2, PrewarmTaskSpec { retain: Some(retain.into()), ..spec() });
    finish_all_pods(&mut simulation);
    let (phase, reason, message) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "InvalidSpec"));
    assert!(message.contains(field) && message.contains("24h"), "{message}");
    assert!(simulation.history.is_empty());
}

#[test]
fn a_message_with_many_problems_is_truncated() {
    let images = (0..90).map(|n| format!("{}/UPPER:{n}", "x".repeat(400))).collect();
    let mut simulation = Simulation::new(1, PrewarmTaskSpec::new(images));
    finish_all_pods(&mut simulation);
    let (_, reason, message) = failure(&simulation);
    assert_eq!(reason, "InvalidSpec");
    assert!(
        message.ends_with("and 80 more") && message.len() < 10_000,
        "{} bytes: {message}",
        message.len()
    );
}

#[test]
fn an_unreadable_task_fails_once() {
    let mut simulation = Simulation::new(2, spec());
    let annotations =
        [(UNREADABLE_ANNOTATION.to_owned(), "invalid type: string".to_owned())].into();
    simulation.task.metadata.annotations = Some(annotations);
    simulation.reconciler = TaskReconciler::resume(&simulation.task, &simulation.shared.settings);
    finish_all_pods(&mut simulation);
    let (phase, reason, message) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "InvalidSpec"));
    assert!(message.contains("invalid type: string"), "{message}");
    assert_eq!(simulation.events, [Phase::Failed]);
}

#[test]
fn a_rejected_plan_fails_the_task() {
    let mut simulation = Simulation::new(3, spec());
    simulation.unstorable = vec!["plan"];
    finish_all_pods(&mut simulation);
    let (phase, reason, message) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "PlanRefused"));
    assert!(message.contains("Too long"), "{message}");
    assert_eq!(simulation.unstored_writes, 1, "the plan is requested once");
}

#[test]
fn a_rejected_status_fails_the_task_with_a_short_status() {
    let mut simulation = Simulation::new(3, spec());
    simulation.unstorable = vec!["status"];
    finish_all_pods(&mut simulation);
    let (phase, reason, _) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "StatusRefused"));
    assert_eq!((simulation.unstored_writes, simulation.running_workers()), (1, 0));
}

#[test]
fn a_task_whose_status_cannot_be_written_is_left_unchanged() {
    let mut simulation = Simulation::new(3, spec());
    simulation.unstorable = vec!["status", "end"];
    finish_all_pods(&mut simulation);
    assert_eq!(simulation.unstored_writes, 2, "the status, and the short one");
    // A change of the object leads to another attempt.
    simulation.task.metadata.resource_version = Some("1000".into());
    finish_all_pods(&mut simulation);
    assert_eq!(simulation.unstored_writes, 3);
}

#[test]
fn a_task_that_panicked_ends_without_reading_its_spec() {
    let mut simulation = Simulation::new(3, spec());
    simulation.reconcile();
    simulation.reconciler = TaskReconciler::broken(&simulation.task);
    simulation.advance_time(1000);
    finish_all_pods(&mut simulation);
    let (phase, reason, message) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "InternalError"));
    assert!(message.contains("log"), "{message}");
    assert_eq!(simulation.running_workers(), 0);
}

/// Every user with permission to change Jobs in the namespace can write a worker's annotations.
#[rstest]
#[case(&[999], true)]
#[case(&[999], false)]
#[case(&[0, 0, 0, 65_535], true)]
#[case(&[], true)]
fn image_indexes_beyond_the_task_are_ignored(#[case] asked: &[u16], #[case] has_pod: bool) {
    let mut simulation = Simulation::new(2, spec());
    simulation.advance_time(1000);
    simulation.reconcile();
    simulation.advance_time(1000);
    simulation.reconcile();
    assert!(simulation.running_workers() > 0);
    for worker in simulation.workers.values_mut() {
        worker.images = asked.into();
    }
    if !has_pod {
        // A Job without a pod is probed with a pod built from the Job's annotations.
        simulation.pods.clear();
    }
    simulation.wait(70);
    finish_all_pods(&mut simulation);
    assert!(simulation.phase().is_terminal(), "{:?}", status(&simulation));
}
