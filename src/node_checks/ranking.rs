//! Ranking of nodes for tasks that need fewer nodes than match: first the nodes where the
//! repositories of its images run now, then those with the most free capacity for pods.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::pin,
    time::Duration,
};

use futures::{TryStreamExt, future::BoxFuture};
use kube::{Client, ResourceExt, api::ListParams};
use prewarmer_core::{
    image::ImageRef,
    node::{parse_byte_quantity, parse_millicores},
    slim::ScheduledPod,
    task::plan::{NodeCheckFindings, NodeRank},
};
use prewarmer_kube::list::list_pages;
use tokio::{sync::Mutex, time::Instant};

use super::{CheckInput, NodeCandidate, NodeCheck, NodeCheckError};
use crate::scope::scoped;

/// Number of pods per page: about 2.5 MB of JSON.
const PAGE_SIZE: u32 = 500;
/// Maximum number of pods read: 100 MB of JSON, read in pages. In larger clusters the ranking uses
/// these pods only.
const MAX_PODS: usize = 20_000;
/// Lifetime of a result, so that tasks that start together share one.
const USAGE_TTL: Duration = Duration::from_secs(30);

/// Check that ranks nodes by the pods of the cluster.
pub(crate) struct NodeRanking {
    client: Client,
    namespace: Option<String>,
    last: Mutex<Option<(Instant, ClusterUsage)>>,
}

/// Resources and locations of all pods.
#[derive(Debug, Default)]
struct ClusterUsage {
    nodes: HashMap<String, NodeUsage>,
    /// Nodes on which each repository runs, by namespace and repository.
    running: HashMap<String, HashMap<String, HashSet<String>>>,
}

#[derive(Debug, Default)]
struct NodeUsage {
    cpu_millis: u64,
    memory: u64,
    pods: u64,
}

impl NodeRanking {
    /// Creates a check for all namespaces, or for one.
    #[must_use]
    pub(crate) fn new(client: Client, namespace: Option<String>) -> Self {
        Self { client, namespace, last: Mutex::new(None) }
    }

    async fn fetch_usage(&self) -> kube::Result<ClusterUsage> {
        let pods = scoped::<ScheduledPod>(&self.client, self.namespace.as_deref());
        let params = ListParams::default()
            .limit(PAGE_SIZE)
            .fields("status.phase!=Succeeded,status.phase!=Failed");
        let (mut usage, mut pages) =
            (ClusterUsage::default(), pin!(list_pages(&pods, params, MAX_PODS)));
        while let Some(page) = pages.try_next().await? {
            for pod in &page {
                usage.add(pod);
            }
        }
        Ok(usage)
    }
}

impl NodeCheck for NodeRanking {
    fn name(&self) -> &'static str {
        "node capacity"
    }

    fn evaluate<'a>(
        &'a self,
        examination: &'a CheckInput,
    ) -> BoxFuture<'a, Result<NodeCheckFindings, NodeCheckError>> {
        Box::pin(async move {
            let Some(namespace) = &examination.rank_for_namespace else {
                return Ok(NodeCheckFindings::default());
            };
            let mut last = self.last.lock().await;
            let fresh = last.take().filter(|(at, _)| at.elapsed() < USAGE_TTL);
            let (at, usage) = match fresh {
                Some(known) => known,
                None => (Instant::now(), self.fetch_usage().await?),
            };
            let rank = usage.rank(namespace, &examination.images, &examination.nodes);
            *last = Some((at, usage));
            Ok(NodeCheckFindings { ranks: rank, ..NodeCheckFindings::default() })
        })
    }
}

impl ClusterUsage {
    fn add(&mut self, pod: &ScheduledPod) {
        if pod.spec.node_name.is_empty() {
            return;
        }
        let taken = self.nodes.entry(pod.spec.node_name.clone()).or_default();
        taken.pods = taken.pods.saturating_add(1);
        for container in &pod.spec.containers {
            let request = |name: &str| container.resources.requests.get(name);
            taken.cpu_millis = taken
                .cpu_millis
                .saturating_add(request("cpu").map_or(0, |amount| parse_millicores(&amount.0)));
            let memory =
                request("memory").and_then(|amount| parse_byte_quantity(&amount.0)).unwrap_or(0);
            taken.memory = taken.memory.saturating_add(memory);
        }
        let repositories = self.running.entry(pod.namespace().unwrap_or_default()).or_default();
        for image in pod
            .spec
            .containers
            .iter()
            .filter_map(|container| container.image.parse::<ImageRef>().ok())
        {
            repositories.entry(repository(&image)).or_default().insert(pod.spec.node_name.clone());
        }
    }

    fn rank(
        &self,
        namespace: &str,
        images: &[ImageRef],
        nodes: &[NodeCandidate],
    ) -> BTreeMap<String, NodeRank> {
        let running = self.running.get(namespace);
        let places: Vec<&HashSet<String>> =
            images.iter().filter_map(|image| running?.get(&repository(image))).collect();
        let rank = |node: &NodeCandidate| {
            let runs = places.iter().filter(|place| place.contains(&node.name)).count();
            NodeRank {
                running_repositories: u32::try_from(runs).unwrap_or(u32::MAX),
                free_permille: free_permille(node, self.nodes.get(&node.name)),
            }
        };
        nodes.iter().map(|node| (node.name.clone(), rank(node))).collect()
    }
}

fn repository(image: &ImageRef) -> String {
    format!("{}/{}", image.registry(), image.repository())
}

/// Returns the free share of the node's scarcest resource, in thousandths.
fn free_permille(node: &NodeCandidate, taken: Option<&NodeUsage>) -> u32 {
    let nothing = NodeUsage::default();
    let taken = taken.unwrap_or(&nothing);
    let part = |has: u64, taken: u64| {
        has.saturating_sub(taken).saturating_mul(1000).checked_div(has).unwrap_or(0)
    };
    let parts = [
        part(node.cpu_millis, taken.cpu_millis),
        part(node.memory, taken.memory),
        part(node.pods, taken.pods),
    ];
    u32::try_from(parts.into_iter().min().unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, image: &str, cpu: &str) -> ScheduledPod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"nodeName": node,
            "containers": [{"image": image, "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}, {"image": "proxy:1"}]}}))
        .unwrap()
    }

    fn node(name: &str) -> NodeCandidate {
        NodeCandidate {
            name: name.into(),
            cpu_millis: 4000,
            memory: 16 << 30,
            pods: 110,
            ..NodeCandidate::default()
        }
    }

    #[test]
    fn nodes_that_run_the_repository_rank_before_free_nodes() {
        let mut usage = ClusterUsage::default();
        usage.add(&pod("b", "web:1", "3"));
        usage.add(&pod("c", "other:1", "500m"));
        let images = ["web:2", "proxy:2"].map(|image| image.parse().unwrap());
        let rank = usage.rank("shop", &images, &["a", "b", "c"].map(node));
        assert_eq!(
            (rank["b"], rank["c"].running_repositories, rank["a"].running_repositories),
            (NodeRank { running_repositories: 2, free_permille: 250 }, 1, 0)
        );
        assert!(rank["b"] > rank["c"] && rank["c"] > rank["a"]);
        let elsewhere = usage.rank("bank", &images, &["a", "b", "c"].map(node));
        assert!(elsewhere["a"] > elsewhere["c"] && elsewhere["c"] > elsewhere["b"]);
    }
}
