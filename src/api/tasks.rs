//! Handlers of tasks: create, get, list, cancel, retry.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prewarmer_core::task::{Amount, Status};
use prewarmer_kube::store::{NamespacedName, TaskEntry};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, BASE_PATH,
    auth::{Caller, NamespaceScope},
    call_middleware::AuditSubject,
    creation::read_authorized_body,
    error::ApiError,
    etag::content_etag,
    params::{
        CheckedQuery, CreateTaskQuery, IdempotencyKey, IfNoneMatch, TaskPath, TaskQuery,
        default_limit, impl_query_params,
    },
    permissions::{CREATE_TASK, LIST_TASKS},
    request::{self, TaskRequest},
    service::{
        tasks::{self as service, CreatedTask, TaskSelection},
        visible_namespaces,
    },
    store_response::cached_response,
};
use crate::task_view::{TaskView, amount_schema};

/// Created task.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskCreated {
    /// Name of its `PrewarmTask`.
    pub task_id: String,
    /// Namespace of the task.
    pub namespace: String,
    /// Status of the task.
    pub status: Status,
    /// Image references.
    pub images: Vec<String>,
    /// Number of nodes per batch: a number, or a percentage such as `25%`.
    #[schema(schema_with = amount_schema)]
    pub batch_size: Amount,
    /// Creation time, RFC 3339.
    pub created_at: Option<String>,
    /// Description of the result.
    pub message: String,
}

/// Page of tasks.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct TaskList {
    /// Tasks, newest first.
    pub tasks: Vec<TaskView>,
    /// Number of tasks in all pages.
    pub total: usize,
    /// Largest number of tasks in a page.
    pub limit: usize,
    /// Number of tasks before this page.
    pub offset: usize,
}

/// Result of a cancellation.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskCancelled {
    /// Name of its `PrewarmTask`.
    pub task_id: String,
    /// Status of the task, always `cancelled`.
    pub status: Status,
    /// Description of the result.
    pub message: String,
}

/// Creates a task.
///
/// A call that is repeated with the same `Idempotency-Key` header within a day creates no second
/// task.
#[utoipa::path(post, path = "/tasks", tag = "tasks", request_body = TaskRequest,
    params(CreateTaskQuery, IdempotencyKey),
    responses((status = 201, description = "Created task, or the task that an earlier call with the same key created", body = TaskCreated,
        headers(("Location" = String, description = "Path of the task")))))]
pub(super) async fn create_task(
    State(api): State<Api>,
    caller: Caller,
    IdempotencyKey { key }: IdempotencyKey,
    CheckedQuery(query): CheckedQuery<CreateTaskQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (namespace, body) =
        read_authorized_body(&api, &caller, CREATE_TASK, query.namespace, &headers, body).await?;
    let wanted = request::parse(body.value, &api.guard).map_err(ApiError::invalid_fields)?;
    let made = service::create(&api, &caller, &namespace, wanted.spec, key.as_deref()).await?;
    Ok(created_response(&made))
}

/// Responds with a created task, and names it in the audit log.
fn created_response(made: &CreatedTask) -> Response {
    let view = TaskView::from_task(&made.task);
    let message = if made.existed {
        "The task was created by an earlier call with the same key"
    } else {
        "The task was created"
    };
    let location = [(header::LOCATION, format!("{BASE_PATH}/tasks/{}", view.task_id))];
    let subject = AuditSubject(format!("{}/{}", view.namespace, view.task_id));
    let body = TaskCreated {
        task_id: view.task_id,
        namespace: view.namespace,
        status: view.status,
        images: view.images,
        batch_size: view.batch_size,
        created_at: view.created_at,
        message: message.into(),
    };
    let mut response = (StatusCode::CREATED, location, Json(body)).into_response();
    response.extensions_mut().insert(subject);
    response
}

fn deserialize_until<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<(Timestamp, NamespacedName)>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let parse = |text: String| {
        parse_until(&text).ok_or_else(|| D::Error::custom("expected the value from a Link header"))
    };
    text.map(parse).transpose()
}

/// Query of a list of tasks.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TaskListQuery {
    /// Return only tasks of this status
    #[param(
        value_type = Option<String>,
        pattern = "^(pending|running|completed|failed|cancelled)?$"
    )]
    status: Option<Status>,
    /// Return only tasks whose name or images contain this text
    #[param(max_length = 200)]
    search: Option<String>,
    /// Return only tasks of this namespace
    #[param(pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")]
    namespace: Option<String>,
    /// Largest number of tasks to return; 10 by default
    #[serde(default = "default_limit")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    limit: usize,
    /// Number of tasks to skip
    #[serde(default)]
    #[param(value_type = Option<u32>, maximum = 2_147_483_647)]
    offset: usize,
    /// Return only this task and older ones; taken from a Link header
    #[serde(default, deserialize_with = "deserialize_until")]
    #[param(
        value_type = Option<String>,
        pattern = "^([0-9]{1,10}~[a-z0-9-]{1,63}~[a-z0-9.-]{1,253})?$"
    )]
    until: Option<(Timestamp, NamespacedName)>,
}

impl_query_params!(TaskListQuery);

/// Lists the tasks, newest first.
///
/// With `offset` alone, tasks that are created between two calls shift the pages. The `Link` header
/// contains the address of the next page, without later tasks.
#[utoipa::path(get, path = "/tasks", tag = "tasks",
    params(TaskListQuery),
    responses((status = 200, description = "Page of tasks", body = TaskList)))]
