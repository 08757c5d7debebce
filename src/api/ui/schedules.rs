//! Schedules: the list, and one of them.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;

use super::{
    live,
    respond::{Refusal, Shell, fragment, page as answer},
    session::Viewer,
    task::Told,
    tasks::namespace,
    view::{ScheduleRow, next_times, span, task_link},
};
use crate::{
    api::{
        Api,
        auth::Visible,
        error::ApiError,
        schedules::{CREATE, DELETE, LIST, UPDATE, find},
        tasks::{CREATE as CREATE_TASK, readable},
    },
    duration::between,
    schedule::{Cron, PrewarmSchedule, Trigger, problems},
};

/// What is asked for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    namespace: String,
}

#[derive(Template)]
#[template(path = "schedules.html", config = "src/api/ui/askama.toml")]
struct Page {
    shell: Shell,
    may_create: bool,
    query: String,
    body: String,
}

#[derive(Template)]
#[template(path = "schedules_body.html", config = "src/api/ui/askama.toml")]
struct Body {
    rows: Vec<ScheduleRow>,
}

/// A run.
struct Run {
    number: u32,
    status: &'static str,
    message: String,
    at: String,
    by: &'static str,
    took: String,
    task: Option<(String, String)>,
}

#[derive(Template)]
#[template(path = "schedule_runs.html", config = "src/api/ui/askama.toml")]
struct Runs {
    runs: Vec<Run>,
}

#[derive(Template)]
#[template(path = "schedule.html", config = "src/api/ui/askama.toml")]
#[allow(clippy::struct_excessive_bools, reason = "each is a right of its own")]
struct One {
    shell: Shell,
    told: Option<&'static str>,
    row: ScheduleRow,
    enabled: bool,
    description: String,
    wrong: Option<String>,
    facts: Vec<(&'static str, String)>,
    next: Vec<String>,
    images: Vec<String>,
    task_facts: Vec<(&'static str, String)>,
    runs: String,
    may_run: bool,
    may_change: bool,
    may_delete: bool,
}

fn body(api: &Api, visible: &Visible, now: Timestamp) -> String {
    let all = api.schedules.all();
    let seen = all.iter().filter(|one| visible.has(&one.namespace().unwrap_or_default()));
    fragment(&Body { rows: seen.map(|one| ScheduleRow::of(one, now)).collect() })
}

pub(super) async fn page(
    State(api): State<Api>,
    viewer: Viewer,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let refuse = |error| Refusal::to(error, &viewer);
    let named = namespace(&asked.namespace).map_err(refuse)?;
    let query = named.as_ref().map(|name| format!("?namespace={name}")).unwrap_or_default();
    let visible = readable(&api, &viewer.caller, LIST, named).await.map_err(refuse)?;
    let place = match &visible {
        Visible::All => None,
        Visible::Only(all) => all.iter().next().cloned(),
    };
    let place = place.unwrap_or_else(|| api.default_namespace().to_owned());
    Ok(answer(
        StatusCode::OK,
        &Page {
            shell: Shell::new("Schedules", "/ui/schedules", Some(&viewer)),
            may_create: viewer.may(&api, CREATE, &place).await,
            query,
            body: body(&api, &visible, Timestamp::now()),
        },
    ))
}

pub(super) async fn live(
    State(api): State<Api>,
    viewer: Viewer,
    Query(asked): Query<Asked>,
) -> Result<Response, ApiError> {
    let named = namespace(&asked.namespace)?;
    let render = |api: &Api, visible: &Visible| body(api, visible, Timestamp::now());
    live::list(&api, &viewer, vec![api.schedules.news()], (LIST, named), ("schedules", render)).await
}

fn runs(schedule: &PrewarmSchedule) -> String {
    let namespace = schedule.namespace().unwrap_or_default();
    let run = |run: crate::schedule::Execution| Run {
        number: run.number,
        status: run.status.as_str(),
        message: run.message.unwrap_or_default(),
        by: if run.trigger == Trigger::Manual { "hand" } else { "clock" },
        took: between(run.start_time.as_deref(), run.completion_time.as_deref())
            .map(|took| span(took.as_secs_f64()))
            .unwrap_or_default(),
        at: run.scheduled_time,
        task: run.task.map(|name| (task_link(&namespace, &name), name)),
    };
    let all = schedule.status.clone().unwrap_or_default().executions;
    fragment(&Runs { runs: all.into_iter().map(run).collect() })
}

/// The schedule that the path names, if the viewer may read it.
pub(super) async fn named(
    api: &Api,
    viewer: &Viewer,
    namespace: &str,
    id: &str,
) -> Result<Arc<PrewarmSchedule>, ApiError> {
    find(api, &viewer.caller, id, Some(namespace.to_owned())).await
}

pub(super) async fn one(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
    Query(told): Query<Told>,
) -> Result<Response, Refusal> {
    let schedule = named(&api, &viewer, &namespace, &id).await.map_err(|error| Refusal::to(error, &viewer))?;
    let (spec, now) = (&schedule.spec, Timestamp::now());
    let row = ScheduleRow::of(&schedule, now);
    let cron = Cron::parse(&spec.schedule, &row.zone).ok();
    let task = &spec.task_template.spec;
    let selector = task.node_selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
    let mut facts = vec![("If one is at work", format!("{:?}", spec.overlap_policy).to_lowercase())];
    facts.extend(spec.timeout_seconds.map(|limit| ("A run may take", span(f64::from(limit)))));
    Ok(answer(
        StatusCode::OK,
        &One {
            shell: Shell::new(row.name.clone(), "/ui/schedules", Some(&viewer)),
            told: told.words(),
            enabled: spec.enabled,
            description: spec.description.clone().unwrap_or_default(),
            wrong: problems(spec).first().map(ToString::to_string),
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
                ("At once", task.batch_size.to_string()),
                ("Priority", task.priority.to_string()),
            ],
            runs: runs(&schedule),
            may_run: viewer.may(&api, CREATE_TASK, &namespace).await,
            may_change: viewer.may(&api, UPDATE, &namespace).await,
            may_delete: viewer.may(&api, DELETE, &namespace).await,
            row,
        },
    ))
}

pub(super) async fn live_one(
    State(api): State<Api>,
    viewer: Viewer,
    Path((namespace, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    named(&api, &viewer, &namespace, &id).await?;
    live::events(&api, &viewer, vec![api.schedules.news()], move |api, viewer| {
        let (namespace, id) = (namespace.clone(), id.clone());
        async move {
            let schedule = named(&api, &viewer, &namespace, &id).await?;
            Ok((vec![("runs", runs(&schedule))], false))
        }
    })
}
