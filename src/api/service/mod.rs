//! Operations on tasks and schedules, for the REST handlers and the pages.
//!
//! Input: the caller and typed values. Output: objects, or a [`ServiceError`]. An operation checks
//! the permissions that it needs, unless its documentation says that they are checked before.

pub(in crate::api) mod schedules;
pub(in crate::api) mod tasks;

use axum::http::StatusCode;

use super::{
    Api,
    auth::{Caller, NamespaceScope, Permission},
    error::{ApiError, Detail},
};
use prewarmer_kube::api_error::ApiErrorKind;

/// Error of an operation.
#[derive(Debug)]
pub(in crate::api) enum ServiceError {
    /// The object does not exist, or the caller may not read it.
    NotFound {
        /// Kind of the object: `task` or `schedule`.
        kind: &'static str,
        name: String,
    },
    /// Fields of the request are invalid.
    Invalid(Vec<Detail>),
    /// The object's current `status` does not permit the operation.
    Conflict { message: String, status: &'static str },
    /// Other clients changed the object, of this kind, on every attempt to write it.
    Contended(&'static str),
    /// The API server rejected a request, or did not answer.
    Cluster(kube::Error),
    /// A check of another module rejected the operation: authorization, a limit, or the
    /// Idempotency-Key.
    Rejected(ApiError),
}

impl ServiceError {
    fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound { kind, name: name.into() }
    }

    fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Detail { field: field.into(), message: message.into() }])
    }

    /// Converts an error of a creation. A missing namespace becomes a problem of the field
    /// `namespace`.
    fn of_creation(error: kube::Error, namespace: &str) -> Self {
        if ApiErrorKind::of(&error) == ApiErrorKind::NotFound {
            return Self::invalid_field(
                "namespace",
                format!("namespace {namespace} does not exist"),
            );
        }
        error.into()
    }
}

impl From<kube::Error> for ServiceError {
    fn from(error: kube::Error) -> Self {
        Self::Cluster(error)
    }
}

impl From<ApiError> for ServiceError {
    fn from(error: ApiError) -> Self {
        Self::Rejected(error)
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound { kind, name } => Self::not_found(kind, &name),
            ServiceError::Invalid(details) => Self::invalid_fields(details),
            ServiceError::Conflict { message, status } => Self::conflict(message, status),
            ServiceError::Contended(kind) => Self::retry_after(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the {kind} was changed by other clients on every attempt: try again"),
                1,
            ),
            ServiceError::Cluster(error) => error.into(),
            ServiceError::Rejected(error) => error,
        }
    }
}

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
async fn resolve_by_name<T>(
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
    let preferred = may.iter().position(|(of, _)| may.len() == 1 || of == api.default_namespace());
    match preferred {
        Some(index) => Ok(Some(may.swap_remove(index).1)),
        None if may.is_empty() => Ok(None),
        None => Err(ServiceError::invalid_field(
            "namespace",
            "several namespaces have an object of that name: select one with ?namespace=",
        )),
    }
}
