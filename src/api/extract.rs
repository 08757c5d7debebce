//! Extraction of the images that would be warmed for a manifest. Creates and changes no object.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use prewarmer_core::{
    task::validate::validate,
    workload::{
        DEFAULT_NAMESPACE, DocumentError, ExtractError, Extracted, Extraction, Finding,
        ManifestLimits, ParsedManifest, VisibleContext,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    auth::Caller,
    body,
    error::{ApiError, Detail},
    node_cache::{NodeCache, NodeSelection, NodeSnapshot},
    params::{CheckedQuery, ExtractQuery},
    permissions::{CREATE_TASK, LIST_NODES, LIST_TASKS},
};

/// Content types of a manifest, JSON or YAML.
const CONTENT_TYPES: [&str; 5] =
    ["application/yaml", "application/json", "application/x-yaml", "text/yaml", "text/x-yaml"];
/// Largest number of namespaces in a manifest. The caller's permission is checked in each.
const MAX_NAMESPACES: usize = 20;
/// Largest number of node names in a response.
const MAX_NODES: usize = 100;

/// Images that would be warmed for one pod template.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExtractedView {
    #[serde(flatten)]
    what: Extracted,
    /// Number of nodes that would be warmed now; absent when the caller may not list nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_count: Option<usize>,
    /// Names of the first 100 of these nodes; absent when they are chosen only when the task
    /// starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_names: Option<Vec<String>>,
}

/// Error or warning about a place of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct ManifestFinding {
    /// Number of the document, from 1, not counting empty ones; 0 for the whole body.
    pub document: usize,
    /// Number of the line in the body, from 1, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Path of the field, such as `spec.template.spec.containers[0].image`; empty for the whole
    /// document.
    pub field: String,
    /// What was found, and what to do.
    pub message: String,
}

impl<T: ToString> From<Finding<T>> for ManifestFinding {
    fn from(finding: Finding<T>) -> Self {
        let Finding { place, what } = finding;
        Self {
            document: place.document,
            line: place.line,
            field: place.field,
            message: what.to_string(),
        }
    }
}

/// Images that would be warmed for a manifest.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ExtractAnswer {
    /// Workloads with images, placement, credentials and number of nodes.
    pub workloads: Vec<ExtractedView>,
    /// Objects that are not workloads, as `Kind/name`.
    pub skipped: Vec<String>,
    /// Documents and objects that cannot be read. They do not affect the others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<ManifestFinding>,
    /// Findings about documents that can be read, such as repeated keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub warnings: Vec<ManifestFinding>,
}

/// Returns the images that would be warmed for a manifest.
///
/// The manifest is JSON or YAML as kubectl reads it: several documents, lists, UTF-8 or UTF-16. A
/// document that cannot be read does not affect the others; if none can be read, the response is
/// 400. The call creates and changes no object.
#[utoipa::path(post, path = "/tasks:extract", tag = "tasks",
    params(ExtractQuery),
    request_body(content((Object = "application/json"), (String = "application/yaml")),
        description = "Workloads; Namespaces, RuntimeClasses and HorizontalPodAutoscalers in the same manifest are taken into account"),
    responses((status = 200, description = "Images that would be warmed", body = ExtractAnswer)))]
