//! Pulls: policies, queues, shared layers, failures and back-off.

use std::time::Duration;

use super::*;
use crate::{
    image::{Digest, Image, Layer},
    kubelet::testing::{container, image_volume, pod},
    pod::PullPolicy,
    registry::{Failure, FailureRule, RateLimit},
};

fn failure(failure: Failure, seconds: u64) -> FailureRule {
    FailureRule {
        repository_prefix: String::new(),
        failure,
        from: SimTime::ZERO,
        until: SimTime::from_secs(seconds),
    }
}

#[test]
fn a_cold_start_has_the_events_of_a_kubelet() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    bench.bind(pod("web"));
    bench.pass(60);
    assert_eq!(bench.reasons("web"), ["Pulling", "Pulled", "Created", "Started"]);
    assert_eq!(bench.waiting("web"), ["ContainerCreating"]);
    assert_eq!(bench.phase("web"), Phase::Running);
    let pulled = bench.events("web")[1].1.message.clone();
    // Two requests for the manifest, two for blobs, each 100 ms, and 10 s for 100 MB.
    let expected = "Successfully pulled image \"registry.example/web:1\" in 10.4s (10.4s including waiting). Image size: 100008192 bytes.";
    assert_eq!(pulled, expected);
    let start = bench.fleet.take_starts()[0];
    assert!(!start.is_warm && start.running > SimTime::from_secs(10));
    assert_eq!(bench.downloaded(), 100);
}

#[test]
fn a_warm_start_asks_no_registry() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    bench.fleet.preload(NODE, &reference("web:1")).unwrap();
    bench.bind(pod("web"));
    bench.pass(5);
    assert_eq!(bench.reasons("web"), ["Pulled", "Created", "Started"]);
    let start = bench.fleet.take_starts()[0];
    assert!(start.is_warm && start.running < SimTime::from_secs(2));
    assert_eq!(bench.downloaded(), 0);
}

#[test]
fn always_resolves_the_reference_and_downloads_nothing_that_is_present() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    bench.fleet.preload(NODE, &reference("web:1")).unwrap();
    let mut spec = pod("web");
    spec.containers[0].pull_policy = PullPolicy::Always;
    bench.bind(spec);
    bench.pass(5);
    assert_eq!(bench.reasons("web"), ["Pulling", "Pulled", "Created", "Started"]);
    assert!(bench.events("web")[1].1.message.contains(" in 100ms (100ms including waiting)"));
    assert!(bench.fleet.take_starts()[0].is_warm);
    assert_eq!(bench.downloaded(), 0);
}

#[test]
fn always_downloads_the_changed_layers_of_a_moved_tag() {
    let mut bench = Bench::new();
    let image = bench.fleet.catalog_mut().resolve(&reference("web:1"));
    bench.fleet.preload(NODE, &reference("web:1")).unwrap();
    bench.fleet.catalog_mut().move_tag(&reference("web:1"));
    let mut spec = pod("web");
    spec.containers[0].pull_policy = PullPolicy::Always;
    bench.bind(spec);
    bench.pass(600);
    let downloaded = bench.fleet.counters().total().downloaded;
    assert!(downloaded > 0 && downloaded < image.size(), "{downloaded}");
    assert!(!bench.fleet.take_starts()[0].is_warm);
}

#[test]
fn never_reports_an_absent_image() {
    let mut bench = Bench::new();
    let mut spec = pod("web");
    spec.containers[0].pull_policy = PullPolicy::Never;
    bench.bind(spec);
    bench.pass(8);
    let reasons = bench.reasons("web");
    assert_eq!(reasons[..2], ["ErrImageNeverPull", "Failed"]);
    assert_eq!(bench.waiting("web"), ["ContainerCreating", "ErrImageNeverPull"]);
    assert_eq!(bench.events("web")[1].1.message, "Error: ErrImageNeverPull");
}

#[test]
fn an_invalid_reference_is_never_pulled() {
    for image in ["", "UPPER case", "a:b:c", "registry.example/@", &"x".repeat(5_000)] {
        let mut bench = Bench::new();
        let mut spec = pod("web");
        spec.containers[0].image = image.into();
        bench.bind(spec);
        bench.pass(30);
        assert_eq!(bench.reasons("web")[..2], ["InspectFailed", "Failed"]);
        assert_eq!(bench.waiting("web"), ["ContainerCreating", "InvalidImageName"]);
        assert_eq!(bench.phase("web"), Phase::Pending);
    }
}

