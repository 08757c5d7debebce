//! Single scenarios of a task in the simulated cluster.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{
    node::NodeLabels,
    task::{
        Amount, BatchPolicy, FailurePolicy, LocalReference, Phase, PrewarmTaskSpec,
        PrewarmTaskStatus, RetrySpec, RetryStrategy, WorkerKind,
        caps::{Caps, RegistryRules},
    },
    worker::FailureReason,
};

use super::{
    super::{ControllerSettings, WorkerNamespace, effect::ApplyError},
    simulation::{PodResult, Simulation, settings},
};

fn spec(images: usize, batch: u32) -> PrewarmTaskSpec {
    PrewarmTaskSpec {
        batch_size: Amount::Count(batch),
        timeout: "60s".into(),
        ..PrewarmTaskSpec::new((0..images).map(|image| format!("image-{image}:1")).collect())
    }
}

fn retrying(limit: u32) -> PrewarmTaskSpec {
    PrewarmTaskSpec {
        failure_policy: FailurePolicy::Retry,
        retry: Some(RetrySpec {
            limit,
            strategy: RetryStrategy::Exponential,
            delay: Some("10s".into()),
        }),
        ..spec(1, 2)
    }
}

fn status(simulation: &Simulation) -> PrewarmTaskStatus {
    simulation.task.status.clone().unwrap()
}

/// Lets each pod reach the same result, in the order of creation.
fn finish_all_pods(simulation: &mut Simulation, outcome: PodResult) {
    for _ in 0..400 {
        for _ in 0..simulation.running_workers() {
            simulation.finish_pod(outcome);
        }
        simulation.advance_time(300);
        simulation.reconcile();
    }
}

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
fn cached_warm_images_are_not_pulled_again() {
    let mut simulation = Simulation::new(3, spec(2, 3));
    finish_all_pods(&mut simulation, PodResult::Success);
    let second = |mut simulation: Simulation, spec: PrewarmTaskSpec| {
        let known = std::mem::replace(
            &mut simulation.shared.warm_images,
            super::super::warm_images::WarmImageCache::new(Duration::ZERO),
        );
        let mut next = Simulation::new(3, spec);
        next.shared.warm_images = known;
        finish_all_pods(&mut next, PodResult::Success);
        next
    };
    let next = second(simulation, spec(2, 3));
    assert_eq!((next.history.len(), next.node_states()), (0, "www"));
    assert_eq!(status(&next).already_warm_nodes, 3);
    let again = second(
        next,
        PrewarmTaskSpec { image_pull_policy: crate::task::PullPolicy::Always, ..spec(2, 3) },
    );
    assert_eq!((again.history.len(), again.node_states()), (3, "sss"));
    let other =
        second(again, PrewarmTaskSpec { service_account_name: Some("other".into()), ..spec(2, 3) });
    assert_eq!(other.history.len(), 3, "other credentials have another scope");
}

#[test]
fn succeeded_workers_are_retained_and_failed_ones_deleted() {
    let mut simulation =
        Simulation::new(2, PrewarmTaskSpec { retain: Some("1h".into()), ..spec(1, 2) });
    simulation.wait(2);
    simulation.finish_pod(PodResult::Success);
    simulation.finish_pod(PodResult::Permanent);
    simulation.wait(4);
    assert_eq!(simulation.phase(), Phase::Failed);
    let left: Vec<&str> = simulation.workers.values().map(|worker| worker.node.as_str()).collect();
    assert_eq!(left, ["n00"]);
}

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
fn rejection_of_all_pods_fails_the_task_within_seconds() {
    let mut simulation = Simulation::new(30, spec(1, 10));
    (simulation.creates_pods, simulation.rejection) = (
        false,
        Some(ApplyError::Rejected(FailureReason::Forbidden, "violates PodSecurity".into())),
    );
    simulation.wait(12);
    let status = status(&simulation);
    assert_eq!((status.phase, status.failed_node_count), (Phase::Failed, 30));
    assert_eq!(status.failed_nodes[0].reason, "Forbidden");
    assert_eq!(simulation.history.len(), 10, "the rejection is known after one batch");
}

