//! Who looks: a token in a cookie.
//!
//! The cookie is the token, as a call of the REST API would carry it: it is
//! reviewed anew for every page, whichever replica answers, and there is
//! nothing to forge but a token. Scripts cannot read it (`HttpOnly`), it goes
//! over TLS or loopback only (`Secure`), to this host only (`__Host-`), and not
//! with what other sites send (`SameSite=Lax`, and see [`guard`]).

use askama::Template;
use axum::{
    extract::{FromRequestParts, Query, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts, uri::PathAndQuery},
    middleware::Next,
    response::{IntoResponse, Response},
};
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Deserialize;

use super::{
    HOME,
    respond::{self, Refusal, Shell},
};
use crate::api::{
    self, Api,
    auth::{Caller, Deed, is_own, peer},
    body::{self, Form},
    error::ApiError,
};

/// The cookie. Browsers keep one of this prefix for the host that has set it, and over TLS or loopback only.
const COOKIE: &str = "__Host-prewarmer";
/// Longest value of a cookie that browsers keep (RFC 6265, 6.1).
const MAX_COOKIE: usize = 4000;

/// Who looks at a page.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    pub(super) caller: Caller,
    pub(super) has_cookie: bool,
}

impl Viewer {
    /// As whom he is greeted.
    pub(super) fn name(&self) -> String {
        let name = self.caller.name.as_str();
        name.strip_prefix("user:").or_else(|| name.strip_prefix("token:")).unwrap_or(name).to_owned()
    }

    /// Whether he may do that there. What cannot be found out is not offered.
    pub(super) async fn may(&self, api: &Api, deed: Deed, namespace: &str) -> bool {
        api.auth.allows(&self.caller, deed, Some(namespace)).await.unwrap_or(false)
    }
}

/// The token of the cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value).filter(|value| !value.is_empty())
}

fn set_cookie(token: &str, more: &str) -> HeaderValue {
    let text = format!("{COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Lax{more}");
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Only a page of ours is gone to: what begins otherwise, or could be read as another host, is not.
fn local(next: &str) -> &str {
    let rest = next.strip_prefix(HOME);
    let ours = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let plain = next.chars().all(|c| c.is_ascii_graphic() && c != '\\') && !next.contains("..");
    if ours && plain { next } else { HOME }
}

/// An address as a parameter of another.
fn encoded(next: &str) -> PercentEncode<'_> {
    utf8_percent_encode(next, NON_ALPHANUMERIC)
}

impl FromRequestParts<api::State> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &api::State) -> Result<Self, Response> {
        let auth = &state.api.auth;
        let token = cookie(&parts.headers);
        let known = auth.known(token.unwrap_or_default(), peer(&parts.extensions)).await;
        let caller = match known {
            Ok(caller) => caller,
            Err(error) if error.code == StatusCode::UNAUTHORIZED => return Err(ask_in(parts, token.is_some())),
            Err(error) => return Err(Refusal::from(error).into_response()),
        };
        auth.admit(&caller, &parts.extensions).map_err(|error| Refusal::from(error).into_response())?;
        Ok(Self { caller, has_cookie: auth.asks() })
    }
}

/// To the sign-in, and back here after it. A part of a page cannot do that: the whole page goes.
fn ask_in(parts: &Parts, had_token: bool) -> Response {
    let whole = parts.method == Method::GET && !parts.headers.contains_key("hx-request");
    let here = parts.uri.path_and_query().map_or(HOME, PathAndQuery::as_str);
    let next = encoded(if whole { local(here) } else { HOME });
    let why = if had_token { "&why=ended" } else { "" };
    let link = format!("/ui/sign-in?next={next}{why}");
    let accepts_events = parts.headers.get(header::ACCEPT).is_some_and(|value| value == "text/event-stream");
    if accepts_events {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if !whole && parts.headers.contains_key("hx-request") {
        return (StatusCode::UNAUTHORIZED, [("hx-redirect", link)]).into_response();
    }
    respond::to(&link)
}

/// What is changed must be asked for by a page of ours. Browsers say where a request comes from by `Sec-Fetch-Site`, older ones
/// by `Origin`, and no page can make them say otherwise; what says neither is no browser, and may use the REST API.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads || is_own(request.headers(), request.uri().authority().map(http::uri::Authority::as_str)) {
        return next.run(request).await;
    }
    let words = "this was sent by a page of another site, or by no browser: use the pages here, or the REST API";
    Refusal::from(ApiError::new(StatusCode::FORBIDDEN, words)).into_response()
}