#[test]
fn a_failed_pull_is_followed_by_back_off_and_repeated() {
    let mut bench =
        Bench::with(|_, registry| registry.failures = vec![failure(Failure::NotFound, 40)]);
    bench.image("web:1", &[10]);
    bench.bind(pod("web"));
    bench.pass(120);
    let events = bench.events("web");
    let messages: Vec<&str> = events[..5].iter().map(|(_, event)| event.message.as_str()).collect();
    let not_found = "Failed to pull image \"registry.example/web:1\": rpc error: code = NotFound desc = failed to pull and unpack image \"registry.example/web:1\": failed to resolve image: registry.example/web:1: not found";
    let expected = [
        "Pulling image \"registry.example/web:1\"",
        not_found,
        "Error: ErrImagePull",
        "Back-off pulling image \"registry.example/web:1\"",
        "Error: ImagePullBackOff",
    ];
    assert_eq!(messages, expected);
    let pulls: Vec<u64> = events
        .iter()
        .filter(|(_, event)| event.reason == "Pulling")
        .map(|(at, _)| at.as_micros() / 1_000_000)
        .collect();
    // At 0 s, after 10 s, after 20 s, after 40 s, each up to 15 s later than the back-off ends.
    assert_eq!(pulls.len(), 4, "{pulls:?}");
    let gaps: Vec<u64> = pulls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, wait) in gaps.iter().zip([10, 20, 40]) {
        assert!((wait..=wait + 16).contains(gap), "{gaps:?}");
    }
    assert_eq!(bench.phase("web"), Phase::Running);
    assert_eq!(
        bench.waiting("web")[..3],
        ["ContainerCreating", "ErrImagePull", "ImagePullBackOff"]
    );
}

/// The kubelet has noticed the sandbox during the pull, and therefore synchronizes at once.
#[test]
fn back_off_follows_at_once_a_pull_that_fails_after_more_than_a_second() {
    let mut bench = Bench::with(|_, registry| {
        registry.failures = vec![failure(Failure::NotFound, 900)];
        registry.manifest_latency = Duration::from_secs(3);
    });
    bench.bind(pod("web"));
    bench.pass(5);
    assert_eq!(bench.reasons("web"), ["Pulling", "Failed", "Failed", "BackOff", "Failed"]);
    let events = bench.events("web");
    assert_eq!(events[1].0, events[4].0);
    assert_eq!(bench.waiting("web"), ["ContainerCreating", "ErrImagePull"]);
}

#[test]
fn the_status_of_a_back_off_contains_the_error() {
    let mut bench =
        Bench::with(|_, registry| registry.failures = vec![failure(Failure::NotFound, 900)]);
    bench.bind(pod("web"));
    bench.pass(14);
    let messages: Vec<String> = bench
        .statuses("web")
        .iter()
        .filter_map(|status| match &status.containers[0].state {
            ContainerState::Waiting { reason: "ImagePullBackOff", message } => {
                Some(message.clone())
            }
            _ => None,
        })
        .collect();
    let start = "Back-off pulling image \"registry.example/web:1\": ErrImagePull: rpc error: code = NotFound";
    assert!(!messages.is_empty() && messages.iter().all(|m| m.starts_with(start)), "{messages:?}");
}

#[test]
fn private_images_need_a_pull_secret_and_stay_closed_to_pods_without() {
    let mut bench = Bench::with(|_, registry| registry.private_prefixes = vec!["web".into()]);
    bench.image("web:1", &[10]);
    bench.bind(pod("web"));
    bench.pass(5);
    assert_eq!(bench.reasons("web")[1], "Failed");
    assert!(bench.events("web")[1].1.message.contains("authorization failed"));
    let with_secret = |name: &str| {
        let mut spec = pod("web");
        (spec.name, spec.uid) = (name.into(), format!("uid-{name}"));
        spec.secrets = vec!["shop/pull".into()];
        spec
    };
    bench.bind(with_secret("first"));
    bench.bind(with_secret("second"));
    bench.pass(30);
    bench.bind(with_secret("third"));
    bench.pass(30);
    assert_eq!(bench.reasons("first")[1], "Pulled");
    assert_eq!(bench.reasons("third"), ["Pulled", "Created", "Started"]);
    // The node has the image now; the pod without the secret still may not use it.
    assert_eq!(bench.phase("web"), Phase::Pending);
    assert_eq!(bench.downloaded(), 10);
}

