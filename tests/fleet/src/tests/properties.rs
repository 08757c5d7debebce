//! Properties of random pods and histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    image::{Digest, Image, Layer},
    kubelet::testing::{container, ended, image_volume, pod},
    pod::{ContainerKind, ContainerSpec, PullPolicy, RestartPolicy},
};

/// Number of images, of which each pod uses some.
const IMAGES: usize = 6;
/// Number of nodes.
const NODES: u32 = 3;

fn containers() -> impl Strategy<Value = ContainerSpec> {
    let kind = prop_oneof![
        1 => Just(ContainerKind::Init),
        1 => Just(ContainerKind::Sidecar),
        3 => Just(ContainerKind::App)
    ];
    let policy = prop_oneof![1 => Just(PullPolicy::Always), 3 => Just(PullPolicy::IfNotPresent)];
    (kind, policy, 0..IMAGES, 0..4_u64, 0..8_i32).prop_map(
        |(kind, policy, image, seconds, code)| {
            let mut spec = container("", &format!("app-{image}:1"));
            spec.kind = kind;
            spec.pull_policy = policy;
            // One of eight containers fails; sidecars run until they are stopped.
            if kind != ContainerKind::Sidecar {
                spec.run_time = ended(seconds, i32::from(code == 0));
            }
            spec
        },
    )
}

/// Pods with at least one container of the application.
fn pods() -> impl Strategy<Value = PodSpec> {
    let policy = prop_oneof![
        Just(RestartPolicy::Always),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Never)
    ];
    let containers = proptest::collection::vec(containers(), 0..4);
    (policy, containers, any::<bool>(), any::<bool>()).prop_map(
        |(policy, mut containers, has_volume, is_workload)| {
            let mut spec = pod("web");
            containers.append(&mut spec.containers);
            containers.sort_by_key(|container| container.kind == ContainerKind::App);
            for (index, container) in containers.iter_mut().enumerate() {
                container.name = format!("c{index}");
            }
            spec.containers = containers;
            spec.restart_policy = policy;
            spec.is_workload = is_workload;
            if has_volume {
                spec.volumes = vec![image_volume("app-0")];
            }
            spec
        },
    )
}

/// Step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Bind(u32, Box<PodSpec>),
    Delete(usize),
    Gone(usize),
    Pass(u64),
    Replace(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..NODES, pods()).prop_map(|(node, pod)| Step::Bind(node, Box::new(pod))),
        2 => (0..20_usize).prop_map(Step::Delete),
        1 => (0..20_usize).prop_map(Step::Gone),
        4 => (0..90_u64).prop_map(Step::Pass),
        1 => (0..NODES).prop_map(Step::Replace),
    ];
    proptest::collection::vec(step, 1..25)
}

/// Capacity of a disk that holds all images at once, in bytes.
const LARGE: u64 = 100_000_000_000;
/// Capacity of a disk that holds about half of the images, in bytes.
const SMALL: u64 = 700_000_000;

/// Returns the layers of an image: one that all images have, one of two images, and its own. Images
/// have them in different orders.
fn layers(image: usize) -> Vec<Layer> {
    let layer = |name: String, megabytes: u64| {
        let bytes = megabytes * 1_000_000;
        let size = LayerSize { compressed: bytes, unpacked: 2 * bytes };
        Layer { digest: Digest::of(&[name.as_bytes()]), size }
    };
    let all = layer("all".into(), 40);
    let pair = layer(format!("pair-{}", image / 2), 30);
    let own = layer(format!("own-{image}"), 20 * (image as u64 + 1));
    if image.is_multiple_of(2) { vec![all, own, pair] } else { vec![pair, all, own] }
}

fn capacities() -> impl Strategy<Value = u64> {
    prop_oneof![Just(LARGE), Just(SMALL)]
}

fn fleet(parallel: Option<usize>, capacity: u64) -> Fleet {
    let mut registries = Registries::new(RegistrySettings::new(""));
    registries.add(RegistrySettings {
        bandwidth: 100_000_000,
        ..RegistrySettings::new("registry.example")
    });
    let mut fleet = Fleet::new(1, Catalog::new(1, CatalogSettings::default()), registries);
    for image in 0..IMAGES {
        let image_layers = layers(image);
        let reference = reference(&format!("app-{image}:1"));
        fleet.catalog_mut().put(&reference, Image::new(image_layers, None));
    }
    let kubelet = KubeletSettings { max_parallel_pulls: parallel, ..KubeletSettings::default() };
    for _ in 0..NODES {
        fleet.add_node(NodeSettings {
            bandwidth: 50_000_000,
            disk: Disk { capacity, reserved: 0, keeps_blobs: true },
            kubelet: Arc::new(kubelet.clone()),
        });
    }
    fleet
}

/// Returns the UID of the pod that was bound in this position.
fn uid(position: usize) -> String {
    format!("uid-{position}")
}

/// Runs a history and lets 20 minutes pass at its end.
fn run(fleet: &mut Fleet, steps: Vec<Step>) -> Vec<Output> {
    let mut outputs = Vec::new();
    let mut bound = 0;
    for step in steps {
        let now = fleet.now();
        let input = match step {
            Step::Bind(node, mut pod) => {
                (pod.name, pod.uid) = (format!("pod-{bound}"), uid(bound));
                bound += 1;
                Input::PodBound { node: NodeId(node), pod }
            }
            Step::Delete(position) => Input::PodDeleted { uid: uid(position), grace: None },
            Step::Gone(position) => Input::PodGone { uid: uid(position) },
            Step::Replace(node) => Input::NodeReplaced { node: NodeId(node) },
            Step::Pass(seconds) => {
                outputs.extend(fleet.advance(now.after(Duration::from_secs(seconds))));
                continue;
            }
        };
        outputs.extend(fleet.handle(input, now).unwrap());
    }
    outputs.extend(fleet.advance(fleet.now().after(Duration::from_secs(1_200))));
    outputs
}

