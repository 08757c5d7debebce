//! Garbage collection, disk pressure and the node's status.

use super::*;
use crate::{
    NodeCounters,
    kubelet::testing::{ended, pod},
    pod::RestartPolicy,
};

/// Pod that only pulls an image of this name, as a worker of Prewarmer does.
fn worker(name: &str) -> PodSpec {
    let mut spec = pod(name);
    spec.is_workload = false;
    spec.restart_policy = RestartPolicy::Never;
    spec.containers[0].run_time = ended(1, 0);
    spec
}

fn node_statuses(bench: &Bench) -> Vec<(usize, bool)> {
    let status = |output: &Output| match &output.report {
        Report::NodeStatus { images, has_disk_pressure } => {
            Some((images.len(), *has_disk_pressure))
        }
        _ => None,
    };
    bench.outputs.iter().filter_map(status).collect()
}

/// Bench without eviction by disk pressure, so that only the garbage collection removes images.
fn bench() -> Bench {
    Bench::with(|kubelet, _| kubelet.pressure_percent = 0)
}

#[test]
fn finished_pods_hold_their_images_until_they_are_deleted() {
    let mut bench = bench();
    bench.image("held:1", &[5_000]);
    bench.image("free:1", &[4_000]);
    bench.bind(worker("held"));
    bench.bind(worker("free"));
    bench.pass(1_000);
    bench.delete("free");
    bench.pass(1_200);
    assert!(bench.has_image("held:1") && !bench.has_image("free:1"));
    let expected = NodeCounters {
        downloaded: 9_000_000_000,
        in_vain: 4_000_000_000,
        evictions: 1,
        evicted: 4_000_000_000,
    };
    assert_eq!(bench.fleet.counters().node(NODE), expected);
    assert_eq!(bench.fleet.unused_bytes(), 5_000_000_000);
}

#[test]
fn bytes_that_a_workload_has_used_are_not_in_vain() {
    let mut bench = bench();
    bench.image("web:1", &[9_000]);
    bench.bind(worker("web"));
    bench.pass(1_000);
    let mut user = pod("web");
    (user.name, user.uid) = ("user".into(), "uid-user".into());
    bench.bind(user);
    bench.pass(10);
    assert!(bench.fleet.take_starts().iter().any(|start| start.is_workload && start.is_warm));
    bench.delete("web");
    bench.delete("user");
    bench.pass(1_200);
    let counters = bench.fleet.counters().node(NODE);
    assert_eq!((counters.evictions, counters.in_vain), (1, 0));
}

#[test]
fn a_full_disk_fails_the_pull() {
    let mut bench = bench();
    bench.image("web:1", &[6_000]);
    bench.image("big:1", &[3_000, 3_000]);
    bench.bind(pod("web"));
    bench.pass(1_000);
    bench.bind(pod("big"));
    bench.pass(1_000);
    let failed = bench.events("big").into_iter().find(|(_, event)| event.reason == "Failed");
    assert!(failed.unwrap().1.message.ends_with("no space left on device"));
    assert_eq!(bench.phase("web"), Phase::Running);
    assert!(!bench.has_image("big:1"));
    assert!(bench.fleet.counters().node(NODE).in_vain >= 6_000_000_000);
}

#[test]
fn disk_pressure_removes_unused_images_and_rejects_pods() {
    let mut bench = Bench::new();
    bench.image("old:1", &[5_000]);
    bench.image("new:1", &[4_000]);
    bench.bind(worker("old"));
    bench.pass(1_000);
    assert!(bench.has_image("old:1"));
    bench.bind(pod("new"));
    bench.pass(450);
    // Ended containers of finished pods hold nothing under pressure.
    assert!(!bench.has_image("old:1"));
    bench.bind(pod("late"));
    let status = bench.status("late");
    assert_eq!((status.phase, status.reason), (Phase::Failed, "Evicted"));
    assert!(node_statuses(&bench).iter().any(|(_, pressure)| *pressure));
    bench.pass(400);
    assert_eq!(node_statuses(&bench).last(), Some(&(1, false)));
}

#[test]
fn the_node_reports_its_images_within_40_seconds() {
    let mut bench = Bench::new();
    bench.image("web:1", &[10]);
    bench.pass(60);
    let before = node_statuses(&bench).len();
    bench.bind(pod("web"));
    bench.pass(45);
    assert_eq!(node_statuses(&bench)[before..], [(1, false)]);
    bench.pass(600);
    assert_eq!(node_statuses(&bench).len(), before + 1);
}