pub(super) async fn list_tasks(
    State(api): State<Api>,
    caller: Caller,
    CheckedQuery(query): CheckedQuery<TaskListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let TaskListQuery { status, search, namespace, limit, offset, until } = query;
    let visible = visible_namespaces(&api, &caller, LIST_TASKS, namespace).await?;
    let selection = TaskSelection { status, search: search.as_deref(), until, limit, offset };
    let page = service::list(&api, &visible, selection);
    let end = offset + page.tasks.len();
    let mut text = Vec::with_capacity(
        page.tasks.iter().map(Bytes::len).sum::<usize>() + page.tasks.len() + 80,
    );
    text.extend_from_slice(b"{\"tasks\":[");
    text.extend_from_slice(&page.tasks.join(&b','));
    text.extend_from_slice(
        format!("],\"total\":{},\"limit\":{limit},\"offset\":{offset}}}", page.total).as_bytes(),
    );
    let mut response = cached_response(&api, &headers, &content_etag(&text), text.into());
    if let Some(newest) = page.newest.filter(|_| end < page.total && end > offset) {
        let status =
            status.map(|status| format!("&status={}", status.as_str())).unwrap_or_default();
        let place = match &visible {
            NamespaceScope::Only(names) if names.len() == 1 => {
                format!("&namespace={}", names.iter().next().map_or("", |n| n))
            }
            _ => String::new(),
        };
        let until = format_until(&newest);
        let escaped =
            |text: String| format!("&search={}", utf8_percent_encode(&text, NON_ALPHANUMERIC));
        let search = search.map(escaped).unwrap_or_default();
        let link = format!(
            "<{BASE_PATH}/tasks?limit={limit}&offset={end}{status}{place}{search}&until={until}>; rel=\"next\""
        );
        if let Ok(link) = HeaderValue::try_from(link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    Ok(response)
}

fn format_until((created, key): &(Timestamp, NamespacedName)) -> String {
    format!("{}~{}~{}", created.as_second(), key.namespace, key.name)
}

fn parse_until(text: &str) -> Option<(Timestamp, NamespacedName)> {
    let mut parts = text.splitn(3, '~');
    let second = Timestamp::from_second(parts.next()?.parse().ok()?).ok()?;
    Some((second, NamespacedName::new(parts.next()?, parts.next()?)))
}

/// Returns a task.
#[utoipa::path(get, path = "/tasks/{id}", tag = "tasks",
    params(TaskPath, TaskQuery, IfNoneMatch),
    responses((status = 200, description = "The task", body = TaskView), (status = 304, description = "The task has not changed")))]
pub(super) async fn get_task(
    State(api): State<Api>,
    caller: Caller,
    Path(TaskPath { id }): Path<TaskPath>,
    CheckedQuery(query): CheckedQuery<TaskQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let entry = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    Ok(cached_response(&api, &headers, &entry_etag(&entry), entry.json()))
}

/// Cancels a task: its workers are deleted, and no new ones are created.
#[utoipa::path(delete, path = "/tasks/{id}", tag = "tasks",
    params(TaskPath, TaskQuery),
    responses((status = 200, description = "The task is being cancelled", body = TaskCancelled)))]
pub(super) async fn cancel_task(
    State(api): State<Api>,
    caller: Caller,
    Path(TaskPath { id }): Path<TaskPath>,
    CheckedQuery(query): CheckedQuery<TaskQuery>,
) -> Result<Response, ApiError> {
    let entry = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    service::cancel(&api, &caller, &entry).await?;
    let body = TaskCancelled {
        task_id: id.clone(),
        status: Status::Cancelled,
        message: "The task is being cancelled: its workers are deleted".into(),
    };
    let mut response = Json(body).into_response();
    response.extensions_mut().insert(AuditSubject(format!("{}/{id}", entry.key.namespace)));
    Ok(response)
}

/// Retries an ended task: creates a new task with the same spec for the nodes that it did not warm.
///
/// A call that is repeated with the same `Idempotency-Key` header within a day creates no second
/// task.
#[utoipa::path(post, path = "/tasks/{id}/retry", tag = "tasks",
    params(TaskPath, TaskQuery, IdempotencyKey),
    responses((status = 201, description = "Created task, or the task that an earlier call with the same key created", body = TaskCreated,
        headers(("Location" = String, description = "Path of the task")))))]
pub(super) async fn retry_task(
    State(api): State<Api>,
    caller: Caller,
    Path(TaskPath { id }): Path<TaskPath>,
    IdempotencyKey { key }: IdempotencyKey,
    CheckedQuery(query): CheckedQuery<TaskQuery>,
) -> Result<Response, ApiError> {
    let entry = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    Ok(created_response(&service::retry(&api, &caller, &entry, key.as_deref()).await?))
}

fn entry_etag(entry: &TaskEntry) -> String {
    format!("\"{}-{}\"", entry.uid, entry.version)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn until_values_are_parsed() {
        let now: Timestamp = "2026-11-21T10:00:30Z".parse().unwrap();
        let place = (now, NamespacedName::new("shop", "a.b"));
        let (time, key) = parse_until(&format_until(&place)).unwrap();
        assert_eq!((time.as_second(), key), (now.as_second(), place.1));
        assert!(parse_until("x").is_none() && parse_until("1~a").is_none());
    }
}
