//! Admission: review in, verdict out.
//!
//! In: `AdmissionReview`s of workloads, of `PrewarmTask`s and of
//! `PrewarmSchedule`s. Out: for a
//! workload always "allowed", with warnings, and a claim to `intake`; for a task
//! a verdict. No I/O on the way, and nothing is waited for: where there is no
//! room or no time to read a review, it is allowed unread. May call `intake`,
//! `schedule`, `surroundings`, `task` and `workload`.

mod body;
mod decide;
pub mod registration;
mod review;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use self::{
    body::{Bodies, Read, Unread},
    decide::{decide_task, decide_workload, identify},
    review::{Review, Verdict, allowing, response, uid_of},
};
use crate::{intake::ReviewHints, metrics::Metrics, surroundings::Surroundings, workload::Policy};

/// Path of workloads' reviews.
pub const WORKLOADS_PATH: &str = "/admit/workloads";
/// Path of tasks' reviews.
pub const TASKS_PATH: &str = "/admit/tasks";

/// Larger reviews of workloads are read on threads of their own: one of this size takes a millisecond or two, one of 8 MiB fifty,
/// and the thread that answers all reviews has no time for that.
const LARGE_WORKLOAD: usize = 256 * 1024;
/// The same for tasks and schedules: a task of a hundred images with the longest names has 52 KB.
const LARGE_TASK: usize = 64 * 1024;
/// Objects with more images are read there too: a reference takes some 10 µs, so that these take half a millisecond.
const MANY_IMAGES: usize = 50;
/// Reviews that are read there at once. Each holds its body, of 8 MiB at most, and what was read of it.
const LARGE_AT_ONCE: usize = 2;
/// A review of a workload is answered by then, read or not. The API server waits 1 s by default.
const DEADLINE: Duration = Duration::from_millis(100);
/// The same for tasks and schedules. What is not checked here fails when it is worked on. The API server waits 5 s.
const TASK_DEADLINE: Duration = Duration::from_secs(2);

/// What the handlers share.
#[derive(Clone)]
pub struct WebhookState {
    /// Where claims go.
    pub hints: ReviewHints,
    /// What counts.
    pub policy: Arc<Policy>,
    /// What surrounds workloads.
    pub around: Surroundings,
    /// Where durations are noted.
    pub metrics: Arc<Metrics>,
}

/// The webhook's routes.
pub fn router(state: WebhookState) -> Router {
    let shared = Shared { state, bodies: Bodies::default(), pool: Arc::new(Semaphore::new(LARGE_AT_ONCE)) };
    Router::new()
        .route(WORKLOADS_PATH, post(workloads))
        .route(TASKS_PATH, post(tasks))
        .layer(CatchPanicLayer::new())
        .with_state(shared)
}

#[derive(Clone)]
struct Shared {
    state: WebhookState,
    bodies: Bodies,
    /// Large reviews that are read at once.
    pool: Arc<Semaphore>,
}

/// The answer to a review, and how the metrics name it.
struct Answer {
    kind: &'static str,
    label: &'static str,
    bytes: Vec<u8>,
}

impl Answer {
    fn new(review: &Review<'_>, verdict: &Verdict) -> Self {
        Self { kind: review.kind_label(), label: verdict.label, bytes: response(review, verdict) }
    }
}

/// Why a review was allowed unread.
#[derive(Debug, Clone, Copy)]
enum Unexamined {
    /// There was no room for its body.
    BudgetFull,
    /// As many large reviews were being read as may be.
    PoolFull,
    /// It took too long.
    Deadline,
}

impl Unexamined {
    fn as_str(self) -> &'static str {
        match self {
            Self::BudgetFull => "budget_full",
            Self::PoolFull => "pool_full",
            Self::Deadline => "deadline",
        }
    }
}

async fn workloads(State(shared): State<Shared>, headers: HeaderMap, request: Request) -> Response {
    let started = Instant::now();
    let body = match shared.read(&headers, request, started).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let state = &shared.state;
    if body.bytes.len() <= LARGE_WORKLOAD {
        match examine(state, &body.bytes, MANY_IMAGES) {
            Ok(Some(answer)) => return state.respond(answer, started),
            Ok(None) => {}
            Err(refusal) => return state.refuse(refusal, started),
        }
    }
    let Ok(permit) = Arc::clone(&shared.pool).try_acquire_owned() else {
        // Whose it is was read quickly, unless it is large.
        if body.bytes.len() <= LARGE_WORKLOAD
            && let Ok(review) = Review::read(&body.bytes)
            && let Some(claim) = identify(&review, &state.policy)
        {
            state.hints.offer(claim);
        }
        return state.allow_unexamined(Unexamined::PoolFull, &body.bytes, started);
    };
    // The work goes on behind the deadline, for the sake of the claim.
    let read = move |state: &WebhookState, bytes: &[u8]| examine(state, bytes, usize::MAX);
    state.elsewhere(body, DEADLINE, permit, started, read).await
}

