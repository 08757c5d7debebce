//! State of a run between two events: the fleet, and what is known about the cluster.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use kube::{ResourceExt, runtime::watcher::Event};
use prewarmer_fleet::{
    Fleet, FleetError, Input, NodeId, Output, PodStart, SimTime, api::Clock, pod::Taint,
};
use tokio::time::Instant;

use super::{
    failures::Failures,
    nodes::no_execute_taints,
    pods::PodTracker,
    writes::{Translator, Write},
};

/// Longest sleep while nothing is due.
const IDLE: Duration = Duration::from_secs(60);
/// Starts of pods that are kept, with 40 bytes each: 40 MB.
const MAX_STARTS: usize = 1_000_000;

/// Observations of the simulation.
#[derive(Debug, Default)]
pub struct SimulationFigures {
    /// Starts of pods in order, at most a million.
    pub starts: Vec<PodStart>,
    /// Starts in excess of this number.
    pub dropped_starts: u64,
    /// Pods of workloads that were bound to a node of the fleet.
    pub bound_workload_pods: u64,
    /// Pods that could not be read.
    pub unreadable_pods: Failures,
    /// Inputs that the fleet rejected.
    pub rejected_inputs: Failures,
    /// Longest simulated time from the point at which an event of the fleet was due until it was
    /// handled.
    pub longest_lag: Duration,
}

/// Fleet with the names of its nodes, and the pods and taints that watches have delivered.
pub(super) struct Simulation {
    pub(super) fleet: Fleet,
    /// Numbers of the nodes by name.
    numbers: BTreeMap<String, NodeId>,
    /// Names of the nodes by number.
    names: BTreeMap<NodeId, String>,
    clock: Clock,
    tracker: PodTracker,
    /// Taints with the effect `NoExecute` by node.
    taints: BTreeMap<NodeId, Vec<Taint>>,
    translator: Translator,
    pub(super) figures: SimulationFigures,
}

impl Simulation {
    /// Creates the state of a fleet whose nodes have these names.
    pub(super) fn new(fleet: Fleet, names: BTreeMap<NodeId, String>, clock: Clock) -> Self {
        Self {
            fleet,
            numbers: names.iter().map(|(id, name)| (name.clone(), *id)).collect(),
            names,
            clock,
            tracker: PodTracker::default(),
            taints: BTreeMap::new(),
            translator: Translator::new(clock),
            figures: SimulationFigures::default(),
        }
    }

    /// Lets time pass until now, and returns what the kubelets have reported.
    pub(super) fn advance(&mut self) -> Vec<Output> {
        let now = self.now();
        if let Some(due) = self.fleet.next_event() {
            self.figures.longest_lag = self.figures.longest_lag.max(now.since(due));
        }
        let outputs = self.fleet.advance(now);
        for start in self.fleet.take_starts() {
            if self.figures.starts.len() < MAX_STARTS {
                self.figures.starts.push(start);
            } else {
                self.figures.dropped_starts = self.figures.dropped_starts.saturating_add(1);
            }
        }
        outputs
    }

    /// Returns the time at which the next event of the fleet is due.
    pub(super) fn wake(&mut self) -> Instant {
        let wait = self.fleet.next_event().map_or(IDLE, |due| {
            let at = self.clock.timestamp(due).duration_since(Timestamp::now());
            Duration::try_from(at).unwrap_or(Duration::ZERO)
        });
        let now = Instant::now();
        now.checked_add(wait.min(IDLE)).unwrap_or(now)
    }

    /// Gives the fleet an input now.
    pub(super) fn input(&mut self, input: Input) -> Result<Vec<Output>, FleetError> {
        let now = self.now();
        self.fleet.handle(input, now)
    }

    /// Handles an event of the watch of pods. A pod that cannot be read is counted.
    pub(super) fn pod(&mut self, event: Event<Pod>) -> Vec<Output> {
        let numbers = &self.numbers;
        match self.tracker.observe(event, |name| numbers.get(name).copied()) {
            Ok(inputs) => self.inputs(inputs),
            Err(error) => {
                self.figures.unreadable_pods.add(&format!("a pod was not simulated: {error}"));
                Vec::new()
            }
        }
    }