/// Verifies the order of the events of one container or image volume: a pull ends once, and a
/// container is created after its image was ensured, and started after that.
fn check_order(reasons: &[&str]) -> Result<(), TestCaseError> {
    let mut before = "";
    // The end of a container and the rejection of a pod concern no start.
    let is_start = |reason: &&str| !["Killing", "Evicted"].contains(reason);
    for reason in reasons.iter().copied().filter(is_start) {
        let is_legal = match reason {
            "Created" => before == "Pulled",
            "Started" => before == "Created",
            "Failed" => ["Pulling", "Failed", "BackOff"].contains(&before),
            // A created container can be stopped, and a pull cancelled, without a further event.
            "Pulling" | "Pulled" | "BackOff" => true,
            _ => false,
        };
        prop_assert!(is_legal, "{} after {} in {:?}", reason, before, reasons);
        before = reason;
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_pod_runs_or_ends(
        pods in proptest::collection::vec((0..NODES, pods()), 1..12), parallel in any::<bool>()
    ) {
        let mut fleet = fleet((!parallel).then_some(1), LARGE);
        let count = pods.len();
        let steps = pods.into_iter().map(|(node, pod)| Step::Bind(node, Box::new(pod))).collect();
        let outputs = run(&mut fleet, steps);
        for position in 0..count {
            let name = format!("pod-{position}");
            let status = outputs.iter().rev().find_map(|output| status_of(output, &name)).unwrap();
            let is_waiting = |status: &PodStatus| {
                status.waiting_reasons().any(|reason| reason != "CrashLoopBackOff")
            };
            let has_ended = status.phase.is_terminal() || status.phase == Phase::Running;
            // A container that fails at each start keeps those after it waiting.
            let loops = status.waiting_reasons().any(|reason| reason == "CrashLoopBackOff")
                || status.init_containers.iter().any(|container| container.restarts > 0);
            prop_assert!(has_ended || loops, "{status:?}");
            prop_assert!(status.phase != Phase::Running || !is_waiting(status), "{status:?}");
        }
        // Nothing was evicted or cancelled, so each layer was downloaded once.
        for node in (0..NODES).map(NodeId) {
            let downloaded = fleet.store(node).unwrap().downloaded_bytes();
            prop_assert_eq!(fleet.counters().node(node).downloaded, downloaded);
        }
    }

    #[test]
    fn events_of_each_container_are_in_a_legal_order(steps in steps(), parallel in any::<bool>(), capacity in capacities()) {
        let mut fleet = fleet((!parallel).then_some(1), capacity);
        let outputs = run(&mut fleet, steps);
        let mut events: BTreeMap<(&str, Option<&str>), Vec<&str>> = BTreeMap::new();
        for output in &outputs {
            if let Report::Event { pod, event } = &output.report {
                let key = (pod.uid.as_str(), event.field_path.as_deref());
                events.entry(key).or_default().push(event.reason);
            }
        }
        for reasons in events.values() {
            check_order(reasons)?;
        }
        prop_assert!(outputs.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }

    #[test]
    fn phases_never_leave_a_final_state(steps in steps()) {
        let mut fleet = fleet(Some(1), SMALL);
        let outputs = run(&mut fleet, steps);
        let mut phases: BTreeMap<&str, Phase> = BTreeMap::new();
        for output in &outputs {
            if let Report::PodStatus { pod, status } = &output.report {
                let before = phases.insert(pod.uid.as_str(), status.phase);
                prop_assert!(before.is_none_or(|b| !b.is_terminal() || b == status.phase));
            }
        }
    }

    #[test]
    fn the_same_seed_and_inputs_give_the_same_outputs(steps in steps()) {
        let once = run(&mut fleet(Some(2), SMALL), steps.clone());
        let again = run(&mut fleet(Some(2), SMALL), steps);
        prop_assert_eq!(once, again);
    }

    #[test]
    fn nothing_is_left_of_deleted_pods(steps in steps(), parallel in any::<bool>(), capacity in capacities()) {
        let mut fleet = fleet((!parallel).then_some(1), capacity);
        run(&mut fleet, steps);
        for position in 0..25 {
            let now = fleet.now();
            fleet.handle(Input::PodDeleted { uid: uid(position), grace: None }, now).unwrap();
        }
        fleet.advance(fleet.now().after(Duration::from_secs(60)));
        prop_assert_eq!(fleet.pod_count(), 0);
        prop_assert_eq!(fleet.download_count(), 0);
        for node in 0..NODES {
            prop_assert!(fleet.store(NodeId(node)).unwrap().has_no_pull());
        }
    }
}

#[test]
fn hostile_pods_are_handled() {
    let mut bench = Bench::new();
    let mut many = pod("many");
    many.containers = (0..1_000)
        .map(|index| {
            let mut spec = container(&format!("c{index}"), "nothing");
            spec.image = if index % 2 == 0 { String::new() } else { "a:1".into() };
            spec.mounts = vec!["absent".into()];
            spec
        })
        .collect();
    bench.bind(many);
    let mut empty = pod("empty");
    empty.containers.clear();
    (empty.grace, empty.active_deadline) = (Duration::MAX, Some(Duration::MAX));
    bench.bind(empty);
    let mut endless = pod("endless");
    endless.containers[0].run_time = ended(u64::MAX, i32::MIN);
    bench.bind(endless);
    bench.pass(1_200);
    assert_eq!(bench.phase("empty"), Phase::Pending);
    bench.delete("many");
    bench.delete("empty");
    bench.pass(60);
    assert!(bench.is_removed("many") && bench.is_removed("empty"));
}
