//! Objects of one namespace, or of all.

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};

/// The objects of a kind in `namespace`; in all of them where there is none.
pub(crate) fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
