//! Failures of commands, and their exit codes.

/// Failure of a command.
#[derive(Debug)]
pub(super) enum CommandError {
    /// The operation failed: exit code 1.
    Failed(String),
    /// The arguments are invalid: exit code 2.
    Usage(String),
    /// The operation did not end in time: exit code 3.
    TimedOut(String),
}

/// Result of a command.
pub(super) type CommandResult = Result<(), CommandError>;

impl CommandError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::TimedOut(_) => 3,
        }
    }

    pub(super) fn message(&self) -> &str {
        match self {
            Self::Failed(message) | Self::Usage(message) | Self::TimedOut(message) => message,
        }
    }
}
