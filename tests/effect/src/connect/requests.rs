//! Requests to the API server, bounded in time and in the number of attempts.

use std::{future::Future, time::Duration};

use prewarmer_kube::api_error::ApiErrorKind;

use super::failures::shorten;

/// Pauses between the attempts of a request that may succeed later: five attempts, and 1.5 s of
/// pauses in all.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];
/// Time limit of one attempt. With [`PAUSES`] a request takes at most 5 × 10 s + 1.5 s = 51.5 s.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Part of the message of a 409 for a UID that does not match.
const PRECONDITION_MESSAGE: &str = "recondition";

/// Error of a request after its last attempt, with the shortened message of the API server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The object no longer exists, has another UID, or exists already.
    #[error("{0}")]
    Outdated(String),
    /// The same request would be rejected again.
    #[error("{0}")]
    Rejected(String),
    /// All attempts failed for another reason than the content of the request.
    #[error("{0}")]
    Transient(String),
    /// The API server did not answer the last attempt.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

impl RequestError {
    fn of(error: &kube::Error) -> Self {
        let text = match error {
            kube::Error::Api(status) => format!("{} {}", status.code, status.message),
            other => other.to_string(),
        };
        let is_precondition = text.contains(PRECONDITION_MESSAGE);
        let text = shorten(&text);
        match ApiErrorKind::of(error) {
            ApiErrorKind::Transient => Self::Transient(text),
            // Another client wrote at the same time, more often than the API server repeats a patch.
            ApiErrorKind::Conflict if !is_precondition => Self::Transient(text),
            kind if kind.is_gone_or_replaced() => Self::Outdated(text),
            _ => Self::Rejected(text),
        }
    }

    fn may_succeed_later(&self) -> bool {
        matches!(self, Self::Transient(_) | Self::Timeout)
    }
}

/// Sends a request until it succeeds, is rejected, or all attempts have failed. Calls `repeated`
/// before each further attempt.
pub async fn send<T, F: Future<Output = kube::Result<T>>>(
    mut repeated: impl FnMut(),
    request: impl Fn() -> F,
) -> Result<T, RequestError> {
    let mut pauses = PAUSES.iter();
    loop {
        let error = match tokio::time::timeout(TIMEOUT, request()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => RequestError::of(&error),
            Err(_) => RequestError::Timeout,
        };
        let Some(pause) = pauses.next().filter(|_| error.may_succeed_later()) else {
            return Err(error);
        };
        repeated();
        tokio::time::sleep(*pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future};

    use kube::core::Status;
    use rstest::rstest;
    use tokio::time::Instant;

    use super::*;

    fn error(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status::failure(message, "").with_code(code)))
    }

    #[rstest]
    #[case(404, "pods \"a\" not found", RequestError::Outdated("404 pods \"a\" not found".into()))]
    #[case(409, "Precondition failed: UID", RequestError::Outdated("409 Precondition failed: UID".into()))]
    #[case(409, "the object has been modified", RequestError::Transient("409 the object has been modified".into()))]
    #[case(422, "metadata.uid: field is immutable", RequestError::Outdated("422 metadata.uid: field is immutable".into()))]
    #[case(422, "spec: invalid", RequestError::Rejected("422 spec: invalid".into()))]
    #[case(403, "no", RequestError::Rejected("403 no".into()))]
    #[case(429, "slow down", RequestError::Transient("429 slow down".into()))]
    #[case(500, "etcd", RequestError::Transient("500 etcd".into()))]
    fn errors_are_classified(
        #[case] code: u16,
        #[case] text: &str,
        #[case] expected: RequestError,
    ) {
        assert_eq!(RequestError::of(&error(code, text)), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_error_is_repeated_five_times_at_most() {
        let (sent, repeated, begun) = (Cell::new(0), Cell::new(0), Instant::now());
        let result = send(
            || repeated.set(repeated.get() + 1),
            || {
                sent.set(sent.get() + 1);
                future::ready(kube::Result::<()>::Err(error(500, "etcd")))
            },
        );
        assert_eq!(result.await, Err(RequestError::Transient("500 etcd".into())));
        assert_eq!((sent.get(), repeated.get()), (5, 4));
        assert_eq!(begun.elapsed().as_millis(), 1_500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_request_is_not_repeated() {
        let sent = Cell::new(0);
        let result = send(
            || panic!("repeated"),
            || {
                sent.set(sent.get() + 1);
                future::ready(kube::Result::<()>::Err(error(422, "spec: invalid")))
            },
        );
        assert_eq!(result.await, Err(RequestError::Rejected("422 spec: invalid".into())));
        assert_eq!(sent.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_request_ends_at_its_time_limit() {
        let begun = Instant::now();
        let result = send(|| (), future::pending::<kube::Result<()>>);
        assert_eq!(result.await, Err(RequestError::Timeout));
        assert_eq!(begun.elapsed().as_millis(), 51_500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_attempt_may_succeed() {
        let sent = Cell::new(0);
        let result = send(
            || (),
            || {
                sent.set(sent.get() + 1);
                future::ready(if sent.get() < 3 { Err(error(503, "busy")) } else { Ok(7) })
            },
        );
        assert_eq!(result.await, Ok(7));
    }
}
