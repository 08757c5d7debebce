//! Pages with the list of schedules and of one schedule.

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use jiff::Timestamp;
use kube::ResourceExt;
use prewarmer::api::pages::{
    ApiError, CREATE_SCHEDULE, CREATE_TASK, DELETE_SCHEDULE, LIST_SCHEDULES, NamespaceScope,
    PagesApi, UPDATE_SCHEDULE,
};
use prewarmer_core::{
    duration::{elapsed, format_human},
    schedule::{Cron, PrewarmSchedule, Trigger, validate_spec},
};
use serde::Deserialize;

use super::{
    live,
    respond::{PageError, PageShell, render_fragment, render_page as answer},
    task::ActionNotice,
    tasks::{list_scope, parse_namespace},
    view::{ScheduleRow, format_seconds, next_times, task_link},
    viewer::Viewer,
};

/// Query parameters of the list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ScheduleListQuery {
    namespace: String,
}

#[derive(Template)]
#[template(path = "schedules.html", config = "src/pages/askama.toml")]
struct ScheduleListPage {
    shell: PageShell,
    may_create: bool,
    query: String,
    body: String,
}

#[derive(Template)]
#[template(path = "schedules_body.html", config = "src/pages/askama.toml")]
struct ScheduleListBody {
    rows: Vec<ScheduleRow>,
}

/// Execution of a schedule, in a row.
struct ExecutionRow {
    number: u32,
    status: &'static str,
    message: String,
    at: String,
    by: &'static str,
    took: String,
    task: Option<(String, String)>,
}

#[derive(Template)]
#[template(path = "schedule_runs.html", config = "src/pages/askama.toml")]
struct ExecutionTable {
    runs: Vec<ExecutionRow>,
}

#[derive(Template)]
#[template(path = "schedule.html", config = "src/pages/askama.toml")]
#[allow(clippy::struct_excessive_bools, reason = "each is a separate permission")]
struct SchedulePage {
    shell: PageShell,
    notice: Option<&'static str>,
    row: ScheduleRow,
    enabled: bool,
    description: String,
    problem: Option<String>,
    facts: Vec<(&'static str, String)>,
    next: Vec<String>,
    images: Vec<String>,
    task_facts: Vec<(&'static str, String)>,
    runs: String,
    may_run: bool,
    may_change: bool,
    may_delete: bool,
}

fn render_list(api: &PagesApi, visible: &NamespaceScope, now: Timestamp) -> String {
    let all = api.list_schedules(visible);
    render_fragment(&ScheduleListBody {
        rows: all.iter().map(|one| ScheduleRow::from_schedule(one, now)).collect(),
    })
}

pub(super) async fn page(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Query(asked): Query<ScheduleListQuery>,
) -> Result<Response, PageError> {
    let visible = list_scope(&api, &viewer, LIST_SCHEDULES, &asked.namespace).await?;
    let named = asked.namespace.trim();
    let query = if named.is_empty() { String::new() } else { format!("?namespace={named}") };
    let place = match &visible {
        NamespaceScope::All => None,
        NamespaceScope::Only(all) => all.iter().next().cloned(),
    };
    let place = place.unwrap_or_else(|| api.default_namespace().to_owned());
    Ok(answer(
        StatusCode::OK,
        &ScheduleListPage {
            shell: PageShell::new("Schedules", "/ui/schedules", Some(&viewer)),
            may_create: viewer.is_allowed(&api, CREATE_SCHEDULE, &place).await,
            query,
            body: render_list(&api, &visible, Timestamp::now()),
        },
    ))
}

pub(super) async fn live(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Query(asked): Query<ScheduleListQuery>,
) -> Result<Response, ApiError> {
    let named = parse_namespace(&asked.namespace)?;
    let render =
        |api: &PagesApi, visible: &NamespaceScope| render_list(api, visible, Timestamp::now());
    live::stream_list(
        &api,
        &viewer,
        vec![api.schedule_changes()],
        (LIST_SCHEDULES, named),
        ("schedules", render),
    )
    .await
}

fn render_executions(schedule: &PrewarmSchedule) -> String {
    let namespace = schedule.namespace().unwrap_or_default();
    let run = |run: prewarmer_core::schedule::Execution| ExecutionRow {
        number: run.number,
        status: run.status.as_str(),
        message: run.message.unwrap_or_default(),
        by: if run.trigger == Trigger::Manual { "manual" } else { "schedule" },
        took: elapsed(run.start_time.as_deref(), run.completion_time.as_deref())
            .map(format_human)
            .unwrap_or_default(),
        at: run.scheduled_time,
        task: run.task.map(|name| (task_link(&namespace, &name), name)),
    };
    let all = schedule.status.clone().unwrap_or_default().executions;
    render_fragment(&ExecutionTable { runs: all.into_iter().map(run).collect() })
}

pub(super) async fn schedule_page(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
    Query(notice): Query<ActionNotice>,
) -> Result<Response, PageError> {
    let schedule = api
        .get_schedule(&viewer.caller, &namespace, &id)
        .await
        .map_err(|error| PageError::for_viewer(error, &viewer))?;
    let (spec, now) = (&schedule.spec, Timestamp::now());
    let row = ScheduleRow::from_schedule(&schedule, now);
    let cron = Cron::parse(&spec.schedule, &row.zone).ok();
    let task = &spec.task_template.spec;
    let selector = task
        .node_selector
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>();
    let mut facts = vec![("Overlap policy", format!("{:?}", spec.overlap_policy).to_lowercase())];
    facts.extend(spec.timeout_seconds.map(|limit| ("Execution timeout", format_seconds(limit))));
    Ok(answer(
        StatusCode::OK,
        &SchedulePage {
            shell: PageShell::new(row.name.clone(), "/ui/schedules", Some(&viewer)),
            notice: notice.text(),
            enabled: spec.enabled,
            description: spec.description.clone().unwrap_or_default(),
            problem: validate_spec(spec).first().map(ToString::to_string),
            facts,
            next: cron.map(|cron| next_times(&cron, now)).unwrap_or_default(),
            images: task.images.clone(),
            task_facts: vec![
                (
                    "Nodes",
                    if selector.is_empty() {
                        task.nodes.to_string()
                    } else {
                        format!("{} of {}", task.nodes, selector.join(", "))
                    },
                ),
                ("Batch size", task.batch_size.to_string()),
                ("Priority", task.priority.to_string()),
            ],
            runs: render_executions(&schedule),
            may_run: viewer.is_allowed(&api, CREATE_TASK, &namespace).await,
            may_change: viewer.is_allowed(&api, UPDATE_SCHEDULE, &namespace).await,
            may_delete: viewer.is_allowed(&api, DELETE_SCHEDULE, &namespace).await,
            row,
        },
    ))
}

pub(super) async fn live_schedule(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    api.get_schedule(&viewer.caller, &namespace, &id).await?;
    live::stream_parts(&api, &viewer, vec![api.schedule_changes()], move |api, viewer| {
        let (namespace, id) = (namespace.clone(), id.clone());
        async move {
            let schedule = api.get_schedule(&viewer.caller, &namespace, &id).await?;
            Ok((vec![("runs", render_executions(&schedule))], false))
        }
    })
}
