//! Path of a field in a document.

use std::fmt::{self, Write};

use serde_path_to_error::Segment;

/// Longest name of a field in a message, in characters. Annotations have up to 317.
const MAX_NAME: usize = 320;
/// Longest path in a message, in characters.
const MAX_PATH: usize = 800;

/// Step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Field of an object.
    Key(String),
    /// Item of a list.
    Index(usize),
}

/// Path of a field, such as `spec.containers[0].image`; empty for a whole document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldPath(pub(super) Vec<Step>);

impl FieldPath {
    /// Returns this path followed by that of a deserialization error.
    pub(super) fn join(&self, inner: &serde_path_to_error::Path) -> Self {
        let step = |segment: &Segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        Self(self.0.iter().cloned().chain(inner.iter().filter_map(step)).collect())
    }

    /// Reports whether the path is that of an object: of the document, or of an item of a list of
    /// objects.
    pub(super) fn is_object(&self) -> bool {
        let (pairs, rest) = self.0.as_chunks::<2>();
        let item =
            |pair: &[Step; 2]| matches!(pair, [Step::Key(key), Step::Index(_)] if key == "items");
        rest.is_empty() && pairs.iter().all(item)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for step in &self.0 {
            match step {
                Step::Key(key) => {
                    text.push_str(if text.is_empty() { "" } else { "." });
                    text.extend(key.chars().take(MAX_NAME));
                }
                Step::Index(index) => write!(text, "[{index}]")?,
            }
            if text.chars().nth(MAX_PATH).is_some() {
                return write!(f, "{}...", text.chars().take(MAX_PATH).collect::<String>());
            }
        }
        f.write_str(&text)
    }
}
