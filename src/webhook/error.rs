//! Error responses of the webhook.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// Error response to a request that is not a valid review.
#[derive(Debug)]
pub(super) struct ReviewError {
    pub(super) status: StatusCode,
    error: &'static str,
    details: String,
}

impl IntoResponse for ReviewError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error, "details": self.details }))).into_response()
    }
}

pub(super) fn review_error(status: StatusCode, error: &'static str, details: &str) -> ReviewError {
    ReviewError { status, error, details: details.to_owned() }
}
