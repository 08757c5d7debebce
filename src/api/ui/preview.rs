//! What would be done, as it is typed. Changes nothing.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};
use jiff::Timestamp;

use super::{
    form::Form,
    respond::{self, fragment},
    session::Viewer,
    view::next_times,
};
use crate::{
    api::{
        Api,
        body::Form as Posted,
        cluster::{LIST_NODES, Nodes, Reach},
        error::Detail,
        request, schedule_request,
    },
    image::Reference,
    node::Facts,
    schedule::Cron,
    task::{PrewarmTaskSpec, validate::validate},
};

/// Nodes that are named.
const NAMED: usize = 8;

/// An image, as it was read.
struct Image {
    name: String,
    whole: String,
    warm: usize,
}

/// The nodes that would be warmed.
struct Chosen {
    many: usize,
    matching: usize,
    at_once: usize,
    names: String,
    obstacles: Vec<(&'static str, usize)>,
}

#[derive(Template)]
#[template(path = "preview.html", config = "src/api/ui/askama.toml")]
struct Preview {
    wrong: Vec<String>,
    images: Vec<Image>,
    nodes: Option<Chosen>,
}

#[derive(Template)]
#[template(path = "preview_times.html", config = "src/api/ui/askama.toml")]
struct TimesPage {
    words: Option<String>,
    zone: String,
    times: Vec<String>,
    task: String,
}

/// What a task of this spec would do with these nodes. *Pure.*
fn choose(spec: &PrewarmTaskSpec, nodes: &[Facts]) -> Option<Chosen> {
    let task = validate(spec).ok()?;
    let reach = Reach::of(&task, nodes);
    let all = reach.named().unwrap_or_default();
    let mut names = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if all.len() > NAMED {
        names = format!("{names} and {} more", all.len() - NAMED);
    }
    let Reach { many, matching, .. } = reach;
    Some(Chosen { many, matching, at_once: task.batch_size.of(many), names, obstacles: reach.obstacles })
}

fn images(spec: &PrewarmTaskSpec, nodes: &[Facts]) -> Vec<Image> {
    let read = |image: &String| {
        let reference: Reference = image.parse().ok()?;
        let warm = nodes.iter().filter(|node| node.reports(&reference)).count();
        Some(Image { name: image.clone(), whole: reference.normalized().to_owned(), warm })
    };
    spec.images.iter().filter_map(read).collect()
}

async fn of_task(api: &Api, nodes: &Nodes, viewer: &Viewer, body: serde_json::Value) -> String {
    let nothing = body["images"].as_array().is_none_or(Vec::is_empty);
    let (spec, wrong) = match request::read(body, &api.guard) {
        Ok(wanted) => (wanted.spec, Vec::new()),
        Err(_) if nothing => (PrewarmTaskSpec::default(), Vec::new()),
        Err(details) => (PrewarmTaskSpec::default(), details.iter().map(ToString::to_string).collect()),
    };
    let may = api.auth.allows(&viewer.caller, LIST_NODES, None).await.unwrap_or(false);
    let snapshot = if may && !spec.images.is_empty() { nodes.get().await.ok() } else { None };
    let all = snapshot.as_ref().map(|snapshot| snapshot.nodes.as_slice()).unwrap_or_default();
    fragment(&Preview { wrong, images: images(&spec, all), nodes: snapshot.as_ref().and_then(|_| choose(&spec, all)) })
}

pub(super) async fn task(
    State(api): State<Api>,
    State(nodes): State<Nodes>,
    viewer: Viewer,
    Posted(pairs): Posted,
) -> Response {
    Html(of_task(&api, &nodes, &viewer, Form::of(pairs).task()).await).into_response()
}

pub(super) async fn schedule(
    State(api): State<Api>,
    State(nodes): State<Nodes>,
    viewer: Viewer,
    Posted(pairs): Posted,
) -> Response {
    let form = Form::of(pairs);
    let (text, zone) = (form.get("cronExpr").trim().to_owned(), form.get("timezone").trim().to_owned());
    let zone = if zone.is_empty() { "UTC".to_owned() } else { zone };
    let cron = Cron::parse(&text, &zone);
    let mut problems: Vec<String> = Vec::new();
    if !text.is_empty() {
        let wrong = schedule_request::read(form.schedule_body(), &api.guard).err().unwrap_or_default();
        let of_time = |detail: &&Detail| !detail.field.starts_with("taskConfig");
        problems.extend(wrong.iter().filter(of_time).map(ToString::to_string));
    }
    let mut task = form.task();
    if let Some(task) = task.as_object_mut() {
        task.remove("namespace");
    }
    let task = of_task(&api, &nodes, &viewer, task).await;
    let cron = cron.ok();
    let times = match &cron {
        Some(cron) => next_times(cron, Timestamp::now()),
        None => problems,
    };
    respond::page(StatusCode::OK, &TimesPage { words: cron.as_ref().map(Cron::in_words), zone, times, task })
}
