//! Actions of the pages. Each calls an operation of the service with the identity of the signed-in
//! user.

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use kube::ResourceExt;
use prewarmer::api::pages::{
    ApiError, FormBody, PagesApi, TriggeredExecution, check_key, random_key, set_audit_subject,
};

use super::{
    form::PageForm,
    posted_form::PostedForm,
    respond::{self, PageError, PageShell},
    task::{check_namespace, get_task},
    view::task_link,
    viewer::Viewer,
};

#[derive(Template)]
#[template(path = "new_task.html", config = "src/pages/askama.toml")]
struct NewTaskPage {
    shell: PageShell,
    form: PageForm,
    key: String,
}

#[derive(Template)]
#[template(path = "new_schedule.html", config = "src/pages/askama.toml")]
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
    State(api): State<PagesApi>,
    viewer: Viewer,
    PostedForm(FormBody { fields, .. }): PostedForm,
) -> Response {
    let form = PageForm::from_pairs(fields);
    match api.create_task(&viewer.caller, form.get("key"), form.task_body()).await {
        Ok(task) => {
            redirect_to_task(&task.namespace().unwrap_or_default(), &task.name_any(), "made")
        }
        Err(error) => render_task_form(error.code, &viewer, form.with_errors(&error)),
    }
}

/// Redirects to a page, and names the object in the audit log.
fn redirect_after_change(to: &str, namespace: &str, name: &str) -> Response {
    let mut response = respond::redirect(to);
    set_audit_subject(&mut response, namespace, name);
    response
}

/// Redirects to a task's page with a notice, and names the task in the audit log.
fn redirect_to_task(namespace: &str, name: &str, notice: &str) -> Response {
    let to = format!("{}?notice={notice}", task_link(namespace, name));
    redirect_after_change(&to, namespace, name)
}

pub(super) async fn cancel_task(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, PageError> {
    let cancel = async {
        let entry = get_task(&api, &viewer, &namespace, &id).await?;
        api.cancel_task(&viewer.caller, &entry).await
    };
    cancel.await.map_err(|error| PageError::for_viewer(error, &viewer))?;
    Ok(redirect_to_task(&namespace, &id, "cancelled"))
}

/// Creates a new task with the same spec for the nodes that the ended task did not warm. The form
/// has an idempotency key: submitted twice, it creates one task.
pub(super) async fn retry_task(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
    PostedForm(FormBody { fields, .. }): PostedForm,
) -> Result<Response, PageError> {
    let form = PageForm::from_pairs(fields);
    let retry = async {
        // The page of an earlier version, still open during an upgrade, sends no key.
        let key = Some(form.get("key")).filter(|key| !key.is_empty());
        let key = key.map(check_key).transpose()?;
        let entry = get_task(&api, &viewer, &namespace, &id).await?;
        api.retry_task(&viewer.caller, &entry, key).await
    };
    let made = retry.await.map_err(|error| PageError::for_viewer(error, &viewer))?;
    Ok(redirect_to_task(&namespace, &made.name_any(), "retried"))
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
    State(api): State<PagesApi>,
    viewer: Viewer,
    PostedForm(FormBody { fields, .. }): PostedForm,
) -> Response {
    let form = PageForm::from_pairs(fields);
    match api.create_schedule(&viewer.caller, form.schedule_body()).await {
        Ok(made) => {
            let (namespace, name) = (made.namespace().unwrap_or_default(), made.name_any());
            redirect_after_change(&format!("/ui/schedules/{namespace}/{name}"), &namespace, &name)
        }
        Err(error) => render_schedule_form(error.code, &viewer, form.with_errors(&error)),
    }
}

/// Enables, disables, runs or deletes a schedule.
pub(super) async fn change_schedule(
    State(api): State<PagesApi>,
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
        let schedule = api.get_schedule(caller, &namespace, &id).await?;
        Ok(match deed.as_str() {
            "trigger" => match api.trigger_schedule(caller, &schedule).await? {
                TriggeredExecution::Started(_) => here,
                TriggeredExecution::Queued(_) => format!("{here}?notice=waits"),
            },
            "delete" => {
                api.delete_schedule(caller, &schedule).await?;
                "/ui/schedules".to_owned()
            }
            _ => {
                api.set_schedule_enabled(caller, &schedule, deed == "enable").await?;
                format!("{here}?notice=changed")
            }
        })
    };
    let next = change.await.map_err(|error| PageError::for_viewer(error, &viewer))?;
    Ok(redirect_after_change(&next, &namespace, &id))
}
