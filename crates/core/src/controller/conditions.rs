//! Conditions of a task, computed from its previous conditions and its current state. Pure: no
//! client, no clock, no I/O.

use k8s_openapi::jiff::Timestamp;

use crate::{
    task::{Condition, Phase},
    timestamp,
};

/// Inputs of a task's conditions.
pub(super) struct ConditionInputs<'a> {
    pub(super) phase: Phase,
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
    /// Reason and message of the condition `Throttled`: why fewer nodes are worked on at the same
    /// time than requested.
    pub(super) throttled: Option<(&'static str, String)>,
    /// Fields of the spec that exceed the operator's limits. Empty where none does.
    pub(super) limited_fields: String,
    /// Cause for which workers are created in Prewarmer's own namespace.
    pub(super) workers_in_fallback_namespace: Option<String>,
    /// Errors of the node checks, empty if all succeeded. `None` where no check is configured.
    pub(super) node_check_errors: Option<String>,
    pub(super) generation: Option<i64>,
}

/// Computes the conditions of a task. A transition time changes only with the status of its
/// condition. `Throttled` and `NodesChecked` exist once they were reported for the first time.
pub(super) fn compute_conditions(
    old: &[Condition],
    word: &ConditionInputs<'_>,
    now: Timestamp,
) -> Vec<Condition> {
    let is = |yes: bool| if yes { "True" } else { "False" };
    let phase = word.phase;
    let (reason, message) = (word.reason.to_owned(), word.message.to_owned());
    let mut states = vec![(
        "Progressing",
        is(matches!(phase, Phase::Snapshotting | Phase::Running | Phase::Finalizing)),
        reason,
        message,
    )];
    let (reason, message) = (word.reason, word.message);
    states.push(("Complete", is(phase == Phase::Completed), reason.into(), message.into()));
    states.push((
        "Failed",
        is(matches!(phase, Phase::Failed | Phase::Cancelled)),
        reason.into(),
        message.into(),
    ));
    let known = |name: &str| old.iter().any(|condition| condition.type_ == name);
    match &word.throttled {
        Some((reason, message)) => {
            states.push(("Throttled", "True", (*reason).into(), message.clone()));
        }
        None if known("Throttled") => {
            states.push(("Throttled", "False", "NoLimit".into(), String::new()));
        }
        None => {}
    }
    if !word.limited_fields.is_empty() {
        states.push(("Limited", "True", "OperatorLimits".into(), word.limited_fields.clone()));
    }
    if let Some(message) = &word.workers_in_fallback_namespace {
        states.push((
            "WorkersInFallbackNamespace",
            "True",
            "NamespaceRefused".into(),
            message.clone(),
        ));
    }
    if let Some(message) = &word.node_check_errors {
        let (checked, why) =
            if message.is_empty() { ("True", "Checked") } else { ("Unknown", "CheckFailed") };
        states.push(("NodesChecked", checked, why.into(), message.clone()));
    }
    let condition = |(type_, status, reason, message): (&str, &str, String, String)| {
        let same = old.iter().find(|known| known.type_ == type_ && known.status == status);
        Condition {
            type_: type_.into(),
            status: status.into(),
            last_transition_time: same
                .map_or_else(|| timestamp::format(now), |known| known.last_transition_time.clone()),
            reason,
            message,
            observed_generation: word.generation,
        }
    };
    let mut all: Vec<Condition> = states.into_iter().map(condition).collect();
    // Conditions that a previous leader found are kept, because they are not computed again.
    let lasting = |known: &&Condition| {
        matches!(known.type_.as_str(), "Limited" | "NodesChecked" | "WorkersInFallbackNamespace")
    };
    let unsaid: Vec<Condition> = old
        .iter()
        .filter(lasting)
        .filter(|known| all.iter().all(|now| now.type_ != known.type_))
        .cloned()
        .collect();
    all.extend(unsaid);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(phase: Phase) -> ConditionInputs<'static> {
        ConditionInputs {
            phase,
            reason: "Because",
            message: "",
            throttled: None,
            limited_fields: String::new(),
            workers_in_fallback_namespace: None,
            node_check_errors: None,
            generation: Some(1),
        }
    }

    fn find<'a>(list: &'a [Condition], name: &str) -> Option<&'a Condition> {
        list.iter().find(|condition| condition.type_ == name)
    }

    #[test]
    fn transition_time_changes_only_with_the_status() {
        let early = Timestamp::from_second(100).unwrap();
        let late = Timestamp::from_second(200).unwrap();
        let first = compute_conditions(&[], &inputs(Phase::Running), early);
        let second = compute_conditions(&first, &inputs(Phase::Completed), late);
        let time = |name: &str| find(&second, name).unwrap().last_transition_time.clone();
        assert_eq!(time("Failed"), timestamp::format(early));
        assert_eq!(time("Complete"), timestamp::format(late));
        assert_eq!(time("Progressing"), timestamp::format(late));
    }

    #[test]
    fn throttled_becomes_false_when_throttling_ends() {
        let throttled = ConditionInputs {
            throttled: Some(("CircuitBreaker", "less".into())),
            ..inputs(Phase::Running)
        };
        let first = compute_conditions(&[], &throttled, Timestamp::UNIX_EPOCH);
        assert_eq!(find(&first, "Throttled").unwrap().status, "True");
        let second = compute_conditions(&first, &inputs(Phase::Running), Timestamp::UNIX_EPOCH);
        assert_eq!(find(&second, "Throttled").unwrap().status, "False");
        assert_eq!(
            find(
                &compute_conditions(&[], &inputs(Phase::Running), Timestamp::UNIX_EPOCH),
                "Throttled"
            ),
            None
        );
    }

    #[test]
    fn lasting_conditions_survive_a_leader_change() {
        let found = ConditionInputs {
            node_check_errors: Some(String::new()),
            workers_in_fallback_namespace: Some("full".into()),
            limited_fields: "less".into(),
            ..inputs(Phase::Running)
        };
        let first = compute_conditions(&[], &found, Timestamp::UNIX_EPOCH);
        let second = compute_conditions(&first, &inputs(Phase::Completed), Timestamp::UNIX_EPOCH);
        for name in ["Limited", "NodesChecked", "WorkersInFallbackNamespace"] {
            assert_eq!(find(&second, name), find(&first, name));
            assert!(find(&second, name).is_some(), "{name}");
        }
    }

    #[test]
    fn failed_node_checks_are_unknown() {
        let said = |unchecked: &str| {
            let word = ConditionInputs {
                node_check_errors: Some(unchecked.into()),
                ..inputs(Phase::Running)
            };
            find(&compute_conditions(&[], &word, Timestamp::UNIX_EPOCH), "NodesChecked")
                .unwrap()
                .status
                .clone()
        };
        assert_eq!(
            (said("").as_str(), said("Prometheus: timed out").as_str()),
            ("True", "Unknown")
        );
    }
}
