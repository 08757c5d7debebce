//! Reports about small clusters, computed by hand.

use serde_json::{Value, json};

use super::*;

/// Event of a kubelet at a time in seconds.
fn event(pod: &str, node: &str, message: &str, at: u64) -> AuditEvent {
    let time = format!("1970-01-01T00:{:02}:{:02}Z", at / 60, at % 60);
    serde_json::from_value(json!({
        "involvedObject": {"kind": "Pod", "namespace": "shop", "name": pod, "fieldPath": "spec.containers{c}"},
        "reason": "Pulled", "message": message, "count": 1,
        "source": {"component": "kubelet", "host": node},
        "firstTimestamp": time, "lastTimestamp": time,
    }))
    .unwrap()
}

fn pulled(image: &str, pull: u64, waited: u64, bytes: u64) -> String {
    format!(
        "Successfully pulled image \"{image}\" in {pull}s ({waited}s including waiting). Image size: {bytes} bytes."
    )
}

/// Pods of the Deployment `web`, of the Job `import` and of a deleted workload.
fn owners() -> Owners {
    let mut owners = Owners::default();
    let mut add = |kind, name: &str, owner_kind: &str, owner: &str| {
        let reference = json!([{"apiVersion": "v1", "kind": owner_kind, "name": owner, "uid": "1", "controller": true}]);
        let object = json!({"namespace": "shop", "name": name, "ownerReferences": if owner.is_empty() { Value::Null } else { reference }});
        owners.add(kind, &serde_json::from_value(object).unwrap());
    };
    for pod in ["web-6f-aaaaa", "web-6f-bbbbb", "web-6f-ccccc"] {
        add(OwnedKind::Pod, pod, "ReplicaSet", "web-6f");
    }
    add(OwnedKind::ReplicaSet, "web-6f", "Deployment", "web");
    add(OwnedKind::Pod, "import-x", "Job", "import");
    add(OwnedKind::Job, "import", "", "");
    owners
}

/// Rollout of three pods on three nodes, of which the last begins after the task, a Job with another
/// image, and a pod without a workload. Times:
///
/// - pod a on node a waits from 100 s to 120 s (20 s, early); the task ends at 100 + 3 + 5 + 20 = 128 s;
/// - pod b on node b waits from 101 s to 113 s (12 s, early), and its second container finds the image;
/// - pod c on node c waits from 300 s to 316 s (16 s, spared);
/// - the Job waits 30 s, and the deleted pod 2 s.
fn record() -> Recording {
    let mut recording = Recording::default();
    let web = |pull, waited| pulled("shop/web:1", pull, waited, 1000);
    for event in [
        event("web-6f-ccccc", "c", &web(16, 16), 316),
        event("web-6f-aaaaa", "a", &web(20, 20), 120),
        event("web-6f-bbbbb", "b", &web(10, 12), 113),
        event(
            "web-6f-bbbbb",
            "b",
            "Container image \"shop/web:1\" already present on machine",
            114,
        ),
        event("import-x", "a", &pulled("shop/import:1", 30, 30, 500), 500),
        event("gone-7d-ddddd", "a", &pulled("shop/gone:1", 2, 2, 7), 510),
    ] {
        recording.add(&event);
    }
    recording
}

/// The nodes a, b and c, which are older than all events.
fn nodes() -> Nodes {
    let mut nodes = Nodes::default();
    for name in ["a", "b", "c"] {
        nodes.insert(name, 0);
    }
    nodes
}

fn report(recording: &Recording, limit: usize) -> AuditReport {
    summarize(&AuditInput {
        recording,
        owners: &owners(),
        nodes: Some(&nodes()),
        namespace: Some("shop"),
        limit,
        settings: SimulationSettings::default(),
        notes: vec!["One thing was not read.".into()],
    })
}

