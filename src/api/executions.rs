//! The runs of a schedule.

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
    params::{MAX_LIMIT, Pairs, Params},
    schedule_request::ExecutionView,
    schedules::{answer, find, only_namespace},
};

/// A page of runs.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ExecutionList {
    /// The runs, newest first.
    pub executions: Vec<ExecutionView>,
    /// How many there are in all pages.
    pub total: usize,
    /// How many are in a page at most.
    pub limit: usize,
    /// After how many this page begins.
    pub offset: usize,
}

/// A page of the runs of a schedule, newest first.
#[utoipa::path(get, path = "/scheduled-tasks/{id}/executions", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The schedule's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have one of that name"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "How many at most; 10 by default"),
        ("offset" = Option<u32>, Query, maximum = 2_147_483_647, description = "After how many"),
    ),
    responses((status = 200, description = "The page", body = ExecutionList)))]
pub(super) async fn list_executions(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = Params::of(pairs);
    let namespace = params.namespace();
    let (limit, offset) = params.page(MAX_LIMIT);
    params.done()?;
    let schedule = find(&api, &caller, &id, namespace).await?;
    let all = ExecutionView::all(&schedule);
    let total = all.len();
    let executions = all.into_iter().skip(offset).take(limit).collect();
    Ok(answer(&api, &headers, &ExecutionList { executions, total, limit, offset }))
}

/// A run of a schedule.
#[utoipa::path(get, path = "/scheduled-tasks/{id}/executions/{n}", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The schedule's name"),
        ("n" = String, Path, pattern = "^[1-9][0-9]{0,9}$", description = "The run's number"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have one of that name"),
    ),
    responses((status = 200, description = "The run", body = ExecutionView)))]
pub(super) async fn get_execution(
    State(api): State<Api>,
    caller: Caller,
    Path((id, number)): Path<(String, String)>,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let schedule = find(&api, &caller, &id, only_namespace(pairs)?).await?;
    let found = ExecutionView::all(&schedule).into_iter().find(|run| run.id.to_string() == number);
    let run = found.ok_or_else(|| ApiError::not_found("run", &format!("{id}/{number}")))?;
    Ok(answer(&api, &headers, &run))
}
