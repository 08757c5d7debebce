//! Hints: an object asks for something. What a review says is a claim; what was read from the API server is a fact.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;

use super::keys::{Key, keys_of_all};
use crate::workload::{Kind, ObjectView, Workload};

/// Longest name of an object (a DNS-1123 subdomain).
const MAX_NAME: usize = 253;
/// Longest name of a namespace (a DNS-1123 label).
const MAX_LABEL: usize = 63;
/// Longest UID that is believed to be one: those of Kubernetes are UUIDs, of 36 characters.
const MAX_UID: usize = 64;

/// What a review claims of an object. Whoever reaches the webhook's port can send reviews: nothing follows from a claim but a
/// look at the object that it names, by namespace, name and UID.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Kind of the object.
    pub(super) kind: Arc<Kind>,
    /// Namespace of the object.
    pub(super) namespace: String,
    /// Name of the object.
    pub(super) name: String,
    /// UID of the object. The API server gives it before it asks validating webhooks.
    pub(super) uid: String,
    /// The version that the object had when its change was admitted; none where it was new.
    pub(super) replaces: Option<String>,
    /// When the review came.
    pub(super) since: Timestamp,
    /// What the object asks for; none where the review was not read that far.
    fresh: Option<Vec<Key>>,
    /// What it asked for before: that is there already.
    pub(super) kept: Vec<Key>,
}

impl Claim {
    /// Makes a claim of an object of a review in `namespace`, of which nothing but its identity was read. None where the object
    /// has no valid namespace, name or UID: such an object cannot be looked up.
    #[must_use]
    pub fn new(kind: &Arc<Kind>, namespace: &str, object: &ObjectView) -> Option<Self> {
        let metadata = &object.metadata;
        let same = metadata.namespace.is_empty() || metadata.namespace == namespace;
        let valid = same && is_label(namespace) && is_subdomain(&metadata.name) && is_uid(&metadata.uid);
        valid.then(|| Self {
            kind: Arc::clone(kind),
            namespace: namespace.to_owned(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            replaces: None,
            since: Timestamp::now(),
            fresh: None,
            kept: Vec::new(),
        })
    }

    /// The same claim, of a change of an object that had this version.
    #[must_use]
    pub fn replacing(self, version: &str) -> Self {
        Self { replaces: Some(version.to_owned()), ..self }
    }

    /// The same claim, of an object that asks for these, and asked for `kept` before.
    #[must_use]
    pub fn asking(self, workloads: &[Workload], kept: Vec<Key>) -> Self {
        Self { fresh: Some(beyond(&keys_of_all(workloads), &kept)), kept, ..self }
    }

    /// Whether it says nothing that the other does not.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.uid == other.uid && self.replaces == other.replaces && self.fresh == other.fresh && self.kept == other.kept
    }

    /// What is new in it, as far as that is known.
    #[must_use]
    pub fn fresh(&self) -> Option<&[Key]> {
        self.fresh.as_deref()
    }
}

/// What a stored object asks for. Only what was read from the API server becomes one: by [`super::WatchHints::hint`] from our
/// own watch, and within intake from a look at the object.
#[derive(Debug, Clone)]
pub struct Hint {
    /// Namespace of the object.
    pub(super) namespace: String,
    /// When its change was heard of.
    pub(super) since: Timestamp,
    /// What it asks for.
    pub(super) workloads: Vec<Workload>,
    /// What it asked for before: that is there already.
    pub(super) kept: Vec<Key>,
    fresh: Vec<Key>,
}

impl Hint {
    pub(super) fn stored(namespace: &str, since: Timestamp, workloads: Vec<Workload>, kept: Vec<Key>) -> Self {
        let fresh = beyond(&keys_of_all(&workloads), &kept);
        Self { namespace: namespace.to_owned(), since, workloads, kept, fresh }
    }

    /// What is new in it.
    #[must_use]
    pub fn fresh(&self) -> &[Key] {
        &self.fresh
    }

    /// What it asked for before.
    #[must_use]
    pub fn into_kept(self) -> Vec<Key> {
        self.kept
    }
}

/// Those of `keys` that are not in `kept`.
fn beyond(keys: &[Key], kept: &[Key]) -> Vec<Key> {
    if kept.is_empty() {
        return keys.to_vec();
    }
    let kept: HashSet<&Key> = kept.iter().collect();
    keys.iter().filter(|key| !kept.contains(key)).copied().collect()
}

/// Whether the text is a DNS-1123 label.
fn is_label(text: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    bytes.len() <= MAX_LABEL && bytes.iter().all(plain) && ends(bytes.first()) && ends(bytes.last())
}

/// Whether the text is a DNS-1123 subdomain, as the names of all objects with a pod template are.
fn is_subdomain(text: &str) -> bool {
    // Parts of a subdomain may be longer than a label: Kubernetes checks the whole alone.
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.iter().all(plain) && ends(bytes.first()) && ends(bytes.last())
    };
    text.len() <= MAX_NAME && text.split('.').all(part)
}

fn is_uid(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !text.is_empty() && text.len() <= MAX_UID && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::workload::Kinds;

    fn claim(namespace: &str, metadata: &serde_json::Value) -> Option<Claim> {
        let kinds = Kinds::default();
        let kind = kinds.find("apps/v1", "Deployment").unwrap();
        Claim::new(kind, namespace, &kind.read_value(json!({"metadata": metadata})).unwrap())
    }

    #[test]
    fn only_an_object_that_can_be_looked_up_is_claimed() {
        assert!(claim("shop", &json!({"name": "web-1.v2", "uid": "0d6f-1"})).is_some());
        assert!(claim("shop", &json!({"name": "web", "namespace": "shop", "uid": "u"})).is_some());
        for (namespace, metadata) in [
            ("shop", json!({"generateName": "x-", "uid": "u"})),
            ("shop", json!({"name": "web"})),
            ("shop", json!({"name": "web", "uid": ""})),
            ("shop", json!({"name": "web", "uid": "a/b"})),
            ("shop", json!({"name": "web", "namespace": "bank", "uid": "u"})),
            ("", json!({"name": "web", "uid": "u"})),
            ("shop/../bank", json!({"name": "web", "uid": "u"})),
            ("Shop", json!({"name": "web", "uid": "u"})),
            ("a.b", json!({"name": "web", "uid": "u"})),
            (&"a".repeat(64), json!({"name": "web", "uid": "u"})),
        ] {
            assert_eq!(claim(namespace, &metadata), None, "{namespace} {metadata}");
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        assert!(is_subdomain("web-1.shop") && is_subdomain(&"a".repeat(253)));
        for text in ["", ".", "..", "../secrets/x", "a/b", "a?b", "a%2fb", "Web", "-a", "a-", "a..b", &"a".repeat(254)]
        {
            assert!(!is_subdomain(text), "{text}");
        }
    }

    #[test]
    fn what_is_new_is_found_in_linear_time() {
        let key = |n: u32| {
            let mut key = Key::default();
            key[..4].copy_from_slice(&n.to_be_bytes());
            key
        };
        let (all, kept): (Vec<Key>, Vec<Key>) = ((0..200_000).map(key).collect(), (1..200_000).map(key).collect());
        let begun = Instant::now();
        assert_eq!(beyond(&all, &kept), [key(0)]);
        // Comparing each with each takes minutes.
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }
}
