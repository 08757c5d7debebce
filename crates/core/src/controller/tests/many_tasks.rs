//! Property test: several tasks in a simulated cluster share its capacity, and each keeps the
//! invariants of a task.

use proptest::prelude::*;

use super::{
    check_status,
    simulation::{ClusterSimulation, PodResult, Responses},
    spec,
};
use crate::task::{PrewarmTask, PrewarmTaskSpec, PullPolicy};

/// Event between two rounds of the controller.
#[derive(Debug, Clone, Copy)]
enum ClusterEvent {
    /// Time passes, in tenths of a second.
    Time(u8),
    /// One of the running pods reaches a result.
    PodEnds(u8, PodResult),
    /// The controller crashes, and a successor takes over.
    Crash,
    NodeDeleted(u8),
    NodeReturned(u8),
    /// Responses of the API server in the next round.
    Responses(Responses),
    /// Another user deletes a worker.
    WorkerDeleted(u8),
    TaskSuspended(u8),
    TaskResumed(u8),
    TaskCancelled(u8),
    /// A task is created.
    TaskCreated,
}

fn cluster_event() -> impl Strategy<Value = ClusterEvent> {
    let outcome = prop_oneof![
        5 => Just(PodResult::Success),
        2 => Just(PodResult::Permanent),
        2 => Just(PodResult::Transient),
        1 => Just(PodResult::Rejected),
    ];
    prop_oneof![
        30 => (1u8..30).prop_map(ClusterEvent::Time),
        60 => (any::<u8>(), outcome).prop_map(|(which, end)| ClusterEvent::PodEnds(which, end)),
        4 => Just(ClusterEvent::Crash),
        3 => (0u8..8).prop_map(ClusterEvent::NodeDeleted),
        5 => (0u8..8).prop_map(ClusterEvent::NodeReturned),
        5 => Just(ClusterEvent::Responses(Responses::Lost)),
        8 => Just(ClusterEvent::Responses(Responses::Late)),
        4 => any::<u8>().prop_map(ClusterEvent::WorkerDeleted),
        2 => any::<u8>().prop_map(ClusterEvent::TaskSuspended),
        4 => any::<u8>().prop_map(ClusterEvent::TaskResumed),
        1 => any::<u8>().prop_map(ClusterEvent::TaskCancelled),
        12 => Just(ClusterEvent::TaskCreated),
    ]
}

/// Returns the number of cases, a twentieth of those of the test with one task, whose steps are
/// cheaper.
fn case_count() -> u32 {
    super::case_count().div_ceil(20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: case_count(), ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_several_tasks_end_with_exact_counts(
        happenings in proptest::collection::vec(cluster_event(), 0..160),
        nodes in 1u8..8,
        specs in proptest::collection::vec((spec(), 1u32..=10), 2..6),
        max_workers in 1usize..6,
        max_tasks in 1usize..4,
        at_the_end in prop_oneof![Just(Responses::InTime), Just(Responses::Late), Just(Responses::Lost)],
        collector_delay in 0u8..12,
    ) {
        let mut simulation =
            ClusterSimulation::new(nodes, max_workers, max_tasks, collector_delay);
        let mut waiting: Vec<PrewarmTaskSpec> =
            specs.into_iter().map(|(spec, priority)| PrewarmTaskSpec { priority, ..spec }).collect();
        simulation.create_task(waiting.pop().unwrap());
        for happening in happenings {
            apply_event(&mut simulation, happening, nodes, &mut waiting);
            simulation.round();
        }
        for spec in waiting {
            simulation.create_task(spec);
        }
        simulation.run_to_end(at_the_end);
        for task in simulation.tasks() {
            check_status(task)?;
            check_warm_nodes(&simulation, task)?;
            // A crash between the write of an end and its measurement loses the measurement.
            let ends = simulation.measured_ends(task.metadata.uid.as_deref().unwrap());
            prop_assert!(ends == 1 || ends == 0 && simulation.has_crashed(), "{ends} ends");
        }
        prop_assert_eq!(simulation.active_workers(), 0);
        prop_assert_eq!(simulation.internal_errors(), 0);
    }
}

fn apply_event(
    simulation: &mut ClusterSimulation,
    happening: ClusterEvent,
    nodes: u8,
    waiting: &mut Vec<PrewarmTaskSpec>,
) {
    match happening {
        ClusterEvent::Time(tenths) => simulation.advance_time(i64::from(tenths) * 100),
        ClusterEvent::PodEnds(which, end) => simulation.finish_pod(which, end),
        ClusterEvent::Crash => simulation.crash(),
        ClusterEvent::NodeDeleted(node) => simulation.delete_node(node % nodes),
        ClusterEvent::NodeReturned(node) => simulation.return_node(node % nodes),
        ClusterEvent::Responses(when) => simulation.set_responses(when),
        ClusterEvent::WorkerDeleted(which) => simulation.delete_some_worker(which),
        ClusterEvent::TaskSuspended(which) => {
            simulation.change_task(which, |spec| spec.suspend = true);
        }
        ClusterEvent::TaskResumed(which) => {
            simulation.change_task(which, |spec| spec.suspend = false);
        }
        ClusterEvent::TaskCancelled(which) => {
            simulation.change_task(which, |spec| spec.cancel = true);
        }
        ClusterEvent::TaskCreated => {
            if let Some(spec) = waiting.pop() {
                simulation.create_task(spec);
            }
        }
    }
}

/// Checks that every image of a node that counts as warm was pulled to it: by any task, or, with the
/// pull policy `Always`, by this one, because the tag may have moved since another pulled it.
fn check_warm_nodes(
    simulation: &ClusterSimulation,
    task: &PrewarmTask,
) -> Result<(), TestCaseError> {
    let status = task.status.clone().unwrap_or_default();
    let uid = task.metadata.uid.as_deref().unwrap();
    let is_pulled = |node: &str, image: &str| {
        let always = match task.spec.image_pull_policy {
            Some(policy) => policy == PullPolicy::Always,
            None => image.ends_with(":latest"),
        };
        if always {
            simulation.has_pulled_itself(uid, node, image)
        } else {
            simulation.has_pulled(node, image)
        }
    };
    for (node, letter) in simulation.planned_nodes(task).zip(status.node_states.bytes()) {
        let missing = task.spec.images.iter().find(|image| !is_pulled(node, image));
        prop_assert!(
            !b"sw".contains(&letter) || missing.is_none(),
            "{node} counts as warm without {missing:?}"
        );
    }
    Ok(())
}
