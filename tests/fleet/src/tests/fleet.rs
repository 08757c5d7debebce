//! Nodes of a fleet.

use super::*;
use crate::{FleetError, kubelet::testing::pod};

#[test]
fn a_stopped_node_reports_nothing_and_keeps_its_images() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    bench.image("half:1", &[500]);
    bench.bind(pod("web"));
    bench.pass(30);
    bench.bind(pod("half"));
    bench.pass(10);
    bench.input(Input::NodeStopped { node: NODE });
    let reports = bench.outputs.len();
    bench.bind(pod("late"));
    bench.delete("web");
    bench.pass(600);
    assert_eq!(bench.outputs.len(), reports);
    assert_eq!(bench.fleet.store(NODE).unwrap().used_bytes(), 100_000_000);
    bench.input(Input::NodeStarted { node: NODE });
    bench.bind(pod("web"));
    bench.pass(10);
    assert_eq!(bench.reasons("web")[4..], ["Pulled", "Created", "Started"]);
}

#[test]
fn a_replaced_node_has_no_images() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    bench.bind(pod("web"));
    bench.pass(30);
    bench.input(Input::NodeReplaced { node: NODE });
    assert!(!bench.has_image("web:1"));
    bench.bind(pod("web"));
    bench.pass(30);
    assert_eq!(bench.downloaded(), 200);
}

#[test]
fn unused_bytes_on_a_replaced_machine_are_in_vain() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    bench.image("next:1", &[50]);
    bench.bind(pod("web"));
    let mut worker = pod("next");
    worker.is_workload = false;
    bench.bind(worker);
    bench.pass(60);
    assert_eq!(bench.fleet.counters().total().in_vain, 0);
    bench.input(Input::NodeReplaced { node: NODE });
    let counters = bench.fleet.counters().total();
    assert_eq!((counters.downloaded, counters.in_vain), (150_000_000, 50_000_000));
    assert_eq!(bench.fleet.unused_bytes(), 0);
}

#[test]
fn a_drained_node_ends_all_of_its_pods() {
    let mut bench = Bench::new();
    bench.image("a:1", &[10]);
    bench.image("b:1", &[10]);
    bench.bind(pod("a"));
    bench.bind(pod("b"));
    bench.pass(30);
    bench.input(Input::NodeDrained { node: NODE });
    bench.pass(5);
    assert!(bench.is_removed("a") && bench.is_removed("b"));
}

#[test]
fn a_pod_whose_object_is_gone_is_forgotten_without_reports() {
    let mut bench = Bench::new();
    bench.image("web:1", &[100]);
    bench.bind(pod("web"));
    bench.pass(5);
    let reports = bench.outputs.len();
    bench.input(Input::PodGone { uid: "uid-web".into() });
    bench.pass_millis(1);
    assert_eq!(bench.outputs.len(), reports);
    assert_eq!(bench.fleet.store(NODE).unwrap().used_bytes(), 0);
    bench.bind(pod("web"));
}

#[test]
fn unknown_nodes_and_pods_bound_twice_are_errors() {
    let mut bench = Bench::new();
    let now = bench.fleet.now();
    let bound = |node| Input::PodBound { node, pod: Box::new(pod("web")) };
    let unknown = NodeId(7);
    let error = bench.fleet.handle(bound(unknown), now).unwrap_err();
    assert_eq!(error, FleetError::UnknownNode(unknown));
    assert_eq!(error.to_string(), "node 7 does not exist");
    bench.bind(pod("web"));
    let error = bench.fleet.handle(bound(NODE), now).unwrap_err();
    assert_eq!(error, FleetError::DuplicatePod("uid-web".into()));
    bench.input(Input::PodGone { uid: "unknown".into() });
}

#[test]
fn reports_before_a_rejected_input_are_not_lost() {
    let mut bench = Bench::new();
    bench.image("web:1", &[10]);
    bench.bind(pod("web"));
    let input = Input::NodeStopped { node: NodeId(7) };
    assert!(bench.fleet.handle(input, SimTime::from_secs(30)).is_err());
    bench.pass(1);
    assert_eq!(bench.phase("web"), Phase::Running);
}

#[test]
fn a_registry_that_all_nodes_use_is_the_bottleneck() {
    let mut bench = Bench::with(|_, registry| registry.bandwidth = 20_000_000);
    bench.image("web:1", &[100]);
    let settings = NodeSettings { bandwidth: 10_000_000, ..NodeSettings::default() };
    for node in 1..10 {
        assert_eq!(bench.fleet.add_node(settings.clone()), NodeId(node));
    }
    for node in 0..10 {
        let mut spec = pod("web");
        (spec.name, spec.uid) = (format!("web-{node}"), format!("uid-{node}"));
        bench.input(Input::PodBound { node: NodeId(node), pod: Box::new(spec) });
    }
    bench.pass(120);
    for node in 0..10 {
        // 1 GB at 20 MB/s, after requests of 0.4 s and a sandbox of 0.4 s.
        let pulled = bench.seconds(&format!("web-{node}"), "Pulled");
        assert!((50.8..51.2).contains(&pulled), "{pulled}");
    }
}

#[test]
fn a_thousand_nodes_pull_an_image_of_ten_layers() {
    let registries = Registries::new(RegistrySettings::new(""));
    let mut fleet = Fleet::new(1, Catalog::new(1, CatalogSettings::default()), registries);
    let sizes = [LayerSize { compressed: 20_000_000, unpacked: 50_000_000 }; 10];
    fleet.catalog_mut().insert(&reference("web:1"), &sizes);
    for node in 0..1_000 {
        fleet.add_node(NodeSettings::default());
        let mut spec = pod("web");
        spec.uid = format!("uid-{node}");
        let input = Input::PodBound { node: NodeId(node), pod: Box::new(spec) };
        fleet.handle(input, SimTime::from_millis(u64::from(node))).unwrap();
    }
    fleet.advance(SimTime::from_secs(300));
    assert_eq!(fleet.counters().total().downloaded, 200_000_000_000);
    assert_eq!(fleet.take_starts().len(), 1_000);
}
