//! Comparison of the fleet simulator with a real kubelet: the same pods on a simulated and on a real
//! node have the same Events and go through the same statuses.
//!
//! Durations, sizes, addresses, digests and UIDs differ and are replaced. Statuses are compared as the
//! sequence of distinct ones: how often a kubelet repeats a failed pull depends on its random pauses.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, PodStatus};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event as WatchEvent, watcher},
    },
};
use prewarmer_effect::connect::{
    nodes::{Machine, node_name},
    registration::create_nodes,
    run::Run,
};
use prewarmer_fleet::{
    Fleet, NodeSettings, SimTime,
    api::RUN_TIME_ANNOTATION,
    image::{Catalog, CatalogSettings, LayerSize},
    registry::{Failure, FailureRule, Registries, RegistrySettings},
};
use prewarmer_test_support::{cluster::Cluster, namespace::Namespace};
use regex_lite::Regex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::TestCluster;

/// Time in which a pod starts, or its kubelet has repeated a failed pull and its back-off: two
/// synchronizations after up to 15 s each, and the pulls on a busy machine.
const SETTLING: Duration = Duration::from_secs(60);
/// Time until a deleted pod is gone.
const REMOVAL: Duration = Duration::from_secs(60);
/// Time after the last removal in which Events arrive. Their recorders write them asynchronously.
const LATE_EVENTS: Duration = Duration::from_secs(3);
/// Name of the real node.
const REAL_NODE: &str = "real1";
/// Pod whose container ends by itself.
const ENDING_POD: &str = "i-end";
/// Container of each pod.
const CONTAINER: &str = "main";

/// What kubelets report about the pods of a namespace, by name of the pod.
#[derive(Debug, Default)]
struct Reports {
    /// Distinct statuses, in the order of their first appearance.
    statuses: BTreeMap<String, Vec<String>>,
    /// Events in the order of their creation, by name of the Event, and whether they are repeated.
    events: BTreeMap<String, Vec<(String, String, bool)>>,
}

impl Reports {
    fn add_pod(&mut self, event: WatchEvent<Pod>) {
        match event {
            WatchEvent::Apply(pod) | WatchEvent::InitApply(pod) => {
                let name = pod.name_any();
                // The API server creates a pod without a status of its kubelet.
                if let Some(status) = pod.status.filter(|status| status.start_time.is_some()) {
                    let line = status_line(&status);
                    let lines = self.statuses.entry(name).or_default();
                    if !lines.contains(&line) {
                        lines.push(line);
                    }
                }
            }
            WatchEvent::Delete(_) | WatchEvent::Init | WatchEvent::InitDone => {}
        }
    }