/// Decides a review of a workload, and passes on the claim that follows. None: it names more than `most_images`.
fn examine(state: &WebhookState, bytes: &[u8], most_images: usize) -> Result<Option<Answer>, Refusal> {
    let review = Review::read(bytes).map_err(|details| no_review(&details))?;
    let decided = decide_workload(&review, &state.policy, &state.around, most_images);
    let Some((verdict, claim)) = decided else { return Ok(None) };
    match claim {
        Some(claim) => {
            state.hints.offer(claim);
        }
        None if matches!(verdict.label, "opted_out" | "unidentified") => {
            state.metrics.hints.with_label_values(&[verdict.label]).inc();
        }
        None => {}
    }
    Ok(Some(Answer::new(&review, &verdict)))
}

async fn tasks(State(shared): State<Shared>, headers: HeaderMap, request: Request) -> Response {
    let started = Instant::now();
    let body = match shared.read(&headers, request, started).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let state = &shared.state;
    let caps = Arc::clone(&state.policy.caps);
    let check = move |bytes: &[u8]| {
        let review = Review::read(bytes).map_err(|details| no_review(&details))?;
        Ok(Answer::new(&review, &decide_task(&review, &caps)))
    };
    if body.bytes.len() <= LARGE_TASK {
        return match check(&body.bytes) {
            Ok(answer) => state.respond(answer, started),
            Err(refusal) => state.refuse(refusal, started),
        };
    }
    match tokio::time::timeout(TASK_DEADLINE, Arc::clone(&shared.pool).acquire_owned()).await {
        Ok(Ok(permit)) => {
            let read = move |_: &WebhookState, bytes: &[u8]| check(bytes).map(Some);
            state.elsewhere(body, TASK_DEADLINE, permit, started, read).await
        }
        _ => state.allow_unexamined(Unexamined::PoolFull, &body.bytes, started),
    }
}

impl Shared {
    /// Reads the body, or gives the response where that is not to be had.
    async fn read(&self, headers: &HeaderMap, request: Request, started: Instant) -> Result<Read, Response> {
        json_only(headers).map_err(|refusal| self.state.refuse(refusal, started))?;
        match self.bodies.read(headers, request.into_body()).await {
            Ok(read) => Ok(read),
            Err(Unread::Refused(refusal)) => Err(self.state.refuse(refusal, started)),
            Err(Unread::Full(beginning)) => {
                Err(self.state.allow_unexamined(Unexamined::BudgetFull, &beginning, started))
            }
        }
    }
}

impl WebhookState {
    fn respond(&self, answer: Answer, started: Instant) -> Response {
        self.observe(answer.kind, answer.label, started);
        ([(header::CONTENT_TYPE, "application/json")], answer.bytes).into_response()
    }

    fn refuse(&self, refusal: Refusal, started: Instant) -> Response {
        self.observe("other", "invalid", started);
        refusal.into_response()
    }

    /// Allows a review of which `beginning` is known at least. Without its UID it cannot be allowed: then the call fails, and the
    /// API server goes on without us (`failurePolicy: Ignore`).
    fn allow_unexamined(&self, why: Unexamined, beginning: &[u8], started: Instant) -> Response {
        self.metrics.unexamined.with_label_values(&[why.as_str()]).inc();
        if let Some(uid) = uid_of(beginning) {
            return self.respond(Answer { kind: "other", label: "unexamined", bytes: allowing(uid) }, started);
        }
        let details = "too many reviews are being read at once; send this one again later";
        self.refuse(refuse(StatusCode::SERVICE_UNAVAILABLE, "busy", details), started)
    }

    /// Has a large review read on a thread of its own. The answer comes by the deadline, whatever becomes of it.
    async fn elsewhere(
        &self,
        body: Read,
        deadline: Duration,
        permit: tokio::sync::OwnedSemaphorePermit,
        started: Instant,
        read: impl FnOnce(&Self, &[u8]) -> Result<Option<Answer>, Refusal> + Send + 'static,
    ) -> Response {
        let beginning = body.bytes.slice(..body.bytes.len().min(review::UID_WITHIN));
        let state = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(&state, &body.bytes)
        });
        match tokio::time::timeout(deadline, work).await {
            Ok(Ok(Ok(Some(answer)))) => self.respond(answer, started),
            Ok(Ok(Err(refusal))) => self.refuse(refusal, started),
            // A panic: the runtime has logged it.
            Ok(Err(_) | Ok(Ok(None))) => {
                self.refuse(refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal error", "see the log"), started)
            }
            Err(_) => self.allow_unexamined(Unexamined::Deadline, &beginning, started),
        }
    }

    fn observe(&self, kind: &str, verdict: &str, started: Instant) {
        self.metrics.admission_duration.with_label_values(&[kind, verdict]).observe(started.elapsed().as_secs_f64());
    }
}

fn no_review(details: &str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, "not an AdmissionReview", details)
}

/// From the bytes of a review to those of the answers, as a workload's and as a task's: for fuzzing and for counting
/// allocations. None where it is no review.
#[doc(hidden)]
#[must_use]
pub fn rehearse(bytes: &[u8], policy: &Policy, around: &Surroundings) -> Vec<Vec<u8>> {
    let Ok(review) = Review::read(bytes) else { return Vec::new() };
    let decided = decide_workload(&review, policy, around, usize::MAX).map(|(verdict, _)| verdict);
    let verdicts = [decided.unwrap_or_default(), decide_task(&review, &policy.caps)];
    verdicts.iter().map(|verdict| response(&review, verdict)).collect()
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
