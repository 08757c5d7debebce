//! What the kubelets report.

use std::sync::Arc;

use crate::{
    ids::NodeId,
    kubelet::Event,
    pod::{PodSpec, PodStatus},
    store::ReportedImage,
    time::SimTime,
};

/// Report of a kubelet to the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Time of the report.
    pub at: SimTime,
    /// Node of the kubelet.
    pub node: NodeId,
    /// Content.
    pub report: Report,
}

/// Content of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The status of a pod has changed.
    PodStatus {
        /// Pod.
        pod: Arc<PodSpec>,
        /// New status.
        status: Box<PodStatus>,
    },
    /// Event about a pod.
    Event {
        /// Pod.
        pod: Arc<PodSpec>,
        /// Event.
        event: Event,
    },
    /// A deleted pod has ended: the kubelet deletes it without a grace period.
    PodRemoved {
        /// Pod.
        pod: Arc<PodSpec>,
    },
    /// The status of the node has changed.
    NodeStatus {
        /// Largest images.
        images: Vec<ReportedImage>,
        /// Value of the condition `DiskPressure`.
        has_disk_pressure: bool,
    },
}
