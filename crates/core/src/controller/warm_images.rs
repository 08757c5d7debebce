//! Cache of warm images: images recently observed on nodes, which are not pulled again there. Also
//! records which namespaces have access to an image. Pure: no client, no clock, no I/O.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::{image::ImageRef, shrink_sparse, task::validate::ValidTask};

/// Maximum number of entries: 5,000 nodes with 100 images each, 6 MB. Above it the cache is
/// cleared, which costs pulls that find their images present.
const MAX_ENTRIES: usize = 500_000;

/// Maximum number of access records, 24 bytes each: 2 MB. Above it they are cleared, too.
const MAX_ACCESS_RECORDS: usize = 100_000;

/// Namespace and credentials with which an image was pulled. For other ones the kubelet would have
/// to check at the registry again when a pod starts (KEP-2535), and a task of theirs must not learn
/// which nodes hold the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CredentialScope(u64);

impl CredentialScope {
    /// Scope of workers in our own namespace, whose service account has no credentials. Every user
    /// can pull what they can pull.
    pub(super) const PUBLIC: Self = Self(0);

    pub(super) fn new(namespace: &str, task: &ValidTask) -> Self {
        let mut hasher = DefaultHasher::new();
        (namespace, &task.service_account_name, &task.image_pull_secrets).hash(&mut hasher);
        Self(hasher.finish())
    }

    fn key(self, image: &ImageRef) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.0, image.normalized()).hash(&mut hasher);
        hasher.finish()
    }
}

/// Number of entries by which the list of a node grows: 48 bytes. Lists that double would be unused
/// by a third on average.
const NODE_LIST_STEP: usize = 4;

/// Image on a node. Of 12 bytes, while a `u64` would align it to 16.
#[derive(Debug, Clone, Copy)]
struct WarmImage {
    /// Upper and lower half of the key.
    key: [u32; 2],
    /// Second in which the entry expires.
    expiry: u32,
}

impl WarmImage {
    fn is_valid(self, now: Timestamp) -> bool {
        now.as_second() < i64::from(self.expiry)
    }
}

/// Returns the halves of a key.
#[expect(clippy::cast_possible_truncation, reason = "each half has 32 bits")]
const fn halves(key: u64) -> [u32; 2] {
    [(key >> 32) as u32, key as u32]
}

/// Warm images by node, and access to images by scope.
#[derive(Debug)]
pub(super) struct WarmImageCache {
    ttl: SignedDuration,
    /// For each node identity: its images, in the order of their keys.
    nodes: HashMap<u64, Vec<WarmImage>>,
    entries: usize,
    /// For each scope and image: the second in which the access expires. A worker of the scope has
    /// pulled the image, or found it present, on some node.
    access: HashMap<u64, i64>,
}

