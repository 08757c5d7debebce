//! Previews of tasks and schedules for the forms, updated while the user types. Read-only.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};
use jiff::Timestamp;
use prewarmer::api::pages::{Detail, FormBody, NodeSelection, PagesApi};
use prewarmer_core::{
    image::ImageRef,
    node::NodeInfo,
    schedule::Cron,
    task::{PrewarmTaskSpec, validate::validate},
};

use super::{
    form::PageForm,
    posted_form::PostedForm,
    respond::{self, render_fragment},
    view::next_times,
    viewer::Viewer,
};

/// Maximum number of node names in a preview.
const MAX_NODE_NAMES: usize = 8;

/// Parsed image reference with the number of nodes that report it.
struct ImagePreview {
    name: String,
    normalized: String,
    warm: usize,
}

/// Nodes that a task would warm.
struct SelectedNodes {
    selected: usize,
    matching: usize,
    at_once: usize,
    names: String,
    ineligible: Vec<(&'static str, usize)>,
}

#[derive(Template)]
#[template(path = "preview.html", config = "src/pages/askama.toml")]
struct TaskPreview {
    errors: Vec<String>,
    images: Vec<ImagePreview>,
    nodes: Option<SelectedNodes>,
}

#[derive(Template)]
#[template(path = "preview_times.html", config = "src/pages/askama.toml")]
struct SchedulePreview {
    description: Option<String>,
    zone: String,
    times: Vec<String>,
    task: String,
}

/// Computes which of the nodes a task with this spec would warm; `None` if the spec is not valid.
/// Pure: no client, no clock, no I/O.
fn select_nodes(spec: &PrewarmTaskSpec, nodes: &[NodeInfo]) -> Option<SelectedNodes> {
    let task = validate(spec).ok()?;
    let reach = NodeSelection::for_task(&task, nodes);
    let all = reach.names().unwrap_or_default();
    let mut names = all.iter().take(MAX_NODE_NAMES).copied().collect::<Vec<_>>().join(", ");
    if all.len() > MAX_NODE_NAMES {
        names = format!("{names} and {} more", all.len() - MAX_NODE_NAMES);
    }
    let NodeSelection { selected: many, matching, .. } = reach;
    Some(SelectedNodes {
        selected: many,
        matching,
        at_once: task.batch_size.of_total(many),
        names,
        ineligible: reach.ineligible,
    })
}

fn image_previews(spec: &PrewarmTaskSpec, nodes: &[NodeInfo]) -> Vec<ImagePreview> {
    let read = |image: &String| {
        let reference: ImageRef = image.parse().ok()?;
        let warm = nodes.iter().filter(|node| node.reports_image(&reference)).count();
        Some(ImagePreview {
            name: image.clone(),
            normalized: reference.normalized().to_owned(),
            warm,
        })
    };
    spec.images.iter().filter_map(read).collect()
}

async fn render_task_preview(api: &PagesApi, viewer: &Viewer, body: serde_json::Value) -> String {
    let nothing = body["images"].as_array().is_none_or(Vec::is_empty);
    let (spec, wrong) = match api.parse_task(body) {
        Ok(spec) => (spec, Vec::new()),
        Err(_) if nothing => (PrewarmTaskSpec::default(), Vec::new()),
        Err(details) => {
            (PrewarmTaskSpec::default(), details.iter().map(ToString::to_string).collect())
        }
    };
    let nodes =
        if spec.images.is_empty() { None } else { api.permitted_nodes(&viewer.caller).await };
    let all = nodes.as_ref().map(|nodes| nodes.as_slice()).unwrap_or_default();
    render_fragment(&TaskPreview {
        errors: wrong,
        images: image_previews(&spec, all),
        nodes: nodes.as_ref().and_then(|_| select_nodes(&spec, all)),
    })
}

pub(super) async fn task(
    State(api): State<PagesApi>,
    viewer: Viewer,
    PostedForm(FormBody { fields, .. }): PostedForm,
) -> Response {
    let body = PageForm::from_pairs(fields).task_body();
    Html(render_task_preview(&api, &viewer, body).await).into_response()
}

pub(super) async fn schedule(
    State(api): State<PagesApi>,
    viewer: Viewer,
    PostedForm(FormBody { fields, .. }): PostedForm,
) -> Response {
    let form = PageForm::from_pairs(fields);
    let (text, zone) =
        (form.get("cronExpr").trim().to_owned(), form.get("timezone").trim().to_owned());
    let zone = if zone.is_empty() { "UTC".to_owned() } else { zone };
    let cron = Cron::parse(&text, &zone);
    let mut problems: Vec<String> = Vec::new();
    if !text.is_empty() {
        let wrong = api.parse_schedule(form.schedule_body()).err().unwrap_or_default();
        let of_time = |detail: &&Detail| !detail.field.starts_with("taskConfig");
        problems.extend(wrong.iter().filter(of_time).map(ToString::to_string));
    }
    let mut task = form.task_body();
    if let Some(task) = task.as_object_mut() {
        task.remove("namespace");
    }
    let task = render_task_preview(&api, &viewer, task).await;
    let cron = cron.ok();
    let times = match &cron {
        Some(cron) => next_times(cron, Timestamp::now()),
        None => problems,
    };
    respond::render_page(
        StatusCode::OK,
        &SchedulePreview { description: cron.as_ref().map(Cron::describe), zone, times, task },
    )
}
