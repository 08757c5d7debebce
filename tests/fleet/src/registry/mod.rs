//! Registries: latency, bandwidth, rate limits, private repositories and failures by rule.
//!
//! A pull makes these requests, as containerd's resolver and fetcher do: `HEAD` of the manifest by
//! its tag; `GET` of the manifest and of the configuration, unless the node has them; `GET` of each
//! layer that the node lacks. The rate limit counts `GET` requests of manifests, as Docker Hub does,
//! so that a pull with the policy `Always` of an unchanged image costs nothing.

mod error;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use prewarmer_api::image::ImageRef;

pub use self::error::PullError;
use crate::{
    ids::{NodeId, RegistryId},
    image::Digest,
    time::SimTime,
};

/// Limit of pulls in a sliding window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Number of manifests that may be fetched in the window.
    pub pulls: u32,
    /// Length of the window.
    pub window: Duration,
    /// True if the limit holds for each node separately (by address), false if for all together
    /// (behind one address, or by account).
    pub per_node: bool,
}

/// Kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The image does not exist.
    NotFound,
    /// The registry rejects the credentials.
    Unauthorized,
    /// The registry answers every request with status 503.
    Unavailable,
}

/// Rule by which requests fail. The first matching rule of a registry counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureRule {
    /// Start of the repository, such as `shop/`; empty for all.
    pub repository_prefix: String,
    /// Failure.
    pub failure: Failure,
    /// First point in time.
    pub from: SimTime,
    /// Point in time from which the rule no longer matches.
    pub until: SimTime,
}

/// Settings of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Host, with the port if references contain one.
    pub host: String,
    /// Capacity of its link, in bytes per second.
    pub bandwidth: u64,
    /// Time from the request of a manifest to its response.
    pub manifest_latency: Duration,
    /// Time from the request of a layer or configuration to its first byte.
    pub blob_latency: Duration,
    /// Rate limit, if any.
    pub rate_limit: Option<RateLimit>,
    /// Starts of the repositories that need a pull secret.
    pub private_prefixes: Vec<String>,
    /// Rules of failures.
    pub failures: Vec<FailureRule>,
}

impl RegistrySettings {
    /// Returns the settings of a public registry without limits: 10 Gbit/s, 100 ms for a manifest
    /// and 50 ms for a layer. The figures are assumptions.
    #[must_use]
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            bandwidth: 1_250_000_000,
            manifest_latency: Duration::from_millis(100),
            blob_latency: Duration::from_millis(50),
            rate_limit: None,
            private_prefixes: Vec::new(),
            failures: Vec::new(),
        }
    }
}

/// Registry and the manifests that it has recently served.
#[derive(Debug)]
struct Registry {
    settings: RegistrySettings,
    /// Times of the pulls in the window, by node if the limit is per node. At most as many as the
    /// limit allows.
    served: BTreeMap<Option<NodeId>, VecDeque<SimTime>>,
}

impl Registry {
    fn failure(&self, repository: &str, now: SimTime) -> Option<Failure> {
        let rule = self.settings.failures.iter().find(|rule| {
            rule.from <= now
                && now < rule.until
                && repository.starts_with(rule.repository_prefix.as_str())
        })?;
        Some(rule.failure)
    }

    fn is_private(&self, repository: &str) -> bool {
        self.settings.private_prefixes.iter().any(|prefix| repository.starts_with(prefix.as_str()))
    }

    /// Counts a pull; reports whether the limit allows it.
    fn count(&mut self, node: NodeId, now: SimTime) -> bool {
        let Some(limit) = self.settings.rate_limit else {
            return true;
        };
        let served = self.served.entry(limit.per_node.then_some(node)).or_default();
        while served.front().is_some_and(|at| now.since(*at) >= limit.window) {
            served.pop_front();
        }
        let is_allowed = served.len() < usize::try_from(limit.pulls).unwrap_or(usize::MAX);
        if is_allowed {
            served.push_back(now);
        }
        is_allowed
    }
}

