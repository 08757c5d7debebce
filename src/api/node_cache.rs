//! Cached list of the nodes, and the selection of a task's nodes from it.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use kube::{Api as KubeApi, Client, api::ListParams};
use prewarmer_core::{
    count_values,
    node::{Interner, NodeInfo},
    slim::SlimNode,
    task::{plan::matching_nodes, validate::ValidTask},
};
use prewarmer_kube::list::{NO_LIMIT, list_pages};
use tokio::sync::Mutex;

use super::error::ApiError;

/// Time for which a list of nodes is cached. Only the leader watches nodes, and one list of 5,000
/// nodes costs the API server 75 MB.
const CACHE_TTL: Duration = Duration::from_secs(15);
/// Nodes per page of a list request.
const LIST_PAGE_SIZE: u32 = 200;

/// Cached list of the nodes. Clones share it.
#[derive(Clone)]
pub(super) struct NodeCache {
    client: Client,
    interner: Arc<Interner>,
    cached: Arc<Mutex<Option<NodeSnapshot>>>,
}

/// List of nodes with the time at which it was read.
#[derive(Clone)]
pub(super) struct NodeSnapshot {
    pub(super) nodes: Arc<Vec<NodeInfo>>,
    pub(super) listed_at: Instant,
}

impl NodeCache {
    pub(super) fn new(client: Client) -> Self {
        Self { client, interner: Arc::default(), cached: Arc::default() }
    }

    /// Returns the nodes from the cache, or from the API server when the cached list has expired.
    /// Concurrent callers share one list request. Error 503 when the API server does not answer.
    pub(super) async fn get(&self) -> Result<NodeSnapshot, ApiError> {
        let mut kept = self.cached.lock().await;
        if let Some(snapshot) =
            kept.as_ref().filter(|snapshot| snapshot.listed_at.elapsed() < CACHE_TTL)
        {
            return Ok(snapshot.clone());
        }
        let api = KubeApi::<SlimNode>::all(self.client.clone());
        let params = ListParams::default().limit(LIST_PAGE_SIZE);
        let (mut nodes, mut pages) = (Vec::new(), pin!(list_pages(&api, params, NO_LIMIT)));
        while let Some(page) = pages.try_next().await? {
            nodes.extend(page.iter().map(|node| NodeInfo::new(node, &self.interner)));
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let snapshot = NodeSnapshot { nodes: Arc::new(nodes), listed_at: Instant::now() };
        *kept = Some(snapshot.clone());
        Ok(snapshot)
    }
}

/// Nodes that a task would warm at present.
pub struct NodeSelection<'a> {
    eligible: Vec<&'a str>,
    /// Number of eligible nodes that the task would warm.
    pub selected: usize,
    /// Number of nodes that match the placement, eligible or not.
    pub matching: usize,
    /// Reasons for which matching nodes are not eligible, each with the number of nodes.
    pub ineligible: Vec<(&'static str, usize)>,
}

impl<'a> NodeSelection<'a> {
    /// Selects the nodes of a task from these nodes.
    #[must_use]
    pub fn for_task(task: &'a ValidTask, nodes: &'a [NodeInfo]) -> Self {
        let (mut eligible, mut obstacles) = (Vec::new(), Vec::new());
        for (node, obstacle) in matching_nodes(task, nodes) {
            match obstacle {
                None => eligible.push(&*node.name),
                Some(reason) => obstacles.push(reason),
            }
        }
        Self {
            selected: task.nodes.of_total(eligible.len()),
            matching: eligible.len() + obstacles.len(),
            ineligible: count_values(obstacles),
            eligible,
        }
    }

    /// Returns the names of the nodes. `None` when the task warms only some of the eligible nodes:
    /// those are chosen when it starts.
    #[must_use]
    pub fn names(&self) -> Option<&[&'a str]> {
        (self.selected == self.eligible.len()).then_some(&self.eligible)
    }
}
