//! What all nodes share: time, images, registries, the network, and where reports go.

use std::sync::Arc;

use crate::{
    counters::Counters,
    ids::NodeId,
    image::Catalog,
    kubelet::Event,
    network::Network,
    output::{Output, Report},
    pod::PodSpec,
    registry::Registries,
    time::SimTime,
};

/// Surroundings of a kubelet. A kubelet changes it only while it handles an input or a timer.
#[derive(Debug)]
pub(crate) struct World {
    /// Current time.
    pub(crate) now: SimTime,
    /// Images that registries offer.
    pub(crate) catalog: Catalog,
    /// Registries.
    pub(crate) registries: Registries,
    /// Links and downloads.
    pub(crate) network: Network,
    /// Figures.
    pub(crate) counters: Counters,
    /// Reports that the caller has not taken yet.
    pub(crate) outputs: Vec<Output>,
}

impl World {
    /// Creates surroundings in which the links of all registries exist.
    pub(crate) fn new(catalog: Catalog, registries: Registries) -> Self {
        let mut network = Network::new();
        for id in registries.ids() {
            network.set_registry(id, registries.settings(id).bandwidth);
        }
        Self {
            now: SimTime::ZERO,
            catalog,
            registries,
            network,
            counters: Counters::default(),
            outputs: Vec::new(),
        }
    }

    /// Adds a report.
    pub(crate) fn report(&mut self, node: NodeId, report: Report) {
        self.outputs.push(Output { at: self.now, node, report });
    }

    /// Adds an event about a pod.
    pub(crate) fn event(&mut self, node: NodeId, pod: &Arc<PodSpec>, event: Event) {
        self.report(node, Report::Event { pod: Arc::clone(pod), event });
    }
}
