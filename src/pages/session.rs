//! Sessions of the web page: a token in a cookie.
//!
//! The cookie contains the token that a REST call would send as a bearer token. Every request
//! authenticates it again on whichever replica answers, so there is no session state to forge or
//! share. Scripts cannot read the cookie (`HttpOnly`); browsers send it over TLS or loopback only
//! (`Secure`), to this host only (`__Host-`), and not with cross-site requests (`SameSite=Lax`; see
//! also [`guard`]).

use askama::Template;
use axum::{
    extract::{FromRequestParts, Query, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts, uri::PathAndQuery},
    middleware::Next,
    response::{IntoResponse, Response},
};
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use prewarmer::api::pages::{ApiError, FormBody, PagesApi, caller_address, is_same_origin};
use serde::Deserialize;

use super::{
    paths::HOME,
    respond::{self, PageError, PageShell},
    viewer::Viewer,
};

/// Name of the cookie. Browsers accept the prefix `__Host-` only over TLS or loopback, and send the
/// cookie only to the host that set it.
const COOKIE: &str = "__Host-prewarmer";
/// Maximum length of a cookie value that browsers must store, in bytes (RFC 6265, section 6.1).
const MAX_COOKIE_LEN: usize = 4000;

/// Returns the token in the cookie.
fn cookie_token(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
        .filter(|value| !value.is_empty())
}

fn set_cookie(token: &str, more: &str) -> HeaderValue {
    let text = format!("{COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Lax{more}");
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Returns the target of a redirect if it is a page below [`HOME`], otherwise [`HOME`]: the target
/// must not lead to another host.
fn local_path(next: &str) -> &str {
    let rest = next.strip_prefix(HOME);
    let ours = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let plain = next.chars().all(|c| c.is_ascii_graphic() && c != '\\') && !next.contains("..");
    if ours && plain { next } else { HOME }
}

/// Percent-encodes a path for use as a query parameter.
fn percent_encoded(next: &str) -> PercentEncode<'_> {
    utf8_percent_encode(next, NON_ALPHANUMERIC)
}

impl FromRequestParts<PagesApi> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &PagesApi) -> Result<Self, Response> {
        let token = cookie_token(&parts.headers);
        let known =
            api.authenticate(token.unwrap_or_default(), caller_address(&parts.extensions)).await;
        let caller = match known {
            Ok(caller) => caller,
            Err(error) if error.code == StatusCode::UNAUTHORIZED => {
                return Err(redirect_to_sign_in(parts, token.is_some()));
            }
            Err(error) => return Err(PageError::from(error).into_response()),
        };
        api.admit(&caller, &parts.extensions)
            .map_err(|error| PageError::from(error).into_response())?;
        Ok(Self { caller, has_cookie: api.requires_token() })
    }
}

/// Redirects to the sign-in page, which returns to the requested page. For an htmx request the
/// browser loads the sign-in page instead of the requested fragment.
fn redirect_to_sign_in(parts: &Parts, had_token: bool) -> Response {
    let whole = parts.method == Method::GET && !parts.headers.contains_key("hx-request");
    let here = parts.uri.path_and_query().map_or(HOME, PathAndQuery::as_str);
    let next = percent_encoded(if whole { local_path(here) } else { HOME });
    let why = if had_token { "&why=ended" } else { "" };
    let link = format!("/ui/sign-in?next={next}{why}");
    let accepts_events =
        parts.headers.get(header::ACCEPT).is_some_and(|value| value == "text/event-stream");
    if accepts_events {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if !whole && parts.headers.contains_key("hx-request") {
        return (StatusCode::UNAUTHORIZED, [("hx-redirect", link)]).into_response();
    }
    respond::redirect(&link)
}

/// Rejects changes that were not requested by one of the server's own pages. Browsers state the
/// site of a request in `Sec-Fetch-Site`, older ones in `Origin`, and pages cannot change either
/// header. Clients that send neither are not browsers and can use the REST API.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads
        || is_same_origin(
            request.headers(),
            request.uri().authority().map(http::uri::Authority::as_str),
        )
    {
        return next.run(request).await;
    }
    let words = "the request was sent by a page of another site, or not by a browser: use the pages of this server, or the REST API";
    PageError::from(ApiError::new(StatusCode::FORBIDDEN, words)).into_response()
}