/// All registries. A host that was not added is served by the default registry, so that references
/// to arbitrary hosts create nothing.
#[derive(Debug)]
pub struct Registries {
    default: Registry,
    added: Vec<Registry>,
    hosts: BTreeMap<String, RegistryId>,
}

/// Number of the default registry.
const DEFAULT: RegistryId = RegistryId(0);

impl Registries {
    /// Creates the default registry.
    #[must_use]
    pub fn new(default: RegistrySettings) -> Self {
        let default = Registry { settings: default, served: BTreeMap::new() };
        Self { default, added: Vec::new(), hosts: BTreeMap::new() }
    }

    /// Adds a registry, or replaces the one with the same host.
    pub fn add(&mut self, settings: RegistrySettings) -> RegistryId {
        let host = settings.host.clone();
        let registry = Registry { settings, served: BTreeMap::new() };
        if let Some(id) = self.hosts.get(&host).copied() {
            *self.registry_mut(id) = registry;
            return id;
        }
        self.added.push(registry);
        let id = RegistryId(u32::try_from(self.added.len()).unwrap_or(u32::MAX));
        self.hosts.insert(host, id);
        id
    }

    /// Returns the number of the registry that serves a reference.
    #[must_use]
    pub fn id(&self, reference: &ImageRef) -> RegistryId {
        self.hosts.get(reference.registry()).copied().unwrap_or(DEFAULT)
    }

    /// Returns the settings of a registry; those of the default one for an unknown number.
    #[must_use]
    pub fn settings(&self, id: RegistryId) -> &RegistrySettings {
        let added = usize::try_from(id.0).ok().and_then(|number| number.checked_sub(1));
        let added = added.and_then(|index| self.added.get(index));
        &added.unwrap_or(&self.default).settings
    }

    /// Returns the numbers of all registries.
    pub fn ids(&self) -> impl Iterator<Item = RegistryId> + use<> {
        (0..=u32::try_from(self.added.len()).unwrap_or(u32::MAX)).map(RegistryId)
    }

    /// Answers the request that resolves a reference. Without a pull secret, private repositories
    /// are answered as by Docker Hub and other registries that hide whether the image exists.
    pub fn resolve(
        &self,
        reference: &ImageRef,
        has_secret: bool,
        now: SimTime,
    ) -> Result<(), PullError> {
        let registry = self.registry(self.id(reference));
        let repository = reference.repository();
        match registry.failure(repository, now) {
            Some(Failure::NotFound) => Err(PullError::not_found(reference)),
            Some(Failure::Unauthorized) => Err(PullError::unauthorized(reference)),
            Some(Failure::Unavailable) => Err(PullError::unavailable(reference)),
            None if registry.is_private(repository) && !has_secret => {
                Err(PullError::unauthorized(reference))
            }
            None => Ok(()),
        }
    }

    /// Answers the request of a manifest by its digest, and counts it.
    pub fn fetch_manifest(
        &mut self,
        reference: &ImageRef,
        digest: Digest,
        node: NodeId,
        now: SimTime,
    ) -> Result<(), PullError> {
        let id = self.id(reference);
        let registry = self.registry_mut(id);
        if registry.failure(reference.repository(), now) == Some(Failure::Unavailable) {
            return Err(PullError::unavailable(reference));
        }
        if registry.count(node, now) {
            Ok(())
        } else {
            Err(PullError::rate_limited(reference, digest))
        }
    }

    /// Reports whether a repository needs a pull secret.
    #[must_use]
    pub fn is_private(&self, reference: &ImageRef) -> bool {
        self.registry(self.id(reference)).is_private(reference.repository())
    }

    fn registry(&self, id: RegistryId) -> &Registry {
        let added = usize::try_from(id.0).ok().and_then(|number| number.checked_sub(1));
        added.and_then(|index| self.added.get(index)).unwrap_or(&self.default)
    }

