//! Containers: order, restarts, ends and deletion of pods.

use std::time::Duration;

use super::*;
use crate::{
    kubelet::testing::{container, ended, init_container, pod},
    pod::{ConditionKind, ContainerKind, RestartPolicy, Taint},
};

fn job(name: &str, exit_code: i32) -> PodSpec {
    let mut spec = pod(name);
    spec.restart_policy = RestartPolicy::Never;
    spec.containers[0].run_time = ended(2, exit_code);
    spec
}

#[test]
fn init_containers_run_one_after_another_before_the_application() {
    let mut bench = Bench::new();
    let mut spec = pod("web");
    spec.containers.insert(0, init_container("first", ContainerKind::Init));
    spec.containers.insert(1, init_container("second", ContainerKind::Init));
    for name in ["web:1", "first:1", "second:1"] {
        bench.image(name, &[10]);
    }
    bench.bind(spec);
    bench.pass(30);
    let started: Vec<&str> = bench
        .events("web")
        .into_iter()
        .filter(|(_, event)| event.reason == "Started")
        .map(|(_, event)| event.field_path.as_deref().unwrap())
        .collect();
    let expected =
        ["spec.initContainers{first}", "spec.initContainers{second}", "spec.containers{web}"];
    assert_eq!(started, expected);
    assert_eq!(bench.waiting("web"), ["PodInitializing"]);
    assert_eq!(bench.phase("web"), Phase::Running);
    assert!(bench.status("web").has(ConditionKind::Ready));
}

#[test]
fn sidecars_run_as_long_as_the_application() {
    let mut bench = Bench::new();
    let mut spec = job("web", 0);
    spec.containers.insert(0, init_container("proxy", ContainerKind::Sidecar));
    bench.image("web:1", &[10]);
    bench.image("proxy:1", &[10]);
    bench.bind(spec);
    bench.pass(6);
    assert!(is_running(bench.status("web"), "proxy"));
    bench.pass(10);
    assert_eq!(bench.phase("web"), Phase::Succeeded);
    assert!(!is_running(bench.status("web"), "proxy"));
    let last = *bench.events("web").last().unwrap();
    assert_eq!((last.1.reason, last.1.message.as_str()), ("Killing", "Stopping container proxy"));
    // The phase was not terminal while the sidecar ran.
    let terminal = bench.statuses("web").into_iter().find(|status| status.phase.is_terminal());
    assert!(!is_running(terminal.unwrap(), "proxy"));
}

#[test]
fn a_failed_init_container_fails_the_pod_that_does_not_restart() {
    let mut bench = Bench::new();
    let mut spec = job("web", 0);
    spec.containers.insert(0, init_container("first", ContainerKind::Init));
    spec.containers[0].run_time = ended(1, 3);
    bench.image("first:1", &[10]);
    bench.bind(spec);
    bench.pass(30);
    assert_eq!(bench.phase("web"), Phase::Failed);
    assert!(!bench.has_image("web:1"));
}

#[test]
fn jobs_end_by_their_exit_code_and_stay_until_they_are_deleted() {
    let mut bench = Bench::new();
    for (name, code) in [("good", 0), ("bad", 1)] {
        bench.image(&format!("{name}:1"), &[10]);
        bench.bind(job(name, code));
    }
    bench.pass(600);
    assert_eq!(bench.phase("good"), Phase::Succeeded);
    assert_eq!(bench.phase("bad"), Phase::Failed);
    assert!(!bench.is_removed("good"));
    bench.delete("good");
    assert!(bench.is_removed("good"));
    assert_eq!(bench.fleet.take_starts().len(), 2);
}

