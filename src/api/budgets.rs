//! Budgets that callers of the REST API share: bytes of bodies and responses, watches, and parsing
//! of manifests.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    ops::Deref,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};

use hyper::body::{Frame, SizeHint};

use super::{auth::Caller, error::ApiError, idempotency::KeyQuota};
use crate::server::budget::{BudgetExceeded, BudgetPermit, SharedBudget};

/// Bytes of all bodies that are being read or processed: 16 of the largest, or hundreds of the
/// usual 10 KB. The parsed form of a body takes up to four times as much memory (`bounded_json` bounds
/// it), which makes 64 MiB.
const TOTAL_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of the bodies of one caller.
pub(super) const CALLER_BODY_BYTES: usize = TOTAL_BODY_BYTES / 4;
/// Bytes of forms of unauthenticated clients, in total and per IP address: a hundred of the largest
/// forms at once.
const ANONYMOUS_FORM_BYTES: (usize, usize) = (4 * 1024 * 1024, 2 * 1024 * 1024);
/// Concurrent watches and live pages: 20 to 40 KB each, 160 MB at worst.
const MAX_WATCHES: usize = 4096;
/// Manifests that are parsed concurrently, in total and per caller. Each takes one thread and up to
/// 20 MB for at most two seconds.
const EXTRACTIONS: (usize, usize) = (2, 1);
/// Bytes of responses that clients have not read yet, in total and per caller. A page of 100 tasks
/// has 100 to 600 KB. A client that does not read keeps a response for 30 s (`server::listener`).
const UNREAD_RESPONSE_BYTES: (usize, usize) = (32 * 1024 * 1024, 8 * 1024 * 1024);
/// Responses smaller than this are not counted, in bytes: 250 of them on one connection are 4 MB.
const MIN_CHARGED_RESPONSE: usize = 16 * 1024;
/// Calls without a token from one IP address: per second, and as a burst. A page loads five files,
/// once a year; behind a proxy all clients have one address. Each is served from memory.
const ANONYMOUS_CALLS: (u32, u32) = (100, 400);
/// `Retry-After` when no further watch is permitted, in seconds.
const RETRY_AFTER: u64 = 10;

/// Byte budget for bodies, by caller, and the time in which a body must arrive.
pub(super) struct BodyBudget {
    bytes: SharedBudget<String>,
    pub(super) read_timeout: Duration,
}

impl Deref for BodyBudget {
    type Target = SharedBudget<String>;

    fn deref(&self) -> &Self::Target {
        &self.bytes
    }
}

/// Creates the budget for bodies of authenticated callers.
pub(super) fn body_budget(read_timeout: Duration) -> BodyBudget {
    BodyBudget { bytes: SharedBudget::new(TOTAL_BODY_BYTES, CALLER_BODY_BYTES), read_timeout }
}

/// Creates the budget for forms of unauthenticated clients. It is separate, so that they cannot
/// exhaust the budget of authenticated callers.
pub(super) fn anonymous_form_budget() -> SharedBudget<IpAddr> {
    SharedBudget::new(ANONYMOUS_FORM_BYTES.0, ANONYMOUS_FORM_BYTES.1)
}

/// Configurable limits of calls, most of them per caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerLimits {
    /// Concurrent watches and live pages of one caller; 32 by default.
    pub watches: usize,
    /// Stored `Idempotency-Key`s of one caller; 5000 by default.
    pub keys: usize,
    /// Time in which a body must arrive; 10 s by default.
    pub read_timeout: Duration,
    /// Time in which a call that is no watch must be answered; 30 s by default.
    pub response_timeout: Duration,
}

impl Default for CallerLimits {
    fn default() -> Self {
        Self {
            watches: 32,
            keys: 5000,
            read_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(30),
        }
    }
}

/// Budgets that callers share.
pub(super) struct CallerBudgets {
    pub(super) bodies: BodyBudget,
    pub(super) anonymous_forms: SharedBudget<IpAddr>,
    pub(super) idempotency_keys: KeyQuota,
    watches: SharedBudget<String>,
    extractions: SharedBudget<String>,
    unread_responses: SharedBudget<String>,
    anonymous_calls: DefaultKeyedRateLimiter<IpAddr>,
    limits: CallerLimits,
}

impl CallerBudgets {
    pub(super) fn new(limits: CallerLimits) -> Self {
        let positive = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota =
            Quota::per_second(positive(ANONYMOUS_CALLS.0)).allow_burst(positive(ANONYMOUS_CALLS.1));
        Self {
            bodies: body_budget(limits.read_timeout),
            anonymous_forms: anonymous_form_budget(),
            idempotency_keys: KeyQuota::new(limits.keys),
            watches: SharedBudget::new(MAX_WATCHES, limits.watches),
            extractions: SharedBudget::new(EXTRACTIONS.0, EXTRACTIONS.1),
            unread_responses: SharedBudget::new(UNREAD_RESPONSE_BYTES.0, UNREAD_RESPONSE_BYTES.1),
            anonymous_calls: RateLimiter::keyed(quota),
            limits,
        }
    }

