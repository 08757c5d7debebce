//! The simulated kubelet of tests/fleet next to the real one: the same pods must give the same
//! Events and the same sequence of statuses.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use prewarmer_effect::connect::{
    nodes::{Machine, node_name},
    registration::{create_nodes, delete_nodes},
    run::Run,
};
use prewarmer_fleet::{
    Fleet, NodeSettings, SimTime,
    image::{Catalog, CatalogSettings, LayerSize},
    registry::{Failure, FailureRule, Registries, RegistrySettings},
};
use prewarmer_test_support::{cluster::Cluster, namespace::Namespace};
use serde_json::{Value, json};

use crate::TestCluster;

/// Time in which a pod must reach the state that its case waits for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Pod of the comparison.
struct Case {
    name: &'static str,
    spec: Value,
    /// Text of the last status to wait for, a part of what [`summary`] returns.
    until: &'static str,
}

/// Returns the pods, in the order in which each node runs them.
fn cases(registry: &str, helper: &str) -> Vec<Case> {
    let app = format!("{registry}/fleet:app");
    let container = |image: &str| json!({"name": "app", "image": image});
    let one = |image: &str| json!({"containers": [container(image)]});
    let ok =
        |name: &str| json!({"name": name, "image": helper, "command": ["/prewarmer-helper", "ok"]});
    let always = json!({"name": "app", "image": app, "imagePullPolicy": "Always"});
    let never = json!({"name": "app", "image": format!("{registry}/fleet:never"), "imagePullPolicy": "Never"});
    let volume = json!({
        "containers": [{"name": "app", "image": app,
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "image": {"reference": format!("{registry}/fleet:data")}}],
    });
    let case = |name, spec, until| Case { name, spec, until };
    vec![
        case("cold", one(&app), "app Running"),
        case("warm", one(&app), "app Running"),
        case("always", json!({"containers": [always]}), "app Running"),
        case("absent", one(&format!("{registry}/absent:1")), "ImagePullBackOff"),
        case("never", json!({"containers": [never]}), "ErrImageNeverPull"),
        case("invalid", one("Not/An:Image:Name"), "InvalidImageName"),
        case(
            "once",
            json!({"restartPolicy": "Never", "initContainers": [ok("init")], "containers": [ok("app")]}),
            "Succeeded",
        ),
        case("volume", volume, "app Running"),
    ]
}

/// Returns the parts of a status that are compared, as one line.
fn summary(pod: &Value) -> String {
    let status = &pod["status"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let containers = |list: &str| -> Vec<String> {
        let all = status[list].as_array().cloned().unwrap_or_default();
        let state = |one: &Value| {
            let (kind, detail) = one["state"]
                .as_object()
                .and_then(|state| state.iter().next())
                .map_or(("none", Value::Null), |(kind, detail)| (kind.as_str(), detail.clone()));
            let shown = match kind {
                "waiting" => text(&detail["reason"]),
                "running" => "Running".to_owned(),
                _ => format!("{} {}", text(&detail["reason"]), detail["exitCode"]),
            };
            let ready = if one["ready"] == true { " ready" } else { "" };
            format!("{} {shown}{ready}", text(&one["name"]))
        };
        all.iter().map(state).collect()
    };
    let conditions: BTreeMap<String, String> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| (text(&one["type"]), text(&one["status"])))
        .collect();
    let conditions: Vec<String> = conditions
        .iter()
        .filter(|(_, value)| *value == "True")
        .map(|(kind, _)| kind.clone())
        .collect();
    format!(
        "{} [{}] {} {}",
        text(&status["phase"]),
        [containers("initContainerStatuses"), containers("containerStatuses")].concat().join(", "),
        conditions.join(" "),
        text(&status["reason"]),
    )
}

