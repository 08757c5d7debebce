//! Handlers of schedules: create, list, get, replace, delete, enable, disable, trigger.

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use kube::ResourceExt;
use prewarmer_core::schedule::{PrewarmSchedule, PrewarmScheduleSpec};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, BASE_PATH,
    auth::Caller,
    body,
    call_middleware::AuditSubject,
    creation::read_authorized_body,
    error::ApiError,
    params::{
        CheckedQuery, CreateScheduleQuery, IfNoneMatch, SchedulePath, ScheduleQuery, default_limit,
        impl_query_params,
    },
    permissions::{CREATE_SCHEDULE, LIST_SCHEDULES, UPDATE_SCHEDULE},
    schedule_request::{self, ChangeStatus, ScheduleRequest, ScheduleView},
    schedule_update::parse_update,
    service::{
        schedules::{self as service, TriggeredExecution},
        visible_namespaces,
    },
    store_response::json_response,
};

/// Page of schedules.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ScheduleList {
    /// Schedules, sorted by namespace and name.
    pub tasks: Vec<ScheduleView>,
    /// Number of schedules in all pages.
    pub total: usize,
    /// Largest number of schedules in a page.
    pub limit: usize,
    /// Number of schedules before this page.
    pub offset: usize,
}

/// Result of a deletion of a schedule.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScheduleDone {
    /// Name of the schedule.
    pub id: String,
    /// Same as `id`.
    #[schema(required = false)]
    pub task_id: String,
    /// Result of the call.
    #[schema(required = false)]
    pub status: ChangeStatus,
    /// Description of the result.
    pub message: String,
}

/// Result of a manual trigger.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Triggered {
    /// Name of the schedule.
    pub id: String,
    /// Name of the task of the execution; null while the execution waits for another one.
    pub task_id: Option<String>,
    /// `success` when the execution has started, `queued` when it waits for another one.
    #[schema(required = false)]
    pub status: ChangeStatus,
    /// Description of the result.
    pub message: String,
}

fn with_audit_subject(mut response: Response, schedule: &PrewarmSchedule) -> Response {
    let (namespace, name) = (schedule.namespace().unwrap_or_default(), schedule.name_any());
    response.extensions_mut().insert(AuditSubject(format!("{namespace}/{name}")));
    response
}

/// Responds with a schedule that was enabled or disabled, and names it in the audit log.
fn change_response(schedule: &PrewarmSchedule, message: &str) -> Response {
    let view = ScheduleView::from_schedule(schedule, Timestamp::now()).with_change(message);
    with_audit_subject(Json(view).into_response(), schedule)
}

/// Responds with a changed schedule, and names it in the audit log.
fn schedule_response(schedule: &PrewarmSchedule) -> Response {
    let view = ScheduleView::from_schedule(schedule, Timestamp::now());
    with_audit_subject(Json(view).into_response(), schedule)
}

/// Creates a schedule.
#[utoipa::path(post, path = "/scheduled-tasks", tag = "schedules", request_body = ScheduleRequest,
    params(CreateScheduleQuery),
    responses((status = 201, description = "Created schedule", body = ScheduleView,
        headers(("Location" = String, description = "Path of the schedule")))))]
pub(super) async fn create_schedule(
    State(api): State<Api>,
    caller: Caller,
    CheckedQuery(query): CheckedQuery<CreateScheduleQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (namespace, body) =
        read_authorized_body(&api, &caller, CREATE_SCHEDULE, query.namespace, &headers, body)
            .await?;
    let wanted =
        schedule_request::parse(body.value, &api.guard).map_err(ApiError::invalid_fields)?;
    let made = service::create(&api, &caller, &namespace, wanted.spec).await?;
    let location = format!("{BASE_PATH}/scheduled-tasks/{}", made.name_any());
    let response = schedule_response(&made);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], response).into_response())
}

/// Query of a list of schedules.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ScheduleListQuery {
    /// Return only enabled (`true`) or only disabled (`false`) schedules
    enabled: Option<bool>,
    /// Return only schedules of this namespace
    #[param(pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")]
    namespace: Option<String>,
    /// Largest number of schedules to return; 10 by default
    #[serde(default = "default_limit")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    limit: usize,
    /// Number of schedules to skip
    #[serde(default)]
    #[param(value_type = Option<u32>, maximum = 2_147_483_647)]
    offset: usize,
}

impl_query_params!(ScheduleListQuery);

/// Lists the schedules.
#[utoipa::path(get, path = "/scheduled-tasks", tag = "schedules",
    params(ScheduleListQuery),
    responses((status = 200, description = "Page of schedules", body = ScheduleList)))]
pub(super) async fn list_schedules(
    State(api): State<Api>,
    caller: Caller,
    CheckedQuery(query): CheckedQuery<ScheduleListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ScheduleListQuery { enabled, namespace, limit, offset } = query;
    let visible = visible_namespaces(&api, &caller, LIST_SCHEDULES, namespace).await?;
    let all = service::list(&api, &visible, enabled);
    let now = Timestamp::now();
    let tasks = all
        .iter()
        .skip(offset)
        .take(limit)
        .map(|schedule| ScheduleView::from_schedule(schedule, now))
        .collect();
    let list = ScheduleList { tasks, total: all.len(), limit, offset };
    Ok(json_response(&api, &headers, &list))
}

