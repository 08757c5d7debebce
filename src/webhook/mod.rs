//! Admission webhook.
//!
//! In: `AdmissionReview`s of workloads, of `PrewarmTask`s and of `PrewarmSchedule`s. Out: for a
//! workload, an answer that always allows it, with warnings, and a hint for `intake`; for a task or
//! a schedule, an answer that allows or denies it. No I/O and no waiting happen in between: if
//! memory or time to read a review is exhausted, it is allowed without examination. May use
//! `cluster_context`, `intake` and `server::listener`.

mod body;
mod error;
mod metrics;
pub mod registration;
mod settings;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Bytes, HttpBody},
    http::{HeaderMap, Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{FutureExt, future::BoxFuture};
use hyper::body::Incoming;
use prewarmer_core::{
    admission::{
        AdmissionResponse, AdmissionReview, ParseError, UID_PREFIX_BYTES, allow_response,
        decide_task, decide_workload, identity_hint, parse_uid, serialize_answer,
    },
    workload::Policy,
};
use tokio::sync::Semaphore;

pub(crate) use self::metrics::WebhookMetrics;
pub use self::settings::{ClientCertificates, WebhookArgs, WebhookSettings};
use self::{
    body::{BodyError, BodyReader, BufferedBody},
    error::{ReviewError, review_error},
};
use crate::{
    cluster_context::ClusterContextStore,
    intake::ReviewHints,
    server::listener::{RequestHandler, RequestOrigin},
};

/// HTTP path for reviews of workloads.
pub const WORKLOADS_PATH: &str = "/admit/workloads";
/// HTTP path for reviews of tasks and schedules.
pub const TASKS_PATH: &str = "/admit/tasks";

/// Maximum size of a workload's review that is parsed on the async thread, in bytes. A review of
/// this size takes one or two milliseconds, and one of 8 MiB takes fifty, which would delay all
/// other reviews. Larger ones are parsed on blocking threads.
const MAX_INLINE_WORKLOAD_BYTES: usize = 256 * 1024;
/// Same limit for tasks and schedules. A task of a hundred images with the longest names has 52 KB.
const MAX_INLINE_TASK_BYTES: usize = 64 * 1024;
/// Maximum number of images of an object that is evaluated on the async thread. A reference takes
/// about 10 µs, so this number takes half a millisecond.
const MAX_INLINE_IMAGES: usize = 50;
/// Maximum number of reviews on blocking threads. Each holds its body of up to 8 MiB and the parsed
/// objects.
const MAX_LARGE_REVIEWS: usize = 2;
/// Deadline of the answer to a workload's review. After it, the review is allowed without
/// examination. The API server waits 1 s by default.
const WORKLOAD_DEADLINE: Duration = Duration::from_millis(100);
/// Same deadline for tasks and schedules. Problems not found here make the task fail later. The API
/// server waits 5 s.
const TASK_DEADLINE: Duration = Duration::from_secs(2);

/// State of the webhook's handlers.
#[derive(Clone)]
pub struct WebhookState {
    /// Sender of hints.
    pub hints: ReviewHints,
    /// Policy that decides whether and how a workload is warmed.
    pub policy: Arc<Policy>,
    /// Cluster context of workloads.
    pub context: ClusterContextStore,
    /// Metrics that record durations and outcomes.
    pub metrics: WebhookMetrics,
}

/// Webhook that answers reviews. It selects the operation by method and path itself: a general
/// router copies the request's parts into boxes and maps, which costs as much as the decision.
pub(crate) struct Webhook {
    state: WebhookState,
    body_reader: BodyReader,
    /// Permits for large reviews on blocking threads.
    large_reviews: Arc<Semaphore>,
}

/// Answer to a review, with its metrics labels.
struct LabelledAnswer {
    kind: &'static str,
    label: &'static str,
    bytes: Vec<u8>,
}

impl LabelledAnswer {
    fn new(review: &AdmissionReview<'_>, verdict: &AdmissionResponse) -> Self {
        Self {
            kind: review.kind_label(),
            label: verdict.label,
            bytes: serialize_answer(review, verdict),
        }
    }
}

/// Reason why a review was allowed without examination.
#[derive(Debug, Clone, Copy)]
enum UnexaminedReason {
    /// Exhausted memory budget for bodies.
    BudgetFull,
    /// Maximum number of large reviews in progress.
    PoolFull,
    /// Deadline exceeded.
    Deadline,
}

impl UnexaminedReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::BudgetFull => "budget_full",
            Self::PoolFull => "pool_full",
            Self::Deadline => "deadline",
        }
    }
}