#[test]
fn serial_pulls_wait_for_one_another_also_for_the_same_image() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    let mut second = pod("web");
    (second.name, second.uid) = ("second".into(), "uid-second".into());
    bench.bind(pod("web"));
    bench.bind(second);
    bench.pass(60);
    assert_eq!(bench.downloaded(), 100);
    let pulled = bench.events("second")[1].1.message.clone();
    assert!(pulled.contains(" in 100ms (10.5s including waiting)"), "{pulled}");
    let starts = bench.fleet.take_starts();
    assert!(starts.iter().all(|start| !start.is_warm) && starts.len() == 2);
}

#[test]
fn parallel_pulls_share_the_link_and_download_each_layer_once() {
    let mut bench = Bench::with(|kubelet, _| kubelet.max_parallel_pulls = None);
    bench.image("web:1", &[100]);
    bench.image("other:1", &[100]);
    let mut second = pod("web");
    (second.name, second.uid) = ("second".into(), "uid-second".into());
    for spec in [pod("web"), second, pod("other")] {
        bench.bind(spec);
    }
    bench.pass(60);
    assert_eq!(bench.downloaded(), 200);
    for name in ["web", "second", "other"] {
        let pulled = bench.events(name)[1].1.message.clone();
        assert!(pulled.contains(" in 20.4s (20.4s including waiting)"), "{pulled}");
    }
}

/// The images list their common layer at different positions, so that one pull gets to it when the
/// other one has long unpacked it.
#[test]
fn a_layer_that_another_pull_has_finished_is_not_downloaded_again() {
    let mut bench = Bench::with(|kubelet, _| {
        kubelet.max_parallel_pulls = None;
        kubelet.max_concurrent_downloads = 1;
    });
    let layer = |name: &str, megabytes: u64| {
        let bytes = megabytes * 1_000_000;
        let size = LayerSize { compressed: bytes, unpacked: bytes };
        Layer { digest: Digest::of(&[name.as_bytes()]), size }
    };
    let catalog = bench.fleet.catalog_mut();
    let (own, shared, further) = (layer("own", 50), layer("shared", 10), layer("further", 100));
    catalog.put(&reference("web:1"), Image::new(vec![own, shared], None));
    catalog.put(&reference("other:1"), Image::new(vec![shared, further], None));
    bench.bind(pod("web"));
    bench.bind(pod("other"));
    bench.pass(60);
    assert_eq!(bench.downloaded(), 160);
    assert_eq!((bench.phase("web"), bench.phase("other")), (Phase::Running, Phase::Running));
}

#[test]
fn layers_are_unpacked_one_after_another_while_others_are_downloaded() {
    let mut bench = Bench::with(|kubelet, _| {
        kubelet.unpack_rate = 10_000_000;
        kubelet.max_concurrent_downloads = 1;
    });
    bench.image("web:1", &[50, 50, 50]);
    bench.bind(pod("web"));
    bench.pass(60);
    let pulled = bench.events("web")[1].1.message.clone();
    // 15 s of downloads with 0.6 s of latency, and the last layer's 5 s.
    assert!(pulled.contains(" in 20.6s "), "{pulled}");
}

#[test]
fn images_of_one_pod_are_pulled_one_after_another() {
    let mut bench = Bench::with(|kubelet, _| kubelet.max_parallel_pulls = None);
    bench.image("web:1", &[100]);
    bench.image("log:1", &[100]);
    let mut spec = pod("web");
    spec.containers.push(container("log", "log:1"));
    bench.bind(spec);
    bench.pass(60);
    let order = ["Pulling", "Pulled", "Created", "Started"];
    assert_eq!(bench.reasons("web"), [order, order].concat());
    let paths: Vec<&str> =
        bench.events("web").iter().map(|(_, event)| event.field_path.as_deref().unwrap()).collect();
    assert!(paths[..4].iter().all(|path| *path == "spec.containers{web}"));
    assert!(paths[4..].iter().all(|path| *path == "spec.containers{log}"));
}

#[test]
fn image_volumes_are_pulled_before_containers_without_a_path_in_events() {
    let mut bench = Bench::new();
    bench.image("web:1", &[10]);
    bench.image("model:1", &[100]);
    let mut spec = pod("web");
    spec.volumes = vec![image_volume("model")];
    spec.containers[0].mounts = vec!["model".into()];
    bench.bind(spec);
    bench.pass(60);
    let events = bench.events("web");
    assert!(events[1].1.message.contains("registry.example/model:1"));
    assert_eq!(events[1].1.field_path, None);
    assert_eq!(bench.phase("web"), Phase::Running);
    assert!(bench.has_image("model:1"));
}

