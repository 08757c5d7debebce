//! Kinds of work on one object, as label values.

/// Kind of work on one object, as a label value of `prewarm_internal_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkKind {
    /// Reconcile of a task.
    Task,
    /// Effect of the controller.
    Effect,
    /// Processing of a watch event of the controller.
    Watch,
    /// Decision on a schedule.
    Schedule,
    /// Delivery of a notification.
    Notification,
    /// Update of the task store or schedule store.
    Store,
    /// Extraction of the images of a workload.
    Workload,
    /// Processing of a kubelet event.
    PodStart,
    /// Creation of a task, or marking of an obsolete one.
    Creation,
}

impl WorkKind {
    /// All kinds, in the order of declaration.
    pub const ALL: [Self; 9] = [
        Self::Task,
        Self::Effect,
        Self::Watch,
        Self::Schedule,
        Self::Notification,
        Self::Store,
        Self::Workload,
        Self::PodStart,
        Self::Creation,
    ];

    /// Returns the label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Effect => "effect",
            Self::Watch => "watch",
            Self::Schedule => "schedule",
            Self::Notification => "notification",
            Self::Store => "store",
            Self::Workload => "workload",
            Self::PodStart => "pod_start",
            Self::Creation => "creation",
        }
    }
}