    fn add_event(&mut self, event: &Event) {
        let of_kubelet = event.source.as_ref().and_then(|source| source.component.as_deref());
        if of_kubelet != Some("kubelet") {
            return;
        }
        let pod = event.involved_object.name.clone().unwrap_or_default();
        let name = event.name_any();
        let line = format!(
            "{} {}{}: {}",
            event.type_.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
            event
                .involved_object
                .field_path
                .as_deref()
                .map_or(String::new(), |path| format!(" {path}")),
            normalized(event.message.as_deref().unwrap_or_default(), &pod),
        );
        let is_repeated = event.count.unwrap_or(1) > 1;
        let events = self.events.entry(pod).or_default();
        match events.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, known, repeated)) => (*known, *repeated) = (line, is_repeated),
            None => events.push((name, line, is_repeated)),
        }
    }

    /// Reports whether a pod has reached a phase, or all of its Events are repeated.
    fn is_settled(&self, pod: &str, phase: &str) -> bool {
        let reached = |lines: &Vec<String>| lines.iter().any(|line| line.starts_with(phase));
        let repeated = |events: &Vec<(String, String, bool)>| events.iter().all(|event| event.2);
        self.statuses.get(pod).is_some_and(reached) || self.events.get(pod).is_some_and(repeated)
    }

    /// Returns the statuses of a pod. It depends on when a kubelet looks at its containers whether it
    /// sees one run that ends after some milliseconds.
    fn statuses(&self, pod: &str) -> Vec<&str> {
        let is_short = |line: &&str| {
            line.contains("first: running")
                || pod == ENDING_POD && line.contains(&format!("{CONTAINER}: running"))
        };
        let all = self.statuses.get(pod).into_iter().flatten().map(String::as_str);
        all.filter(|line| !is_short(line)).collect()
    }

    /// Returns the Events of a pod. It depends on when a kubelet looks at its containers whether it
    /// synchronizes a started pod with an image volume once or twice.
    fn events(&self, pod: &str) -> Vec<String> {
        let all = self.events.get(pod).into_iter().flatten();
        all.map(|(_, line, is_repeated)| {
            let is_of_volume = line.starts_with("Normal Pulled: ");
            let is_repeated = *is_repeated && !is_of_volume;
            format!("{line}{}", if is_repeated { " (repeated)" } else { "" })
        })
        .collect()
    }

    /// Reports whether a simulated kubelet has reported about a pod what this real one has. A busy
    /// kubelet writes only the latest of two statuses that follow at once.
    fn agrees_with(&self, simulated: &Self, pod: &str) -> bool {
        let (real, simulated_statuses) = (self.statuses(pod), simulated.statuses(pod));
        let mut rest = simulated_statuses.iter();
        let in_order = real.iter().all(|line| rest.any(|other| other == line));
        in_order
            && real.last() == simulated_statuses.last()
            && simulated_statuses.len() <= real.len() + 1
            && self.events(pod) == simulated.events(pod)
    }

    /// Returns the reports about a pod as text.
    fn of(&self, pod: &str) -> String {
        let statuses = self.statuses(pod).into_iter().map(|line| format!("status: {line}"));
        let events = self.events(pod).into_iter().map(|line| format!("event: {line}"));
        statuses.chain(events).collect::<Vec<_>>().join("\n")
    }
}

/// Replaces what differs from one node or run to another.
fn normalized(text: &str, pod: &str) -> String {
    static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
            (r"sha256:[0-9a-f]{64}", "DIGEST"),
            (r"\b([0-9.]+(ms|s|m))+\b", "DURATION"),
            (r"Image size: [0-9]+ bytes", "Image size: SIZE bytes"),
        ]
        .map(|(pattern, replacement)| (Regex::new(pattern).unwrap(), replacement))
        .into()
    });
    RULES.iter().fold(text.replace(pod, "POD"), |text, (pattern, replacement)| {
        pattern.replace_all(&text, *replacement).into_owned()
    })
}

fn status_line(status: &PodStatus) -> String {
    let conditions = status.conditions.iter().flatten();
    let holding: BTreeSet<&str> =
        conditions.filter(|one| one.status == "True").map(|one| one.type_.as_str()).collect();
    let containers = status.init_container_statuses.iter().flatten();
    let containers = containers.chain(status.container_statuses.iter().flatten());
    format!(
        "{}{} {:?} {}",
        status.phase.as_deref().unwrap_or_default(),
        status.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})")),
        holding,
        containers.map(container_line).collect::<Vec<_>>().join(", "),
    )
}

fn container_line(status: &ContainerStatus) -> String {
    let state = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        let state = state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            let message = waiting.message.as_deref().unwrap_or_default();
            let reason = waiting.reason.as_deref().unwrap_or_default();
            return Some(format!("waiting {reason} {:?}", normalized(message, "\0")));
        }
        if state.running.is_some() {
            return Some("running".to_owned());
        }
        let end = state.terminated.as_ref()?;
        Some(format!("{} {}", end.reason.as_deref().unwrap_or_default(), end.exit_code))
    };
    format!(
        "{}: {}{}{}{}",
        status.name,
        state(&status.state).unwrap_or_default(),
        state(&status.last_state).map_or(String::new(), |last| format!(" after {last}")),
        if status.ready { " ready" } else { "" },
        if status.restart_count > 0 { " restarted" } else { "" },
    )
}

