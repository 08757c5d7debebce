//! Handlers of schedules: create, list, get, replace, delete, enable, disable, trigger.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use kube::{
    Api as KubeApi, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use prewarmer_core::{
    schedule::{
        ExecutionOrigin, ExecutionTask, ManualDecision, PrewarmSchedule, QueuedRun, Trigger,
        build_task, decide_manual, random_task_name,
    },
    task::PrewarmTask,
};
use prewarmer_kube::api_error::ApiErrorKind;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    Api, BASE_PATH,
    auth::{Caller, Permission},
    body,
    call_middleware::AuditSubject,
    error::ApiError,
    params::{MAX_LIMIT, Params, QueryPairs},
    schedule_request::{self, ScheduleRequest, ScheduleView},
    service::tasks::{CREATE as CREATE_TASK, CREATED_BY_ANNOTATION, creation_error},
    tasks::{
        cached_response, content_etag, is_object_name, read_authorized_body, resolve_by_name,
        visible_namespaces,
    },
};

const RESOURCE: &str = "prewarmschedules";
pub(super) const CREATE: Permission = Permission { verb: "create", resource: RESOURCE };
pub(super) const GET: Permission = Permission { verb: "get", resource: RESOURCE };
pub(super) const LIST: Permission = Permission { verb: "list", resource: RESOURCE };
pub(super) const UPDATE: Permission = Permission { verb: "update", resource: RESOURCE };
pub(super) const DELETE: Permission = Permission { verb: "delete", resource: RESOURCE };
/// Largest number of attempts of a write that conflicts with other writers.
const MAX_ATTEMPTS: u32 = 8;

/// Page of schedules.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScheduleList {
    /// Schedules, sorted by namespace and name.
    pub tasks: Vec<ScheduleView>,
    /// Number of schedules in all pages.
    pub total: usize,
    /// Largest number of schedules in a page.
    pub limit: usize,
    /// Number of schedules before this page.
    pub offset: usize,
}

/// Result of a change of a schedule.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScheduleDone {
    /// Name of the schedule.
    pub id: String,
    /// Description of the result.
    pub message: String,
}

/// Result of a manual trigger.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Triggered {
    /// Name of the schedule.
    pub id: String,
    /// Name of the task of the execution; null while the execution waits for another one.
    pub task_id: Option<String>,
    /// Description of the result.
    pub message: String,
}

fn schedule_client(api: &Api, namespace: &str) -> KubeApi<PrewarmSchedule> {
    KubeApi::namespaced(api.client.clone(), namespace)
}

fn with_audit_subject(mut response: Response, namespace: &str, name: &str) -> Response {
    response.extensions_mut().insert(AuditSubject(format!("{namespace}/{name}")));
    response
}

fn schedule_response(api: &Api, schedule: PrewarmSchedule, code: StatusCode) -> Response {
    let view = ScheduleView::from_schedule(&schedule, Timestamp::now());
    let (namespace, name) = (view.namespace.clone(), view.id.clone());
    api.schedules.put(schedule);
    let location = [(header::LOCATION, format!("{BASE_PATH}/scheduled-tasks/{name}"))];
    let response = match code {
        StatusCode::CREATED => (code, location, Json(view)).into_response(),
        _ => (code, Json(view)).into_response(),
    };
    with_audit_subject(response, &namespace, &name)
}

/// Creates a schedule.
#[utoipa::path(post, path = "/scheduled-tasks", tag = "schedules", request_body = ScheduleRequest,
    params(
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Namespace of the schedule when the body names none; with it the permission is checked before the body is read"),
    ),
    responses((status = 201, description = "Created schedule", body = ScheduleView,
        headers(("Location" = String, description = "Path of the schedule")))))]
