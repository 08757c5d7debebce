//! Errors of the operations, and their conversion to errors of REST.

use axum::http::StatusCode;
use prewarmer_kube::api_error::ApiErrorKind;

use crate::api::error::{ApiError, Detail};

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
    pub(super) fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound { kind, name: name.into() }
    }

    pub(super) fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Detail::new(field, message)])
    }

    /// Converts an error of a creation. A missing namespace becomes a problem of the field
    /// `namespace`.
    pub(super) fn of_creation(error: kube::Error, namespace: &str) -> Self {
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
