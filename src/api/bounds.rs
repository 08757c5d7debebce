//! What callers of REST share: room for bodies, places to watch, turns to have a manifest read.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};

use hyper::body::{Frame, SizeHint};

use super::{
    auth::Caller,
    body::{self, Bodies},
    error::ApiError,
    idempotency::Keys,
};
use crate::server::budget::{Budget, Full, Taken};

/// Watches and live pages at once: with 20 to 40 KB each, 160 MB at the worst.
const MAX_WATCHES: usize = 4096;
/// Manifests that are read at once, and of one caller. Each takes a thread, and up to 20 MB, for two seconds at the most.
const EXTRACTIONS: (usize, usize) = (2, 1);
/// Answers that wait for their reader, in bytes, and those of one caller. A page of 100 tasks has 100 to 600 KB. One who asks and
/// does not read holds them for 30 s (`server::listener`).
const ANSWERS: (usize, usize) = (32 * 1024 * 1024, 8 * 1024 * 1024);
/// Smaller answers are not counted: 250 of them on a connection are 4 MB.
const SMALL: usize = 16 * 1024;
/// Calls without a token from one address, in a second and at once. A page asks for five files, once a year; behind a proxy all
/// readers have one address. Each is answered from memory.
const OPEN_CALLS: (u32, u32) = (100, 400);
/// When a caller is asked to come again.
const LATER: u64 = 10;

/// Limits that settings set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Watches and live pages of each caller.
    pub watches: usize,
    /// Remembered `Idempotency-Key`s of each caller.
    pub keys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { watches: 32, keys: 5000 }
    }
}

/// What callers share.
pub(super) struct Bounds {
    pub(super) bodies: Bodies,
    pub(super) strangers: Budget<IpAddr>,
    pub(super) keys: Keys,
    watches: Budget<String>,
    extractions: Budget<String>,
    answers: Budget<String>,
    open: DefaultKeyedRateLimiter<IpAddr>,
    limits: Limits,
}

impl Bounds {
    pub(super) fn new(limits: Limits) -> Self {
        let positive = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(positive(OPEN_CALLS.0)).allow_burst(positive(OPEN_CALLS.1));
        Self {
            bodies: body::bodies(),
            strangers: body::strangers(),
            keys: Keys::new(limits.keys),
            watches: Budget::new(MAX_WATCHES, limits.watches),
            extractions: Budget::new(EXTRACTIONS.0, EXTRACTIONS.1),
            answers: Budget::new(ANSWERS.0, ANSWERS.1),
            open: RateLimiter::keyed(quota),
            limits,
        }
    }

    /// A place to watch.
    pub(super) fn watch(&self, caller: &Caller) -> Result<Taken<String>, ApiError> {
        self.watches.take(caller.name.clone(), 1).map_err(|full| match full {
            Full::Total => {
                let words = format!("{MAX_WATCHES} watches are open, which is all that there may be");
                ApiError::later(StatusCode::SERVICE_UNAVAILABLE, words, LATER)
            }
            Full::Own => {
                let most = self.limits.watches;
                let words =
                    format!("you have {most} watches or live pages open, which is all that one caller may have");
                ApiError::later(StatusCode::TOO_MANY_REQUESTS, words, LATER)
            }
        })
    }

    /// How many watch.
    pub(super) fn watching(&self) -> usize {
        self.watches.used()
    }

    /// A turn to have a manifest read.
    pub(super) fn extraction(&self, caller: &Caller) -> Result<Taken<String>, ApiError> {
        self.extractions.take(caller.name.clone(), 1).map_err(|_| {
            let (all, own) = EXTRACTIONS;
            let words = format!("{all} manifests are read at once, and {own} of each caller: try again");
            ApiError::later(StatusCode::TOO_MANY_REQUESTS, words, 1)
        })
    }

    /// Counts an answer for as long as its reader has not taken it. One that is too much is left out.
    pub(super) fn answer(&self, who: &str, answer: Response) -> Response {
        let size = HttpBody::size_hint(answer.body()).exact().and_then(|size| usize::try_from(size).ok());
        let Some(size) = size.filter(|size| *size >= SMALL) else { return answer };
        match self.answers.take(who.to_owned(), size) {
            Ok(taken) => answer.map(|body| Body::new(Held { body, _taken: taken })),
            Err(full) => {
                let (code, words) = match full {
                    Full::Total => (StatusCode::SERVICE_UNAVAILABLE, "answers to other calls wait to be read"),
                    Full::Own => {
                        (StatusCode::TOO_MANY_REQUESTS, "answers to your other calls wait to be read: read them first")
                    }
                };
                ApiError::later(code, words, 1).into_response()
            }
        }
    }

    /// Counts a call that needs no token.
    pub(super) fn open_call(&self, from: IpAddr) -> Result<(), ApiError> {
        self.open.check_key(&from).map_err(|until| {
            let wait = until.wait_time_from(self.open.clock().now()).as_secs().saturating_add(1);
            let words = "too many calls without a token from this address";
            ApiError::later(StatusCode::TOO_MANY_REQUESTS, words, wait)
        })
    }

    /// Forgets addresses that have not called for long.
    pub(super) fn forget(&self) {
        self.open.retain_recent();
    }
}

/// A body, and the room that it takes.
struct Held {
    body: Body,
    _taken: Taken<String>,
}

impl HttpBody for Held {
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
    fn answers_that_wait_are_bounded() {
        let bounds = Bounds::new(Limits::default());
        let large = || Body::from(vec![0; 1024 * 1024]).into_response();
        let ask = |who: &str| bounds.answer(who, large());
        let mut held: Vec<Response> = (0..8).map(|_| ask("user:a")).collect();
        assert!(held.iter().all(|answer| answer.status() == StatusCode::OK));
        assert_eq!(ask("user:a").status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(bounds.answer("user:a", "small".into_response()).status(), StatusCode::OK);
        held.extend((0..24).map(|index| ask(&format!("user:b{index}"))));
        assert_eq!(ask("user:c").status(), StatusCode::SERVICE_UNAVAILABLE);
        held.truncate(1);
        assert_eq!(ask("user:a").status(), StatusCode::OK);
    }
}