pub(super) async fn create_schedule(
    State(api): State<Api>,
    caller: Caller,
    pairs: QueryPairs,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (namespace, body) =
        read_authorized_body(&api, &caller, CREATE, pairs, &headers, body).await?;
    let wanted =
        schedule_request::parse(body.value, &api.guard).map_err(ApiError::invalid_fields)?;
    let namespace = namespace.as_str();
    let name = format!("scheduled-{}", random_task_name(Timestamp::now()));
    let schedule = PrewarmSchedule {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            labels: Some(
                [("app.kubernetes.io/managed-by".to_owned(), "prewarmer".to_owned())].into(),
            ),
            annotations: Some([(CREATED_BY_ANNOTATION.to_owned(), caller.name)].into()),
            ..ObjectMeta::default()
        },
        spec: wanted.spec,
        status: None,
    };
    let made = schedule_client(&api, namespace).create(&PostParams::default(), &schedule).await;
    Ok(schedule_response(
        &api,
        made.map_err(|error| creation_error(error, namespace))?,
        StatusCode::CREATED,
    ))
}

/// Lists the schedules.
#[utoipa::path(get, path = "/scheduled-tasks", tag = "schedules",
    params(
        ("enabled" = Option<bool>, Query, description = "Return only enabled (`true`) or only disabled (`false`) schedules"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Return only schedules of this namespace"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "Largest number of schedules to return; 10 by default"),
        ("offset" = Option<u32>, Query, maximum = 2_147_483_647, description = "Number of schedules to skip"),
    ),
    responses((status = 200, description = "Page of schedules", body = ScheduleList)))]
pub(super) async fn list_schedules(
    State(api): State<Api>,
    caller: Caller,
    pairs: QueryPairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = Params::from_query(pairs);
    let enabled = params.choice("enabled", &[("true", true), ("false", false)]);
    let namespace = params.namespace();
    let (limit, offset) = params.page(MAX_LIMIT);
    params.finish()?;
    let visible = visible_namespaces(&api, &caller, LIST, namespace).await?;
    let fits = |schedule: &Arc<PrewarmSchedule>| {
        visible.contains(&schedule.namespace().unwrap_or_default())
            && enabled.is_none_or(|one| schedule.spec.enabled == one)
    };
    let all: Vec<_> = api.schedules.all().into_iter().filter(fits).collect();
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

/// Responds with a value as JSON, with an `ETag` and the age of the store.
pub(super) fn json_response(api: &Api, headers: &HeaderMap, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).unwrap_or_default();
    cached_response(api, headers, &content_etag(&text), text.into())
}

/// Returns the schedule named `id` that the caller may read. Error 404 when there is none.
pub(super) async fn get_visible(
    api: &Api,
    caller: &Caller,
    id: &str,
    namespace: Option<String>,
) -> Result<Arc<PrewarmSchedule>, ApiError> {
    if let Some(namespace) = &namespace {
        api.auth.authorize(caller, GET, namespace).await?;
    }
    let named = if is_object_name(id) { api.schedules.by_name(id) } else { Vec::new() };
    let found = named.into_iter().map(|one| (one.namespace().unwrap_or_default(), one)).collect();
    let found = resolve_by_name(api, caller, GET, namespace.as_deref(), found).await?;
    found.ok_or_else(|| ApiError::not_found("schedule", id))
}

pub(super) fn namespace_param(pairs: QueryPairs) -> Result<Option<String>, ApiError> {
    let mut params = Params::from_query(pairs);
    let namespace = params.namespace();
    params.finish()?;
    Ok(namespace)
}

/// Reads a schedule from the API server in order to change it, after checking that the caller may
/// do so.
async fn get_for_change(
    api: &Api,
    caller: &Caller,
    id: &str,
    pairs: QueryPairs,
    deed: Permission,
) -> Result<(KubeApi<PrewarmSchedule>, PrewarmSchedule), ApiError> {
    let known = get_visible(api, caller, id, namespace_param(pairs)?).await?;
    let namespace = known.namespace().unwrap_or_default();
    api.auth.authorize(caller, deed, &namespace).await?;
    let schedules = schedule_client(api, &namespace);
    let now = schedules.get_opt(id).await?.ok_or_else(|| ApiError::not_found("schedule", id))?;
    Ok((schedules, now))
}

/// Returns a schedule.
#[utoipa::path(get, path = "/scheduled-tasks/{id}", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "Name of the schedule"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Namespace of the schedule; required when several namespaces have a schedule of that name"),
        ("If-None-Match" = Option<String>, Header, description = "ETag of an earlier response; the response is 304 while it is current"),
    ),
    responses((status = 200, description = "The schedule", body = ScheduleView),
        (status = 304, description = "The schedule has not changed")))]
