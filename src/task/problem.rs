//! What is wrong with a field.

use std::fmt;

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
    /// A problem with the value of a field.
    #[must_use]
    pub fn new(field: &str, value: &str, reason: &str) -> Self {
        Self { field: field.into(), value: value.into(), reason: reason.into() }
    }

    /// Value and reason, as Kubernetes words the causes of a refusal.
    #[must_use]
    pub fn explained(&self) -> String {
        format!("Invalid value: {:?}: {}", self.value, self.reason)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.field, self.value, self.reason)
    }
}
