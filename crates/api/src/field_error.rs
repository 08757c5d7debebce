//! Problem with the value of a field.

use std::fmt;

/// Longest path of a field that is kept, in characters. Some paths contain a label key.
const MAX_FIELD: usize = 400;
/// Longest value that is kept, in characters: enough to recognise it, and a problem stays one line.
const MAX_VALUE: usize = 200;

/// Invalid value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `spec.images[1]`.
    pub field: String,
    /// Value of the field.
    pub value: String,
    /// Reason, and what is expected.
    pub reason: String,
}

impl FieldError {
    /// Creates a problem with the value of a field. A long field or value is truncated.
    #[must_use]
    pub fn new(field: &str, value: &str, reason: &str) -> Self {
        Self {
            field: truncate(field, MAX_FIELD),
            value: truncate(value, MAX_VALUE),
            reason: reason.into(),
        }
    }

    /// Returns value and reason in the form of Kubernetes status causes.
    #[must_use]
    pub fn cause_message(&self) -> String {
        format!("Invalid value: {:?}: {}", self.value, self.reason)
    }
}

fn truncate(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    text.chars().take(most).chain(['…']).collect()
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.field, self.value, self.reason)
    }
}
