//! Policies of warming images, which the bench compares.

use prewarmer_api::annotations::NODES_ANNOTATION;

/// Policy under which a trace runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Policy {
    /// Without Prewarmer.
    None,
    /// Prewarmer with its default `nodes: auto`.
    Auto,
    /// Prewarmer with `nodes: all`.
    All,
}

impl Policy {
    /// Returns the name, as on the command line and in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auto => "auto",
            Self::All => "all",
        }
    }

    /// Returns the annotations of the namespace that select the policy. Those of a namespace need no
    /// permission (docs/annotations.md).
    #[must_use]
    pub fn annotations(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::None | Self::Auto => &[],
            Self::All => &[(NODES_ANNOTATION, "all")],
        }
    }

    /// Checks the number of tasks that were created in a run: without it, a server that does not run,
    /// or that should not, would give the figures of another policy.
    pub fn check(self, tasks: u64) -> Result<(), WrongPolicy> {
        match self {
            Self::None if tasks > 0 => Err(WrongPolicy::Unexpected(tasks)),
            Self::Auto | Self::All if tasks == 0 => Err(WrongPolicy::Missing(self.as_str())),
            _ => Ok(()),
        }
    }
}

/// Run whose tasks do not agree with its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongPolicy {
    /// Tasks were created without a policy.
    #[error("{0} tasks were created under the policy none: stop the server of this cluster")]
    Unexpected(u64),
    /// No task was created.
    #[error("no task was created under the policy {0}: start a server in this cluster")]
    Missing(&'static str),
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Policy::None, 0, Ok(()))]
    #[case(Policy::None, 3, Err(WrongPolicy::Unexpected(3)))]
    #[case(Policy::Auto, 3, Ok(()))]
    #[case(Policy::Auto, 0, Err(WrongPolicy::Missing("auto")))]
    #[case(Policy::All, 0, Err(WrongPolicy::Missing("all")))]
    fn tasks_agree_with_the_policy(
        #[case] policy: Policy,
        #[case] tasks: u64,
        #[case] expected: Result<(), WrongPolicy>,
    ) {
        assert_eq!(policy.check(tasks), expected);
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for policy in [Policy::None, Policy::Auto, Policy::All] {
            let value = clap::ValueEnum::to_possible_value(&policy).unwrap();
            assert_eq!(value.get_name(), policy.as_str());
        }
    }
}
