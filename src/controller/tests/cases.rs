//! Single stories.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    super::{Settings, WorkerNamespace, effect::Refusal},
    simulation::{Outcome, Simulation, settings},
};
use crate::{
    node::Labels,
    task::{
        Amount, BatchPolicy, FailurePolicy, LocalReference, Phase, PrewarmTaskSpec, PrewarmTaskStatus, Retry,
        RetryStrategy, WorkerKind,
        caps::{Caps, Registries},
    },
    worker::Reason,
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
        retry: Some(Retry { limit, strategy: RetryStrategy::Exponential, delay: Some("10s".into()) }),
        ..spec(1, 2)
    }
}

fn status(simulation: &Simulation) -> PrewarmTaskStatus {
    simulation.task.status.clone().unwrap()
}

/// Lets each pod come to the same, as it begins.
fn run_all(simulation: &mut Simulation, outcome: Outcome) {
    for _ in 0..400 {
        for _ in 0..simulation.at_work() {
            simulation.end_pod(outcome);
        }
        simulation.pass(300);
        simulation.step();
    }
}

#[test]
fn a_node_that_takes_too_long_fails_with_the_last_complaint() {
    let mut simulation = Simulation::new(1, spec(1, 1));
    simulation.wait(5);
    simulation.end_pod(Outcome::Passing);
    simulation.wait(50);
    assert_eq!(simulation.phase(), Phase::Running);
    simulation.wait(15);
    let status = status(&simulation);
    assert_eq!(status.phase, Phase::Failed);
    assert_eq!(status.failed_nodes[0].reason, Reason::RegistryUnreachable.as_str());
}

#[test]
fn every_phase_is_told_once() {
    let mut simulation = Simulation::new(2, spec(1, 1));
    run_all(&mut simulation, Outcome::Good);
    let expected = [Phase::Snapshotting, Phase::Running, Phase::Finalizing, Phase::Completed];
    assert_eq!(simulation.events, expected);
}

#[test]
fn what_may_pass_is_tried_again_in_later_batches() {
    let mut simulation = Simulation::new(3, retrying(2));
    simulation.wait(2);
    simulation.end_pod(Outcome::Refused);
    simulation.end_pod(Outcome::Good);
    simulation.wait(2);
    assert_eq!(simulation.letters(), "1s.");
    simulation.end_pod(Outcome::Good);
    simulation.wait(2);
    assert_eq!(status(&simulation).node_states, "1ss");
    assert_eq!(simulation.at_work(), 0, "the delay is not over");
    simulation.wait(9);
    assert_eq!(simulation.at_work(), 1);
    assert_eq!(status(&simulation).total_batches, 3);
    assert_eq!(status(&simulation).failed_nodes[0].node, "n00", "what happened is told while it is tried again");
    simulation.end_pod(Outcome::Good);
    simulation.wait(3);
    let status = status(&simulation);
    assert_eq!((status.phase, status.succeeded_nodes, status.failed_nodes.len()), (Phase::Completed, 3, 0));
    assert_eq!(status.images[0].succeeded, 3);
    assert_eq!(status.images[0].failed, 0);
    let ends = &status.batch_ends;
    assert!(ends.len() == 3 && ends.is_sorted() && ends[1] >= 10, "the pause before the further try counts: {ends:?}");
}

#[test]
fn tries_come_to_an_end() {
    let mut simulation = Simulation::new(1, retrying(2));
    run_all(&mut simulation, Outcome::Refused);
    assert_eq!(simulation.history.len(), 3);
    assert_eq!((simulation.phase(), simulation.letters()), (Phase::Failed, "f"));
}

#[test]
fn what_does_not_exist_is_not_tried_again() {
    let mut simulation = Simulation::new(1, retrying(5));
    run_all(&mut simulation, Outcome::Hopeless);
    assert_eq!((simulation.history.len(), simulation.letters()), (1, "f"));
}

