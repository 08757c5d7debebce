//! Start and end of a task in the simulated cluster, and the operator's limits.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{
    node::NodeLabels,
    task::{
        BatchPolicy, Phase, PrewarmTaskSpec,
        caps::{Caps, RegistryRules},
    },
};

use super::{
    super::simulation::{PodResult, Simulation, settings},
    fixture::{spec, status},
};

#[test]
fn cancel_removes_everything() {
    let mut simulation =
        Simulation::new(4, PrewarmTaskSpec { retain: Some("1h".into()), ..spec(1, 2) });
    simulation.wait(2);
    simulation.finish_pod(PodResult::Success);
    simulation.wait(1);
    simulation.task.spec.cancel = true;
    simulation.wait(3);
    assert_eq!((simulation.phase(), simulation.workers.len()), (Phase::Cancelled, 0));
}

#[test]
fn a_suspended_task_starts_no_worker_and_resumes() {
    let mut simulation = Simulation::new(2, spec(1, 1));
    simulation.wait(2);
    simulation.task.spec.suspend = true;
    simulation.finish_pod(PodResult::Success);
    simulation.wait(10);
    assert_eq!((simulation.node_states(), simulation.running_workers()), ("s.", 0));
    simulation.run_to_end();
    assert_eq!(simulation.node_states(), "ss");
}

#[test]
fn a_node_lost_or_cordoned_blocks_no_batch() {
    let mut simulation =
        Simulation::new(4, PrewarmTaskSpec { timeout: "10m".into(), ..spec(1, 2) });
    simulation.wait(2);
    simulation.delete_node(0);
    simulation.make_unready(1);
    simulation.change_node(2, |facts| facts.unschedulable = true);
    simulation.wait(50);
    assert_eq!(simulation.node_states(), "f...", "a node may become ready again within a minute");
    simulation.wait(15);
    assert_eq!(simulation.node_states(), "ffk.");
    simulation.run_to_end();
    let status = status(&simulation);
    assert_eq!(status.node_states, "ffks");
    let reasons: BTreeSet<(&str, &str)> =
        status.failed_nodes.iter().map(|f| (f.node.as_str(), f.reason.as_str())).collect();
    assert_eq!(reasons, [("n00", "NodeLost"), ("n01", "NodeLost"), ("n02", "NodeRefused")].into());
}

#[test]
fn the_deadline_ends_a_task() {
    let mut simulation =
        Simulation::new(3, PrewarmTaskSpec { deadline: Some("20s".into()), ..spec(1, 1) });
    simulation.wait(2);
    simulation.finish_pod(PodResult::Success);
    simulation.wait(25);
    let status = status(&simulation);
    assert_eq!((status.phase, status.node_states.as_str()), (Phase::Failed, "sff"));
    assert_eq!(status.failed_nodes[0].reason, "Timeout");
    assert!(simulation.workers.is_empty());
}

#[test]
fn clock_skew_times_out_no_node() {
    let mut simulation = Simulation::new(2, spec(1, 2));
    simulation.wait(2);
    for worker in simulation.workers.values_mut() {
        // Creation time as recorded by an API server whose clock is an hour behind.
        worker.created = worker
            .created
            .map(|created| created - k8s_openapi::jiff::SignedDuration::from_hours(1));
    }
    simulation.wait(5);
    assert_eq!((simulation.phase(), simulation.running_workers()), (Phase::Running, 2));
    simulation.run_to_end();
    assert_eq!(simulation.node_states(), "ss");
}

#[test]
fn the_circuit_breaker_limits_large_tasks() {
    let mut settings = settings();
    settings.breaker = crate::task::plan::BatchSizeBreaker { node_threshold: 5, batch_size: 2 };
    let mut simulation = Simulation::with_settings(6, spec(1, 6), settings);
    simulation.wait(2);
    assert_eq!(simulation.running_workers(), 2);
    let said = status(&simulation).conditions;
    assert!(
        said.iter().any(|condition| condition.type_ == "Throttled" && condition.status == "True"),
        "{said:?}"
    );
}