async fn review_workload(
    shared: &Webhook,
    request: Request<impl HttpBody<Data = Bytes>>,
) -> Response {
    let started = Instant::now();
    let body = match shared.read_body(request, started).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let state = &shared.state;
    if body.bytes.len() <= MAX_INLINE_WORKLOAD_BYTES {
        match decide_and_queue_hint(state, &body.bytes, MAX_INLINE_IMAGES) {
            Ok(Some(answer)) => return state.respond(answer, started),
            Ok(None) => {}
            Err(refusal) => return state.respond_error(refusal, started),
        }
    }
    let Ok(permit) = Arc::clone(&shared.large_reviews).try_acquire_owned() else {
        // The identity of an object is read quickly, unless the review is large.
        if body.bytes.len() <= MAX_INLINE_WORKLOAD_BYTES
            && let Ok(review) = AdmissionReview::parse_workload(&body.bytes, &state.policy)
            && let Some(claim) = identity_hint(&review, &state.policy)
        {
            state.hints.offer(claim);
        }
        return state.allow_unexamined(UnexaminedReason::PoolFull, &body.bytes, started);
    };
    // The work continues after the deadline, because of the hint.
    let read =
        move |state: &WebhookState, bytes: &[u8]| decide_and_queue_hint(state, bytes, usize::MAX);
    state.decide_blocking(body, WORKLOAD_DEADLINE, permit, started, read).await
}

/// Decides a review of a workload and queues the resulting hint. Returns `None` if the object names
/// more than `most_images` images.
fn decide_and_queue_hint(
    state: &WebhookState,
    bytes: &[u8],
    most_images: usize,
) -> Result<Option<LabelledAnswer>, ReviewError> {
    let review = AdmissionReview::parse_workload(bytes, &state.policy)
        .map_err(|error| invalid_review(&error))?;
    let decided = decide_workload(&review, &state.policy, &state.context, most_images);
    let Some((verdict, claim)) = decided else { return Ok(None) };
    if let Some(reason) = verdict.one_shot {
        state.hints.count_one_shot(reason);
    }
    match claim {
        Some(claim) => {
            state.hints.offer(claim);
        }
        None if matches!(verdict.label, "opted_out" | "unidentified") => {
            state.hints.count_without_hint(verdict.label);
        }
        None => {}
    }
    Ok(Some(LabelledAnswer::new(&review, &verdict)))
}

async fn review_task(shared: &Webhook, request: Request<impl HttpBody<Data = Bytes>>) -> Response {
    let started = Instant::now();
    let body = match shared.read_body(request, started).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let state = &shared.state;
    let caps = Arc::clone(&state.policy.caps);
    let check = move |bytes: &[u8]| {
        let review = AdmissionReview::parse(bytes).map_err(|error| invalid_review(&error))?;
        Ok(LabelledAnswer::new(&review, &decide_task(&review, &caps)))
    };
    if body.bytes.len() <= MAX_INLINE_TASK_BYTES {
        return match check(&body.bytes) {
            Ok(answer) => state.respond(answer, started),
            Err(refusal) => state.respond_error(refusal, started),
        };
    }
    match tokio::time::timeout(TASK_DEADLINE, Arc::clone(&shared.large_reviews).acquire_owned())
        .await
    {
        Ok(Ok(permit)) => {
            let read = move |_: &WebhookState, bytes: &[u8]| check(bytes).map(Some);
            state.decide_blocking(body, TASK_DEADLINE, permit, started, read).await
        }
        _ => state.allow_unexamined(UnexaminedReason::PoolFull, &body.bytes, started),
    }
}

impl Webhook {
    /// Creates the webhook.
    pub(crate) fn new(state: WebhookState) -> Self {
        let large_reviews = Arc::new(Semaphore::new(MAX_LARGE_REVIEWS));
        Self { state, body_reader: BodyReader::default(), large_reviews }
    }

    /// Answers a request. A panic is a response of status 500.
    pub(crate) async fn respond(
        self: Arc<Self>,
        request: Request<impl HttpBody<Data = Bytes>>,
    ) -> Response {
        let answer = std::panic::AssertUnwindSafe(self.dispatch(request)).catch_unwind();
        answer.await.unwrap_or_else(|_| internal_error().into_response())
    }

