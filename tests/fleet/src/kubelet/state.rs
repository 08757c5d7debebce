//! State of a kubelet.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    puller::{Host, Puller},
    record::Pod,
    settings::KubeletSettings,
    timers::Timers,
};
use crate::{
    ids::{NodeId, PodId},
    pod::Taint,
    random::Random,
    store::{ImageStore, ReportedImage},
    time::SimTime,
};

/// Kubelet and container runtime of one node.
///
/// A state machine without clock and input or output: each input and each due timer changes the
/// state, sets timers, and adds reports to the world's outputs.
#[derive(Debug)]
pub(crate) struct Kubelet {
    pub(super) node: NodeId,
    pub(super) settings: Arc<KubeletSettings>,
    pub(super) random: Random,
    /// Time at which the kubelet started.
    pub(super) started: SimTime,
    pub(super) store: ImageStore,
    pub(super) pods: BTreeMap<PodId, Pod>,
    pub(super) puller: Puller,
    pub(super) timers: Timers,
    pub(super) taints: Vec<Taint>,
    /// Offset of the kubelet's periodic work, so that not all nodes work at the same time.
    pub(super) offset: std::time::Duration,
    pub(super) pressure: Pressure,
    /// Node status that was reported last.
    pub(super) reported: ReportedNode,
}

/// Disk pressure of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    /// Value of the condition.
    pub(super) is_true: bool,
    /// Time at which the free share was last below the threshold.
    pub(super) last_seen: SimTime,
}

/// Node status as it was reported last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ReportedNode {
    /// Revision of the store; none before the first report.
    pub(super) revision: Option<u64>,
    pub(super) images: Vec<ReportedImage>,
    pub(super) has_disk_pressure: bool,
}

impl Kubelet {
    /// Calls a function of the puller with the parts of the kubelet that it changes.
    pub(super) fn with_puller<T>(
        &mut self,
        call: impl FnOnce(&mut Puller, &mut Host<'_>) -> T,
    ) -> T {
        let mut host = Host {
            node: self.node,
            settings: &self.settings,
            store: &mut self.store,
            timers: &mut self.timers,
        };
        call(&mut self.puller, &mut host)
    }
}
