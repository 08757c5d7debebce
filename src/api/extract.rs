//! What would be warmed for a manifest. Changes nothing.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    auth::Caller,
    body,
    cluster::{LIST_NODES, Nodes, Reach, Snapshot},
    error::ApiError,
    params::{Pairs, Params},
    tasks::{CREATE, LIST},
};
use crate::{
    task::validate::validate,
    workload::{Bounds, DEFAULT_NAMESPACE, ExtractError, Extracted, Manifest},
};

/// The kinds of a body of JSON or YAML.
const KINDS: [&str; 5] = ["application/yaml", "application/json", "application/x-yaml", "text/yaml", "text/x-yaml"];
/// Namespaces of a manifest: of each it is asked what the caller may do there.
const MAX_NAMESPACES: usize = 20;
/// Nodes that are named.
const MAX_NODES: usize = 100;

/// What would be warmed for one pod template.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExtractedView {
    #[serde(flatten)]
    what: Extracted,
    /// How many nodes match and can be warmed now; absent where the caller may not read nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_count: Option<usize>,
    /// The first hundred of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_names: Option<Vec<String>>,
}

/// What would be warmed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ExtractAnswer {
    /// Each workload: images, placement, credentials, and on how many nodes.
    pub workloads: Vec<ExtractedView>,
    /// The documents that are no workload.
    pub skipped: Vec<String>,
}

/// Tell what would be warmed for the workloads of a manifest, JSON or YAML. Changes nothing.
#[utoipa::path(post, path = "/tasks:extract", tag = "tasks",
    params(
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "The namespace of workloads that name none; `default` where it is not given"),
    ),
    request_body(content((Object = "application/json"), (String = "application/yaml")),
        description = "Workloads; Namespaces, RuntimeClasses and HorizontalPodAutoscalers beside them count"),
    responses((status = 200, description = "What would be warmed", body = ExtractAnswer)))]
pub(super) async fn extract(
    State(api): State<Api>,
    State(nodes): State<Nodes>,
    caller: Caller,
    pairs: Pairs,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = Params::of(pairs);
    let named = params.namespace();
    params.done()?;
    if let Some(namespace) = &named {
        api.auth.authorize(&caller, CREATE, namespace).await?;
    }
    let default = named.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.into());
    let body = body::bytes(&api.bounds.bodies, &caller.name, &headers, body, &KINDS).await?;
    // Given back when the threads are done, and not when the caller has lost patience.
    let turn = Arc::new(api.bounds.extraction(&caller)?);
    let (held, policy, space) = (Arc::clone(&turn), Arc::clone(&api.policy), default.clone());
    let manifest = on_a_thread(move || {
        let _held = held;
        let text =
            std::str::from_utf8(&body.bytes).map_err(|_| ExtractError::Unreadable("the body is not UTF-8".into()))?;
        let manifest = Manifest::read(text, Bounds::SERVED)?;
        let namespaces = manifest.namespaces(&policy, &space);
        Ok((manifest, namespaces))
    });
    let (manifest, namespaces) = manifest.await?;
    if namespaces.len() > MAX_NAMESPACES {
        let error = ExtractError::TooMany(MAX_NAMESPACES, "namespaces");
        return Err(refusal(&error));
    }
    if named.is_none() {
        may_create_somewhere(&api, &caller, &namespaces).await?;
    }
    let around = api.around.seen_from(readable_of(&api, &caller, namespaces).await?);
    let policy = Arc::clone(&api.policy);
    let read = on_a_thread(move || {
        let _turn = turn;
        manifest.extract(&policy, &around, &default)
    });
    let (found, skipped) = read.await?;
    if found.is_empty() && skipped.is_empty() {
        return Err(ApiError::bad_field("", "there is no object in the manifest"));
    }
    let may = api.auth.allows(&caller, LIST_NODES, None).await?;
    let nodes = if may && !found.is_empty() { Some(nodes.get().await?) } else { None };
    let workloads = found.into_iter().map(|what| place(what, nodes.as_ref())).collect();
    Ok(Json(ExtractAnswer { workloads, skipped }).into_response())
}

/// Runs what takes a while where it holds nothing else up.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExtractError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|_| ApiError::bad_field("", "the manifest cannot be read"))?;
    done.map_err(|error| refusal(&error))
}

fn refusal(error: &ExtractError) -> ApiError {
    match error {
        ExtractError::Unreadable(_) => ApiError::bad_field("", error.to_string()),
        ExtractError::TooMany(..) | ExtractError::TooSlow(_) => {
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
        }
    }
}

/// Checks that the caller may create tasks in one of the manifest's namespaces, or in the one where `POST /tasks` without a
/// namespace would create them: most manifests name none. The error names the first right that is missing.
async fn may_create_somewhere(api: &Api, caller: &Caller, namespaces: &BTreeSet<String>) -> Result<(), ApiError> {
    let own = api.default_namespace();
    for namespace in namespaces.iter().map(String::as_str).chain([own]) {
        if api.auth.allows(caller, CREATE, Some(namespace)).await? {
            return Ok(());
        }
    }
    api.auth.authorize(caller, CREATE, namespaces.first().map_or(own, String::as_str)).await
}

/// Those of the namespaces whose tasks the caller may read: what is known of others does not count.
async fn readable_of(api: &Api, caller: &Caller, namespaces: BTreeSet<String>) -> Result<BTreeSet<String>, ApiError> {
    let mut readable = BTreeSet::new();
    for namespace in namespaces {
        if api.auth.allows(caller, LIST, Some(&namespace)).await? {
            readable.insert(namespace);
        }
    }
    Ok(readable)
}

fn place(what: Extracted, nodes: Option<&Snapshot>) -> ExtractedView {
    let task = what.spec.as_deref().filter(|_| nodes.is_some()).and_then(|spec| validate(spec).ok());
    let (Some(nodes), Some(task)) = (nodes, task) else {
        return ExtractedView { what, node_count: None, node_names: None };
    };
    let reach = Reach::of(&task, &nodes.nodes);
    let shown = reach.named().map(|names| names.iter().take(MAX_NODES).map(|name| (*name).to_owned()).collect());
    ExtractedView { what, node_count: Some(reach.many), node_names: shown }
}
