//! Events, owners and nodes, as `prewarmer audit` reads them. Every client that may create Events
//! can forge them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use prewarmer_core::audit::{
    AuditEvent, AuditInput, AuditReport, Nodes, OwnedKind, Owners, Recording, Seconds,
    SimulationSettings, summarize,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest wait of a container that a report may contain: a day.
const MAX_WAIT: Seconds = Seconds::from_millis(24 * 3600 * 1000);
/// Longest name of a namespace, a workload or a node, in bytes.
const MAX_NAME: usize = 253;
/// Largest size of an image, in bytes.
const MAX_IMAGE_BYTES: u64 = 1 << 40;
/// Rows of the report with all workloads; no input of 16 KB has as many.
const ALL_ROWS: usize = 10_000;

/// Objects of a cluster, each of which is decoded separately.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Cluster<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    #[serde(borrow)]
    pods: Vec<&'a RawValue>,
    #[serde(borrow)]
    replica_sets: Vec<&'a RawValue>,
    #[serde(borrow)]
    jobs: Vec<&'a RawValue>,
    #[serde(borrow)]
    nodes: Option<Vec<&'a RawValue>>,
    warm_one_shots: bool,
}

fn metadata(objects: &[&RawValue]) -> impl Iterator<Item = ObjectMeta> {
    objects.iter().filter_map(|object| serde_json::from_str(object.get()).ok())
}

/// Checks that the sums of a report about forged events agree, and that nothing in it exceeds a bound.
pub fn audit(bytes: &[u8]) {
    let Ok(cluster) = serde_json::from_slice::<Cluster<'_>>(bytes) else { return };
    let mut recording = Recording::default();
    for event in &cluster.events {
        match serde_json::from_str::<AuditEvent>(event.get()) {
            Ok(event) => recording.add(&event),
            Err(_) => recording.add_undecodable(),
        }
    }
    let mut owners = Owners::default();
    for (kind, objects) in [
        (OwnedKind::Pod, &cluster.pods),
        (OwnedKind::ReplicaSet, &cluster.replica_sets),
        (OwnedKind::Job, &cluster.jobs),
    ] {
        for object in metadata(objects) {
            owners.add(kind, &object);
        }
    }
    let nodes = cluster.nodes.as_ref().map(|objects| {
        let mut nodes = Nodes::default();
        metadata(objects).for_each(|object| nodes.add(&object));
        nodes
    });
    let report = |limit| {
        summarize(&AuditInput {
            recording: &recording,
            owners: &owners,
            nodes: nodes.as_ref(),
            namespace: None,
            limit,
            settings: SimulationSettings {
                warm_one_shots: cluster.warm_one_shots,
                ..SimulationSettings::default()
            },
            notes: Vec::new(),
        })
    };
    let all = report(ALL_ROWS);
    let ignored = usize::try_from(recording.ignored_events()).unwrap_or(usize::MAX);
    assert!(ignored <= cluster.events.len(), "{ignored} of {}", cluster.events.len());
    assert_eq!(all.starts == 0, recording.is_empty(), "{all:?}");
    check_sums(&all);
    check_rows(&all);
    let first = report(1);
    assert_eq!(first.workloads.as_slice(), all.workloads.get(..1).unwrap_or_default());
    assert_eq!(first.workloads.len() + first.omitted_workloads, all.workloads.len());
    assert_eq!(first.waited_seconds, all.waited_seconds, "the limit changes the sums");
    assert!(serde_json::to_string(&all).is_ok(), "{all:?}");
}

fn sum(parts: impl Iterator<Item = Seconds>) -> u64 {
    parts.map(Seconds::as_millis).sum()
}

/// Checks that the parts of each sum of the report add up to it.
fn check_sums(report: &AuditReport) {
    assert_eq!(report.starts, report.warm_starts + report.pulls, "{report:?}");
    let rest = &report.not_spared_seconds;
    let reasons = [
        rest.early,
        rest.repeated,
        rest.new_node,
        rest.one_shot,
        rest.not_warmed,
        rest.deleted,
        rest.remainder,
    ];
    let waited = report.waited_seconds.as_millis();
    assert_eq!(sum(reasons.into_iter()) + report.spared_seconds.as_millis(), waited, "{report:?}");
    let workloads = &report.workloads;
    assert_eq!(sum(workloads.iter().map(|row| row.waited_seconds)), waited, "{report:?}");
    assert_eq!(sum(report.images.iter().map(|row| row.waited_seconds)), waited, "{report:?}");
    assert_eq!(workloads.iter().map(|row| row.starts).sum::<u64>(), report.starts, "{report:?}");
    let bytes = workloads.iter().map(|row| row.image_bytes).sum::<u64>();
    assert_eq!(bytes, report.image_bytes, "{report:?}");
}

fn check_rows(report: &AuditReport) {
    for row in &report.workloads {
        assert_eq!(row.starts, row.warm_starts + row.pulls, "{row:?}");
        assert!(row.p50_seconds <= row.p95_seconds, "{row:?}");
        assert!(row.p95_seconds <= row.longest_seconds, "{row:?}");
        assert!(row.longest_seconds <= MAX_WAIT, "{row:?}");
        assert!(row.spared_seconds <= row.waited_seconds, "{row:?}");
        for name in [&row.namespace, &row.kind, &row.name] {
            assert!((1..=MAX_NAME).contains(&name.len()), "{row:?}");
        }
    }
    for row in &report.images {
        assert!(row.longest_seconds <= MAX_WAIT && row.spared_seconds <= row.waited_seconds);
        assert!(row.pulls > 0 && row.size_bytes.is_none_or(|size| size <= MAX_IMAGE_BYTES));
    }
}
