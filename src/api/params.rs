//! Reads the parameters of a query; every mistake is told. *Pure.*

use std::collections::BTreeMap;

use axum::extract::Query;

use super::{
    error::{ApiError, Detail},
    request::is_label,
};

/// Pages are at most this long.
pub(super) const MAX_LIMIT: usize = 100;
/// And this long where nothing is said.
const LIMIT: usize = 10;

/// Longest text that is searched for.
const MAX_SEARCH: usize = 200;

/// What stands behind the `?`.
pub(super) type Pairs = Query<Vec<(String, String)>>;

/// The parameters that were not read yet, and what was wrong with those that were.
pub(super) struct Params {
    left: BTreeMap<String, String>,
    problems: Vec<Detail>,
}

impl Params {
    /// The parameters of a query.
    pub(super) fn of(Query(pairs): Pairs) -> Self {
        let mut this = Self { left: BTreeMap::new(), problems: Vec::new() };
        for (name, value) in pairs {
            if this.left.insert(name.clone(), value).is_some() {
                this.wrong(&name, "is there twice");
            }
        }
        this
    }

    fn wrong(&mut self, name: &str, message: &str) {
        self.problems.push(Detail { field: name.into(), message: message.into() });
    }

    /// A text; an empty one is none.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.left.remove(name).filter(|text| !text.is_empty())
    }

    /// Takes a parameter without a value as one that is not there.
    pub(super) fn drop_empty(&mut self, name: &str) {
        if self.left.get(name).is_some_and(String::is_empty) {
            self.left.remove(name);
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.left.remove(name)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            self.wrong(name, &format!("{text:?}: expected one of {all}"));
        }
        found.map(|(_, value)| *value)
    }

    fn number(&mut self, name: &str, default: usize, most: usize, least: usize) -> usize {
        let Some(text) = self.left.remove(name) else { return default };
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => number,
            _ => {
                self.wrong(name, &format!("{text:?}: expected a number from {least} to {most}"));
                default
            }
        }
    }

    /// How many at most, and after how many.
    pub(super) fn page(&mut self, most: usize) -> (usize, usize) {
        (self.number("limit", LIMIT, most, 1), self.number("offset", 0, i32::MAX as usize, 0))
    }

    /// What is searched for.
    pub(super) fn search(&mut self) -> Option<String> {
        let text = self.text("search")?;
        if text.chars().count() > MAX_SEARCH {
            self.wrong("search", &format!("expected at most {MAX_SEARCH} characters"));
        }
        Some(text)
    }

    /// The namespace.
    pub(super) fn namespace(&mut self) -> Option<String> {
        let name = self.text("namespace")?;
        if !is_label(&name) {
            self.wrong("namespace", &format!("{name:?}: expected the name of a namespace"));
        }
        Some(name)
    }

    /// What was wrong, if anything; a parameter that nobody has asked for is.
    pub(super) fn done(mut self) -> Result<(), ApiError> {
        for name in std::mem::take(&mut self.left).into_keys() {
            self.wrong(&name, "there is no such parameter");
        }
        if self.problems.is_empty() { Ok(()) } else { Err(ApiError::bad(self.problems)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(text: &str) -> Params {
        Params::of(Query::try_from_uri(&format!("http://x/?{text}").parse().unwrap()).unwrap())
    }

    #[test]
    fn all_that_is_wrong() {
        let mut params = params("limit=101&offset=-1&namespace=No&status=gone&status=running&x=1");
        assert_eq!(params.page(MAX_LIMIT), (10, 0));
        params.namespace();
        params.choice("status", &[("pending", 1)]);
        assert_eq!(params.problems.len(), 5, "{:?}", params.problems);
        assert!(params.done().is_err());
    }

    #[test]
    fn what_is_right() {
        let mut params = params("limit=20&offset=40&namespace=&status=");
        params.drop_empty("status");
        assert_eq!((params.page(MAX_LIMIT), params.namespace()), ((20, 40), None));
        assert!(params.done().is_ok());
    }
}
