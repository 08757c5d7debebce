//! Selection of a task's nodes from the nodes that exist.

use std::collections::BTreeMap;

use super::{IgnoredNode, MAX_IGNORED_NODES, PrewarmPlanSpec, validate::ValidTask};
use crate::node::NodeInfo;

/// Batch size limit for tasks on many nodes: above a number of nodes, a task works on few nodes at
/// the same time, whatever its `batchSize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSizeBreaker {
    /// Number of selected nodes above which the limit applies.
    pub node_threshold: usize,
    /// Largest batch size then.
    pub batch_size: usize,
}

/// Suitability of a node for a task that needs fewer nodes than match; higher is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRank {
    /// Number of the task's repositories whose images run on the node now.
    pub running_repositories: u32,
    /// Share of the node that is free for pods, in thousandths.
    pub free_permille: u32,
}

/// Results of the node checks, beyond the node's own conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeCheckFindings {
    /// Nodes to exclude, with the reason.
    pub ignored: BTreeMap<String, String>,
    /// Human-readable facts that could not be determined.
    pub unchecked: Vec<String>,
    /// Suitability of nodes, by name.
    pub ranks: BTreeMap<String, NodeRank>,
}

/// Returns the nodes that match the placement, in order, with the reason why a node is not
/// eligible.
pub fn matching_nodes<'a>(
    task: &'a ValidTask,
    nodes: impl IntoIterator<Item = &'a NodeInfo>,
) -> impl Iterator<Item = (&'a NodeInfo, Option<&'static str>)> {
    let matching = nodes.into_iter().filter(|node| task.requirements.matches(node));
    matching.map(|node| {
        (node, task.requirements.ineligible(node).map(super::super::node::IneligibleReason::as_str))
    })
}

/// Selects the nodes of a task. `nodes` are in the order in which they are to be warmed.
#[must_use]
pub fn select_nodes<'a>(
    task: &'a ValidTask,
    nodes: impl IntoIterator<Item = &'a NodeInfo>,
    findings: &NodeCheckFindings,
    breaker: BatchSizeBreaker,
) -> PrewarmPlanSpec {
    let mut chosen = Vec::new();
    let mut ignored = Vec::new();
    for (node, obstacle) in matching_nodes(task, nodes) {
        match obstacle.or_else(|| findings.ignored.get(&node.name).map(String::as_str)) {
            None => chosen.push(node.name.clone()),
            Some(reason) => {
                ignored.push(IgnoredNode { node: node.name.clone(), reason: reason.into() });
            }
        }
    }
    let many = task.nodes.of_total(chosen.len());
    if many < chosen.len() {
        let rank = |node: &String| findings.ranks.get(node).copied().unwrap_or_default();
        chosen.sort_by_key(|node| std::cmp::Reverse(rank(node)));
        chosen.truncate(many);
    }
    let ignored_count = u32::try_from(ignored.len()).unwrap_or(u32::MAX);
    ignored.truncate(MAX_IGNORED_NODES);
    let asked = task.batch_size.of_total(chosen.len());
    let tripped = chosen.len() > breaker.node_threshold && asked > breaker.batch_size;
    let throttled = tripped.then(|| {
        format!(
            "batchSize amounts to {asked} nodes; tasks on more than {} nodes may use at most {}",
            breaker.node_threshold, breaker.batch_size
        )
    });
    let at_once =
        u32::try_from(if tripped { breaker.batch_size } else { asked }).unwrap_or(u32::MAX);
    PrewarmPlanSpec {
        nodes: chosen,
        at_once,
        throttled,
        unchecked: findings.unchecked.clone(),
        ignored,
        ignored_count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Amount, PrewarmTaskSpec, validate::validate};

    const BREAKER: BatchSizeBreaker = BatchSizeBreaker { node_threshold: 50, batch_size: 5 };

    fn node(name: &str, ready: bool) -> NodeInfo {
        let mut facts = NodeInfo::sample(name);
        facts.ready = ready;
        facts
    }

    #[test]
    fn ineligible_nodes_are_excluded_with_a_reason() {
        let task = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        let findings = NodeCheckFindings {
            ignored: [
                ("d".to_owned(), "Unhealthy".to_owned()),
                ("elsewhere".to_owned(), "Unhealthy".to_owned()),
            ]
            .into(),
            unchecked: vec!["sizes".into()],
            ..NodeCheckFindings::default()
        };
        let nodes = [node("a", true), node("b", false), node("c", true), node("d", true)];
        let plan = select_nodes(&task, &nodes, &findings, BREAKER);
        assert_eq!(plan.nodes, ["a", "c"]);
        let ignored: Vec<_> =
            plan.ignored.iter().map(|i| (i.node.as_str(), i.reason.as_str())).collect();
        assert_eq!(ignored, [("b", "NotReady"), ("d", "Unhealthy")]);
        assert_eq!(
            (plan.ignored_count, plan.at_once, plan.unchecked),
            (2, 2, vec!["sizes".to_owned()])
        );
    }

    #[test]
    fn highest_ranked_nodes_are_selected() {
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        spec.nodes = Amount::Count(2);
        let rank = |runs, free| NodeRank { running_repositories: runs, free_permille: free };
        let ranks = [("a", rank(0, 10)), ("b", rank(0, 900)), ("c", rank(1, 0))];
        let rank = ranks.into_iter().map(|(node, rank)| (node.to_owned(), rank)).collect();
        let findings = NodeCheckFindings { ranks: rank, ..NodeCheckFindings::default() };
        let nodes = ["a", "b", "c", "d"].map(|name| node(name, true));
        assert_eq!(
            select_nodes(&validate(&spec).unwrap(), &nodes, &findings, BREAKER).nodes,
            ["c", "b"]
        );
        spec.nodes = Amount::Count(4);
        assert_eq!(
            select_nodes(&validate(&spec).unwrap(), &nodes, &findings, BREAKER).nodes,
            ["a", "b", "c", "d"]
        );
    }

    #[test]
    fn batch_size_breaker_applies_above_its_threshold() {
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        spec.batch_size = Amount::Text("50%".into());
        let task = validate(&spec).unwrap();
        let nodes: Vec<NodeInfo> = (0..51).map(|n| node(&format!("n{n}"), true)).collect();
        let within = select_nodes(&task, &nodes[..50], &NodeCheckFindings::default(), BREAKER);
        assert_eq!((within.at_once, within.throttled), (25, None));
        let above = select_nodes(&task, &nodes, &NodeCheckFindings::default(), BREAKER);
        assert_eq!(above.at_once, 5);
        assert!(above.throttled.unwrap().starts_with("batchSize amounts to 26 nodes"));
    }
}
