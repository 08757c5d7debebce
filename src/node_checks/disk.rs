//! Check that excludes nodes without enough disk space for a task's images, or of another platform.

use std::collections::{BTreeMap, HashMap};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use http::Request;
use ipnet::IpNet;
use kube::Client;
use prewarmer_core::task::plan::NodeCheckFindings;
use serde::Deserialize;

use super::{
    CheckInput, ImageSizeLookup, ImageSizes, NodeCandidate, NodeCheck, NodeCheckError,
    NodeCheckMetrics, truncated,
};
use crate::egress::EgressPolicy;

/// Disk space of an image as a multiple of its compressed size: the compressed layers, and about
/// twice their size unpacked.
const DISK_SPACE_FACTOR: u64 = 3;
/// Disk usage in percent above which the kubelet deletes images (its
/// `imageGCHighThresholdPercent`).
const IMAGE_GC_THRESHOLD_PERCENT: u64 = 85;
/// Number of images of a task that are looked up concurrently.
const CONCURRENT_LOOKUPS: usize = 4;
/// Number of kubelets that are queried concurrently.
const CONCURRENT_KUBELETS: usize = 20;
/// Maximum number of images named among the failed lookups.
const MAX_NAMED_IMAGES: usize = 3;
/// Maximum length of an image in a message, in characters, so that the reason after it is not cut
/// off.
const MAX_IMAGE_CHARS: usize = 100;

/// Settings of the disk check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSettings {
    /// Maximum compressed size of an image, in bytes.
    pub max_image_size: Option<u64>,
    /// Queries each node's kubelet through the API server for the usage of its image file system.
    /// Requires `get` on `nodes/proxy`, which permits more than this.
    pub query_kubelets: bool,
    /// Registries that use plain HTTP, at any address.
    pub plain_registries: Vec<String>,
    /// Networks that registries may be in, in addition to the public internet.
    pub allowed_networks: Vec<IpNet>,
}

/// Check that compares image sizes with disk space.
pub(crate) struct DiskCheck {
    settings: DiskSettings,
    registries: ImageSizeLookup,
    client: Client,
}

/// Disk usage in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DiskUsage {
    used: u64,
    capacity: u64,
}

impl DiskCheck {
    /// Creates a check. `client` is used for kubelets, `policy` for registries. The error is that
    /// of the HTTP client.
    pub(crate) fn new(
        settings: DiskSettings,
        client: Client,
        policy: &EgressPolicy,
        metrics: NodeCheckMetrics,
    ) -> reqwest::Result<Self> {
        let registries = ImageSizeLookup::new(policy, &settings.plain_registries, metrics)?;
        Ok(Self { settings, registries, client })
    }

    async fn look_up_images(&self, examination: &CheckInput) -> (Vec<ImageSizes>, Vec<String>) {
        let ask = |image| self.registries.look_up(image).boxed();
        let asked: Vec<BoxFuture<'_, _>> = examination.images.iter().map(ask).collect();
        let answers: Vec<_> = stream::iter(asked).buffered(CONCURRENT_LOOKUPS).collect().await;
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for (image, answer) in examination.images.iter().zip(answers) {
            match answer {
                Ok(facts) => known.push(facts),
                Err(why) => {
                    let image = truncated(image.as_written(), MAX_IMAGE_CHARS);
                    unknown.push(format!("{image}: {why}"));
                }
            }
        }
        let more = unknown.len().saturating_sub(MAX_NAMED_IMAGES);
        unknown.truncate(MAX_NAMED_IMAGES);
        if more > 0 {
            unknown.push(format!("and {more} more images"));
        }
        (known, unknown)
    }

    async fn query_disks(&self, nodes: &[NodeCandidate]) -> (HashMap<String, DiskUsage>, usize) {
        if !self.settings.query_kubelets {
            return (HashMap::new(), 0);
        }
        let asked: Vec<BoxFuture<'_, _>> =
            nodes.iter().map(|node| self.query_kubelet(&node.name).boxed()).collect();
        let answers: Vec<Option<DiskUsage>> =
            stream::iter(asked).buffered(CONCURRENT_KUBELETS).collect().await;
        let silent = answers.iter().filter(|disk| disk.is_none()).count();
        let known =
            nodes.iter().zip(answers).filter_map(|(node, disk)| Some((node.name.clone(), disk?)));
        (known.collect(), silent)
    }

    /// Queries the kubelet's summary API (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`).
    async fn query_kubelet(&self, node: &str) -> Option<DiskUsage> {
        let path = format!("/api/v1/nodes/{node}/proxy/stats/summary?only_cpu_and_memory=false");
        let request = Request::get(path).body(Vec::new()).ok()?;
        let summary: KubeletSummary = self.client.request(request).await.ok()?;
        let file_system = summary.node.runtime?.image_fs?;
        let capacity = file_system.capacity_bytes?;
        Some(DiskUsage { used: capacity.saturating_sub(file_system.available_bytes?), capacity })
    }
}

