//! Actions of the pages. Each calls a handler of the REST API with the identity of the signed-in
//! user.

use askama::Template;
use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use kube::ResourceExt;
use serde_json::Value;

use super::{
    form::PageForm,
    respond::{self, PageError, PageShell},
    session::Viewer,
    task::get_task,
    view::task_link,
};
use crate::api::{
    Api, body::FormBody as Posted, call_middleware::AuditSubject, error::ApiError,
    schedules as calls, service::tasks as service, tasks,
};

#[derive(Template)]
#[template(path = "new_task.html", config = "src/api/ui/askama.toml")]
struct NewTaskPage {
    shell: PageShell,
    form: PageForm,
    key: String,
}

#[derive(Template)]
#[template(path = "new_schedule.html", config = "src/api/ui/askama.toml")]
struct NewSchedulePage {
    shell: PageShell,
    form: PageForm,
}

/// Shows the form for a new task, filled in from query parameters such as `?images=nginx:1.27`.
pub(super) async fn new_task(
    viewer: Viewer,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    render_task_form(StatusCode::OK, &viewer, PageForm::from_pairs(pairs))
}

/// Renders the form for a new task. Each form has an idempotency key: submitted twice, it creates
/// one task.
fn render_task_form(code: StatusCode, viewer: &Viewer, form: PageForm) -> Response {
    let key = match form.get("key") {
        "" => prewarmer_core::hex(&rand::random::<[u8; 16]>()),
        known => known.to_owned(),
    };
    respond::render_page(
        code,
        &NewTaskPage { shell: PageShell::new("Warm images", "/ui/tasks", Some(viewer)), form, key },
    )
}

fn json_request(body: &Value) -> (HeaderMap, Body) {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (HeaderMap::from_iter([kind]), Body::from(body.to_string()))
}

/// Returns namespace and name of the object that a call created or changed.
fn object_of_call(response: &Response) -> Option<(String, String)> {
    let subject = response.extensions().get::<AuditSubject>()?;
    subject.0.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
}

/// Redirects to a page and keeps the call's subject for the audit log.
fn redirect_with_subject(to: &str, done: &Response) -> Response {
    let mut response = respond::redirect(to);
    if let Some(subject) = done.extensions().get::<AuditSubject>() {
        response.extensions_mut().insert(subject.clone());
    }
    response
}

pub(super) async fn create_task(
    State(api): State<Api>,
    viewer: Viewer,
    Posted(pairs): Posted,
) -> Response {
    let form = PageForm::from_pairs(pairs);
    let (mut headers, body) = json_request(&form.task_body());
    if let Ok(key) = HeaderValue::try_from(form.get("key")) {
        headers.insert("idempotency-key", key);
    }
    match tasks::create_task(State(api), viewer.caller.clone(), Query(Vec::new()), headers, body)
        .await
    {
        Ok(done) => match object_of_call(&done) {
            Some((namespace, name)) => redirect_with_subject(
                &format!("{}?notice=made", task_link(&namespace, &name)),
                &done,
            ),
            None => redirect_with_subject("/ui/tasks", &done),
        },
        Err(error) => {
            let code = error.code;
            render_task_form(code, &viewer, form.with_errors(&error))
        }
    }
}

/// Redirects to a task's page with a notice, and names the task in the audit log.
fn redirect_to_task(namespace: &str, name: &str, notice: &str) -> Response {
    let mut response =
        respond::redirect(&format!("{}?notice={notice}", task_link(namespace, name)));
    response.extensions_mut().insert(AuditSubject(format!("{namespace}/{name}")));
    response
}

fn namespace_query(namespace: &str) -> Query<Vec<(String, String)>> {
    Query(vec![("namespace".to_owned(), namespace.to_owned())])
}

pub(super) async fn cancel_task(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, PageError> {
    let refuse = |error: ApiError| PageError::for_viewer(error, &viewer);
    let entry = get_task(&api, &viewer, &namespace, &id).await.map_err(refuse)?;
    service::cancel(&api, &viewer.caller, &entry).await.map_err(refuse)?;
    Ok(redirect_to_task(&namespace, &id, "cancelled"))
}

/// Creates a new task with the same spec for the nodes that the ended task did not warm.
pub(super) async fn retry_task(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, PageError> {
    let refuse = |error: ApiError| PageError::for_viewer(error, &viewer);
    let entry = get_task(&api, &viewer, &namespace, &id).await.map_err(refuse)?;
    let made = service::retry(&api, &viewer.caller, &entry, None).await.map_err(refuse)?;
    Ok(redirect_to_task(&namespace, &made.task.name_any(), "retried"))
}

pub(super) async fn new_schedule(
    viewer: Viewer,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    render_schedule_form(StatusCode::OK, &viewer, PageForm::from_pairs(pairs))
}

fn render_schedule_form(code: StatusCode, viewer: &Viewer, form: PageForm) -> Response {
    respond::render_page(
        code,
        &NewSchedulePage {
            shell: PageShell::new("New schedule", "/ui/schedules", Some(viewer)),
            form,
        },
    )
}

pub(super) async fn create_schedule(
    State(api): State<Api>,
    viewer: Viewer,
    Posted(pairs): Posted,
) -> Response {
    let form = PageForm::from_pairs(pairs);
    let (headers, body) = json_request(&form.schedule_body());
    match calls::create_schedule(
        State(api),
        viewer.caller.clone(),
        Query(Vec::new()),
        headers,
        body,
    )
    .await
    {
        Ok(done) => match object_of_call(&done) {
            Some((namespace, name)) => {
                redirect_with_subject(&format!("/ui/schedules/{namespace}/{name}"), &done)
            }
            None => redirect_with_subject("/ui/schedules", &done),
        },
        Err(error) => {
            let code = error.code;
            render_schedule_form(code, &viewer, form.with_errors(&error))
        }
    }
}

/// Enables, disables, runs or deletes a schedule.
pub(super) async fn change_schedule(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id, deed)): Path<(String, String, String)>,
) -> Result<Response, PageError> {
    let (caller, path, pairs) =
        (viewer.caller.clone(), Path(id.clone()), namespace_query(&namespace));
    let here = format!("/ui/schedules/{namespace}/{id}");
    let (done, next) = match deed.as_str() {
        "enable" => (
            calls::enable_schedule(State(api), caller, path, pairs).await,
            format!("{here}?notice=changed"),
        ),
        "disable" => (
            calls::disable_schedule(State(api), caller, path, pairs).await,
            format!("{here}?notice=changed"),
        ),
        "trigger" => (calls::trigger_schedule(State(api), caller, path, pairs).await, here),
        "delete" => {
            (calls::delete_schedule(State(api), caller, path, pairs).await, "/ui/schedules".into())
        }
        _ => (Err(ApiError::not_found("action", &deed)), here),
    };
    let done = done.map_err(|error| PageError::for_viewer(error, &viewer))?;
    Ok(redirect_with_subject(&next, &done))
}
