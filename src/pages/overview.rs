//! Overview page: running tasks, recent failures with reasons and remedies, and saved pull time.

use std::{collections::BTreeMap, sync::Arc};

use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use jiff::{SignedDuration, Timestamp};
use prewarmer::api::pages::{
    ApiError, LIST_TASKS, NamespaceScope, PagesApi, TaskSelection, TaskView, success_permille,
};
use prewarmer_core::{duration::format_human, schedule::PrewarmSchedule, task::Status};
use serde::Deserialize;

use super::{
    live,
    respond::{PageError, PageShell, render_fragment, render_page as answer},
    tasks::{may_create, parse_namespace},
    view::{ScheduleRow, TaskRow, describe_reason, task_link},
    viewer::Viewer,
};

/// Maximum number of rows per list.
const MAX_ROWS: usize = 8;
/// Maximum number of failed tasks whose failures are summarized.
const MAX_FAILED_TASKS: usize = 50;
/// Maximum number of tasks that are listed for a reason.
const MAX_LISTED_TASKS: usize = 4;

/// Query parameters of the page.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct OverviewQuery {
    namespace: String,
}

/// Failures with the same reason, over several tasks.
struct ReasonSummary {
    reason: String,
    description: String,
    remedy: String,
    count: u32,
    tasks: Vec<(String, String)>,
}

#[derive(Template)]
#[template(path = "overview.html", config = "src/pages/askama.toml")]
struct OverviewPage {
    shell: PageShell,
    may_create: bool,
    query: String,
    body: String,
}

#[derive(Template)]
#[template(path = "overview_body.html", config = "src/pages/askama.toml")]
struct OverviewBody {
    /// Shows the figures that cover all watched namespaces.
    cluster_wide: bool,
    share: Option<String>,
    starts: u64,
    since: Option<String>,
    saved: String,
    running_count: usize,
    pending: usize,
    completed: usize,
    failed: usize,
    rate: Option<String>,
    running: Vec<TaskRow>,
    ended: Vec<TaskRow>,
    groups: Vec<ReasonSummary>,
    schedules: Option<Vec<ScheduleRow>>,
}

fn list_tasks(
    api: &PagesApi,
    visible: &NamespaceScope,
    status: Option<Status>,
    limit: usize,
) -> Vec<TaskView> {
    let selection = TaskSelection { status, limit, ..TaskSelection::default() };
    api.list_tasks(visible, selection).tasks
}

/// Summarizes the failures of tasks by reason, most frequent first.
fn summarize_reasons<'a>(tasks: impl IntoIterator<Item = &'a TaskView>) -> Vec<ReasonSummary> {
    let mut all: BTreeMap<&str, ReasonSummary> = BTreeMap::new();
    for task in tasks {
        let mut seen = Vec::new();
        for failure in &task.failed_node_details {
            let why = all.entry(&failure.reason).or_insert_with(|| {
                let (what, remedy) = describe_reason(&failure.reason);
                ReasonSummary {
                    reason: failure.reason.clone(),
                    description: what,
                    remedy,
                    count: 0,
                    tasks: Vec::new(),
                }
            });
            why.count += 1;
            if !seen.contains(&&failure.reason) {
                seen.push(&failure.reason);
                if why.tasks.len() < MAX_LISTED_TASKS {
                    why.tasks.push((
                        task_link(&task.namespace, &task.task_id),
                        TaskRow::from_view(task, 0).title(),
                    ));
                }
            }
        }
    }
    let mut all: Vec<ReasonSummary> = all.into_values().collect();
    all.sort_by_key(|why| std::cmp::Reverse(why.count));
    all
}

/// Data that the user may see.
struct OverviewData {
    visible: NamespaceScope,
    /// Visible schedules; `None` if the user may not list schedules.
    schedules: Option<Vec<Arc<PrewarmSchedule>>>,
}

