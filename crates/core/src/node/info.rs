//! Node information kept in memory: a Node of 15 KB with 20 labels and 50 images becomes 2 KB.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::{api::core::v1::Taint, jiff::Timestamp};

use super::{Interner, ineligible::IneligibleReason, networks::node_networks};
use crate::{
    image::ImageRef,
    slim::{NodeStatus, SlimNode},
};

/// Node with only the fields that decisions need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeInfo {
    /// Name of the node.
    pub name: String,
    /// Labels.
    pub labels: NodeLabels,
    /// Taints.
    pub taints: Box<[Taint]>,
    /// Set if the node is cordoned.
    pub unschedulable: bool,
    /// Set if the `Ready` condition is `True`.
    pub ready: bool,
    /// Time since which the node is not ready, if reported.
    pub unready_since: Option<Timestamp>,
    /// First pressure condition that is `True`.
    pub pressure: Option<IneligibleReason>,
    /// Operating system, such as `linux`; empty if not reported.
    pub os: Arc<str>,
    /// Architecture, such as `amd64`; empty if not reported.
    pub architecture: Arc<str>,
    /// IP addresses and host name.
    pub addresses: Box<[Arc<str>]>,
    /// Networks of the node's addresses and of its pods.
    pub networks: Box<[IpNet]>,
    /// Version of the kubelet.
    pub kubelet: MajorMinor,
    /// Name of the container runtime, such as `containerd`.
    pub runtime: Arc<str>,
    /// Version of the container runtime.
    pub runtime_version: MajorMinor,
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
    /// Hash that identifies the running machine. It changes if the Node is created again with the
    /// same name, or the machine is replaced or rebooted.
    pub identity: u64,
    images: Box<[u64]>,
}

/// Major and minor version; 0.0 if it cannot be parsed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MajorMinor(pub u32, pub u32);

impl MajorMinor {
    fn parse(text: &str) -> Self {
        let mut parts = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
        let mut next = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        Self(next(), next())
    }
}

/// Labels sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLabels(Box<[(Arc<str>, Arc<str>)]>);

impl NodeLabels {
    fn new(labels: &BTreeMap<String, String>, texts: &Interner) -> Self {
        Self(labels.iter().map(|(key, value)| (texts.intern(key), texts.intern(value))).collect())
    }

    /// Iterates over keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Returns the value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(found).map(|(_, value)| &**value)
    }
}

impl NodeInfo {
    /// Extracts the information from a Node.
    #[must_use]
    pub fn new(node: &SlimNode, texts: &Interner) -> Self {
        let (spec, status) = (&node.spec, &node.status);
        let unready = status.conditions.iter().find(|c| c.type_ == "Ready" && c.status != "True");
        let info = status.node_info.as_ref();
        let (runtime, version) =
            info.and_then(|i| i.container_runtime_version.split_once("://")).unwrap_or_default();
        let addresses = status.addresses.iter().map(|address| address.address.as_str());
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: NodeLabels::new(
                node.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()),
                texts,
            ),
            taints: spec.taints.clone().into(),
            unschedulable: spec.unschedulable,
            ready: has_condition(status, "Ready"),
            unready_since: unready.and_then(|c| Some(c.last_transition_time.as_ref()?.0)),
            pressure: pressure(status),
            os: texts.intern(info.map_or("", |i| &i.operating_system)),
            architecture: texts.intern(info.map_or("", |i| &i.architecture)),
            addresses: addresses.clone().map(|address| texts.intern(address)).collect(),
            networks: node_networks(addresses, spec.pod_cidrs.iter().map(String::as_str)).into(),
            kubelet: info.map(|i| MajorMinor::parse(&i.kubelet_version)).unwrap_or_default(),
            runtime: texts.intern(runtime),
            runtime_version: MajorMinor::parse(version),
            storage: allocatable_bytes(status, "ephemeral-storage"),
            cpu_millis: status.allocatable.get("cpu").map_or(0, |q| parse_millicores(&q.0)),
            memory: allocatable_bytes(status, "memory"),
            pods: status.allocatable.get("pods").and_then(|q| q.0.parse().ok()).unwrap_or(0),
            images_size: images_size(status),
            identity: machine_identity(node),
            images: image_hashes(status).into(),
        }
    }

    /// Returns a ready Linux node.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn sample(name: &str) -> Self {
        let identity = name
            .bytes()
            .fold(1, |number: u64, byte| number.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Self { name: name.into(), ready: true, os: "linux".into(), identity, ..Self::default() }
    }

    /// Sets the only image that the node reports.
    #[cfg(test)]
    pub(crate) fn set_reported_image(&mut self, image: &ImageRef) {
        self.images = [image_hash(image)].into();
    }

    /// Reports whether the node can mount image volumes. They are enabled by default since kubelet
    /// 1.35 (KEP-4639); containerd mounts them since 2.1, CRI-O with every option since 1.33.
    #[must_use]
    pub fn supports_image_volumes(&self) -> bool {
        let runtime = match &*self.runtime {
            "containerd" => self.runtime_version >= MajorMinor(2, 1),
            "cri-o" => self.runtime_version >= MajorMinor(1, 33),
            _ => false,
        };
        runtime && self.kubelet >= MajorMinor(1, 35)
    }

    /// Reports whether the node has disk pressure, so that the kubelet is about to delete images.
    #[must_use]
    pub fn has_disk_pressure(&self) -> bool {
        self.pressure == Some(IneligibleReason::DiskPressure)
    }

    /// Reports whether the node reports exactly this image: by digest if it has one, else by
    /// normalized name. `false` does not mean that the image is absent, because the kubelet reports
    /// at most 50 images.
    #[must_use]
    pub fn reports_image(&self, image: &ImageRef) -> bool {
        self.images.binary_search(&image_hash(image)).is_ok()
    }
}

