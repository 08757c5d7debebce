//! One task.

use std::sync::Arc;

use askama::Template;
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::{
    grid::letters,
    live,
    respond::{Refusal, Shell, fragment, page as answer},
    session::Viewer,
    view::{Bar, Group, Row, bars, groups, span},
};
use crate::{
    api::{
        Api,
        error::ApiError,
        tasks::{CANCEL, CREATE, GET, find},
    },
    catalog::{Entry, ImageDetail, Status, TaskView},
    duration::between,
};

/// What is said of a page that was come to by a deed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub(super) told: String,
}

impl Told {
    /// Only words of ours are shown.
    pub(super) fn words(&self) -> Option<&'static str> {
        match self.told.as_str() {
            "made" => Some("The task was made."),
            "cancelled" => Some("The task is being cancelled."),
            "retried" => Some("This task tries the nodes again on which the other failed."),
            "changed" => Some("The schedule was changed."),
            "waits" => Some("The run waits for the end of the one at work."),
            _ => None,
        }
    }
}

#[derive(Template)]
#[template(path = "task.html", config = "src/api/ui/askama.toml")]
struct Page {
    shell: Shell,
    told: Option<&'static str>,
    link: String,
    title: String,
    id: String,
    namespace: String,
    images: Vec<String>,
    facts: Vec<(&'static str, String)>,
    actions: String,
    head: String,
    states: String,
    batches: String,
    failures: String,
}

#[derive(Template)]
#[template(path = "task_head.html", config = "src/api/ui/askama.toml")]
struct Head {
    row: Row,
    message: String,
    estimate: Option<String>,
    already: u32,
    batch: u32,
    total_batches: u32,
    took: Option<String>,
    remarks: Vec<String>,
    ignored: u32,
    ignored_reasons: String,
    images: Vec<ImageDetail>,
}

#[derive(Template)]
#[template(path = "task_actions.html", config = "src/api/ui/askama.toml")]
struct Actions {
    link: String,
    may_cancel: bool,
    may_retry: bool,
    left: u32,
}

#[derive(Template)]
#[template(path = "task_failures.html", config = "src/api/ui/askama.toml")]
struct Failures {
    groups: Vec<Group>,
    more: u32,
}

#[derive(Template)]
#[template(path = "task_batches.html", config = "src/api/ui/askama.toml")]
struct Batches {
    bars: Vec<Bar>,
    label: String,
    middle: String,
    end: String,
}

/// What a viewer may do to a task.
#[derive(Debug, Clone, Copy)]
struct Rights {
    cancel: bool,
    create: bool,
}

fn head(view: &TaskView, entry: &Entry) -> String {
    let detail = &entry.detail;
    let took = between(view.started_at.as_deref(), view.finished_at.as_deref());
    let reasons = detail.ignored_reasons.iter().map(|(reason, count)| format!("{count} {reason}"));
    fragment(&Head {
        row: Row::of(view, detail.skipped),
        message: view.message.clone(),
        estimate: view.estimated_completion.clone(),
        already: detail.already_warm,
        batch: view.progress.current_batch,
        total_batches: view.progress.total_batches,
        took: took.map(|took| span(took.as_secs_f64())),
        remarks: detail.remarks.clone(),
        ignored: detail.ignored,
        ignored_reasons: reasons.collect::<Vec<_>>().join(", "),
        images: view.image_details.clone(),
    })
}

fn actions(view: &TaskView, entry: &Entry, rights: Rights) -> String {
    let row = Row::of(view, entry.detail.skipped);
    let left = row.total.saturating_sub(row.done);
    let ended = view.status.is_final();
    fragment(&Actions {
        link: row.link(),
        may_cancel: !ended && rights.cancel,
        may_retry: ended && left > 0 && rights.create,
        left,
    })
}

fn failures(view: &TaskView) -> String {
    let groups = groups(&view.failed_node_details);
    let mut named: Vec<&str> = groups.iter().flat_map(|group| group.of.nodes.iter().map(String::as_str)).collect();
    named.sort_unstable();
    named.dedup();
    let more = view.progress.failed_nodes.saturating_sub(u32::try_from(named.len()).unwrap_or(u32::MAX));
    fragment(&Failures { groups, more })
}

fn batches(view: &TaskView, entry: &Entry, now: Timestamp) -> String {
    let running = view.status == Status::Running;
    let end = view.finished_at.clone().unwrap_or_else(|| now.to_string());
    let took = between(view.started_at.as_deref(), Some(&end)).map_or(0, |took| took.as_secs());
    let until = u32::try_from(took).unwrap_or_default();
    let ends = &entry.detail.batch_ends;
    // The axis ends with the last batch: what comes after it is no batch.
    let until = if running { until } else { ends.last().copied().unwrap_or_default() };
    let bars = if view.started_at.is_some() { bars(ends, until, running) } else { Vec::new() };
    let whole = f64::from(until.max(ends.last().copied().unwrap_or_default()));
    let many = ends.len();
    let slowest = std::iter::once(0)
        .chain(ends.iter().copied())
        .zip(ends.iter())
        .map(|(start, end)| end.saturating_sub(start))
        .max();
    let label = format!(
        "{many} {} done; the slowest took {}",
        if many == 1 { "batch" } else { "batches" },
        span(f64::from(slowest.unwrap_or_default()))
    );
    fragment(&Batches { bars, label, middle: span(whole / 2.0), end: span(whole) })
}

async fn rights(api: &Api, viewer: &Viewer, namespace: &str) -> Rights {
    let (cancel, create) = (viewer.may(api, CANCEL, namespace).await, viewer.may(api, CREATE, namespace).await);
    Rights { cancel, create }
}

/// The task that the path names, if the viewer may read it.
pub(super) async fn named(api: &Api, viewer: &Viewer, namespace: &str, id: &str) -> Result<Arc<Entry>, ApiError> {
    let pairs = Query(vec![("namespace".to_owned(), namespace.to_owned())]);
    find(api, &viewer.caller, id, pairs).await
}

/// The letters of the grid. Without a plan there is no grid.
async fn states(api: &Api, entry: &Entry) -> String {
    match api.plans.of(api, entry).await {
        Ok(Some(plan)) => letters(&entry.detail, entry.status, usize::try_from(plan.at_once).unwrap_or(1)),
        _ => String::new(),
    }
}

fn facts(view: &TaskView) -> Vec<(&'static str, String)> {
    let selector = view.node_selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
    let mut all = vec![
        ("Nodes", if selector.is_empty() { "all".into() } else { selector.join(", ") }),
        ("At once", view.batch_size.to_string()),
        ("Priority", view.priority.to_string()),
        ("Made by", view.origin.clone()),
    ];
    if view.max_retries > 0 {
        all.push(("Further tries", view.max_retries.to_string()));
    }
    all
}

pub(super) async fn page(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
    Query(told): Query<Told>,
) -> Result<Response, Refusal> {
    let refuse = |error| Refusal::to(error, &viewer);
    let entry = named(&api, &viewer, &namespace, &id).await.map_err(refuse)?;
    let view = entry.view().ok_or_else(|| Refusal::to(ApiError::not_found("task", &id), &viewer))?;
    let rights = rights(&api, &viewer, &namespace).await;
    let row = Row::of(&view, 0);
    Ok(answer(
        StatusCode::OK,
        &Page {
            shell: Shell::new(row.title(), "/ui/tasks", Some(&viewer)),
            told: told.words(),
            link: row.link(),
            title: row.title(),
            actions: actions(&view, &entry, rights),
            head: head(&view, &entry),
            states: states(&api, &entry).await,
            batches: batches(&view, &entry, Timestamp::now()),
            failures: failures(&view),
            facts: facts(&view),
            images: view.images,
            id,
            namespace,
        },
    ))
}

pub(super) async fn live(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    named(&api, &viewer, &namespace, &id).await?;
    live::events(&api, &viewer, vec![api.catalog.changes()], move |api, viewer| {
        let (namespace, id) = (namespace.clone(), id.clone());
        async move {
            let entry = named(&api, &viewer, &namespace, &id).await?;
            let view = entry.view().ok_or_else(|| ApiError::not_found("task", &id))?;
            let rights = rights(&api, &viewer, &namespace).await;
            let parts = vec![
                ("nodes", states(&api, &entry).await),
                ("head", head(&view, &entry)),
                ("actions", actions(&view, &entry, rights)),
                ("batches", batches(&view, &entry, Timestamp::now())),
                ("failures", failures(&view)),
            ];
            Ok((parts, view.status.is_final()))
        }
    })
}

/// The names of a task's nodes, and where each stands.
pub(super) async fn nodes(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    api.auth.authorize(&viewer.caller, GET, &namespace).await?;
    let entry = named(&api, &viewer, &namespace, &id).await?;
    let plan = api.plans.of(&api, &entry).await?;
    let names = plan.as_ref().map(|plan| plan.nodes.as_slice()).unwrap_or_default();
    Ok(Json(json!({"names": names, "states": states(&api, &entry).await})).into_response())
}
