//! Errors of the REST API as HTTP responses.

use std::fmt;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use prewarmer_core::task::FieldError;
use prewarmer_kube::api_error::ApiErrorKind;

use super::field_path::FieldPath;

/// Longest path of a field, in characters. Some paths contain a label key or an unknown field.
const MAX_FIELD: usize = 400;

/// Problem of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Detail {
    /// Path of the field, such as `images[1]`; empty for the entire body.
    pub field: String,
    /// JSON pointer (RFC 6901) to the field in the body, such as `/images/1`; absent for a
    /// parameter or a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Problem, and the value that is expected.
    pub message: String,
}

impl Detail {
    /// Creates a problem that has no place in a JSON body, such as that of a parameter.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), pointer: None, message: message.into() }
    }

    /// Creates a problem of a field of the body. A long path is truncated, and has no pointer.
    pub(super) fn in_body(path: &FieldPath, message: impl Into<String>) -> Self {
        let field = truncate(&path.to_string(), MAX_FIELD);
        let pointer = Some(path.pointer()).filter(|text| text.chars().count() <= MAX_FIELD);
        Self { field, pointer, message: message.into() }
    }
}

/// Truncates a text to this number of characters.
pub(super) fn truncate(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    text.chars().take(most).chain(['…']).collect()
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// Body of an error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ErrorBody {
    /// Problem, and what to do about it.
    pub error: String,
    /// Every invalid field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub details: Vec<Detail>,
    /// Name of the requested task or schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// Current status of the object, when that status conflicts with the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// Error response: status, body, and an optional header.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub code: StatusCode,
    body: Box<ErrorBody>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    /// Creates an error with a message.
    pub fn new(code: StatusCode, error: impl Into<String>) -> Self {
        let body =
            ErrorBody { error: error.into(), details: Vec::new(), task_id: None, status: None };
        Self { code, body: Box::new(body), header: None }
    }

    /// Creates a 400 for invalid fields.
    #[must_use]
    pub fn invalid_fields(details: Vec<Detail>) -> Self {
        let many = details.len();
        let error = if many == 1 {
            "1 field is invalid".into()
        } else {
            format!("{many} fields are invalid")
        };
        let mut this = Self::new(StatusCode::BAD_REQUEST, error);
        this.body.details = details;
        this
    }

    /// Creates a 400 for one invalid field.
    pub fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        Self::invalid_fields(vec![Detail::new(field, message)])
    }

    /// Creates a 404 for an object that does not exist or that the caller may not read. `what` is
    /// its kind.
    #[must_use]
    pub fn not_found(what: &str, id: &str) -> Self {
        let error = format!("no such {what} in the namespaces that you may read");
        let mut this = Self::new(StatusCode::NOT_FOUND, error);
        this.body.task_id = Some(id.chars().take(260).collect());
        this
    }

    /// Creates a 409 for a request that conflicts with the current `status` of the object.
    pub fn conflict(error: impl Into<String>, status: &str) -> Self {
        let mut this = Self::new(StatusCode::CONFLICT, error);
        this.body.status = Some(status.into());
        this
    }

    /// Creates an error with `Retry-After`, of at least one second.
    pub fn retry_after(code: StatusCode, error: impl Into<String>, seconds: u64) -> Self {
        Self {
            header: Some((header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))),
            ..Self::new(code, error)
        }
    }

    /// Creates a 401 with `WWW-Authenticate`.
    #[must_use]
    pub fn unauthorized(error: &str) -> Self {
        let header =
            (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"prewarmer\""));
        Self { header: Some(header), ..Self::new(StatusCode::UNAUTHORIZED, error) }
    }

    /// Reports whether a retry of the same call may succeed: 429 and 503.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.code, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }

    /// Returns every invalid field.
    #[must_use]
    pub fn details(&self) -> &[Detail] {
        &self.body.details
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.body.error
    }
}

/// `Retry-After` when the API server is unavailable, in seconds.
const RETRY_AFTER: u64 = 2;

impl From<kube::Error> for ApiError {
    /// Converts an error of the API server: its verdict on an object is passed on to the caller
    /// (403, 404, 409, 422); an unreachable or overloaded API server is a 503.
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else {
            tracing::warn!(%error, "request to the API server failed");
            return Self::retry_after(
                StatusCode::SERVICE_UNAVAILABLE,
                "the cluster's API server does not answer: try again later",
                RETRY_AFTER,
            );
        };
        let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes);
        let detail = |cause: &kube::core::response::StatusCause| {
            Detail::new(cause.field.trim_start_matches("spec."), cause.message.clone())
        };
        let code = match ApiErrorKind::of_status(status) {
            ApiErrorKind::BadRequest | ApiErrorKind::Invalid | ApiErrorKind::UidMismatch => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ApiErrorKind::Forbidden | ApiErrorKind::QuotaExceeded => StatusCode::FORBIDDEN,
            ApiErrorKind::NotFound => StatusCode::NOT_FOUND,
            ApiErrorKind::AlreadyExists | ApiErrorKind::Conflict => StatusCode::CONFLICT,
            ApiErrorKind::Unauthorized | ApiErrorKind::Transient => {
                tracing::warn!(%error, "the API server returned an unexpected error");
                let words = "the cluster's API server is overloaded or failing: try again later";
                return Self::retry_after(StatusCode::SERVICE_UNAVAILABLE, words, RETRY_AFTER);
            }
        };
        let mut this = Self::new(code, status.message.clone());
        this.body.details = causes.iter().map(detail).collect();
        this
    }
}

impl From<FieldError> for Detail {
    fn from(problem: FieldError) -> Self {
        let message = if problem.value.is_empty() {
            problem.reason
        } else {
            format!("{:?}: {}", problem.value, problem.reason)
        };
        Self::new(problem.field, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.code, Json(self.body)).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
