//! Index of the images that each workload needs, about 200 bytes per workload. Pure: no client and
//! no I/O.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use std::time::Instant;

use super::image_refs::{ImageHash, ImageRefs};
use crate::{intake::DedupKey, shrink_sparse, workload::WorkloadKind};

/// Identity of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadId {
    /// Index in the list of kinds.
    pub kind: usize,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

#[derive(Debug)]
struct WorkloadEntry {
    keys: Box<[DedupKey]>,
    images: Box<[ImageHash]>,
    /// Set until the workload's pods have been compared with its template.
    needs_comparison: bool,
    /// Time of deletion. The entry is kept for a while, since the object may be created again
    /// (`kubectl replace --force`).
    deleted_at: Option<Instant>,
}

impl WorkloadEntry {
    /// Marks the workload as deleted and releases its images.
    fn mark_deleted(&mut self, now: Instant, wanted: &ImageRefs) {
        self.deleted_at = Some(now);
        wanted.release(&std::mem::take(&mut self.images));
    }
}

/// Entries of all workloads by namespace, and the images that they need.
#[derive(Debug, Default)]
pub struct WorkloadIndex(HashMap<String, HashMap<(usize, String), WorkloadEntry>>, ImageRefs);

impl WorkloadIndex {
    /// Creates an empty index that counts image references in `wanted`.
    #[must_use]
    pub fn new(wanted: ImageRefs) -> Self {
        Self(HashMap::new(), wanted)
    }

    fn entry(&mut self, id: &WorkloadId) -> Option<&mut WorkloadEntry> {
        let entry = self.0.get_mut(&id.namespace)?.get_mut(&(id.kind, id.name.clone()))?;
        entry.deleted_at.is_none().then_some(entry)
    }

    /// Returns the keys that the workload needs, if it is known.
    pub fn get(&mut self, id: &WorkloadId) -> Option<&[DedupKey]> {
        self.entry(id).map(|entry| &*entry.keys)
    }

    /// Stores the keys and images that the workload needs. `old`: the workload existed when the
    /// watch started.
    pub fn insert(
        &mut self,
        id: WorkloadId,
        keys: Vec<DedupKey>,
        images: Vec<ImageHash>,
        old: bool,
    ) {
        self.1.acquire(&images);
        let entry = WorkloadEntry {
            keys: keys.into(),
            images: images.into(),
            needs_comparison: !old,
            deleted_at: None,
        };
        if let Some(before) =
            self.0.entry(id.namespace).or_default().insert((id.kind, id.name), entry)
        {
            self.1.release(&before.images);
        }
    }

    /// Marks the workload as deleted. Reports whether it was known.
    pub fn remove(&mut self, id: &WorkloadId, now: Instant) -> bool {
        let wanted = self.1.clone();
        self.entry(id).map(|entry| entry.mark_deleted(now, &wanted)).is_some()
    }

    /// Marks objects of a kind that are missing from a complete list as deleted. Returns the
    /// namespaces in which any were missing.
    pub fn retain_listed(
        &mut self,
        kind: usize,
        all: &HashSet<(String, String)>,
        now: Instant,
    ) -> Vec<String> {
        let mut lost = Vec::new();
        for (namespace, objects) in &mut self.0 {
            let of_kind = objects
                .iter_mut()
                .filter(|((of, _), entry)| *of == kind && entry.deleted_at.is_none());
            let missing =
                of_kind.filter(|((_, name), _)| !all.contains(&(namespace.clone(), name.clone())));
            if missing.map(|(_, entry)| entry.mark_deleted(now, &self.1)).count() > 0 {
                lost.push(namespace.clone());
            }
        }
        lost
    }

    /// Returns all keys needed in a namespace, including those of workloads deleted after `since`,
    /// and whether there are such workloads. Workloads deleted earlier are removed.
    pub fn needed_keys(&mut self, namespace: &str, since: Instant) -> (HashSet<DedupKey>, bool) {
        let Some(objects) = self.0.get_mut(namespace) else { return (HashSet::new(), false) };
        objects.retain(|_, entry| entry.deleted_at.is_none_or(|at| at > since));
        let wanted = objects.values().flat_map(|entry| entry.keys.iter().copied()).collect();
        let leaving = objects.values().any(|entry| entry.deleted_at.is_some());
        shrink_sparse(objects);
        if objects.is_empty() {
            self.0.remove(namespace);
        }
        (wanted, leaving)
    }

    /// Reports whether a workload exists, named as `Kind/name`.
    #[must_use]
    pub fn contains(&self, kinds: &[Arc<WorkloadKind>], namespace: &str, title: &str) -> bool {
        let Some((kind, name)) = title.split_once('/') else { return false };
        let objects = self
            .0
            .get(namespace)
            .into_iter()
            .flatten()
            .filter(|(_, entry)| entry.deleted_at.is_none());
        let mut named = objects.filter(|((_, known), _)| known == name);
        named.any(|((of, _), _)| kinds.get(*of).is_some_and(|known| known.kind == kind))
    }

    /// Reports once per change whether the workload's pods are to be compared with its template.
    pub fn take_comparison(&mut self, id: &WorkloadId) -> bool {
        self.entry(id).is_some_and(|entry| {
            std::mem::take(&mut entry.needs_comparison) && !entry.keys.is_empty()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(namespace: &str, name: &str) -> WorkloadId {
        WorkloadId { kind: 0, namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn needed_keys_follow_the_objects() {
        let (one, two) = ([1; 16], [2; 16]);
        let (mut index, now) = (WorkloadIndex::default(), Instant::now());
        index.insert(id("shop", "a"), vec![one], vec![7], false);
        index.insert(id("shop", "b"), vec![one, two], vec![7, 8], false);
        index.insert(id("bank", "a"), vec![two], vec![9], true);
        assert_eq!(index.needed_keys("shop", now), (HashSet::from([one, two]), false));
        assert!(index.remove(&id("shop", "b"), now) && !index.remove(&id("shop", "b"), now));
        assert_eq!(index.get(&id("shop", "b")), None);
        let before = now.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(
            index.needed_keys("shop", before),
            (HashSet::from([one, two]), true),
            "it may come back"
        );
        assert_eq!(index.needed_keys("shop", now), (HashSet::from([one]), false));
        assert_eq!(
            index.retain_listed(0, &HashSet::from([("bank".to_owned(), "a".to_owned())]), now),
            ["shop"]
        );
        assert!(
            index
                .retain_listed(0, &HashSet::from([("bank".to_owned(), "a".to_owned())]), now)
                .is_empty(),
            "reported once"
        );
        assert_eq!(index.needed_keys("shop", now), (HashSet::new(), false));
    }

    #[test]
    fn pods_are_compared_once_per_change() {
        let mut index = WorkloadIndex::default();
        index.insert(id("shop", "a"), vec![[1; 16]], vec![], false);
        index.insert(id("shop", "old"), vec![[1; 16]], vec![], true);
        assert!(
            index.take_comparison(&id("shop", "a")) && !index.take_comparison(&id("shop", "a"))
        );
        assert!(!index.take_comparison(&id("shop", "old")));
        index.insert(id("shop", "a"), vec![[2; 16]], vec![], false);
        assert!(index.take_comparison(&id("shop", "a")));
    }
}