#[test]
fn rejected_workers_move_to_our_own_namespace_if_allowed() {
    for worker in [WorkerKind::Job, WorkerKind::Pod] {
        let away =
            || ControllerSettings { worker_namespace: WorkerNamespace::Fallback, ..settings() };
        let refused = |spec| {
            let mut simulation = Simulation::with_settings(3, spec, away());
            (simulation.creates_pods, simulation.rejection) =
                (false, Some(ApplyError::Rejected(FailureReason::QuotaExceeded, "full".into())));
            finish_all_pods(&mut simulation, PodResult::Success);
            simulation
        };
        let task = PrewarmTaskSpec { worker, ..spec(1, 3) };
        let simulation = refused(task.clone());
        assert_eq!(
            (simulation.phase(), simulation.node_states()),
            (Phase::Completed, "sss"),
            "{worker:?}"
        );
        let said = status(&simulation).conditions;
        assert!(said.iter().any(|condition| condition.type_ == "WorkersInFallbackNamespace"
            && condition.message == "full"));
        let secrets = Some(vec![LocalReference { name: "s".into() }]);
        let simulation = refused(PrewarmTaskSpec { image_pull_secrets: secrets, ..task });
        assert_eq!(
            (simulation.phase(), simulation.node_states()),
            (Phase::Failed, "fff"),
            "a task with credentials stays in its namespace"
        );
        assert_eq!(status(&simulation).failed_nodes[0].reason, "QuotaExceeded");
    }
}

#[test]
fn a_policy_is_bypassed_only_with_fallback_on_policy() {
    for allowed in [false, true] {
        let away = ControllerSettings {
            worker_namespace: WorkerNamespace::Fallback,
            fallback_on_policy: allowed,
            ..settings()
        };
        let mut simulation = Simulation::with_settings(3, spec(1, 3), away);
        (simulation.creates_pods, simulation.rejection) = (
            false,
            Some(ApplyError::Rejected(
                FailureReason::Forbidden,
                "admission webhook \"p\" denied the request: no".into(),
            )),
        );
        finish_all_pods(&mut simulation, PodResult::Success);
        let expected = if allowed { (Phase::Completed, "sss") } else { (Phase::Failed, "fff") };
        assert_eq!((simulation.phase(), simulation.node_states()), expected);
    }
}

#[test]
fn node_reports_count_only_with_access_to_the_image() {
    let reporting = |settings: ControllerSettings| {
        let mut simulation = Simulation::with_settings(6, spec(1, 2), settings);
        for node in 2..6 {
            simulation
                .change_node(node, |facts| facts.set_reported_image(&"image-0:1".parse().unwrap()));
        }
        simulation
    };
    let mut simulation = reporting(settings());
    simulation.wait(2);
    assert_eq!(simulation.history.len(), 2);
    finish_all_pods(&mut simulation, PodResult::Success);
    assert_eq!(
        (simulation.history.len(), simulation.node_states()),
        (2, "sswwww"),
        "the first batch has access to the image"
    );
    let mut simulation = reporting(settings());
    for node in 0..2 {
        simulation
            .change_node(node, |facts| facts.set_reported_image(&"image-0:1".parse().unwrap()));
    }
    simulation.wait(1);
    assert_eq!(simulation.history.len(), 2, "images of other namespaces are not disclosed");
    finish_all_pods(&mut simulation, PodResult::Permanent);
    assert_eq!(simulation.node_states(), "ffffff");
    let mut simulation =
        reporting(ControllerSettings { public_registries: vec!["docker.io".into()], ..settings() });
    for node in 0..2 {
        simulation
            .change_node(node, |facts| facts.set_reported_image(&"image-0:1".parse().unwrap()));
    }
    finish_all_pods(&mut simulation, PodResult::Success);
    assert_eq!((simulation.history.len(), simulation.node_states()), (0, "wwwwww"));
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
fn a_replaced_machine_is_cold() {
    let mut simulation = Simulation::new(1, spec(1, 1));
    finish_all_pods(&mut simulation, PodResult::Success);
    let known = std::mem::replace(
        &mut simulation.shared.warm_images,
        super::super::warm_images::WarmImageCache::new(Duration::ZERO),
    );
    let mut next = Simulation::new(1, spec(1, 1));
    next.shared.warm_images = known;
    next.change_node(0, |facts| facts.identity += 1);
    finish_all_pods(&mut next, PodResult::Success);
    assert_eq!((next.history.len(), next.node_states()), (1, "s"));
}

#[test]
fn a_transient_rejection_is_reported_and_retried() {
    let mut simulation =
        Simulation::new(1, PrewarmTaskSpec { worker: WorkerKind::Pod, ..spec(1, 1) });
    simulation.rejection = Some(ApplyError::Transient("failed calling webhook".into()));
    simulation.wait(10);
    let said = status(&simulation).conditions[0].message.clone();
    assert!(said.contains("failed calling webhook"), "{said}");
    simulation.rejection = None;
    simulation.run_to_end();
    assert_eq!(simulation.node_states(), "s");
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
