//! Node objects of the fleet.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
    jiff::Timestamp,
};
use prewarmer_fleet::{api::disk_pressure_condition, pod::Taint};

/// Label of the nodes of the fleet.
pub const FLEET_LABEL: (&str, &str) = ("type", "fleet");
/// Label with the zone of a node.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Version that the nodes report.
const KUBELET_VERSION: &str = "v1.36.3";

/// Machine of a node, as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Zone, such as `a`.
    pub zone: String,
    /// Additional labels.
    pub labels: BTreeMap<String, String>,
    /// Processors.
    pub cpus: u32,
    /// Memory, in GiB.
    pub memory: u32,
    /// Devices of the resource `nvidia.com/gpu`.
    pub gpus: u32,
    /// Maximum number of pods.
    pub pods: u32,
    /// Capacity of the disk, in bytes.
    pub disk: u64,
    /// True if the node is created cordoned, so that it gets only pods that name it.
    pub is_unschedulable: bool,
}

impl Default for Machine {
    /// Returns a machine with 16 processors, 64 GiB of memory and a disk of 100 GB in zone `a`
    /// (assumptions), and the kubelet's default of 110 pods.
    fn default() -> Self {
        Self {
            zone: "a".to_owned(),
            labels: BTreeMap::new(),
            cpus: 16,
            memory: 64,
            gpus: 0,
            pods: 110,
            disk: 100_000_000_000,
            is_unschedulable: false,
        }
    }
}

/// Returns the name of the node with this position, from 0: `fleet-0001` and so on.
#[must_use]
pub fn node_name(position: usize) -> String {
    format!("fleet-{:04}", position.saturating_add(1))
}

/// Returns a node as its kubelet registers it: ready, without images.
#[must_use]
pub fn node_object(name: &str, machine: &Machine, now: Timestamp) -> Node {
    let mut labels = machine.labels.clone();
    let standard = [
        (FLEET_LABEL.0, FLEET_LABEL.1),
        (ZONE_LABEL, &machine.zone),
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
    ];
    labels.extend(standard.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let mut resources = BTreeMap::from([
        ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
        ("memory".to_owned(), Quantity(format!("{}Gi", machine.memory))),
        ("pods".to_owned(), Quantity(machine.pods.to_string())),
        ("ephemeral-storage".to_owned(), Quantity(machine.disk.to_string())),
    ]);
    if machine.gpus > 0 {
        resources.insert("nvidia.com/gpu".to_owned(), Quantity(machine.gpus.to_string()));
    }
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: machine
            .is_unschedulable
            .then(|| NodeSpec { unschedulable: Some(true), ..NodeSpec::default() }),
        status: Some(NodeStatus {
            capacity: Some(resources.clone()),
            allocatable: Some(resources),
            conditions: Some(vec![ready_condition(now), disk_pressure_condition(false, now, now)]),
            addresses: Some(vec![NodeAddress {
                type_: "Hostname".to_owned(),
                address: name.to_owned(),
            }]),
            node_info: Some(NodeSystemInfo {
                architecture: "amd64".to_owned(),
                operating_system: "linux".to_owned(),
                kubelet_version: KUBELET_VERSION.to_owned(),
                container_runtime_version: "containerd://2.2.1".to_owned(),
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        }),
    }
}

fn ready_condition(now: Timestamp) -> NodeCondition {
    NodeCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        reason: Some("KubeletReady".to_owned()),
        message: Some("kubelet is posting ready status".to_owned()),
        last_transition_time: Some(Time(now)),
        last_heartbeat_time: Some(Time(now)),
    }
}

/// Returns the taints of a node with the effect `NoExecute`.
#[must_use]
pub fn no_execute_taints(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    let taints = taints.filter(|taint| taint.effect == "NoExecute");
    let read = |taint: &k8s_openapi::api::core::v1::Taint| Taint {
        key: taint.key.clone(),
        value: taint.value.clone().unwrap_or_default(),
    };
    taints.map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_node_has_what_scheduler_and_prewarmer_read() {
        let machine = Machine {
            zone: "b".into(),
            gpus: 8,
            labels: BTreeMap::from([("pool".into(), "gpu".into())]),
            ..Machine::default()
        };
        let node = serde_json::to_value(node_object("fleet-0001", &machine, Timestamp::UNIX_EPOCH));
        let node = node.unwrap();
        assert_eq!(node["metadata"]["labels"]["pool"], "gpu");
        assert_eq!(node["metadata"]["labels"][ZONE_LABEL], "b");
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "fleet-0001");
        assert_eq!(node["status"]["allocatable"]["nvidia.com/gpu"], "8");
        assert_eq!(node["status"]["allocatable"]["memory"], "64Gi");
        assert_eq!(node["status"]["conditions"][0]["type"], "Ready");
        assert_eq!(node["status"]["conditions"][1]["status"], "False");
        assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], KUBELET_VERSION);
        assert_eq!(node["spec"], serde_json::Value::Null);
    }

    #[test]
    fn a_cordoned_node_is_unschedulable() {
        let machine = Machine { is_unschedulable: true, ..Machine::default() };
        let node = node_object("fleet-0001", &machine, Timestamp::UNIX_EPOCH);
        assert_eq!(node.spec.unwrap().unschedulable, Some(true));
    }

    #[test]
    fn names_are_sorted_like_positions() {
        assert_eq!(node_name(0), "fleet-0001");
        assert_eq!(node_name(999), "fleet-1000");
    }

    #[test]
    fn only_taints_that_end_pods_are_read() {
        let taints = json!([
            {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"},
        ]);
        let node: Node = from_value(json!({"metadata": {}, "spec": {"taints": taints}})).unwrap();
        let expected =
            Taint { key: "node.kubernetes.io/out-of-service".into(), value: String::new() };
        assert_eq!(no_execute_taints(&node), [expected]);
        assert_eq!(no_execute_taints(&Node::default()), []);
    }
}
