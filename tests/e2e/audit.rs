//! `prewarmer audit` and `kubectl prewarm audit`, as processes, on events with known times.

use std::{path::Path, process::Command, time::Duration};

use k8s_openapi::api::core::v1::Event;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{TASK_TIMEOUT, deployment},
    namespace::Namespace,
    process::Ended,
    server::free_address,
};
use serde_json::{Value, json};

use crate::{TestCluster, pod_start::create_events};

const PROGRAM: &str = env!("CARGO_BIN_EXE_prewarmer");

fn audit(kubeconfig: &str, words: &[&str]) -> Ended {
    let mut command = Command::new(PROGRAM);
    command.env("KUBECONFIG", kubeconfig).arg("audit").args(words).output().unwrap().into()
}

/// Returns the role of docs/audit.md.
fn documented_role() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md");
    let text = std::fs::read_to_string(page).unwrap();
    let (_, rest) = text.split_once("```yaml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Creates an account of the namespace, with the documented role in this namespace only if `granted`.
/// Returns its kubeconfig.
async fn account(namespace: &Namespace, name: &str, granted: bool) -> String {
    namespace.kubectl(&["create", "serviceaccount", name], "");
    let user = format!("--as=system:serviceaccount:{}:{name}", namespace.name);
    if granted {
        namespace.cluster.kubectl(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            &documented_role(),
        );
        let account = format!("--serviceaccount={}:{name}", namespace.name);
        let role = "--clusterrole=prewarmer-audit";
        namespace.kubectl(&["create", "rolebinding", name, role, &account], "");
        // The API server's authorizer sees a new binding only after its own watch delivers it.
        let ask = ["-n", &namespace.name, "auth", "can-i", "list", "events", &user];
        let permitted = || async { namespace.cluster.try_kubectl(&ask, "").0.then_some(()) };
        namespace.eventually("a permission", Duration::from_secs(30), permitted).await;
    }
    namespace.cluster.kubeconfig_of(namespace, name)
}

/// Event of a component on a node, at a time after 10:00 in seconds.
fn event(
    namespace: &Namespace,
    pod: &str,
    (component, node): (&str, &str),
    message: &str,
    at: u32,
) -> Event {
    let time = format!("2026-11-21T10:{:02}:{:02}Z", at / 60, at % 60);
    serde_json::from_value(json!({
        "metadata": {"name": format!("{pod}.{component}.{at}"), "namespace": namespace.name},
        "involvedObject": {"kind": "Pod", "namespace": namespace.name, "name": pod, "fieldPath": "spec.containers{c0}"},
        "reason": "Pulled", "message": message, "type": "Normal", "count": 1,
        "source": {"component": component, "host": node},
        "firstTimestamp": time, "lastTimestamp": time,
    }))
    .unwrap()
}

fn pulled(pull: u32, waited: u32) -> String {
    format!(
        "Successfully pulled image \"shop/web:1\" in {pull}s ({waited}s including waiting). Image size: 1000 bytes."
    )
}

/// Creates a Deployment with three pods and their events:
///
/// - pod 0 on node a waits 20 s from 100 s, and its second container finds the image. The task ends
///   at 100 + 3 + 5 + 20 = 128 s;
/// - pod 1 on node b waits 12 s from 101 s, before the end of the task;
/// - pod 2 on node c waits 16 s from 300 s, after it;
/// - a forged event states 1,000 s.
async fn create_rollout(cluster: &Cluster, namespace: &Namespace) {
    namespace.apply(&deployment("web", 3, &["shop/web:1"]));
    let pods = namespace
        .eventually("three pods", TASK_TIMEOUT, || async {
            Some(namespace.get("pods")).filter(|pods| pods.len() == 3)
        })
        .await;
    let name = |number: usize| pods[number]["metadata"]["name"].as_str().unwrap();
    let of = |number, component, node, message: &str, at| {
        event(namespace, name(number), (component, node), message, at)
    };
    let present =
        "Container image \"shop/web:1\" already present on machine and can be accessed by the pod";
    let events = vec![
        of(0, "kubelet", "a", &pulled(20, 20), 120),
        of(0, "kubelet", "a", present, 121),
        of(1, "kubelet", "b", &pulled(10, 12), 113),
        of(2, "kubelet", "c", &pulled(16, 16), 316),
        of(2, "eve", "c", &pulled(1000, 1000), 2000),
    ];
    create_events(cluster, namespace, events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_needs_only_the_documented_role() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("audit");
    create_rollout(cluster, &namespace).await;
    let kubeconfig = account(&namespace, "reader", true).await;
    let report = audit(&kubeconfig, &["-n", &namespace.name, "-o", "json"]).json();
    let totals = json!({
        "formatVersion": 1, "namespace": namespace.name,
        "firstStart": "2026-11-21T10:01:53Z", "lastStart": "2026-11-21T10:05:16Z",
        // The role binding does not cover nodes.
        "nodes": {"count": 3, "listed": false},
        "starts": 4, "warmStarts": 1, "pulls": 3,
        "waitedSeconds": 48.0, "sparedSeconds": 16.0, "imageBytes": 3000,
        "notSparedSeconds": {"early": 32.0, "repeated": 0.0, "newNode": 0.0, "oneShot": 0.0, "notWarmed": 0.0, "deleted": 0.0, "remainder": 0.0},
    });
    for (field, expected) in totals.as_object().unwrap() {
        assert_eq!(&report[field], expected, "{field} of {report:#}");
    }
    let row = &report["workloads"][0];
    assert_eq!((&row["kind"], &row["name"]), (&json!("Deployment"), &json!("web")));
    assert_eq!(report["workloads"].as_array().unwrap().len(), 1);
    let notes = report["notes"].to_string();
    assert!(notes.contains("Listing nodes failed (not permitted)"), "{notes}");
    assert!(notes.contains("1 events are not about the image of a container"), "{notes}");
    let text = audit(&kubeconfig, &["-n", &namespace.name]).out;
    assert!(text.contains("Deployment/web   4        1      48.0s"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.contains("of which 16.0s would have been spared. An installation"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_audits_its_namespace() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("audit-plugin");
    create_rollout(cluster, &namespace).await;
    let plugin = Path::new(PROGRAM).with_file_name("kubectl-prewarm");
    assert!(plugin.is_file(), "run cargo build --workspace first");
    let run = |words: &[&str]| -> Ended {
        let mut command = Command::new(&plugin);
        let command = command.env("KUBECONFIG", cluster.var("KUBECONFIG")).arg("audit");
        command.args(["-n", &namespace.name]).args(words).output().unwrap().into()
    };
    let report = run(&["-o", "json"]).json();
    assert_eq!((&report["waitedSeconds"], &report["starts"]), (&json!(48.0), &json!(4)));
    assert_eq!(report["nodes"]["listed"], true, "{report:#}");
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"], "").lines().count();
    assert_eq!(report["nodes"]["count"], nodes);
    assert!(run(&["-o", "yaml"]).out.contains("waitedSeconds: 48"));
    assert_eq!(run(&["-o", "name"]).code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_without_a_report_states_what_to_do() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("audit-none");
    let words = ["-n", namespace.name.as_str(), "-o", "json"];
    let reader = account(&namespace, "reader", true).await;
    let empty = audit(&reader, &words);
    assert_eq!((empty.code, empty.out.as_str()), (1, ""));
    assert!(empty.err.contains("keeps events for one hour"), "{}", empty.err);
    let other = account(&namespace, "other", false).await;
    let forbidden = audit(&other, &words);
    assert_eq!(forbidden.code, 1);
    let expected = format!("not permitted to list events in namespace {}", namespace.name);
    assert!(forbidden.err.contains(&expected), "{}", forbidden.err);
    let everywhere = audit(&reader, &[]);
    assert!(everywhere.err.contains("in all namespaces"), "{}", everywhere.err);
    assert_eq!(audit(&reader, &["--namespace", "No_Name"]).code, 2);
    assert_eq!(audit(&reader, &["--limit", "0"]).code, 2);
    let mut down: Value = serde_json::from_str(&std::fs::read_to_string(&reader).unwrap()).unwrap();
    down["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", free_address()));
    let file = format!("{reader}-down");
    std::fs::write(&file, down.to_string()).unwrap();
    let unreachable = audit(&file, &words);
    assert_eq!(unreachable.code, 1);
    assert!(unreachable.err.contains("check the API server"), "{}", unreachable.err);
}
