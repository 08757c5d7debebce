//! Property tests: a task in a simulated cluster keeps its invariants under any sequence of events.

mod aborted_tasks;
mod foreign_objects;
mod many_tasks;
mod panics;
mod scenarios;
mod simulation;

use crate::task::{
    Amount, BatchPolicy, FailurePolicy, Phase, PrewarmTask, PrewarmTaskSpec, PullPolicy, RetrySpec,
    RetryStrategy, WorkerKind,
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
    /// A node is created again, or becomes schedulable and ready.
    NodeReturned(u8),
    /// The API server rejects all new pods.
    PodsRefused,
    /// The API server accepts pods again.
    PodsAccepted,
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
        6 => (0u8..12).prop_map(SimEvent::NodeReturned),
        2 => Just(SimEvent::PodsRefused),
        4 => Just(SimEvent::PodsAccepted),
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
/// registry of their own. Every third image has a tag that moves, which is pulled with the policy
/// `Always` unless the task sets another.
fn reference(image: usize, apart: bool) -> String {
    let host = if apart && image.is_multiple_of(2) { "other.example/" } else { "" };
    let tag = if image % 3 == 1 { "latest" } else { "1" };
    format!("{host}image-{image}:{tag}")
}

fn pull_policy() -> impl Strategy<Value = Option<PullPolicy>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(PullPolicy::Always)),
        1 => Just(Some(PullPolicy::IfNotPresent)),
    ]
}

fn spec() -> impl Strategy<Value = PrewarmTaskSpec> {
    let policy = prop_oneof![
        Just(BatchPolicy::Barrier),
        Just(BatchPolicy::Rolling),
        Just(BatchPolicy::Doubling)
    ];
    let worker = prop_oneof![Just(WorkerKind::Job), Just(WorkerKind::Pod)];
    let retries = prop_oneof![Just(None), (0u32..3).prop_map(Some)];
    let deadline = prop_oneof![4 => Just(None), 1 => Just(Some("20s".to_owned()))];
    let ends = (success_threshold(), deadline);
    let pulls = (worker, pull_policy());
    (1u32..5, policy, pulls, retries, 1usize..8, any::<bool>(), any::<bool>(), ends).prop_map(
        |(
            batch,
            policy,
            (worker, pulls),
            retries,
            images,
            retain,
            apart,
            (threshold, deadline),
        )| {
            PrewarmTaskSpec {
                image_pull_policy: pulls,
                success_threshold: threshold,
                deadline,
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
            }
        },
    )
}

/// Shares of up to eleven nodes, and a percent above and below each.
fn success_threshold() -> impl Strategy<Value = String> {
    let near = (0u32..12, 1u32..12, 0u32..3).prop_map(|(warm, nodes, by)| {
        (warm.min(nodes) * 100 / nodes + by).saturating_sub(1).min(100)
    });
    prop_oneof![1 => 0u32..=100, 3 => near].prop_map(|percent| format!("{percent}%"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: case_count(), ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_a_task_ends_with_exact_counts(
        happenings in proptest::collection::vec(sim_event(), 0..160),
        nodes in 1usize..12,
        spec in spec(),
        collector_delay in 0u8..12,
    ) {
        let mut simulation = Simulation::new(nodes, spec);
        simulation.delay_garbage_collector(collector_delay);
        for happening in happenings {
            if simulation.phase().is_terminal() {
                break;
            }
            apply_event(&mut simulation, happening, nodes);
            simulation.reconcile();
        }
        simulation.run_to_end();
        check_status(&simulation.task)?;
        check_invariants(&simulation)?;
    }
}

/// Returns the number of cases. `make test-long` raises it with `PROPTEST_CASES`.
fn case_count() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

fn apply_event(simulation: &mut Simulation, happening: SimEvent, nodes: usize) {
    match happening {
        SimEvent::Time(tenths) => simulation.advance_time(i64::from(tenths) * 100),
        SimEvent::PodEnds(outcome) => simulation.finish_pod(outcome),
        SimEvent::Crash => simulation.crash(),
        SimEvent::NodeDeleted(node) => simulation.delete_node(node),
        SimEvent::NodeCordoned(node) => {
            simulation.change_node(node, |facts| facts.unschedulable = true);
        }
        SimEvent::NodeUnready(node) => simulation.make_unready(node),
        SimEvent::NodeReturned(node) => simulation.return_node(node, nodes),
        SimEvent::PodsRefused => simulation.refuse_pods(),
        SimEvent::PodsAccepted => simulation.accept_pods(),
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

/// Checks the status of an ended task: its counts agree with the states of the nodes, and its phase
/// with the counts.
fn check_status(task: &PrewarmTask) -> Result<(), TestCaseError> {
    let status = task.status.clone().unwrap_or_default();
    prop_assert!(status.phase.is_terminal(), "{:?}", status.phase);
    prop_assert_eq!(status.node_states.len(), status.total_nodes as usize);
    let count = |letters: &[u8]| {
        let of = status.node_states.bytes().filter(|letter| letters.contains(letter));
        u32::try_from(of.count()).unwrap()
    };
    prop_assert_eq!(status.succeeded_nodes, count(b"sw"), "{}", status.node_states);
    prop_assert_eq!(status.already_warm_nodes, count(b"w"), "{}", status.node_states);
    prop_assert_eq!(status.failed_node_count, count(b"f"), "{}", status.node_states);
    prop_assert_eq!(status.skipped_nodes, count(b"k"), "{}", status.node_states);
    for image in &status.images {
        prop_assert!(image.succeeded >= status.succeeded_nodes, "{:?}", image);
        prop_assert_eq!(image.succeeded + image.failed, count(b"swf"), "{:?}", image);
    }
    if status.phase != Phase::Cancelled {
        prop_assert_eq!(count(b"swfk"), status.total_nodes, "{}", status.node_states);
        let threshold: u32 = task.spec.success_threshold.trim_end_matches('%').parse().unwrap();
        let reached = status.succeeded_nodes * 100 >= threshold * status.total_nodes;
        let expected =
            if reached && status.total_nodes > 0 { Phase::Completed } else { Phase::Failed };
        prop_assert_eq!(status.phase, expected, "{}, threshold {}", status.node_states, threshold);
    }
    Ok(())
}

/// Checks the invariants of an ended task that its status does not show. The simulation asserts
/// those that hold at any time.
fn check_invariants(simulation: &Simulation) -> Result<(), TestCaseError> {
    let status = simulation.task.status.clone().unwrap_or_default();
    let images = u16::try_from(simulation.task.spec.images.len()).unwrap();
    let planned = simulation.plan.iter().flat_map(|plan| &plan.nodes);
    for (node, letter) in planned.zip(status.node_states.bytes()) {
        let missing =
            (0..images).find(|image| !simulation.pulled.contains(&(node.clone(), *image)));
        prop_assert!(
            !b"sw".contains(&letter) || missing.is_none(),
            "{node} counts as warm without image {missing:?}"
        );
    }
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
