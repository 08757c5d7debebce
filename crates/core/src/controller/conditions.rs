//! Conditions of a task, computed from its previous conditions and its current state. Pure: no
//! client, no clock, no I/O.

use k8s_openapi::jiff::Timestamp;

use crate::{
    task::{Condition, Phase},
    timestamp,
};

const LIMITED: &str = "Limited";
const NODES_CHECKED: &str = "NodesChecked";
const WORKERS_IN_FALLBACK_NAMESPACE: &str = "WorkersInFallbackNamespace";
/// Conditions that a new leader keeps.
const LASTING_CONDITIONS: [&str; 3] = [LIMITED, NODES_CHECKED, WORKERS_IN_FALLBACK_NAMESPACE];

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
    let mut states = phase_states(word);
    states.extend(throttled_state(old, word));
    states.extend(exceptional_states(word));
    let condition = |state: ConditionState<'_>| {
        let same =
            old.iter().find(|known| known.type_ == state.type_ && known.status == state.status);
        Condition {
            type_: state.type_.into(),
            status: state.status.into(),
            last_transition_time: same
                .map_or_else(|| timestamp::format(now), |known| known.last_transition_time.clone()),
            reason: state.reason.into(),
            message: state.message.into(),
            observed_generation: word.generation,
        }
    };
    let mut all: Vec<Condition> = states.into_iter().map(condition).collect();
    // Conditions that a previous leader found are kept, because they are not computed again.
    let unsaid: Vec<Condition> = old
        .iter()
        .filter(|known| LASTING_CONDITIONS.contains(&known.type_.as_str()))
        .filter(|known| all.iter().all(|now| now.type_ != known.type_))
        .cloned()
        .collect();
    all.extend(unsaid);
    all
}

/// Current state of a condition.
struct ConditionState<'a> {
    type_: &'static str,
    status: &'static str,
    reason: &'a str,
    message: &'a str,
}

/// Returns the states that follow from the phase.
fn phase_states<'a>(word: &ConditionInputs<'a>) -> Vec<ConditionState<'a>> {
    let state = |type_, phases: &[Phase]| ConditionState {
        type_,
        status: if phases.contains(&word.phase) { "True" } else { "False" },
        reason: word.reason,
        message: word.message,
    };
    vec![
        state("Progressing", &[Phase::Snapshotting, Phase::Running, Phase::Finalizing]),
        state("Complete", &[Phase::Completed]),
        state("Failed", &[Phase::Failed, Phase::Cancelled]),
    ]
}

/// Returns the state of `Throttled`, if the task is or was throttled.
fn throttled_state<'a>(
    old: &[Condition],
    word: &'a ConditionInputs<'_>,
) -> Option<ConditionState<'a>> {
    let type_ = "Throttled";
    match &word.throttled {
        Some((reason, message)) => Some(ConditionState { type_, status: "True", reason, message }),
        None => old.iter().any(|condition| condition.type_ == type_).then_some(ConditionState {
            type_,
            status: "False",
            reason: "NoLimit",
            message: "",
        }),
    }
}

/// Returns the states of conditions that only some tasks have.
fn exceptional_states<'a>(
    word: &'a ConditionInputs<'_>,
) -> impl Iterator<Item = ConditionState<'a>> {
    let limited = (!word.limited_fields.is_empty()).then_some(ConditionState {
        type_: LIMITED,
        status: "True",
        reason: "OperatorLimits",
        message: &word.limited_fields,
    });
    let in_fallback = word.workers_in_fallback_namespace.as_ref().map(|message| ConditionState {
        type_: WORKERS_IN_FALLBACK_NAMESPACE,
        status: "True",
        reason: "NamespaceRefused",
        message,
    });
    let checked = word.node_check_errors.as_ref().map(|message| {
        let (status, reason) =
            if message.is_empty() { ("True", "Checked") } else { ("Unknown", "CheckFailed") };
        ConditionState { type_: NODES_CHECKED, status, reason, message }
    });
    [limited, in_fallback, checked].into_iter().flatten()
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
