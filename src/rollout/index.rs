//! What each workload asks for, in compact form: some 200 bytes for each. *Pure.*

use std::collections::{HashMap, HashSet};

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
    /// Whether its pods are still to be compared with its template.
    compare: bool,
}

/// All workloads, by namespace.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<String, HashMap<(usize, String), Entry>>);

impl Index {
    /// What the workload asks for, where it is known.
    pub(super) fn get(&self, id: &Id) -> Option<&[Key]> {
        self.0.get(&id.namespace)?.get(&(id.kind, id.name.clone())).map(|entry| &*entry.keys)
    }

    /// Notes what the workload asks for. `old`: since before we began.
    pub(super) fn put(&mut self, id: Id, keys: Vec<Key>, old: bool) {
        let entry = Entry { keys: keys.into(), compare: !old };
        self.0.entry(id.namespace).or_default().insert((id.kind, id.name), entry);
    }

    /// Whether the workload was known.
    pub(super) fn remove(&mut self, id: &Id) -> bool {
        let Some(namespace) = self.0.get_mut(&id.namespace) else { return false };
        let known = namespace.remove(&(id.kind, id.name.clone())).is_some();
        if namespace.is_empty() {
            self.0.remove(&id.namespace);
        }
        known
    }

    /// Forgets objects of a kind that are not in a list of all. The namespaces that lost some.
    pub(super) fn keep(&mut self, kind: usize, all: &HashSet<(String, String)>) -> Vec<String> {
        let mut lost = Vec::new();
        self.0.retain(|namespace, objects| {
            let before = objects.len();
            objects.retain(|(of, name), _| *of != kind || all.contains(&(namespace.clone(), name.clone())));
            if objects.len() < before {
                lost.push(namespace.clone());
            }
            !objects.is_empty()
        });
        lost
    }

    /// All that is asked for in a namespace.
    pub(super) fn wanted(&self, namespace: &str) -> HashSet<Key> {
        let objects = self.0.get(namespace).into_iter().flat_map(HashMap::values);
        objects.flat_map(|entry| entry.keys.iter().copied()).collect()
    }

    /// Whether a workload is there, named as `Kind/name`.
    pub(super) fn has(&self, kinds: &[Kind], namespace: &str, title: &str) -> bool {
        let Some((kind, name)) = title.split_once('/') else { return false };
        let objects = self.0.get(namespace).into_iter().flat_map(HashMap::keys);
        objects.into_iter().any(|(of, known)| known == name && kinds.get(*of).is_some_and(|known| known.kind == kind))
    }

    /// Whether its pods are to be compared with its template; they are, once for each change.
    pub(super) fn is_to_be_compared(&mut self, id: &Id) -> bool {
        let entry = self.0.get_mut(&id.namespace).and_then(|objects| objects.get_mut(&(id.kind, id.name.clone())));
        entry.is_some_and(|entry| std::mem::take(&mut entry.compare) && !entry.keys.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(namespace: &str, name: &str) -> Id {
        Id { kind: 0, namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn what_is_wanted_follows_the_objects() {
        let (one, two) = ([1; 16], [2; 16]);
        let mut index = Index::default();
        index.put(id("shop", "a"), vec![one], false);
        index.put(id("shop", "b"), vec![one, two], false);
        index.put(id("bank", "a"), vec![two], true);
        assert_eq!(index.wanted("shop"), HashSet::from([one, two]));
        assert!(index.remove(&id("shop", "b")) && !index.remove(&id("shop", "b")));
        assert_eq!(index.wanted("shop"), HashSet::from([one]));
        assert_eq!(index.keep(0, &HashSet::from([("bank".to_owned(), "a".to_owned())])), ["shop"]);
        assert!(index.wanted("shop").is_empty() && index.keep(1, &HashSet::new()).is_empty());
    }

    #[test]
    fn pods_are_compared_once_for_each_change() {
        let mut index = Index::default();
        index.put(id("shop", "a"), vec![[1; 16]], false);
        index.put(id("shop", "old"), vec![[1; 16]], true);
        assert!(index.is_to_be_compared(&id("shop", "a")) && !index.is_to_be_compared(&id("shop", "a")));
        assert!(!index.is_to_be_compared(&id("shop", "old")));
        index.put(id("shop", "a"), vec![[2; 16]], false);
        assert!(index.is_to_be_compared(&id("shop", "a")));
    }
}