/// Records what is reported about the pods of a namespace until the handle is aborted.
fn record(pods: Api<Pod>, events: Api<Event>, reports: &Arc<Mutex<Reports>>) -> JoinHandle<()> {
    let reports = Arc::clone(reports);
    tokio::spawn(async move {
        let mut pods = std::pin::pin!(watcher(pods, Config::default()).default_backoff());
        let mut events =
            std::pin::pin!(watcher(events, Config::default()).default_backoff().applied_objects());
        loop {
            tokio::select! {
                Some(Ok(event)) = pods.next() => reports.lock().unwrap().add_pod(event),
                Some(Ok(event)) = events.next() => reports.lock().unwrap().add_event(&event),
            }
        }
    })
}

/// Returns the pods and the fields of their specs. The program of `app` runs until it is stopped, that
/// of `ending` ends at once; `absent` does not exist.
fn scenarios(app: &str, ending: &str, absent: &str, data: &str) -> Vec<(&'static str, Value)> {
    let container = |image: &str, policy: &str| json!([{"name": CONTAINER, "image": image, "imagePullPolicy": policy}]);
    let mounting = json!([{"name": CONTAINER, "image": app, "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]);
    let volume =
        json!([{"name": "data", "image": {"reference": data, "pullPolicy": "IfNotPresent"}}]);
    let ended = |name: &str| json!([{"name": name, "image": ending, "imagePullPolicy": "IfNotPresent", "args": ["ok"]}]);
    vec![
        ("a-pull", json!({"containers": container(app, "IfNotPresent")})),
        ("b-warm", json!({"containers": container(app, "IfNotPresent")})),
        ("c-always", json!({"containers": container(app, "Always")})),
        ("d-missing", json!({"containers": container(absent, "IfNotPresent")})),
        ("e-never", json!({"containers": container(absent, "Never")})),
        ("f-invalid", json!({"containers": container("registry.example/UPPER:1", "IfNotPresent")})),
        ("g-volume", json!({"containers": mounting, "volumes": volume})),
        (
            "h-init",
            json!({"initContainers": ended("first"), "containers": container(app, "IfNotPresent")}),
        ),
        (ENDING_POD, json!({"containers": ended(CONTAINER)})),
    ]
}

/// Node with the namespace of its pods and what is reported about them.
struct Side {
    node: String,
    namespace: Namespace,
    reports: Arc<Mutex<Reports>>,
}

/// Runs a pod: creates it, waits until it has started, has ended or has failed repeatedly, and deletes
/// it.
async fn run_pod(side: &Side, pods: &Api<Pod>, name: &str, spec: &Value) {
    let ends = name == ENDING_POD;
    let run_time = |container: &str| format!("{RUN_TIME_ANNOTATION}.{container}");
    let annotations = json!({
        run_time("first"): "0.1",
        run_time(CONTAINER): if ends { "0.1" } else { "3600" },
    });
    let mut pod = json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
    pod["spec"]["nodeName"] = json!(side.node);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["dnsPolicy"] = json!("Default");
    pod["spec"]["automountServiceAccountToken"] = json!(false);
    let pod: Pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let is_settled = || async {
        side.reports
            .lock()
            .unwrap()
            .is_settled(name, if ends { "Succeeded" } else { "Running" })
            .then_some(())
    };
    side.namespace.eventually(&format!("start of pod {name}"), SETTLING, is_settled).await;
    // The kubelet reports its last status of the start at the next look at the containers.
    tokio::time::sleep(Duration::from_secs(2)).await;
    pods.delete(name, &DeleteParams::default().grace_period(1)).await.unwrap();
    let gone = || async { pods.get_opt(name).await.unwrap().is_none().then_some(()) };
    side.namespace.eventually(&format!("removal of pod {name}"), REMOVAL, gone).await;
}

/// Runs the pods of all scenarios: the first one, which pulls the image of others, then all
/// others but the last at the same time, then the last, whose image one of them has pulled.
async fn run_pods(side: &Side, scenarios: &[(&'static str, Value)]) {
    let namespace = &side.namespace;
    let pods = Api::<Pod>::namespaced(namespace.cluster.client().await, &namespace.name);
    let run = |(name, spec): &(&'static str, Value)| {
        let (pods, name, spec) = (pods.clone(), *name, spec.clone());
        async move { run_pod(side, &pods, name, &spec).await }
    };
    let [first, middle @ .., last] = scenarios else { panic!("too few scenarios") };
    run(first).await;
    futures::future::join_all(middle.iter().map(run)).await;
    run(last).await;
}

/// Returns a fleet with one node, whose registry has these images of one small layer and no other.
fn fleet(images: &[&str], absent: &str) -> (Fleet, prewarmer_fleet::NodeId) {
    let mut catalog = Catalog::new(1, CatalogSettings::default());
    for image in images {
        let layer = LayerSize { compressed: 1_000_000, unpacked: 2_000_000 };
        catalog.insert(&image.parse().unwrap(), &[layer]);
    }
    let absent: prewarmer_api::image::ImageRef = absent.parse().unwrap();
    let registry = RegistrySettings {
        failures: vec![FailureRule {
            repository_prefix: absent.repository().to_owned(),
            failure: Failure::NotFound,
            from: SimTime::ZERO,
            until: SimTime::from_secs(u64::from(u32::MAX)),
        }],
        ..RegistrySettings::new("")
    };
    let mut fleet = Fleet::new(1, catalog, Registries::new(registry));
    let node = fleet.add_node(NodeSettings::default());
    (fleet, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_node_reports_what_a_real_one_does() {
    let test = "a_simulated_node_reports_what_a_real_one_does";
    let cluster = Cluster::dedicated_with_real_node();
    let Some(registry) = cluster.registry(test) else { return };
    let [app, data, absent] =
        ["app:1", "data:1", "absent:1"].map(|name| format!("{registry}/{name}"));
    cluster.push(&app, &Path::new(cluster.var("BIN")).join("pause"), true);
    cluster.push_data(&data);
    let ending = cluster.push_helper(registry);
    let client = cluster.client().await;
    let (fleet, node) = fleet(&[&app, &ending, &data], &absent);
    let failures = create_nodes(&client, [(node_name(0), Machine::default())]).await;
    assert_eq!(failures.count(), 0, "{:?}", failures.last());
    let (run, handle) = Run::new(client.clone(), fleet, [(node, node_name(0))], 1);
    let simulation = tokio::spawn(run.run());
    let scenarios = scenarios(&app, &ending, &absent, &data);
    let sides = [("real", REAL_NODE.to_owned()), ("simulated", node_name(0))];
    let sides = sides.map(|(prefix, node)| Side {
        node,
        namespace: cluster.namespace(prefix),
        reports: Arc::default(),
    });
    let recorders = sides.each_ref().map(|side| {
        let pods = Api::namespaced(client.clone(), &side.namespace.name);
        let events = Api::namespaced(client.clone(), &side.namespace.name);
        record(pods, events, &side.reports)
    });
    let [real, simulated] = &sides;
    tokio::join!(run_pods(real, &scenarios), run_pods(simulated, &scenarios));
    tokio::time::sleep(LATE_EVENTS).await;
    recorders.iter().for_each(JoinHandle::abort);
    drop(handle);
    let (_, figures) = simulation.await.unwrap().unwrap();
    assert_eq!(figures.writes.failed.count(), 0, "{:?}", figures.writes.failed.last());
    let [real, simulated] = [real, simulated].map(|side| side.reports.lock().unwrap());
    let differences: Vec<String> = scenarios
        .iter()
        .filter(|(pod, _)| !real.agrees_with(&simulated, pod))
        .map(|(pod, _)| {
            let (real, simulated) = (real.of(pod), simulated.of(pod));
            format!("== {pod}\n-- real kubelet\n{real}\n-- simulated kubelet\n{simulated}")
        })
        .collect();
    assert_eq!(real.events.len(), scenarios.len(), "{real:#?}");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
