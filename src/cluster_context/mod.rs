//! Cluster context: namespaces' annotations, runtime classes, autoscalers, and workloads whose
//! images are rewritten. It decides together with a workload.
//!
//! Input: informers (the only code here that calls the API server). Output: immediate
//! answers for `workload` without I/O. Calls no other module except `task` and `slim`.

pub mod informer;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use dashmap::DashMap;
use k8s_openapi::api::core::v1::Toleration;
use tokio::sync::watch::{Receiver, Sender};

/// Maximum number of changed namespaces in the queue, which is usually emptied within moments.
/// Workloads of further namespaces are evaluated at their next change.
const MAX_CHANGED: usize = 1000;
/// Maximum number of workloads with rewritten images; a full set is cleared and filled again.
const MAX_REWRITTEN: usize = 10_000;

/// Scheduling constraints of a `RuntimeClass` (`scheduling`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuntimeClassScheduling {
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    pub tolerations: Vec<Toleration>,
}

/// Identity of a workload: namespace, kind and name.
pub type WorkloadIdentity = (String, String, String);

/// Cluster context. Clones share one.
#[derive(Clone)]
pub struct ClusterContext(Arc<ClusterContextInner>);

struct ClusterContextInner {
    /// Names of all namespaces; `None` until they are listed.
    namespace_names: RwLock<Option<HashSet<String>>>,
    namespaces: DashMap<String, Arc<BTreeMap<String, String>>>,
    runtime_classes: DashMap<String, RuntimeClassScheduling>,
    max_replicas: DashMap<WorkloadIdentity, u32>,
    rewritten: RwLock<HashSet<WorkloadIdentity>>,
    /// Context below this layer, and the namespaces of it that are visible.
    base: Option<(ClusterContext, BTreeSet<String>)>,
    /// Namespaces whose annotations have changed.
    changed_namespaces: Sender<Vec<String>>,
}

impl Default for ClusterContext {
    fn default() -> Self {
        Self(Arc::new(ClusterContextInner {
            namespace_names: RwLock::default(),
            namespaces: DashMap::new(),
            runtime_classes: DashMap::new(),
            max_replicas: DashMap::new(),
            rewritten: RwLock::default(),
            base: None,
            changed_namespaces: Sender::new(Vec::new()),
        }))
    }
}

impl ClusterContext {
    /// Returns a layer above this context in which only these namespaces and cluster-wide objects
    /// are visible. Entries added to the layer override those below and do not change them. Nothing
    /// is copied.
    #[must_use]
    pub fn layer_for(&self, namespaces: BTreeSet<String>) -> Self {
        let layer = Self::default();
        let Some(mut inner) = Arc::into_inner(layer.0) else { return Self::default() };
        inner.base = Some((self.clone(), namespaces));
        Self(Arc::new(inner))
    }

    /// Returns the context below this layer, if the namespace is visible in it.
    fn visible_base(&self, namespace: &str) -> Option<&Self> {
        self.0.base.as_ref().filter(|(_, seen)| seen.contains(namespace)).map(|(beside, _)| beside)
    }

    /// Returns the annotations of a namespace with our prefix; empty if it has none or is not known
    /// yet.
    #[must_use]
    pub fn namespace_annotations(&self, name: &str) -> Arc<BTreeMap<String, String>> {
        let own = self.0.namespaces.get(name).map(|found| Arc::clone(&found));
        own.or_else(|| self.visible_base(name).map(|beside| beside.namespace_annotations(name)))
            .unwrap_or_default()
    }

