//! Specs of the scenarios, and shortcuts through the simulation.

use crate::task::{
    Amount, FailurePolicy, PrewarmTaskSpec, PrewarmTaskStatus, RetrySpec, RetryStrategy,
};

use super::super::simulation::{PodResult, Simulation};

pub(super) fn spec(images: usize, batch: u32) -> PrewarmTaskSpec {
    PrewarmTaskSpec {
        batch_size: Amount::Count(batch),
        timeout: "60s".into(),
        ..PrewarmTaskSpec::new((0..images).map(|image| format!("image-{image}:1")).collect())
    }
}

pub(super) fn retrying(limit: u32) -> PrewarmTaskSpec {
    PrewarmTaskSpec {
        failure_policy: Some(FailurePolicy::Retry),
        retry: Some(RetrySpec {
            limit,
            strategy: RetryStrategy::Exponential,
            delay: Some("10s".into()),
        }),
        ..spec(1, 2)
    }
}

pub(super) fn status(simulation: &Simulation) -> PrewarmTaskStatus {
    simulation.task.status.clone().unwrap()
}

/// Lets each pod reach the same result, in the order of creation.
pub(super) fn finish_all_pods(simulation: &mut Simulation, outcome: PodResult) {
    for _ in 0..400 {
        for _ in 0..simulation.running_workers() {
            simulation.finish_pod(outcome);
        }
        simulation.advance_time(300);
        simulation.reconcile();
    }
}
