//! The list of tasks.

use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;

use super::{
    live,
    respond::{Refusal, Shell, fragment, page as answer},
    session::Viewer,
    view::Row,
};
use crate::{
    api::{
        Api,
        auth::Visible,
        error::ApiError,
        request::is_label,
        tasks::{CREATE, LIST, readable},
    },
    catalog::{Filter, Status},
};

/// Tasks on a page.
const PAGE: usize = 25;

/// What is asked for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    search: String,
    status: String,
    namespace: String,
    offset: usize,
}

impl Asked {
    /// The query of this page, or of another one.
    fn query(&self, offset: usize) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        let offset = if offset == 0 { String::new() } else { offset.to_string() };
        for (name, value) in
            [("search", &self.search), ("status", &self.status), ("namespace", &self.namespace), ("offset", &offset)]
        {
            if !value.is_empty() {
                out.append_pair(name, value);
            }
        }
        let text = out.finish();
        if text.is_empty() { text } else { format!("?{text}") }
    }
}

/// The namespace that was asked for, if any.
pub(super) fn namespace(text: &str) -> Result<Option<String>, ApiError> {
    let name = text.trim();
    if name.is_empty() {
        return Ok(None);
    }
    if is_label(name) {
        Ok(Some(name.to_owned()))
    } else {
        Err(ApiError::bad_field("namespace", format!("{name:?} is no name of a namespace")))
    }
}

/// Whether somebody who looks at these may make some.
pub(super) async fn may_create(api: &Api, viewer: &Viewer, visible: &Visible) -> bool {
    let named = match visible {
        Visible::All => None,
        Visible::Only(names) => names.iter().next().map(String::as_str),
    };
    viewer.may(api, CREATE, named.unwrap_or(api.default_namespace())).await
}

#[derive(Template)]
#[template(path = "tasks.html", config = "src/api/ui/askama.toml")]
struct Page {
    shell: Shell,
    search: String,
    status: String,
    namespace: String,
    query: String,
    may_create: bool,
    body: String,
}

#[derive(Template)]
#[template(path = "tasks_body.html", config = "src/api/ui/askama.toml")]
struct Body {
    rows: Vec<Row>,
    filtered: bool,
    total: usize,
    newer: Option<String>,
    older: Option<String>,
}

fn body(api: &Api, asked: &Asked, visible: &Visible) -> String {
    let status = Status::ALL.into_iter().find(|status| status.as_str() == asked.status);
    let search = Some(asked.search.trim()).filter(|text| !text.is_empty());
    let filter =
        Filter { status, search, visible: &|name| visible.has(name), until: None, limit: PAGE, offset: asked.offset };
    let found = api.catalog.list(&filter);
    let rows =
        found.tasks.iter().filter_map(|json| serde_json::from_slice(json).ok()).map(|view| Row::of(&view, 0)).collect();
    let end = asked.offset + found.tasks.len();
    fragment(&Body {
        rows,
        filtered: status.is_some() || search.is_some() || !asked.namespace.is_empty(),
        total: found.total,
        newer: (asked.offset > 0).then(|| format!("/ui/tasks{}", asked.query(asked.offset.saturating_sub(PAGE)))),
        older: (end < found.total).then(|| format!("/ui/tasks{}", asked.query(end))),
    })
}

pub(super) async fn page(
    State(api): State<Api>,
    viewer: Viewer,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let refuse = |error| Refusal::to(error, &viewer);
    let named = namespace(&asked.namespace).map_err(refuse)?;
    let visible = readable(&api, &viewer.caller, LIST, named).await.map_err(refuse)?;
    Ok(answer(
        StatusCode::OK,
        &Page {
            shell: Shell::new("Tasks", "/ui/tasks", Some(&viewer)),
            query: asked.query(asked.offset),
            may_create: may_create(&api, &viewer, &visible).await,
            body: body(&api, &asked, &visible),
            search: asked.search,
            status: asked.status,
            namespace: asked.namespace,
        },
    ))
}

pub(super) async fn live(
    State(api): State<Api>,
    viewer: Viewer,
    Query(asked): Query<Asked>,
) -> Result<Response, ApiError> {
    let named = namespace(&asked.namespace)?;
    let render = move |api: &Api, visible: &Visible| body(api, &asked, visible);
    live::list(&api, &viewer, vec![api.catalog.changes()], (LIST, named), ("tasks", render)).await
}
