//! Nodes that have no room for a task's images, or no use for them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use http::Request;
use ipnet::IpNet;
use kube::Client;
use serde::Deserialize;

use super::{Candidate, Check, Examination, ImageFacts, Registries, clipped};
use crate::{egress::Policy, image::Reference, metrics::Metrics, task::plan::Findings};

/// Room that an image takes on a node, by its compressed size: the layers as they came, and unpacked at about twice that.
const UNPACKED: u64 = 3;
/// The kubelet begins to delete images above this share of the disk, in percent (its `imageGCHighThresholdPercent`).
const FULL: u64 = 85;
/// Images of a task asked for at once.
const IMAGES: usize = 4;
/// Kubelets asked at once.
const KUBELETS: usize = 20;
/// Images named in what could not be found out.
const MAX_NAMED: usize = 3;
/// Characters of an image that a message shows: its reason is to be seen behind it.
const SHOWN: usize = 100;

/// How room is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSettings {
    /// No image may be larger than this, compressed, in bytes.
    pub max_image_size: Option<u64>,
    /// Whether each node's kubelet is asked, through the API server, how full its image file system is. Needs `get` on
    /// `nodes/proxy`, which allows more than that.
    pub ask_kubelets: bool,
    /// Registries that speak plain HTTP, wherever they are.
    pub plain_registries: Vec<String>,
    /// Networks beside the public internet that registries may be in.
    pub allow: Vec<IpNet>,
}

/// Compares images with disks.
pub struct DiskCheck {
    settings: DiskSettings,
    registries: Registries,
    client: Client,
}

/// How full a disk is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    used: u64,
    capacity: u64,
}

impl DiskCheck {
    /// A check with these settings; `client` is for the kubelets, `policy` for the registries. The error is the HTTP
    /// client's.
    pub fn new(
        settings: DiskSettings,
        client: Client,
        policy: &Policy,
        metrics: Arc<Metrics>,
    ) -> reqwest::Result<Self> {
        let registries = Registries::new(policy, &settings.plain_registries, metrics)?;
        Ok(Self { settings, registries, client })
    }

    async fn images(&self, examination: &Examination) -> (Vec<ImageFacts>, Vec<String>) {
        let ask = |image| self.image(image).boxed();
        let asked: Vec<BoxFuture<'_, _>> = examination.images.iter().map(ask).collect();
        let answers: Vec<_> = stream::iter(asked).buffered(IMAGES).collect().await;
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer {
                Ok(facts) => known.push(facts),
                Err(why) => unknown.push(why),
            }
        }
        let more = unknown.len().saturating_sub(MAX_NAMED);
        unknown.truncate(MAX_NAMED);
        if more > 0 {
            unknown.push(format!("and {more} more images"));
        }
        (known, unknown)
    }

    async fn image(&self, image: &Reference) -> Result<ImageFacts, String> {
        let named = |why| format!("{}: {why}", clipped(image.as_written(), SHOWN));
        self.registries.look_up(image).await.map_err(named)
    }

    async fn disks(&self, nodes: &[Candidate]) -> (HashMap<String, Disk>, usize) {
        if !self.settings.ask_kubelets {
            return (HashMap::new(), 0);
        }
        let asked: Vec<BoxFuture<'_, _>> = nodes.iter().map(|node| self.summary(&node.name).boxed()).collect();
        let answers: Vec<Option<Disk>> = stream::iter(asked).buffered(KUBELETS).collect().await;
        let silent = answers.iter().filter(|disk| disk.is_none()).count();
        let known = nodes.iter().zip(answers).filter_map(|(node, disk)| Some((node.name.clone(), disk?)));
        (known.collect(), silent)
    }

    /// The kubelet's summary API (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`).
    async fn summary(&self, node: &str) -> Option<Disk> {
        let path = format!("/api/v1/nodes/{node}/proxy/stats/summary?only_cpu_and_memory=false");
        let request = Request::get(path).body(Vec::new()).ok()?;
        let summary: Summary = self.client.request(request).await.ok()?;
        let file_system = summary.node.runtime?.image_fs?;
        let capacity = file_system.capacity_bytes?;
        Some(Disk { used: capacity.saturating_sub(file_system.available_bytes?), capacity })
    }
}

