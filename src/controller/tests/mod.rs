//! Tasks against a simulated cluster: whatever happens, their invariants hold.

mod cases;
mod contained;
mod forged;
mod simulation;
mod survival;

use proptest::prelude::*;

pub(super) use self::simulation::settings;
use self::simulation::{Outcome, Simulation};
use crate::task::{Amount, BatchPolicy, FailurePolicy, Phase, PrewarmTaskSpec, Retry, RetryStrategy, WorkerKind};

/// What may happen between two steps.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// Time passes, in tenths of a second.
    Time(u8),
    /// The oldest pod at work comes to something.
    PodEnds(Outcome),
    /// The controller dies, and a successor takes over.
    Crash,
    /// A node is deleted.
    NodeGone(u8),
    /// A node is cordoned.
    NodeCordoned(u8),
    /// A node stops being ready.
    NodeUnready(u8),
    /// Another task begins on a node.
    NodeTaken(u8),
    /// All other tasks end.
    NodesFreed,
    /// Answers of the API server are lost: effects are done, and reported as failed.
    AnswersLost,
    /// Somebody deletes a worker.
    WorkerDeleted(u8),
    /// Somebody else makes a Job or pod with the labels of workers.
    Forged(u8),
    Suspend,
    Resume,
    Cancel,
}

fn happening() -> impl Strategy<Value = Happening> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Good),
        2 => Just(Outcome::Hopeless),
        2 => Just(Outcome::Passing),
        1 => Just(Outcome::Refused),
    ];
    prop_oneof![
        40 => (1u8..30).prop_map(Happening::Time),
        70 => outcome.prop_map(Happening::PodEnds),
        6 => Just(Happening::Crash),
        5 => (0u8..12).prop_map(Happening::NodeGone),
        3 => (0u8..12).prop_map(Happening::NodeCordoned),
        3 => (0u8..12).prop_map(Happening::NodeUnready),
        6 => (0u8..12).prop_map(Happening::NodeTaken),
        3 => Just(Happening::NodesFreed),
        6 => Just(Happening::AnswersLost),
        6 => any::<u8>().prop_map(Happening::WorkerDeleted),
        8 => any::<u8>().prop_map(Happening::Forged),
        3 => Just(Happening::Suspend),
        4 => Just(Happening::Resume),
        1 => Just(Happening::Cancel),
    ]
}

/// `apart`: images with an even index, which may fail, are in a registry of their own.
fn reference(image: usize, apart: bool) -> String {
    let host = if apart && image.is_multiple_of(2) { "other.example/" } else { "" };
    format!("{host}image-{image}:1")
}

fn spec() -> impl Strategy<Value = PrewarmTaskSpec> {
    let policy = prop_oneof![Just(BatchPolicy::Barrier), Just(BatchPolicy::Rolling), Just(BatchPolicy::Doubling)];
    let worker = prop_oneof![Just(WorkerKind::Job), Just(WorkerKind::Pod)];
    let retries = prop_oneof![Just(None), (0u32..3).prop_map(Some)];
    (1u32..5, policy, worker, retries, 1usize..6, any::<bool>(), any::<bool>()).prop_map(
        |(batch, policy, worker, retries, images, retain, apart)| PrewarmTaskSpec {
            batch_size: Amount::Count(batch),
            batch_policy: policy,
            worker,
            timeout: "60s".into(),
            failure_policy: if retries.is_some() { FailurePolicy::Retry } else { FailurePolicy::Skip },
            retry: retries.map(|limit| Retry { limit, strategy: RetryStrategy::Linear, delay: Some("2s".into()) }),
            retain: retain.then(|| "1h".into()),
            ..PrewarmTaskSpec::new((0..images).map(|image| reference(image, apart)).collect())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases_to_try(), ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_a_task_ends_with_exact_counts(
        happenings in proptest::collection::vec(happening(), 0..160),
        nodes in 1usize..12,
        spec in spec(),
    ) {
        let mut simulation = Simulation::new(nodes, spec);
        for happening in happenings {
            if simulation.phase().is_terminal() {
                break;
            }
            happen(&mut simulation, happening);
            simulation.step();
        }
        simulation.finish();
        check(&simulation)?;
    }
}

/// `make test-long` asks for more by `PROPTEST_CASES`.
fn cases_to_try() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

fn happen(simulation: &mut Simulation, happening: Happening) {
    match happening {
        Happening::Time(tenths) => simulation.pass(i64::from(tenths) * 100),
        Happening::PodEnds(outcome) => simulation.end_pod(outcome),
        Happening::Crash => simulation.crash(),
        Happening::NodeGone(node) => simulation.drop_node(node),
        Happening::NodeCordoned(node) => simulation.change_node(node, |facts| facts.unschedulable = true),
        Happening::NodeUnready(node) => simulation.unready(node),
        Happening::NodeTaken(node) => simulation.take_node(node),
        Happening::NodesFreed => simulation.taken.clear(),
        Happening::AnswersLost => simulation.lose_answers = true,
        Happening::WorkerDeleted(which) => simulation.delete_some_worker(which),
        Happening::Forged(how) => simulation.forge(how),
        Happening::Suspend => simulation.task.spec.suspend = true,
        Happening::Resume => simulation.task.spec.suspend = false,
        Happening::Cancel => simulation.task.spec.cancel = true,
    }
}

/// What must hold of a task that has ended. (What must hold at every moment, the simulation itself asserts.)
fn check(simulation: &Simulation) -> Result<(), TestCaseError> {
    let status = simulation.task.status.clone().unwrap_or_default();
    let ended = status.succeeded_nodes + status.failed_node_count + status.skipped_nodes;
    if status.phase != Phase::Cancelled {
        prop_assert_eq!(ended, status.total_nodes);
        prop_assert!(status.node_states.bytes().all(|letter| b"swfk".contains(&letter)), "{}", status.node_states);
        for image in &status.images {
            prop_assert_eq!(image.succeeded + image.failed, ended - status.skipped_nodes, "{:?}", image);
        }
    }
    prop_assert_eq!(status.node_states.len(), status.total_nodes as usize);
    for (name, worker) in &simulation.workers {
        let retained = simulation.task.spec.retain.is_some() && status.phase != Phase::Cancelled;
        prop_assert!(retained && !simulation.is_at_work(name), "{} was left", worker.name);
    }
    Ok(())
}
