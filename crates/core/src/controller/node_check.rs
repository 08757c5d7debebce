//! Input of node checks.

use crate::{image::ImageRef, node::NodeInfo};

/// Node that could pull the images according to its own status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeCandidate {
    /// Name of the node.
    pub name: String,
    /// IP addresses and host name.
    pub addresses: Vec<String>,
    /// Architecture, such as `amd64`; empty if not reported.
    pub architecture: String,
    /// Capacity for images and containers, in bytes; 0 if not reported.
    pub storage: u64,
    /// Size of the images that the node reports, in bytes.
    pub images_size: u64,
    /// Allocatable CPU, in millicores.
    pub cpu_millis: u64,
    /// Allocatable memory, in bytes.
    pub memory: u64,
    /// Maximum number of pods.
    pub pods: u64,
}

impl From<&NodeInfo> for NodeCandidate {
    fn from(node: &NodeInfo) -> Self {
        Self {
            name: node.name.clone(),
            addresses: node.addresses.iter().map(std::string::ToString::to_string).collect(),
            architecture: node.architecture.to_string(),
            storage: node.storage,
            images_size: node.images_size,
            cpu_millis: node.cpu_millis,
            memory: node.memory,
            pods: node.pods,
        }
    }
}

/// Input of a check.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckInput {
    /// Images of a task.
    pub images: Vec<ImageRef>,
    /// Nodes that could pull them.
    pub nodes: Vec<NodeCandidate>,
    /// Namespace of the task, if it needs fewer nodes than these: the nodes are then ranked.
    pub rank_for_namespace: Option<String>,
}
