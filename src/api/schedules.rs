//! Schedules: create, list, get, replace, delete, enable, disable, trigger.

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
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    Api, BASE,
    auth::{Caller, Deed},
    body,
    error::ApiError,
    front::Subject,
    params::{MAX_LIMIT, Pairs, Params},
    schedule_request::{self, ScheduleRequest, ScheduleView},
    tasks::{self, CREATED_BY_ANNOTATION, etag_of, fresh, in_namespace, is_name, pick, readable},
};
use crate::{
    schedule::{Made, Manual, PrewarmSchedule, QueuedRun, RunFacts, Trigger, decide_manual, random_task_name, task_of},
    task::PrewarmTask,
};

const RESOURCE: &str = "prewarmschedules";
pub(super) const CREATE: Deed = Deed { verb: "create", resource: RESOURCE };
pub(super) const GET: Deed = Deed { verb: "get", resource: RESOURCE };
pub(super) const LIST: Deed = Deed { verb: "list", resource: RESOURCE };
pub(super) const UPDATE: Deed = Deed { verb: "update", resource: RESOURCE };
pub(super) const DELETE: Deed = Deed { verb: "delete", resource: RESOURCE };
/// Tries to write what is being written at the same moment.
const TRIES: u32 = 8;

/// A page of schedules.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScheduleList {
    /// The schedules, by namespace and name.
    pub tasks: Vec<ScheduleView>,
    /// How many there are in all pages.
    pub total: usize,
    /// How many are in a page at most.
    pub limit: usize,
    /// After how many this page begins.
    pub offset: usize,
}

/// What was done to a schedule.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScheduleDone {
    /// The schedule.
    pub id: String,
    /// For people.
    pub message: String,
}

/// A run by hand.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Triggered {
    /// The schedule.
    pub id: String,
    /// The run's task; none yet where it waits for another.
    pub task_id: Option<String>,
    /// For people.
    pub message: String,
}

fn api_of(api: &Api, namespace: &str) -> KubeApi<PrewarmSchedule> {
    KubeApi::namespaced(api.client.clone(), namespace)
}

fn about(mut response: Response, namespace: &str, name: &str) -> Response {
    response.extensions_mut().insert(Subject(format!("{namespace}/{name}")));
    response
}

fn shown(api: &Api, schedule: PrewarmSchedule, code: StatusCode) -> Response {
    let view = ScheduleView::of(&schedule, Timestamp::now());
    let (namespace, name) = (view.namespace.clone(), view.id.clone());
    api.schedules.put(schedule);
    let location = [(header::LOCATION, format!("{BASE}/scheduled-tasks/{name}"))];
    let response = match code {
        StatusCode::CREATED => (code, location, Json(view)).into_response(),
        _ => (code, Json(view)).into_response(),
    };
    about(response, &namespace, &name)
}

/// Make a schedule.
#[utoipa::path(post, path = "/scheduled-tasks", tag = "schedules", request_body = ScheduleRequest,
    params(
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "The namespace, where the body names none; with it the right is checked before the body is read"),
    ),
    responses((status = 201, description = "The schedule was made", body = ScheduleView,
        headers(("Location" = String, description = "Where the schedule is")))))]
pub(super) async fn create_schedule(
    State(api): State<Api>,
    caller: Caller,
    pairs: Pairs,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (namespace, body) = tasks::body_of(&api, &caller, CREATE, pairs, &headers, body).await?;
    let wanted = schedule_request::read(body.value, &api.guard).map_err(ApiError::bad)?;
    let namespace = namespace.as_str();
    let name = format!("scheduled-{}", random_task_name(Timestamp::now()));
    let schedule = PrewarmSchedule {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "prewarmer".to_owned())].into()),
            annotations: Some([(CREATED_BY_ANNOTATION.to_owned(), caller.name)].into()),
            ..ObjectMeta::default()
        },
        spec: wanted.spec,
        status: None,
    };
    api.count("create", RESOURCE);
    let made = api_of(&api, namespace).create(&PostParams::default(), &schedule).await;
    Ok(shown(&api, made.map_err(|error| in_namespace(error, namespace))?, StatusCode::CREATED))
}

/// A page of the schedules.
#[utoipa::path(get, path = "/scheduled-tasks", tag = "schedules",
    params(
        ("enabled" = Option<bool>, Query, description = "Only those that are, or are not"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Only of this namespace"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "How many at most; 10 by default"),
        ("offset" = Option<u32>, Query, maximum = 2_147_483_647, description = "After how many"),
    ),
    responses((status = 200, description = "The page", body = ScheduleList)))]
