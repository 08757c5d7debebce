//! Tests of every page with endless bodies: bytes read, and status of the response.

use std::collections::BTreeSet;

use super::{
    router_calls::{EndlessCall, SLACK},
    *,
};

/// Limit of forms, in bytes.
const FORM_LIMIT: usize = 64 * 1024;

/// All pages: method and path.
const PAGES: [(&str, &str); 25] = [
    ("GET", "/ui"),
    ("GET", "/ui/sign-in"),
    ("POST", "/ui/sign-in"),
    ("POST", "/ui/sign-out"),
    ("GET", "/ui/assets/style.css"),
    ("GET", "/ui/live/overview"),
    ("GET", "/ui/live/tasks"),
    ("GET", "/ui/live/schedules"),
    ("GET", "/ui/tasks"),
    ("POST", "/ui/tasks"),
    ("GET", "/ui/tasks/new"),
    ("POST", "/ui/tasks/preview"),
    ("GET", "/ui/tasks/shop/web"),
    ("GET", "/ui/tasks/shop/web/live"),
    ("GET", "/ui/tasks/shop/web/nodes"),
    ("POST", "/ui/tasks/shop/web/cancel"),
    ("POST", "/ui/tasks/shop/web/retry"),
    ("GET", "/ui/schedules"),
    ("POST", "/ui/schedules"),
    ("GET", "/ui/schedules/new"),
    ("POST", "/ui/schedules/preview"),
    ("GET", "/ui/schedules/shop/nightly"),
    ("GET", "/ui/schedules/shop/nightly/live"),
    ("POST", "/ui/schedules/shop/nightly/enable"),
    ("POST", "/ui/schedules/shop/nightly/trigger"),
];

/// Returns every page with each method that it supports, and with methods that it does not support.
fn all_calls() -> BTreeSet<(&'static str, &'static str)> {
    let others = PAGES
        .iter()
        .flat_map(|(_, path)| ["POST", "PUT", "PATCH", "DELETE"].map(|method| (method, *path)));
    PAGES.into_iter().chain(others).collect()
}

#[tokio::test]
async fn no_page_reads_more_of_a_body_than_its_limit() {
    let router = test_router();
    let mut wrong = Vec::new();
    for (method, path) in all_calls() {
        for (token, announced) in [(false, false), (false, true), (true, false), (true, true)] {
            for kind in
                ["application/x-www-form-urlencoded", "application/json", "application/yaml"]
            {
                let case = EndlessCall {
                    method: method.into(),
                    path: path.into(),
                    token: token.then_some(EDITOR),
                    announced,
                    kind,
                };
                let (code, pulled) = case.send(&router).await;
                // Only the sign-in reads a body of an unauthenticated client.
                let reads = token || (method, path) == ("POST", "/ui/sign-in");
                let limit = if reads && !announced { FORM_LIMIT + SLACK } else { 0 };
                let server = code.is_server_error() && code != StatusCode::SERVICE_UNAVAILABLE;
                if pulled > limit || server {
                    wrong.push(format!("{case:?}: {code}, {pulled} bytes read"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the calls:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn forms_that_are_too_large_are_answered_by_413() {
    let router = test_router();
    let cases = [
        ("/ui/sign-in", false),
        ("/ui/tasks", true),
        ("/ui/tasks/preview", true),
        ("/ui/schedules", true),
        ("/ui/schedules/preview", true),
    ];
    for (path, token) in cases {
        for announced in [false, true] {
            let case = EndlessCall {
                method: "POST".into(),
                path: path.into(),
                token: token.then_some(EDITOR),
                announced,
                kind: "application/x-www-form-urlencoded",
            };
            let (code, _) = case.send(&router).await;
            assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE, "{case:?}");
        }
    }
}

/// The table above contains every page: a new page must be added there.
#[test]
fn every_page_is_in_the_table() {
    let source = include_str!("../mod.rs");
    let table: BTreeSet<&str> = PAGES.iter().map(|(_, path)| *path).collect();
    assert_eq!(source.matches(".route(").count(), table.len() - 1, "{table:?}");
}