    /// Reserves one watch for the caller; it is released on drop. Errors: 503 at the total limit,
    /// 429 at the caller's.
    pub(super) fn reserve_watch(&self, caller: &Caller) -> Result<BudgetPermit<String>, ApiError> {
        self.watches.try_acquire(caller.name.clone(), 1).map_err(|full| match full {
            BudgetExceeded::Total => {
                let words = format!("the limit of {MAX_WATCHES} open watches is reached: try again later");
                ApiError::retry_after(StatusCode::SERVICE_UNAVAILABLE, words, RETRY_AFTER)
            }
            BudgetExceeded::PerKey => {
                let most = self.limits.watches;
                let words =
                    format!("you have {most} open watches and live pages, the limit of one caller: close some of them");
                ApiError::retry_after(StatusCode::TOO_MANY_REQUESTS, words, RETRY_AFTER)
            }
        })
    }

    /// Returns the number of open watches and live pages.
    pub(super) fn open_watches(&self) -> usize {
        self.watches.used()
    }

    /// Reserves the parsing of one manifest; it is released on drop. Error 429 when the total or
    /// the caller's limit is reached.
    pub(super) fn reserve_extraction(
        &self,
        caller: &Caller,
    ) -> Result<BudgetPermit<String>, ApiError> {
        self.extractions.try_acquire(caller.name.clone(), 1).map_err(|_| {
            let (all, own) = EXTRACTIONS;
            let words = format!(
                "at most {all} manifests are parsed at the same time, {own} per caller: try again"
            );
            ApiError::retry_after(StatusCode::TOO_MANY_REQUESTS, words, 1)
        })
    }

    /// Charges a response to the budget until the client has read it. A response that exceeds the
    /// budget is replaced by an error: 503 at the total limit, 429 at the caller's.
    pub(super) fn charge_response(&self, who: &str, answer: Response) -> Response {
        let size =
            HttpBody::size_hint(answer.body()).exact().and_then(|size| usize::try_from(size).ok());
        let Some(size) = size.filter(|size| *size >= MIN_CHARGED_RESPONSE) else { return answer };
        match self.unread_responses.try_acquire(who.to_owned(), size) {
            Ok(taken) => answer.map(|body| Body::new(ChargedBody { body, _taken: taken })),
            Err(full) => {
                let (code, words) = match full {
                    BudgetExceeded::Total => (
                        StatusCode::SERVICE_UNAVAILABLE,
                        "too many responses to other calls are unread: try again",
                    ),
                    BudgetExceeded::PerKey => (
                        StatusCode::TOO_MANY_REQUESTS,
                        "too many responses to your other calls are unread: read them first",
                    ),
                };
                ApiError::retry_after(code, words, 1).into_response()
            }
        }
    }

    /// Counts a call without a token from an IP address. Error 429 when the rate limit is exceeded.
    pub(super) fn check_anonymous_call(&self, from: IpAddr) -> Result<(), ApiError> {
        self.anonymous_calls.check_key(&from).map_err(|until| {
            let wait = until
                .wait_time_from(self.anonymous_calls.clock().now())
                .as_secs()
                .saturating_add(1);
            let words = "too many calls without a token from this address";
            ApiError::retry_after(StatusCode::TOO_MANY_REQUESTS, words, wait)
        })
    }

    /// Removes the rate limits of addresses that have not called recently.
    pub(super) fn evict_idle(&self) {
        self.anonymous_calls.retain_recent();
    }
}

/// Response body with its share of the budget, which is released on drop.
struct ChargedBody {
    body: Body,
    _taken: BudgetPermit<String>,
}

impl HttpBody for ChargedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_responses_are_limited_in_total_and_per_caller() {
        let bounds = CallerBudgets::new(CallerLimits::default());
        let large = || Body::from(vec![0; 1024 * 1024]).into_response();
        let ask = |who: &str| bounds.charge_response(who, large());
        let mut held: Vec<Response> = (0..8).map(|_| ask("user:a")).collect();
        assert!(held.iter().all(|answer| answer.status() == StatusCode::OK));
        assert_eq!(ask("user:a").status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            bounds.charge_response("user:a", "small".into_response()).status(),
            StatusCode::OK
        );
        held.extend((0..24).map(|index| ask(&format!("user:b{index}"))));
        assert_eq!(ask("user:c").status(), StatusCode::SERVICE_UNAVAILABLE);
        held.truncate(1);
        assert_eq!(ask("user:a").status(), StatusCode::OK);
    }
}
