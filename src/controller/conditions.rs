//! A task's conditions, as a function of what was and what is.

use k8s_openapi::jiff::Timestamp;

use crate::task::{Condition, Phase};

/// What is to be said of a task.
pub(super) struct Word<'a> {
    pub(super) phase: Phase,
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
    /// Why fewer nodes are worked on at once than was asked for: a reason and a sentence.
    pub(super) throttled: Option<(&'static str, String)>,
    /// What of the spec is more than the operator's settings allow; empty where nothing is.
    pub(super) limited: String,
    /// Why workers go to our own namespace.
    pub(super) away: Option<String>,
    /// What the checks of nodes could not find out; none where there are no checks.
    pub(super) unchecked: Option<String>,
    pub(super) generation: Option<i64>,
}

/// The conditions of a task; a transition time changes only with the status beside it. `Throttled` and `NodesChecked` are
/// there once there was something to say.
pub(super) fn compute(old: &[Condition], word: &Word<'_>, now: Timestamp) -> Vec<Condition> {
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
    states.push(("Failed", is(matches!(phase, Phase::Failed | Phase::Cancelled)), reason.into(), message.into()));
    let known = |name: &str| old.iter().any(|condition| condition.type_ == name);
    match &word.throttled {
        Some((reason, message)) => states.push(("Throttled", "True", (*reason).into(), message.clone())),
        None if known("Throttled") => states.push(("Throttled", "False", "NoLimit".into(), String::new())),
        None => {}
    }
    if !word.limited.is_empty() {
        states.push(("Limited", "True", "OperatorLimits".into(), word.limited.clone()));
    }
    if let Some(message) = &word.away {
        states.push(("WorkersElsewhere", "True", "NamespaceRefused".into(), message.clone()));
    }
    if let Some(message) = &word.unchecked {
        let (checked, why) = if message.is_empty() { ("True", "Checked") } else { ("Unknown", "NoOpinion") };
        states.push(("NodesChecked", checked, why.into(), message.clone()));
    }
    let condition = |(type_, status, reason, message): (&str, &str, String, String)| {
        let same = old.iter().find(|known| known.type_ == type_ && known.status == status);
        Condition {
            type_: type_.into(),
            status: status.into(),
            last_transition_time: same.map_or_else(|| seconds(now), |known| known.last_transition_time.clone()),
            reason,
            message,
            observed_generation: word.generation,
        }
    };
    let mut all: Vec<Condition> = states.into_iter().map(condition).collect();
    // What a predecessor found out stays said: a successor does not find it out again.
    let lasting = |known: &&Condition| matches!(known.type_.as_str(), "Limited" | "NodesChecked" | "WorkersElsewhere");
    let unsaid: Vec<Condition> =
        old.iter().filter(lasting).filter(|known| all.iter().all(|now| now.type_ != known.type_)).cloned().collect();
    all.extend(unsaid);
    all
}

/// A time as Kubernetes writes it, in whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(phase: Phase) -> Word<'static> {
        Word {
            phase,
            reason: "Because",
            message: "",
            throttled: None,
            limited: String::new(),
            away: None,
            unchecked: None,
            generation: Some(1),
        }
    }

    fn find<'a>(list: &'a [Condition], name: &str) -> Option<&'a Condition> {
        list.iter().find(|condition| condition.type_ == name)
    }

    #[test]
    fn transition_times_stay_while_the_status_does() {
        let early = Timestamp::from_second(100).unwrap();
        let late = Timestamp::from_second(200).unwrap();
        let first = compute(&[], &word(Phase::Running), early);
        let second = compute(&first, &word(Phase::Completed), late);
        let time = |name: &str| find(&second, name).unwrap().last_transition_time.clone();
        assert_eq!(time("Failed"), seconds(early));
        assert_eq!(time("Complete"), seconds(late));
        assert_eq!(time("Progressing"), seconds(late));
    }

    #[test]
    fn what_was_throttled_is_said_to_be_so_no_more() {
        let throttled = Word { throttled: Some(("CircuitBreaker", "less".into())), ..word(Phase::Running) };
        let first = compute(&[], &throttled, Timestamp::UNIX_EPOCH);
        assert_eq!(find(&first, "Throttled").unwrap().status, "True");
        let second = compute(&first, &word(Phase::Running), Timestamp::UNIX_EPOCH);
        assert_eq!(find(&second, "Throttled").unwrap().status, "False");
        assert_eq!(find(&compute(&[], &word(Phase::Running), Timestamp::UNIX_EPOCH), "Throttled"), None);
    }

    #[test]
    fn what_was_found_out_stays_said_after_a_restart() {
        let found = Word {
            unchecked: Some(String::new()),
            away: Some("full".into()),
            limited: "less".into(),
            ..word(Phase::Running)
        };
        let first = compute(&[], &found, Timestamp::UNIX_EPOCH);
        let second = compute(&first, &word(Phase::Completed), Timestamp::UNIX_EPOCH);
        for name in ["Limited", "NodesChecked", "WorkersElsewhere"] {
            assert_eq!(find(&second, name), find(&first, name));
            assert!(find(&second, name).is_some(), "{name}");
        }
    }

    #[test]
    fn no_opinion_is_said() {
        let said = |unchecked: &str| {
            let word = Word { unchecked: Some(unchecked.into()), ..word(Phase::Running) };
            find(&compute(&[], &word, Timestamp::UNIX_EPOCH), "NodesChecked").unwrap().status.clone()
        };
        assert_eq!((said("").as_str(), said("Prometheus: timed out").as_str()), ("True", "Unknown"));
    }
}