pub(super) async fn get_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: QueryPairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let schedule = get_visible(&api, &caller, &id, namespace_param(pairs)?).await?;
    Ok(json_response(&api, &headers, &ScheduleView::from_schedule(&schedule, Timestamp::now())))
}

/// Replaces a schedule. Fields that are absent get their defaults.
#[utoipa::path(put, path = "/scheduled-tasks/{id}", tag = "schedules", request_body = ScheduleRequest,
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "Name of the schedule"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Namespace of the schedule; required when several namespaces have a schedule of that name"),
    ),
    responses((status = 200, description = "Schedule after the change", body = ScheduleView)))]
pub(super) async fn replace_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: QueryPairs,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (schedules, mut schedule) = get_for_change(&api, &caller, &id, pairs, UPDATE).await?;
    let body = body::read_json(&api.budgets.bodies, &caller.name, &headers, body).await?;
    let wanted =
        schedule_request::parse(body.value, &api.guard).map_err(ApiError::invalid_fields)?;
    let namespace = schedule.namespace().unwrap_or_default();
    if wanted.namespace.is_some_and(|other| other != namespace) {
        return Err(ApiError::invalid_field(
            "namespace",
            format!("the namespace of a schedule cannot be changed: expected {namespace}"),
        ));
    }
    for _ in 0..MAX_ATTEMPTS {
        schedule.spec = wanted.spec.clone();
        match schedules.replace(&id, &PostParams::default(), &schedule).await {
            Ok(changed) => return Ok(schedule_response(&api, changed, StatusCode::OK)),
            // The leader has written the status meanwhile.
            Err(error) if ApiErrorKind::of(&error).is_conflict() => {
                schedule = schedules.get(&id).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(conflicting_writes())
}

/// Returns the 503 for a write that conflicted with other writers on every attempt.
fn conflicting_writes() -> ApiError {
    ApiError::retry_after(
        StatusCode::SERVICE_UNAVAILABLE,
        "the schedule was changed by other clients on every attempt: try again",
        1,
    )
}

/// Deletes a schedule and the tasks that it created.
#[utoipa::path(delete, path = "/scheduled-tasks/{id}", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "Name of the schedule"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Namespace of the schedule; required when several namespaces have a schedule of that name"),
    ),
    responses((status = 200, description = "The schedule was deleted", body = ScheduleDone)))]
pub(super) async fn delete_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: QueryPairs,
) -> Result<Response, ApiError> {
    let (schedules, schedule) = get_for_change(&api, &caller, &id, pairs, DELETE).await?;
    match schedules.delete(&id, &DeleteParams::background()).await {
        Ok(_) => {}
        Err(error) if ApiErrorKind::of(&error) == ApiErrorKind::NotFound => {
            return Err(ApiError::not_found("schedule", &id));
        }
        Err(error) => return Err(error.into()),
    }
    api.schedules.remove(&schedule);
    let namespace = schedule.namespace().unwrap_or_default();
    let body = ScheduleDone {
        id: id.clone(),
        message: "The schedule was deleted; its tasks are deleted with it".into(),
    };
    Ok(with_audit_subject(Json(body).into_response(), &namespace, &id))
}

async fn set_enabled(
    api: Api,
    caller: Caller,
    id: String,
    pairs: QueryPairs,
    enabled: bool,
) -> Result<Response, ApiError> {
    let (schedules, _) = get_for_change(&api, &caller, &id, pairs, UPDATE).await?;
    let patch = Patch::Merge(json!({"spec": {"enabled": enabled}}));
    let changed = schedules.patch(&id, &PatchParams::default(), &patch).await?;
    Ok(schedule_response(&api, changed, StatusCode::OK))
}

/// Enables a schedule.
#[utoipa::path(put, path = "/scheduled-tasks/{id}/enable", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "Name of the schedule"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Namespace of the schedule; required when several namespaces have a schedule of that name"),
    ),
    responses((status = 200, description = "Schedule after the change", body = ScheduleView)))]
pub(super) async fn enable_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: QueryPairs,
) -> Result<Response, ApiError> {
    set_enabled(api, caller, id, pairs, true).await
}

