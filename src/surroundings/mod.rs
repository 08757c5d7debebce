//! What surrounds a workload and decides with it: its namespace's annotations,
//! runtime classes, autoscalers, and whether its images are rewritten.
//!
//! In: watches ([`watch`], the only code here that talks to the API server).
//! Out: answers to `workload`, at once and without I/O. Calls no other room but
//! `task` and `reduced`.

pub mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use dashmap::DashMap;
use k8s_openapi::api::core::v1::Toleration;
use tokio::sync::watch::{Receiver, Sender};

/// Namespaces that changed and were not looked at yet. They are taken within moments; of more at once, workloads are looked at
/// when they change next.
const MAX_CHANGED: usize = 1000;
/// Workloads remembered whose images are rewritten; beyond it the oldest knowledge goes, and is found again.
const MAX_REWRITTEN: usize = 10_000;

/// What a `RuntimeClass` asks of nodes (`scheduling`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scheduling {
    /// Labels that a node must carry.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that its pods accept.
    pub tolerations: Vec<Toleration>,
}

/// A workload: namespace, kind and name.
pub type Identity = (String, String, String);

/// What surrounds workloads. Clones share one.
#[derive(Clone)]
pub struct Surroundings(Arc<Inner>);

struct Inner {
    /// Names of all namespaces; none while they are not known.
    names: RwLock<Option<HashSet<String>>>,
    namespaces: DashMap<String, Arc<BTreeMap<String, String>>>,
    runtime_classes: DashMap<String, Scheduling>,
    autoscalers: DashMap<Identity, u32>,
    rewritten: RwLock<HashSet<Identity>>,
    /// What is known beside this, and of which namespaces.
    beside: Option<(Surroundings, BTreeSet<String>)>,
    /// Namespaces whose annotations of ours have changed.
    changed: Sender<Vec<String>>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self(Arc::new(Inner {
            names: RwLock::default(),
            namespaces: DashMap::new(),
            runtime_classes: DashMap::new(),
            autoscalers: DashMap::new(),
            rewritten: RwLock::default(),
            beside: None,
            changed: Sender::new(Vec::new()),
        }))
    }
}

impl Surroundings {
    /// The same surroundings, as far as they concern these namespaces or none. Something may be added without a trace here; it
    /// is stronger than what is here. Nothing is copied.
    #[must_use]
    pub fn seen_from(&self, namespaces: BTreeSet<String>) -> Self {
        let layer = Self::default();
        let Some(mut inner) = Arc::into_inner(layer.0) else { return Self::default() };
        inner.beside = Some((self.clone(), namespaces));
        Self(Arc::new(inner))
    }

    /// What is known beside this of a namespace.
    fn beside(&self, namespace: &str) -> Option<&Self> {
        self.0.beside.as_ref().filter(|(_, seen)| seen.contains(namespace)).map(|(beside, _)| beside)
    }

