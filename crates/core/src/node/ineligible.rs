//! Reasons why a matching node is not eligible.

/// Reason why a matching node is not eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IneligibleReason {
    /// The `Ready` condition is not `True`.
    NotReady,
    /// The node is cordoned.
    Unschedulable,
    /// The node reports `DiskPressure`.
    DiskPressure,
    /// The node reports `MemoryPressure`.
    MemoryPressure,
    /// The node reports `PIDPressure`.
    PidPressure,
    /// The node has a taint that the task does not tolerate.
    Tainted,
    /// The node does not run Linux.
    OperatingSystem,
}

impl IneligibleReason {
    /// Returns the reason in a task's `ignoredNodes`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "NotReady",
            Self::Unschedulable => "Unschedulable",
            Self::DiskPressure => "DiskPressure",
            Self::MemoryPressure => "MemoryPressure",
            Self::PidPressure => "PIDPressure",
            Self::Tainted => "Tainted",
            Self::OperatingSystem => "OperatingSystem",
        }
    }
}