pub(super) async fn extract(
    State(api): State<Api>,
    State(nodes): State<NodeCache>,
    caller: Caller,
    CheckedQuery(ExtractQuery { namespace: named }): CheckedQuery<ExtractQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    if let Some(namespace) = &named {
        api.auth.authorize(&caller, CREATE_TASK, namespace).await?;
    }
    let default = named.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.into());
    let body =
        body::read_bytes(&api.budgets.bodies, &caller.name, &headers, body, &CONTENT_TYPES).await?;
    // Held by the threads, so that it is released when they finish and not when the client
    // disconnects.
    let turn = Arc::new(api.budgets.reserve_extraction(&caller)?);
    let (held, policy, space) = (Arc::clone(&turn), Arc::clone(&api.policy), default.clone());
    let manifest = run_blocking(move || {
        let _held = held;
        let mut manifest = ParsedManifest::new(ManifestLimits::SERVER);
        manifest.read("", &body.bytes, &policy.kinds)?;
        let namespaces = manifest.namespaces(&space);
        Ok((manifest, namespaces))
    });
    let (manifest, namespaces) = manifest.await?;
    if namespaces.len() > MAX_NAMESPACES {
        let error = ExtractError::TooMany(MAX_NAMESPACES, "namespaces");
        return Err(extract_error(&error));
    }
    if named.is_none() {
        authorize_in_any_namespace(&api, &caller, &namespaces).await?;
    }
    let (context, namespaces) =
        (api.context.clone(), listable_namespaces(&api, &caller, namespaces).await?);
    let policy = Arc::clone(&api.policy);
    let read = run_blocking(move || {
        let _turn = turn;
        let visible = VisibleContext { context: &context, namespaces };
        manifest.extract(&policy, &visible, &default)
    });
    let Extraction { workloads: found, skipped, errors, warnings } = read.await?;
    if found.is_empty() && skipped.is_empty() {
        return Err(unreadable(errors));
    }
    let may = api.auth.allows(&caller, LIST_NODES, None).await?;
    let nodes = if may && !found.is_empty() { Some(nodes.get().await?) } else { None };
    let workloads = found.into_iter().map(|what| add_nodes(what, nodes.as_ref())).collect();
    let errors = errors.into_iter().map(ManifestFinding::from).collect();
    let warnings = warnings.into_iter().map(ManifestFinding::from).collect();
    Ok(Json(ExtractAnswer { workloads, skipped, errors, warnings }).into_response())
}

/// Returns the error of a manifest in which nothing can be read.
fn unreadable(errors: Vec<Finding<DocumentError>>) -> ApiError {
    if errors.is_empty() {
        return ApiError::invalid_field("", "the manifest contains no object");
    }
    let detail = |Finding { mut place, what }: Finding<DocumentError>| {
        let field = std::mem::take(&mut place.field);
        Detail::new(field, format!("{place}: {what}"))
    };
    ApiError::invalid_fields(errors.into_iter().map(detail).collect())
}

/// Runs blocking work on a thread outside the async executor.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExtractError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|_| ApiError::invalid_field("", "parsing of the manifest failed"))?;
    done.map_err(|error| extract_error(&error))
}

fn extract_error(error: &ExtractError) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
}

/// Checks that the caller may create tasks in one of the manifest's namespaces, or in the default
/// namespace of `POST /tasks`: most manifests name no namespace. The error names the first missing
/// permission.
async fn authorize_in_any_namespace(
    api: &Api,
    caller: &Caller,
    namespaces: &BTreeSet<String>,
) -> Result<(), ApiError> {
    let own = api.default_namespace();
    for namespace in namespaces.iter().map(String::as_str).chain([own]) {
        if api.auth.allows(caller, CREATE_TASK, Some(namespace)).await? {
            return Ok(());
        }
    }
    api.auth.authorize(caller, CREATE_TASK, namespaces.first().map_or(own, String::as_str)).await
}

/// Returns those of the namespaces in which the caller may list tasks. The cluster context of other
/// namespaces is not used, because it would disclose their annotations.
async fn listable_namespaces(
    api: &Api,
    caller: &Caller,
    namespaces: BTreeSet<String>,
) -> Result<BTreeSet<String>, ApiError> {
    let mut readable = BTreeSet::new();
    for namespace in namespaces {
        if api.auth.allows(caller, LIST_TASKS, Some(&namespace)).await? {
            readable.insert(namespace);
        }
    }
    Ok(readable)
}

fn add_nodes(what: Extracted, nodes: Option<&NodeSnapshot>) -> ExtractedView {
    let task = what.specs.first().filter(|_| nodes.is_some()).and_then(|spec| validate(spec).ok());
    let (Some(nodes), Some(task)) = (nodes, task) else {
        return ExtractedView { what, node_count: None, node_names: None };
    };
    let reach = NodeSelection::for_task(&task, &nodes.nodes);
    let shown = reach
        .names()
        .map(|names| names.iter().take(MAX_NODES).map(|name| (*name).to_owned()).collect());
    ExtractedView { what, node_count: Some(reach.selected), node_names: shown }
}
