//! What is answered when something is wrong.

use std::fmt;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::task::Problem;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Detail {
    /// Its path, such as `images[1]`; empty where it is the whole.
    pub field: String,
    /// What is wrong, and what is expected.
    pub message: String,
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

/// The body of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// What was wrong, and what to do.
    pub error: String,
    /// Every bad field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub details: Vec<Detail>,
    /// The task or schedule that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// Where it stands, when that is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// An error, as an answer.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The status.
    pub code: StatusCode,
    body: Box<ErrorBody>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    /// An error with a sentence.
    pub fn new(code: StatusCode, error: impl Into<String>) -> Self {
        let body = ErrorBody { error: error.into(), details: Vec::new(), task_id: None, status: None };
        Self { code, body: Box::new(body), header: None }
    }

    /// Fields that cannot be meant.
    pub fn bad(details: Vec<Detail>) -> Self {
        let many = details.len();
        let error = if many == 1 { "1 field is wrong".into() } else { format!("{many} fields are wrong") };
        let mut this = Self::new(StatusCode::BAD_REQUEST, error);
        this.body.details = details;
        this
    }

    /// One field that cannot be meant.
    pub fn bad_field(field: &str, message: impl Into<String>) -> Self {
        Self::bad(vec![Detail { field: field.into(), message: message.into() }])
    }

    /// There is no such task or schedule.
    pub fn not_found(what: &str, id: &str) -> Self {
        let error = format!("there is no such {what} in the namespaces that you may read");
        let mut this = Self::new(StatusCode::NOT_FOUND, error);
        this.body.task_id = Some(id.chars().take(260).collect());
        this
    }

    /// What is asked for is in the way of what is.
    pub fn conflict(error: impl Into<String>, status: &str) -> Self {
        let mut this = Self::new(StatusCode::CONFLICT, error);
        this.body.status = Some(status.into());
        this
    }

    /// Not now.
    pub fn later(code: StatusCode, error: impl Into<String>, seconds: u64) -> Self {
        Self { header: Some((header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))), ..Self::new(code, error) }
    }

    /// Who are you?
    pub fn unauthorized(error: &str) -> Self {
        let header = (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"prewarmer\""));
        Self { header: Some(header), ..Self::new(StatusCode::UNAUTHORIZED, error) }
    }

    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self.code, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }

    /// Every bad field.
    #[must_use]
    pub fn details(&self) -> &[Detail] {
        &self.body.details
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.body.error
    }
}

/// How long a caller is asked to wait when the API server has no time.
const RETRY_AFTER: u64 = 2;

impl From<kube::Error> for ApiError {
    /// What the API server says of an object is the caller's business; that it cannot be reached is not his fault.
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else {
            tracing::warn!(%error, "the API server could not be asked");
            return Self::later(
                StatusCode::SERVICE_UNAVAILABLE,
                "the cluster's API server does not answer",
                RETRY_AFTER,
            );
        };
        let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes);
        let detail = |cause: &kube::core::response::StatusCause| Detail {
            field: cause.field.trim_start_matches("spec.").to_owned(),
            message: cause.message.clone(),
        };
        let code = match status.code {
            400 | 422 => StatusCode::UNPROCESSABLE_ENTITY,
            403 => StatusCode::FORBIDDEN,
            404 => StatusCode::NOT_FOUND,
            409 => StatusCode::CONFLICT,
            _ => {
                tracing::warn!(%error, "the API server refused");
                let words = "the cluster's API server has no time";
                return Self::later(StatusCode::SERVICE_UNAVAILABLE, words, RETRY_AFTER);
            }
        };
        let mut this = Self::new(code, status.message.clone());
        this.body.details = causes.iter().map(detail).collect();
        this
    }
}

impl From<Problem> for Detail {
    fn from(problem: Problem) -> Self {
        let message =
            if problem.value.is_empty() { problem.reason } else { format!("{:?}: {}", problem.value, problem.reason) };
        Self { field: problem.field, message }
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
