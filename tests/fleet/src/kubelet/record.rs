//! State of one pod in the kubelet.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::backoff::Backoff;
use crate::{
    image::Digest,
    pod::{Condition, ContainerKind, PodSpec, PodStatus, RestartPolicy, Termination},
    time::SimTime,
};

/// Image that a container or a volume uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsedImage {
    /// Image ID.
    pub(super) id: Digest,
    /// Name that the runtime reports.
    pub(super) name: String,
    /// Name by digest.
    pub(super) digest_name: String,
}

/// Reason why a container does not start, as in its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Reason, such as `ErrImagePull`.
    pub(super) reason: &'static str,
    /// Message.
    pub(super) message: String,
}

/// State of a container at the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunState {
    /// It was never created.
    Absent,
    /// It runs since this time.
    Running(SimTime),
    /// It has ended and still exists.
    Ended(Termination),
}

/// Container of a pod.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) state: RunState,
    /// Image of the container, if it exists.
    pub(super) image: Option<UsedImage>,
    /// IDs of the images that it mounts.
    pub(super) mounted: Vec<Digest>,
    /// End of the run before.
    pub(super) last: Option<Termination>,
    /// Number of starts.
    pub(super) starts: u32,
    /// Why the last attempt to start it failed; the kubelet keeps it until an attempt succeeds.
    pub(super) problem: Option<Problem>,
    pub(super) restart_backoff: Backoff,
    /// True if the kubelet has removed the ended container, so that it uses no image any more.
    pub(super) is_removed: bool,
}

impl Container {
    fn new() -> Self {
        Self {
            state: RunState::Absent,
            image: None,
            mounted: Vec::new(),
            last: None,
            starts: 0,
            problem: None,
            restart_backoff: Backoff::default(),
            is_removed: false,
        }
    }

    /// Returns the end of the current run, if it has ended.
    pub(super) fn ended(&self) -> Option<Termination> {
        match self.state {
            RunState::Ended(end) => Some(end),
            RunState::Absent | RunState::Running(_) => None,
        }
    }

    /// Reports whether it runs.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, RunState::Running(_))
    }
}

/// Back-off of the pulls of one image for one pod.
#[derive(Debug, Default)]
pub(super) struct PullBackoff {
    pub(super) backoff: Backoff,
    /// Reason and message of the last failed pull.
    pub(super) error: String,
}

/// Purpose of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Image volume, by its index.
    Volume(usize),
    /// Container, by its index.
    Container(usize),
}

/// Position in a synchronization of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No synchronization is under way.
    Idle,
    /// The sandbox is being created.
    Sandbox,
    /// The image of the volume with this index is next.
    Volumes(usize),
    /// The first container of the queue is next.
    Containers,
    /// An image is being pulled.
    Pulling(Purpose, SimTime),
    /// The container with this index is being created.
    Creating(usize),
    /// The container with this index is being started.
    Starting(usize),
}

/// Synchronization of a pod with its spec. The kubelet makes one at a time.
#[derive(Debug)]
pub(super) struct Synchronization {
    pub(super) stage: Stage,
    /// Indexes of the containers to start.
    pub(super) queue: VecDeque<usize>,
    /// True if another one is due.
    pub(super) is_pending: bool,
    /// True if a container could not be started.
    pub(super) has_failed: bool,
}

/// Where a pod is in its life on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Containers are started as the spec says.
    Active,
    /// Containers are being stopped.
    Stopping,
    /// No container runs or will run.
    Ended,
}

/// Start of a pod for the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The node has had all images so far.
    Warm,
    /// The node lacked an image when it was needed.
    Cold,
    /// The start was counted.
    Counted,
}

/// Pod of the kubelet.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) spec: Arc<PodSpec>,
    pub(super) bound: SimTime,
    /// Containers in the order of the spec.
    pub(super) containers: Vec<Container>,
    /// Images of the volumes of this synchronization, in the order of the spec.
    pub(super) volumes: Vec<Option<Result<UsedImage, Problem>>>,
    pub(super) sync: Synchronization,
    /// Back-offs by image as written; at most one for each image of the spec.
    pub(super) pull_backoffs: BTreeMap<String, PullBackoff>,
    pub(super) life: Life,
    pub(super) is_deleted: bool,
    /// Time from the signal to stop until containers are killed.
    pub(super) grace: Duration,
    /// Why the kubelet rejected or ended the pod.
    pub(super) verdict: Option<Problem>,
    pub(super) has_sandbox: bool,
    pub(super) conditions: Vec<Condition>,
    /// Status that was reported last.
    pub(super) reported: Option<PodStatus>,
    pub(super) start: Start,
}

