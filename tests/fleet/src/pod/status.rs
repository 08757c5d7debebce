//! Status of a pod.

use crate::time::SimTime;

/// Phase of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have started.
    Pending,
    /// All containers have started, and at least one runs or will be started again.
    Running,
    /// All containers have ended with exit code 0.
    Succeeded,
    /// All containers have ended, or the kubelet has rejected or ended the pod.
    Failed,
}

impl Phase {
    /// Returns the phase in a pod's status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Reports whether the pod has ended.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// End of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// Exit code.
    pub exit_code: i32,
    /// Start of the container.
    pub started: SimTime,
    /// End of the container.
    pub finished: SimTime,
}

impl Termination {
    /// Returns the reason in a container's status.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if self.exit_code == 0 { "Completed" } else { "Error" }
    }
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// It is about to start, or cannot start.
    Waiting {
        /// Reason, such as `ContainerCreating` or `ErrImagePull`.
        reason: &'static str,
        /// Message; empty without one.
        message: String,
    },
    /// It runs since this time.
    Running(SimTime),
    /// It has ended.
    Terminated(Termination),
    /// It had not been created when the pod ended.
    Unknown,
}

/// Status of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Name.
    pub name: String,
    /// Image as in the spec until the container exists, then the name that the runtime reports.
    pub image: String,
    /// Image by its digest; empty until the container exists.
    pub image_id: String,
    /// State.
    pub state: ContainerState,
    /// End of the run before, if the container was started again or waits for that.
    pub last_termination: Option<Termination>,
    /// True if it is ready. Containers have no probes: they are ready while they run, and init
    /// containers once they have succeeded.
    pub is_ready: bool,
    /// Number of starts after the first.
    pub restarts: u32,
}

/// Kind of a pod's condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionKind {
    /// The sandbox of the pod exists.
    PodReadyToStartContainers,
    /// All init containers have succeeded.
    Initialized,
    /// All containers of the application are ready.
    ContainersReady,
    /// The pod is ready.
    Ready,
}

impl ConditionKind {
    /// All kinds in the order of a pod's status.
    pub const ALL: [Self; 4] =
        [Self::PodReadyToStartContainers, Self::Initialized, Self::Ready, Self::ContainersReady];

    /// Returns the type of the condition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodReadyToStartContainers => "PodReadyToStartContainers",
            Self::Initialized => "Initialized",
            Self::ContainersReady => "ContainersReady",
            Self::Ready => "Ready",
        }
    }
}

/// Condition of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Kind.
    pub kind: ConditionKind,
    /// True if it holds.
    pub is_true: bool,
    /// Time since which it does or does not hold.
    pub since: SimTime,
}

/// Status of a pod. The condition `PodScheduled` belongs to the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStatus {
    /// Phase.
    pub phase: Phase,
    /// Reason why the kubelet rejected or ended the pod, such as `DeadlineExceeded`; empty
    /// otherwise.
    pub reason: &'static str,
    /// Message to the reason.
    pub message: String,
    /// Time at which the kubelet accepted the pod.
    pub started: SimTime,
    /// Conditions; none of a rejected pod.
    pub conditions: Vec<Condition>,
    /// Init containers and sidecars.
    pub init_containers: Vec<ContainerStatus>,
    /// Containers of the application.
    pub containers: Vec<ContainerStatus>,
}

impl PodStatus {
    /// Reports whether a condition holds.
    #[must_use]
    pub fn has(&self, kind: ConditionKind) -> bool {
        self.conditions.iter().any(|condition| condition.kind == kind && condition.is_true)
    }

    /// Returns the reasons of the waiting containers.
    pub fn waiting_reasons(&self) -> impl Iterator<Item = &'static str> {
        let all = self.init_containers.iter().chain(&self.containers);
        all.filter_map(|container| match container.state {
            ContainerState::Waiting { reason, .. } => Some(reason),
            ContainerState::Running(_)
            | ContainerState::Terminated(_)
            | ContainerState::Unknown => None,
        })
    }
}