#[derive(Deserialize)]
struct Summary {
    node: NodeStats,
}

#[derive(Deserialize)]
struct NodeStats {
    runtime: Option<RuntimeStats>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeStats {
    image_fs: Option<FileSystem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileSystem {
    available_bytes: Option<u64>,
    capacity_bytes: Option<u64>,
}

impl Check for DiskCheck {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn examine<'a>(&'a self, examination: &'a Examination) -> BoxFuture<'a, Result<Findings, String>> {
        async move {
            let (images, mut unchecked) = self.images(examination).await;
            let (disks, silent) = self.disks(&examination.nodes).await;
            if silent > 0 {
                unchecked.push(format!("{silent} kubelets did not say how full their disks are"));
            }
            let complete = images.len() == examination.images.len();
            let ignored = judge(&images, complete, &examination.nodes, &disks, self.settings.max_image_size);
            Ok(Findings { ignored, unchecked, ..Findings::default() })
        }
        .boxed()
    }
}

/// Which nodes to leave out. `complete`: every image of the task is known.
fn judge(
    images: &[ImageFacts],
    complete: bool,
    nodes: &[Candidate],
    disks: &HashMap<String, Disk>,
    max: Option<u64>,
) -> BTreeMap<String, String> {
    let reason = |node: &Candidate| {
        let sizes: Vec<u64> = images.iter().filter_map(|image| image.size_on(&node.architecture)).collect();
        if complete && sizes.is_empty() {
            return Some("PlatformMismatch");
        }
        if max.is_some_and(|max| sizes.iter().any(|size| *size > max)) {
            return Some("ImageTooLarge");
        }
        let disk = disks.get(&node.name).copied().unwrap_or(Disk { used: node.images_size, capacity: node.storage });
        let needed = sizes.iter().sum::<u64>().saturating_mul(UNPACKED);
        let room = (disk.capacity / 100).saturating_mul(FULL);
        (disk.capacity > 0 && disk.used.saturating_add(needed) > room).then_some("NotEnoughDisk")
    };
    nodes.iter().filter_map(|node| Some((node.name.clone(), reason(node)?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GB: u64 = 1_000_000_000;

    fn image(sizes: &[(&str, u64)]) -> ImageFacts {
        ImageFacts { sizes: sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect() }
    }

    fn node(architecture: &str, storage: u64, images_size: u64) -> Candidate {
        Candidate { name: "n".into(), architecture: architecture.into(), storage, images_size, ..Candidate::default() }
    }

    #[rstest]
    #[case::fits(node("amd64", 100 * GB, 10 * GB), None)]
    #[case::full(node("amd64", 100 * GB, 83 * GB), Some("NotEnoughDisk"))]
    #[case::unknown_room(node("amd64", 0, 83 * GB), None)]
    #[case::other_platform(node("s390x", 100 * GB, 0), Some("PlatformMismatch"))]
    #[case::unknown_platform(node("", 100 * GB, 0), None)]
    fn room(#[case] node: Candidate, #[case] expected: Option<&str>) {
        let found = judge(&[image(&[("amd64", GB)])], true, &[node], &HashMap::new(), None);
        assert_eq!(found.get("n").map(String::as_str), expected);
    }

    #[test]
    fn what_the_kubelet_says_counts_more() {
        let full = HashMap::from([("n".to_owned(), Disk { used: 90 * GB, capacity: 100 * GB })]);
        let found = judge(&[image(&[("amd64", GB)])], true, &[node("amd64", 100 * GB, 0)], &full, None);
        assert_eq!(found["n"], "NotEnoughDisk");
    }

    #[test]
    fn one_image_too_large_is_too_many() {
        let images = [image(&[("amd64", 1)]), image(&[("amd64", 20 * GB)])];
        let found = judge(&images, true, &[node("amd64", 1000 * GB, 0)], &HashMap::new(), Some(10 * GB));
        assert_eq!(found["n"], "ImageTooLarge");
    }

    #[test]
    fn an_unknown_image_may_be_for_any_platform() {
        let found = judge(&[image(&[("amd64", 1)])], false, &[node("arm64", 0, 0)], &HashMap::new(), None);
        assert!(found.is_empty());
    }
}