#[test]
fn waits_are_summed_by_workload_and_image() {
    let report = serde_json::to_value(report(&record(), 10)).unwrap();
    let totals = json!({
        "formatVersion": 1, "namespace": "shop",
        "firstStart": "1970-01-01T00:01:53Z", "lastStart": "1970-01-01T00:08:30Z",
        "nodes": {"count": 3, "listed": true},
        "starts": 6, "warmStarts": 1, "pulls": 5, "waitedSeconds": 80.0, "sparedSeconds": 16.0,
        "notSparedSeconds": {"early": 32.0, "repeated": 0.0, "newNode": 0.0, "oneShot": 30.0, "notWarmed": 0.0, "deleted": 2.0, "remainder": 0.0},
        "imageBytes": 3507, "omittedWorkloads": 0, "omittedImages": 0,
        "notes": ["One thing was not read."],
    });
    for (field, expected) in totals.as_object().unwrap() {
        assert_eq!(&report[field], expected, "{field}");
    }
    let web = json!({
        "namespace": "shop", "kind": "Deployment", "name": "web", "starts": 4, "warmStarts": 1, "pulls": 3,
        "waitedSeconds": 48.0, "p50Seconds": 16.0, "p95Seconds": 20.0, "longestSeconds": 20.0,
        "sparedSeconds": 16.0, "imageBytes": 3000,
    });
    assert_eq!(report["workloads"][0], web);
    let rest = [&report["workloads"][1], &report["workloads"][2]];
    let names = rest.map(|row| (row["kind"].as_str().unwrap(), row["name"].as_str().unwrap()));
    assert_eq!(names, [("Job", "import"), ("Deleted", "gone-7d")]);
    let image = json!({
        "image": "docker.io/shop/web:1", "pulls": 3, "waitedSeconds": 48.0, "longestSeconds": 20.0,
        "sparedSeconds": 16.0, "sizeBytes": 1000,
    });
    assert_eq!((&report["images"][0], report["images"].as_array().unwrap().len()), (&image, 3));
    assert!(report["advice"].as_str().unwrap().contains("about 20 %"), "{}", report["advice"]);
}

#[test]
fn rows_beyond_the_limit_are_counted() {
    let report = report(&record(), 1);
    assert_eq!((report.workloads.len(), report.omitted_workloads), (1, 2));
    assert_eq!((report.images.len(), report.omitted_images), (1, 2));
    assert_eq!(report.waited_seconds, Seconds::from_millis(80_000), "totals cover all rows");
}

/// Waits that are spared and that are not are all waits, whatever the events.
#[test]
fn repeated_pulls_are_not_spared() {
    let mut recording = record();
    let mut again = event("web-6f-ccccc", "c", &pulled("shop/web:1", 1, 1, 1000), 400);
    again.count = Some(5);
    recording.add(&again);
    let report = report(&recording, 10);
    assert_eq!(report.not_spared_seconds.repeated, Seconds::from_millis(5000));
    assert_eq!(report.starts, 11);
    let NotSpared { early, repeated, new_node, one_shot, not_warmed, deleted, remainder } =
        report.not_spared_seconds;
    let not_spared: u64 = [early, repeated, new_node, one_shot, not_warmed, deleted, remainder]
        .map(Seconds::as_millis)
        .iter()
        .sum();
    assert_eq!(not_spared + report.spared_seconds.as_millis(), report.waited_seconds.as_millis());
}

#[test]
fn ignored_events_are_noted() {
    let mut recording = record();
    recording.add_undecodable();
    let mut forged = event("web-6f-ccccc", "c", &pulled("shop/web:1", 9, 9, 1), 400);
    forged.source.component = "eve".into();
    recording.add(&forged);
    recording.add(&event(
        "prewarm-0123456789abcdef0123-x",
        "c",
        &pulled("shop/web:1", 9, 9, 1),
        90,
    ));
    let combined = format!("(combined from similar events): {}", pulled("shop/web:1", 1, 1, 1));
    recording.add(&event("web-6f-ccccc", "c", &combined, 500));
    let report = report(&recording, 10);
    assert_eq!(report.notes.len(), 5, "{:#?}", report.notes);
    assert!(report.notes.iter().all(|note| note.ends_with('.')));
    assert_eq!(report.waited_seconds, Seconds::from_millis(81_000));
}

#[test]
fn a_cluster_whose_nodes_cannot_be_listed_has_those_of_the_events() {
    let owners = owners();
    let report = summarize(&AuditInput {
        recording: &record(),
        owners: &owners,
        nodes: None,
        namespace: None,
        limit: 10,
        settings: SimulationSettings::default(),
        notes: Vec::new(),
    });
    assert_eq!(report.nodes, NodeCount { count: 3, listed: false });
}

#[test]
fn small_and_missing_waits_need_no_installation() {
    let mut recording = Recording::default();
    recording.add(&event("a", "n", "Container image \"a\" already present on machine", 1));
    assert!(report(&recording, 10).advice.starts_with("No container waited"));
    recording.add(&event("b", "n", &pulled("b", 9, 9, 1), 20));
    assert!(report(&recording, 10).advice.contains("less than 10 s"));
    recording.add(&event("c", "n", &pulled("c", 90, 90, 1), 200));
    assert!(report(&recording, 10).advice.contains("sooner after a rollout"));
}
