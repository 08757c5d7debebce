//! Responses to browsers: pages with their headers, redirects, and error pages.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use prewarmer::api::pages::ApiError;

use super::{assets::VERSION, paths::HOME, viewer::Viewer};

/// Content security policy: all resources come from this server, pages contain no inline scripts,
/// and no site may embed a page in a frame.
const PAGE_CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Paths and labels of the navigation bar.
pub(super) const NAV: [(&str, &str); 3] =
    [("/ui", "Overview"), ("/ui/tasks", "Tasks"), ("/ui/schedules", "Schedules")];

/// Values of the base template, which every page extends.
pub(super) struct PageShell {
    pub(super) title: String,
    pub(super) nav: &'static str,
    pub(super) user_name: String,
    pub(super) signed_in: bool,
    pub(super) may_sign_out: bool,
    pub(super) version: &'static str,
    pub(super) release: &'static str,
}

impl PageShell {
    pub(super) fn new(
        title: impl Into<String>,
        nav: &'static str,
        viewer: Option<&Viewer>,
    ) -> Self {
        Self {
            title: title.into(),
            nav,
            user_name: viewer.map(Viewer::display_name).unwrap_or_default(),
            signed_in: viewer.is_some(),
            may_sign_out: viewer.is_some_and(|viewer| viewer.has_cookie),
            version: VERSION.as_str(),
            release: env!("CARGO_PKG_VERSION"),
        }
    }
}

#[derive(Template)]
#[template(path = "error.html", config = "src/pages/askama.toml")]
struct ErrorPage {
    shell: PageShell,
    title: String,
    message: String,
    details: Vec<String>,
    needs_namespace: bool,
    back: &'static str,
}

/// Renders a part of a page.
pub(super) fn render_fragment(template: &impl Template) -> String {
    template.render().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot render the page");
        String::new()
    })
}

fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_CSP));
    // Other sites must not learn from the referrer which task was viewed.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Renders a page, or a part of one, as a response.
pub(super) fn render_page(code: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => with_headers((code, Html(text)).into_response()),
        Err(error) => {
            tracing::error!(%error, "cannot render the page");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Redirects to another page of this server.
pub(super) fn redirect(path: &str) -> Response {
    with_headers(Redirect::to(path).into_response())
}

/// Error page for a browser.
pub(super) struct PageError(pub(super) Box<(ApiError, Option<Viewer>)>);

impl From<ApiError> for PageError {
    fn from(error: ApiError) -> Self {
        Self(Box::new((error, None)))
    }
}

impl PageError {
    /// Creates the error page for an authenticated user.
    pub(super) fn for_viewer(error: impl Into<ApiError>, viewer: &Viewer) -> Self {
        Self(Box::new((error.into(), Some(viewer.clone()))))
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let (error, viewer) = *self.0;
        let title = match error.code {
            StatusCode::FORBIDDEN => "Permission denied",
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::CONFLICT => "Conflict with the current state",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                "Temporarily unavailable"
            }
            _ => "Request failed",
        };
        let template = ErrorPage {
            shell: PageShell::new(title, "", viewer.as_ref()),
            title: title.into(),
            message: error.message().to_owned(),
            details: error.details().iter().map(ToString::to_string).collect(),
            needs_namespace: error.code == StatusCode::FORBIDDEN
                && error.message().ends_with("?namespace="),
            back: HOME,
        };
        render_page(error.code, &template)
    }
}
