//! Page with the list of tasks.

use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use prewarmer::api::pages::{
    ApiError, CREATE_TASK, LIST_TASKS, NamespaceScope, PagesApi, Permission, TaskSelection,
};
use prewarmer_core::{dns, task::Status};
use serde::Deserialize;

use super::{
    live,
    respond::{PageError, PageShell, render_fragment, render_page as answer},
    view::TaskRow,
    viewer::Viewer,
};

/// Number of tasks per page.
const PAGE_SIZE: usize = 25;

/// Query parameters of the list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct TaskListQuery {
    search: String,
    status: String,
    namespace: String,
    offset: usize,
}

impl TaskListQuery {
    /// Returns the query string of the list page at that offset.
    fn query_string(&self, offset: usize) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        let offset = if offset == 0 { String::new() } else { offset.to_string() };
        for (name, value) in [
            ("search", &self.search),
            ("status", &self.status),
            ("namespace", &self.namespace),
            ("offset", &offset),
        ] {
            if !value.is_empty() {
                out.append_pair(name, value);
            }
        }
        let text = out.finish();
        if text.is_empty() { text } else { format!("?{text}") }
    }
}

/// Parses the namespace filter; `None` if it is empty.
pub(super) fn parse_namespace(text: &str) -> Result<Option<String>, ApiError> {
    let name = text.trim();
    if name.is_empty() {
        return Ok(None);
    }
    if dns::is_label(name) {
        Ok(Some(name.to_owned()))
    } else {
        Err(ApiError::invalid_field("namespace", format!("{name:?} is not a valid namespace name")))
    }
}

/// Returns the namespaces whose objects a list page shows, for the namespace filter of the page.
pub(super) async fn list_scope(
    api: &PagesApi,
    viewer: &Viewer,
    deed: Permission,
    filter: &str,
) -> Result<NamespaceScope, PageError> {
    let named = parse_namespace(filter).map_err(|error| PageError::for_viewer(error, viewer))?;
    let visible = api.visible_namespaces(&viewer.caller, deed, named).await;
    visible.map_err(|error| PageError::for_viewer(error, viewer))
}

/// Reports whether the user may create tasks in the first visible namespace, or in the default
/// namespace if all are visible.
pub(super) async fn may_create(api: &PagesApi, viewer: &Viewer, visible: &NamespaceScope) -> bool {
    let named = match visible {
        NamespaceScope::All => None,
        NamespaceScope::Only(names) => names.iter().next().map(String::as_str),
    };
    viewer.is_allowed(api, CREATE_TASK, named.unwrap_or(api.default_namespace())).await
}

#[derive(Template)]
#[template(path = "tasks.html", config = "src/pages/askama.toml")]
struct TaskListPage {
    shell: PageShell,
    search: String,
    status: String,
    namespace: String,
    query: String,
    may_create: bool,
    body: String,
}

#[derive(Template)]
#[template(path = "tasks_body.html", config = "src/pages/askama.toml")]
struct TaskListBody {
    rows: Vec<TaskRow>,
    filtered: bool,
    total: usize,
    newer: Option<String>,
    older: Option<String>,
}

fn render_list(api: &PagesApi, asked: &TaskListQuery, visible: &NamespaceScope) -> String {
    let status = Status::ALL.into_iter().find(|status| status.as_str() == asked.status);
    let search = Some(asked.search.trim()).filter(|text| !text.is_empty());
    let selection =
        TaskSelection { status, search, until: None, limit: PAGE_SIZE, offset: asked.offset };
    let found = api.list_tasks(visible, selection);
    let rows = found.tasks.iter().map(|view| TaskRow::from_view(view, 0)).collect();
    let end = asked.offset + found.tasks.len();
    render_fragment(&TaskListBody {
        rows,
        filtered: status.is_some() || search.is_some() || !asked.namespace.is_empty(),
        total: found.total,
        newer: (asked.offset > 0).then(|| {
            format!("/ui/tasks{}", asked.query_string(asked.offset.saturating_sub(PAGE_SIZE)))
        }),
        older: (end < found.total).then(|| format!("/ui/tasks{}", asked.query_string(end))),
    })
}

pub(super) async fn page(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Query(asked): Query<TaskListQuery>,
) -> Result<Response, PageError> {
    let visible = list_scope(&api, &viewer, LIST_TASKS, &asked.namespace).await?;
    Ok(answer(
        StatusCode::OK,
        &TaskListPage {
            shell: PageShell::new("Tasks", "/ui/tasks", Some(&viewer)),
            query: asked.query_string(asked.offset),
            may_create: may_create(&api, &viewer, &visible).await,
            body: render_list(&api, &asked, &visible),
            search: asked.search,
            status: asked.status,
            namespace: asked.namespace,
        },
    ))
}

pub(super) async fn live(
    State(api): State<PagesApi>,
    viewer: Viewer,
    Query(asked): Query<TaskListQuery>,
) -> Result<Response, ApiError> {
    let named = parse_namespace(&asked.namespace)?;
    let render = move |api: &PagesApi, visible: &NamespaceScope| render_list(api, &asked, visible);
    live::stream_list(
        &api,
        &viewer,
        vec![api.task_changes()],
        (LIST_TASKS, named),
        ("tasks", render),
    )
    .await
}
