//! Foreign objects, and objects that are pending until their owner arrives. Pure: no client, no
//! clock, no I/O.
//!
//! Other users control the number of these objects. Only the needed fields are kept, up to fixed
//! limits.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::worker::{WorkerInfo, provenance::ProvenanceError};

use super::observation::{WatchSource, WorkerPod};

/// Maximum number of foreign objects that are remembered, 40 bytes each: 2 MB. Beyond it only the
/// overflow is recorded.
const MAX_FOREIGN: usize = 50_000;
/// Maximum number of pending objects of one namespace: workers whose task, and pods whose Job, is
/// not in the cache. A task has 100 workers at the same time at most, and the watches differ by
/// moments only.
const MAX_PENDING_PER_NAMESPACE: usize = 200;
/// Maximum number of pending objects of all namespaces, 1 KB each: 2 MB.
const MAX_PENDING: usize = 2_000;

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

fn claim_hash(namespace: &str, task_uid: &str) -> u64 {
    hash_of(&(namespace, task_uid))
}

fn hash_of(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Foreign objects by the watch that delivers them.
#[derive(Debug, Default)]
pub struct ForeignIndex {
    by_source: HashMap<WatchSource, HashMap<u64, (ProvenanceError, u64)>>,
    /// Number of foreign objects per claim.
    claims: HashMap<u64, usize>,
    number: usize,
    /// Set when there were more objects than are remembered.
    overflowed: bool,
}

impl ForeignIndex {
    /// Inserts an object. Reports whether it is new.
    pub fn insert(&mut self, source: &WatchSource, stranger: &ForeignObject) -> bool {
        let id = hash_of(&stranger.key);
        let old = self.by_source.get_mut(source).and_then(|known| known.remove(&id));
        if let Some((_, claim)) = old {
            self.decrement(claim);
        } else if self.number >= MAX_FOREIGN {
            self.overflowed = true;
            return false;
        }
        self.by_source
            .entry(source.clone())
            .or_default()
            .insert(id, (stranger.reason, stranger.claim));
        let claims = self.claims.entry(stranger.claim).or_default();
        *claims = claims.saturating_add(1);
        self.number = self.number.saturating_add(1);
        old.is_none()
    }

    /// Removes an object that was deleted or has been verified.
    pub fn remove(&mut self, source: &WatchSource, key: &str) {
        if self.number == 0 {
            return;
        }
        if let Some((_, claim)) =
            self.by_source.get_mut(source).and_then(|known| known.remove(&hash_of(&key)))
        {
            self.decrement(claim);
        }
    }

    /// Removes all objects of a watch, because it restarts.
    pub fn clear(&mut self, source: &WatchSource) {
        for (_, claim) in self.by_source.remove(source).into_iter().flat_map(HashMap::into_values) {
            self.decrement(claim);
        }
        self.overflowed &= self.number >= MAX_FOREIGN;
    }

    fn decrement(&mut self, claim: u64) {
        self.number = self.number.saturating_sub(1);
        if let Some(count) = self.claims.get_mut(&claim) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.claims.remove(&claim);
            }
        }
    }

    /// Reports whether the namespace may have foreign objects with the labels of this task's
    /// workers. True for all after an overflow.
    pub fn may_claim(&self, namespace: &str, task_uid: &str) -> bool {
        self.overflowed || self.claims.contains_key(&claim_hash(namespace, task_uid))
    }

    /// Returns the number of objects by kind and reason.
    pub fn counts(&self) -> BTreeMap<(&'static str, ProvenanceError), usize> {
        let mut counts = BTreeMap::new();
        for (source, known) in &self.by_source {
            for (reason, _) in known.values() {
                let count: &mut usize = counts.entry((source.kind, *reason)).or_default();
                *count = count.saturating_add(1);
            }
        }
        counts
    }
}

/// Object that can be pending until its owner arrives.
pub trait PendingObject {
    fn namespace(&self) -> &str;
    /// Returns namespace and name, as `namespace/name`.
    fn id(&self) -> String;
}

impl PendingObject for WorkerInfo {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn id(&self) -> String {
        self.key()
    }
}

impl PendingObject for Box<WorkerPod> {
    fn namespace(&self) -> &str {
        &self.info.namespace
    }

    fn id(&self) -> String {
        WorkerPod::id(self)
    }
}

/// Pending objects by namespace, oldest first. The namespace with the most objects loses its oldest
/// one when the total limit is reached.
#[derive(Debug)]
pub struct PendingObjects<T> {
    by_namespace: HashMap<String, Vec<T>>,
    number: usize,
}