/// Replaces what differs from run to run: durations and sizes.
fn normalize(message: &str) -> String {
    let is_number = |word: &str| {
        let word = word.trim_matches(['(', ')', '.', ',']);
        !word.is_empty()
            && word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_digit() || ".hmsµu".contains(c))
    };
    let words = message.split(' ').map(|word| if is_number(word) { "N" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// What a kubelet reported about a pod.
#[derive(Debug, PartialEq)]
struct Report {
    statuses: Vec<String>,
    events: Vec<String>,
}

/// Runs a pod on a node until it has the expected status, deletes it, and returns what was reported.
async fn report(namespace: &Namespace, pods: &Api<Pod>, case: &Case, node: &str) -> Report {
    let name = format!("{}-{node}", case.name);
    let mut spec = case.spec.clone();
    spec["nodeName"] = json!(node);
    spec["terminationGracePeriodSeconds"] = json!(1);
    spec["tolerations"] = json!([{"operator": "Exists"}]);
    spec["automountServiceAccountToken"] = json!(false);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(watcher(pods.clone(), config));
    namespace.apply(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}),
    );
    let mut statuses: Vec<String> = Vec::new();
    let mut is_deleted = false;
    let observe = async {
        while let Some(event) = events.next().await {
            let pod = match event.expect("the watch of the pod") {
                Event::Apply(pod) | Event::InitApply(pod) => pod,
                Event::Delete(_) => break,
                Event::Init | Event::InitDone => continue,
            };
            let status = summary(&serde_json::to_value(&pod).unwrap());
            if statuses.last() != Some(&status) {
                statuses.push(status.clone());
            }
            if status.contains(case.until) && !is_deleted {
                is_deleted = true;
                namespace.kubectl(&["delete", "pod", &name, "--wait=false"], "");
            }
        }
    };
    let has_ended = tokio::time::timeout(TIMEOUT, observe).await.is_ok();
    assert!(has_ended, "{name} did not reach {:?} and its end: {statuses:#?}", case.until);
    Report { statuses, events: events_of(namespace, &name) }
}

/// Returns the Events of a pod in their order, each once.
fn events_of(namespace: &Namespace, pod: &str) -> Vec<String> {
    let mut events: Vec<Value> = namespace.get("events");
    events.retain(|event| event["involvedObject"]["name"] == pod);
    // The name ends with the time of the first occurrence, in nanoseconds.
    events.sort_by_key(|event| event["metadata"]["name"].as_str().unwrap().to_owned());
    let text = |event: &Value| {
        let path = event["involvedObject"]["fieldPath"].as_str().unwrap_or("-");
        let message = normalize(event["message"].as_str().unwrap());
        format!(
            "{} {} {path}: {message}",
            event["type"].as_str().unwrap(),
            event["reason"].as_str().unwrap()
        )
    };
    events.iter().map(text).collect()
}

/// Creates a fleet whose registry offers the images of the cases.
fn fleet(registry: &str, helper: &str) -> Fleet {
    let mut catalog = Catalog::new(1, CatalogSettings::default());
    let layer = LayerSize { compressed: 500_000, unpacked: 1_000_000 };
    for image in
        [format!("{registry}/fleet:app"), format!("{registry}/fleet:data"), helper.to_owned()]
    {
        catalog.insert(&image.parse().unwrap(), &[layer]);
    }
    let host = registry.split('/').next().unwrap();
    let mut settings = RegistrySettings::new(host);
    settings.failures.push(FailureRule {
        repository_prefix: "absent".into(),
        failure: Failure::NotFound,
        from: SimTime::ZERO,
        until: SimTime::MAX,
    });
    Fleet::new(1, catalog, Registries::new(settings))
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_and_real_kubelets_report_the_same() {
    let cluster = Cluster::shared();
    let Some(registry) = cluster.registry("simulated_and_real_kubelets_report_the_same") else {
        return;
    };
    let namespace = cluster.namespace("fleet");
    let helper = cluster.push_helper(registry);
    cluster.push(
        &format!("{registry}/fleet:app"),
        &Path::new(cluster.var("BIN")).join("pause"),
        true,
    );
    cluster.push_data(&format!("{registry}/fleet:data"));
    let client = cluster.client().await;
    let mut fleet = fleet(registry, &helper);
    let node = fleet.add_node(NodeSettings::default());
    // Cordoned, so that pods of other tests are not scheduled there.
    let machine = Machine { is_unschedulable: true, ..Machine::default() };
    let failed = create_nodes(&client, [(node_name(0), machine)]).await;
    assert_eq!(failed.last(), None);
    let (run, handle) = Run::new(client.clone(), fleet, [(node, node_name(0))], 1);
    let running = tokio::spawn(run.run());
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace.name);
    let mut differences = Vec::new();
    for case in cases(registry, &helper) {
        let real = report(&namespace, &pods, &case, "real1").await;
        let simulated = report(&namespace, &pods, &case, &node_name(0)).await;
        if real != simulated {
            differences.push(format!("{}: real {real:#?}\nsimulated {simulated:#?}", case.name));
        }
    }
    drop(handle);
    let (_, figures) = running.await.unwrap().unwrap();
    delete_nodes(&client).await.unwrap();
    assert_eq!(figures.writes.failed.last(), None);
    assert_eq!(figures.simulation.unreadable_pods.last(), None);
    assert_eq!(figures.simulation.rejected_inputs.last(), None);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
