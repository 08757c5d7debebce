//! From the nodes that exist to the nodes of a task.

use std::collections::BTreeMap;

use super::{IgnoredNode, PrewarmPlanSpec, resource::MAX_IGNORED_NODES, validate::ValidTask};
use crate::node::Facts;

/// Above a number of nodes no task may work on more than a few at once, whatever it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// It acts when more nodes than this are chosen.
    pub nodes: usize,
    /// How many nodes at once it allows then.
    pub at_once: usize,
}

/// How well a node suits a task that wants fewer nodes than there are; more is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// How many of the task's repositories run there today.
    pub runs: u32,
    /// The part of it that is free for pods, in thousandths.
    pub free: u32,
}

/// What checks beyond the node's own conditions have found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Nodes to leave out, with the reason.
    pub ignored: BTreeMap<String, String>,
    /// What could not be found out, for people.
    pub unchecked: Vec<String>,
    /// Which nodes to prefer.
    pub rank: BTreeMap<String, Rank>,
}

/// The nodes that match, in order, and whether each can be warmed now.
pub fn candidates<'a>(
    task: &'a ValidTask,
    nodes: impl IntoIterator<Item = &'a Facts>,
) -> impl Iterator<Item = (&'a Facts, Option<&'static str>)> {
    let matching = nodes.into_iter().filter(|node| task.demand.matches(node));
    matching.map(|node| (node, task.demand.obstacle(node).map(super::super::node::Ignored::as_str)))
}

/// Chooses the nodes of a task. `nodes` come in the order in which they are to be warmed.
#[must_use]
pub fn plan<'a>(
    task: &'a ValidTask,
    nodes: impl IntoIterator<Item = &'a Facts>,
    findings: &Findings,
    breaker: Breaker,
) -> PrewarmPlanSpec {
    let mut chosen = Vec::new();
    let mut ignored = Vec::new();
    for (node, obstacle) in candidates(task, nodes) {
        match obstacle.or_else(|| findings.ignored.get(&node.name).map(String::as_str)) {
            None => chosen.push(node.name.clone()),
            Some(reason) => ignored.push(IgnoredNode { node: node.name.clone(), reason: reason.into() }),
        }
    }
    let many = task.nodes.of(chosen.len());
    if many < chosen.len() {
        let rank = |node: &String| findings.rank.get(node).copied().unwrap_or_default();
        chosen.sort_by_key(|node| std::cmp::Reverse(rank(node)));
        chosen.truncate(many);
    }
    let ignored_count = u32::try_from(ignored.len()).unwrap_or(u32::MAX);
    ignored.truncate(MAX_IGNORED_NODES);
    let asked = task.batch_size.of(chosen.len());
    let tripped = chosen.len() > breaker.nodes && asked > breaker.at_once;
    let throttled = tripped.then(|| {
        format!(
            "{asked} nodes at once were asked for; above {} nodes at most {} are allowed",
            breaker.nodes, breaker.at_once
        )
    });
    let at_once = u32::try_from(if tripped { breaker.at_once } else { asked }).unwrap_or(u32::MAX);
    PrewarmPlanSpec { nodes: chosen, at_once, throttled, unchecked: findings.unchecked.clone(), ignored, ignored_count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Amount, PrewarmTaskSpec, validate::validate};

    const BREAKER: Breaker = Breaker { nodes: 50, at_once: 5 };

    fn node(name: &str, ready: bool) -> Facts {
        let mut facts = Facts::sample(name);
        facts.ready = ready;
        facts
    }

    #[test]
    fn leaves_out_what_cannot_be_warmed_and_says_why() {
        let task = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        let findings = Findings {
            ignored: [("d".to_owned(), "Unhealthy".to_owned()), ("elsewhere".to_owned(), "Unhealthy".to_owned())]
                .into(),
            unchecked: vec!["sizes".into()],
            ..Findings::default()
        };
        let nodes = [node("a", true), node("b", false), node("c", true), node("d", true)];
        let plan = plan(&task, &nodes, &findings, BREAKER);
        assert_eq!(plan.nodes, ["a", "c"]);
        let ignored: Vec<_> = plan.ignored.iter().map(|i| (i.node.as_str(), i.reason.as_str())).collect();
        assert_eq!(ignored, [("b", "NotReady"), ("d", "Unhealthy")]);
        assert_eq!((plan.ignored_count, plan.at_once, plan.unchecked), (2, 2, vec!["sizes".to_owned()]));
    }

    #[test]
    fn the_best_nodes_are_taken_where_not_all_are_wanted() {
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        spec.nodes = Amount::Count(2);
        let rank = |runs, free| Rank { runs, free };
        let ranks = [("a", rank(0, 10)), ("b", rank(0, 900)), ("c", rank(1, 0))];
        let rank = ranks.into_iter().map(|(node, rank)| (node.to_owned(), rank)).collect();
        let findings = Findings { rank, ..Findings::default() };
        let nodes = ["a", "b", "c", "d"].map(|name| node(name, true));
        assert_eq!(plan(&validate(&spec).unwrap(), &nodes, &findings, BREAKER).nodes, ["c", "b"]);
        spec.nodes = Amount::Count(4);
        assert_eq!(plan(&validate(&spec).unwrap(), &nodes, &findings, BREAKER).nodes, ["a", "b", "c", "d"]);
    }

    #[test]
    fn the_breaker_acts_above_its_number_of_nodes() {
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        spec.batch_size = Amount::Text("50%".into());
        let task = validate(&spec).unwrap();
        let nodes: Vec<Facts> = (0..51).map(|n| node(&format!("n{n}"), true)).collect();
        let within = plan(&task, &nodes[..50], &Findings::default(), BREAKER);
        assert_eq!((within.at_once, within.throttled), (25, None));
        let above = plan(&task, &nodes, &Findings::default(), BREAKER);
        assert_eq!(above.at_once, 5);
        assert!(above.throttled.unwrap().starts_with("26 nodes at once were asked for"));
    }
}
