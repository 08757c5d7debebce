//! Tasks that cannot be worked on end, and say why.

use rstest::rstest;

use super::{
    super::run::{Run, UNREADABLE},
    simulation::{Outcome, Simulation},
};
use crate::task::{Phase, PrewarmTaskSpec, PrewarmTaskStatus};

fn spec() -> PrewarmTaskSpec {
    let images = ["nginx:1", "redis:7", "busybox:1"].map(str::to_owned).to_vec();
    PrewarmTaskSpec { timeout: "60s".into(), ..PrewarmTaskSpec::new(images) }
}

fn status(simulation: &Simulation) -> PrewarmTaskStatus {
    simulation.task.status.clone().unwrap_or_default()
}

/// Phase, reason and message of the condition `Failed`.
fn failure(simulation: &Simulation) -> (Phase, String, String) {
    let status = status(simulation);
    let failed = status.conditions.into_iter().find(|condition| condition.type_ == "Failed").unwrap();
    (status.phase, failed.reason, failed.message)
}

fn run_all(simulation: &mut Simulation) {
    for _ in 0..40 {
        simulation.end_pod(Outcome::Good);
        simulation.pass(600);
        simulation.step();
    }
}

/// The sum of this `retain` and a Job's own time to live is more than a duration can say.
#[rstest]
#[case("5124095576030430h59m", "spec.retain")]
#[case("24h1s", "spec.retain")]
fn a_duration_beyond_its_bound_is_an_invalid_spec(#[case] retain: &str, #[case] field: &str) {
    let mut simulation = Simulation::new(2, PrewarmTaskSpec { retain: Some(retain.into()), ..spec() });
    run_all(&mut simulation);
    let (phase, reason, message) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "InvalidSpec"));
    assert!(message.contains(field) && message.contains("24h"), "{message}");
    assert!(simulation.history.is_empty());
}

#[test]
fn a_message_of_many_problems_is_short() {
    let images = (0..90).map(|n| format!("{}/UPPER:{n}", "x".repeat(400))).collect();
    let mut simulation = Simulation::new(1, PrewarmTaskSpec::new(images));
    run_all(&mut simulation);
    let (_, reason, message) = failure(&simulation);
    assert_eq!(reason, "InvalidSpec");
    assert!(message.ends_with("and 80 more") && message.len() < 10_000, "{} bytes: {message}", message.len());
}

#[test]
fn a_task_that_cannot_be_read_fails_once() {
    let mut simulation = Simulation::new(2, spec());
    let annotations = [(UNREADABLE.to_owned(), "invalid type: string".to_owned())].into();
    simulation.task.metadata.annotations = Some(annotations);
    simulation.run = Run::resume(&simulation.task, &simulation.shared.settings);
    run_all(&mut simulation);
    let (phase, reason, message) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "InvalidSpec"));
    assert!(message.contains("invalid type: string"), "{message}");
    assert_eq!(simulation.events, [Phase::Failed]);
}

#[test]
fn a_plan_that_is_not_stored_ends_the_task() {
    let mut simulation = Simulation::new(3, spec());
    simulation.unstorable = vec!["plan"];
    run_all(&mut simulation);
    let (phase, reason, message) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "PlanRefused"));
    assert!(message.contains("Too long"), "{message}");
    assert_eq!(simulation.not_stored, 1, "it is asked for once");
}

#[test]
fn a_status_that_is_not_stored_ends_the_task_with_a_short_one() {
    let mut simulation = Simulation::new(3, spec());
    simulation.unstorable = vec!["status"];
    run_all(&mut simulation);
    let (phase, reason, _) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "StatusRefused"));
    assert_eq!((simulation.not_stored, simulation.at_work()), (1, 0));
}

#[test]
fn a_task_that_can_be_told_nothing_is_left_alone() {
    let mut simulation = Simulation::new(3, spec());
    simulation.unstorable = vec!["status", "end"];
    run_all(&mut simulation);
    assert_eq!(simulation.not_stored, 2, "the status, and the short one");
    // Somebody changes the task: it is tried once more.
    simulation.task.metadata.resource_version = Some("1000".into());
    run_all(&mut simulation);
    assert_eq!(simulation.not_stored, 3);
}

#[test]
fn a_broken_task_ends_without_a_look_at_its_spec() {
    let mut simulation = Simulation::new(3, spec());
    simulation.step();
    simulation.run = Run::broken(&simulation.task);
    simulation.pass(1000);
    run_all(&mut simulation);
    let (phase, reason, message) = failure(&simulation);
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "InternalError"));
    assert!(message.contains("log"), "{message}");
    assert_eq!(simulation.at_work(), 0);
}

/// The annotations of a worker can be written by everybody who may change Jobs in its namespace.
#[rstest]
#[case(&[999], true)]
#[case(&[999], false)]
#[case(&[0, 0, 0, 65_535], true)]
#[case(&[], true)]
fn images_that_the_task_does_not_have_are_not_looked_for(#[case] asked: &[u16], #[case] has_pod: bool) {
    let mut simulation = Simulation::new(2, spec());
    simulation.pass(1000);
    simulation.step();
    simulation.pass(1000);
    simulation.step();
    assert!(simulation.at_work() > 0);
    for worker in simulation.workers.values_mut() {
        worker.asked = asked.into();
    }
    if !has_pod {
        // A Job without a pod is asked after: its pod is built again from what it says.
        simulation.pods.clear();
    }
    simulation.wait(70);
    run_all(&mut simulation);
    assert!(simulation.phase().is_terminal(), "{:?}", status(&simulation));
}
