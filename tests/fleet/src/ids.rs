//! Numbers by which the parts of the simulator refer to one another.

/// Number of a node, assigned in the order in which nodes are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// Number of a registry, assigned in the order in which registries are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryId(pub u32);

/// Number of a pod, assigned in the order in which pods are bound and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(pub u64);
