//! Foreign objects. Pure: no client, no clock, no I/O.
//!
//! Other users control the number of these objects. Only the needed fields are kept, up to a fixed
//! limit.

use std::collections::{BTreeMap, HashMap};

use super::super::{
    foreign_object::{ForeignObject, claim_hash, hash_of},
    watch::WatchSource,
};
use crate::worker::provenance::ProvenanceError;

/// Maximum number of foreign objects that are remembered, 40 bytes each: 2 MB. Beyond it only the
/// overflow is recorded.
const MAX_FOREIGN: usize = 50_000;

/// Kind of the foreign objects that claim to be workers of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::controller) enum ForeignClaim {
    /// Only objects whose owner may arrive in a moment, since watches are not ordered.
    Transient,
    /// Objects that contradict their task, or more objects than are remembered.
    Lasting,
}

impl From<ProvenanceError> for ForeignClaim {
    fn from(reason: ProvenanceError) -> Self {
        if reason.is_transient() { Self::Transient } else { Self::Lasting }
    }
}

/// Foreign objects by the watch that delivers them.
#[derive(Debug, Default)]
pub struct ForeignIndex {
    by_source: HashMap<WatchSource, HashMap<u64, (ProvenanceError, u64)>>,
    /// Number of foreign objects per claim, transient and lasting ones apart.
    claims: HashMap<(u64, ForeignClaim), usize>,
    number: usize,
    /// Set when there were more objects than are remembered.
    overflowed: bool,
}

impl ForeignIndex {
    /// Inserts an object. Reports whether it is new.
    pub fn insert(&mut self, source: &WatchSource, stranger: &ForeignObject) -> bool {
        let id = hash_of(&stranger.key);
        let old = self.by_source.get_mut(source).and_then(|known| known.remove(&id));
        if let Some((reason, claim)) = old {
            self.decrement(reason, claim);
        } else if self.number >= MAX_FOREIGN {
            self.overflowed = true;
            return false;
        }
        self.by_source
            .entry(source.clone())
            .or_default()
            .insert(id, (stranger.reason, stranger.claim));
        let claims = self.claims.entry((stranger.claim, stranger.reason.into())).or_default();
        *claims = claims.saturating_add(1);
        self.number = self.number.saturating_add(1);
        old.is_none()
    }

    /// Removes an object that was deleted or has been verified.
    pub fn remove(&mut self, source: &WatchSource, key: &str) {
        if self.number == 0 {
            return;
        }
        if let Some((reason, claim)) =
            self.by_source.get_mut(source).and_then(|known| known.remove(&hash_of(&key)))
        {
            self.decrement(reason, claim);
        }
    }

    /// Removes all objects of a watch, because it restarts.
    pub fn clear(&mut self, source: &WatchSource) {
        let gone = self.by_source.remove(source).into_iter().flat_map(HashMap::into_values);
        for (reason, claim) in gone {
            self.decrement(reason, claim);
        }
        self.overflowed &= self.number >= MAX_FOREIGN;
    }

    fn decrement(&mut self, reason: ProvenanceError, claim: u64) {
        let key = (claim, reason.into());
        self.number = self.number.saturating_sub(1);
        if let Some(count) = self.claims.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.claims.remove(&key);
            }
        }
    }

    /// Returns whether the namespace may have foreign objects with the labels of this task's
    /// workers. After an overflow every namespace has lasting ones.
    pub(in crate::controller) fn claim(
        &self,
        namespace: &str,
        task_uid: &str,
    ) -> Option<ForeignClaim> {
        let hash = claim_hash(namespace, task_uid);
        let has = |claim: ForeignClaim| self.claims.contains_key(&(hash, claim));
        if self.overflowed || has(ForeignClaim::Lasting) {
            return Some(ForeignClaim::Lasting);
        }
        has(ForeignClaim::Transient).then_some(ForeignClaim::Transient)
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
            foreign.claim("evil", "uid") == Some(ForeignClaim::Lasting)
                && foreign.claim("shop", "uid").is_none()
                && foreign.claim("evil", "other").is_none()
        );
        foreign.remove(&jobs, "evil/a");
        assert!(foreign.claim("evil", "uid").is_some(), "the pod still claims the task");
        foreign.clear(&WatchSource::all("pods"));
        assert!(foreign.claim("evil", "uid").is_none());
        assert!(foreign.counts().values().all(|count| *count == 0));
    }

    #[test]
    fn overflow_is_recorded() {
        let (mut foreign, jobs) = (ForeignIndex::default(), WatchSource::all("jobs"));
        for n in 0..=MAX_FOREIGN {
            foreign.insert(&jobs, &foreign_object("evil", &n.to_string()));
        }
        assert_eq!(foreign.number, MAX_FOREIGN);
        assert!(
            foreign.claim("shop", "any").is_some(),
            "an object that was not kept may claim any task"
        );
        foreign.clear(&jobs);
        assert!(foreign.claim("shop", "any").is_none());
    }

    #[test]
    fn claim_lasts_only_if_an_object_contradicts_its_task() {
        let (mut foreign, pods) = (ForeignIndex::default(), WatchSource::all("pods"));
        let early = ForeignObject::new("shop", "a", "uid", ProvenanceError::UnknownJob);
        foreign.insert(&pods, &early);
        assert_eq!(foreign.claim("shop", "uid"), Some(ForeignClaim::Transient));
        foreign.insert(&pods, &foreign_object("shop", "b"));
        assert_eq!(foreign.claim("shop", "uid"), Some(ForeignClaim::Lasting));
        foreign.remove(&pods, "shop/b");
        assert_eq!(foreign.claim("shop", "uid"), Some(ForeignClaim::Transient));
        foreign.insert(&pods, &foreign_object("shop", "a"));
        assert_eq!(foreign.claim("shop", "uid"), Some(ForeignClaim::Lasting), "its reason changed");
        foreign.remove(&pods, "shop/a");
        assert_eq!(foreign.claim("shop", "uid"), None);
    }
}