/// Returns a schedule.
#[utoipa::path(get, path = "/scheduled-tasks/{id}", tag = "schedules",
    params(SchedulePath, ScheduleQuery, IfNoneMatch),
    responses((status = 200, description = "The schedule", body = ScheduleView),
        (status = 304, description = "The schedule has not changed")))]
pub(super) async fn get_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(SchedulePath { id }): Path<SchedulePath>,
    CheckedQuery(query): CheckedQuery<ScheduleQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let schedule = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    Ok(json_response(&api, &headers, &ScheduleView::from_schedule(&schedule, Timestamp::now())))
}

/// Changes a schedule.
///
/// Fields that the body does not have, also those of `taskConfig`, keep their values; null sets a
/// field to its default.
#[utoipa::path(put, path = "/scheduled-tasks/{id}", tag = "schedules", request_body = ScheduleRequest,
    params(SchedulePath, ScheduleQuery),
    responses((status = 200, description = "Schedule after the change", body = ScheduleView)))]
pub(super) async fn replace_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(SchedulePath { id }): Path<SchedulePath>,
    CheckedQuery(query): CheckedQuery<ScheduleQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let known = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    let schedule = service::get_for_change(&api, &caller, &known, UPDATE_SCHEDULE).await?;
    let body = body::read_json(&api.budgets.bodies, &caller.name, &headers, body).await?;
    let change = |current: &PrewarmScheduleSpec| parse_update(current, &body.value, &api.guard);
    Ok(schedule_response(&service::update(&api, schedule, change).await?))
}

/// Deletes a schedule and the tasks that it created.
#[utoipa::path(delete, path = "/scheduled-tasks/{id}", tag = "schedules",
    params(SchedulePath, ScheduleQuery),
    responses((status = 200, description = "The schedule was deleted", body = ScheduleDone)))]
pub(super) async fn delete_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(SchedulePath { id }): Path<SchedulePath>,
    CheckedQuery(query): CheckedQuery<ScheduleQuery>,
) -> Result<Response, ApiError> {
    let schedule = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    service::delete(&api, &caller, &schedule).await?;
    let message = "The schedule was deleted; its tasks are deleted with it".into();
    let body = ScheduleDone { task_id: id.clone(), id, status: ChangeStatus::Success, message };
    Ok(with_audit_subject(Json(body).into_response(), &schedule))
}

/// Enables a schedule.
#[utoipa::path(put, path = "/scheduled-tasks/{id}/enable", tag = "schedules",
    params(SchedulePath, ScheduleQuery),
    responses((status = 200, description = "Schedule after the change", body = ScheduleView)))]
pub(super) async fn enable_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(SchedulePath { id }): Path<SchedulePath>,
    CheckedQuery(query): CheckedQuery<ScheduleQuery>,
) -> Result<Response, ApiError> {
    let schedule = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    let schedule = service::set_enabled(&api, &caller, &schedule, true).await?;
    Ok(change_response(&schedule, "The schedule is enabled"))
}

/// Disables a schedule. A running execution continues.
#[utoipa::path(put, path = "/scheduled-tasks/{id}/disable", tag = "schedules",
    params(SchedulePath, ScheduleQuery),
    responses((status = 200, description = "Schedule after the change", body = ScheduleView)))]
pub(super) async fn disable_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(SchedulePath { id }): Path<SchedulePath>,
    CheckedQuery(query): CheckedQuery<ScheduleQuery>,
) -> Result<Response, ApiError> {
    let schedule = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    let schedule = service::set_enabled(&api, &caller, &schedule, false).await?;
    Ok(change_response(&schedule, "The schedule is disabled"))
}

/// Triggers an execution of a schedule now, enabled or not.
///
/// While another execution is running, `overlapPolicy` decides: `allow` runs both, `queue` waits,
/// `skip` returns 409.
#[utoipa::path(post, path = "/scheduled-tasks/{id}/trigger", tag = "schedules",
    params(SchedulePath, ScheduleQuery),
    responses((status = 200, description = "The execution starts", body = Triggered),
        (status = 202, description = "The execution waits for the running one", body = Triggered)))]
pub(super) async fn trigger_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(SchedulePath { id }): Path<SchedulePath>,
    CheckedQuery(query): CheckedQuery<ScheduleQuery>,
) -> Result<Response, ApiError> {
    let schedule = service::get(&api, &caller, &id, query.namespace.as_deref()).await?;
    let (code, body) = match service::trigger(&api, &caller, &schedule).await? {
        TriggeredExecution::Started(name) => {
            let (status, message) = (ChangeStatus::Success, "The execution starts".to_owned());
            (StatusCode::OK, Triggered { id, task_id: Some(name), status, message })
        }
        TriggeredExecution::Queued(open) => {
            let message = format!("The execution waits for the end of {}", open.join(", "));
            let status = ChangeStatus::Queued;
            (StatusCode::ACCEPTED, Triggered { id, task_id: None, status, message })
        }
    };
    Ok(with_audit_subject((code, Json(body)).into_response(), &schedule))
}
