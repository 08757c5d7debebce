//! A task's nodes one by one, and the same task once more for those that it could not warm.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use super::{Amount, PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec, batches::NodeState};

/// The nodes of a task and where each stands, in the order of its batches.
pub fn nodes<'a>(task: &'a PrewarmTask, plan: &'a PrewarmPlanSpec) -> impl Iterator<Item = (&'a str, NodeState)> {
    let letters = task.status.as_ref().map_or(&[][..], |status| status.node_states.as_bytes());
    let state = |index: usize| letters.get(index).map_or(NodeState::Waiting, |letter| NodeState::from_letter(*letter));
    plan.nodes.iter().enumerate().map(move |(index, node)| (node.as_str(), state(index)))
}

/// The nodes that an ended task has not warmed: those that failed, and those that were not tried.
#[must_use]
pub fn not_warm(task: &PrewarmTask, plan: &PrewarmPlanSpec) -> Vec<String> {
    let warm = |state: NodeState| matches!(state, NodeState::Succeeded | NodeState::AlreadyWarm);
    nodes(task, plan).filter(|(_, state)| !warm(*state)).map(|(node, _)| node.to_owned()).collect()
}

/// The same task for these nodes alone.
#[must_use]
pub fn again(spec: &PrewarmTaskSpec, nodes: Vec<String>) -> PrewarmTaskSpec {
    let only = NodeSelectorRequirement { key: "metadata.name".into(), operator: "In".into(), values: Some(nodes) };
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
        node::Facts,
        task::{
            PrewarmTaskStatus,
            plan::{Breaker, Findings, plan},
            validate::validate,
        },
    };

    #[test]
    fn only_the_nodes_that_are_not_warm() {
        let mut task = PrewarmTask::new("t", PrewarmTaskSpec::new(vec!["nginx".into()]));
        task.status = Some(PrewarmTaskStatus { node_states: "swfk".into(), ..PrewarmTaskStatus::default() });
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned);
        let planned = PrewarmPlanSpec { nodes: names.to_vec(), ..PrewarmPlanSpec::default() };
        let left = not_warm(&task, &planned);
        assert_eq!(left, ["c", "d", "e"]);
        let spec = again(&task.spec, left);
        let all = names.map(|name| Facts::sample(&name));
        let chosen = plan(&validate(&spec).unwrap(), &all, &Findings::default(), Breaker { nodes: 9, at_once: 9 });
        assert_eq!(chosen.nodes, ["c", "d", "e"]);
    }

    /// Terms are alternatives: each is narrowed, none is added.
    #[test]
    fn what_the_task_asked_of_nodes_still_counts() {
        let term =
            |zone: &str| serde_json::json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        let affinity = serde_json::json!({"nodeSelectorTerms": [term("a"), term("b")]});
        spec.node_affinity = serde_json::from_value(affinity).ok();
        spec.cancel = true;
        let spec = again(&spec, vec!["n1".into()]);
        let terms = spec.node_affinity.unwrap().node_selector_terms;
        assert!(terms.len() == 2 && !spec.cancel);
        assert!(terms.iter().all(|term| term.match_expressions.is_some() && term.match_fields.is_some()));
    }
}
