//! Problems of documents: what is wrong, and where.

use std::{fmt, sync::Arc};

use super::path::FieldPath;

/// Place in a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the file; empty if there is only one text.
    pub source: Arc<str>,
    /// Number of the document in the file, from 1, not counting empty ones; 0 for the whole file.
    pub document: usize,
    /// Number of the line in the file, from 1, if known.
    pub line: Option<usize>,
    /// Path of the field; empty for the whole document.
    pub field: String,
}

impl Place {
    pub(super) fn in_field(&self, line: Option<usize>, path: &FieldPath) -> Self {
        Self { line: line.or(self.line), field: path.to_string(), ..self.clone() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.source.is_empty() {
            parts.push(format!("{}: ", self.source));
        }
        match (self.document, self.line) {
            (0, _) => {}
            (document, Some(line)) => parts.push(format!("document {document}, line {line}: ")),
            (document, None) => parts.push(format!("document {document}: ")),
        }
        if !self.field.is_empty() {
            parts.push(format!("{}: ", self.field));
        }
        f.write_str(parts.concat().trim_end_matches(": "))
    }
}

/// Error or warning, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding<T> {
    /// Place in the manifest.
    pub place: Place,
    /// What was found.
    pub what: T,
}

impl<T: fmt::Display> fmt::Display for Finding<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place.to_string();
        if place.is_empty() { self.what.fmt(f) } else { write!(f, "{place}: {}", self.what) }
    }
}

/// Reason why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The text is neither YAML nor JSON.
    #[error("{what}{}", template_hint(*.template))]
    Syntax {
        /// What is wrong.
        what: &'static str,
        /// The document contains the actions of a Go template.
        template: bool,
    },
    /// The document has too many values; contains the limit.
    #[error(
        "more than {0} values in one document, including those that aliases repeat: split it into \
         several documents"
    )]
    TooManyValues(usize),
    /// Objects and lists are nested too deep; contains the limit.
    #[error("objects and lists are nested more than {0} levels deep")]
    TooDeep(usize),
    /// Aliases or merge keys repeat too much of the document.
    #[error("aliases repeat too much of the document: write the values without aliases")]
    TooManyAliases,
    /// The document or item is not an object; contains what it is.
    #[error("expected an object with apiVersion and kind, found {0}")]
    NotAnObject(&'static str),
    /// The object has no kind.
    #[error("the object has no kind: every object of Kubernetes has apiVersion and kind")]
    NoKind,
    /// A field has a value of another type.
    #[error("expected {expected}, found {found}{}", quote_hint(expected, found))]
    WrongType {
        /// Type of the field in Kubernetes.
        expected: &'static str,
        /// Value in the document.
        found: String,
    },
}

fn template_hint(template: bool) -> &'static str {
    if template {
        "; the document contains {{ }}, like a chart's template: print the chart with `helm \
         template` and give that output"
    } else {
        ""
    }
}

fn quote_hint(expected: &str, found: &str) -> &'static str {
    let scalar = found.starts_with("the number") || found == "true" || found == "false";
    if expected == TEXT && scalar { ": put it in quotes" } else { "" }
}

/// Name of the type of strings in messages.
pub(super) const TEXT: &str = "text";

/// Finding about an object that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentWarning {
    /// A key occurs more than once.
    #[error("the key is repeated, and its last value applies")]
    RepeatedKey,
    /// The text has bytes that are invalid in its encoding.
    #[error("bytes that are not valid text were replaced by U+FFFD: save the file as UTF-8")]
    InvalidText,
    /// The object has no API version.
    #[error("{0} is skipped: it has no apiVersion")]
    NoApiVersion(String),
    /// The API version of the object was removed from Kubernetes.
    #[error(
        "{title} is skipped: Kubernetes {removed} removed {api_version}; write apiVersion: {current}"
    )]
    RemovedVersion {
        /// Object as `Kind/name`.
        title: String,
        /// API version of the object.
        api_version: String,
        /// Kubernetes version without it.
        removed: &'static str,
        /// Current API version of the kind.
        current: String,
    },
    /// The kind is known with another API version.
    #[error(
        "{title} is skipped: {api_version} is not an API version of this kind, which is {known}"
    )]
    OtherVersion {
        /// Object as `Kind/name`.
        title: String,
        /// API version of the object.
        api_version: String,
        /// Known API version of the kind.
        known: String,
    },
    /// The object of an unknown kind has what looks like pod templates.
    #[error(
        "{title} is skipped, but contains pod templates; to include the kind: --kinds={setting}"
    )]
    UnknownKind {
        /// Object as `Kind/name`.
        title: String,
        /// Value of the setting.
        setting: String,
    },
    /// An image contains the action of a Go template.
    #[error(
        "an image contains {{{{ }}}}, like a chart's template: print the chart with `helm template` and give that output"
    )]
    UnrenderedTemplate,
}