/// Disables a schedule. A running execution continues.
#[utoipa::path(put, path = "/scheduled-tasks/{id}/disable", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "Name of the schedule"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Namespace of the schedule; required when several namespaces have a schedule of that name"),
    ),
    responses((status = 200, description = "Schedule after the change", body = ScheduleView)))]
pub(super) async fn disable_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: QueryPairs,
) -> Result<Response, ApiError> {
    set_enabled(api, caller, id, pairs, false).await
}

/// Triggers an execution of a schedule now, enabled or not.
///
/// While another execution is running, `overlapPolicy` decides: `allow` runs both, `queue` waits,
/// `skip` returns 409.
#[utoipa::path(post, path = "/scheduled-tasks/{id}/trigger", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "Name of the schedule"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Namespace of the schedule; required when several namespaces have a schedule of that name"),
    ),
    responses((status = 202, description = "The execution starts, or waits for the running one", body = Triggered)))]
pub(super) async fn trigger_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: QueryPairs,
) -> Result<Response, ApiError> {
    let namespace = namespace_param(pairs)?;
    let known = get_visible(&api, &caller, &id, namespace).await?;
    let namespace = known.namespace().unwrap_or_default();
    // An execution is a task, so that the permission to create tasks is required.
    api.auth.authorize(&caller, CREATE_TASK, &namespace).await?;
    let schedules = schedule_client(&api, &namespace);
    for _ in 0..MAX_ATTEMPTS {
        let schedule =
            schedules.get_opt(&id).await?.ok_or_else(|| ApiError::not_found("schedule", &id))?;
        let runs = api.catalog.executions_of(&namespace, &schedule.uid().unwrap_or_default());
        let runs: Vec<ExecutionTask> = runs
            .iter()
            .filter_map(|entry| entry.execution.as_ref().map(|run| run.facts.clone()))
            .collect();
        let queued = schedule.status.as_ref().is_some_and(|status| status.queued.is_some());
        let made = ExecutionOrigin { scheduled_at: now_in_seconds(), trigger: Trigger::Manual };
        let (task, message) = match decide_manual(schedule.spec.overlap_policy, &runs, queued) {
            ManualDecision::Start => {
                let name = random_task_name(made.scheduled_at);
                let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), &namespace);
                let task = tasks
                    .create(&PostParams::default(), &build_task(&schedule, &name, &made))
                    .await?;
                api.catalog.put(&task);
                (Some(name), "The execution starts".to_owned())
            }
            ManualDecision::Queue(open) => {
                // The queued execution is written into the schedule, which requires the permission
                // to update it.
                api.auth.authorize(&caller, UPDATE, &namespace).await?;
                if !enqueue(&api, &schedules, schedule, &made).await? {
                    continue;
                }
                (None, format!("The execution waits for the end of {}", open.join(", ")))
            }
            ManualDecision::Refuse(open) => {
                let words = format!(
                    "{} is running, and the schedule's overlapPolicy permits no other execution",
                    open.join(", ")
                );
                return Err(ApiError::conflict(words, "running"));
            }
        };
        let body = Triggered { id: id.clone(), task_id: task, message };
        return Ok(with_audit_subject(
            (StatusCode::ACCEPTED, Json(body)).into_response(),
            &namespace,
            &id,
        ));
    }
    Err(conflicting_writes())
}

fn now_in_seconds() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Writes a queued execution into the schedule's status. Returns false when the write conflicts
/// with another writer.
async fn enqueue(
    api: &Api,
    schedules: &KubeApi<PrewarmSchedule>,
    mut schedule: PrewarmSchedule,
    made: &ExecutionOrigin,
) -> Result<bool, ApiError> {
    let queued = QueuedRun { scheduled_time: made.scheduled_at.to_string(), trigger: made.trigger };
    schedule.status.get_or_insert_default().queued = Some(queued);
    match schedules.replace_status(&schedule.name_any(), &PostParams::default(), &schedule).await {
        Ok(schedule) => {
            api.schedules.put(schedule);
            Ok(true)
        }
        Err(error) if ApiErrorKind::of(&error).is_conflict() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
