//! What is kept of a Node: an object of 15 KB comes down to a few hundred bytes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::Ignored;

/// A node, reduced to what decisions need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The node's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Whether its `Ready` condition is `True`.
    pub ready: bool,
    /// The first pressure it reports.
    pub pressure: Option<Ignored>,
    /// Its operating system, such as `linux`; empty where not reported.
    pub os: String,
    /// The kubelet's version.
    pub kubelet: Version,
    /// The container runtime's name, such as `containerd`.
    pub runtime: String,
    /// The container runtime's version.
    pub runtime_version: Version,
}

/// Major and minor version; 0.0 where it cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    fn parse(text: &str) -> Self {
        let mut parts = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
        let mut next = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        Self(next(), next())
    }
}

impl Facts {
    /// Image volumes are on by default since kubelet 1.35 (KEP-4639); containerd
    /// mounts them since 2.1, CRI-O with every option since 1.33.
    #[must_use]
    pub fn mounts_image_volumes(&self) -> bool {
        let runtime = match self.runtime.as_str() {
            "containerd" => self.runtime_version >= Version(2, 1),
            "cri-o" => self.runtime_version >= Version(1, 33),
            _ => false,
        };
        runtime && self.kubelet >= Version(1, 35)
    }
}

impl From<&Node> for Facts {
    fn from(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let is_true = |name: &str| conditions.iter().any(|c| c.type_ == name && c.status == "True");
        let pressures = [
            ("DiskPressure", Ignored::DiskPressure),
            ("MemoryPressure", Ignored::MemoryPressure),
            ("PIDPressure", Ignored::PidPressure),
        ];
        let info = status.and_then(|s| s.node_info.as_ref());
        let (runtime, version) = info.and_then(|i| i.container_runtime_version.split_once("://")).unwrap_or_default();
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or_default(),
            ready: is_true("Ready"),
            pressure: pressures.iter().find(|(name, _)| is_true(name)).map(|(_, reason)| *reason),
            os: info.map(|i| i.operating_system.clone()).unwrap_or_default(),
            kubelet: info.map(|i| Version::parse(&i.kubelet_version)).unwrap_or_default(),
            runtime: runtime.to_owned(),
            runtime_version: Version::parse(version),
        }
    }
}
