//! Benchmarks of the engine with 5,000 nodes: planning, one reconcile of a running task, and memory
//! per node.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};

use prewarmer_core::controller::{
    BatchFixture, ControllerSettings, FairnessLimits, WorkerNamespace,
};
use prewarmer_core::{
    node::{Interner, NodeInfo},
    slim::SlimNode,
    task::{
        Amount, PrewarmTaskSpec, WorkerKind,
        plan::{BatchSizeBreaker, NodeCheckFindings, select_nodes},
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
const BREAKER: BatchSizeBreaker = BatchSizeBreaker { node_threshold: NODES, batch_size: 50 };

/// Returns a Node as a cloud provider creates it: 20 labels, three of them unique to the node, and
/// 50 images with two names each.
fn node(index: usize) -> Value {
    let name = format!("ip-10-{}-{}-1.eu-central-1.compute.internal", index / 256, index % 256);
    let mut labels: serde_json::Map<String, Value> = (0..17)
        .map(|label| (format!("example.com/label-{label}"), json!("shared-value")))
        .collect();
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
        ..PrewarmTaskSpec::new(
            (0..images).map(|image| format!("registry.example/app-{image}:1")).collect(),
        )
    }
}

fn settings() -> ControllerSettings {
    ControllerSettings {
        worker: WorkerSettings {
            image_pull_policy: prewarmer_core::task::PullPolicy::default(),
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
        node_checks_enabled: false,
        max_workers: 300,
        limits: FairnessLimits::default(),
        registry_concurrency: 200,
        warm_image_ttl: Duration::from_secs(600),
        public_registries: Vec::new(),
        max_retained_workers: 8000,
    }
}

fn allocated() -> usize {
    epoch::advance().and_then(|_| stats::allocated::read()).unwrap_or_default()
}

fn read_nodes() -> Vec<NodeInfo> {
    let texts = Interner::default();
    let one = |index| {
        serde_json::from_value::<SlimNode>(node(index))
            .ok()
            .map(|node| NodeInfo::new(&node, &texts))
    };
    (0..NODES).filter_map(one).collect()
}

fn engine(criterion: &mut Criterion) {
    // The parser of image references allocates at its first use; that memory does not count.
    drop(read_nodes());
    let before = allocated();
    let nodes = read_nodes();
    println!("memory per node: {} bytes", (allocated() - before) / nodes.len());

    let spec = spec(IMAGES);
    criterion.bench_function("validate and plan 5,000 nodes x 100 images", |bencher| {
        bencher.iter(|| {
            let task =
                validate(black_box(&spec)).unwrap_or_else(|problems| unreachable!("{problems:?}"));
            select_nodes(&task, &nodes, &NodeCheckFindings::default(), BREAKER)
        });
    });

    let mut rehearsal =
        BatchFixture::new(nodes, spec, settings()).unwrap_or_else(|error| unreachable!("{error}"));
    assert_eq!(rehearsal.workers(), 100);
    criterion.bench_function(
        "reconcile a task on 5,000 nodes x 100 images, 100 workers",
        |bencher| {
            bencher.iter(|| black_box(rehearsal.reconcile()));
        },
    );
}

criterion_group!(benches, engine);
criterion_main!(benches);
