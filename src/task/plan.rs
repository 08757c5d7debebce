//! From the nodes that exist to the nodes of a task, cut into batches.

use super::{
    BatchPolicy, IgnoredNode, PrewarmPlanSpec,
    resource::MAX_IGNORED_NODES,
    validate::{Share, ValidTask},
};
use crate::node::Facts;

/// Chooses the nodes of a task and cuts them into batches. `nodes` come in the order in which they are to be warmed.
#[must_use]
pub fn plan<'a>(task: &ValidTask, nodes: impl IntoIterator<Item = &'a Facts>) -> PrewarmPlanSpec {
    let mut chosen = Vec::new();
    let mut ignored = Vec::new();
    for node in nodes.into_iter().filter(|node| task.demand.matches(node)) {
        match task.demand.obstacle(node) {
            None => chosen.push(node.name.clone()),
            Some(reason) => ignored.push(IgnoredNode { node: node.name.clone(), reason: reason.as_str().into() }),
        }
    }
    chosen.truncate(task.nodes.of(chosen.len()));
    let ignored_count = u32::try_from(ignored.len()).unwrap_or(u32::MAX);
    ignored.truncate(MAX_IGNORED_NODES);
    let batches = cut(chosen.len(), task.batch_size, task.batch_policy);
    PrewarmPlanSpec { nodes: chosen, batches, ignored, ignored_count }
}

/// The sizes of the batches; their sum is `total`.
fn cut(total: usize, size: Share, policy: BatchPolicy) -> Vec<u32> {
    let full = size.of(total);
    let mut next = if policy == BatchPolicy::Doubling { 1 } else { full };
    let mut left = total;
    let mut batches = Vec::new();
    while left > 0 {
        let batch = next.min(left);
        batches.push(u32::try_from(batch).unwrap_or(u32::MAX));
        left -= batch;
        next = (next * 2).min(full);
    }
    batches
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::task::{PrewarmTaskSpec, validate::validate};

    #[rstest]
    #[case(25, Share::Count(10), BatchPolicy::Barrier, &[10, 10, 5])]
    #[case(25, Share::Count(10), BatchPolicy::Doubling, &[1, 2, 4, 8, 10])]
    #[case(25, Share::Percent(50), BatchPolicy::Barrier, &[13, 12])]
    #[case(0, Share::Count(10), BatchPolicy::Barrier, &[])]
    #[case(3, Share::Count(10), BatchPolicy::Rolling, &[3])]
    fn cuts(#[case] total: usize, #[case] size: Share, #[case] policy: BatchPolicy, #[case] expected: &[u32]) {
        assert_eq!(cut(total, size, policy), expected);
    }

    #[test]
    fn leaves_out_what_cannot_be_warmed_and_says_why() {
        let node = |name: &str, ready| Facts { name: name.into(), ready, os: "linux".into(), ..Facts::default() };
        let task = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        let plan = plan(&task, &[node("a", true), node("b", false), node("c", true)]);
        assert_eq!(plan.nodes, ["a", "c"]);
        assert_eq!(plan.ignored, [IgnoredNode { node: "b".into(), reason: "NotReady".into() }]);
        assert_eq!(plan.ignored_count, 1);
    }
}
