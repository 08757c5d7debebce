//! Which nodes exist and which are eligible. *Pure.*
//!
//! In: Node objects, reduced to [`Facts`]; what a task asks of nodes. Out: for
//! each node whether it matches, and if so whether it can be warmed now. May call
//! `egress` (which networks are a node's) and `image`.

mod affinity;
mod facts;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Taint, Toleration};

pub use facts::{Facts, Interner, Labels, Version, bytes, millis};

/// What a task asks of nodes, in the words of a pod spec.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demand {
    /// Labels that a node must carry.
    pub node_selector: BTreeMap<String, String>,
    /// Required affinity: one term must match.
    pub node_affinity: Option<NodeSelector>,
    /// Accepted taints.
    pub tolerations: Vec<Toleration>,
}

/// Why a node that matches is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// Its `Ready` condition is not `True`.
    NotReady,
    /// Cordoned.
    Unschedulable,
    /// It reports `DiskPressure`.
    DiskPressure,
    /// It reports `MemoryPressure`.
    MemoryPressure,
    /// It reports `PIDPressure`.
    PidPressure,
    /// A taint that the task does not tolerate.
    Tainted,
    /// Not a Linux node.
    OperatingSystem,
}

impl Ignored {
    /// The word that the task's status shows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "NotReady",
            Self::Unschedulable => "Unschedulable",
            Self::DiskPressure => "DiskPressure",
            Self::MemoryPressure => "MemoryPressure",
            Self::PidPressure => "PIDPressure",
            Self::Tainted => "Tainted",
            Self::OperatingSystem => "OperatingSystem",
        }
    }
}

impl Demand {
    /// Whether the node is one that the task speaks of: labels and affinity.
    #[must_use]
    pub fn matches(&self, node: &Facts) -> bool {
        self.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value.as_str()))
            && self.node_affinity.as_ref().is_none_or(|affinity| affinity::matches(affinity, node))
    }

    /// Why the node cannot be warmed now, if so.
    #[must_use]
    pub fn obstacle(&self, node: &Facts) -> Option<Ignored> {
        if !node.os.is_empty() && &*node.os != "linux" {
            return Some(Ignored::OperatingSystem);
        }
        if !node.ready {
            return Some(Ignored::NotReady);
        }
        if node.unschedulable {
            return Some(Ignored::Unschedulable);
        }
        if let Some(pressure) = node.pressure {
            return Some(pressure);
        }
        node.taints.iter().any(|taint| !self.tolerates(taint)).then_some(Ignored::Tainted)
    }

    /// As the scheduler's `TaintToleration`: `PreferNoSchedule` never excludes.
    fn tolerates(&self, taint: &Taint) -> bool {
        taint.effect == "PreferNoSchedule" || self.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    }
}

/// A toleration without key and with `Exists` tolerates every taint; without an effect, every effect.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = text(&toleration.key);
    let exists = toleration.operator.as_deref() == Some("Exists");
    if key.is_empty() {
        return exists;
    }
    key == taint.key && (exists || text(&toleration.value) == text(&taint.value))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn node(change: &Value) -> Facts {
        let mut object = json!({
            "metadata": {"name": "n1", "labels": {"zone": "a", "cpus": "8"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                       "nodeInfo": {"operatingSystem": "linux", "kubeletVersion": "v1.36.3", "containerRuntimeVersion": "containerd://2.2.1"}}
        });
        merge(&mut object, change);
        Facts::new(&serde_json::from_value(object).unwrap(), &Interner::default())
    }

    fn merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from.clone(),
        }
    }

    #[rstest]
    #[case(json!({}), None)]
    #[case(json!({"spec": {"unschedulable": true}}), Some(Ignored::Unschedulable))]
    #[case(json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}), Some(Ignored::NotReady))]
    #[case(json!({"status": {"conditions": []}}), Some(Ignored::NotReady))]
    #[case(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]}}), Some(Ignored::DiskPressure))]
    #[case(json!({"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}}), Some(Ignored::Tainted))]
    #[case(json!({"spec": {"taints": [{"key": "gpu", "effect": "PreferNoSchedule"}]}}), None)]
    #[case(json!({"status": {"nodeInfo": {"operatingSystem": "windows"}}}), Some(Ignored::OperatingSystem))]
    fn obstacles(#[case] change: Value, #[case] expected: Option<Ignored>) {
        assert_eq!(Demand::default().obstacle(&node(&change)), expected);
    }

    #[rstest]
    #[case(json!([{"key": "gpu", "operator": "Exists"}]), true)]
    #[case(json!([{"operator": "Exists"}]), true)]
    #[case(json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]), true)]
    #[case(json!([{"key": "gpu", "value": "no"}]), false)]
    #[case(json!([{"key": "gpu", "value": "yes", "effect": "NoExecute"}]), false)]
    #[case(json!([{"key": "other", "operator": "Exists"}]), false)]
    fn tolerating(#[case] tolerations: Value, #[case] fits: bool) {
        let tainted = node(&json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}));
        let demand = Demand { tolerations: serde_json::from_value(tolerations).unwrap(), ..Demand::default() };
        assert_eq!(demand.obstacle(&tainted).is_none(), fits);
    }

    #[rstest]
    #[case(json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}), true)]
    #[case(json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}), false)]
    #[case(json!({"matchExpressions": [{"key": "absent", "operator": "NotIn", "values": ["a"]}]}), true)]
    #[case(json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}, {"key": "absent", "operator": "DoesNotExist"}]}), true)]
    #[case(json!({"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["4"]}]}), true)]
    #[case(json!({"matchExpressions": [{"key": "cpus", "operator": "Lt", "values": ["8"]}]}), false)]
    #[case(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true)]
    #[case(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), false)]
    #[case(json!({}), false)]
    fn affinity(#[case] term: Value, #[case] fits: bool) {
        let affinity = serde_json::from_value(json!({"nodeSelectorTerms": [term]})).unwrap();
        let demand = Demand { node_affinity: Some(affinity), ..Demand::default() };
        assert_eq!(demand.matches(&node(&json!({}))), fits);
    }

    #[rstest]
    #[case("v1.36.3", "containerd://2.2.1", true)]
    #[case("v1.35.0-eks-1", "containerd://2.1.0", true)]
    #[case("v1.35.0", "cri-o://1.33.0", true)]
    #[case("v1.34.9", "containerd://2.2.1", false)]
    #[case("v1.36.0", "containerd://1.7.27", false)]
    #[case("v1.36.0", "docker://28.0.0", false)]
    #[case("", "", false)]
    fn image_volumes(#[case] kubelet: &str, #[case] runtime: &str, #[case] fits: bool) {
        let change = json!({"status": {"nodeInfo": {"kubeletVersion": kubelet, "containerRuntimeVersion": runtime}}});
        assert_eq!(node(&change).mounts_image_volumes(), fits);
    }
}
