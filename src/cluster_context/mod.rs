//! Cluster context: namespaces' annotations, runtime classes, autoscalers, and workloads whose
//! images are rewritten. It decides together with a workload.
//!
//! Input: informers (the only code here that calls the API server). Output: immediate
//! answers for `workload` without I/O. Uses no other component.

pub mod informer;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use dashmap::DashMap;
use prewarmer_core::workload::{ClusterContext, RuntimeClassScheduling, WorkloadIdentity};
use tokio::sync::watch::{Receiver, Sender};

/// Maximum number of changed namespaces in the queue, which is usually emptied within moments.
/// Workloads of further namespaces are evaluated at their next change.
const MAX_CHANGED: usize = 1000;
/// Maximum number of workloads with rewritten images; a full set is cleared and filled again.
const MAX_REWRITTEN: usize = 10_000;

/// Cluster context. Clones share one.
#[derive(Clone)]
pub struct ClusterContextStore(Arc<ClusterContextInner>);

struct ClusterContextInner {
    /// Names of all namespaces; `None` until they are listed.
    namespace_names: RwLock<Option<HashSet<String>>>,
    namespaces: DashMap<String, Arc<BTreeMap<String, String>>>,
    runtime_classes: DashMap<String, RuntimeClassScheduling>,
    max_replicas: DashMap<WorkloadIdentity, u32>,
    rewritten: RwLock<HashSet<WorkloadIdentity>>,
    /// Namespaces whose annotations have changed.
    changed_namespaces: Sender<Vec<String>>,
}

impl Default for ClusterContextStore {
    fn default() -> Self {
        Self(Arc::new(ClusterContextInner {
            namespace_names: RwLock::default(),
            namespaces: DashMap::new(),
            runtime_classes: DashMap::new(),
            max_replicas: DashMap::new(),
            rewritten: RwLock::default(),
            changed_namespaces: Sender::new(Vec::new()),
        }))
    }
}

impl ClusterContextStore {
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
        if annotations.is_empty() {
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

impl ClusterContext for ClusterContextStore {
    fn namespace_annotations(&self, name: &str) -> Arc<BTreeMap<String, String>> {
        self.0.namespaces.get(name).map(|found| Arc::clone(&found)).unwrap_or_default()
    }

    fn runtime_class(&self, name: &str) -> Option<RuntimeClassScheduling> {
        self.0.runtime_classes.get(name).map(|found| found.clone())
    }

    fn max_replicas(&self, namespace: &str, kind: &str, name: &str) -> Option<u32> {
        if self.0.max_replicas.is_empty() {
            return None;
        }
        self.0.max_replicas.get(&workload_identity(namespace, kind, name)).map(|most| *most)
    }

    fn is_rewritten(&self, namespace: &str, kind: &str, name: &str) -> bool {
        let known = self.0.rewritten.read().unwrap_or_else(PoisonError::into_inner);
        !known.is_empty() && known.contains(&workload_identity(namespace, kind, name))
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
        let around = ClusterContextStore::default();
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
        let around = ClusterContextStore::default();
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
        let around = ClusterContextStore::default();
        assert!(!around.is_rewritten("shop", "Deployment", "web"));
        assert!(around.mark_rewritten("shop", "Deployment", "web"));
        assert!(!around.mark_rewritten("shop", "Deployment", "web"));
        assert!(
            around.is_rewritten("shop", "Deployment", "web")
                && !around.is_rewritten("bank", "Deployment", "web")
        );
    }
}