pub(super) async fn list_schedules(
    State(api): State<Api>,
    caller: Caller,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = Params::of(pairs);
    let enabled = params.choice("enabled", &[("true", true), ("false", false)]);
    let namespace = params.namespace();
    let (limit, offset) = params.page(MAX_LIMIT);
    params.done()?;
    let visible = readable(&api, &caller, LIST, namespace).await?;
    let fits = |schedule: &Arc<PrewarmSchedule>| {
        visible.has(&schedule.namespace().unwrap_or_default()) && enabled.is_none_or(|one| schedule.spec.enabled == one)
    };
    let all: Vec<_> = api.schedules.all().into_iter().filter(fits).collect();
    let now = Timestamp::now();
    let tasks = all.iter().skip(offset).take(limit).map(|schedule| ScheduleView::of(schedule, now)).collect();
    let list = ScheduleList { tasks, total: all.len(), limit, offset };
    Ok(answer(&api, &headers, &list))
}

/// Any value, from memory.
pub(super) fn answer(api: &Api, headers: &HeaderMap, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).unwrap_or_default();
    fresh(api, headers, &etag_of(&text), text.into())
}

/// The schedule of that name that the caller may read.
pub(super) async fn find(
    api: &Api,
    caller: &Caller,
    id: &str,
    namespace: Option<String>,
) -> Result<Arc<PrewarmSchedule>, ApiError> {
    if let Some(namespace) = &namespace {
        api.auth.authorize(caller, GET, namespace).await?;
    }
    let named = if is_name(id) { api.schedules.named(id) } else { Vec::new() };
    let found = named.into_iter().map(|one| (one.namespace().unwrap_or_default(), one)).collect();
    let found = pick(api, caller, GET, namespace.as_deref(), found).await?;
    found.ok_or_else(|| ApiError::not_found("schedule", id))
}

pub(super) fn only_namespace(pairs: Pairs) -> Result<Option<String>, ApiError> {
    let mut params = Params::of(pairs);
    let namespace = params.namespace();
    params.done()?;
    Ok(namespace)
}

/// The schedule that is to be changed, as the API server has it, if the caller may do that.
async fn to_change(
    api: &Api,
    caller: &Caller,
    id: &str,
    pairs: Pairs,
    deed: Deed,
) -> Result<(KubeApi<PrewarmSchedule>, PrewarmSchedule), ApiError> {
    let known = find(api, caller, id, only_namespace(pairs)?).await?;
    let namespace = known.namespace().unwrap_or_default();
    api.auth.authorize(caller, deed, &namespace).await?;
    let schedules = api_of(api, &namespace);
    api.count("get", RESOURCE);
    let now = schedules.get_opt(id).await?.ok_or_else(|| ApiError::not_found("schedule", id))?;
    Ok((schedules, now))
}

/// The schedule.
#[utoipa::path(get, path = "/scheduled-tasks/{id}", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The schedule's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have one of that name"),
        ("If-None-Match" = Option<String>, Header, description = "An ETag: answered by 304 while it is current"),
    ),
    responses((status = 200, description = "The schedule", body = ScheduleView),
        (status = 304, description = "It has not changed")))]
pub(super) async fn get_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let schedule = find(&api, &caller, &id, only_namespace(pairs)?).await?;
    Ok(answer(&api, &headers, &ScheduleView::of(&schedule, Timestamp::now())))
}

/// Replace a schedule: what is not named takes its default.
#[utoipa::path(put, path = "/scheduled-tasks/{id}", tag = "schedules", request_body = ScheduleRequest,
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The schedule's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have one of that name"),
    ),
    responses((status = 200, description = "The schedule as it is now", body = ScheduleView)))]
pub(super) async fn replace_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (schedules, mut schedule) = to_change(&api, &caller, &id, pairs, UPDATE).await?;
    let body = body::json(&api.bounds.bodies, &caller.name, &headers, body).await?;
    let wanted = schedule_request::read(body.value, &api.guard).map_err(ApiError::bad)?;
    let namespace = schedule.namespace().unwrap_or_default();
    if wanted.namespace.is_some_and(|other| other != namespace) {
        return Err(ApiError::bad_field("namespace", format!("the schedule is in {namespace}, and stays there")));
    }
    for _ in 0..TRIES {
        schedule.spec = wanted.spec.clone();
        api.count("update", RESOURCE);
        match schedules.replace(&id, &PostParams::default(), &schedule).await {
            Ok(changed) => return Ok(shown(&api, changed, StatusCode::OK)),
            // The leader has written its status.
            Err(kube::Error::Api(status)) if status.code == 409 => schedule = schedules.get(&id).await?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(busy())
}

/// Somebody else was quicker, again and again.
fn busy() -> ApiError {
    ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "the schedule is being changed all the time", 1)
}

/// Delete a schedule, and the tasks that it has made.
#[utoipa::path(delete, path = "/scheduled-tasks/{id}", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The schedule's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have one of that name"),
    ),
    responses((status = 200, description = "It was deleted", body = ScheduleDone)))]