impl WarmImageCache {
    /// Creates a cache whose entries live for `lifetime`; at zero nothing is cached.
    pub(super) fn new(lifetime: Duration) -> Self {
        let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::ZERO);
        Self { ttl: lifetime, nodes: HashMap::new(), entries: 0, access: HashMap::new() }
    }

    /// Records that the image is on the node with this identity.
    pub(super) fn insert(
        &mut self,
        scope: CredentialScope,
        node: u64,
        image: &ImageRef,
        now: Timestamp,
    ) {
        let Ok(expiry) = now.checked_add(self.ttl) else { return };
        if self.ttl.is_zero() {
            return;
        }
        if self.entries >= MAX_ENTRIES {
            self.nodes.clear();
            self.entries = 0;
        }
        let expiry = u32::try_from(expiry.as_second()).unwrap_or_default();
        let entry = WarmImage { key: halves(scope.key(image)), expiry };
        let images = self.nodes.entry(node).or_default();
        match images.binary_search_by_key(&entry.key, |image| image.key) {
            Ok(at) => {
                if let Some(image) = images.get_mut(at) {
                    *image = entry;
                }
            }
            Err(at) => {
                if images.len() == images.capacity() {
                    images.reserve_exact(NODE_LIST_STEP);
                }
                images.insert(at, entry);
                self.entries = self.entries.saturating_add(1);
            }
        }
    }

    /// Records that the kubelet of some node gave the image to a worker of this scope.
    pub(super) fn record_access(
        &mut self,
        scope: CredentialScope,
        image: &ImageRef,
        now: Timestamp,
    ) {
        let Ok(expiry) = now.checked_add(self.ttl) else { return };
        if self.ttl.is_zero() {
            return;
        }
        if self.access.len() >= MAX_ACCESS_RECORDS {
            self.access.clear();
        }
        self.access.insert(scope.key(image), expiry.as_second());
    }

    /// Reports whether the scope may know which nodes hold the image: recently a worker of the
    /// scope, or of one without credentials, had access to it.
    pub(super) fn has_access(
        &self,
        scope: CredentialScope,
        image: &ImageRef,
        now: Timestamp,
    ) -> bool {
        let is_proven = |scope: CredentialScope| {
            self.access.get(&scope.key(image)).is_some_and(|expiry| now.as_second() < *expiry)
        };
        is_proven(scope) || is_proven(CredentialScope::PUBLIC)
    }

    /// Removes all entries of a node. A node that was not ready may come back as another machine.
    pub(super) fn remove_node(&mut self, node: u64) {
        if let Some(images) = self.nodes.remove(&node) {
            self.entries = self.entries.saturating_sub(images.len());
        }
    }

    pub(super) fn contains(
        &self,
        scope: CredentialScope,
        node: u64,
        image: &ImageRef,
        now: Timestamp,
    ) -> bool {
        let Some(images) = self.nodes.get(&node) else { return false };
        let found = images.binary_search_by_key(&halves(scope.key(image)), |image| image.key);
        found.ok().and_then(|at| images.get(at)).is_some_and(|image| image.is_valid(now))
    }

    /// Removes expired entries, and all entries of nodes for which `keep` is false: deleted nodes,
    /// and nodes short of disk space, on which the kubelet deletes images.
    pub(super) fn prune(&mut self, now: Timestamp, keep: impl Fn(u64) -> bool) {
        self.access.retain(|_, expiry| now.as_second() < *expiry);
        self.nodes.retain(|node, images| {
            images.retain(|image| image.is_valid(now));
            !images.is_empty() && keep(*node)
        });
        shrink_sparse(&mut self.access);
        shrink_sparse(&mut self.nodes);
        self.entries = self.nodes.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{LocalReference, PrewarmTaskSpec, validate::validate};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn entries_expire_and_are_separated_by_scope() {
        let plain = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        spec.image_pull_secrets = Some(vec![LocalReference { name: "s".into() }]);
        let secret = validate(&spec).unwrap();
        let (scope, image) = (CredentialScope::new("shop", &plain), &plain.images[0]);
        let mut known = WarmImageCache::new(Duration::from_secs(60));
        known.insert(scope, 1, image, at(0));
        assert!(known.contains(scope, 1, image, at(59)));
        assert!(known.contains(
            scope,
            1,
            &"docker.io/library/nginx:latest".parse().unwrap(),
            at(59)
        ));
        assert!(!known.contains(scope, 1, image, at(60)));
        assert!(
            !known.contains(scope, 2, image, at(1)),
            "another node, or another machine with the same name"
        );
        assert!(!known.contains(CredentialScope::new("bank", &plain), 1, image, at(1)));
        assert!(!known.contains(CredentialScope::new("shop", &secret), 1, image, at(1)));
        known.prune(at(1), |node| node != 1);
        assert!(!known.contains(scope, 1, image, at(1)));
        assert_eq!(known.entries, 0);
        known.insert(scope, 1, image, at(1));
        known.remove_node(1);
        assert!(!known.contains(scope, 1, image, at(1)));
        assert_eq!(known.entries, 0);
    }

    #[test]
    fn access_is_recorded_by_scope() {
        let task = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        let (shop, bank, image) = (
            CredentialScope::new("shop", &task),
            CredentialScope::new("bank", &task),
            &task.images[0],
        );
        let mut known = WarmImageCache::new(Duration::from_secs(60));
        known.record_access(bank, image, at(0));
        assert!(known.has_access(bank, image, at(59)) && !known.has_access(bank, image, at(60)));
        assert!(!known.has_access(shop, image, at(1)), "access of bank gives shop none");
        known.record_access(CredentialScope::PUBLIC, image, at(0));
        assert!(known.has_access(shop, image, at(1)));
        known.prune(at(60), |_| true);
        assert!(known.access.is_empty());
    }

    #[test]
    fn a_zero_lifetime_disables_the_cache() {
        let task = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        let scope = CredentialScope::new("shop", &task);
        let mut known = WarmImageCache::new(Duration::ZERO);
        known.insert(scope, 1, &task.images[0], at(0));
        known.record_access(scope, &task.images[0], at(0));
        assert!(
            !known.contains(scope, 1, &task.images[0], at(0))
                && !known.has_access(scope, &task.images[0], at(0))
        );
    }
}
