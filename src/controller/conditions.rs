//! A task's conditions, as a function of what was and what is.

use k8s_openapi::jiff::Timestamp;

use crate::task::{Condition, Phase};

/// The conditions of a task in `phase`; a transition time changes only with the status beside it.
pub(super) fn compute(
    old: &[Condition],
    phase: Phase,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let is = |yes: bool| if yes { "True" } else { "False" };
    let states = [
        ("Progressing", is(matches!(phase, Phase::Snapshotting | Phase::Running | Phase::Finalizing))),
        ("Complete", is(phase == Phase::Completed)),
        ("Failed", is(matches!(phase, Phase::Failed | Phase::Cancelled))),
    ];
    let condition = |(type_, status): (&str, &str)| {
        let same = old.iter().find(|known| known.type_ == type_ && known.status == status);
        Condition {
            type_: type_.into(),
            status: status.into(),
            last_transition_time: same.map_or_else(|| seconds(now), |known| known.last_transition_time.clone()),
            reason: reason.into(),
            message: message.into(),
            observed_generation: generation,
        }
    };
    states.into_iter().map(condition).collect()
}

/// A time as Kubernetes writes it, in whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_times_stay_while_the_status_does() {
        let early = Timestamp::from_second(100).unwrap();
        let late = Timestamp::from_second(200).unwrap();
        let first = compute(&[], Phase::Running, "Running", "", Some(1), early);
        let second = compute(&first, Phase::Completed, "Done", "", Some(1), late);
        let time = |list: &[Condition], name: &str| {
            list.iter().find(|c| c.type_ == name).unwrap().last_transition_time.clone()
        };
        assert_eq!(time(&second, "Failed"), seconds(early));
        assert_eq!(time(&second, "Complete"), seconds(late));
        assert_eq!(time(&second, "Progressing"), seconds(late));
    }
}
