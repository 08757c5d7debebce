//! Objects that are pending until their owner arrives. Pure: no client, no clock, no I/O.
//!
//! Other users control the number of these objects, so it is limited.

use std::collections::HashMap;

use super::super::{observation::WorkerPod, watch::WatchSource};
use crate::worker::WorkerInfo;

/// Maximum number of pending objects of one namespace: workers whose task, and pods whose Job, is
/// not in the cache. A task has 100 workers at the same time at most, and the watches differ by
/// moments only.
const MAX_PENDING_PER_NAMESPACE: usize = 200;

/// Maximum number of pending objects of all namespaces, 1 KB each: 2 MB.
const MAX_PENDING: usize = 2_000;

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
