//! What is being warmed now, what failed and why, and what it was good for.

use std::{collections::BTreeMap, sync::Arc};

use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    live,
    respond::{Refusal, Shell, fragment, page as answer},
    session::Viewer,
    tasks::{may_create, namespace},
    view::{Row, ScheduleRow, span, task_link, words},
};
use crate::{
    api::{
        Api,
        auth::Visible,
        cluster::{listed_schedules, success_permille},
        error::ApiError,
        tasks::{LIST, readable},
    },
    catalog::{Filter, Status, TaskView},
    schedule::PrewarmSchedule,
};

/// Tasks of one kind that are shown.
const SHOWN: usize = 8;
/// Failed tasks whose reasons are told.
const FAILED: usize = 50;
/// Tasks that a reason names.
const NAMED: usize = 4;

/// What is asked for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    namespace: String,
}

/// Why tasks failed.
struct Why {
    reason: String,
    what: String,
    remedy: String,
    count: u32,
    tasks: Vec<(String, String)>,
}

#[derive(Template)]
#[template(path = "overview.html", config = "src/api/ui/askama.toml")]
struct Page {
    shell: Shell,
    may_create: bool,
    query: String,
    body: String,
}

#[derive(Template)]
#[template(path = "overview_body.html", config = "src/api/ui/askama.toml")]
struct Body {
    /// Whether the figures of the whole are shown.
    whole: bool,
    share: Option<String>,
    starts: u64,
    since: Option<String>,
    saved: String,
    at_work: usize,
    pending: usize,
    completed: usize,
    failed: usize,
    rate: Option<String>,
    running: Vec<Row>,
    ended: Vec<Row>,
    groups: Vec<Why>,
    schedules: Option<Vec<ScheduleRow>>,
}

fn listed(api: &Api, visible: &Visible, status: Option<Status>, limit: usize) -> Vec<TaskView> {
    let filter = Filter { status, search: None, visible: &|name| visible.has(name), until: None, limit, offset: 0 };
    api.catalog.list(&filter).tasks.iter().filter_map(|json| serde_json::from_slice(json).ok()).collect()
}

/// The reasons of failures, most frequent first.
fn reasons<'a>(tasks: impl IntoIterator<Item = &'a TaskView>) -> Vec<Why> {
    let mut all: BTreeMap<&str, Why> = BTreeMap::new();
    for task in tasks {
        let mut seen = Vec::new();
        for failure in &task.failed_node_details {
            let why = all.entry(&failure.reason).or_insert_with(|| {
                let (what, remedy) = words(&failure.reason);
                Why { reason: failure.reason.clone(), what, remedy, count: 0, tasks: Vec::new() }
            });
            why.count += 1;
            if !seen.contains(&&failure.reason) {
                seen.push(&failure.reason);
                if why.tasks.len() < NAMED {
                    why.tasks.push((task_link(&task.namespace, &task.task_id), Row::of(task, 0).title()));
                }
            }
        }
    }
    let mut all: Vec<Why> = all.into_values().collect();
    all.sort_by_key(|why| std::cmp::Reverse(why.count));
    all
}

/// What a viewer may see.
struct Seen {
    visible: Visible,
    /// None where the viewer may list none.
    schedules: Option<Vec<Arc<PrewarmSchedule>>>,
}

impl Seen {
    async fn by(api: &Api, viewer: &Viewer, named: Option<String>) -> Result<Self, ApiError> {
        let visible = readable(api, &viewer.caller, LIST, named.clone()).await?;
        Ok(Self { visible, schedules: listed_schedules(api, &viewer.caller, named).await? })
    }
}

fn body(api: &Api, Seen { visible, schedules }: &Seen, now: Timestamp) -> String {
    // Starts are counted for all watched namespaces together.
    let whole = *visible == Visible::All || api.settings.watched.is_some();
    let counts = api.catalog.counts(&|name| visible.has(name));
    let of = |status: Status| counts.get(&status).copied().unwrap_or_default();
    let sums = api.totals.get(&api.metrics);
    let row = |view: TaskView| Row::of(&view, 0);
    let mut ended: Vec<TaskView> =
        listed(api, visible, None, FAILED).into_iter().filter(|view| view.status.is_final()).collect();
    ended.sort_by(|a, b| b.finished_at.cmp(&a.finished_at));
    let running = listed(api, visible, Some(Status::Running), SHOWN);
    let failed = listed(api, visible, Some(Status::Failed), FAILED);
    let next = |all: &Vec<Arc<PrewarmSchedule>>| {
        let enabled = all.iter().filter(|one| one.spec.enabled);
        let mut rows: Vec<ScheduleRow> = enabled.map(|one| ScheduleRow::of(one, now)).collect();
        rows.sort_by(|a, b| a.next.is_none().cmp(&b.next.is_none()).then_with(|| a.next.cmp(&b.next)));
        rows.truncate(SHOWN);
        rows
    };
    fragment(&Body {
        whole,
        share: sums.warm_percent().map(|share| format!("{share:.0}")),
        starts: sums.warm + sums.cold,
        since: sums.since.map(|since| since.strftime("%-d %B %Y").to_string()),
        saved: span(sums.seconds_saved),
        at_work: of(Status::Running),
        pending: of(Status::Pending),
        completed: of(Status::Completed),
        failed: of(Status::Failed),
        rate: success_permille(&counts).map(|rate| format!("{:.0}", rate / 10.0)),
        groups: reasons(running.iter().chain(&failed)),
        running: running.into_iter().map(row).collect(),
        ended: ended.into_iter().take(SHOWN).map(row).collect(),
        schedules: schedules.as_ref().map(next),
    })
}

pub(super) async fn page(
    State(api): State<Api>,
    viewer: Viewer,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let refuse = |error| Refusal::to(error, &viewer);
    let named = namespace(&asked.namespace).map_err(refuse)?;
    let query = named.as_ref().map(|name| format!("?namespace={name}")).unwrap_or_default();
    let seen = Seen::by(&api, &viewer, named).await.map_err(refuse)?;
    Ok(answer(
        StatusCode::OK,
        &Page {
            shell: Shell::new("Overview", "/ui", Some(&viewer)),
            may_create: may_create(&api, &viewer, &seen.visible).await,
            query,
            body: body(&api, &seen, Timestamp::now()),
        },
    ))
}

pub(super) async fn live(
    State(api): State<Api>,
    viewer: Viewer,
    Query(asked): Query<Asked>,
) -> Result<Response, ApiError> {
    let named = namespace(&asked.namespace)?;
    let changes = vec![api.catalog.changes(), api.schedules.news()];
    readable(&api, &viewer.caller, LIST, named.clone()).await?;
    live::events(&api, &viewer, changes, move |api, viewer| {
        let named = named.clone();
        async move {
            let seen = Seen::by(&api, &viewer, named).await?;
            Ok((vec![("overview", body(&api, &seen, Timestamp::now()))], false))
        }
    })
}