    /// A namespace's annotations of ours; none where it has none, or is not known yet.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Arc<BTreeMap<String, String>> {
        let own = self.0.namespaces.get(name).map(|found| Arc::clone(&found));
        own.or_else(|| self.beside(name).map(|beside| beside.namespace(name))).unwrap_or_default()
    }

    /// Whether the namespace exists, as far as is known. Where namespaces may not be listed, each counts as one that does.
    #[must_use]
    pub fn has_namespace(&self, name: &str) -> bool {
        let names = self.0.names.read().unwrap_or_else(PoisonError::into_inner);
        names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Notes the names of all namespaces.
    pub fn set_names(&self, names: HashSet<String>) {
        *self.0.names.write().unwrap_or_else(PoisonError::into_inner) = Some(names);
    }

    /// Notes that a namespace exists, or does not any more.
    pub fn note_name(&self, name: &str, exists: bool) {
        let mut names = self.0.names.write().unwrap_or_else(PoisonError::into_inner);
        let Some(names) = names.as_mut() else { return };
        if exists {
            names.insert(name.to_owned());
        } else {
            names.remove(name);
        }
    }

    /// What a runtime class asks of nodes.
    #[must_use]
    pub fn runtime_class(&self, name: &str) -> Option<Scheduling> {
        let own = self.0.runtime_classes.get(name).map(|found| found.clone());
        own.or_else(|| self.0.beside.as_ref()?.0.runtime_class(name))
    }

    /// The most replicas that an autoscaler may give the workload.
    #[must_use]
    pub fn most_replicas(&self, namespace: &str, kind: &str, name: &str) -> Option<u32> {
        if self.0.autoscalers.is_empty() && self.0.beside.is_none() {
            return None;
        }
        let own = self.0.autoscalers.get(&identity(namespace, kind, name)).map(|most| *most);
        own.or_else(|| self.beside(namespace)?.most_replicas(namespace, kind, name))
    }

    /// Whether another webhook gives the workload's pods other images than its template names.
    #[must_use]
    pub fn is_rewritten(&self, namespace: &str, kind: &str, name: &str) -> bool {
        let known = self.0.rewritten.read().unwrap_or_else(PoisonError::into_inner);
        let own = !known.is_empty() && known.contains(&identity(namespace, kind, name));
        own || self.beside(namespace).is_some_and(|beside| beside.is_rewritten(namespace, kind, name))
    }

    /// Notes that the workload's images are rewritten. Whether that is news.
    pub fn note_rewritten(&self, namespace: &str, kind: &str, name: &str) -> bool {
        let mut known = self.0.rewritten.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REWRITTEN {
            known.clear();
        }
        known.insert(identity(namespace, kind, name))
    }

    /// Notes a namespace's annotations of ours.
    pub fn set_namespace(&self, name: &str, annotations: BTreeMap<String, String>) {
        if *self.namespace(name) == annotations {
            return;
        }
        // Where something is known beside this, that there are none is said too.
        if annotations.is_empty() && self.0.beside.is_none() {
            self.0.namespaces.remove(name);
        } else {
            self.0.namespaces.insert(name.to_owned(), Arc::new(annotations));
        }
        self.0.changed.send_modify(|changed| {
            if changed.len() < MAX_CHANGED && !changed.iter().any(|known| known == name) {
                changed.push(name.to_owned());
            }
        });
    }

    /// Notes what a runtime class asks of nodes; `None`: there is no such class.
    pub fn set_runtime_class(&self, name: &str, scheduling: Option<Scheduling>) {
        match scheduling {
            Some(scheduling) => drop(self.0.runtime_classes.insert(name.to_owned(), scheduling)),
            None => drop(self.0.runtime_classes.remove(name)),
        }
    }

    /// Notes how many replicas an autoscaler may give a workload; `None`: it has no autoscaler.
    pub fn set_most_replicas(&self, workload: Identity, most: Option<u32>) {
        match most {
            Some(most) => drop(self.0.autoscalers.insert(workload, most)),
            None => drop(self.0.autoscalers.remove(&workload)),
        }
    }

    /// Tells when annotations of namespaces have changed.
    #[must_use]
    pub fn changes(&self) -> Receiver<Vec<String>> {
        self.0.changed.subscribe()
    }

    /// The namespaces whose annotations have changed since the last call.
    #[must_use]
    pub fn take_changed(&self) -> Vec<String> {
        let mut taken = Vec::new();
        self.0.changed.send_if_modified(|changed| {
            taken = std::mem::take(changed);
            false
        });
        taken
    }
}

fn identity(namespace: &str, kind: &str, name: &str) -> Identity {
    (namespace.to_owned(), kind.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_namespace_is_told_once() {
        let around = Surroundings::default();
        let annotations = || BTreeMap::from([("prewarm.io/enabled".to_owned(), "true".to_owned())]);
        around.set_namespace("shop", annotations());
        around.set_namespace("shop", annotations());
        assert_eq!(around.take_changed(), ["shop"]);
        assert!(around.take_changed().is_empty());
        around.set_namespace("shop", BTreeMap::new());
        assert_eq!((around.take_changed(), around.namespace("shop").len()), (vec!["shop".to_owned()], 0));
    }

    #[test]
    fn namespaces_are_known_once_they_were_listed() {
        let around = Surroundings::default();
        around.note_name("shop", true);
        assert!(around.has_namespace("bank"), "before the first list each counts");
        around.set_names(["shop".to_owned()].into());
        assert!(around.has_namespace("shop") && !around.has_namespace("bank"));
        around.note_name("bank", true);
        around.note_name("shop", false);
        assert!(around.has_namespace("bank") && !around.has_namespace("shop"));
    }

    #[test]
    fn rewritten_is_news_once() {
        let around = Surroundings::default();
        assert!(!around.is_rewritten("shop", "Deployment", "web"));
        assert!(around.note_rewritten("shop", "Deployment", "web"));
        assert!(!around.note_rewritten("shop", "Deployment", "web"));
        assert!(around.is_rewritten("shop", "Deployment", "web") && !around.is_rewritten("bank", "Deployment", "web"));
    }
}
