//! Node states of a task, and the spec of a new task that retries the nodes that are not warm.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use super::{Amount, PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec, batches::NodeState};

/// Returns the nodes of a task with their states, in the plan's order.
pub fn node_states<'a>(
    task: &'a PrewarmTask,
    plan: &'a PrewarmPlanSpec,
) -> impl Iterator<Item = (&'a str, NodeState)> {
    let letters = task.status.as_ref().map_or(&[][..], |status| status.node_states.as_bytes());
    let state = |index: usize| {
        letters.get(index).map_or(NodeState::Waiting, |letter| NodeState::from_byte(*letter))
    };
    plan.nodes.iter().enumerate().map(move |(index, node)| (node.as_str(), state(index)))
}

/// Returns the nodes that an ended task has not warmed: failed ones and those that were not tried.
#[must_use]
pub fn nodes_not_warm(task: &PrewarmTask, plan: &PrewarmPlanSpec) -> Vec<String> {
    let warm = |state: NodeState| matches!(state, NodeState::Succeeded | NodeState::AlreadyWarm);
    node_states(task, plan)
        .filter(|(_, state)| !warm(*state))
        .map(|(node, _)| node.to_owned())
        .collect()
}

/// Returns the spec restricted to these nodes, with `nodes: all` and neither suspended nor
/// cancelled.
#[must_use]
pub fn retry_spec(spec: &PrewarmTaskSpec, nodes: Vec<String>) -> PrewarmTaskSpec {
    let only = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(nodes),
    };
    let mut affinity = spec.node_affinity.clone().unwrap_or_default();
    if affinity.node_selector_terms.is_empty() {
        affinity.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut affinity.node_selector_terms {
        term.match_fields.get_or_insert_default().push(only.clone());
    }
    PrewarmTaskSpec {
        node_affinity: Some(affinity),
        nodes: Amount::Text("all".into()),
        suspend: false,
        cancel: false,
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        node::NodeInfo,
        task::{
            PrewarmTaskStatus,
            plan::{BatchSizeBreaker, NodeCheckFindings, select_nodes},
            validate::validate,
        },
    };

    #[test]
    fn retry_selects_only_nodes_that_are_not_warm() {
        let mut task = PrewarmTask::new("t", PrewarmTaskSpec::new(vec!["nginx".into()]));
        task.status =
            Some(PrewarmTaskStatus { node_states: "swfk".into(), ..PrewarmTaskStatus::default() });
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned);
        let planned = PrewarmPlanSpec { nodes: names.to_vec(), ..PrewarmPlanSpec::default() };
        let left = nodes_not_warm(&task, &planned);
        assert_eq!(left, ["c", "d", "e"]);
        let spec = retry_spec(&task.spec, left);
        let all = names.map(|name| NodeInfo::sample(&name));
        let chosen = select_nodes(
            &validate(&spec).unwrap(),
            &all,
            &NodeCheckFindings::default(),
            BatchSizeBreaker { node_threshold: 9, batch_size: 9 },
        );
        assert_eq!(chosen.nodes, ["c", "d", "e"]);
    }

    /// Terms are alternatives: each is restricted to the nodes, none is added.
    #[test]
    fn retry_keeps_the_node_affinity_of_the_task() {
        let term = |zone: &str| serde_json::json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        let affinity = serde_json::json!({"nodeSelectorTerms": [term("a"), term("b")]});
        spec.node_affinity = serde_json::from_value(affinity).ok();
        spec.cancel = true;
        let spec = retry_spec(&spec, vec!["n1".into()]);
        let terms = spec.node_affinity.unwrap().node_selector_terms;
        assert!(terms.len() == 2 && !spec.cancel);
        assert!(
            terms
                .iter()
                .all(|term| term.match_expressions.is_some() && term.match_fields.is_some())
        );
    }
}
