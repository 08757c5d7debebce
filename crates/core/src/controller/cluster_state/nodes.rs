//! Nodes in the cluster state.

use k8s_openapi::jiff::Timestamp;

use super::{
    super::watch::{WatchChange, WatchSource},
    state::ClusterState,
};
use crate::node::NodeInfo;

impl ClusterState {
    pub(super) fn apply_nodes(&mut self, change: WatchChange<NodeInfo>, now: Timestamp) {
        match change {
            WatchChange::Applied(node) => self.apply_node(node, now),
            WatchChange::Deleted(node) => drop(self.nodes.remove(&node.name)),
            WatchChange::Restarted(nodes) => {
                let before = std::mem::take(&mut self.nodes);
                for node in nodes {
                    let since = before.get(&node.name).and_then(|node| node.unready_since);
                    self.insert_node(node, since, now);
                }
                self.synced.insert(WatchSource::all("nodes"));
            }
        }
    }

    fn apply_node(&mut self, node: NodeInfo, now: Timestamp) {
        let since = self.nodes.get(&node.name).and_then(|node| node.unready_since);
        self.insert_node(node, since, now);
    }

    /// Inserts a node, not ready since the time at which the controller first saw it so. The time
    /// in the node's own condition comes from another clock.
    fn insert_node(&mut self, mut node: NodeInfo, since: Option<Timestamp>, now: Timestamp) {
        node.unready_since = (!node.ready).then(|| since.unwrap_or(now));
        self.nodes.insert(node.name.clone(), node);
    }
}