impl<T> Default for PendingObjects<T> {
    fn default() -> Self {
        Self { by_namespace: HashMap::new(), number: 0 }
    }
}

impl<T: PendingObject> PendingObjects<T> {
    /// Inserts an object, and replaces its previous version.
    pub fn insert(&mut self, object: T) {
        self.remove(object.namespace(), &object.id());
        let namespace = object.namespace().to_owned();
        let of_one = self.by_namespace.entry(namespace).or_default();
        of_one.push(object);
        self.number = self.number.saturating_add(1);
        if of_one.len() > MAX_PENDING_PER_NAMESPACE {
            of_one.remove(0);
            self.number = self.number.saturating_sub(1);
        } else if self.number > MAX_PENDING
            && let Some(most) = self.by_namespace.values_mut().max_by_key(|of_one| of_one.len())
        {
            most.remove(0);
            self.number = self.number.saturating_sub(1);
        }
    }

    pub fn remove(&mut self, namespace: &str, id: &str) {
        if self.number > 0 {
            self.take_matching(namespace, |object| object.id() == id);
        }
    }

    /// Removes and returns the matching objects of one namespace.
    pub fn take_matching(&mut self, namespace: &str, fits: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(of_one) = self.by_namespace.get_mut(namespace) else { return Vec::new() };
        let taken: Vec<T> = of_one.extract_if(.., |object| fits(object)).collect();
        self.number = self.number.saturating_sub(taken.len());
        if of_one.is_empty() {
            self.by_namespace.remove(namespace);
        }
        taken
    }

    /// Removes all objects of the namespaces that a watch covers.
    pub fn clear(&mut self, source: &WatchSource) {
        self.by_namespace.retain(|namespace, _| !source.covers(namespace));
        self.number = self.by_namespace.values().map(Vec::len).sum();
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign_object(namespace: &str, name: &str) -> ForeignObject {
        ForeignObject::new(namespace, name, "uid", ProvenanceError::Name)
    }

    #[test]
    fn object_is_counted_once_until_removed() {
        let (mut foreign, jobs) = (ForeignIndex::default(), WatchSource::all("jobs"));
        assert!(foreign.insert(&jobs, &foreign_object("evil", "a")));
        assert!(
            !foreign.insert(&jobs, &foreign_object("evil", "a")),
            "a changed object is not new"
        );
        foreign.insert(&WatchSource::all("pods"), &foreign_object("evil", "a"));
        assert_eq!(
            foreign.counts(),
            [(("jobs", ProvenanceError::Name), 1), (("pods", ProvenanceError::Name), 1)].into()
        );
        assert!(
            foreign.may_claim("evil", "uid")
                && !foreign.may_claim("shop", "uid")
                && !foreign.may_claim("evil", "other")
        );
        foreign.remove(&jobs, "evil/a");
        assert!(foreign.may_claim("evil", "uid"), "the pod still claims the task");
        foreign.clear(&WatchSource::all("pods"));
        assert!(!foreign.may_claim("evil", "uid"));
        assert!(foreign.counts().values().all(|count| *count == 0));
    }

    #[test]
    fn overflow_is_recorded() {
        let (mut foreign, jobs) = (ForeignIndex::default(), WatchSource::all("jobs"));
        for n in 0..=MAX_FOREIGN {
            foreign.insert(&jobs, &foreign_object("evil", &n.to_string()));
        }
        assert_eq!(foreign.number, MAX_FOREIGN);
        assert!(foreign.may_claim("shop", "any"), "an object that was not kept may claim any task");
        foreign.clear(&jobs);
        assert!(!foreign.may_claim("shop", "any"));
    }

    #[test]
    fn pending_objects_of_one_namespace_do_not_evict_others() {
        let worker = |namespace: &str, n: usize| WorkerInfo {
            namespace: namespace.into(),
            name: n.to_string(),
            ..WorkerInfo::default()
        };
        let mut waiting = PendingObjects::default();
        waiting.insert(worker("shop", 0));
        for n in 0..3 * MAX_PENDING_PER_NAMESPACE {
            waiting.insert(worker("evil", n));
        }
        assert_eq!(waiting.len(), MAX_PENDING_PER_NAMESPACE + 1);
        for n in 0..2 * MAX_PENDING {
            waiting.insert(worker(&format!("evil-{}", n % 20), n));
        }
        assert_eq!(waiting.len(), MAX_PENDING);
        assert_eq!(waiting.take_matching("shop", |_| true).len(), 1);
        waiting.clear(&WatchSource::all("jobs"));
        assert_eq!(waiting.len(), 0);
    }
}
