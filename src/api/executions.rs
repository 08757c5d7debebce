//! Executions of a schedule.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    auth::Caller,
    error::ApiError,
    params::{MAX_LIMIT, Params, QueryPairs},
    schedule_request::ExecutionView,
    schedules::{get_visible, json_response},
    service::schedules as service,
};

/// Page of executions.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ExecutionList {
    /// Executions, newest first.
    pub executions: Vec<ExecutionView>,
    /// Number of executions in all pages.
    pub total: usize,
    /// Largest number of executions in a page.
    pub limit: usize,
    /// Number of executions before this page.
    pub offset: usize,
}

/// Lists the executions of a schedule, newest first.
#[utoipa::path(get, path = "/scheduled-tasks/{id}/executions", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "Name of the schedule"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Namespace of the schedule; required when several namespaces have a schedule of that name"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "Largest number of executions to return; 10 by default"),
        ("offset" = Option<u32>, Query, maximum = 2_147_483_647, description = "Number of executions to skip"),
    ),
    responses((status = 200, description = "Page of executions", body = ExecutionList)))]
pub(super) async fn list_executions(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: QueryPairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = Params::from_query(pairs);
    let namespace = params.namespace();
    let (limit, offset) = params.page(MAX_LIMIT);
    params.finish()?;
    let schedule = service::get(&api, &caller, &id, namespace.as_deref()).await?;
    let all = ExecutionView::list(&schedule);
    let total = all.len();
    let executions = all.into_iter().skip(offset).take(limit).collect();
    Ok(json_response(&api, &headers, &ExecutionList { executions, total, limit, offset }))
}

/// Returns an execution of a schedule.
#[utoipa::path(get, path = "/scheduled-tasks/{id}/executions/{n}", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "Name of the schedule"),
        ("n" = String, Path, pattern = "^[1-9][0-9]{0,9}$", description = "Number of the execution"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Namespace of the schedule; required when several namespaces have a schedule of that name"),
    ),
    responses((status = 200, description = "The execution", body = ExecutionView)))]
pub(super) async fn get_execution(
    State(api): State<Api>,
    caller: Caller,
    Path((id, number)): Path<(String, String)>,
    pairs: QueryPairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let schedule = get_visible(&api, &caller, &id, pairs).await?;
    let found = ExecutionView::list(&schedule).into_iter().find(|run| run.id.to_string() == number);
    let run = found.ok_or_else(|| ApiError::not_found("execution", &format!("{id}/{number}")))?;
    Ok(json_response(&api, &headers, &run))
}
