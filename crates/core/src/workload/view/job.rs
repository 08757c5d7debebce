//! Used fields of a Job.

/// Fields of a Job that decide when its pods start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::workload) struct JobProgress {
    /// Number of pods that must succeed, if specified.
    pub(in crate::workload) completions: Option<i64>,
    /// Number of pods at the same time, if specified.
    pub(in crate::workload) parallelism: Option<i64>,
    /// Set while no pod may start.
    pub(in crate::workload) is_suspended: bool,
}

impl JobProgress {
    /// Number of pods that Kubernetes runs at the same time by default.
    const DEFAULT_PARALLELISM: i64 = 1;

    /// Reports whether no pod of the Job starts until a user or a queue of Jobs resumes it.
    pub(in crate::workload) fn is_held(self) -> bool {
        self.is_suspended || self.parallelism == Some(0)
    }

    /// Reports whether pods start after the first ones have ended. Without `completions` a Job ends
    /// with the first pod that succeeds, or has one pod.
    pub(in crate::workload) fn has_further_completions(self) -> bool {
        let at_once = self.parallelism.unwrap_or(Self::DEFAULT_PARALLELISM);
        self.completions.is_some_and(|completions| completions > at_once)
    }
}
