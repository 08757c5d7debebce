//! Actions of the pages. Each calls an operation of the service with the identity of the signed-in
//! user.

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use kube::ResourceExt;
use prewarmer_core::schedule::PrewarmSchedule;

use super::{
    form::PageForm,
    respond::{self, PageError, PageShell},
    task::{check_namespace, get_task},
    view::task_link,
    viewer::Viewer,
};
use crate::api::{
    Api,
    body::FormBody as Posted,
    call_middleware::AuditSubject,
    creation::authorize_form,
    error::ApiError,
    idempotency::{self, random_key},
    permissions::{CREATE_SCHEDULE, CREATE_TASK},
    request, schedule_request,
    service::{
        schedules,
        tasks::{self, CreatedTask},
    },
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
        "" => random_key(),
        known => known.to_owned(),
    };
    respond::render_page(
        code,
        &NewTaskPage { shell: PageShell::new("Warm images", "/ui/tasks", Some(viewer)), form, key },
    )
}

pub(super) async fn create_task(
    State(api): State<Api>,
    viewer: Viewer,
    Posted { fields, .. }: Posted,
) -> Response {
    let form = PageForm::from_pairs(fields);
    match create_task_from_form(&api, &viewer, &form).await {
        Ok(made) => redirect_to_task(
            &made.task.namespace().unwrap_or_default(),
            &made.task.name_any(),
            "made",
        ),
        Err(error) => render_task_form(error.code, &viewer, form.with_errors(&error)),
    }
}

async fn create_task_from_form(
    api: &Api,
    viewer: &Viewer,
    form: &PageForm,
) -> Result<CreatedTask, ApiError> {
    let key = idempotency::check_key(form.get("key"))?;
    let (caller, mut body) = (&viewer.caller, form.task_body());
    let namespace = authorize_form(api, caller, CREATE_TASK, &mut body).await?;
    let wanted = request::parse(body, &api.guard).map_err(ApiError::invalid_fields)?;
    Ok(tasks::create(api, caller, &namespace, wanted.spec, Some(key)).await?)
}

/// Redirects to a page, and names the object in the audit log.
fn redirect_after_change(to: &str, namespace: &str, name: &str) -> Response {
    let mut response = respond::redirect(to);
    response.extensions_mut().insert(AuditSubject(format!("{namespace}/{name}")));
    response
}

/// Redirects to a task's page with a notice, and names the task in the audit log.
fn redirect_to_task(namespace: &str, name: &str, notice: &str) -> Response {
    let to = format!("{}?notice={notice}", task_link(namespace, name));
    redirect_after_change(&to, namespace, name)
}

pub(super) async fn cancel_task(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, PageError> {
    let cancel = async {
        let entry = get_task(&api, &viewer, &namespace, &id).await?;
        tasks::cancel(&api, &viewer.caller, &entry).await.map_err(ApiError::from)
    };
    cancel.await.map_err(|error| PageError::for_viewer(error, &viewer))?;
    Ok(redirect_to_task(&namespace, &id, "cancelled"))
}

/// Creates a new task with the same spec for the nodes that the ended task did not warm. The form
/// has an idempotency key: submitted twice, it creates one task.
pub(super) async fn retry_task(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
    Posted { fields, .. }: Posted,
) -> Result<Response, PageError> {
    let form = PageForm::from_pairs(fields);
    let retry = async {
        // The page of an earlier version, still open during an upgrade, sends no key.
        let key = Some(form.get("key")).filter(|key| !key.is_empty());
        let key = key.map(idempotency::check_key).transpose()?;
        let entry = get_task(&api, &viewer, &namespace, &id).await?;
        tasks::retry(&api, &viewer.caller, &entry, key).await.map_err(ApiError::from)
    };
    let made = retry.await.map_err(|error| PageError::for_viewer(error, &viewer))?;
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
    Posted { fields, .. }: Posted,
) -> Response {
    let form = PageForm::from_pairs(fields);
    match create_schedule_from_form(&api, &viewer, &form).await {
        Ok(made) => {
            let (namespace, name) = (made.namespace().unwrap_or_default(), made.name_any());
            redirect_after_change(&format!("/ui/schedules/{namespace}/{name}"), &namespace, &name)
        }
        Err(error) => render_schedule_form(error.code, &viewer, form.with_errors(&error)),
    }
}

async fn create_schedule_from_form(
    api: &Api,
    viewer: &Viewer,
    form: &PageForm,
) -> Result<PrewarmSchedule, ApiError> {
    let (caller, mut body) = (&viewer.caller, form.schedule_body());
    let namespace = authorize_form(api, caller, CREATE_SCHEDULE, &mut body).await?;
    let wanted = schedule_request::parse(body, &api.guard).map_err(ApiError::invalid_fields)?;
    Ok(schedules::create(api, caller, &namespace, wanted.spec).await?)
}

/// Enables, disables, runs or deletes a schedule.
pub(super) async fn change_schedule(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id, deed)): Path<(String, String, String)>,
) -> Result<Response, PageError> {
    let here = format!("/ui/schedules/{namespace}/{id}");
    let change = async {
        let caller = &viewer.caller;
        if !["enable", "disable", "trigger", "delete"].contains(&deed.as_str()) {
            return Err(ApiError::not_found("action", &deed));
        }
        check_namespace(&namespace)?;
        let schedule = schedules::get(&api, caller, &id, Some(&namespace)).await?;
        Ok(match deed.as_str() {
            "trigger" => match schedules::trigger(&api, caller, &schedule).await? {
                schedules::TriggeredExecution::Started(_) => here,
                schedules::TriggeredExecution::Queued(_) => format!("{here}?notice=waits"),
            },
            "delete" => {
                schedules::delete(&api, caller, &schedule).await?;
                "/ui/schedules".to_owned()
            }
            _ => {
                schedules::set_enabled(&api, caller, &schedule, deed == "enable").await?;
                format!("{here}?notice=changed")
            }
        })
    };
    let next = change.await.map_err(|error| PageError::for_viewer(error, &viewer))?;
    Ok(redirect_after_change(&next, &namespace, &id))
}
