//! Cache of warm images: images recently observed on nodes, which are not pulled again there. Also
//! records which namespaces have access to an image. Pure: no client, no clock, no I/O.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use roaring::RoaringBitmap;

use crate::{image::ImageRef, shrink_sparse, task::validate::ValidTask};

/// Maximum number of pairs of node and image, 2 to 4 bytes each: 5,000 nodes with 100 images each,
/// 2 MB.
const MAX_PAIRS: u64 = 500_000;

/// Maximum number of bitmaps, about 150 bytes each without their pairs: 7.5 MB. There is one for each
/// image and each time in which workers pulled it.
const MAX_BITMAPS: usize = 50_000;

/// Number of times of expiry within a lifetime. Entries expire early by this part of it at most: 10 s
/// of 10 min.
const EXPIRY_STEPS: i64 = 60;

/// Maximum number of access records, 24 bytes each: 2 MB. Above it they are cleared.
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

/// Nodes that have an image until the same time.
#[derive(Debug)]
struct WarmNodes {
    /// Second in which the entries expire.
    expiry: i64,
    /// Numbers of the nodes.
    nodes: RoaringBitmap,
}

impl WarmNodes {
    fn is_valid(&self, now: Timestamp) -> bool {
        now.as_second() < self.expiry
    }
}

/// Warm images by node, and access to images by scope.
///
/// The images of a task become warm on all of its nodes within minutes. One bitmap for each image and
/// some seconds takes a tenth of a list of images for each node.
#[derive(Debug)]
pub(super) struct WarmImageCache {
    ttl: SignedDuration,
    /// Number of each node identity in the bitmaps. A number is not used again, so that the entries
    /// of a node without a number are void.
    numbers: HashMap<u64, u32>,
    /// Number of the next node.
    next_number: u32,
    /// For each image key: the nodes that have it.
    images: HashMap<u64, Vec<WarmNodes>>,
    /// Number of pairs of node and image, including void ones.
    pairs: u64,
    /// Number of bitmaps.
    bitmaps: usize,
    /// For each scope and image: the second in which the access expires. A worker of the scope has
    /// pulled the image, or found it present, on some node.
    access: HashMap<u64, i64>,
}

