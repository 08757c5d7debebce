//! What the pages do: each deed is a call of the REST API, made here in the name of whoever has signed in.

use askama::Template;
use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use kube::Api as KubeApi;
use serde_json::Value;

use super::{
    form::Form,
    respond::{self, Refusal, Shell},
    session::Viewer,
    task::named,
    view::task_link,
};
use crate::{
    api::{Api, body::Form as Posted, error::ApiError, front::Subject, schedules as calls, tasks},
    schedule::random_task_name,
    task::{PrewarmTask, again, not_warm},
};

#[derive(Template)]
#[template(path = "new_task.html", config = "src/api/ui/askama.toml")]
struct NewTask {
    shell: Shell,
    form: Form,
    key: String,
}

#[derive(Template)]
#[template(path = "new_schedule.html", config = "src/api/ui/askama.toml")]
struct NewSchedule {
    shell: Shell,
    form: Form,
}

/// A form that is filled in by what the address says, such as `?images=nginx:1.27`.
pub(super) async fn new_task(viewer: Viewer, Query(pairs): Query<Vec<(String, String)>>) -> Response {
    ask_task(StatusCode::OK, &viewer, Form::of(pairs))
}

/// Each form has a key: sent twice, it makes one task.
fn ask_task(code: StatusCode, viewer: &Viewer, form: Form) -> Response {
    let key = match form.get("key") {
        "" => crate::hex(&rand::random::<[u8; 16]>()),
        known => known.to_owned(),
    };
    respond::page(code, &NewTask { shell: Shell::new("Warm images", "/ui/tasks", Some(viewer)), form, key })
}

fn json_call(body: &Value) -> (HeaderMap, Body) {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (HeaderMap::from_iter([kind]), Body::from(body.to_string()))
}

/// Namespace and name of what a call was about.
fn subject(response: &Response) -> Option<(String, String)> {
    let subject = response.extensions().get::<Subject>()?;
    subject.0.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
}

/// To another page, with the call's subject for the audit line.
fn gone(to: &str, done: &Response) -> Response {
    let mut response = respond::to(to);
    if let Some(subject) = done.extensions().get::<Subject>() {
        response.extensions_mut().insert(subject.clone());
    }
    response
}

pub(super) async fn create_task(State(api): State<Api>, viewer: Viewer, Posted(pairs): Posted) -> Response {
    let form = Form::of(pairs);
    let (mut headers, body) = json_call(&form.task());
    if let Ok(key) = HeaderValue::try_from(form.get("key")) {
        headers.insert("idempotency-key", key);
    }
    match tasks::create_task(State(api), viewer.caller.clone(), Query(Vec::new()), headers, body).await {
        Ok(done) => match subject(&done) {
            Some((namespace, name)) => gone(&format!("{}?told=made", task_link(&namespace, &name)), &done),
            None => gone("/ui/tasks", &done),
        },
        Err(error) => {
            let code = error.code;
            ask_task(code, &viewer, form.refused(&error))
        }
    }
}

fn in_namespace(namespace: &str) -> Query<Vec<(String, String)>> {
    Query(vec![("namespace".to_owned(), namespace.to_owned())])
}

pub(super) async fn cancel_task(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let done = tasks::cancel_task(State(api), viewer.caller.clone(), Path(id.clone()), in_namespace(&namespace)).await;
    let done = done.map_err(|error| Refusal::to(error, &viewer))?;
    Ok(gone(&format!("{}?told=cancelled", task_link(&namespace, &id)), &done))
}

/// The same task once more, for the nodes that are not warm.
pub(super) async fn retry_task(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let refuse = |error: ApiError| Refusal::to(error, &viewer);
    let entry = named(&api, &viewer, &namespace, &id).await.map_err(refuse)?;
    if !entry.status.is_final() {
        let words = "the task has not ended: wait for it, or cancel it";
        return Err(refuse(ApiError::conflict(words, entry.status.as_str())));
    }
    api.auth.authorize(&viewer.caller, tasks::CREATE, &namespace).await.map_err(refuse)?;
    let plan = api.plans.of(&api, &entry).await.map_err(refuse)?;
    let known = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), &namespace);
    api.count("get", "prewarmtasks");
    let task = known.get(&id).await.map_err(|error| refuse(error.into()))?;
    let left = plan.map(|plan| not_warm(&task, &plan)).unwrap_or_default();
    if left.is_empty() {
        return Err(refuse(ApiError::conflict("no node is left that is not warm", entry.status.as_str())));
    }
    let name = random_task_name(jiff::Timestamp::now());
    let next = tasks::obtain(&api, &namespace, &name, again(&task.spec, left), &viewer.caller, false).await;
    api.catalog.put(&next.map_err(refuse)?);
    let mut response = respond::to(&format!("{}?told=retried", task_link(&namespace, &name)));
    response.extensions_mut().insert(Subject(format!("{namespace}/{name}")));
    Ok(response)
}

pub(super) async fn new_schedule(viewer: Viewer, Query(pairs): Query<Vec<(String, String)>>) -> Response {
    ask_schedule(StatusCode::OK, &viewer, Form::of(pairs))
}

fn ask_schedule(code: StatusCode, viewer: &Viewer, form: Form) -> Response {
    respond::page(code, &NewSchedule { shell: Shell::new("New schedule", "/ui/schedules", Some(viewer)), form })
}

pub(super) async fn create_schedule(State(api): State<Api>, viewer: Viewer, Posted(pairs): Posted) -> Response {
    let form = Form::of(pairs);
    let (headers, body) = json_call(&form.schedule_body());
    match calls::create_schedule(State(api), viewer.caller.clone(), Query(Vec::new()), headers, body).await {
        Ok(done) => match subject(&done) {
            Some((namespace, name)) => gone(&format!("/ui/schedules/{namespace}/{name}"), &done),
            None => gone("/ui/schedules", &done),
        },
        Err(error) => {
            let code = error.code;
            ask_schedule(code, &viewer, form.refused(&error))
        }
    }
}

/// Enables, disables, runs or deletes a schedule.
pub(super) async fn change_schedule(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id, deed)): Path<(String, String, String)>,
) -> Result<Response, Refusal> {
    let (caller, path, pairs) = (viewer.caller.clone(), Path(id.clone()), in_namespace(&namespace));
    let here = format!("/ui/schedules/{namespace}/{id}");
    let (done, next) = match deed.as_str() {
        "enable" => (calls::enable_schedule(State(api), caller, path, pairs).await, format!("{here}?told=changed")),
        "disable" => (calls::disable_schedule(State(api), caller, path, pairs).await, format!("{here}?told=changed")),
        "trigger" => (calls::trigger_schedule(State(api), caller, path, pairs).await, here),
        "delete" => (calls::delete_schedule(State(api), caller, path, pairs).await, "/ui/schedules".into()),
        _ => (Err(ApiError::not_found("deed", &deed)), here),
    };
    let done = done.map_err(|error| Refusal::to(error, &viewer))?;
    Ok(gone(&next, &done))
}