    /// Reports whether the namespace exists. Without permission to list namespaces, every namespace
    /// counts as existing.
    #[must_use]
    pub fn namespace_exists(&self, name: &str) -> bool {
        let names = self.0.namespace_names.read().unwrap_or_else(PoisonError::into_inner);
        names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Sets the names of all namespaces.
    pub fn set_namespace_names(&self, names: HashSet<String>) {
        *self.0.namespace_names.write().unwrap_or_else(PoisonError::into_inner) = Some(names);
    }

    /// Records that a namespace exists or was deleted.
    pub fn set_namespace_exists(&self, name: &str, exists: bool) {
        let mut names = self.0.namespace_names.write().unwrap_or_else(PoisonError::into_inner);
        let Some(names) = names.as_mut() else { return };
        if exists {
            names.insert(name.to_owned());
        } else {
            names.remove(name);
        }
    }

    /// Returns the scheduling constraints of a `RuntimeClass`.
    #[must_use]
    pub fn runtime_class(&self, name: &str) -> Option<RuntimeClassScheduling> {
        let own = self.0.runtime_classes.get(name).map(|found| found.clone());
        own.or_else(|| self.0.base.as_ref()?.0.runtime_class(name))
    }

    /// Returns the maximum replicas of the workload's autoscaler.
    #[must_use]
    pub fn max_replicas(&self, namespace: &str, kind: &str, name: &str) -> Option<u32> {
        if self.0.max_replicas.is_empty() && self.0.base.is_none() {
            return None;
        }
        let own =
            self.0.max_replicas.get(&workload_identity(namespace, kind, name)).map(|most| *most);
        own.or_else(|| self.visible_base(namespace)?.max_replicas(namespace, kind, name))
    }

    /// Reports whether another webhook replaces the images of the workload's pods.
    #[must_use]
    pub fn is_rewritten(&self, namespace: &str, kind: &str, name: &str) -> bool {
        let known = self.0.rewritten.read().unwrap_or_else(PoisonError::into_inner);
        let own = !known.is_empty() && known.contains(&workload_identity(namespace, kind, name));
        own || self
            .visible_base(namespace)
            .is_some_and(|beside| beside.is_rewritten(namespace, kind, name))
    }

    /// Records that the workload's images are rewritten. Reports whether this was not known before.
    pub fn mark_rewritten(&self, namespace: &str, kind: &str, name: &str) -> bool {
        let mut known = self.0.rewritten.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REWRITTEN {
            known.clear();
        }
        known.insert(workload_identity(namespace, kind, name))
    }

    /// Sets the annotations of a namespace with our prefix.
    pub fn set_namespace_annotations(&self, name: &str, annotations: BTreeMap<String, String>) {
        if *self.namespace_annotations(name) == annotations {
            return;
        }
        // A layer stores an empty entry too, because it overrides the context below.
        if annotations.is_empty() && self.0.base.is_none() {
            self.0.namespaces.remove(name);
        } else {
            self.0.namespaces.insert(name.to_owned(), Arc::new(annotations));
        }
        self.0.changed_namespaces.send_modify(|changed| {
            if changed.len() < MAX_CHANGED && !changed.iter().any(|known| known == name) {
                changed.push(name.to_owned());
            }
        });
    }

    /// Sets the scheduling constraints of a `RuntimeClass`; `None` removes it.
    pub fn set_runtime_class(&self, name: &str, scheduling: Option<RuntimeClassScheduling>) {
        match scheduling {
            Some(scheduling) => drop(self.0.runtime_classes.insert(name.to_owned(), scheduling)),
            None => drop(self.0.runtime_classes.remove(name)),
        }
    }

    /// Sets the maximum replicas of a workload's autoscaler; `None` removes it.
    pub fn set_max_replicas(&self, workload: WorkloadIdentity, most: Option<u32>) {
        match most {
            Some(most) => drop(self.0.max_replicas.insert(workload, most)),
            None => drop(self.0.max_replicas.remove(&workload)),
        }
    }

    /// Subscribes to changes of namespaces' annotations.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<Vec<String>> {
        self.0.changed_namespaces.subscribe()
    }

    /// Takes the namespaces whose annotations have changed since the last call.
    #[must_use]
    pub fn take_changed_namespaces(&self) -> Vec<String> {
        let mut taken = Vec::new();
        self.0.changed_namespaces.send_if_modified(|changed| {
            taken = std::mem::take(changed);
            false
        });
        taken
    }
}

fn workload_identity(namespace: &str, kind: &str, name: &str) -> WorkloadIdentity {
    (namespace.to_owned(), kind.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_change_is_reported_once() {
        let around = ClusterContext::default();
        let annotations = || BTreeMap::from([("prewarm.io/enabled".to_owned(), "true".to_owned())]);
        around.set_namespace_annotations("shop", annotations());
        around.set_namespace_annotations("shop", annotations());
        assert_eq!(around.take_changed_namespaces(), ["shop"]);
        assert!(around.take_changed_namespaces().is_empty());
        around.set_namespace_annotations("shop", BTreeMap::new());
        assert_eq!(
            (around.take_changed_namespaces(), around.namespace_annotations("shop").len()),
            (vec!["shop".to_owned()], 0)
        );
    }

    #[test]
    fn namespaces_exist_until_the_first_list() {
        let around = ClusterContext::default();
        around.set_namespace_exists("shop", true);
        assert!(
            around.namespace_exists("bank"),
            "before the first list every namespace counts as existing"
        );
        around.set_namespace_names(["shop".to_owned()].into());
        assert!(around.namespace_exists("shop") && !around.namespace_exists("bank"));
        around.set_namespace_exists("bank", true);
        around.set_namespace_exists("shop", false);
        assert!(around.namespace_exists("bank") && !around.namespace_exists("shop"));
    }

    #[test]
    fn first_mark_of_rewritten_images_is_reported() {
        let around = ClusterContext::default();
        assert!(!around.is_rewritten("shop", "Deployment", "web"));
        assert!(around.mark_rewritten("shop", "Deployment", "web"));
        assert!(!around.mark_rewritten("shop", "Deployment", "web"));
        assert!(
            around.is_rewritten("shop", "Deployment", "web")
                && !around.is_rewritten("bank", "Deployment", "web")
        );
    }
}
