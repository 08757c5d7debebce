//! Images that are known to be warm, and workers that are retained for them.

use std::time::Duration;

use crate::task::{Phase, PrewarmTaskSpec, PullPolicy};

use super::{
    super::{
        super::{settings::ControllerSettings, warm_images::WarmImageCache},
        simulation::{PodResult, Simulation, settings},
    },
    fixture::{finish_all_pods, spec, status},
};

#[test]
fn cached_warm_images_are_not_pulled_again() {
    let mut simulation = Simulation::new(3, spec(2, 3));
    finish_all_pods(&mut simulation, PodResult::Success);
    let second = |mut simulation: Simulation, spec: PrewarmTaskSpec| {
        let known = std::mem::replace(
            &mut simulation.shared.warm_images,
            WarmImageCache::new(Duration::ZERO),
        );
        let mut next = Simulation::new(3, spec);
        next.shared.warm_images = known;
        finish_all_pods(&mut next, PodResult::Success);
        next
    };
    let next = second(simulation, spec(2, 3));
    assert_eq!((next.history.len(), next.node_states()), (0, "www"));
    assert_eq!(status(&next).already_warm_nodes, 3);
    let again =
        second(next, PrewarmTaskSpec { image_pull_policy: Some(PullPolicy::Always), ..spec(2, 3) });
    assert_eq!((again.history.len(), again.node_states()), (3, "sss"));
    let other =
        second(again, PrewarmTaskSpec { service_account_name: Some("other".into()), ..spec(2, 3) });
    assert_eq!(other.history.len(), 3, "other credentials have another scope");
}

#[test]
fn an_old_copy_of_a_moving_tag_is_not_warm() {
    let digest = format!("image-0:latest@sha256:{}", "0".repeat(64));
    let (always, if_not_present) = (PullPolicy::Always, PullPolicy::IfNotPresent);
    for (image, policy, states) in [
        ("image-0:latest", None, "sss"),
        ("image-0", None, "sss"),
        ("image-0:1", None, "www"),
        ("image-0:latest", Some(if_not_present), "www"),
        ("image-0:1", Some(always), "sss"),
        (&digest, Some(always), "www"),
    ] {
        let spec =
            PrewarmTaskSpec { images: vec![image.into()], image_pull_policy: policy, ..spec(1, 3) };
        let settings =
            ControllerSettings { public_registries: vec!["docker.io".into()], ..settings() };
        let mut simulation = Simulation::with_settings(3, spec, settings);
        for node in 0..3 {
            simulation.change_node(node, |facts| facts.set_reported_image(&image.parse().unwrap()));
        }
        finish_all_pods(&mut simulation, PodResult::Success);
        assert_eq!(simulation.node_states(), states, "{image} {policy:?}");
    }
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
fn a_replaced_machine_is_cold() {
    let mut simulation = Simulation::new(1, spec(1, 1));
    finish_all_pods(&mut simulation, PodResult::Success);
    let known =
        std::mem::replace(&mut simulation.shared.warm_images, WarmImageCache::new(Duration::ZERO));
    let mut next = Simulation::new(1, spec(1, 1));
    next.shared.warm_images = known;
    next.change_node(0, |facts| facts.identity += 1);
    finish_all_pods(&mut next, PodResult::Success);
    assert_eq!((next.history.len(), next.node_states()), (1, "s"));
}
