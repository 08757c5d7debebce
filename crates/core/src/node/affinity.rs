//! Required node affinity with the semantics of the scheduler.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use super::info::NodeInfo;

/// Reports whether one of the terms matches; a term without requirements matches no node.
pub(super) fn matches(affinity: &NodeSelector, node: &NodeInfo) -> bool {
    affinity.node_selector_terms.iter().any(|term| term_matches(term, node))
}

fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|rule| requirement_matches(rule, node.labels.get(&rule.key)))
        && fields
            .iter()
            .all(|rule| rule.key == "metadata.name" && requirement_matches(rule, Some(&node.name)))
}

fn requirement_matches(rule: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = rule.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|v| v == value));
    match rule.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => parse_operands(value, values).is_some_and(|(have, bound)| have > bound),
        "Lt" => parse_operands(value, values).is_some_and(|(have, bound)| have < bound),
        _ => false,
    }
}

fn parse_operands(value: Option<&str>, values: &[String]) -> Option<(i64, i64)> {
    Some((value?.parse().ok()?, values.first()?.parse().ok()?))
}
