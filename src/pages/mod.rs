//! Web pages for human users.
//!
//! Input: HTTP requests of a browser, with a cookie. Output: HTML that is rendered on the server,
//! and server-sent events that update parts of it. The pages show the contents of the task and
//! schedule stores, and change objects with the identity of the signed-in user: they permit nothing
//! that a REST caller with the same token could not do.
//!
//! The module is part of the binary, so that a change of a page or a template does not recompile
//! the library. Of the library it uses [`prewarmer::api::pages`] only, whose router serves the
//! pages. It may also call `prewarmer_core`.
//!
//! Every page works without JavaScript, except for the grid of nodes and live updates. No resource
//! is loaded from another host.

mod actions;
mod assets;
mod form;
mod grid;
mod live;
mod overview;
mod paths;
mod posted_form;
mod preview;
mod respond;
mod schedules;
mod session;
mod task;
mod tasks;
mod view;
mod viewer;

use axum::{
    Router, middleware,
    routing::{get, post},
};
use prewarmer::api::pages::{Pages, PagesApi};

use self::paths::HOME;

/// Returns all pages, for the router of the library.
pub(super) fn pages() -> Pages {
    Pages { home: HOME, routes: routes() }
}

fn routes() -> Router<PagesApi> {
    let task = "/ui/tasks/{namespace}/{id}";
    let schedule = "/ui/schedules/{namespace}/{id}";
    Router::new()
        .route(HOME, get(overview::page))
        .route("/ui/sign-in", get(session::sign_in_form).post(session::sign_in))
        .route("/ui/sign-out", post(session::sign_out))
        .route("/ui/assets/{name}", get(assets::asset))
        .route("/ui/live/overview", get(overview::live))
        .route("/ui/live/tasks", get(tasks::live))
        .route("/ui/live/schedules", get(schedules::live))
        .route("/ui/tasks", get(tasks::page).post(actions::create_task))
        .route("/ui/tasks/new", get(actions::new_task))
        .route("/ui/tasks/preview", post(preview::task))
        .route(task, get(task::page))
        .route(&format!("{task}/live"), get(task::live))
        .route(&format!("{task}/nodes"), get(task::nodes))
        .route(&format!("{task}/cancel"), post(actions::cancel_task))
        .route(&format!("{task}/retry"), post(actions::retry_task))
        .route("/ui/schedules", get(schedules::page).post(actions::create_schedule))
        .route("/ui/schedules/new", get(actions::new_schedule))
        .route("/ui/schedules/preview", post(preview::schedule))
        .route(schedule, get(schedules::schedule_page))
        .route(&format!("{schedule}/live"), get(schedules::live_schedule))
        .route(&format!("{schedule}/{{action}}"), post(actions::change_schedule))
        .route_layer(middleware::from_fn(session::guard))
}

#[cfg(test)]
mod tests;