#[test]
fn a_typing_error_is_asked_for_on_three_nodes_only() {
    let mut simulation = Simulation::new(10, spec(1, 1));
    run_all(&mut simulation, Outcome::Hopeless);
    let status = status(&simulation);
    assert_eq!((status.phase, status.failed_node_count), (Phase::Failed, 10));
    assert_eq!(simulation.history.len(), 3);
    assert!(status.failed_nodes[9].message.starts_with("not asked for on this node"));
    assert_eq!(status.images[0].given_up.as_ref().unwrap().reason, "ImageNotFound");
}

#[test]
fn the_other_images_are_still_asked_for() {
    let mut simulation = Simulation::new(10, spec(2, 1));
    run_all(&mut simulation, Outcome::Hopeless);
    let status = status(&simulation);
    assert_eq!((status.images[0].failed, status.images[1].succeeded), (10, 10));
    assert_eq!(simulation.history.len(), 10);
}

#[test]
fn many_images_come_in_parts_one_after_another() {
    let mut simulation = Simulation::new(1, spec(5, 1));
    simulation.wait(2);
    for part in 0..3 {
        assert_eq!((simulation.at_work(), simulation.history.len()), (1, part + 1));
        simulation.end_pod(if part == 1 { Outcome::Hopeless } else { Outcome::Good });
        // The bad one's pod waits for ever: the node is not at rest until it ends.
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
    run_all(&mut simulation, Outcome::Good);
    let sizes: Vec<usize> =
        (0..4).map(|label| simulation.history.iter().filter(|(_, batch)| *batch == label).count()).collect();
    assert_eq!(sizes, [1, 2, 4, 3]);
    assert_eq!(simulation.phase(), Phase::Completed);
}

#[test]
fn what_was_warmed_lately_is_not_pulled_again() {
    let mut simulation = Simulation::new(3, spec(2, 3));
    run_all(&mut simulation, Outcome::Good);
    let second = |mut simulation: Simulation, spec: PrewarmTaskSpec| {
        let known = std::mem::replace(&mut simulation.shared.known, super::super::known::Known::new(Duration::ZERO));
        let mut next = Simulation::new(3, spec);
        next.shared.known = known;
        run_all(&mut next, Outcome::Good);
        next
    };
    let next = second(simulation, spec(2, 3));
    assert_eq!((next.history.len(), next.letters()), (0, "www"));
    assert_eq!(status(&next).already_warm_nodes, 3);
    let again = second(next, PrewarmTaskSpec { image_pull_policy: crate::task::PullPolicy::Always, ..spec(2, 3) });
    assert_eq!((again.history.len(), again.letters()), (3, "sss"));
    let other = second(again, PrewarmTaskSpec { service_account_name: Some("other".into()), ..spec(2, 3) });
    assert_eq!(other.history.len(), 3, "with other credentials it is not known");
}

#[test]
fn finished_workers_are_retained_and_failed_ones_go() {
    let mut simulation = Simulation::new(2, PrewarmTaskSpec { retain: Some("1h".into()), ..spec(1, 2) });
    simulation.wait(2);
    simulation.end_pod(Outcome::Good);
    simulation.end_pod(Outcome::Hopeless);
    simulation.wait(4);
    assert_eq!(simulation.phase(), Phase::Failed);
    let left: Vec<&str> = simulation.workers.values().map(|worker| worker.node.as_str()).collect();
    assert_eq!(left, ["n00"]);
}

#[test]
fn cancel_removes_everything() {
    let mut simulation = Simulation::new(4, PrewarmTaskSpec { retain: Some("1h".into()), ..spec(1, 2) });
    simulation.wait(2);
    simulation.end_pod(Outcome::Good);
    simulation.wait(1);
    simulation.task.spec.cancel = true;
    simulation.wait(3);
    assert_eq!((simulation.phase(), simulation.workers.len()), (Phase::Cancelled, 0));
}

#[test]
fn a_held_task_starts_nothing_and_goes_on() {
    let mut simulation = Simulation::new(2, spec(1, 1));
    simulation.wait(2);
    simulation.task.spec.suspend = true;
    simulation.end_pod(Outcome::Good);
    simulation.wait(10);
    assert_eq!((simulation.letters(), simulation.at_work()), ("s.", 0));
    simulation.finish();
    assert_eq!(simulation.letters(), "ss");
}

#[test]
fn a_node_lost_or_cordoned_blocks_no_batch() {
    let mut simulation = Simulation::new(4, PrewarmTaskSpec { timeout: "10m".into(), ..spec(1, 2) });
    simulation.wait(2);
    simulation.drop_node(0);
    simulation.unready(1);
    simulation.change_node(2, |facts| facts.unschedulable = true);
    simulation.wait(50);
    assert_eq!(simulation.letters(), "f...", "a node may come back within a minute");
    simulation.wait(15);
    assert_eq!(simulation.letters(), "ffk.");
    simulation.finish();
    let status = status(&simulation);
    assert_eq!(status.node_states, "ffks");
    let reasons: BTreeSet<(&str, &str)> =
        status.failed_nodes.iter().map(|f| (f.node.as_str(), f.reason.as_str())).collect();
    assert_eq!(reasons, [("n00", "NodeLost"), ("n01", "NodeLost"), ("n02", "NodeRefused")].into());
}

#[test]
fn the_whole_task_has_a_deadline() {
    let mut simulation = Simulation::new(3, PrewarmTaskSpec { deadline: Some("20s".into()), ..spec(1, 1) });
    simulation.wait(2);
    simulation.end_pod(Outcome::Good);
    simulation.wait(25);
    let status = status(&simulation);
    assert_eq!((status.phase, status.node_states.as_str()), (Phase::Failed, "sff"));
    assert_eq!(status.failed_nodes[0].reason, "Timeout");
    assert!(simulation.workers.is_empty());
}

#[test]
fn a_namespace_that_takes_no_pods_is_understood_within_seconds() {
    let mut simulation = Simulation::new(30, spec(1, 10));
    (simulation.makes_pods, simulation.refusal) =
        (false, Some(Refusal::Final(Reason::Forbidden, "violates PodSecurity".into())));
    simulation.wait(12);
    let status = status(&simulation);
    assert_eq!((status.phase, status.failed_node_count), (Phase::Failed, 30));
    assert_eq!(status.failed_nodes[0].reason, "Forbidden");
    assert_eq!(simulation.history.len(), 10, "after a batch it is known");
}

#[test]
fn refused_pods_go_to_our_own_namespace_where_that_is_allowed() {
    for worker in [WorkerKind::Job, WorkerKind::Pod] {
        let away = || Settings { worker_namespace: WorkerNamespace::Fallback, ..settings() };
        let refused = |spec| {
            let mut simulation = Simulation::with(3, spec, away());
            (simulation.makes_pods, simulation.refusal) =
                (false, Some(Refusal::Final(Reason::QuotaExceeded, "full".into())));
            run_all(&mut simulation, Outcome::Good);
            simulation
        };
        let task = PrewarmTaskSpec { worker, ..spec(1, 3) };
        let simulation = refused(task.clone());
        assert_eq!((simulation.phase(), simulation.letters()), (Phase::Completed, "sss"), "{worker:?}");
        let said = status(&simulation).conditions;
        assert!(said.iter().any(|condition| condition.type_ == "WorkersElsewhere" && condition.message == "full"));
        let secrets = Some(vec![LocalReference { name: "s".into() }]);
        let simulation = refused(PrewarmTaskSpec { image_pull_secrets: secrets, ..task });
        assert_eq!((simulation.phase(), simulation.letters()), (Phase::Failed, "fff"), "credentials stay at home");
        assert_eq!(status(&simulation).failed_nodes[0].reason, "QuotaExceeded");
    }
}

#[test]
fn a_policy_is_not_by_passed_unless_a_setting_says_so() {
    for allowed in [false, true] {
        let away = Settings { worker_namespace: WorkerNamespace::Fallback, fallback_on_policy: allowed, ..settings() };
        let mut simulation = Simulation::with(3, spec(1, 3), away);
        (simulation.makes_pods, simulation.refusal) =
            (false, Some(Refusal::Final(Reason::Forbidden, "admission webhook \"p\" denied the request: no".into())));
        run_all(&mut simulation, Outcome::Good);
        let expected = if allowed { (Phase::Completed, "sss") } else { (Phase::Failed, "fff") };
        assert_eq!((simulation.phase(), simulation.letters()), expected);
    }
}

#[test]
fn what_a_node_reports_counts_for_those_who_may_know() {
    let reporting = |settings: Settings| {
        let mut simulation = Simulation::with(6, spec(1, 2), settings);
        for node in 2..6 {
            simulation.change_node(node, |facts| facts.report(&"image-0:1".parse().unwrap()));
        }
        simulation
    };
    let mut simulation = reporting(settings());
    simulation.wait(2);
    assert_eq!(simulation.history.len(), 2);
    run_all(&mut simulation, Outcome::Good);
    assert_eq!((simulation.history.len(), simulation.letters()), (2, "sswwww"), "the first batch was given the image");
    let mut simulation = reporting(settings());
    for node in 0..2 {
        simulation.change_node(node, |facts| facts.report(&"image-0:1".parse().unwrap()));
    }
    simulation.wait(1);
    assert_eq!(simulation.history.len(), 2, "of others' images nothing is told");
    run_all(&mut simulation, Outcome::Hopeless);
    assert_eq!(simulation.letters(), "ffffff");
    let mut simulation = reporting(Settings { public_registries: vec!["docker.io".into()], ..settings() });
    for node in 0..2 {
        simulation.change_node(node, |facts| facts.report(&"image-0:1".parse().unwrap()));
    }
    run_all(&mut simulation, Outcome::Good);
    assert_eq!((simulation.history.len(), simulation.letters()), (0, "wwwwww"));
}

#[test]
fn a_clock_that_is_ahead_ends_no_node() {
    let mut simulation = Simulation::new(2, spec(1, 2));
    simulation.wait(2);
    for worker in simulation.workers.values_mut() {
        // As an API server sees it whose clock is an hour behind.
        worker.created = worker.created.map(|created| created - k8s_openapi::jiff::SignedDuration::from_hours(1));
    }
    simulation.wait(5);
    assert_eq!((simulation.phase(), simulation.at_work()), (Phase::Running, 2));
    simulation.finish();
    assert_eq!(simulation.letters(), "ss");
}

#[test]
fn a_machine_that_was_replaced_has_none_of_the_images() {
    let mut simulation = Simulation::new(1, spec(1, 1));
    run_all(&mut simulation, Outcome::Good);
    let known = std::mem::replace(&mut simulation.shared.known, super::super::known::Known::new(Duration::ZERO));
    let mut next = Simulation::new(1, spec(1, 1));
    next.shared.known = known;
    next.change_node(0, |facts| facts.identity += 1);
    run_all(&mut next, Outcome::Good);
    assert_eq!((next.history.len(), next.letters()), (1, "s"));
}

#[test]
fn a_passing_refusal_is_waited_out_and_said() {
    let mut simulation = Simulation::new(1, PrewarmTaskSpec { worker: WorkerKind::Pod, ..spec(1, 1) });
    simulation.refusal = Some(Refusal::Passing("failed calling webhook".into()));
    simulation.wait(10);
    let said = status(&simulation).conditions[0].message.clone();
    assert!(said.contains("failed calling webhook"), "{said}");
    simulation.refusal = None;
    simulation.finish();
    assert_eq!(simulation.letters(), "s");
}

#[test]
fn above_its_number_of_nodes_the_breaker_acts() {
    let mut settings = settings();
    settings.breaker = crate::task::plan::Breaker { nodes: 5, at_once: 2 };
    let mut simulation = Simulation::with(6, spec(1, 6), settings);
    simulation.wait(2);
    assert_eq!(simulation.at_work(), 2);
    let said = status(&simulation).conditions;
    assert!(said.iter().any(|condition| condition.type_ == "Throttled" && condition.status == "True"), "{said:?}");
}

#[test]
fn a_lost_plan_is_not_guessed_again() {
    let mut simulation = Simulation::new(3, spec(1, 1));
    simulation.wait(2);
    simulation.end_pod(Outcome::Good);
    simulation.wait(7);
    simulation.plan = None;
    simulation.crash();
    simulation.wait(2);
    let reason = &status(&simulation).conditions[0].reason;
    assert_eq!((simulation.phase(), reason.as_str()), (Phase::Failed, "PlanLost"));
}

#[test]
fn no_node_is_an_end() {
    let mut simulation = Simulation::new(0, spec(1, 1));
    simulation.wait(2);
    assert_eq!((simulation.phase(), simulation.events.len()), (Phase::Failed, 1));
    let mut simulation = Simulation::new(1, spec(1, 1));
    simulation.change_node(0, |facts| (facts.unschedulable, facts.labels) = (true, Labels::default()));
    simulation.wait(2);
    assert_eq!(status(&simulation).ignored_nodes[0].reason, "Unschedulable");
}

#[test]
fn progress_is_written_every_few_seconds_only() {
    let mut simulation = Simulation::new(100, PrewarmTaskSpec { batch_policy: BatchPolicy::Rolling, ..spec(1, 10) });
    simulation.wait(3);
    let before = simulation.writes.len();
    for _ in 0..40 {
        simulation.end_pod(Outcome::Good);
        simulation.pass(500);
        simulation.step();
    }
    let writes = simulation.writes.len() - before;
    assert!((3..=6).contains(&writes), "{writes} writes in 20 s of unhurried progress");
}

#[test]
fn a_busy_node_is_put_behind_and_its_batch_goes_on() {
    let mut simulation = Simulation::new(6, spec(1, 2));
    simulation.take_node(0);
    simulation.take_node(2);
    simulation.take_node(3);
    simulation.wait(2);
    assert_eq!(simulation.letters(), "0.....");
    simulation.end_pod(Outcome::Good);
    simulation.wait(3);
    assert_eq!(
        (simulation.letters(), simulation.at_work()),
        ("0s00..", 2),
        "a whole batch of busy nodes is passed over"
    );
    simulation.crash();
    run_all(&mut simulation, Outcome::Good);
    assert_eq!((simulation.phase(), simulation.letters()), (Phase::Running, "0s00ss"));
    simulation.taken.clear();
    run_all(&mut simulation, Outcome::Good);
    let status = status(&simulation);
    assert_eq!((status.phase, status.node_states.as_str()), (Phase::Completed, "ssssss"));
    assert_eq!(status.failed_nodes, []);
    assert_eq!(simulation.history.len(), 6, "each node has one worker");
}

#[test]
fn a_registry_that_does_not_answer_leaves_the_others_alone() {
    let images = ["dead.example/a:1", "good.example/b:1"].map(str::to_owned).to_vec();
    let task = PrewarmTaskSpec { timeout: "60s".into(), batch_size: Amount::Count(4), ..PrewarmTaskSpec::new(images) };
    let mut simulation = Simulation::new(12, task);
    let begun = simulation.now;
    let mut asked = BTreeSet::new();
    for _ in 0..800 {
        simulation.end_new_pods(Outcome::Passing);
        simulation.pass(250);
        simulation.step();
        for worker in simulation.workers.values().filter(|worker| worker.asked.contains(&0)) {
            asked.insert((worker.node.clone(), worker.attempt));
        }
        if simulation.now.duration_since(begun).as_secs() == 20 {
            let pulled: BTreeSet<&String> = simulation.history.iter().map(|(node, _)| node).collect();
            assert_eq!(pulled.len(), 12, "the good image was asked for everywhere: {}", simulation.letters());
        }
    }
    let status = status(&simulation);
    assert_eq!((status.phase, status.failed_node_count), (Phase::Failed, 12), "{status:#?}");
    let counts: Vec<(u32, u32)> = status.images.iter().map(|image| (image.succeeded, image.failed)).collect();
    assert_eq!(counts, [(0, 12), (12, 0)]);
    assert!(asked.len() <= 4 + 2, "a batch has asked it, and two nodes more: {asked:?}");
    let given_up = status.images[0].given_up.as_ref().unwrap();
    assert_eq!(given_up.reason, "RegistryUnreachable");
    let took = status.completion_time.unwrap().parse::<k8s_openapi::jiff::Timestamp>().unwrap().duration_since(begun);
    assert!(took.as_secs() < 100, "{took:?}: three batches of 60 s, without that");
}

#[test]
fn a_registry_that_answers_again_is_asked_by_all() {
    let task = PrewarmTaskSpec { batch_size: Amount::Count(4), ..spec(1, 4) };
    let mut simulation = Simulation::new(8, task);
    simulation.wait(2);
    simulation.end_new_pods(Outcome::Passing);
    simulation.wait(6);
    assert_eq!(simulation.at_work(), 2, "two go on asking: {}", simulation.letters());
    let said = status(&simulation).conditions;
    let throttled = said.iter().find(|condition| condition.type_ == "Throttled").unwrap();
    assert_eq!((throttled.status.as_str(), throttled.reason.as_str()), ("True", "RegistryUnreachable"));
    simulation.finish();
    let status = status(&simulation);
    assert_eq!((status.phase, status.succeeded_nodes), (Phase::Completed, 8), "{}", status.node_states);
}

#[test]
fn a_task_without_a_deadline_has_that_of_the_setting() {
    let mut settings = settings();
    let caps = Caps { default_deadline: Duration::from_secs(20), ..Caps::default() };
    settings.limits.caps = Arc::new(caps);
    let mut simulation = Simulation::with(3, spec(1, 1), settings);
    simulation.wait(30);
    let status = status(&simulation);
    assert_eq!((status.phase, status.node_states.as_str()), (Phase::Failed, "fff"));
    let said = &status.conditions[0].message;
    assert!(said.contains("ended by its deadline of 20s (--default-deadline)"), "{said}");
}

#[test]
fn what_is_more_than_the_operator_allows_is_limited_or_refused() {
    let mut settings = settings();
    let denied = Registries { denied: vec!["bad.example".into()], ..Registries::default() };
    let caps = Caps { nodes: 2, timeout: Duration::from_secs(30), registries: denied, ..Caps::default() };
    settings.limits.caps = Arc::new(caps);
    let mut simulation = Simulation::with(5, spec(1, 1), settings.clone());
    simulation.finish();
    let ended = status(&simulation);
    assert_eq!((ended.phase, ended.total_nodes), (Phase::Completed, 2));
    let limited = ended.conditions.iter().find(|condition| condition.type_ == "Limited").unwrap();
    let expected = "spec.timeout 1m is limited to 30s (--max-timeout); 5 nodes are limited to 2 (--max-nodes-per-task)";
    assert_eq!(limited.message, expected);
    let mut refused = spec(1, 1);
    refused.images.push("bad.example/x:1".into());
    let mut simulation = Simulation::with(5, refused, settings);
    simulation.wait(2);
    let ended = status(&simulation);
    assert_eq!((ended.phase, ended.conditions[0].reason.as_str()), (Phase::Failed, "InvalidSpec"));
    let said = &ended.conditions[0].message;
    assert!(said.contains("spec.images[1]") && said.contains("--denied-registries"), "{said}");
}

#[test]
fn a_task_that_pulls_nothing_gives_its_place_back_and_one_that_has_just_begun_keeps_it() {
    let mut simulation = Simulation::new(1, spec(1, 1));
    simulation.run.note_progress(false, simulation.now);
    simulation.pass(60_000);
    simulation.step();
    assert_eq!((simulation.phase(), simulation.run.is_parked(simulation.now)), (Phase::Snapshotting, false));
    simulation.wait(2);
    simulation.end_pod(Outcome::Passing);
    simulation.run.note_progress(true, simulation.now);
    simulation.wait(9);
    assert!(!simulation.run.is_parked(simulation.now));
    simulation.wait(2);
    assert!(simulation.run.is_parked(simulation.now));
}