    /// Handles an event of the watch of nodes.
    pub(super) fn node(&mut self, node: &Node) -> Vec<Output> {
        let Some(id) = self.numbers.get(&node.name_any()).copied() else {
            return Vec::new();
        };
        let taints = no_execute_taints(node);
        let before = self.taints.entry(id).or_default();
        if *before == taints {
            return Vec::new();
        }
        before.clone_from(&taints);
        self.inputs(vec![Input::NodeTainted { node: id, taints }])
    }

    /// Returns the request for a report; none for a node without a name.
    pub(super) fn translate(&mut self, output: &Output) -> Option<Write> {
        let name = self.names.get(&output.node)?;
        Some(self.translator.translate(output, name))
    }

    /// Gives the fleet inputs. A rejected one is counted.
    fn inputs(&mut self, inputs: Vec<Input>) -> Vec<Output> {
        let mut outputs = Vec::new();
        for input in inputs {
            let is_workload = matches!(&input, Input::PodBound { pod, .. } if pod.is_workload);
            match self.input(input) {
                Ok(reports) => {
                    outputs.extend(reports);
                    let bound = self.figures.bound_workload_pods.saturating_add(is_workload.into());
                    self.figures.bound_workload_pods = bound;
                }
                Err(error) => {
                    self.figures.rejected_inputs.add(&format!("an event had no effect: {error}"));
                }
            }
        }
        outputs
    }

    fn now(&self) -> SimTime {
        self.clock.sim_time(Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use prewarmer_fleet::{
        NodeSettings,
        image::{Catalog, CatalogSettings},
        registry::{Registries, RegistrySettings},
    };
    use serde_json::{Value, from_value, json};

    use super::*;

    fn simulation() -> Simulation {
        let catalog = Catalog::new(1, CatalogSettings::default());
        let mut fleet = Fleet::new(1, catalog, Registries::new(RegistrySettings::new("")));
        let node = fleet.add_node(NodeSettings::default());
        let clock = Clock { epoch: Timestamp::now(), acceleration: 1 };
        Simulation::new(fleet, BTreeMap::from([(node, "fleet-0001".to_owned())]), clock)
    }

    fn pod(uid: &str, metadata: &Value) -> Event<Pod> {
        let mut object = json!({
            "metadata": {"namespace": "shop", "name": uid, "uid": uid},
            "spec": {"nodeName": "fleet-0001", "containers": [{"name": "a", "image": "a:1"}]},
        });
        for (key, value) in metadata.as_object().into_iter().flatten() {
            object["metadata"][key] = value.clone();
        }
        Event::Apply(from_value(object).unwrap())
    }

    #[tokio::test]
    async fn one_bad_object_is_one_failed_object() {
        let mut simulation = simulation();
        simulation.pod(pod("a", &json!({"name": null})));
        simulation.pod(pod("b", &json!({})));
        let figures = &simulation.figures;
        assert_eq!(figures.unreadable_pods.count(), 1);
        assert_eq!(figures.bound_workload_pods, 1);
        assert!(simulation.wake() <= Instant::now() + IDLE);
    }

    #[test]
    fn pods_of_prewarmer_are_no_workload() {
        let mut simulation = simulation();
        let labels = json!({"labels": {"app.kubernetes.io/managed-by": "prewarmer"}});
        simulation.pod(pod("a", &labels));
        assert_eq!(simulation.figures.bound_workload_pods, 0);
        assert_eq!(simulation.figures.rejected_inputs.count(), 0);
    }

    #[test]
    fn an_input_for_an_unknown_node_is_rejected_and_the_next_one_is_not() {
        let mut simulation = simulation();
        let unknown = Input::NodeStopped { node: NodeId(9) };
        assert_eq!(simulation.input(unknown), Err(FleetError::UnknownNode(NodeId(9))));
        assert!(simulation.input(Input::NodeStopped { node: NodeId(0) }).is_ok());
    }

    #[test]
    fn taints_of_an_object_that_did_not_change_have_no_effect() {
        let mut simulation = simulation();
        let taints = json!([{"key": "lost", "effect": "NoExecute"}]);
        let node = json!({"metadata": {"name": "fleet-0001"}, "spec": {"taints": taints}});
        let node: Node = from_value(node).unwrap();
        simulation.node(&node);
        simulation.node(&node);
        assert_eq!(simulation.taints[&NodeId(0)].len(), 1);
        simulation.node(&from_value(json!({"metadata": {"name": "other"}})).unwrap());
        assert_eq!(simulation.taints.len(), 1);
    }
}
