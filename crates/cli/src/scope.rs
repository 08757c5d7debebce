//! Namespaced or cluster-wide client for a kind.

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};

/// Creates a client for the objects of a kind in `namespace`, or in all namespaces when it is
/// `None`.
#[must_use]
pub fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
