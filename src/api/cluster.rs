//! Nodes, and how much there is of everything.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use kube::{Api as KubeApi, Client, api::ListParams};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::{
    Api,
    auth::{Caller, Deed, Visible},
    error::ApiError,
    params::{Pairs, Params},
    schedules::answer,
    tasks::LIST,
};
use crate::{
    catalog::{Counts, Status},
    metrics::Metrics,
    node::{Demand, Facts, Interner},
    reduced::ReducedNode,
    schedule::PrewarmSchedule,
    task::{plan::candidates, validate::ValidTask},
};

pub(super) const LIST_NODES: Deed = Deed { verb: "list", resource: "nodes" };
/// How long a list of nodes is used: the leader alone watches nodes, and one list of 5,000 is 75 MB for the API server.
const KEPT: Duration = Duration::from_secs(15);
/// Objects per page.
const PAGE: u32 = 200;
/// Nodes in an answer at most.
const MAX_NODES: usize = 1000;

/// The nodes as they were a moment ago. Clones share them.
#[derive(Clone)]
pub(super) struct Nodes {
    client: Client,
    metrics: Arc<Metrics>,
    texts: Arc<Interner>,
    kept: Arc<Mutex<Option<Snapshot>>>,
}

/// A list of nodes, and when it was made.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) nodes: Arc<Vec<Facts>>,
    made: Instant,
}

impl Nodes {
    pub(super) fn new(api: &Api) -> Self {
        Self {
            client: api.client.clone(),
            metrics: Arc::clone(&api.metrics),
            texts: Arc::default(),
            kept: Arc::default(),
        }
    }

    /// Of several callers one asks the API server, and the others wait for his answer.
    pub(super) async fn get(&self) -> Result<Snapshot, ApiError> {
        let mut kept = self.kept.lock().await;
        if let Some(snapshot) = kept.as_ref().filter(|snapshot| snapshot.made.elapsed() < KEPT) {
            return Ok(snapshot.clone());
        }
        let api = KubeApi::<ReducedNode>::all(self.client.clone());
        let (mut nodes, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
        loop {
            self.metrics.kube_requests.with_label_values(&["list", "nodes"]).inc();
            let page = api.list(&params).await?;
            nodes.extend(page.items.iter().map(|node| Facts::new(node, &self.texts)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let snapshot = Snapshot { nodes: Arc::new(nodes), made: Instant::now() };
        *kept = Some(snapshot.clone());
        Ok(snapshot)
    }
}

/// Which nodes a task would warm, as they are now.
pub(super) struct Reach<'a> {
    able: Vec<&'a str>,
    /// How many of those that can be warmed are wanted.
    pub(super) many: usize,
    /// How many match, whether they can be warmed or not.
    pub(super) matching: usize,
    /// Why some cannot, and how many.
    pub(super) obstacles: Vec<(&'static str, usize)>,
}

impl<'a> Reach<'a> {
    /// Of these nodes.
    pub(super) fn of(task: &'a ValidTask, nodes: &'a [Facts]) -> Self {
        let mut reach = Self { able: Vec::new(), many: 0, matching: 0, obstacles: Vec::new() };
        for (node, obstacle) in candidates(task, nodes) {
            reach.matching += 1;
            let Some(reason) = obstacle else {
                reach.able.push(&node.name);
                continue;
            };
            match reach.obstacles.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => reach.obstacles.push((reason, 1)),
            }
        }
        reach.many = task.nodes.of(reach.able.len());
        reach
    }

    /// Their names. Where fewer are wanted than match, which ones is chosen when the task runs.
    pub(super) fn named(&self) -> Option<&[&'a str]> {
        (self.many == self.able.len()).then_some(&self.able)
    }
}

/// A node.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, under its own name")]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Whether a task that tolerates no taint would be given it now.
    pub eligible: bool,
    /// Why not: one word, such as `NotReady`.
    pub reason: Option<String>,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `linux`.
    pub os: String,
    /// The container runtime.
    pub runtime: String,
    /// Whether images can be pulled there without being run.
    pub image_volumes: bool,
    /// Its labels, for `nodeSelector`.
    pub labels: BTreeMap<String, String>,
}

/// A page of nodes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct NodeList {
    /// The nodes, by name.
    pub nodes: Vec<NodeView>,
    /// How many there are in all pages.
    pub total: usize,
    /// How many are in a page at most.
    pub limit: usize,
    /// After how many this page begins.
    pub offset: usize,
}

fn view(node: &Facts) -> NodeView {
    let obstacle = Demand::default().obstacle(node);
    NodeView {
        name: node.name.clone(),
        eligible: obstacle.is_none(),
        reason: obstacle.map(|reason| reason.as_str().to_owned()),
        ready: node.ready,
        unschedulable: node.unschedulable,
        architecture: node.architecture.to_string(),
        os: node.os.to_string(),
        runtime: node.runtime.to_string(),
        image_volumes: node.mounts_image_volumes(),
        labels: node.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    }
}

/// A page of the cluster's nodes, as they were within the last 15 seconds.
#[utoipa::path(get, path = "/nodes", tag = "cluster",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "How many at most; 10 by default"),
        ("offset" = Option<u32>, Query, maximum = 2_147_483_647, description = "After how many"),
        ("eligible" = Option<bool>, Query, description = "Only those that a task would be given now, or would not"),
    ),
    responses((status = 200, description = "The page", body = NodeList)))]
