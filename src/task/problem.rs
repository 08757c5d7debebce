//! What is wrong with a field.

use std::fmt;

/// Longest path of a field that is kept, in characters: a label's key is part of some.
const MAX_FIELD: usize = 400;
/// Longest value that is kept, in characters: enough to see what is meant, and a problem stays one line.
const MAX_VALUE: usize = 200;

/// A field that cannot be meant as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its path, such as `spec.images[1]`.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// What is wrong with it, and what is expected.
    pub reason: String,
}

impl Problem {
    /// A problem with the value of a field. A long value is cut.
    #[must_use]
    pub fn new(field: &str, value: &str, reason: &str) -> Self {
        Self { field: cut(field, MAX_FIELD), value: cut(value, MAX_VALUE), reason: reason.into() }
    }

    /// Value and reason, as Kubernetes words the causes of a refusal.
    #[must_use]
    pub fn explained(&self) -> String {
        format!("Invalid value: {:?}: {}", self.value, self.reason)
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    text.chars().take(most).chain(['…']).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.field, self.value, self.reason)
    }
}