#[test]
fn a_failed_image_volume_stops_only_containers_that_mount_it() {
    let mut bench = Bench::with(|_, registry| {
        let rule = failure(Failure::NotFound, 900);
        registry.failures = vec![FailureRule { repository_prefix: "model".into(), ..rule }];
    });
    bench.image("web:1", &[10]);
    let mut spec = pod("web");
    spec.volumes = vec![image_volume("model")];
    spec.containers.push(container("mounts", "web:1"));
    spec.containers[1].mounts = vec!["model".into()];
    bench.bind(spec);
    bench.pass(60);
    let status = bench.status("web");
    assert!(is_running(status, "web"));
    let reason = status.waiting_reasons().next().unwrap();
    assert!(["ErrImagePull", "ImagePullBackOff"].contains(&reason), "{reason}");
    assert_eq!(status.phase, Phase::Pending);
}

#[test]
fn a_rate_limit_is_reported_with_status_429() {
    let mut bench = Bench::with(|_, registry| {
        let window = Duration::from_secs(600);
        registry.rate_limit = Some(RateLimit { pulls: 1, window, per_node: false });
    });
    bench.image("web:1", &[10]);
    bench.image("other:1", &[10]);
    bench.bind(pod("web"));
    bench.pass(10);
    bench.bind(pod("other"));
    bench.pass(10);
    assert_eq!(bench.phase("web"), Phase::Running);
    assert!(bench.events("other")[1].1.message.contains("429 Too Many Requests"));
}

#[test]
fn pulls_in_excess_of_the_kubelets_limit_fail() {
    let mut bench = Bench::with(|kubelet, _| {
        kubelet.max_parallel_pulls = None;
        kubelet.pull_qps = 1;
        kubelet.pull_burst = 2;
    });
    for name in ["a", "b", "c"] {
        bench.image(&format!("{name}:1"), &[10]);
        bench.bind(pod(name));
    }
    bench.pass(3);
    let failed = bench.events("c")[1].1.message.clone();
    assert_eq!(failed, "Failed to pull image \"registry.example/c:1\": pull QPS exceeded");
    bench.pass(60);
    assert_eq!(bench.phase("c"), Phase::Running);
}

#[test]
fn a_deleted_pod_cancels_its_pull_and_what_it_downloaded_is_in_vain() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    bench.image("next:1", &[10]);
    bench.bind(pod("web"));
    bench.bind(pod("next"));
    bench.pass(6);
    bench.delete("web");
    let message = &bench.events("web")[1].1.message;
    assert!(message.ends_with("context canceled"), "{message}");
    assert!(bench.is_removed("web"));
    let counters = bench.fleet.counters().total();
    assert_eq!(counters.downloaded, counters.in_vain);
    assert!((40_000_000..60_000_000).contains(&counters.in_vain), "{}", counters.in_vain);
    assert_eq!(bench.fleet.store(NODE).unwrap().used_bytes(), 0);
    bench.pass(10);
    assert_eq!(bench.phase("next"), Phase::Running);
}

#[test]
fn a_deleted_pod_whose_pull_waits_ends_when_its_turn_comes() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    bench.image("next:1", &[10]);
    bench.bind(pod("web"));
    bench.bind(pod("next"));
    bench.pass(5);
    bench.delete("next");
    assert!(!bench.is_removed("next"));
    bench.pass(10);
    assert!(bench.is_removed("next"));
    assert!(!bench.has_image("next:1") && bench.has_image("web:1"));
}

#[test]
fn a_shared_download_survives_the_deletion_of_the_pod_that_requested_it() {
    let mut bench = Bench::with(|kubelet, _| kubelet.max_parallel_pulls = None);
    bench.image("web:1", &[100]);
    let mut second = pod("web");
    (second.name, second.uid) = ("second".into(), "uid-second".into());
    bench.bind(pod("web"));
    bench.bind(second);
    bench.pass(6);
    bench.delete("web");
    bench.pass(6);
    assert_eq!(bench.phase("second"), Phase::Running);
    assert_eq!((bench.downloaded(), bench.fleet.counters().total().in_vain), (100, 0));
}
