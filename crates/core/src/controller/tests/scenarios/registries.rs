//! Registries that do not answer.

use std::collections::BTreeSet;

use crate::{
    task::{Amount, BatchPolicy, Phase, PrewarmTaskSpec},
    worker::WorkerInfo,
};

use super::{
    super::simulation::{PodResult, Simulation},
    fixture::{spec, status},
};

#[test]
fn an_unreachable_registry_does_not_delay_others() {
    let images = ["dead.example/a:1", "good.example/b:1"].map(str::to_owned).to_vec();
    let task = PrewarmTaskSpec {
        timeout: "60s".into(),
        batch_size: Amount::Count(4),
        ..PrewarmTaskSpec::new(images)
    };
    let mut simulation = Simulation::new(12, task);
    let begun = simulation.now;
    let mut asked = BTreeSet::new();
    for _ in 0..800 {
        simulation.finish_new_pods(PodResult::Transient);
        simulation.advance_time(250);
        simulation.reconcile();
        for worker in simulation.workers.values().filter(|worker| worker.images.contains(&0)) {
            asked.insert((worker.node.clone(), worker.attempt));
        }
        if simulation.now.duration_since(begun).as_secs() == 20 {
            let pulled: BTreeSet<&String> =
                simulation.history.iter().map(|(node, _)| node).collect();
            assert_eq!(
                pulled.len(),
                12,
                "the good image was pulled on all nodes: {}",
                simulation.node_states()
            );
        }
    }
    let status = status(&simulation);
    assert_eq!((status.phase, status.failed_node_count), (Phase::Failed, 12), "{status:#?}");
    let counts: Vec<(u32, u32)> =
        status.images.iter().map(|image| (image.succeeded, image.failed)).collect();
    assert_eq!(counts, [(0, 12), (12, 0)]);
    assert!(
        asked.len() <= 4 + 2,
        "one batch and two probes pull from the failing registry: {asked:?}"
    );
    let given_up = status.images[0].given_up.as_ref().unwrap();
    assert_eq!(given_up.reason, "RegistryUnreachable");
    let took = status
        .completion_time
        .unwrap()
        .parse::<k8s_openapi::jiff::Timestamp>()
        .unwrap()
        .duration_since(begun);
    assert!(took.as_secs() < 100, "took {took:?}; without the breaker three batches of 60 s");
}

#[test]
fn a_recovered_registry_is_used_by_all_nodes() {
    let task = PrewarmTaskSpec { batch_size: Amount::Count(4), ..spec(1, 4) };
    let mut simulation = Simulation::new(8, task);
    simulation.wait(2);
    simulation.finish_new_pods(PodResult::Transient);
    simulation.wait(6);
    assert_eq!(
        simulation.running_workers(),
        2,
        "two probes continue: {}",
        simulation.node_states()
    );
    let said = status(&simulation).conditions;
    let throttled = said.iter().find(|condition| condition.type_ == "Throttled").unwrap();
    assert_eq!(
        (throttled.status.as_str(), throttled.reason.as_str()),
        ("True", "RegistryUnreachable")
    );
    simulation.run_to_end();
    let status = status(&simulation);
    assert_eq!(
        (status.phase, status.succeeded_nodes),
        (Phase::Completed, 8),
        "{}",
        status.node_states
    );
}

/// Lets a registry fail on the first nodes, so that the workers of the next nodes are created
/// without its image.
fn with_omitted_image() -> Simulation {
    let images = ["dead.example/a:1", "good.example/b:1"].map(str::to_owned).to_vec();
    let task = PrewarmTaskSpec {
        timeout: "60s".into(),
        batch_size: Amount::Count(4),
        batch_policy: BatchPolicy::Rolling,
        ..PrewarmTaskSpec::new(images)
    };
    let mut simulation = Simulation::new(8, task);
    simulation.wait(2);
    simulation.finish_new_pods(PodResult::Transient);
    simulation.wait(6);
    let omits = |worker: &WorkerInfo| *worker.images == [1];
    assert!(simulation.workers.values().any(omits), "{:#?}", simulation.workers);
    simulation
}

/// Lets the registry answer on one of its probes, and returns the nodes whose running worker was
/// created without its image.
fn recover(simulation: &mut Simulation) -> Vec<String> {
    let omitting: Vec<String> = simulation
        .workers
        .values()
        .filter(|worker| *worker.images == [1])
        .map(|worker| worker.node.clone())
        .collect();
    let asks = |worker: &&WorkerInfo| worker.images.contains(&0);
    let probe = simulation
        .workers
        .values()
        .find(asks)
        .unwrap_or_else(|| panic!("{:#?}", simulation.workers));
    let probe = simulation.pods[&probe.key()].name.clone();
    simulation.finish_pod_named(&probe, PodResult::Success);
    simulation.advance_time(300);
    simulation.reconcile();
    omitting
}

#[test]
fn an_image_that_a_worker_omits_is_pulled_after_its_registry_answers() {
    for crash in [false, true] {
        let mut simulation = with_omitted_image();
        let omitting = recover(&mut simulation);
        if crash {
            simulation.crash();
        }
        let mut created = BTreeSet::new();
        for _ in 0..200 {
            for worker in simulation.workers.values().filter(|worker| worker.attempt == 0) {
                created.insert((worker.node.clone(), worker.part, worker.images.to_vec()));
            }
            simulation.finish_pod(PodResult::Success);
            simulation.advance_time(300);
            simulation.reconcile();
        }
        for node in omitting {
            assert!(created.contains(&(node, 1, vec![0])), "crash: {crash}: {created:?}");
        }
        let status = status(&simulation);
        assert_eq!((status.phase, status.succeeded_nodes), (Phase::Completed, 8), "{status:#?}");
        for node in &simulation.plan.as_ref().unwrap().nodes {
            assert!(simulation.pulled.contains(&(node.clone(), 0)), "{node} lacks the image");
        }
    }
}

#[test]
fn an_image_that_a_worker_omits_is_not_warm_when_the_time_is_over() {
    let mut simulation = with_omitted_image();
    let omitting = recover(&mut simulation);
    simulation.advance_time(61_000);
    simulation.reconcile();
    let failed = status(&simulation).failed_nodes;
    for node in omitting {
        let failure = failed.iter().find(|f| f.node == node && f.image == "dead.example/a:1");
        assert_eq!(failure.unwrap().reason, "Timeout", "{failed:#?}");
    }
}
