//! Problems of a value that is decoded. Pure: no client, no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{
    error::Detail,
    field_path::{FieldPath, is_within},
};

/// Problems of a value. Paths that are added are those of the decoded value: the index of a list
/// element is corrected by the elements that could not be decoded.
#[derive(Debug, Default)]
pub(in crate::api) struct Problems {
    found: Vec<Problem>,
    /// Indices of the elements that the decoded value does not have, by the pointer of their list.
    removed: BTreeMap<String, BTreeSet<usize>>,
}

#[derive(Debug)]
struct Problem {
    pointer: String,
    detail: Detail,
    /// True when the decoded value lacks the part.
    is_lacking: bool,
}

impl Problems {
    /// Records a problem of the value as it was sent.
    pub(super) fn push(&mut self, path: &FieldPath, message: String, is_lacking: bool) {
        let detail = Detail::in_body(path, message);
        self.found.push(Problem { pointer: path.pointer(), detail, is_lacking });
    }

    /// Records a part that serde cannot decode.
    pub(super) fn add_undecodable(&mut self, path: FieldPath, message: String) {
        let path = self.to_sent(path);
        if !self.overlaps(&path.pointer()) {
            self.push(&path, message, true);
        }
    }

    /// Records elements that are removed from the decoded value.
    pub(super) fn set_removed(&mut self, elements: impl Iterator<Item = FieldPath>) {
        let sent: Vec<String> = elements.map(|path| self.to_sent(path).pointer()).collect();
        for pointer in sent {
            let Some((list, index)) = pointer.rsplit_once('/') else { continue };
            self.removed.entry(list.to_owned()).or_default().extend(index.parse::<usize>());
        }
    }

    /// Reports whether there is no problem.
    pub(in crate::api) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Reports whether the part at this path, a part of it or one that contains it has a problem.
    pub(in crate::api) fn contains(&self, field: &str) -> bool {
        self.overlaps(&self.to_sent(FieldPath::parse(field)).pointer())
    }

    /// Records a problem of a field, unless one of the same part is known.
    pub(in crate::api) fn add(&mut self, field: &str, message: impl Into<String>) {
        let path = self.to_sent(FieldPath::parse(field));
        if !self.overlaps(&path.pointer()) {
            self.push(&path, message.into(), false);
        }
    }

    /// Records that a field violates a rule about several fields. Such a problem is left out when
    /// the same list element lacks a field that could not be decoded.
    pub(in crate::api) fn add_violation(&mut self, field: &str, message: impl Into<String>) {
        let element = self.to_sent(FieldPath::parse(field)).element_pointer();
        let is_incomplete =
            |known: &Problem| known.is_lacking && is_within(&known.pointer, &element);
        if !self.found.iter().any(is_incomplete) {
            self.add(field, message);
        }
    }

    /// Returns the value, or every problem.
    pub(in crate::api) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Detail>> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self.found.into_iter().map(|one| one.detail).collect()),
        }
    }

    fn overlaps(&self, pointer: &str) -> bool {
        self.found
            .iter()
            .any(|known| is_within(&known.pointer, pointer) || is_within(pointer, &known.pointer))
    }

    /// Converts a path of the decoded value to that of the value as it was sent.
    fn to_sent(&self, path: FieldPath) -> FieldPath {
        path.map_indices(|list, index| {
            let removed = self.removed.get(list).into_iter().flatten();
            removed
                .fold(index, |index, removed| index.saturating_add(usize::from(*removed <= index)))
        })
    }
}
