//! Objects with the labels of workers that are not Prewarmer's.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::worker::provenance::ProvenanceError;

/// Object with our labels that fails provenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignObject {
    /// Namespace and name, as `namespace/name`.
    pub key: String,
    /// Reason for which it is foreign.
    pub reason: ProvenanceError,
    /// Hash of the namespace and the task UID in the labels.
    pub claim: u64,
}

impl ForeignObject {
    /// Creates a foreign object with the task UID of its labels.
    #[must_use]
    pub fn new(namespace: &str, name: &str, task_uid: &str, reason: ProvenanceError) -> Self {
        Self { key: format!("{namespace}/{name}"), reason, claim: claim_hash(namespace, task_uid) }
    }
}

pub(super) fn claim_hash(namespace: &str, task_uid: &str) -> u64 {
    hash_of(&(namespace, task_uid))
}

pub(super) fn hash_of(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
