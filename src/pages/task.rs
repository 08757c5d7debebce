//! Page of one task.

use std::sync::Arc;

use askama::Template;
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use prewarmer::api::pages::{
    ApiError, CANCEL_TASK, CREATE_TASK, ImageDetail, PagesApi, TaskView, check_key, random_key,
};
use prewarmer_core::{
    dns,
    duration::{elapsed, format_human},
    task::Status,
    timestamp,
};
use prewarmer_kube::store::TaskEntry;
use serde::Deserialize;
use serde_json::json;

use super::{
    grid::node_letters,
    live,
    respond::{PageError, PageShell, render_fragment, render_page as answer},
    view::{BatchBar, FailureGroupView, TaskRow, batch_bars, format_seconds, group_failures},
    viewer::Viewer,
};

/// Query parameter of a page after a redirect from an action.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ActionNotice {
    pub(super) notice: String,
}

impl ActionNotice {
    /// Returns the fixed notice for the parameter. Other values are ignored, so that a link cannot
    /// inject text.
    pub(super) fn text(&self) -> Option<&'static str> {
        match self.notice.as_str() {
            "made" => Some("The task was created."),
            "cancelled" => Some("The task is being cancelled."),
            "retried" => Some("This task retries the nodes that the previous task did not warm."),
            "changed" => Some("The schedule was changed."),
            "waits" => Some("The execution is queued until the running one ends."),
            _ => None,
        }
    }
}

/// Query parameters of the live updates of a page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LiveQuery {
    /// Idempotency key of the page's retry button. With the page's own key, a button that an update
    /// replaces between two clicks still creates one task.
    key: String,
}