pub(super) async fn list_nodes(
    State(api): State<Api>,
    State(nodes): State<Nodes>,
    caller: Caller,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = Params::of(pairs);
    let eligible = params.choice("eligible", &[("true", true), ("false", false)]);
    let (limit, offset) = params.page(MAX_NODES);
    params.done()?;
    api.auth.nodes(&caller).await?;
    let snapshot = nodes.get().await?;
    let fits = |node: &&Facts| eligible.is_none_or(|wanted| Demand::default().obstacle(node).is_none() == wanted);
    let total = snapshot.nodes.iter().filter(fits).count();
    let page = snapshot.nodes.iter().filter(fits).skip(offset).take(limit).map(view).collect();
    let mut response = answer(&api, &headers, &NodeList { nodes: page, total, limit, offset });
    response.headers_mut().insert(header::AGE, HeaderValue::from(snapshot.made.elapsed().as_secs()));
    Ok(response)
}

/// How much there is of everything that the caller may see.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// How many tasks there are, by status.
    #[schema(value_type = BTreeMap<String, usize>)]
    pub tasks: BTreeMap<&'static str, usize>,
    /// All of them.
    pub total_tasks: usize,
    /// Of those that completed or failed, how many percent completed; none where none did either.
    pub success_rate: Option<f64>,
    /// How many schedules there are; none where the caller may not list them.
    pub schedules: Option<usize>,
    /// How many of them are enabled; none where the caller may not list them.
    pub enabled_schedules: Option<usize>,
}

/// Of a thousand tasks that completed or failed, how many completed; none where none did either.
pub(super) fn success_permille(counts: &Counts) -> Option<f64> {
    let of = |status: Status| counts.get(&status).copied().unwrap_or_default();
    let (good, bad) = (of(Status::Completed), of(Status::Failed));
    #[allow(clippy::cast_precision_loss, reason = "nobody has 2^52 tasks")]
    let rate = (good + bad > 0).then(|| good as f64 * 1000.0 / (good + bad) as f64);
    rate
}

/// The schedules that the caller may list, in the namespace if one is named; none where the caller may list none.
pub(super) async fn listed_schedules(
    api: &Api,
    caller: &Caller,
    namespace: Option<String>,
) -> Result<Option<Vec<Arc<PrewarmSchedule>>>, ApiError> {
    let visible = match super::tasks::readable(api, caller, super::schedules::LIST, namespace).await {
        Ok(visible) => visible,
        Err(error) if error.code == StatusCode::FORBIDDEN => return Ok(None),
        Err(error) => return Err(error),
    };
    let seen = |one: &Arc<PrewarmSchedule>| visible.has(one.metadata.namespace.as_deref().unwrap_or_default());
    Ok(Some(api.schedules.all().into_iter().filter(seen).collect()))
}

/// How many tasks and schedules there are.
#[utoipa::path(get, path = "/stats", tag = "cluster",
    params(("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Only of this namespace")),
    responses((status = 200, description = "The numbers", body = Stats)))]
pub(super) async fn get_stats(
    State(api): State<Api>,
    caller: Caller,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = Params::of(pairs);
    let namespace = params.namespace();
    params.done()?;
    let visible: Visible = super::tasks::readable(&api, &caller, LIST, namespace.clone()).await?;
    let counts = api.catalog.counts(&|namespace| visible.has(namespace));
    let rate = success_permille(&counts).map(|rate| rate.round() / 10.0);
    let schedules = listed_schedules(&api, &caller, namespace).await?;
    let stats = Stats {
        total_tasks: counts.values().sum(),
        tasks: counts.into_iter().map(|(status, count)| (status.as_str(), count)).collect(),
        success_rate: rate,
        enabled_schedules: schedules.as_ref().map(|all| all.iter().filter(|one| one.spec.enabled).count()),
        schedules: schedules.map(|all| all.len()),
    };
    Ok(answer(&api, &headers, &stats))
}
