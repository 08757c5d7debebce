//! Reader of query parameters, which collects every problem instead of stopping at the first.
//! Pure: no client, no clock, no I/O.

use std::collections::BTreeMap;

use axum::extract::Query;

use super::{
    error::{ApiError, Detail},
    request::is_dns_label,
};

/// Largest page, in items.
pub(super) const MAX_LIMIT: usize = 100;
/// Default page size, in items.
const DEFAULT_LIMIT: usize = 10;

/// Longest search text, in characters.
const MAX_SEARCH: usize = 200;

/// Parameters of the query string, in the order sent.
pub(super) type QueryPairs = Query<Vec<(String, String)>>;

/// Unread parameters of a query, and the problems of those that were read.
pub(super) struct Params {
    unread: BTreeMap<String, String>,
    problems: Vec<Detail>,
}

impl Params {
    /// Creates a reader of a query string. A repeated parameter is a problem.
    pub(super) fn from_query(Query(pairs): QueryPairs) -> Self {
        let mut this = Self { unread: BTreeMap::new(), problems: Vec::new() };
        for (name, value) in pairs {
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
    pub(super) fn finish(mut self) -> Result<(), ApiError> {
        for name in std::mem::take(&mut self.unread).into_keys() {
            self.add_problem(&name, "unknown parameter");
        }
        if self.problems.is_empty() { Ok(()) } else { Err(ApiError::invalid_fields(self.problems)) }
    }
}

/// Reads the query of a call whose only parameter is `namespace`.
pub(super) fn namespace_param(pairs: QueryPairs) -> Result<Option<String>, ApiError> {
    let mut params = Params::from_query(pairs);
    let namespace = params.namespace();
    params.finish()?;
    Ok(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(text: &str) -> Params {
        Params::from_query(
            Query::try_from_uri(&format!("http://x/?{text}").parse().unwrap()).unwrap(),
        )
    }

    #[test]
    fn every_problem_is_collected() {
        let mut params = params("limit=101&offset=-1&namespace=No&status=gone&status=running&x=1");
        assert_eq!(params.page(MAX_LIMIT), (10, 0));
        params.namespace();
        params.choice("status", &[("pending", 1)]);
        assert_eq!(params.problems.len(), 5, "{:?}", params.problems);
        assert!(params.finish().is_err());
    }

    #[test]
    fn empty_values_count_as_absent() {
        let mut params = params("limit=20&offset=40&namespace=&status=");
        params.drop_empty("status");
        assert_eq!((params.page(MAX_LIMIT), params.namespace()), ((20, 40), None));
        assert!(params.finish().is_ok());
    }
}