#[test]
fn a_deleted_plan_fails_the_task() {
    let mut simulation = Simulation::new(3, spec(1, 1));
    simulation.wait(2);
    simulation.finish_pod(PodResult::Success);
    simulation.wait(7);
    simulation.plan = None;
    simulation.crash();
    simulation.wait(2);
    let reason = &status(&simulation).conditions[0].reason;
    assert_eq!((simulation.phase(), reason.as_str()), (Phase::Failed, "PlanLost"));
}

#[test]
fn a_task_without_eligible_nodes_fails() {
    let mut simulation = Simulation::new(0, spec(1, 1));
    simulation.wait(2);
    assert_eq!((simulation.phase(), simulation.events.len()), (Phase::Failed, 1));
    let mut simulation = Simulation::new(1, spec(1, 1));
    simulation.change_node(0, |facts| {
        (facts.unschedulable, facts.labels) = (true, NodeLabels::default());
    });
    simulation.wait(2);
    assert_eq!(status(&simulation).ignored_nodes[0].reason, "Unschedulable");
}

#[test]
fn progress_is_written_every_few_seconds_only() {
    let mut simulation =
        Simulation::new(100, PrewarmTaskSpec { batch_policy: BatchPolicy::Rolling, ..spec(1, 10) });
    simulation.wait(3);
    let before = simulation.writes.len();
    for _ in 0..40 {
        simulation.finish_pod(PodResult::Success);
        simulation.advance_time(500);
        simulation.reconcile();
    }
    let writes = simulation.writes.len() - before;
    assert!((3..=6).contains(&writes), "{writes} writes in 20 s of progress");
}

#[test]
fn the_default_deadline_applies_to_tasks_without_one() {
    let mut settings = settings();
    let caps = Caps { default_deadline: Duration::from_secs(20), ..Caps::default() };
    settings.limits.caps = Arc::new(caps);
    let mut simulation = Simulation::with_settings(3, spec(1, 1), settings);
    simulation.wait(30);
    let status = status(&simulation);
    assert_eq!((status.phase, status.node_states.as_str()), (Phase::Failed, "fff"));
    let said = &status.conditions[0].message;
    assert!(said.contains("ended by its deadline of 20s (--default-deadline)"), "{said}");
}

#[test]
fn operator_limits_clamp_or_reject_a_spec() {
    let mut settings = settings();
    let denied = RegistryRules { denied: vec!["bad.example".into()], ..RegistryRules::default() };
    let caps =
        Caps { nodes: 2, timeout: Duration::from_secs(30), registries: denied, ..Caps::default() };
    settings.limits.caps = Arc::new(caps);
    let mut simulation = Simulation::with_settings(5, spec(1, 1), settings.clone());
    simulation.run_to_end();
    let ended = status(&simulation);
    assert_eq!((ended.phase, ended.total_nodes), (Phase::Completed, 2));
    let limited = ended.conditions.iter().find(|condition| condition.type_ == "Limited").unwrap();
    let expected = "spec.timeout 1m is limited to 30s (--max-timeout); 5 nodes are limited to 2 (--max-nodes-per-task)";
    assert_eq!(limited.message, expected);
    let mut refused = spec(1, 1);
    refused.images.push("bad.example/x:1".into());
    let mut simulation = Simulation::with_settings(5, refused, settings);
    simulation.wait(2);
    let ended = status(&simulation);
    assert_eq!((ended.phase, ended.conditions[0].reason.as_str()), (Phase::Failed, "InvalidSpec"));
    let said = &ended.conditions[0].message;
    assert!(said.contains("spec.images[1]") && said.contains("--denied-registries"), "{said}");
}

#[test]
fn a_task_is_parked_after_a_time_without_pulls() {
    let mut simulation = Simulation::new(1, spec(1, 1));
    simulation.reconciler.record_pulling(false, simulation.now);
    simulation.advance_time(60_000);
    simulation.reconcile();
    assert_eq!(
        (simulation.phase(), simulation.reconciler.is_parked(simulation.now)),
        (Phase::Snapshotting, false)
    );
    simulation.wait(2);
    simulation.finish_pod(PodResult::Transient);
    simulation.reconciler.record_pulling(true, simulation.now);
    simulation.wait(9);
    assert!(!simulation.reconciler.is_parked(simulation.now));
    simulation.wait(2);
    assert!(simulation.reconciler.is_parked(simulation.now));
}
