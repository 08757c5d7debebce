//! Namespaces and names by which objects are looked up.

use super::error::ServiceError;
use crate::api::{
    Api,
    auth::{Caller, NamespaceScope, Permission},
};

/// Returns the namespaces whose objects a list contains: the requested one, or all for which the
/// caller has the permission.
pub(in crate::api) async fn visible_namespaces(
    api: &Api,
    caller: &Caller,
    deed: Permission,
    namespace: Option<String>,
) -> Result<NamespaceScope, ServiceError> {
    // A server that watches one namespace lists that one only.
    match namespace.or_else(|| api.settings.watched_namespace.clone()) {
        Some(namespace) => {
            api.auth.authorize(caller, deed, &namespace).await?;
            Ok(NamespaceScope::Only([namespace].into()))
        }
        None => Ok(api.auth.namespace_scope(caller, deed).await?),
    }
}

/// Selects one of several objects of the same name: the one in `namespace` when it is given,
/// otherwise the only one that the caller has the permission for, otherwise the one in the default
/// namespace. Error when the name is ambiguous.
pub(super) async fn resolve_by_name<T>(
    api: &Api,
    caller: &Caller,
    deed: Permission,
    namespace: Option<&str>,
    found: Vec<(String, T)>,
) -> Result<Option<T>, ServiceError> {
    if let Some(namespace) = namespace {
        return Ok(found.into_iter().find(|(of, _)| of == namespace).map(|(_, one)| one));
    }
    let mut may = Vec::new();
    for (of, one) in found {
        if api.auth.allows(caller, deed, Some(&of)).await? {
            may.push((of, one));
        }
    }
    let usual = api.default_namespace_of(caller);
    let preferred = may.iter().position(|(of, _)| may.len() == 1 || of == usual);
    match preferred {
        Some(index) => Ok(Some(may.swap_remove(index).1)),
        None if may.is_empty() => Ok(None),
        None => Err(ServiceError::invalid_field(
            "namespace",
            "several namespaces have an object of that name: select one with ?namespace=",
        )),
    }
}