/// Query parameters of the sign-in page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SignInQuery {
    next: String,
    why: String,
}

#[derive(Template)]
#[template(path = "sign_in.html", config = "src/pages/askama.toml")]
struct SignInPage {
    shell: PageShell,
    message: Option<String>,
    next: String,
    audience: Option<String>,
}

fn render_sign_in(api: &PagesApi, code: StatusCode, why: Option<String>, next: &str) -> Response {
    let (shell, audience) =
        (PageShell::new("Sign in", "", None), api.audience().map(str::to_owned));
    respond::render_page(
        code,
        &SignInPage { shell, message: why, next: local_path(next).to_owned(), audience },
    )
}

pub(super) async fn sign_in_form(
    State(api): State<PagesApi>,
    Query(query): Query<SignInQuery>,
    headers: HeaderMap,
) -> Response {
    if !api.requires_token() {
        return respond::redirect(HOME);
    }
    let why = match query.why.as_str() {
        "ended" => Some("Your token is no longer valid: sign in again."),
        "cookie" if cookie_token(&headers).is_none() => Some(
            "Your browser did not store the cookie: open this page over HTTPS, or on localhost.",
        ),
        "cookie" => return respond::redirect(local_path(&query.next)),
        _ => None,
    };
    render_sign_in(&api, StatusCode::OK, why.map(str::to_owned), &query.next)
}

pub(super) async fn sign_in(State(api): State<PagesApi>, request: Request) -> Response {
    let from = caller_address(request.extensions());
    // The caller is not authenticated yet: the form is limited to the size of a token and a path.
    let FormBody { fields, .. } = match api.read_form(request).await {
        Ok(form) => form,
        Err(error) => {
            return render_sign_in(&api, error.code, Some(error.message().to_owned()), "");
        }
    };
    let field = |name: &str| {
        fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    };
    let (token, next) = (field("token").trim(), field("next"));
    let plain = token.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~+/=".contains(c));
    if !plain || token.len() > MAX_COOKIE_LEN {
        return render_sign_in(
            &api,
            StatusCode::UNAUTHORIZED,
            Some("The token is malformed.".into()),
            next,
        );
    }
    match api.authenticate(token, from).await {
        // Redirects through the form, which detects whether the browser stored the cookie.
        Ok(_) => {
            let next = percent_encoded(local_path(next));
            let mut response = respond::redirect(&format!("/ui/sign-in?why=cookie&next={next}"));
            response.headers_mut().insert(header::SET_COOKIE, set_cookie(token, ""));
            response
        }
        Err(error) => render_sign_in(&api, error.code, Some(error.message().to_owned()), next),
    }
}

pub(super) async fn sign_out() -> Response {
    let mut response = respond::redirect("/ui/sign-in");
    response.headers_mut().insert(header::SET_COOKIE, set_cookie("", "; Max-Age=0"));
    response
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/ui", "/ui")]
    #[case("/ui/tasks?status=failed", "/ui/tasks?status=failed")]
    #[case("/ui?x", "/ui?x")]
    #[case("", "/ui")]
    #[case("//evil.example/ui", "/ui")]
    #[case("https://evil.example/", "/ui")]
    #[case("/ui@evil.example", "/ui")]
    #[case("/ui/\\evil.example", "/ui")]
    #[case("/ui/../..//evil.example", "/ui")]
    #[case("/ui/\r\nSet-Cookie: a=b", "/ui")]
    #[case("/api/v1/tasks", "/ui")]
    fn redirect_targets_stay_below_the_home_page(#[case] next: &str, #[case] expected: &str) {
        assert_eq!(local_path(next), expected);
    }

    #[test]
    fn cookie_is_parsed_and_set() {
        let of = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static(text))]);
            cookie_token(&headers).map(str::to_owned)
        };
        assert_eq!(of("a=b; __Host-prewarmer=prw_x_y; c=d"), Some("prw_x_y".into()));
        assert_eq!(of("prewarmer=prw_x_y"), None);
        assert_eq!(of("__Host-prewarmer="), None);
        let set = set_cookie("prw_x_y", "");
        assert_eq!(set, "__Host-prewarmer=prw_x_y; Path=/; Secure; HttpOnly; SameSite=Lax");
    }
}
