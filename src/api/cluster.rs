//! Nodes of the cluster, and numbers of tasks and schedules.

use std::collections::BTreeMap;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use prewarmer_core::{
    node::{NodeInfo, NodeRequirements},
    task::Status,
};
use prewarmer_kube::store::StatusCounts;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    auth::Caller,
    error::ApiError,
    node_cache::NodeCache,
    params::{CheckedQuery, StatsQuery, default_limit, impl_query_params},
    permissions::LIST_TASKS,
    service::{self, visible_namespaces},
    store_response::json_response,
};

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
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NodeListQuery {
    /// Largest number of nodes to return; 10 by default
    #[serde(default = "default_limit")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    limit: usize,
    /// Number of nodes to skip
    #[serde(default)]
    #[param(value_type = Option<u32>, maximum = 2_147_483_647)]
    offset: usize,
    /// Return only nodes that a task would use now (`true`), or only others (`false`)
    eligible: Option<bool>,
}

impl_query_params!(NodeListQuery);

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
#[must_use]
pub fn success_permille(counts: &StatusCounts) -> Option<f64> {
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
    let visible = visible_namespaces(&api, &caller, LIST_TASKS, namespace.clone()).await?;
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