#[derive(Template)]
#[template(path = "task.html", config = "src/pages/askama.toml")]
struct TaskPage {
    shell: PageShell,
    notice: Option<&'static str>,
    link: String,
    key: String,
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
#[template(path = "task_head.html", config = "src/pages/askama.toml")]
struct TaskHead {
    row: TaskRow,
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
#[template(path = "task_actions.html", config = "src/pages/askama.toml")]
struct TaskActions {
    link: String,
    may_cancel: bool,
    may_retry: bool,
    left: u32,
    key: String,
}

#[derive(Template)]
#[template(path = "task_failures.html", config = "src/pages/askama.toml")]
struct TaskFailures {
    groups: Vec<FailureGroupView>,
    more: u32,
}

#[derive(Template)]
#[template(path = "task_batches.html", config = "src/pages/askama.toml")]
struct TaskBatches {
    bars: Vec<BatchBar>,
    label: String,
    middle: String,
    end: String,
}

/// Permissions of the user on a task.
#[derive(Debug, Clone, Copy)]
struct TaskPermissions {
    cancel: bool,
    create: bool,
}

fn render_head(view: &TaskView, entry: &TaskEntry) -> String {
    let detail = entry.detail();
    let took = elapsed(view.started_at.as_deref(), view.finished_at.as_deref());
    let reasons = detail.ignored_reasons.iter().map(|(reason, count)| format!("{count} {reason}"));
    render_fragment(&TaskHead {
        row: TaskRow::from_view(view, detail.skipped),
        message: view.message.clone(),
        estimate: view.estimated_completion.clone(),
        already: detail.already_warm,
        batch: view.progress.current_batch,
        total_batches: view.progress.total_batches,
        took: took.map(format_human),
        remarks: detail.condition_messages.clone(),
        ignored: detail.ignored,
        ignored_reasons: reasons.collect::<Vec<_>>().join(", "),
        images: view.image_details.clone(),
    })
}

/// Renders the buttons. `key` is the idempotency key of a retry.
fn render_actions(
    view: &TaskView,
    entry: &TaskEntry,
    rights: TaskPermissions,
    key: &str,
) -> String {
    let row = TaskRow::from_view(view, entry.detail().skipped);
    let left = row.total.saturating_sub(row.done);
    let ended = view.status.is_final();
    render_fragment(&TaskActions {
        link: row.link(),
        may_cancel: !ended && rights.cancel,
        may_retry: ended && left > 0 && rights.create,
        left,
        key: key.to_owned(),
    })
}

fn render_failures(view: &TaskView) -> String {
    let groups = group_failures(&view.failed_node_details);
    let mut named: Vec<&str> =
        groups.iter().flat_map(|group| group.failures.nodes.iter().map(String::as_str)).collect();
    named.sort_unstable();
    named.dedup();
    let more =
        view.progress.failed_nodes.saturating_sub(u32::try_from(named.len()).unwrap_or(u32::MAX));
    render_fragment(&TaskFailures { groups, more })
}

fn render_batches(view: &TaskView, entry: &TaskEntry, now: Timestamp) -> String {
    let running = view.status == Status::Running;
    let end = view.finished_at.clone().unwrap_or_else(|| timestamp::format(now));
    let took = elapsed(view.started_at.as_deref(), Some(&end)).map_or(0, |took| took.as_secs());
    let until = u32::try_from(took).unwrap_or_default();
    let detail = entry.detail();
    let ends = &detail.batch_ends;
    // The axis ends with the last batch; the time after it belongs to no batch.
    let until = if running { until } else { ends.last().copied().unwrap_or_default() };
    let bars =
        if view.started_at.is_some() { batch_bars(ends, until, running) } else { Vec::new() };
    let whole = until.max(ends.last().copied().unwrap_or_default());
    let many = ends.len();
    let slowest = std::iter::once(0)
        .chain(ends.iter().copied())
        .zip(ends.iter())
        .map(|(start, end)| end.saturating_sub(start))
        .max();
    let label = format!(
        "{many} {} done; the slowest took {}",
        if many == 1 { "batch" } else { "batches" },
        format_seconds(slowest.unwrap_or_default())
    );
    render_fragment(&TaskBatches {
        bars,
        label,
        middle: format_seconds(whole / 2),
        end: format_seconds(whole),
    })
}

async fn task_permissions(api: &PagesApi, viewer: &Viewer, namespace: &str) -> TaskPermissions {
    let (cancel, create) = (
        viewer.is_allowed(api, CANCEL_TASK, namespace).await,
        viewer.is_allowed(api, CREATE_TASK, namespace).await,
    );
    TaskPermissions { cancel, create }
}

/// Returns the task that the path names, if the user may read it.
pub(super) async fn get_task(
    api: &PagesApi,
    viewer: &Viewer,
    namespace: &str,
    id: &str,
) -> Result<Arc<TaskEntry>, ApiError> {
    check_namespace(namespace)?;
    api.get_task(&viewer.caller, namespace, id).await
}

/// Checks the namespace in the path of a page.
pub(super) fn check_namespace(name: &str) -> Result<(), ApiError> {
    if dns::is_label(name) {
        return Ok(());
    }
    Err(ApiError::invalid_field("namespace", format!("{name:?}: expected a namespace name")))
}

/// Returns the state letters of the grid; empty without a plan.
async fn grid_states(api: &PagesApi, entry: &TaskEntry) -> String {
    match api.task_plan(entry).await {
        Ok(Some(plan)) => {
            node_letters(&entry.detail(), entry.status, usize::try_from(plan.at_once).unwrap_or(1))
        }
        _ => String::new(),
    }
}

fn spec_facts(view: &TaskView) -> Vec<(&'static str, String)> {
    let selector =
        view.node_selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
    let mut all = vec![
        ("Nodes", if selector.is_empty() { "all".into() } else { selector.join(", ") }),
        ("Batch size", view.batch_size.to_string()),
        ("Priority", view.priority.to_string()),
        ("Created by", view.origin.clone()),
    ];
    if view.max_retries > 0 {
        all.push(("Retries", view.max_retries.to_string()));
    }
    all
}

pub(super) async fn page(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
    Query(notice): Query<ActionNotice>,
) -> Result<Response, PageError> {
    let refuse = |error| PageError::for_viewer(error, &viewer);
    let entry = get_task(&api, &viewer, &namespace, &id).await.map_err(refuse)?;
    let view = TaskView::from_entry(&entry)
        .ok_or_else(|| PageError::for_viewer(ApiError::not_found("task", &id), &viewer))?;
    let rights = task_permissions(&api, &viewer, &namespace).await;
    let (row, key) = (TaskRow::from_view(&view, 0), random_key());
    Ok(answer(
        StatusCode::OK,
        &TaskPage {
            shell: PageShell::new(row.title(), "/ui/tasks", Some(&viewer)),
            notice: notice.text(),
            link: row.link(),
            title: row.title(),
            actions: render_actions(&view, &entry, rights, &key),
            head: render_head(&view, &entry),
            states: grid_states(&api, &entry).await,
            batches: render_batches(&view, &entry, Timestamp::now()),
            failures: render_failures(&view),
            facts: spec_facts(&view),
            images: view.images,
            key,
            id,
            namespace,
        },
    ))
}

pub(super) async fn live(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
    Query(LiveQuery { key }): Query<LiveQuery>,
) -> Result<Response, ApiError> {
    get_task(&api, &viewer, &namespace, &id).await?;
    let key = check_key(&key).map_or_else(|_| random_key(), str::to_owned);
    live::stream_parts(&api, &viewer, vec![api.task_changes()], move |api, viewer| {
        let (namespace, id, key) = (namespace.clone(), id.clone(), key.clone());
        async move {
            let entry = get_task(&api, &viewer, &namespace, &id).await?;
            let view =
                TaskView::from_entry(&entry).ok_or_else(|| ApiError::not_found("task", &id))?;
            let rights = task_permissions(&api, &viewer, &namespace).await;
            let parts = vec![
                ("nodes", grid_states(&api, &entry).await),
                ("head", render_head(&view, &entry)),
                ("actions", render_actions(&view, &entry, rights, &key)),
                ("batches", render_batches(&view, &entry, Timestamp::now())),
                ("failures", render_failures(&view)),
            ];
            Ok((parts, view.status.is_final()))
        }
    })
}

/// Returns the names of a task's nodes and their state letters as JSON.
pub(super) async fn nodes(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let entry = get_task(&api, &viewer, &namespace, &id).await?;
    let plan = api.task_plan(&entry).await?;
    let names = plan.as_ref().map(|plan| plan.nodes.as_slice()).unwrap_or_default();
    Ok(Json(json!({"names": names, "states": grid_states(&api, &entry).await})).into_response())
}
