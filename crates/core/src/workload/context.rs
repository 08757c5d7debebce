//! Facts about the cluster that decide together with a workload.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Toleration;

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

/// Facts about the cluster that decide together with a workload. All answers are immediate.
pub trait ClusterContext {
    /// Returns the annotations of a namespace with our prefix; empty if it has none or is not known.
    fn namespace_annotations(&self, name: &str) -> Arc<BTreeMap<String, String>>;
    /// Returns the scheduling constraints of a `RuntimeClass`.
    fn runtime_class(&self, name: &str) -> Option<RuntimeClassScheduling>;
    /// Returns the maximum replicas of the workload's autoscaler.
    fn max_replicas(&self, namespace: &str, kind: &str, name: &str) -> Option<u32>;
    /// Reports whether another webhook replaces the images of the workload's pods.
    fn is_rewritten(&self, namespace: &str, kind: &str, name: &str) -> bool;
}

/// Context without any facts.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptyContext;

impl ClusterContext for EmptyContext {
    fn namespace_annotations(&self, _: &str) -> Arc<BTreeMap<String, String>> {
        Arc::default()
    }

    fn runtime_class(&self, _: &str) -> Option<RuntimeClassScheduling> {
        None
    }

    fn max_replicas(&self, _: &str, _: &str, _: &str) -> Option<u32> {
        None
    }

    fn is_rewritten(&self, _: &str, _: &str, _: &str) -> bool {
        false
    }
}

/// Part of a context that a caller may see: only these namespaces, and cluster-wide objects.
pub struct VisibleContext<'a> {
    /// Entire context.
    pub context: &'a dyn ClusterContext,
    /// Visible namespaces.
    pub namespaces: BTreeSet<String>,
}

impl VisibleContext<'_> {
    fn of_namespace(&self, namespace: &str) -> &dyn ClusterContext {
        if self.namespaces.contains(namespace) { self.context } else { &EmptyContext }
    }
}

impl ClusterContext for VisibleContext<'_> {
    fn namespace_annotations(&self, name: &str) -> Arc<BTreeMap<String, String>> {
        self.of_namespace(name).namespace_annotations(name)
    }

    fn runtime_class(&self, name: &str) -> Option<RuntimeClassScheduling> {
        self.context.runtime_class(name)
    }

    fn max_replicas(&self, namespace: &str, kind: &str, name: &str) -> Option<u32> {
        self.of_namespace(namespace).max_replicas(namespace, kind, name)
    }

    fn is_rewritten(&self, namespace: &str, kind: &str, name: &str) -> bool {
        self.of_namespace(namespace).is_rewritten(namespace, kind, name)
    }
}

/// Facts from the objects of a manifest, which override those of the context below.
pub(super) struct ManifestContext<'a> {
    pub(super) base: &'a dyn ClusterContext,
    pub(super) namespaces: BTreeMap<String, Arc<BTreeMap<String, String>>>,
    pub(super) runtime_classes: BTreeMap<String, RuntimeClassScheduling>,
    pub(super) max_replicas: BTreeMap<WorkloadIdentity, u32>,
}

impl<'a> ManifestContext<'a> {
    pub(super) fn new(base: &'a dyn ClusterContext) -> Self {
        Self {
            base,
            namespaces: BTreeMap::new(),
            runtime_classes: BTreeMap::new(),
            max_replicas: BTreeMap::new(),
        }
    }
}

impl ClusterContext for ManifestContext<'_> {
    fn namespace_annotations(&self, name: &str) -> Arc<BTreeMap<String, String>> {
        let own = self.namespaces.get(name).cloned();
        own.unwrap_or_else(|| self.base.namespace_annotations(name))
    }

    fn runtime_class(&self, name: &str) -> Option<RuntimeClassScheduling> {
        self.runtime_classes.get(name).cloned().or_else(|| self.base.runtime_class(name))
    }

    fn max_replicas(&self, namespace: &str, kind: &str, name: &str) -> Option<u32> {
        let own = self.max_replicas.get(&(namespace.into(), kind.into(), name.into())).copied();
        own.or_else(|| self.base.max_replicas(namespace, kind, name))
    }

    fn is_rewritten(&self, namespace: &str, kind: &str, name: &str) -> bool {
        self.base.is_rewritten(namespace, kind, name)
    }
}
