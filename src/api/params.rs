//! Parameters of calls: structs with their documentation, and the reader of query parameters, which
//! collects every problem instead of stopping at the first. Pure: no client, no clock, no I/O.
//!
//! Doc comments of the structs' fields are descriptions in the `OpenAPI` document.

use std::collections::BTreeMap;

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    error::{ApiError, Detail},
    idempotency,
    request::is_dns_label,
};

/// Largest page, in items.
pub(super) const MAX_LIMIT: usize = 100;
/// Default page size, in items.
const DEFAULT_LIMIT: usize = 10;

/// Longest search text, in characters.
const MAX_SEARCH: usize = 200;

/// Path of a task.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct TaskPath {
    /// Name of the task
    #[param(max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    pub(super) id: String,
}

/// Path of a schedule.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct SchedulePath {
    /// Name of the schedule
    #[param(max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    pub(super) id: String,
}

/// Header of calls that create a task.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct IdempotencyKey {
    /// Key of your choice, 1 to 255 visible characters
    #[param(rename = "Idempotency-Key")]
    pub(super) key: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let key = idempotency::key_from_headers(&parts.headers)?.map(str::to_owned);
        Ok(Self { key })
    }
}

/// Header of calls whose response has an `ETag`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the response evaluates the header; this is its documentation")]
pub(super) struct IfNoneMatch {
    /// `ETag` of an earlier response; the response is 304 while it is current
    #[param(rename = "If-None-Match")]
    etag: Option<String>,
}

/// Query parameters of a call.
pub(super) trait QueryParams: Sized {
    /// Reads the parameters; `params` collects their problems.
    fn read(params: &mut Params) -> Self;
}

/// Extractor of query parameters. The rejection is a 400 with every problem.
pub(super) struct CheckedQuery<T>(pub(super) T);

impl<S: Send + Sync, T: QueryParams> FromRequestParts<S> for CheckedQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut params = Params::from_query(parts.uri.query().unwrap_or_default());
        let query = T::read(&mut params);
        params.finish()?;
        Ok(Self(query))
    }
}

/// Defines query parameters that consist of `namespace`.
macro_rules! namespace_queries {
    ($(#[doc = $doc:literal] $name:ident: $description:tt;)*) => {$(
        #[doc = $doc]
        #[derive(IntoParams)]
        #[into_params(parameter_in = Query)]
        pub(super) struct $name {
            #[doc = $description]
            #[param(pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")]
            pub(super) namespace: Option<String>,
        }

        impl QueryParams for $name {
            fn read(params: &mut Params) -> Self {
                Self { namespace: params.namespace() }
            }
        }
    )*};
}

namespace_queries! {
    /// Query of a call for one task.
    TaskQuery: "Namespace of the task; required when several namespaces have a task of that name";
    /// Query of a call for one schedule.
    ScheduleQuery: "Namespace of the schedule; required when several namespaces have a schedule of \
                    that name";
    /// Query of a call that creates a task.
    CreateTaskQuery: "Namespace of the task when the body names none; with it the permission is \
                      checked before the body is read";
    /// Query of a call that creates a schedule.
    CreateScheduleQuery: "Namespace of the schedule when the body names none; with it the \
                          permission is checked before the body is read";
    /// Query of an extraction.
    ExtractQuery: "Namespace of workloads that name none; `default` when absent";
    /// Query of the numbers of objects.
    StatsQuery: "Count only objects of this namespace";
}

/// Unread parameters of a query, and the problems of those that were read.
pub(super) struct Params {
    unread: BTreeMap<String, String>,
    problems: Vec<Detail>,
}

impl Params {
    /// Creates a reader of a query string. A repeated parameter is a problem.
    fn from_query(query: &str) -> Self {
        let mut this = Self { unread: BTreeMap::new(), problems: Vec::new() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()).into_owned() {
            if this.unread.insert(name.clone(), value).is_some() {
                this.add_problem(&name, "must not be repeated");
            }
        }
        this
    }

    fn add_problem(&mut self, name: &str, message: &str) {
        self.problems.push(Detail { field: name.into(), message: message.into() });
    }

    /// Reads a string; `None` when it is absent or empty.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.unread.remove(name).filter(|text| !text.is_empty())
    }

    /// Reads a text of which `parse` makes a value, or `None` when it is invalid.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(&self.text(name)?);
        if value.is_none() {
            self.add_problem(name, expected);
        }
        value
    }

    /// Removes a parameter whose value is empty, so that it counts as absent.
    pub(super) fn drop_empty(&mut self, name: &str) {
        if self.unread.get(name).is_some_and(String::is_empty) {
            self.unread.remove(name);
        }
    }

    /// Reads one of the given words, and returns its value.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.unread.remove(name)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            self.add_problem(name, &format!("{text:?}: expected one of {all}"));
        }
        found.map(|(_, value)| *value)
    }

    fn number(&mut self, name: &str, default: usize, most: usize, least: usize) -> usize {
        let Some(text) = self.unread.remove(name) else { return default };
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => number,
            _ => {
                self.add_problem(
                    name,
                    &format!("{text:?}: expected a number from {least} to {most}"),
                );
                default
            }
        }
    }

    /// Reads `limit` and `offset`.
    pub(super) fn page(&mut self, most: usize) -> (usize, usize) {
        (
            self.number("limit", DEFAULT_LIMIT, most, 1),
            self.number("offset", 0, i32::MAX as usize, 0),
        )
    }

    /// Reads `search`.
    pub(super) fn search(&mut self) -> Option<String> {
        let text = self.text("search")?;
        if text.chars().count() > MAX_SEARCH {
            self.add_problem("search", &format!("expected at most {MAX_SEARCH} characters"));
        }
        Some(text)
    }

    /// Reads `namespace`.
    pub(super) fn namespace(&mut self) -> Option<String> {
        let name = self.text("namespace")?;
        if !is_dns_label(&name) {
            self.add_problem("namespace", &format!("{name:?}: expected a namespace name"));
        }
        Some(name)
    }

    /// Returns a 400 with all problems, including one for each parameter that was not read; `Ok`
    /// when there are none.
    fn finish(mut self) -> Result<(), ApiError> {
        for name in std::mem::take(&mut self.unread).into_keys() {
            self.add_problem(&name, "unknown parameter");
        }
        if self.problems.is_empty() { Ok(()) } else { Err(ApiError::invalid_fields(self.problems)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_collected() {
        let mut params =
            Params::from_query("limit=101&offset=-1&namespace=No&status=gone&status=running&x=1");
        assert_eq!(params.page(MAX_LIMIT), (10, 0));
        params.namespace();
        params.choice("status", &[("pending", 1)]);
        assert_eq!(params.problems.len(), 5, "{:?}", params.problems);
        assert!(params.finish().is_err());
    }

    #[test]
    fn empty_values_count_as_absent() {
        let mut params = Params::from_query("limit=20&offset=40&namespace=&status=");
        params.drop_empty("status");
        assert_eq!((params.page(MAX_LIMIT), params.namespace()), ((20, 40), None));
        assert!(params.finish().is_ok());
    }
}