/// What the sign-in is asked with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    next: String,
    why: String,
}

#[derive(Template)]
#[template(path = "sign_in.html", config = "src/api/ui/askama.toml")]
struct SignIn {
    shell: Shell,
    why: Option<String>,
    next: String,
    audience: Option<String>,
}

fn asked(api: &Api, code: StatusCode, why: Option<String>, next: &str) -> Response {
    let (shell, audience) = (Shell::new("Sign in", "", None), api.auth.audience().map(str::to_owned));
    respond::page(code, &SignIn { shell, why, next: local(next).to_owned(), audience })
}

pub(super) async fn form(State(api): State<Api>, Query(query): Query<Asked>, headers: HeaderMap) -> Response {
    if !api.auth.asks() {
        return respond::to(HOME);
    }
    let why = match query.why.as_str() {
        "ended" => Some("Your token is not good any more: sign in again."),
        "cookie" if cookie(&headers).is_none() => {
            Some("Your browser did not keep the cookie: this page must be reached by HTTPS, or on localhost.")
        }
        "cookie" => return respond::to(local(&query.next)),
        _ => None,
    };
    asked(&api, StatusCode::OK, why.map(str::to_owned), &query.next)
}

pub(super) async fn sign_in(State(api): State<Api>, request: Request) -> Response {
    let from = peer(request.extensions());
    // The caller is not known yet: of the form no more is read than a token and an address may have.
    let Form(fields) = match body::form(&api, request).await {
        Ok(fields) => fields,
        Err(error) => return asked(&api, error.code, Some(error.message().to_owned()), ""),
    };
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let (token, next) = (field("token").trim(), field("next"));
    let plain = token.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~+/=".contains(c));
    if !plain || token.len() > MAX_COOKIE {
        return asked(&api, StatusCode::UNAUTHORIZED, Some("That is no token.".into()), next);
    }
    match api.auth.known(token, from).await {
        // By way of the form, which sees whether the cookie was kept.
        Ok(_) => {
            let next = encoded(local(next));
            let mut response = respond::to(&format!("/ui/sign-in?why=cookie&next={next}"));
            response.headers_mut().insert(header::SET_COOKIE, set_cookie(token, ""));
            response
        }
        Err(error) => asked(&api, error.code, Some(error.message().to_owned()), next),
    }
}

pub(super) async fn sign_out() -> Response {
    let mut response = respond::to("/ui/sign-in");
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
    fn only_our_own_pages(#[case] next: &str, #[case] expected: &str) {
        assert_eq!(local(next), expected);
    }

    #[rstest]
    #[case(&[("sec-fetch-site", "same-origin")], true)]
    #[case(&[("sec-fetch-site", "none")], true)]
    #[case(&[("sec-fetch-site", "same-site"), ("origin", "https://x:1"), ("host", "x:1")], false)]
    #[case(&[("sec-fetch-site", "cross-site")], false)]
    #[case(&[("origin", "https://prewarm.example:8080"), ("host", "prewarm.example:8080")], true)]
    #[case(&[("origin", "https://evil.example"), ("host", "prewarm.example:8080")], false)]
    #[case(&[("origin", "null"), ("host", "prewarm.example")], false)]
    #[case(&[("host", "prewarm.example")], false)]
    fn where_a_change_comes_from(#[case] headers: &[(&'static str, &'static str)], #[case] own: bool) {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        assert_eq!(is_own(&headers, None), own);
    }

    #[test]
    fn cookies() {
        let of = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static(text))]);
            cookie(&headers).map(str::to_owned)
        };
        assert_eq!(of("a=b; __Host-prewarmer=prw_x_y; c=d"), Some("prw_x_y".into()));
        assert_eq!(of("prewarmer=prw_x_y"), None);
        assert_eq!(of("__Host-prewarmer="), None);
        let set = set_cookie("prw_x_y", "");
        assert_eq!(set, "__Host-prewarmer=prw_x_y; Path=/; Secure; HttpOnly; SameSite=Lax");
    }
}
