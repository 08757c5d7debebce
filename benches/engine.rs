//! The engine at 5,000 nodes: choosing them, one look at a running task, and what is kept of a node.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use prewarmer::{
    controller::{Limits, Rehearsal, Settings, WorkerNamespace},
    node::{Facts, Interner},
    reduced::ReducedNode,
    task::{
        Amount, PrewarmTaskSpec, WorkerKind,
        plan::{Breaker, Findings, plan},
        validate::validate,
    },
    worker::WorkerSettings,
};
use serde_json::{Value, json};
use tikv_jemalloc_ctl::{epoch, stats};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NODES: usize = 5_000;
const IMAGES: usize = 100;
const BREAKER: Breaker = Breaker { nodes: NODES, at_once: 50 };

/// A Node as a cloud makes it: 20 labels, three of them its own, 50 images with two names each.
fn node(index: usize) -> Value {
    let name = format!("ip-10-{}-{}-1.eu-central-1.compute.internal", index / 256, index % 256);
    let mut labels: serde_json::Map<String, Value> =
        (0..17).map(|label| (format!("example.com/label-{label}"), json!("shared-value"))).collect();
    for own in ["kubernetes.io/hostname", "example.com/instance", "example.com/address"] {
        labels.insert(own.into(), json!(format!("{name}-{own}").replace('/', "-")));
    }
    let digest = |image: usize| format!("sha256:{:064x}", image * NODES + index % 40);
    let image = |image: usize| {
        let repository = format!("registry.example/team/service-{image}");
        json!({"names": [format!("{repository}@{}", digest(image)), format!("{repository}:1.{image}")], "sizeBytes": 1000})
    };
    json!({
        "metadata": {"name": name, "labels": labels, "annotations": {"note": "n".repeat(2000)}},
        "spec": {"taints": []},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "addresses": [{"type": "InternalIP", "address": format!("10.{}.{}.1", index / 256, index % 256)}],
            "images": (0..50).map(image).collect::<Vec<_>>(),
        }
    })
}

fn spec(images: usize) -> PrewarmTaskSpec {
    PrewarmTaskSpec {
        batch_size: Amount::Count(100),
        worker: WorkerKind::Pod,
        ..PrewarmTaskSpec::new((0..images).map(|image| format!("registry.example/app-{image}:1")).collect())
    }
}

fn settings() -> Settings {
    Settings {
        worker: WorkerSettings {
            owner: None,
            service_account: None,
            image: "registry.example/helper:1".into(),
            priority_class: None,
            ttl: Duration::from_secs(3600),
            images_per_pod: 30,
        },
        max_concurrent_tasks: 10,
        namespace: None,
        own_namespace: "prewarmer".into(),
        fallback_on_policy: false,
        worker_namespace: WorkerNamespace::Workload,
        breaker: BREAKER,
        examine: false,
        max_workers: 300,
        limits: Limits::default(),
        registry_concurrency: 200,
        known_for: Duration::from_secs(600),
        public_registries: Vec::new(),
        max_retained: 8000,
        cluster: prewarmer::egress::Cluster::default(),
    }
}

fn allocated() -> usize {
    epoch::advance().and_then(|_| stats::allocated::read()).unwrap_or_default()
}

fn read_nodes() -> Vec<Facts> {
    let texts = Interner::default();
    let one = |index| serde_json::from_value::<ReducedNode>(node(index)).ok().map(|node| Facts::new(&node, &texts));
    (0..NODES).filter_map(one).collect()
}

fn engine(criterion: &mut Criterion) {
    // What the parser of references builds at its first uses is no node's.
    drop(read_nodes());
    let before = allocated();
    let nodes = read_nodes();
    println!("memory per node: {} bytes", (allocated() - before) / nodes.len());

    let spec = spec(IMAGES);
    criterion.bench_function("validate and plan 5,000 nodes x 100 images", |bencher| {
        bencher.iter(|| {
            let task = validate(black_box(&spec)).unwrap_or_else(|problems| unreachable!("{problems:?}"));
            plan(&task, &nodes, &Findings::default(), BREAKER)
        });
    });

    let mut rehearsal = Rehearsal::new(nodes, spec, settings()).unwrap_or_else(|error| unreachable!("{error}"));
    assert_eq!(rehearsal.workers(), 100);
    criterion.bench_function("one look at a task on 5,000 nodes x 100 images, 100 at work", |bencher| {
        bencher.iter(|| black_box(rehearsal.step()));
    });
}

criterion_group!(benches, engine);
criterion_main!(benches);
