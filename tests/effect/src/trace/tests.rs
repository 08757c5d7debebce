use std::collections::BTreeSet;

use rstest::rstest;

use super::*;

fn full(kind: Kind, seed: u64, nodes: usize) -> Trace {
    Trace::new(kind, Scale::Full, seed, nodes)
}

fn applied(trace: &Trace) -> impl Iterator<Item = &Value> {
    trace.steps.iter().filter_map(|step| match &step.action {
        Action::Apply(object) => Some(object),
        _ => None,
    })
}

fn template(object: &Value) -> &Value {
    match object["kind"].as_str().unwrap() {
        "Pod" => object,
        "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => &object["spec"]["template"],
    }
}

fn images(trace: &Trace) -> BTreeSet<&str> {
    let image = |object| template(object)["spec"]["containers"][0]["image"].as_str().unwrap();
    applied(trace).map(image).collect()
}

fn kinds(trace: &Trace) -> BTreeSet<&str> {
    applied(trace).map(|object| object["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_trace_follows_from_its_seed_and_its_steps_are_ordered() {
    for kind in Kind::ALL {
        let trace = full(kind, 1, 200);
        assert_eq!(trace, full(kind, 1, 200), "{kind:?}");
        assert!(!trace.steps.is_empty(), "{kind:?}");
        assert!(trace.steps.is_sorted_by_key(|step| step.at), "{kind:?}");
        assert!(trace.steps.iter().all(|step| step.at < trace.duration), "{kind:?}");
        assert_eq!(trace.machines.len(), 200, "{kind:?}");
    }
    assert_ne!(full(Kind::Rollouts, 1, 200), full(Kind::Rollouts, 2, 200));
}

#[test]
fn a_small_trace_is_a_tenth_as_long_with_the_same_rate() {
    for kind in Kind::ALL {
        let (full, small) = (full(kind, 1, 50), Trace::new(kind, Scale::Small, 1, 50));
        assert_eq!(small.duration, Duration::from_secs(120), "{kind:?}");
        assert!(!small.steps.is_empty(), "{kind:?}");
        assert!(small.steps.iter().all(|step| step.at < small.duration), "{kind:?}");
        assert!(small.steps.len() <= full.steps.len(), "{kind:?}");
    }
    let jobs = |scale| Trace::new(Kind::ContinuousIntegration, scale, 1, 50).steps.len();
    assert_eq!((jobs(Scale::Full), jobs(Scale::Small)), (300, 30));
}

#[test]
fn names_are_those_of_the_command_line() {
    for kind in Kind::ALL {
        let value = clap::ValueEnum::to_possible_value(&kind).unwrap();
        assert_eq!(value.get_name(), kind.as_str());
    }
    for scale in [Scale::Full, Scale::Small] {
        let value = clap::ValueEnum::to_possible_value(&scale).unwrap();
        assert_eq!(value.get_name(), scale.as_str());
    }
}

#[test]
fn all_pods_are_pinned_to_simulated_nodes() {
    for kind in Kind::ALL {
        for object in applied(&full(kind, 1, 20)) {
            assert_eq!(template(object)["spec"]["nodeSelector"]["type"], "fleet", "{object}");
        }
    }
}

#[rstest]
#[case(Kind::Rollouts, &["DaemonSet", "Deployment", "StatefulSet"])]
#[case(Kind::Autoscaling, &["Deployment"])]
#[case(Kind::ContinuousIntegration, &["Job"])]
#[case(Kind::CronJobs, &["CronJob"])]
#[case(Kind::Workflows, &["Pod"])]
#[case(Kind::Bursts, &["Pod"])]
fn a_trace_has_its_kinds_of_workloads(#[case] kind: Kind, #[case] expected: &[&str]) {
    assert_eq!(kinds(&full(kind, 1, 100)).into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn every_job_of_a_pipeline_has_an_image_of_its_own() {
    let trace = full(Kind::ContinuousIntegration, 1, 100);
    assert_eq!(images(&trace).len(), 300);
    assert_eq!(images(&full(Kind::Workflows, 1, 100)).len(), 10);
}

#[test]
fn a_lost_zone_is_a_third_of_the_nodes() {
    let trace = full(Kind::ZoneFailover, 1, 99);
    let lost: Vec<&usize> = trace
        .steps
        .iter()
        .filter_map(|step| if let Action::Lose(nodes) = &step.action { Some(nodes) } else { None })
        .flatten()
        .collect();
    assert_eq!(lost.len(), 33);
    assert!(lost.iter().all(|node| trace.machines[**node].zone == "c"));
}

#[rstest]
#[case(20)]
#[case(100)]
#[case(120)]
fn each_node_is_drained_before_it_is_replaced(#[case] nodes: usize) {
    let trace = full(Kind::NodeUpgrade, 1, nodes);
    let mut drained: BTreeSet<&usize> = BTreeSet::new();
    let mut replaced = BTreeSet::new();
    for step in &trace.steps {
        match &step.action {
            Action::Drain(nodes) => drained.extend(nodes),
            Action::Replace(nodes) => {
                assert!(nodes.iter().all(|node| drained.contains(node)));
                replaced.extend(nodes);
            }
            _ => {}
        }
    }
    assert_eq!(drained, replaced);
    assert_eq!(replaced.len(), nodes);
}

#[test]
fn models_are_large_and_fit_the_gpu_nodes() {
    let trace = full(Kind::Inference, 1, 100);
    assert_eq!(trace.machines.iter().filter(|machine| machine.gpus == 8).count(), 10);
    for object in applied(&trace) {
        assert_eq!(template(object)["spec"]["nodeSelector"][GPU_LABEL.0], GPU_LABEL.1);
    }
    for (image, layers) in &trace.images {
        let bytes: u64 = layers.iter().map(|layer| layer.compressed).sum();
        assert!((8_000_000_000..=40_000_000_000).contains(&bytes), "{image}: {bytes}");
    }
    let replicas = |object: &Value| object["spec"]["replicas"].as_u64().unwrap();
    let pods: u64 = images(&trace)
        .into_iter()
        .map(|image| {
            let of = |object: &&Value| template(object)["spec"]["containers"][0]["image"] == image;
            applied(&trace).filter(of).map(replicas).max().unwrap()
        })
        .sum();
    assert!(pods <= 80, "{pods} pods for 80 GPUs");
}

#[test]
fn a_small_cluster_has_at_least_one_pod_of_each_service() {
    for object in applied(&full(Kind::Rollouts, 1, 3)) {
        if let Some(replicas) = object["spec"]["replicas"].as_u64() {
            assert!(replicas >= 1, "{object}");
        }
    }
}
