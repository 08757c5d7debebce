//! The web page, for people.
//!
//! In: HTTP from a browser, with a cookie. Out: HTML that is rendered here, and
//! events that renew parts of it. It shows what the catalog knows, and acts by
//! the handlers of the REST API, in the name of whoever has signed in: it can
//! do nothing that a caller with the same token could not. Within `api`, whose
//! handlers it calls; may call `image`, `node`, `task` and `worker`.
//!
//! Every page works without JavaScript, but for the grid of nodes and what
//! changes by itself. Nothing is loaded from elsewhere.

mod actions;
mod assets;
mod form;
mod grid;
mod live;
mod overview;
mod preview;
pub(in crate::api) mod respond;
mod schedules;
mod session;
mod task;
mod tasks;
mod view;

use axum::{
    Router, middleware,
    routing::{get, post},
};

pub(super) use self::grid::Plans;
use super::{State, front};

/// Where all pages are.
pub(super) const HOME: &str = "/ui";

/// The pages.
pub(super) fn routes() -> Router<State> {
    let task = "/ui/tasks/{namespace}/{id}";
    let schedule = "/ui/schedules/{namespace}/{id}";
    Router::new()
        .route(HOME, get(overview::page))
        .route("/ui/sign-in", get(session::form).post(session::sign_in))
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
        .route(schedule, get(schedules::one))
        .route(&format!("{schedule}/live"), get(schedules::live_one))
        .route(&format!("{schedule}/{{deed}}"), post(actions::change_schedule))
        .route_layer(middleware::from_fn(session::guard))
        .route_layer(middleware::from_fn(front::note_route))
}

#[cfg(test)]
mod tests;