impl OverviewData {
    async fn load(
        api: &PagesApi,
        viewer: &Viewer,
        named: Option<String>,
    ) -> Result<Self, ApiError> {
        let visible = api.visible_namespaces(&viewer.caller, LIST_TASKS, named.clone()).await?;
        let schedules = api.list_permitted_schedules(&viewer.caller, named).await?;
        Ok(Self { visible, schedules })
    }
}

fn render_body(
    api: &PagesApi,
    OverviewData { visible, schedules }: &OverviewData,
    now: Timestamp,
) -> String {
    // Pod starts are counted for all watched namespaces together.
    let whole = *visible == NamespaceScope::All || api.watches_one_namespace();
    let counts = api.count_tasks(visible);
    let of = |status: Status| counts.get(&status).copied().unwrap_or_default();
    let sums = api.pod_starts();
    let row = |view: TaskView| TaskRow::from_view(&view, 0);
    let mut ended: Vec<TaskView> = list_tasks(api, visible, None, MAX_FAILED_TASKS)
        .into_iter()
        .filter(|view| view.status.is_final())
        .collect();
    ended.sort_by(|a, b| b.finished_at.cmp(&a.finished_at));
    let running = list_tasks(api, visible, Some(Status::Running), MAX_ROWS);
    let failed = list_tasks(api, visible, Some(Status::Failed), MAX_FAILED_TASKS);
    let next = |all: &Vec<Arc<PrewarmSchedule>>| {
        let enabled = all.iter().filter(|one| one.spec.enabled);
        let mut rows: Vec<ScheduleRow> =
            enabled.map(|one| ScheduleRow::from_schedule(one, now)).collect();
        rows.sort_by(|a, b| {
            a.next.is_none().cmp(&b.next.is_none()).then_with(|| a.next.cmp(&b.next))
        });
        rows.truncate(MAX_ROWS);
        rows
    };
    render_fragment(&OverviewBody {
        cluster_wide: whole,
        share: sums.warm_percent().map(|share| format!("{share:.0}")),
        starts: sums.warm + sums.cold,
        since: sums.since.map(|since| since.strftime("%-d %B %Y").to_string()),
        saved: format_human(
            SignedDuration::try_from_secs_f64(sums.seconds_saved).unwrap_or_default(),
        ),
        running_count: of(Status::Running),
        pending: of(Status::Pending),
        completed: of(Status::Completed),
        failed: of(Status::Failed),
        rate: success_permille(&counts).map(|rate| format!("{:.0}", rate / 10.0)),
        groups: summarize_reasons(running.iter().chain(&failed)),
        running: running.into_iter().map(row).collect(),
        ended: ended.into_iter().take(MAX_ROWS).map(row).collect(),
        schedules: schedules.as_ref().map(next),
    })
}

pub(super) async fn page(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Query(asked): Query<OverviewQuery>,
) -> Result<Response, PageError> {
    let refuse = |error| PageError::for_viewer(error, &viewer);
    let named = parse_namespace(&asked.namespace).map_err(refuse)?;
    let query = named.as_ref().map(|name| format!("?namespace={name}")).unwrap_or_default();
    let seen = OverviewData::load(&api, &viewer, named).await.map_err(refuse)?;
    Ok(answer(
        StatusCode::OK,
        &OverviewPage {
            shell: PageShell::new("Overview", "/ui", Some(&viewer)),
            may_create: may_create(&api, &viewer, &seen.visible).await,
            query,
            body: render_body(&api, &seen, Timestamp::now()),
        },
    ))
}

pub(super) async fn live(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Query(asked): Query<OverviewQuery>,
) -> Result<Response, ApiError> {
    let named = parse_namespace(&asked.namespace)?;
    let changes = vec![api.task_changes(), api.schedule_changes()];
    api.visible_namespaces(&viewer.caller, LIST_TASKS, named.clone()).await?;
    live::stream_parts(&api, &viewer, changes, move |api, viewer| {
        let named = named.clone();
        async move {
            let seen = OverviewData::load(&api, &viewer, named).await?;
            Ok((vec![("overview", render_body(&api, &seen, Timestamp::now()))], false))
        }
    })
}
