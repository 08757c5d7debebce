//! What would be warmed for a manifest. Changes nothing.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::HeaderMap,
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
};
use crate::{
    task::validate::validate,
    workload::{DEFAULT_NAMESPACE, Extracted, extract_documents},
};

/// The kinds of a body of JSON or YAML.
const KINDS: [&str; 5] = ["application/yaml", "application/json", "application/x-yaml", "text/yaml", "text/x-yaml"];
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
    request_body(content((Object = "application/json"), (String = "application/yaml")),
        description = "Workloads; Namespaces, RuntimeClasses and HorizontalPodAutoscalers beside them count"),
    responses((status = 200, description = "What would be warmed", body = ExtractAnswer)))]
pub(super) async fn extract(
    State(api): State<Api>,
    State(nodes): State<Nodes>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = body::bytes(&headers, body, &KINDS).await?;
    let text = String::from_utf8(bytes.into()).map_err(|_| ApiError::bad_field("", "the body is not UTF-8"))?;
    let (policy, around) = (std::sync::Arc::clone(&api.policy), api.around.clone());
    // A manifest of a megabyte takes a while to read.
    let read = tokio::task::spawn_blocking(move || extract_documents(&text, &policy, &around, DEFAULT_NAMESPACE)).await;
    let read = read.map_err(|_| ApiError::bad_field("", "the manifest cannot be read"))?;
    let (found, skipped) = read.map_err(|error| ApiError::bad_field("", error))?;
    if found.is_empty() && skipped.is_empty() {
        return Err(ApiError::bad_field("", "there is no object in the manifest"));
    }
    let may = api.auth.allows(&caller, LIST_NODES, None).await?;
    let nodes = if may && !found.is_empty() { Some(nodes.get().await?) } else { None };
    let workloads = found.into_iter().map(|what| place(what, nodes.as_ref())).collect();
    Ok(Json(ExtractAnswer { workloads, skipped }).into_response())
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
