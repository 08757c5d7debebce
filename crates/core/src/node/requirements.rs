//! Eligibility of a node for a task: labels, affinity, taints and conditions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Taint, Toleration};

use super::{affinity, ineligible::IneligibleReason, info::NodeInfo};

/// Requirements of a task for nodes, with the meaning of the same fields of a pod spec.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeRequirements {
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity; one term must match.
    pub node_affinity: Option<NodeSelector>,
    /// Tolerated taints.
    pub tolerations: Vec<Toleration>,
}

impl NodeRequirements {
    /// Reports whether the node matches the labels and the affinity.
    #[must_use]
    pub fn matches(&self, node: &NodeInfo) -> bool {
        self.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value.as_str()))
            && self.node_affinity.as_ref().is_none_or(|affinity| affinity::matches(affinity, node))
    }

    /// Returns the reason why the node is not eligible now, if any.
    #[must_use]
    pub fn ineligible(&self, node: &NodeInfo) -> Option<IneligibleReason> {
        if !node.os.is_empty() && &*node.os != "linux" {
            return Some(IneligibleReason::OperatingSystem);
        }
        if !node.ready {
            return Some(IneligibleReason::NotReady);
        }
        if node.unschedulable {
            return Some(IneligibleReason::Unschedulable);
        }
        if let Some(pressure) = node.pressure {
            return Some(pressure);
        }
        node.taints
            .iter()
            .any(|taint| !self.tolerates_taint(taint))
            .then_some(IneligibleReason::Tainted)
    }

    /// Reports whether a taint is tolerated. As in the scheduler's `TaintToleration`,
    /// `PreferNoSchedule` never excludes a node.
    fn tolerates_taint(&self, taint: &Taint) -> bool {
        taint.effect == "PreferNoSchedule"
            || self.tolerations.iter().any(|toleration| toleration_matches(toleration, taint))
    }
}

/// Reports whether the toleration matches the taint. Without a key and with `Exists` it matches
/// every taint; without an effect, every effect.
fn toleration_matches(toleration: &Toleration, taint: &Taint) -> bool {
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
    use crate::node::Interner;

    fn node(change: &Value) -> NodeInfo {
        let mut object = json!({
            "metadata": {"name": "n1", "labels": {"zone": "a", "cpus": "8"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                       "nodeInfo": {"operatingSystem": "linux", "kubeletVersion": "v1.36.3", "containerRuntimeVersion": "containerd://2.2.1"}}
        });
        merge(&mut object, change);
        NodeInfo::new(&serde_json::from_value(object).unwrap(), &Interner::default())
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
    #[case(json!({"spec": {"unschedulable": true}}), Some(IneligibleReason::Unschedulable))]
    #[case(json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}), Some(IneligibleReason::NotReady))]
    #[case(json!({"status": {"conditions": []}}), Some(IneligibleReason::NotReady))]
    #[case(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]}}), Some(IneligibleReason::DiskPressure))]
    #[case(json!({"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}}), Some(IneligibleReason::Tainted))]
    #[case(json!({"spec": {"taints": [{"key": "gpu", "effect": "PreferNoSchedule"}]}}), None)]
    #[case(json!({"status": {"nodeInfo": {"operatingSystem": "windows"}}}), Some(IneligibleReason::OperatingSystem))]
    fn ineligible_reasons(#[case] change: Value, #[case] expected: Option<IneligibleReason>) {
        assert_eq!(NodeRequirements::default().ineligible(&node(&change)), expected);
    }

    #[rstest]
    #[case(json!([{"key": "gpu", "operator": "Exists"}]), true)]
    #[case(json!([{"operator": "Exists"}]), true)]
    #[case(json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]), true)]
    #[case(json!([{"key": "gpu", "value": "no"}]), false)]
    #[case(json!([{"key": "gpu", "value": "yes", "effect": "NoExecute"}]), false)]
    #[case(json!([{"key": "other", "operator": "Exists"}]), false)]
    fn taints_are_tolerated_by_key_value_and_effect(
        #[case] tolerations: Value,
        #[case] fits: bool,
    ) {
        let tainted = node(
            &json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}),
        );
        let demand = NodeRequirements {
            tolerations: serde_json::from_value(tolerations).unwrap(),
            ..NodeRequirements::default()
        };
        assert_eq!(demand.ineligible(&tainted).is_none(), fits);
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
    fn required_affinity(#[case] term: Value, #[case] fits: bool) {
        let affinity = serde_json::from_value(json!({"nodeSelectorTerms": [term]})).unwrap();
        let demand =
            NodeRequirements { node_affinity: Some(affinity), ..NodeRequirements::default() };
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
    fn image_volume_support(#[case] kubelet: &str, #[case] runtime: &str, #[case] fits: bool) {
        let change = json!({"status": {"nodeInfo": {"kubeletVersion": kubelet, "containerRuntimeVersion": runtime}}});
        assert_eq!(node(&change).supports_image_volumes(), fits);
    }
}