    async fn dispatch(&self, request: Request<impl HttpBody<Data = Bytes>>) -> Response {
        let is_task = match request.uri().path() {
            WORKLOADS_PATH => false,
            TASKS_PATH => true,
            _ => return StatusCode::NOT_FOUND.into_response(),
        };
        if request.method() != Method::POST {
            return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response();
        }
        if is_task {
            review_task(self, request).await
        } else {
            review_workload(self, request).await
        }
    }

    /// Reads the body, or returns the response that rejects or allows the review without it.
    async fn read_body(
        &self,
        request: Request<impl HttpBody<Data = Bytes>>,
        started: Instant,
    ) -> Result<BufferedBody, Response> {
        let (parts, body) = request.into_parts();
        json_only(&parts.headers).map_err(|refusal| self.state.respond_error(refusal, started))?;
        match self.body_reader.read_body(&parts.headers, body).await {
            Ok(read) => Ok(read),
            Err(BodyError::Refused(refusal)) => Err(self.state.respond_error(refusal, started)),
            Err(BodyError::OverBudget(beginning)) => {
                Err(self.state.allow_unexamined(UnexaminedReason::BudgetFull, &beginning, started))
            }
        }
    }
}

impl RequestHandler for Arc<Webhook> {
    fn handle(
        &self,
        request: Request<Incoming>,
        _origin: RequestOrigin,
    ) -> BoxFuture<'static, Response> {
        Box::pin(Arc::clone(self).respond(request))
    }
}

impl WebhookState {
    fn respond(&self, answer: LabelledAnswer, started: Instant) -> Response {
        self.record_duration(answer.kind, answer.label, started);
        ([(header::CONTENT_TYPE, "application/json")], answer.bytes).into_response()
    }

    fn respond_error(&self, refusal: ReviewError, started: Instant) -> Response {
        self.record_duration("other", "invalid", started);
        refusal.into_response()
    }

    /// Allows a review without examination. `beginning` contains at least its first bytes. Without
    /// its UID a review cannot be allowed: then the call fails, and the API server continues
    /// without the webhook (`failurePolicy: Ignore`).
    fn allow_unexamined(
        &self,
        why: UnexaminedReason,
        beginning: &[u8],
        started: Instant,
    ) -> Response {
        self.metrics.reviews_unexamined.with_label_values(&[why.as_str()]).inc();
        if let Some(uid) = parse_uid(beginning) {
            return self.respond(
                LabelledAnswer { kind: "other", label: "unexamined", bytes: allow_response(uid) },
                started,
            );
        }
        let details = "too many admission reviews are in progress; retry later";
        self.respond_error(review_error(StatusCode::SERVICE_UNAVAILABLE, "busy", details), started)
    }

    /// Processes a large review on a blocking thread, and answers at the latest by the deadline.
    async fn decide_blocking(
        &self,
        body: BufferedBody,
        deadline: Duration,
        permit: tokio::sync::OwnedSemaphorePermit,
        started: Instant,
        read: impl FnOnce(&Self, &[u8]) -> Result<Option<LabelledAnswer>, ReviewError> + Send + 'static,
    ) -> Response {
        let beginning = body.bytes.slice(..body.bytes.len().min(UID_PREFIX_BYTES));
        let state = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(&state, &body.bytes)
        });
        match tokio::time::timeout(deadline, work).await {
            Ok(Ok(Ok(Some(answer)))) => self.respond(answer, started),
            Ok(Ok(Err(refusal))) => self.respond_error(refusal, started),
            // A panic: the runtime has logged it.
            Ok(Err(_) | Ok(Ok(None))) => self.respond_error(internal_error(), started),
            Err(_) => self.allow_unexamined(UnexaminedReason::Deadline, &beginning, started),
        }
    }

    fn record_duration(&self, kind: &str, verdict: &str, started: Instant) {
        self.metrics
            .admission_duration
            .with_label_values(&[kind, verdict])
            .observe(started.elapsed().as_secs_f64());
    }
}

fn internal_error() -> ReviewError {
    let details = "see the log of the server";
    review_error(StatusCode::INTERNAL_SERVER_ERROR, "internal error", details)
}

fn invalid_review(error: &ParseError) -> ReviewError {
    review_error(StatusCode::BAD_REQUEST, "not an AdmissionReview", &error.to_string())
}

fn json_only(headers: &HeaderMap) -> Result<(), ReviewError> {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let details = format!("Content-Type is {content_type:?}: send application/json");
    Err(review_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported media type", &details))
}

#[cfg(test)]
mod tests;