impl Pod {
    /// Creates the state of a pod that was bound to the node.
    pub(super) fn new(spec: Arc<PodSpec>, bound: SimTime) -> Self {
        let containers = spec.containers.iter().map(|_| Container::new()).collect();
        let volumes = spec.volumes.iter().map(|_| None).collect();
        let grace = spec.grace;
        Self {
            spec,
            bound,
            containers,
            volumes,
            sync: Synchronization {
                stage: Stage::Idle,
                queue: VecDeque::new(),
                is_pending: false,
                has_failed: false,
            },
            pull_backoffs: BTreeMap::new(),
            life: Life::Active,
            is_deleted: false,
            grace,
            verdict: None,
            has_sandbox: false,
            conditions: Vec::new(),
            reported: None,
            start: Start::Warm,
        }
    }

    /// Iterates over the containers with their roles.
    pub(super) fn roles(&self) -> impl Iterator<Item = (ContainerKind, &Container)> {
        self.spec.containers.iter().map(|spec| spec.kind).zip(&self.containers)
    }

    /// Returns the containers to start, in order: one init container after another, then all of the
    /// application.
    pub(super) fn containers_to_start(&self) -> VecDeque<usize> {
        let mut queue = VecDeque::new();
        for (index, (kind, container)) in self.roles().enumerate() {
            match (kind, container.state) {
                (ContainerKind::Init, RunState::Running(_)) => return queue,
                (ContainerKind::Init, RunState::Ended(end)) if end.exit_code == 0 => {}
                (ContainerKind::Init, _) | (ContainerKind::Sidecar, RunState::Absent) => {
                    queue.push_back(index);
                    return queue;
                }
                (ContainerKind::Sidecar, RunState::Ended(_))
                | (ContainerKind::App, RunState::Absent) => queue.push_back(index),
                (ContainerKind::App, RunState::Ended(end)) if self.restarts(&end) => {
                    queue.push_back(index);
                }
                (ContainerKind::Sidecar | ContainerKind::App, _) => {}
            }
        }
        queue
    }

    /// Reports whether a container of the application is started again after this end.
    fn restarts(&self, end: &Termination) -> bool {
        match self.spec.restart_policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => end.exit_code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// Reports whether an init container has failed for good.
    pub(super) fn has_failed_init(&self) -> bool {
        self.spec.restart_policy == RestartPolicy::Never
            && self.roles().any(|(kind, container)| {
                kind == ContainerKind::Init && container.ended().is_some_and(|e| e.exit_code != 0)
            })
    }

    /// Reports whether the pod has ended by itself: only sidecars may still run.
    pub(super) fn is_finished(&self) -> bool {
        let mut apps = self.roles().filter(|(kind, _)| *kind == ContainerKind::App).peekable();
        let is_over =
            |container: &Container| container.ended().is_some_and(|end| !self.restarts(&end));
        self.has_failed_init()
            || (apps.peek().is_some() && apps.all(|(_, container)| is_over(container)))
    }

    /// Records that the node lacked an image when it was needed.
    pub(super) fn mark_cold(&mut self) {
        if self.start == Start::Warm {
            self.start = Start::Cold;
        }
    }

    /// Reports whether a container runs.
    pub(super) fn has_running_containers(&self) -> bool {
        self.containers.iter().any(Container::is_running)
    }

    /// Iterates over the IDs of the images that existing containers use.
    pub(super) fn images_in_use(&self) -> impl Iterator<Item = Digest> {
        self.containers.iter().filter(|container| !container.is_removed).flat_map(|container| {
            container.image.iter().map(|image| image.id).chain(container.mounted.iter().copied())
        })
    }

    /// Returns the name of the pod in messages: `name_namespace(uid)`.
    pub(super) fn full_name(&self) -> String {
        format!("{}_{}({})", self.spec.name, self.spec.namespace, self.spec.uid)
    }
}
