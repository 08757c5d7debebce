//! What has been warmed lately: an image that is known to be on a node is not pulled again. *Pure.*

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::{image::Reference, task::validate::ValidTask};

/// Images kept: 5,000 nodes with 100 each, 8 MB. Above it all is forgotten, which costs pulls that find their images
/// present.
const MAX_ENTRIES: usize = 500_000;

/// Images remembered of which it is known who may pull them, 24 bytes each: 2 MB. Above it all is forgotten, too.
const MAX_PROVEN: usize = 100_000;

/// By whom an image was pulled. Another namespace, or other credentials, would have to be checked at the registry again
/// when its pods start (KEP-2535), and may not learn what is on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scope(u64);

impl Scope {
    /// Workers in our own namespace, whose account has no credentials: what they can pull, everybody can.
    pub(super) const ANYBODY: Self = Self(0);

    pub(super) fn new(namespace: &str, task: &ValidTask) -> Self {
        let mut hasher = DefaultHasher::new();
        (namespace, &task.service_account_name, &task.image_pull_secrets).hash(&mut hasher);
        Self(hasher.finish())
    }

    fn key(self, image: &Reference) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.0, image.normalized()).hash(&mut hasher);
        hasher.finish()
    }
}

/// Our own records of what is where.
#[derive(Debug)]
pub(super) struct Known {
    lifetime: SignedDuration,
    /// For each node, by its identity: images, in order, and the second in which each record expires.
    nodes: HashMap<u64, Vec<(u64, i64)>>,
    entries: usize,
    /// Images that a worker has pulled, or was given, for a scope on some node, and the second in which that expires.
    proven: HashMap<u64, i64>,
}

impl Known {
    /// Records count for `lifetime`; none are kept where it is zero.
    pub(super) fn new(lifetime: Duration) -> Self {
        let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::ZERO);
        Self { lifetime, nodes: HashMap::new(), entries: 0, proven: HashMap::new() }
    }

    /// The image is on the node, of this identity.
    pub(super) fn learn(&mut self, scope: Scope, node: u64, image: &Reference, now: Timestamp) {
        let Ok(expiry) = now.checked_add(self.lifetime) else { return };
        if self.lifetime.is_zero() {
            return;
        }
        if self.entries >= MAX_ENTRIES {
            self.nodes.clear();
            self.entries = 0;
        }
        let (key, second) = (scope.key(image), expiry.as_second());
        let images = self.nodes.entry(node).or_default();
        match images.binary_search_by_key(&key, |(image, _)| *image) {
            Ok(at) => {
                if let Some((_, expiry)) = images.get_mut(at) {
                    *expiry = second;
                }
            }
            Err(at) => {
                images.insert(at, (key, second));
                self.entries = self.entries.saturating_add(1);
            }
        }
    }

    /// A worker for this scope was given the image by the kubelet of some node.
    pub(super) fn prove(&mut self, scope: Scope, image: &Reference, now: Timestamp) {
        let Ok(expiry) = now.checked_add(self.lifetime) else { return };
        if self.lifetime.is_zero() {
            return;
        }
        if self.proven.len() >= MAX_PROVEN {
            self.proven.clear();
        }
        self.proven.insert(scope.key(image), expiry.as_second());
    }

    /// Whether the scope may know where the image is: it was given it lately, or everybody is.
    pub(super) fn may_know(&self, scope: Scope, image: &Reference, now: Timestamp) -> bool {
        let is_proven =
            |scope: Scope| self.proven.get(&scope.key(image)).is_some_and(|expiry| now.as_second() < *expiry);
        is_proven(scope) || is_proven(Scope::ANYBODY)
    }

    /// Forgets what is on a node: it was not ready, and may come back as another.
    pub(super) fn forget(&mut self, node: u64) {
        if let Some(images) = self.nodes.remove(&node) {
            self.entries = self.entries.saturating_sub(images.len());
        }
    }

    pub(super) fn has(&self, scope: Scope, node: u64, image: &Reference, now: Timestamp) -> bool {
        let Some(images) = self.nodes.get(&node) else { return false };
        let found = images.binary_search_by_key(&scope.key(image), |(image, _)| *image);
        found.ok().and_then(|at| images.get(at)).is_some_and(|(_, expiry)| now.as_second() < *expiry)
    }

    /// Drops what has expired, and all of nodes for which `keep` is false: they are gone, or short of room, and then the
    /// kubelet deletes images.
    pub(super) fn prune(&mut self, now: Timestamp, keep: impl Fn(u64) -> bool) {
        self.proven.retain(|_, expiry| now.as_second() < *expiry);
        self.nodes.retain(|node, images| {
            images.retain(|(_, expiry)| now.as_second() < *expiry);
            !images.is_empty() && keep(*node)
        });
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
    fn records_expire_and_keep_to_their_scope() {
        let plain = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        spec.image_pull_secrets = Some(vec![LocalReference { name: "s".into() }]);
        let secret = validate(&spec).unwrap();
        let (scope, image) = (Scope::new("shop", &plain), &plain.images[0]);
        let mut known = Known::new(Duration::from_secs(60));
        known.learn(scope, 1, image, at(0));
        assert!(known.has(scope, 1, image, at(59)));
        assert!(known.has(scope, 1, &"docker.io/library/nginx:latest".parse().unwrap(), at(59)));
        assert!(!known.has(scope, 1, image, at(60)));
        assert!(!known.has(scope, 2, image, at(1)), "another node, or another machine under its name");
        assert!(!known.has(Scope::new("bank", &plain), 1, image, at(1)));
        assert!(!known.has(Scope::new("shop", &secret), 1, image, at(1)));
        known.prune(at(1), |node| node != 1);
        assert!(!known.has(scope, 1, image, at(1)));
        assert_eq!(known.entries, 0);
        known.learn(scope, 1, image, at(1));
        known.forget(1);
        assert!(!known.has(scope, 1, image, at(1)));
        assert_eq!(known.entries, 0);
    }

    #[test]
    fn who_was_given_an_image_may_know_where_it_is() {
        let task = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        let (shop, bank, image) = (Scope::new("shop", &task), Scope::new("bank", &task), &task.images[0]);
        let mut known = Known::new(Duration::from_secs(60));
        known.prove(bank, image, at(0));
        assert!(known.may_know(bank, image, at(59)) && !known.may_know(bank, image, at(60)));
        assert!(!known.may_know(shop, image, at(1)), "what bank may pull is not shop's to know");
        known.prove(Scope::ANYBODY, image, at(0));
        assert!(known.may_know(shop, image, at(1)));
        known.prune(at(60), |_| true);
        assert!(known.proven.is_empty());
    }

    #[test]
    fn without_a_lifetime_nothing_is_kept() {
        let task = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        let scope = Scope::new("shop", &task);
        let mut known = Known::new(Duration::ZERO);
        known.learn(scope, 1, &task.images[0], at(0));
        known.prove(scope, &task.images[0], at(0));
        assert!(!known.has(scope, 1, &task.images[0], at(0)) && !known.may_know(scope, &task.images[0], at(0)));
    }
}
