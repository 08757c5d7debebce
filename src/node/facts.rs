//! What is kept of a Node: an object of 15 KB with 20 labels and 50 images comes down to two kilobytes.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;
use k8s_openapi::{api::core::v1::Taint, jiff::Timestamp};

use super::Ignored;
use crate::{egress, image::Reference, reduced::ReducedNode};

/// A node, reduced to what decisions need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The node's name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its taints.
    pub taints: Box<[Taint]>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Whether its `Ready` condition is `True`.
    pub ready: bool,
    /// Since when it is not, where it says so.
    pub unready_since: Option<Timestamp>,
    /// The first pressure it reports.
    pub pressure: Option<Ignored>,
    /// Its operating system, such as `linux`; empty where not reported.
    pub os: Arc<str>,
    /// Its architecture, such as `amd64`; empty where not reported.
    pub architecture: Arc<str>,
    /// Its addresses and host name.
    pub addresses: Box<[Arc<str>]>,
    /// The networks of its own addresses and of its pods.
    pub networks: Box<[IpNet]>,
    /// The kubelet's version.
    pub kubelet: Version,
    /// The container runtime's name, such as `containerd`.
    pub runtime: Arc<str>,
    /// The container runtime's version.
    pub runtime_version: Version,
    /// Room for images and containers, in bytes; 0 where not reported.
    pub storage: u64,
    /// What the images that the node reports take, in bytes.
    pub images_size: u64,
    /// Thousandths of processors for pods.
    pub cpu_millis: u64,
    /// Memory for pods, in bytes.
    pub memory: u64,
    /// How many pods it takes.
    pub pods: u64,
    /// Which machine it is, as it runs now: another where the Node was made anew under its name, or the machine was replaced or
    /// started again.
    pub identity: u64,
    images: Box<[u64]>,
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

/// Texts that many nodes share, each kept once.
#[derive(Debug, Default)]
pub struct Interner(Mutex<HashSet<Arc<str>>>);

/// Texts that no node uses any more are dropped when this many are known: 5,000 nodes with 20 labels, half of them their own.
const MANY_TEXTS: usize = 50_000;

impl Interner {
    /// The one copy of a text.
    pub fn text(&self, text: &str) -> Arc<str> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = known.get(text) {
            return Arc::clone(text);
        }
        if known.len() >= MANY_TEXTS {
            known.retain(|text| Arc::strong_count(text) > 1);
        }
        let text: Arc<str> = text.into();
        known.insert(Arc::clone(&text));
        text
    }
}

/// Labels, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    fn new(labels: &BTreeMap<String, String>, texts: &Interner) -> Self {
        Self(labels.iter().map(|(key, value)| (texts.text(key), texts.text(value))).collect())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// The label's value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(found).map(|(_, value)| &**value)
    }
}

impl Facts {
    /// Reduces a Node.
    #[must_use]
    pub fn new(node: &ReducedNode, texts: &Interner) -> Self {
        let (spec, status) = (&node.spec, &node.status);
        let is_true = |name: &str| status.conditions.iter().any(|c| c.type_ == name && c.status == "True");
        let pressures = [
            ("DiskPressure", Ignored::DiskPressure),
            ("MemoryPressure", Ignored::MemoryPressure),
            ("PIDPressure", Ignored::PidPressure),
        ];
        let unready = status.conditions.iter().find(|c| c.type_ == "Ready" && c.status != "True");
        let info = status.node_info.as_ref();
        let (runtime, version) = info.and_then(|i| i.container_runtime_version.split_once("://")).unwrap_or_default();
        let names = status.images.iter().flat_map(|image| image.names.iter().flatten());
        let mut known: Vec<u64> =
            names.filter_map(|name| name.parse::<Reference>().ok()).map(|name| mark(&name)).collect();
        known.sort_unstable();
        known.dedup();
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: Labels::new(node.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()), texts),
            taints: spec.taints.clone().into(),
            unschedulable: spec.unschedulable,
            ready: is_true("Ready"),
            unready_since: unready.and_then(|c| Some(c.last_transition_time.as_ref()?.0)),
            pressure: pressures.iter().find(|(name, _)| is_true(name)).map(|(_, reason)| *reason),
            os: texts.text(info.map_or("", |i| &i.operating_system)),
            architecture: texts.text(info.map_or("", |i| &i.architecture)),
            addresses: status.addresses.iter().map(|address| texts.text(&address.address)).collect(),
            networks: egress::of_node(
                status.addresses.iter().map(|address| address.address.as_str()),
                spec.pod_cidrs.iter().map(String::as_str),
            )
            .into(),
            kubelet: info.map(|i| Version::parse(&i.kubelet_version)).unwrap_or_default(),
            runtime: texts.text(runtime),
            runtime_version: Version::parse(version),
            storage: status.allocatable.get("ephemeral-storage").and_then(|q| bytes(&q.0)).unwrap_or(0),
            cpu_millis: status.allocatable.get("cpu").map_or(0, |q| millis(&q.0)),
            memory: status.allocatable.get("memory").and_then(|q| bytes(&q.0)).unwrap_or(0),
            pods: status.allocatable.get("pods").and_then(|q| q.0.parse().ok()).unwrap_or(0),
            images_size: status.images.iter().filter_map(|image| u64::try_from(image.size_bytes?).ok()).sum(),
            identity: identity(node),
            images: known.into(),
        }
    }

    /// A Linux node that is ready.
    #[cfg(test)]
    pub(crate) fn sample(name: &str) -> Self {
        let identity = name.bytes().fold(1, |number, byte| number * 31 + u64::from(byte));
        Self { name: name.into(), ready: true, os: "linux".into(), identity, ..Self::default() }
    }

    /// The node reports the image.
    #[cfg(test)]
    pub(crate) fn report(&mut self, image: &Reference) {
        self.images = [mark(image)].into();
    }

    /// Image volumes are on by default since kubelet 1.35 (KEP-4639); containerd
    /// mounts them since 2.1, CRI-O with every option since 1.33.
    #[must_use]
    pub fn mounts_image_volumes(&self) -> bool {
        let runtime = match &*self.runtime {
            "containerd" => self.runtime_version >= Version(2, 1),
            "cri-o" => self.runtime_version >= Version(1, 33),
            _ => false,
        };
        runtime && self.kubelet >= Version(1, 35)
    }

    /// Whether the kubelet is about to delete images.
    #[must_use]
    pub fn is_short_of_disk(&self) -> bool {
        self.pressure == Some(Ignored::DiskPressure)
    }

    /// Whether the node reports this very image: its digest where it has one, else its whole name. That it does not report
    /// it says nothing: the kubelet lists 50 images at most.
    #[must_use]
    pub fn reports(&self, image: &Reference) -> bool {
        self.images.binary_search(&mark(image)).is_ok()
    }
}

