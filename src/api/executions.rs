//! Executions of a schedule.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    auth::Caller,
    error::ApiError,
    params::{CheckedQuery, SchedulePath, ScheduleQuery, default_limit, impl_query_params},
    schedule_request::ExecutionView,
    service::schedules as service,
    store_response::json_response,
};

/// Page of executions.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ExecutionList {
    /// Executions, newest first.
    pub executions: Vec<ExecutionView>,
    /// Number of executions in all pages.
    pub total: usize,
    /// Largest number of executions in a page.
    pub limit: usize,
    /// Number of executions before this page.
    pub offset: usize,
}

/// Path of an execution.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct ExecutionPath {
    /// Name of the schedule
    #[param(max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    id: String,
    /// Number of the execution
    #[param(pattern = "^[1-9][0-9]{0,9}$")]
    n: String,
}

/// Query of a list of executions.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExecutionListQuery {
    /// Namespace of the schedule; required when several namespaces have a schedule of that name
    #[param(pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")]
    namespace: Option<String>,
    /// Largest number of executions to return; 10 by default
    #[serde(default = "default_limit")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    limit: usize,
    /// Number of executions to skip
    #[serde(default)]
    #[param(value_type = Option<u32>, maximum = 2_147_483_647)]
    offset: usize,
}

impl_query_params!(ExecutionListQuery);

/// Lists the executions of a schedule, newest first.
#[utoipa::path(get, path = "/scheduled-tasks/{id}/executions", tag = "schedules",
    params(SchedulePath, ExecutionListQuery),
    responses((status = 200, description = "Page of executions", body = ExecutionList)))]
pub(super) async fn list_executions(
    State(api): State<Api>,
    caller: Caller,
    Path(SchedulePath { id }): Path<SchedulePath>,
    CheckedQuery(query): CheckedQuery<ExecutionListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ExecutionListQuery { namespace, limit, offset } = query;
    let schedule = service::get(&api, &caller, &id, namespace.as_deref()).await?;
    let all = ExecutionView::list(&schedule);
    let total = all.len();
    let executions = all.into_iter().skip(offset).take(limit).collect();
    Ok(json_response(&api, &headers, &ExecutionList { executions, total, limit, offset }))
}

/// Returns an execution of a schedule.
#[utoipa::path(get, path = "/scheduled-tasks/{id}/executions/{n}", tag = "schedules",
    params(ExecutionPath, ScheduleQuery),
    responses((status = 200, description = "The execution", body = ExecutionView)))]
pub(super) async fn get_execution(
    State(api): State<Api>,
    caller: Caller,
    Path(ExecutionPath { id, n }): Path<ExecutionPath>,
    CheckedQuery(query): CheckedQuery<ScheduleQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let schedule = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    let found = ExecutionView::list(&schedule).into_iter().find(|run| run.id.to_string() == n);
    let run = found.ok_or_else(|| ApiError::not_found("execution", &format!("{id}/{n}")))?;
    Ok(json_response(&api, &headers, &run))
}