pub(super) async fn delete_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let (schedules, schedule) = to_change(&api, &caller, &id, pairs, DELETE).await?;
    api.count("delete", RESOURCE);
    match schedules.delete(&id, &DeleteParams::background()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(ApiError::not_found("schedule", &id)),
        Err(error) => return Err(error.into()),
    }
    api.schedules.remove(&schedule);
    let namespace = schedule.namespace().unwrap_or_default();
    let body = ScheduleDone { id: id.clone(), message: "The schedule was deleted, and its tasks go with it".into() };
    Ok(about(Json(body).into_response(), &namespace, &id))
}

async fn set_enabled(api: Api, caller: Caller, id: String, pairs: Pairs, enabled: bool) -> Result<Response, ApiError> {
    let (schedules, _) = to_change(&api, &caller, &id, pairs, UPDATE).await?;
    api.count("patch", RESOURCE);
    let patch = Patch::Merge(json!({"spec": {"enabled": enabled}}));
    let changed = schedules.patch(&id, &PatchParams::default(), &patch).await?;
    Ok(shown(&api, changed, StatusCode::OK))
}

/// Have a schedule run from now on.
#[utoipa::path(put, path = "/scheduled-tasks/{id}/enable", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The schedule's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have one of that name"),
    ),
    responses((status = 200, description = "The schedule as it is now", body = ScheduleView)))]
pub(super) async fn enable_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    set_enabled(api, caller, id, pairs, true).await
}

/// Have a schedule rest. What is at work goes on.
#[utoipa::path(put, path = "/scheduled-tasks/{id}/disable", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The schedule's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have one of that name"),
    ),
    responses((status = 200, description = "The schedule as it is now", body = ScheduleView)))]
pub(super) async fn disable_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    set_enabled(api, caller, id, pairs, false).await
}

/// Have a schedule run now, enabled or not.
///
/// While a run is at work, `overlapPolicy` says what happens: `allow` runs beside it, `queue` waits, `skip` is answered by 409.
#[utoipa::path(post, path = "/scheduled-tasks/{id}/trigger", tag = "schedules",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The schedule's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have one of that name"),
    ),
    responses((status = 202, description = "It runs, or waits for the run that is at work", body = Triggered)))]
pub(super) async fn trigger_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let namespace = only_namespace(pairs)?;
    let known = find(&api, &caller, &id, namespace).await?;
    let namespace = known.namespace().unwrap_or_default();
    // A run is a task.
    api.auth.authorize(&caller, tasks::CREATE, &namespace).await?;
    let schedules = api_of(&api, &namespace);
    for _ in 0..TRIES {
        api.count("get", RESOURCE);
        let schedule = schedules.get_opt(&id).await?.ok_or_else(|| ApiError::not_found("schedule", &id))?;
        let runs = api.catalog.runs_of(&namespace, &schedule.uid().unwrap_or_default());
        let runs: Vec<RunFacts> =
            runs.iter().filter_map(|entry| entry.run.as_ref().map(|run| run.facts.clone())).collect();
        let queued = schedule.status.as_ref().is_some_and(|status| status.queued.is_some());
        let made = Made { tick: now_in_seconds(), trigger: Trigger::Manual };
        let (task, message) = match decide_manual(schedule.spec.overlap_policy, &runs, queued) {
            Manual::Start => {
                let name = random_task_name(made.tick);
                let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), &namespace);
                api.count("create", "prewarmtasks");
                let task = tasks.create(&PostParams::default(), &task_of(&schedule, &name, &made)).await?;
                api.catalog.put(&task);
                (Some(name), "The run begins".to_owned())
            }
            Manual::Queue(open) => {
                // That a run waits is written into the schedule, which takes a right on the schedule.
                api.auth.authorize(&caller, UPDATE, &namespace).await?;
                if !enqueue(&api, &schedules, schedule, &made).await? {
                    continue;
                }
                (None, format!("The run waits for the end of {}", open.join(", ")))
            }
            Manual::Refuse(open) => {
                let words = format!("{} is at work, and the schedule's overlapPolicy allows no other", open.join(", "));
                return Err(ApiError::conflict(words, "running"));
            }
        };
        let body = Triggered { id: id.clone(), task_id: task, message };
        return Ok(about((StatusCode::ACCEPTED, Json(body)).into_response(), &namespace, &id));
    }
    Err(busy())
}

fn now_in_seconds() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Writes down that a run waits; not where somebody else has written at the same moment.
async fn enqueue(
    api: &Api,
    schedules: &KubeApi<PrewarmSchedule>,
    mut schedule: PrewarmSchedule,
    made: &Made,
) -> Result<bool, ApiError> {
    let queued = QueuedRun { scheduled_time: made.tick.to_string(), trigger: made.trigger };
    schedule.status.get_or_insert_default().queued = Some(queued);
    api.count("update", RESOURCE);
    match schedules.replace_status(&schedule.name_any(), &PostParams::default(), &schedule).await {
        Ok(schedule) => {
            api.schedules.put(schedule);
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