/// Name, UID, machine and boot as 64 bits.
fn identity(node: &ReducedNode) -> u64 {
    let info = node.status.node_info.as_ref();
    let machine = info.map(|info| (&info.machine_id, &info.boot_id));
    let mut hasher = DefaultHasher::new();
    (&node.metadata.name, &node.metadata.uid, machine).hash(&mut hasher);
    hasher.finish()
}

/// An image as 64 bits: two of a node's hundred names meet with a chance of 10^-17.
fn mark(image: &Reference) -> u64 {
    let mut hasher = DefaultHasher::new();
    (image.registry(), image.repository()).hash(&mut hasher);
    match image.digest() {
        Some(digest) => digest.hash(&mut hasher),
        None => image.tag().hash(&mut hasher),
    }
    hasher.finish()
}

/// A quantity of processors such as `250m`, `2` or `1.5`, in thousandths; 0 where it is none.
#[must_use]
pub fn millis(quantity: &str) -> u64 {
    match quantity.strip_suffix('m') {
        Some(millis) => millis.parse().unwrap_or(0),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast keeps within bounds")]
        None => quantity.parse::<f64>().map_or(0, |whole| (whole * 1000.0) as u64),
    }
}

/// A quantity such as `100Gi` or `97683020Ki` in bytes; none where it is no whole number with a suffix known to Kubernetes.
#[must_use]
pub fn bytes(quantity: &str) -> Option<u64> {
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
    fn quantities(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(bytes(text), expected);
    }

    #[test]
    fn presence_is_exact() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let node: ReducedNode = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"images": [
            {"names": [format!("docker.io/library/nginx@{digest}"), "docker.io/library/nginx:1.27"], "sizeBytes": 100},
            {"names": ["r.example/svc1:1.1.0-debug"], "sizeBytes": 50},
            {"names": ["<none>@<none>"]}
        ]}}))
        .unwrap();
        let facts = Facts::new(&node, &Interner::default());
        let reports = |text: &str| facts.reports(&text.parse().unwrap());
        assert!(reports("nginx:1.27"));
        assert!(reports(&format!("nginx@{digest}")));
        assert!(reports(&format!("nginx:other@{digest}")), "the digest decides");
        assert!(!reports("nginx:1.2"));
        assert!(!reports("r.example/svc1:1.1.0"), "part of a name is no name");
        assert!(!reports("other.example/library/nginx:1.27"));
        assert_eq!(facts.images_size, 150);
    }

    #[test]
    fn a_node_is_another_when_its_machine_is() {
        let identity = |uid: &str, machine: &str, boot: &str| {
            let info = json!({"machineID": machine, "bootID": boot, "kubeletVersion": "v1.36.0"});
            let node = json!({"metadata": {"name": "n", "uid": uid}, "status": {"nodeInfo": info}});
            Facts::new(&serde_json::from_value(node).unwrap(), &Interner::default()).identity
        };
        let one = identity("u", "m", "b");
        assert_eq!(one, identity("u", "m", "b"));
        for other in [identity("v", "m", "b"), identity("u", "n", "b"), identity("u", "m", "c")] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn processors() {
        assert_eq!((millis("250m"), millis("2"), millis("1.5"), millis("x")), (250, 2000, 1500, 0));
    }
}
