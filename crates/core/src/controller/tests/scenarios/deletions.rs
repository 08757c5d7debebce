//! Deletion of workers: which requests a task makes, and when.

use crate::{controller::propagation::Propagation, task::WorkerKind};

use super::{
    super::simulation::{PodResult, Simulation},
    fixture::spec,
};

/// Returns a task that works on all of its nodes in one batch.
fn one_batch(nodes: u32) -> Simulation {
    let mut simulation = Simulation::new(nodes as usize, spec(1, nodes));
    simulation.wait(2);
    assert_eq!(simulation.workers.len(), nodes as usize);
    simulation
}

#[test]
fn finished_jobs_are_deleted_by_collection_in_the_background() {
    let mut simulation = one_batch(4);
    simulation.finish_new_pods(PodResult::Success);
    simulation.wait(4);
    assert_eq!(simulation.deletions, [(None, Propagation::Background)]);
}

/// The Job of the failed node is deleted first, so that its pod ends before it. The others wait
/// until it is gone.
#[test]
fn jobs_that_may_pull_are_deleted_in_the_foreground_before_the_others() {
    let mut simulation = one_batch(4);
    simulation.delay_garbage_collector(3);
    simulation.finish_pod(PodResult::Permanent);
    simulation.finish_new_pods(PodResult::Success);
    simulation.wait(6);
    let failed = (Some("n00".to_owned()), Propagation::Foreground);
    assert_eq!(simulation.deletions, [failed, (None, Propagation::Background)]);
}

#[test]
fn batch_that_mostly_may_pull_is_deleted_by_collection_in_the_foreground() {
    let mut simulation = one_batch(4);
    simulation.finish_new_pods(PodResult::Permanent);
    simulation.wait(4);
    assert_eq!(simulation.deletions, [(None, Propagation::Foreground)]);
}

/// The Job controller may be unable to write the status of a Job.
#[test]
fn batch_whose_jobs_do_not_finish_is_deleted_in_the_foreground_after_a_time() {
    let mut simulation = one_batch(2);
    simulation.job_controller_stopped = true;
    simulation.finish_new_pods(PodResult::Success);
    simulation.wait(25);
    assert!(simulation.deletions.is_empty(), "{:?}", simulation.deletions);
    assert_eq!(simulation.node_states(), "ss");
    simulation.wait(10);
    assert_eq!(simulation.deletions, [(None, Propagation::Foreground)]);
}

#[test]
fn bare_pods_are_deleted_by_collection_whatever_they_do() {
    let mut task = spec(1, 2);
    task.worker = WorkerKind::Pod;
    let mut simulation = Simulation::new(2, task);
    simulation.wait(2);
    simulation.finish_pod(PodResult::Success);
    simulation.finish_pod(PodResult::Permanent);
    simulation.wait(4);
    assert_eq!(simulation.deletions.last(), Some(&(None, Propagation::Background)));
}

/// Watches are not ordered: the pod of a new Job can arrive before it.
#[test]
fn pod_that_arrives_before_its_job_delays_the_collection() {
    let mut simulation = one_batch(4);
    simulation.finish_new_pods(PodResult::Success);
    simulation.set_pod_without_job(true);
    simulation.wait(4);
    assert!(simulation.deletions.is_empty(), "{:?}", simulation.deletions);
    simulation.set_pod_without_job(false);
    simulation.wait(2);
    assert_eq!(simulation.deletions, [(None, Propagation::Background)]);
}

/// A user may forge such a pod. It neither is deleted with the batch nor keeps the task from ending.
#[test]
fn pod_whose_job_never_arrives_is_foreign_after_a_time() {
    let mut simulation = one_batch(2);
    simulation.set_pod_without_job(true);
    simulation.finish_new_pods(PodResult::Success);
    simulation.wait(25);
    assert!(simulation.deletions.is_empty(), "{:?}", simulation.deletions);
    simulation.wait(10);
    simulation.deletions.sort_by(|a, b| a.0.cmp(&b.0));
    let one = |node: &str| (Some(node.to_owned()), Propagation::Background);
    assert_eq!(simulation.deletions, [one("n00"), one("n01")]);
}

/// A collection deletes the pods first, and the Jobs after that.
#[test]
fn ended_node_without_a_pod_is_not_probed() {
    let mut simulation = one_batch(2);
    simulation.finish_pod(PodResult::Success);
    simulation.wait(2);
    simulation.pods.retain(|_, pod| !pod.phase.is_final());
    simulation.wait(10);
    assert_eq!((simulation.running_workers(), simulation.dry_runs), (1, 0));
}
