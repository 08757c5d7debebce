//! What each workload asks for, in compact form: some 200 bytes for each. *Pure.*

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::wanted::{Image, Wanted};
use crate::{intake::Key, workload::Kind};

/// An object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Id {
    /// Its kind's place in the list of kinds.
    pub(super) kind: usize,
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Debug)]
struct Entry {
    keys: Box<[Key]>,
    images: Box<[Image]>,
    /// Whether its pods are still to be compared with its template.
    compare: bool,
    /// When it was deleted: for a while it may be on its way back (`kubectl replace --force`).
    gone: Option<Instant>,
}

impl Entry {
    /// It asks for nothing any more.
    fn leave(&mut self, now: Instant, wanted: &Wanted) {
        self.gone = Some(now);
        wanted.drop(&std::mem::take(&mut self.images));
    }
}

/// All workloads, by namespace; and the images that they ask for.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<String, HashMap<(usize, String), Entry>>, Wanted);

impl Index {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self(HashMap::new(), wanted)
    }

    fn entry(&mut self, id: &Id) -> Option<&mut Entry> {
        let entry = self.0.get_mut(&id.namespace)?.get_mut(&(id.kind, id.name.clone()))?;
        entry.gone.is_none().then_some(entry)
    }

    /// What the workload asks for, where it is known.
    pub(super) fn get(&mut self, id: &Id) -> Option<&[Key]> {
        self.entry(id).map(|entry| &*entry.keys)
    }

    /// Notes what the workload asks for. `old`: since before we began.
    pub(super) fn put(&mut self, id: Id, keys: Vec<Key>, images: Vec<Image>, old: bool) {
        self.1.add(&images);
        let entry = Entry { keys: keys.into(), images: images.into(), compare: !old, gone: None };
        if let Some(before) = self.0.entry(id.namespace).or_default().insert((id.kind, id.name), entry) {
            self.1.drop(&before.images);
        }
    }

    /// Whether the workload was known.
    pub(super) fn remove(&mut self, id: &Id, now: Instant) -> bool {
        let wanted = self.1.clone();
        self.entry(id).map(|entry| entry.leave(now, &wanted)).is_some()
    }

    /// Objects of a kind that are not in a list of all are gone. The namespaces that lost some.
    pub(super) fn keep(&mut self, kind: usize, all: &HashSet<(String, String)>, now: Instant) -> Vec<String> {
        let mut lost = Vec::new();
        for (namespace, objects) in &mut self.0 {
            let of_kind = objects.iter_mut().filter(|((of, _), entry)| *of == kind && entry.gone.is_none());
            let missing = of_kind.filter(|((_, name), _)| !all.contains(&(namespace.clone(), name.clone())));
            if missing.map(|(_, entry)| entry.leave(now, &self.1)).count() > 0 {
                lost.push(namespace.clone());
            }
        }
        lost
    }

    /// All that is asked for in a namespace, also by what was deleted after `since`; what was deleted before is forgotten.
    /// Whether there is such a one, too.
    pub(super) fn wanted(&mut self, namespace: &str, since: Instant) -> (HashSet<Key>, bool) {
        let Some(objects) = self.0.get_mut(namespace) else { return (HashSet::new(), false) };
        objects.retain(|_, entry| entry.gone.is_none_or(|at| at > since));
        let wanted = objects.values().flat_map(|entry| entry.keys.iter().copied()).collect();
        let leaving = objects.values().any(|entry| entry.gone.is_some());
        if objects.is_empty() {
            self.0.remove(namespace);
        }
        (wanted, leaving)
    }

    /// Whether a workload is there, named as `Kind/name`.
    pub(super) fn has(&self, kinds: &[Arc<Kind>], namespace: &str, title: &str) -> bool {
        let Some((kind, name)) = title.split_once('/') else { return false };
        let objects = self.0.get(namespace).into_iter().flatten().filter(|(_, entry)| entry.gone.is_none());
        let mut named = objects.filter(|((_, known), _)| known == name);
        named.any(|((of, _), _)| kinds.get(*of).is_some_and(|known| known.kind == kind))
    }

    /// Whether its pods are to be compared with its template; they are, once for each change.
    pub(super) fn is_to_be_compared(&mut self, id: &Id) -> bool {
        self.entry(id).is_some_and(|entry| std::mem::take(&mut entry.compare) && !entry.keys.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(namespace: &str, name: &str) -> Id {
        Id { kind: 0, namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn what_is_wanted_follows_the_objects() {
        let (one, two) = ([1; 16], [2; 16]);
        let (mut index, now) = (Index::default(), Instant::now());
        index.put(id("shop", "a"), vec![one], vec![7], false);
        index.put(id("shop", "b"), vec![one, two], vec![7, 8], false);
        index.put(id("bank", "a"), vec![two], vec![9], true);
        assert_eq!(index.wanted("shop", now), (HashSet::from([one, two]), false));
        assert!(index.remove(&id("shop", "b"), now) && !index.remove(&id("shop", "b"), now));
        assert_eq!(index.get(&id("shop", "b")), None);
        let before = now.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(index.wanted("shop", before), (HashSet::from([one, two]), true), "it may come back");
        assert_eq!(index.wanted("shop", now), (HashSet::from([one]), false));
        assert_eq!(index.keep(0, &HashSet::from([("bank".to_owned(), "a".to_owned())]), now), ["shop"]);
        assert!(index.keep(0, &HashSet::from([("bank".to_owned(), "a".to_owned())]), now).is_empty(), "told once");
        assert_eq!(index.wanted("shop", now), (HashSet::new(), false));
    }

    #[test]
    fn pods_are_compared_once_for_each_change() {
        let mut index = Index::default();
        index.put(id("shop", "a"), vec![[1; 16]], vec![], false);
        index.put(id("shop", "old"), vec![[1; 16]], vec![], true);
        assert!(index.is_to_be_compared(&id("shop", "a")) && !index.is_to_be_compared(&id("shop", "a")));
        assert!(!index.is_to_be_compared(&id("shop", "old")));
        index.put(id("shop", "a"), vec![[2; 16]], vec![], false);
        assert!(index.is_to_be_compared(&id("shop", "a")));
    }
}
