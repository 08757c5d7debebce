//! A hint: an object was admitted, or seen, that asks for something.

use std::sync::Arc;

use jiff::Timestamp;

use super::keys::{Key, keys_of_all};
use crate::workload::{Kind, MetadataView, ObjectView, Workload};

/// An object that asks for something.
#[derive(Debug, Clone)]
pub struct Hint {
    /// Its kind.
    pub kind: Arc<Kind>,
    /// Its namespace.
    pub namespace: String,
    /// Its own name.
    pub name: String,
    /// Its UID; empty where it has none yet.
    pub uid: String,
    /// The version that the API server had when it admitted a change; none where it was new.
    pub replaces: Option<String>,
    /// Whether it is known to be stored.
    pub stored: bool,
    /// When it came.
    pub since: Timestamp,
    /// What it asks for.
    pub workloads: Vec<Workload>,
    keys: Vec<Key>,
    /// What it asked for before: it is there already.
    pub kept: Vec<Key>,
}

impl Hint {
    /// A hint for an object of a kind; with what it was before, where it was there before.
    #[must_use]
    pub fn new(kind: &Arc<Kind>, namespace: &str, object: &ObjectView, workloads: Vec<Workload>) -> Self {
        let MetadataView { name, uid, .. } = &object.metadata;
        Self {
            kind: Arc::clone(kind),
            namespace: namespace.to_owned(),
            name: name.clone(),
            uid: uid.clone(),
            replaces: None,
            stored: false,
            since: Timestamp::now(),
            keys: keys_of_all(&workloads),
            workloads,
            kept: Vec::new(),
        }
    }

    /// What is new in it.
    #[must_use]
    pub fn fresh(&self) -> Vec<Key> {
        self.keys.iter().filter(|key| !self.kept.contains(key)).copied().collect()
    }

    /// The same hint, for an object that asked for `kept` before.
    #[must_use]
    pub fn beyond(self, kept: Vec<Key>) -> Self {
        Self { kept, ..self }
    }

    /// The same hint for what was found to be stored.
    #[must_use]
    pub fn as_stored(self, workloads: Vec<Workload>) -> Self {
        Self { keys: keys_of_all(&workloads), workloads, stored: true, ..self }
    }
}
