//! Nodes of the cluster, and numbers of tasks and schedules.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use futures::TryStreamExt;
use kube::{Api as KubeApi, Client, api::ListParams};
use prewarmer_core::{
    count_values,
    node::{Interner, NodeInfo, NodeRequirements},
    slim::SlimNode,
    task::{Status, plan::matching_nodes, validate::ValidTask},
};
use prewarmer_kube::{
    list::{NO_LIMIT, list_pages},
    store::StatusCounts,
};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    auth::{Caller, Permission},
    error::ApiError,
    params::{CheckedQuery, Params, QueryParams, StatsQuery},
    schedules::json_response,
    service::{self, tasks::LIST, visible_namespaces},
};

pub(super) const LIST_NODES: Permission = Permission { verb: "list", resource: "nodes" };
/// Time for which a list of nodes is cached. Only the leader watches nodes, and one list of 5,000
/// nodes costs the API server 75 MB.
const CACHE_TTL: Duration = Duration::from_secs(15);
/// Nodes per page of a list request.
const LIST_PAGE_SIZE: u32 = 200;
/// Largest page of a response, in nodes.
const MAX_NODES: usize = 1000;

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
    listed_at: Instant,
}

impl NodeCache {
    pub(super) fn new(api: &Api) -> Self {
        Self { client: api.client.clone(), interner: Arc::default(), cached: Arc::default() }
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
pub(super) struct NodeSelection<'a> {
    eligible: Vec<&'a str>,
    /// Number of eligible nodes that the task would warm.
    pub(super) selected: usize,
    /// Number of nodes that match the placement, eligible or not.
    pub(super) matching: usize,
    /// Reasons for which matching nodes are not eligible, each with the number of nodes.
    pub(super) ineligible: Vec<(&'static str, usize)>,
}

impl<'a> NodeSelection<'a> {
    /// Selects the nodes of a task from these nodes.
    pub(super) fn for_task(task: &'a ValidTask, nodes: &'a [NodeInfo]) -> Self {
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
    pub(super) fn names(&self) -> Option<&[&'a str]> {
        (self.selected == self.eligible.len()).then_some(&self.eligible)
    }
}

/// Node of the cluster.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, under its own name")]
pub(super) struct NodeView {
    /// Name of the node.
    pub name: String,
    /// True when a task without tolerations would use the node now.
    pub eligible: bool,
    /// Reason why the node is not eligible, such as `NotReady`.
    pub reason: Option<String>,
    /// True when the node's `Ready` condition is true.
    pub ready: bool,
    /// True when the node is cordoned.
    pub unschedulable: bool,
    /// CPU architecture, such as `amd64`.
    pub architecture: String,
    /// Operating system, such as `linux`.
    pub os: String,
    /// Container runtime and its version.
    pub runtime: String,
    /// True when the node supports image volumes, by which images are pulled without running them.
    pub image_volumes: bool,
    /// Labels of the node, for `nodeSelector`.
    pub labels: BTreeMap<String, String>,
}

/// Page of nodes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct NodeList {
    /// Nodes, sorted by name.
    pub nodes: Vec<NodeView>,
    /// Number of nodes in all pages.
    pub total: usize,
    /// Largest number of nodes in a page.
    pub limit: usize,
    /// Number of nodes before this page.
    pub offset: usize,
}

fn node_view(node: &NodeInfo) -> NodeView {
    let obstacle = NodeRequirements::default().ineligible(node);
    NodeView {
        name: node.name.clone(),
        eligible: obstacle.is_none(),
        reason: obstacle.map(|reason| reason.as_str().to_owned()),
        ready: node.ready,
        unschedulable: node.unschedulable,
        architecture: node.architecture.to_string(),
        os: node.os.to_string(),
        runtime: node.runtime.to_string(),
        image_volumes: node.supports_image_volumes(),
        labels: node.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    }
}

/// Query of a list of nodes.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct NodeListQuery {
    /// Largest number of nodes to return; 10 by default
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    limit: usize,
    /// Number of nodes to skip
    #[param(value_type = Option<u32>, maximum = 2_147_483_647)]
    offset: usize,
    /// Return only nodes that a task would use now (`true`), or only others (`false`)
    eligible: Option<bool>,
}

impl QueryParams for NodeListQuery {
    fn read(params: &mut Params) -> Self {
        let eligible = params.choice("eligible", &[("true", true), ("false", false)]);
        let (limit, offset) = params.page(MAX_NODES);
        Self { limit, offset, eligible }
    }
}

/// Lists the nodes of the cluster, at most 15 seconds old.
#[utoipa::path(get, path = "/nodes", tag = "cluster",
    params(NodeListQuery),
    responses((status = 200, description = "Page of nodes", body = NodeList)))]
