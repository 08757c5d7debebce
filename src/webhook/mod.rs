//! Admission: review in, verdict out.
//!
//! In: `AdmissionReview`s of workloads and of `PrewarmTask`s. Out: for a
//! workload always "allowed", with warnings, and a hint to `intake`; for a task
//! a verdict. No I/O on the way. May call `intake`, `task` and `workload`.

mod decide;
mod namespaces;
pub mod registration;
mod review;

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;
use tower_http::catch_panic::CatchPanicLayer;

pub use decide::{DefaultMode, WebhookSettings};
pub use namespaces::Namespaces;

use self::{
    decide::{Verdict, decide_task, decide_workload},
    review::{Review, response},
};
use crate::{intake::HintSender, metrics::Metrics};

/// Largest review, in bytes. The API server takes requests of up to 3 MiB, and a review carries the object twice, new and
/// old: 2 × 3 MiB, and 2 MiB for escapes and the envelope.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// Path of workloads' reviews.
pub const WORKLOADS_PATH: &str = "/admit/workloads";
/// Path of tasks' reviews.
pub const TASKS_PATH: &str = "/admit/tasks";

/// What the handlers share.
#[derive(Clone)]
pub struct WebhookState {
    /// Where hints go.
    pub hints: HintSender,
    /// What counts.
    pub settings: Arc<WebhookSettings>,
    /// The namespaces' annotations.
    pub namespaces: Namespaces,
    /// Where durations are noted.
    pub metrics: Arc<Metrics>,
}

/// The webhook's routes.
pub fn router(state: WebhookState) -> Router {
    Router::new()
        .route(WORKLOADS_PATH, post(workloads))
        .route(TASKS_PATH, post(tasks))
        .layer(CatchPanicLayer::new())
        .with_state(state)
}

async fn workloads(State(state): State<WebhookState>, headers: HeaderMap, request: Request) -> Response {
    let started = Instant::now();
    answer(&state, &headers, request, started, |review| {
        let annotations = state.namespaces.annotations(&review.request.namespace);
        let (verdict, hint) = decide_workload(review, &annotations, &state.settings);
        match hint {
            Some(workload) => {
                state.hints.offer(workload);
            }
            None if verdict.label == "opted_out" => state.metrics.hints.with_label_values(&["opted_out"]).inc(),
            None => {}
        }
        verdict
    })
    .await
}

async fn tasks(State(state): State<WebhookState>, headers: HeaderMap, request: Request) -> Response {
    let started = Instant::now();
    answer(&state, &headers, request, started, decide_task).await
}

async fn answer(
    state: &WebhookState,
    headers: &HeaderMap,
    request: Request,
    started: Instant,
    decide: impl FnOnce(&Review) -> Verdict,
) -> Response {
    let review = match read(headers, request.into_body()).await {
        Ok(review) => review,
        Err(refusal) => {
            observe(state, "other", "invalid", started);
            return refusal;
        }
    };
    let verdict = decide(&review);
    observe(state, review.kind_label(), verdict.label, started);
    Json(response(&review, &verdict)).into_response()
}

fn observe(state: &WebhookState, kind: &str, verdict: &str, started: Instant) {
    state.metrics.admission_duration.with_label_values(&[kind, verdict]).observe(started.elapsed().as_secs_f64());
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Review, Response> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let details = format!("Content-Type is {content_type:?}: send application/json");
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported media type", &details));
    }
    let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| {
        let details = format!("a review may have at most {MAX_BODY} bytes, and must arrive whole");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, "body too large", &details)
    })?;
    Review::read(&bytes).map_err(|details| refuse(StatusCode::BAD_REQUEST, "not an AdmissionReview", &details))
}

fn refuse(status: StatusCode, error: &str, details: &str) -> Response {
    (status, Json(json!({ "error": error, "details": details }))).into_response()
}

#[cfg(test)]
mod tests;