#[derive(Deserialize)]
struct KubeletSummary {
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

impl NodeCheck for DiskCheck {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn evaluate<'a>(
        &'a self,
        examination: &'a CheckInput,
    ) -> BoxFuture<'a, Result<NodeCheckFindings, NodeCheckError>> {
        async move {
            let (images, mut unchecked) = self.look_up_images(examination).await;
            let (disks, silent) = self.query_disks(&examination.nodes).await;
            if silent > 0 {
                unchecked.push(format!(
                    "{silent} kubelets did not report the usage of their image file systems"
                ));
            }
            let complete = images.len() == examination.images.len();
            let ignored = excluded_nodes(
                &images,
                complete,
                &examination.nodes,
                &disks,
                self.settings.max_image_size,
            );
            Ok(NodeCheckFindings { ignored, unchecked, ..NodeCheckFindings::default() })
        }
        .boxed()
    }
}

/// Returns the nodes to exclude with reasons. `complete`: all images of the task were found.
fn excluded_nodes(
    images: &[ImageSizes],
    complete: bool,
    nodes: &[NodeCandidate],
    disks: &HashMap<String, DiskUsage>,
    max: Option<u64>,
) -> BTreeMap<String, String> {
    let reason = |node: &NodeCandidate| {
        let sizes: Vec<u64> =
            images.iter().filter_map(|image| image.size_on(&node.architecture)).collect();
        if complete && sizes.is_empty() {
            return Some("PlatformMismatch");
        }
        if max.is_some_and(|max| sizes.iter().any(|size| *size > max)) {
            return Some("ImageTooLarge");
        }
        let disk = disks
            .get(&node.name)
            .copied()
            .unwrap_or(DiskUsage { used: node.images_size, capacity: node.storage });
        let needed = sizes.iter().sum::<u64>().saturating_mul(DISK_SPACE_FACTOR);
        let room = (disk.capacity / 100).saturating_mul(IMAGE_GC_THRESHOLD_PERCENT);
        (disk.capacity > 0 && disk.used.saturating_add(needed) > room).then_some("NotEnoughDisk")
    };
    nodes.iter().filter_map(|node| Some((node.name.clone(), reason(node)?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GB: u64 = 1_000_000_000;

    fn image(sizes: &[(&str, u64)]) -> ImageSizes {
        ImageSizes { sizes: sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect() }
    }

    fn node(architecture: &str, storage: u64, images_size: u64) -> NodeCandidate {
        NodeCandidate {
            name: "n".into(),
            architecture: architecture.into(),
            storage,
            images_size,
            ..NodeCandidate::default()
        }
    }

    #[rstest]
    #[case::fits(node("amd64", 100 * GB, 10 * GB), None)]
    #[case::full(node("amd64", 100 * GB, 83 * GB), Some("NotEnoughDisk"))]
    #[case::unknown_room(node("amd64", 0, 83 * GB), None)]
    #[case::other_platform(node("s390x", 100 * GB, 0), Some("PlatformMismatch"))]
    #[case::unknown_platform(node("", 100 * GB, 0), None)]
    fn excludes_nodes_by_capacity_and_platform(
        #[case] node: NodeCandidate,
        #[case] expected: Option<&str>,
    ) {
        let found =
            excluded_nodes(&[image(&[("amd64", GB)])], true, &[node], &HashMap::new(), None);
        assert_eq!(found.get("n").map(String::as_str), expected);
    }

    #[test]
    fn usage_of_the_kubelet_takes_precedence() {
        let full =
            HashMap::from([("n".to_owned(), DiskUsage { used: 90 * GB, capacity: 100 * GB })]);
        let found = excluded_nodes(
            &[image(&[("amd64", GB)])],
            true,
            &[node("amd64", 100 * GB, 0)],
            &full,
            None,
        );
        assert_eq!(found["n"], "NotEnoughDisk");
    }

    #[test]
    fn one_too_large_image_excludes_the_node() {
        let images = [image(&[("amd64", 1)]), image(&[("amd64", 20 * GB)])];
        let found = excluded_nodes(
            &images,
            true,
            &[node("amd64", 1000 * GB, 0)],
            &HashMap::new(),
            Some(10 * GB),
        );
        assert_eq!(found["n"], "ImageTooLarge");
    }

    #[test]
    fn unknown_image_prevents_platform_mismatch() {
        let found = excluded_nodes(
            &[image(&[("amd64", 1)])],
            false,
            &[node("arm64", 0, 0)],
            &HashMap::new(),
            None,
        );
        assert!(found.is_empty());
    }
}