/// Reports whether a condition is `True`.
fn has_condition(status: &NodeStatus, name: &str) -> bool {
    status.conditions.iter().any(|c| c.type_ == name && c.status == "True")
}

/// Returns the first pressure condition that is `True`.
fn pressure(status: &NodeStatus) -> Option<IneligibleReason> {
    let pressures = [
        ("DiskPressure", IneligibleReason::DiskPressure),
        ("MemoryPressure", IneligibleReason::MemoryPressure),
        ("PIDPressure", IneligibleReason::PidPressure),
    ];
    pressures.into_iter().find(|(name, _)| has_condition(status, name)).map(|(_, reason)| reason)
}

/// Returns an allocatable quantity in bytes; 0 if it is not reported.
fn allocatable_bytes(status: &NodeStatus, resource: &str) -> u64 {
    status.allocatable.get(resource).and_then(|q| parse_byte_quantity(&q.0)).unwrap_or(0)
}

/// Returns the size of the reported images, in bytes.
fn images_size(status: &NodeStatus) -> u64 {
    status.images.iter().filter_map(|image| u64::try_from(image.size_bytes?).ok()).sum()
}

/// Returns the hashes of the reported images, sorted and distinct.
fn image_hashes(status: &NodeStatus) -> Vec<u64> {
    let names = status.images.iter().flat_map(|image| image.names.iter().flatten());
    let mut known: Vec<u64> = names
        .filter_map(|name| name.parse::<ImageRef>().ok())
        .map(|name| image_hash(&name))
        .collect();
    known.sort_unstable();
    known.dedup();
    known
}

/// Returns a 64-bit hash of name, UID, machine ID and boot ID.
fn machine_identity(node: &SlimNode) -> u64 {
    let info = node.status.node_info.as_ref();
    let machine = info.map(|info| (&info.machine_id, &info.boot_id));
    let mut hasher = DefaultHasher::new();
    (&node.metadata.name, &node.metadata.uid, machine).hash(&mut hasher);
    hasher.finish()
}

/// Returns a 64-bit hash of an image. Two of a node's hundred images collide with a probability of
/// 10^-17.
fn image_hash(image: &ImageRef) -> u64 {
    let mut hasher = DefaultHasher::new();
    (image.registry(), image.repository()).hash(&mut hasher);
    match image.digest() {
        Some(digest) => digest.hash(&mut hasher),
        None => image.tag().hash(&mut hasher),
    }
    hasher.finish()
}

/// Parses a CPU quantity such as `250m`, `2` or `1.5` to millicores; 0 if it is invalid.
#[must_use]
pub fn parse_millicores(quantity: &str) -> u64 {
    match quantity.strip_suffix('m') {
        Some(millis) => millis.parse().unwrap_or(0),
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast keeps within bounds"
        )]
        None => quantity.parse::<f64>().map_or(0, |whole| (whole * 1000.0) as u64),
    }
}

/// Parses a quantity such as `100Gi` or `97683020Ki` to bytes; `None` unless it is an integer with
/// a suffix of Kubernetes.
#[must_use]
pub fn parse_byte_quantity(quantity: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u64); 10] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
    ];
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| quantity.strip_suffix(suffix).map(|number| (number, *factor)))
        .unwrap_or((quantity, 1));
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("1024", Some(1024))]
    #[case("2Ki", Some(2048))]
    #[case("200Gi", Some(214_748_364_800))]
    #[case("3M", Some(3_000_000))]
    #[case("1.5Gi", None)]
    #[case("", None)]
    fn parses_byte_quantities(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(parse_byte_quantity(text), expected);
    }

    #[test]
    fn reported_images_match_exactly() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let node: SlimNode = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"images": [
            {"names": [format!("docker.io/library/nginx@{digest}"), "docker.io/library/nginx:1.27"], "sizeBytes": 100},
            {"names": ["r.example/svc1:1.1.0-debug"], "sizeBytes": 50},
            {"names": ["<none>@<none>"]}
        ]}}))
        .unwrap();
        let facts = NodeInfo::new(&node, &Interner::default());
        let reports = |text: &str| facts.reports_image(&text.parse().unwrap());
        assert!(reports("nginx:1.27"));
        assert!(reports(&format!("nginx@{digest}")));
        assert!(reports(&format!("nginx:other@{digest}")), "the digest decides");
        assert!(!reports("nginx:1.2"));
        assert!(!reports("r.example/svc1:1.1.0"), "a prefix of a tag does not match");
        assert!(!reports("other.example/library/nginx:1.27"));
        assert_eq!(facts.images_size, 150);
    }

    #[test]
    fn identity_changes_with_the_machine() {
        let identity = |uid: &str, machine: &str, boot: &str| {
            let info = json!({"machineID": machine, "bootID": boot, "kubeletVersion": "v1.36.0"});
            let node = json!({"metadata": {"name": "n", "uid": uid}, "status": {"nodeInfo": info}});
            NodeInfo::new(&serde_json::from_value(node).unwrap(), &Interner::default()).identity
        };
        let one = identity("u", "m", "b");
        assert_eq!(one, identity("u", "m", "b"));
        for other in [identity("v", "m", "b"), identity("u", "n", "b"), identity("u", "m", "c")] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn parses_cpu_quantities() {
        assert_eq!(
            (
                parse_millicores("250m"),
                parse_millicores("2"),
                parse_millicores("1.5"),
                parse_millicores("x")
            ),
            (250, 2000, 1500, 0)
        );
    }
}
