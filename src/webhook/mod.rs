//! Admission: review in, verdict out.
//!
//! In: `AdmissionReview`s of workloads, of `PrewarmTask`s and of
//! `PrewarmSchedule`s. Out: for a
//! workload always "allowed", with warnings, and a hint to `intake`; for a task
//! a verdict. No I/O on the way. May call `intake`, `schedule`, `surroundings`, `task` and
//! `workload`.

mod body;
mod decide;
pub mod registration;
mod review;

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;
use tower_http::catch_panic::CatchPanicLayer;

use self::{
    body::Bodies,
    decide::{decide_task, decide_workload},
    review::{Review, Verdict, response},
};
use crate::{intake::HintSender, metrics::Metrics, surroundings::Surroundings, workload::Policy};

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
    pub policy: Arc<Policy>,
    /// What surrounds workloads.
    pub around: Surroundings,
    /// Where durations are noted.
    pub metrics: Arc<Metrics>,
}

/// The webhook's routes.
pub fn router(state: WebhookState) -> Router {
    let state = (state, Bodies::default());
    Router::new()
        .route(WORKLOADS_PATH, post(workloads))
        .route(TASKS_PATH, post(tasks))
        .layer(CatchPanicLayer::new())
        .with_state(state)
}

type Shared = State<(WebhookState, Bodies)>;

async fn workloads(State((state, bodies)): Shared, headers: HeaderMap, request: Request) -> Response {
    let started = Instant::now();
    answer(&state, &bodies, &headers, request, started, |review| {
        let (verdict, hint) = decide_workload(review, &state.policy, &state.around);
        match hint {
            Some(hint) => {
                state.hints.offer(hint);
            }
            None if verdict.label == "opted_out" => state.metrics.hints.with_label_values(&["opted_out"]).inc(),
            None => {}
        }
        verdict
    })
    .await
}

async fn tasks(State((state, bodies)): Shared, headers: HeaderMap, request: Request) -> Response {
    let started = Instant::now();
    answer(&state, &bodies, &headers, request, started, decide_task).await
}

async fn answer(
    state: &WebhookState,
    bodies: &Bodies,
    headers: &HeaderMap,
    request: Request,
    started: Instant,
    decide: impl FnOnce(&Review<'_>) -> Verdict,
) -> Response {
    let refused = |refusal: Refusal| {
        observe(state, "other", "invalid", started);
        refusal.into_response()
    };
    let read = async {
        json_only(headers)?;
        bodies.read(headers, request.into_body()).await
    };
    let body = match read.await {
        Ok(body) => body,
        Err(refusal) => return refused(refusal),
    };
    let review = match Review::read(&body.bytes) {
        Ok(review) => review,
        Err(details) => return refused(refuse(StatusCode::BAD_REQUEST, "not an AdmissionReview", &details)),
    };
    let verdict = decide(&review);
    observe(state, review.kind_label(), verdict.label, started);
    ([(header::CONTENT_TYPE, "application/json")], response(&review, &verdict)).into_response()
}

/// From the bytes of a review to those of the answers, as a workload's and as a task's: for fuzzing and for counting
/// allocations. None where it is no review.
#[doc(hidden)]
#[must_use]
pub fn rehearse(bytes: &[u8], policy: &Policy, around: &Surroundings) -> Vec<Vec<u8>> {
    let Ok(review) = Review::read(bytes) else { return Vec::new() };
    let (verdict, hint) = decide_workload(&review, policy, around);
    drop(hint);
    let verdicts = [verdict, decide_task(&review)];
    verdicts.iter().map(|verdict| response(&review, verdict)).collect()
}

fn observe(state: &WebhookState, kind: &str, verdict: &str, started: Instant) {
    state.metrics.admission_duration.with_label_values(&[kind, verdict]).observe(started.elapsed().as_secs_f64());
}

fn json_only(headers: &HeaderMap) -> Result<(), Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let details = format!("Content-Type is {content_type:?}: send application/json");
    Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported media type", &details))
}

/// Why a request is not a review that can be answered.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    error: &'static str,
    details: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error, "details": self.details }))).into_response()
    }
}

fn refuse(status: StatusCode, error: &'static str, details: &str) -> Refusal {
    Refusal { status, error, details: details.to_owned() }
}

#[cfg(test)]
mod tests;