pub(super) async fn list_nodes(
    State(api): State<Api>,
    State(nodes): State<NodeCache>,
    caller: Caller,
    CheckedQuery(NodeListQuery { limit, offset, eligible }): CheckedQuery<NodeListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    api.auth.authorize_node_list(&caller).await?;
    let snapshot = nodes.get().await?;
    let fits = |node: &&NodeInfo| {
        eligible
            .is_none_or(|wanted| NodeRequirements::default().ineligible(node).is_none() == wanted)
    };
    let total = snapshot.nodes.iter().filter(fits).count();
    let page = snapshot.nodes.iter().filter(fits).skip(offset).take(limit).map(node_view).collect();
    let mut response =
        json_response(&api, &headers, &NodeList { nodes: page, total, limit, offset });
    response
        .headers_mut()
        .insert(header::AGE, HeaderValue::from(snapshot.listed_at.elapsed().as_secs()));
    Ok(response)
}

/// Numbers of the tasks and schedules that the caller may list.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stats {
    /// Number of tasks by status.
    #[schema(value_type = BTreeMap<String, usize>)]
    pub tasks: BTreeMap<&'static str, usize>,
    /// Number of all tasks.
    pub total_tasks: usize,
    /// Completed tasks in percent of those that completed or failed; null when there are none of
    /// either.
    pub success_rate: Option<f64>,
    /// Number of schedules; null when the caller may not list schedules.
    pub schedules: Option<usize>,
    /// Number of enabled schedules; null when the caller may not list schedules.
    pub enabled_schedules: Option<usize>,
}

/// Computes the completed tasks per thousand of those that completed or failed; `None` when there
/// are none of either.
pub(super) fn success_permille(counts: &StatusCounts) -> Option<f64> {
    let of = |status: Status| counts.get(&status).copied().unwrap_or_default();
    let (good, bad) = (of(Status::Completed), of(Status::Failed));
    #[allow(clippy::cast_precision_loss, reason = "the number of tasks is far below 2^52")]
    let rate = (good + bad > 0).then(|| good as f64 * 1000.0 / (good + bad) as f64);
    rate
}

/// Returns the numbers of tasks and schedules.
#[utoipa::path(get, path = "/stats", tag = "cluster",
    params(StatsQuery),
    responses((status = 200, description = "Numbers of tasks and schedules", body = Stats)))]
pub(super) async fn get_stats(
    State(api): State<Api>,
    caller: Caller,
    CheckedQuery(StatsQuery { namespace }): CheckedQuery<StatsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let visible = visible_namespaces(&api, &caller, LIST, namespace.clone()).await?;
    let counts = api.catalog.counts(&|namespace| visible.contains(namespace));
    let rate = success_permille(&counts).map(|rate| rate.round() / 10.0);
    let schedules = service::schedules::list_permitted(&api, &caller, namespace).await?;
    let stats = Stats {
        total_tasks: counts.values().sum(),
        tasks: counts.into_iter().map(|(status, count)| (status.as_str(), count)).collect(),
        success_rate: rate,
        enabled_schedules: schedules
            .as_ref()
            .map(|all| all.iter().filter(|one| one.spec.enabled).count()),
        schedules: schedules.map(|all| all.len()),
    };
    Ok(json_response(&api, &headers, &stats))
}
