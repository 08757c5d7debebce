//! Batches and retries of a task in the simulated cluster.

use crate::{
    task::{BatchPolicy, Phase, PrewarmTaskSpec},
    worker::FailureReason,
};

use super::{
    super::simulation::{PodResult, Simulation},
    fixture::{finish_all_pods, retrying, spec, status},
};

#[test]
fn a_node_that_times_out_fails_with_the_last_error() {
    let mut simulation = Simulation::new(1, spec(1, 1));
    simulation.wait(5);
    simulation.finish_pod(PodResult::Transient);
    simulation.wait(50);
    assert_eq!(simulation.phase(), Phase::Running);
    simulation.wait(15);
    let status = status(&simulation);
    assert_eq!(status.phase, Phase::Failed);
    assert_eq!(status.failed_nodes[0].reason, FailureReason::RegistryUnreachable.as_str());
}

#[test]
fn each_phase_is_reported_once() {
    let mut simulation = Simulation::new(2, spec(1, 1));
    finish_all_pods(&mut simulation, PodResult::Success);
    let expected = [Phase::Snapshotting, Phase::Running, Phase::Finalizing, Phase::Completed];
    assert_eq!(simulation.events, expected);
}

#[test]
fn transient_failures_are_retried_in_later_batches() {
    let mut simulation = Simulation::new(3, retrying(2));
    simulation.wait(2);
    simulation.finish_pod(PodResult::Rejected);
    simulation.finish_pod(PodResult::Success);
    simulation.wait(2);
    assert_eq!(simulation.node_states(), "1s.");
    simulation.finish_pod(PodResult::Success);
    simulation.wait(2);
    assert_eq!(status(&simulation).node_states, "1ss");
    assert_eq!(simulation.running_workers(), 0, "the delay is not over");
    simulation.wait(9);
    assert_eq!(simulation.running_workers(), 1);
    assert_eq!(status(&simulation).total_batches, 3);
    assert_eq!(
        status(&simulation).failed_nodes[0].node,
        "n00",
        "the failure is listed while the node is retried"
    );
    simulation.finish_pod(PodResult::Success);
    simulation.wait(3);
    let status = status(&simulation);
    assert_eq!(
        (status.phase, status.succeeded_nodes, status.failed_nodes.len()),
        (Phase::Completed, 3, 0)
    );
    assert_eq!(status.images[0].succeeded, 3);
    assert_eq!(status.images[0].failed, 0);
    let ends = &status.batch_ends;
    assert!(
        ends.len() == 3 && ends.is_sorted() && ends[1] >= 10,
        "the delay before the retry counts: {ends:?}"
    );
}

#[test]
fn retries_stop_at_the_limit() {
    let mut simulation = Simulation::new(1, retrying(2));
    finish_all_pods(&mut simulation, PodResult::Rejected);
    assert_eq!(simulation.history.len(), 3);
    assert_eq!((simulation.phase(), simulation.node_states()), (Phase::Failed, "f"));
}

#[test]
fn permanent_failures_are_not_retried() {
    let mut simulation = Simulation::new(1, retrying(5));
    finish_all_pods(&mut simulation, PodResult::Permanent);
    assert_eq!((simulation.history.len(), simulation.node_states()), (1, "f"));
}

#[test]
fn a_missing_image_is_pulled_on_three_nodes_only() {
    let mut simulation = Simulation::new(10, spec(1, 1));
    finish_all_pods(&mut simulation, PodResult::Permanent);
    let status = status(&simulation);
    assert_eq!((status.phase, status.failed_node_count), (Phase::Failed, 10));
    assert_eq!(simulation.history.len(), 3);
    assert!(status.failed_nodes[9].message.starts_with("not pulled on this node"));
    assert_eq!(status.images[0].given_up.as_ref().unwrap().reason, "ImageNotFound");
}

#[test]
fn other_images_are_still_pulled() {
    let mut simulation = Simulation::new(10, spec(2, 1));
    finish_all_pods(&mut simulation, PodResult::Permanent);
    let status = status(&simulation);
    assert_eq!((status.images[0].failed, status.images[1].succeeded), (10, 10));
    assert_eq!(simulation.history.len(), 10);
}

#[test]
fn parts_of_a_node_are_pulled_one_after_another() {
    let mut simulation = Simulation::new(1, spec(5, 1));
    simulation.wait(2);
    for part in 0..3 {
        assert_eq!((simulation.running_workers(), simulation.history.len()), (1, part + 1));
        simulation.finish_pod(if part == 1 { PodResult::Permanent } else { PodResult::Success });
        // The pod with the permanent failure waits forever. The node is not finished until it ends.
        simulation.wait(2);
    }
    let status = status(&simulation);
    assert_eq!((status.phase, status.failed_node_count), (Phase::Failed, 1));
    let failed: Vec<u32> = status.images.iter().map(|image| image.failed).collect();
    assert_eq!(failed, [0, 0, 1, 0, 0]);
}

#[test]
fn batches_double_while_they_succeed() {
    let doubling = PrewarmTaskSpec { batch_policy: BatchPolicy::Doubling, ..spec(1, 4) };
    let mut simulation = Simulation::new(10, doubling);
    finish_all_pods(&mut simulation, PodResult::Success);
    let sizes: Vec<usize> = (0..4)
        .map(|label| simulation.history.iter().filter(|(_, batch)| *batch == label).count())
        .collect();
    assert_eq!(sizes, [1, 2, 4, 3]);
    assert_eq!(simulation.phase(), Phase::Completed);
}

#[test]
fn a_busy_node_is_deferred_and_its_batch_continues() {
    let mut simulation = Simulation::new(6, spec(1, 2));
    simulation.occupy_node(0);
    simulation.occupy_node(2);
    simulation.occupy_node(3);
    simulation.wait(2);
    assert_eq!(simulation.node_states(), "0.....");
    simulation.finish_pod(PodResult::Success);
    simulation.wait(3);
    assert_eq!(
        (simulation.node_states(), simulation.running_workers()),
        ("0s00..", 2),
        "an entire batch of busy nodes is deferred"
    );
    simulation.crash();
    finish_all_pods(&mut simulation, PodResult::Success);
    assert_eq!((simulation.phase(), simulation.node_states()), (Phase::Running, "0s00ss"));
    simulation.busy_nodes.clear();
    finish_all_pods(&mut simulation, PodResult::Success);
    let status = status(&simulation);
    assert_eq!((status.phase, status.node_states.as_str()), (Phase::Completed, "ssssss"));
    assert_eq!(status.failed_nodes, []);
    assert_eq!(simulation.history.len(), 6, "each node has one worker");
}