    fn registry_mut(&mut self, id: RegistryId) -> &mut Registry {
        let added = usize::try_from(id.0).ok().and_then(|number| number.checked_sub(1));
        added.and_then(|index| self.added.get_mut(index)).unwrap_or(&mut self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> ImageRef {
        text.parse().unwrap()
    }

    fn registries(change: impl FnOnce(&mut RegistrySettings)) -> Registries {
        let mut registries = Registries::new(RegistrySettings::new("other"));
        let mut settings = RegistrySettings::new("registry.example");
        change(&mut settings);
        registries.add(settings);
        registries
    }

    fn fetch(registries: &mut Registries, node: u32, seconds: u64) -> Result<(), PullError> {
        let reference = reference("registry.example/shop/web:1");
        let now = SimTime::from_secs(seconds);
        registries.fetch_manifest(&reference, Digest::of(&[]), NodeId(node), now)
    }

    #[test]
    fn unknown_hosts_share_the_default_registry() {
        let registries = registries(|_| {});
        assert_eq!(registries.id(&reference("registry.example/a:1")), RegistryId(1));
        assert_eq!(registries.id(&reference("elsewhere.example/a:1")), RegistryId(0));
        assert_eq!(registries.settings(RegistryId(1)).host, "registry.example");
        assert_eq!(registries.settings(RegistryId(9)).host, "other");
        assert_eq!(registries.ids().count(), 2);
    }

    #[test]
    fn a_registry_that_is_added_again_is_replaced() {
        let mut registries = registries(|_| {});
        let mut settings = RegistrySettings::new("registry.example");
        settings.bandwidth = 1;
        assert_eq!(registries.add(settings), RegistryId(1));
        assert_eq!(registries.settings(RegistryId(1)).bandwidth, 1);
    }

    #[test]
    fn private_repositories_need_a_pull_secret() {
        let registries = registries(|settings| settings.private_prefixes.push("shop/".into()));
        let resolve =
            |name: &str, secret| registries.resolve(&reference(name), secret, SimTime::ZERO);
        let private = "registry.example/shop/web:1";
        assert_eq!(resolve(private, false), Err(PullError::unauthorized(&reference(private))));
        assert_eq!(resolve(private, true), Ok(()));
        assert_eq!(resolve("registry.example/public/web:1", false), Ok(()));
    }

    #[test]
    fn rules_match_in_their_interval() {
        let registries = registries(|settings| {
            settings.failures.push(FailureRule {
                repository_prefix: "shop/".into(),
                failure: Failure::Unavailable,
                from: SimTime::from_secs(10),
                until: SimTime::from_secs(20),
            });
        });
        let fails = |name: &str, seconds| {
            registries.resolve(&reference(name), true, SimTime::from_secs(seconds)).is_err()
        };
        let outcome = [9, 10, 19, 20].map(|seconds| fails("registry.example/shop/web:1", seconds));
        assert_eq!(outcome, [false, true, true, false]);
        assert!(!fails("registry.example/other:1", 15));
    }

    #[test]
    fn the_rate_limit_counts_pulls_in_a_sliding_window() {
        let limit = |per_node| RateLimit { pulls: 2, window: Duration::from_secs(60), per_node };
        let mut shared = registries(|settings| settings.rate_limit = Some(limit(false)));
        let served = [0, 10, 20, 59, 60, 61, 70]
            .map(|seconds| fetch(&mut shared, u32::try_from(seconds).unwrap(), seconds).is_ok());
        assert_eq!(served, [true, true, false, false, true, false, true]);
        let mut separate = registries(|settings| settings.rate_limit = Some(limit(true)));
        assert!((0..10).all(|node| fetch(&mut separate, node, 0).is_ok()));
        assert!(fetch(&mut separate, 0, 1).is_ok());
        assert!(fetch(&mut separate, 0, 2).is_err());
    }
}
