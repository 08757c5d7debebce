//! Answers to browsers: pages with their headers, redirections, and mistakes in words.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
};

use super::{assets::VERSION, session::Viewer};
use crate::api::error::ApiError;

/// Everything comes from here; no script stands in a page, and nobody frames one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The pages that are always in reach.
pub(in crate::api) const NAV: [(&str, &str); 3] =
    [("/ui", "Overview"), ("/ui/tasks", "Tasks"), ("/ui/schedules", "Schedules")];

/// What surrounds every page.
pub(super) struct Shell {
    pub(super) title: String,
    pub(super) nav: &'static str,
    pub(super) who: String,
    pub(super) signed_in: bool,
    pub(super) may_sign_out: bool,
    pub(super) version: &'static str,
    pub(super) release: &'static str,
}

impl Shell {
    pub(super) fn new(title: impl Into<String>, nav: &'static str, viewer: Option<&Viewer>) -> Self {
        Self {
            title: title.into(),
            nav,
            who: viewer.map(Viewer::name).unwrap_or_default(),
            signed_in: viewer.is_some(),
            may_sign_out: viewer.is_some_and(|viewer| viewer.has_cookie),
            version: VERSION.as_str(),
            release: env!("CARGO_PKG_VERSION"),
        }
    }
}

#[derive(Template)]
#[template(path = "error.html", config = "src/api/ui/askama.toml")]
struct ErrorPage {
    shell: Shell,
    title: String,
    message: String,
    details: Vec<String>,
    ask_namespace: bool,
    back: &'static str,
}

/// A part of a page.
pub(super) fn fragment(template: &impl Template) -> String {
    template.render().unwrap_or_else(|error| {
        tracing::error!(%error, "a page could not be rendered");
        String::new()
    })
}

fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    // Pages of others are not told which task was looked at.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A page, or a part of one.
pub(super) fn page(code: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => with_headers((code, Html(text)).into_response()),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// To another page of ours.
pub(super) fn to(path: &str) -> Response {
    with_headers(Redirect::to(path).into_response())
}

/// What a browser is told when something is wrong.
pub(in crate::api) struct Refusal(pub(super) Box<(ApiError, Option<Viewer>)>);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(Box::new((error, None)))
    }
}

impl Refusal {
    /// The same, to somebody who is known.
    pub(super) fn to(error: ApiError, viewer: &Viewer) -> Self {
        Self(Box::new((error, Some(viewer.clone()))))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (error, viewer) = *self.0;
        let title = match error.code {
            StatusCode::FORBIDDEN => "You may not do that",
            StatusCode::NOT_FOUND => "There is no such thing",
            StatusCode::CONFLICT => "That is not possible now",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "Not now",
            _ => "That was not right",
        };
        let template = ErrorPage {
            shell: Shell::new(title, "", viewer.as_ref()),
            title: title.into(),
            message: error.message().to_owned(),
            details: error.details().iter().map(ToString::to_string).collect(),
            ask_namespace: error.code == StatusCode::FORBIDDEN && error.message().ends_with("?namespace="),
            back: super::HOME,
        };
        page(error.code, &template)
    }
}
