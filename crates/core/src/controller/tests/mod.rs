//! Property tests: a task in a simulated cluster keeps its invariants under any sequence of events.

mod aborted_tasks;
mod foreign_objects;
mod panics;
mod scenarios;
mod simulation;

use crate::task::{
    Amount, BatchPolicy, FailurePolicy, Phase, PrewarmTaskSpec, RetrySpec, RetryStrategy,
    WorkerKind,
};
use proptest::prelude::*;

use self::simulation::{PodResult, Simulation};

/// Event between two reconciles.
#[derive(Debug, Clone, Copy)]
enum SimEvent {
    /// Time passes, in tenths of a second.
    Time(u8),
    /// The oldest running pod reaches a result.
    PodEnds(PodResult),
    /// The controller crashes, and a successor takes over.
    Crash,
    /// A node is deleted.
    NodeDeleted(u8),
    /// A node is cordoned.
    NodeCordoned(u8),
    /// A node becomes not ready.
    NodeUnready(u8),
    /// Another task starts on a node.
    NodeBusy(u8),
    /// All other tasks end.
    NodesFreed,
    /// Responses of the API server are lost: effects are applied and reported as failed.
    ResponsesLost,
    /// Another user deletes a worker.
    WorkerDeleted(u8),
    /// Another user creates a Job or pod with the labels of workers.
    WorkerForged(u8),
    Suspend,
    Resume,
    Cancel,
}

fn sim_event() -> impl Strategy<Value = SimEvent> {
    let outcome = prop_oneof![
        4 => Just(PodResult::Success),
        2 => Just(PodResult::Permanent),
        2 => Just(PodResult::Transient),
        1 => Just(PodResult::Rejected),
    ];
    prop_oneof![
        40 => (1u8..30).prop_map(SimEvent::Time),
        70 => outcome.prop_map(SimEvent::PodEnds),
        6 => Just(SimEvent::Crash),
        5 => (0u8..12).prop_map(SimEvent::NodeDeleted),
        3 => (0u8..12).prop_map(SimEvent::NodeCordoned),
        3 => (0u8..12).prop_map(SimEvent::NodeUnready),
        6 => (0u8..12).prop_map(SimEvent::NodeBusy),
        3 => Just(SimEvent::NodesFreed),
        6 => Just(SimEvent::ResponsesLost),
        6 => any::<u8>().prop_map(SimEvent::WorkerDeleted),
        8 => any::<u8>().prop_map(SimEvent::WorkerForged),
        3 => Just(SimEvent::Suspend),
        4 => Just(SimEvent::Resume),
        1 => Just(SimEvent::Cancel),
    ]
}

/// Returns an image reference. With `apart`, images with an even index, which may fail, have a
/// registry of their own.
fn reference(image: usize, apart: bool) -> String {
    let host = if apart && image.is_multiple_of(2) { "other.example/" } else { "" };
    format!("{host}image-{image}:1")
}

fn spec() -> impl Strategy<Value = PrewarmTaskSpec> {
    let policy = prop_oneof![
        Just(BatchPolicy::Barrier),
        Just(BatchPolicy::Rolling),
        Just(BatchPolicy::Doubling)
    ];
    let worker = prop_oneof![Just(WorkerKind::Job), Just(WorkerKind::Pod)];
    let retries = prop_oneof![Just(None), (0u32..3).prop_map(Some)];
    (1u32..5, policy, worker, retries, 1usize..6, any::<bool>(), any::<bool>()).prop_map(
        |(batch, policy, worker, retries, images, retain, apart)| PrewarmTaskSpec {
            batch_size: Amount::Count(batch),
            batch_policy: policy,
            worker,
            timeout: "60s".into(),
            failure_policy: retries.map(|_| FailurePolicy::Retry),
            retry: retries.map(|limit| RetrySpec {
                limit,
                strategy: RetryStrategy::Linear,
                delay: Some("2s".into()),
            }),
            retain: retain.then(|| "1h".into()),
            ..PrewarmTaskSpec::new((0..images).map(|image| reference(image, apart)).collect())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: case_count(), ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_a_task_ends_with_exact_counts(
        happenings in proptest::collection::vec(sim_event(), 0..160),
        nodes in 1usize..12,
        spec in spec(),
    ) {
        let mut simulation = Simulation::new(nodes, spec);
        for happening in happenings {
            if simulation.phase().is_terminal() {
                break;
            }
            apply_event(&mut simulation, happening);
            simulation.reconcile();
        }
        simulation.run_to_end();
        check_invariants(&simulation)?;
    }
}

/// Returns the number of cases. `make test-long` raises it with `PROPTEST_CASES`.
fn case_count() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

fn apply_event(simulation: &mut Simulation, happening: SimEvent) {
    match happening {
        SimEvent::Time(tenths) => simulation.advance_time(i64::from(tenths) * 100),
        SimEvent::PodEnds(outcome) => simulation.finish_pod(outcome),
        SimEvent::Crash => simulation.crash(),
        SimEvent::NodeDeleted(node) => simulation.delete_node(node),
        SimEvent::NodeCordoned(node) => {
            simulation.change_node(node, |facts| facts.unschedulable = true);
        }
        SimEvent::NodeUnready(node) => simulation.make_unready(node),
        SimEvent::NodeBusy(node) => simulation.occupy_node(node),
        SimEvent::NodesFreed => simulation.busy_nodes.clear(),
        SimEvent::ResponsesLost => simulation.lose_responses = true,
        SimEvent::WorkerDeleted(which) => simulation.delete_some_worker(which),
        SimEvent::WorkerForged(how) => simulation.forge_worker(how),
        SimEvent::Suspend => simulation.task.spec.suspend = true,
        SimEvent::Resume => simulation.task.spec.suspend = false,
        SimEvent::Cancel => simulation.task.spec.cancel = true,
    }
}

/// Checks the invariants of an ended task. The simulation asserts those that hold at any time.
fn check_invariants(simulation: &Simulation) -> Result<(), TestCaseError> {
    let status = simulation.task.status.clone().unwrap_or_default();
    let ended = status.succeeded_nodes + status.failed_node_count + status.skipped_nodes;
    if status.phase != Phase::Cancelled {
        prop_assert_eq!(ended, status.total_nodes);
        prop_assert!(
            status.node_states.bytes().all(|letter| b"swfk".contains(&letter)),
            "{}",
            status.node_states
        );
        for image in &status.images {
            prop_assert_eq!(
                image.succeeded + image.failed,
                ended - status.skipped_nodes,
                "{:?}",
                image
            );
        }
    }
    prop_assert_eq!(status.node_states.len(), status.total_nodes as usize);
    for (name, worker) in &simulation.workers {
        let retained = simulation.task.spec.retain.is_some() && status.phase != Phase::Cancelled;
        prop_assert!(
            retained && !simulation.is_running(name),
            "worker {} was not deleted",
            worker.name
        );
    }
    Ok(())
}
