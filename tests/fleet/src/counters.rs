//! Figures for the comparison of policies.

use std::collections::BTreeMap;

use crate::{ids::NodeId, store::Eviction, time::SimTime};

/// Figures of one node, since the start of the simulation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Bytes of layers received from registries, of cancelled downloads too. A download counts when
    /// it ends.
    pub downloaded: u64,
    /// Part of `downloaded` that was removed before any workload used it, and of cancelled and
    /// failed pulls.
    pub in_vain: u64,
    /// Images removed by the garbage collection.
    pub evictions: u64,
    /// Bytes of the disk that became free by evictions.
    pub evicted: u64,
}

/// Start of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodStart {
    /// Node.
    pub node: NodeId,
    /// True if the pod belongs to a workload.
    pub is_workload: bool,
    /// Time at which it was bound to the node.
    pub bound: SimTime,
    /// Time at which the kubelet reported that it runs, or has ended.
    pub running: SimTime,
    /// True if the node had all of its images.
    pub is_warm: bool,
}

/// Figures of all nodes.
#[derive(Debug, Default)]
pub struct Counters {
    nodes: BTreeMap<NodeId, NodeCounters>,
    /// Bytes by node and normalized image reference.
    images: BTreeMap<(NodeId, String), u64>,
    starts: Vec<PodStart>,
}

impl Counters {
    /// Returns the figures of a node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> NodeCounters {
        self.nodes.get(&node).copied().unwrap_or_default()
    }

    /// Returns the sums of all nodes.
    #[must_use]
    pub fn total(&self) -> NodeCounters {
        self.nodes.values().fold(NodeCounters::default(), |sum, node| NodeCounters {
            downloaded: sum.downloaded.saturating_add(node.downloaded),
            in_vain: sum.in_vain.saturating_add(node.in_vain),
            evictions: sum.evictions.saturating_add(node.evictions),
            evicted: sum.evicted.saturating_add(node.evicted),
        })
    }

    /// Returns node, normalized image reference and received bytes of all pulls. A layer counts for
    /// the image whose pull requested it first.
    pub fn images(&self) -> impl Iterator<Item = (NodeId, &str, u64)> {
        self.images.iter().map(|((node, image), bytes)| (*node, image.as_str(), *bytes))
    }

    /// Removes and returns the starts of pods since the last call, in order. The caller bounds the
    /// memory by calling it.
    pub fn take_starts(&mut self) -> Vec<PodStart> {
        std::mem::take(&mut self.starts)
    }

    /// Counts received bytes of a layer that a pull of `image` has requested.
    pub(crate) fn downloaded(&mut self, node: NodeId, image: &str, bytes: u64) {
        let counters = self.nodes.entry(node).or_default();
        counters.downloaded = counters.downloaded.saturating_add(bytes);
        let sum = self.images.entry((node, image.to_owned())).or_default();
        *sum = sum.saturating_add(bytes);
    }

    /// Counts received bytes that were dropped.
    pub(crate) fn in_vain(&mut self, node: NodeId, bytes: u64) {
        let counters = self.nodes.entry(node).or_default();
        counters.in_vain = counters.in_vain.saturating_add(bytes);
    }

    /// Counts evictions.
    pub(crate) fn evicted(&mut self, node: NodeId, evictions: &[Eviction]) {
        let counters = self.nodes.entry(node).or_default();
        for eviction in evictions {
            counters.evictions = counters.evictions.saturating_add(1);
            counters.evicted = counters.evicted.saturating_add(eviction.freed);
            counters.in_vain = counters.in_vain.saturating_add(eviction.bytes_in_vain);
        }
    }

    /// Adds the start of a pod.
    pub(crate) fn started(&mut self, start: PodStart) {
        self.starts.push(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{image::Digest, store::EvictionCause};

    #[test]
    fn totals_are_the_sums_of_the_nodes() {
        let mut counters = Counters::default();
        counters.downloaded(NodeId(0), "a", 5);
        counters.downloaded(NodeId(1), "a", 7);
        counters.downloaded(NodeId(1), "a", 1);
        counters.in_vain(NodeId(1), 2);
        let eviction = Eviction {
            id: Digest::of(&[]),
            names: Vec::new(),
            cause: EvictionCause::Space,
            size: 10,
            freed: 20,
            was_used: false,
            bytes_in_vain: 3,
        };
        counters.evicted(NodeId(0), &[eviction]);
        let total = NodeCounters { downloaded: 13, in_vain: 5, evictions: 1, evicted: 20 };
        assert_eq!(counters.total(), total);
        assert_eq!(counters.node(NodeId(1)).downloaded, 8);
        assert_eq!(
            counters.images().collect::<Vec<_>>(),
            [(NodeId(0), "a", 5), (NodeId(1), "a", 8)]
        );
    }
}