impl WarmImageCache {
    /// Creates a cache whose entries live for `lifetime`; at zero nothing is cached.
    pub(super) fn new(lifetime: Duration) -> Self {
        let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::ZERO);
        Self {
            ttl: lifetime,
            numbers: HashMap::new(),
            next_number: 0,
            images: HashMap::new(),
            pairs: 0,
            bitmaps: 0,
            access: HashMap::new(),
        }
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
        if self.pairs >= MAX_PAIRS || self.bitmaps >= MAX_BITMAPS {
            self.make_space();
        }
        let Some(number) = self.number_of(node) else { return };
        let step = (self.ttl.as_secs() / EXPIRY_STEPS).max(1);
        let expiry = expiry.as_second().div_euclid(step).saturating_mul(step);
        let times = self.images.entry(scope.key(image)).or_default();
        for known in times.iter_mut().filter(|known| known.expiry != expiry) {
            self.pairs = self.pairs.saturating_sub(known.nodes.remove(number).into());
        }
        let at = times.iter().position(|known| known.expiry == expiry).unwrap_or_else(|| {
            times.push(WarmNodes { expiry, nodes: RoaringBitmap::new() });
            self.bitmaps = self.bitmaps.saturating_add(1);
            times.len().saturating_sub(1)
        });
        if let Some(known) = times.get_mut(at) {
            self.pairs = self.pairs.saturating_add(known.nodes.insert(number).into());
        }
    }

    /// Returns the number of a node, a new one if it has none; `None` if all have been used.
    fn number_of(&mut self, node: u64) -> Option<u32> {
        if let Some(number) = self.numbers.get(&node) {
            return Some(*number);
        }
        let number = self.next_number;
        self.next_number = number.checked_add(1)?;
        self.numbers.insert(node, number);
        Some(number)
    }

    /// Removes the entries that expire first, until at most half of each maximum is left. Their
    /// workers find the images present, which costs pods but no pulls.
    fn make_space(&mut self) {
        let mut times: Vec<(i64, u64)> =
            self.images.values().flatten().map(|known| (known.expiry, known.nodes.len())).collect();
        times.sort_unstable();
        let (mut pairs, mut bitmaps, mut last) = (self.pairs, self.bitmaps, i64::MIN);
        for (expiry, count) in times {
            if expiry > last && pairs <= MAX_PAIRS / 2 && bitmaps <= MAX_BITMAPS / 2 {
                break;
            }
            last = expiry;
            pairs = pairs.saturating_sub(count);
            bitmaps = bitmaps.saturating_sub(1);
        }
        self.retain_times(|known| known.expiry > last);
    }

    /// Removes the bitmaps for which `keep` is false.
    fn retain_times(&mut self, keep: impl Fn(&WarmNodes) -> bool) {
        (self.pairs, self.bitmaps) = (0, 0);
        self.images.retain(|_, times| {
            times.retain(&keep);
            self.pairs =
                times.iter().fold(self.pairs, |sum, one| sum.saturating_add(one.nodes.len()));
            self.bitmaps = self.bitmaps.saturating_add(times.len());
            !times.is_empty()
        });
        shrink_sparse(&mut self.images);
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
        self.numbers.remove(&node);
    }

    /// Reports whether the image is known to be on the node with this identity.
    pub(super) fn contains(
        &self,
        scope: CredentialScope,
        node: u64,
        image: &ImageRef,
        now: Timestamp,
    ) -> bool {
        let Some(number) = self.numbers.get(&node) else { return false };
        let mut times = self.images.get(&scope.key(image)).into_iter().flatten();
        times.any(|known| known.is_valid(now) && known.nodes.contains(*number))
    }

    /// Removes expired entries, and all entries of nodes for which `keep` is false: deleted nodes,
    /// and nodes short of disk space, on which the kubelet deletes images.
    pub(super) fn prune(&mut self, now: Timestamp, keep: impl Fn(u64) -> bool) {
        self.access.retain(|_, expiry| now.as_second() < *expiry);
        shrink_sparse(&mut self.access);
        self.retain_times(|known| known.is_valid(now));
        self.numbers.retain(|node, _| keep(*node));
        if self.images.is_empty() {
            (self.numbers, self.next_number) = (HashMap::new(), 0);
        }
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
        known.insert(scope, 1, image, at(1));
        assert!(known.contains(scope, 1, image, at(1)));
        known.remove_node(1);
        assert!(!known.contains(scope, 1, image, at(1)));
        known.insert(scope, 1, image, at(1));
        assert!(known.contains(scope, 1, image, at(60)), "it came back, and pulled again");
        known.prune(at(61), |_| true);
        assert_eq!(
            (known.pairs, known.bitmaps, known.numbers.len(), known.next_number),
            (0, 0, 0, 0)
        );
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

    /// Returns the image with this number.
    fn image(at: usize) -> ImageRef {
        format!("registry.example/app-{at}:1").parse().unwrap()
    }

    #[test]
    fn a_later_pull_extends_an_entry_and_is_counted_once() {
        let mut known = WarmImageCache::new(Duration::from_secs(600));
        known.insert(CredentialScope::PUBLIC, 1, &image(0), at(0));
        known.insert(CredentialScope::PUBLIC, 1, &image(0), at(300));
        assert!(known.contains(CredentialScope::PUBLIC, 1, &image(0), at(899)));
        assert!(!known.contains(CredentialScope::PUBLIC, 1, &image(0), at(900)));
        assert_eq!((known.pairs, known.bitmaps), (1, 2));
        known.prune(at(600), |_| true);
        assert_eq!((known.pairs, known.bitmaps), (1, 1));
    }

    #[test]
    fn an_entry_expires_early_by_a_sixtieth_at_most() {
        let mut known = WarmImageCache::new(Duration::from_secs(600));
        known.insert(CredentialScope::PUBLIC, 1, &image(0), at(9));
        assert!(known.contains(CredentialScope::PUBLIC, 1, &image(0), at(599)));
        assert!(!known.contains(CredentialScope::PUBLIC, 1, &image(0), at(600)));
    }

    /// Images of one tenant, each on one node, take a bitmap each.
    #[test]
    fn the_oldest_entries_make_space_for_new_ones() {
        let (mut known, scope) =
            (WarmImageCache::new(Duration::from_secs(600)), CredentialScope(7));
        for at_image in 0..MAX_BITMAPS {
            let second = i64::from(at_image >= MAX_BITMAPS / 4 * 3) * 100;
            known.insert(scope, 1, &image(at_image), at(second));
        }
        assert_eq!(known.bitmaps, MAX_BITMAPS);
        known.insert(scope, 1, &image(MAX_BITMAPS), at(200));
        assert!(known.bitmaps <= MAX_BITMAPS / 2 && known.pairs <= MAX_PAIRS / 2);
        assert!(!known.contains(scope, 1, &image(0), at(200)));
        assert!(known.contains(scope, 1, &image(MAX_BITMAPS - 1), at(200)));
        assert!(known.contains(scope, 1, &image(MAX_BITMAPS), at(200)));
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