#[test]
fn a_container_that_ends_again_and_again_waits_longer_each_time() {
    let mut bench = Bench::new();
    bench.image("web:1", &[10]);
    let mut spec = pod("web");
    spec.containers[0].run_time = ended(1, 1);
    bench.bind(spec);
    bench.pass(300);
    let starts = bench.reasons("web").iter().filter(|reason| **reason == "Started").count();
    assert!((5..=7).contains(&starts), "{starts}");
    assert!(bench.waiting("web").contains(&"CrashLoopBackOff"));
    let status = bench.status("web");
    assert_eq!(status.containers[0].restarts as usize, starts - 1);
    assert!(status.containers[0].last_termination.is_some());
    let (_, event) =
        *bench.events("web").iter().find(|(_, event)| event.reason == "BackOff").unwrap();
    let message = "Back-off restarting failed container web in pod web_shop(uid-web)";
    assert_eq!(event.message, message);
}

#[test]
fn a_pod_that_restarts_on_failure_ends_with_success() {
    let mut bench = Bench::new();
    bench.image("web:1", &[10]);
    let mut spec = job("web", 0);
    spec.restart_policy = RestartPolicy::OnFailure;
    bench.bind(spec);
    bench.pass(30);
    assert_eq!(bench.phase("web"), Phase::Succeeded);
}

#[test]
fn a_failing_container_does_not_keep_its_neighbours_from_starting() {
    let mut bench = Bench::new();
    bench.image("web:1", &[10]);
    let mut spec = pod("web");
    spec.containers.insert(0, container("broken", "UPPER"));
    bench.bind(spec);
    bench.pass(10);
    let status = bench.status("web");
    assert!(is_running(status, "web"));
    assert_eq!(status.phase, Phase::Pending);
    assert!(!status.has(ConditionKind::Ready));
}

#[test]
fn a_deleted_pod_stops_within_its_grace_period() {
    let mut bench = Bench::with(|kubelet, _| kubelet.stop_time = Duration::from_secs(5));
    bench.image("web:1", &[10]);
    let mut short = pod("short");
    short.grace = Duration::from_secs(1);
    bench.image("short:1", &[10]);
    bench.bind(pod("web"));
    bench.bind(short);
    bench.pass(20);
    bench.delete("web");
    bench.delete("short");
    assert_eq!(bench.reasons("web").last(), Some(&"Killing"));
    bench.pass(2);
    assert!(!bench.is_removed("web") && bench.is_removed("short"));
    let exit_code = |bench: &Bench, name: &str| match bench.status(name).containers[0].state {
        ContainerState::Terminated(end) => end.exit_code,
        _ => -1,
    };
    assert_eq!(exit_code(&bench, "short"), 137);
    bench.pass(4);
    assert!(bench.is_removed("web"));
    assert_eq!(exit_code(&bench, "web"), 0);
}

#[test]
fn an_active_deadline_ends_the_pod_also_during_a_pull() {
    let mut bench = Bench::new();
    bench.image("web:1", &[1_000]);
    let mut spec = pod("web");
    spec.active_deadline = Some(Duration::from_secs(20));
    bench.bind(spec);
    bench.pass(30);
    let status = bench.status("web");
    assert_eq!((status.phase, status.reason), (Phase::Failed, "DeadlineExceeded"));
    assert!(!bench.has_image("web:1"));
    bench.delete("web");
    assert!(bench.is_removed("web"));
}

#[test]
fn pods_that_do_not_tolerate_a_taint_are_rejected() {
    let mut bench = Bench::new();
    bench.image("web:1", &[10]);
    let taint = Taint { key: "maintenance".into(), value: String::new() };
    bench.bind(pod("web"));
    bench.pass(10);
    bench.input(Input::NodeTainted { node: NODE, taints: vec![taint] });
    bench.bind(pod("late"));
    let status = bench.status("late");
    assert_eq!((status.phase, status.reason), (Phase::Failed, "TaintToleration"));
    assert_eq!(bench.phase("web"), Phase::Running);
}

#[test]
fn pods_in_excess_of_the_maximum_are_rejected() {
    let mut bench = Bench::with(|kubelet, _| kubelet.max_pods = 2);
    for name in ["a", "b", "c"] {
        bench.bind(pod(name));
    }
    let status = bench.status("c");
    assert_eq!((status.phase, status.reason), (Phase::Failed, "OutOfpods"));
    let message = "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2";
    assert_eq!(status.message, message);
}
