//! Reading of request bodies within a size limit, a timeout and a memory budget for all bodies.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Bytes, HttpBody},
    http::{HeaderMap, StatusCode, header},
};
use bytes::BytesMut;
use futures::StreamExt;
use http_body_util::BodyExt;

use super::error::{ReviewError, review_error};

/// Maximum size of an admission review, in bytes. The API server accepts requests of up to 3 MiB,
/// and a review contains the object twice, new and old: 2 × 3 MiB, and 2 MiB for escapes and the
/// envelope.
pub(super) const MAX_BODY: usize = 8 * 1024 * 1024;
/// Memory budget of all bodies together, in bytes: three of the largest next to the small ones, or
/// thousands of the usual 10 KB. A quarter of the 128 MB that tests/e2e/hostile.rs sets as the
/// limit for the entire process.
const BODY_BUDGET: usize = 32 * 1024 * 1024;
/// Maximum size of a small body, in bytes: six times the usual size.
const MAX_SMALL_BODY: usize = 64 * 1024;
/// Part of the budget that is reserved for small bodies, in bytes: enough for 128 small bodies of
/// maximum size. Small bodies are read regardless of the number of large ones that are in progress
/// or stalled.
const SMALL_BODY_RESERVE: usize = 8 * 1024 * 1024;
/// Timeout for reading a body. A slower body does not come from an API server, whose own timeout is
/// at most 30 s, and by default 1 s for this webhook.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reader of bodies within a memory budget. Clones share the budget. A body reserves memory for the
/// bytes that have arrived, not for its announced length.
#[derive(Clone, Default)]
pub(super) struct BodyReader(Arc<AtomicUsize>);

/// Body with its memory reservation.
pub(super) struct BufferedBody {
    pub(super) bytes: Bytes,
    _reservation: BudgetReservation,
}

/// Reason why a body was not read.
#[derive(Debug)]
pub(super) enum BodyError {
    /// Invalid or late body.
    Refused(ReviewError),
    /// Exhausted memory budget, with the bytes that arrived before.
    OverBudget(Bytes),
}

/// Memory reservation of one body, released on drop.
struct BudgetReservation {
    used: Arc<AtomicUsize>,
    reserved: usize,
}

impl BudgetReservation {
    /// Grows the reservation to `size` bytes in total, and reports whether the budget allows it.
    fn try_grow_to(&mut self, size: usize) -> bool {
        let more = size.saturating_sub(self.reserved);
        let most =
            if size <= MAX_SMALL_BODY { BODY_BUDGET } else { BODY_BUDGET - SMALL_BODY_RESERVE };
        let grown = |used: usize| used.checked_add(more).filter(|sum| *sum <= most);
        let fits = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if fits {
            self.reserved += more;
        }
        fits
    }
}

impl Drop for BudgetReservation {
    fn drop(&mut self) {
        self.used.fetch_sub(self.reserved, Ordering::Relaxed);
    }
}

impl BodyReader {
    /// Reads an entire body. Never waits for memory of the budget.
    pub(super) async fn read_body(
        &self,
        headers: &HeaderMap,
        body: impl HttpBody<Data = Bytes>,
    ) -> Result<BufferedBody, BodyError> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|size: usize| size > MAX_BODY) {
            return Err(BodyError::Refused(too_large()));
        }
        let late = |_| {
            let details = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            BodyError::Refused(review_error(
                StatusCode::REQUEST_TIMEOUT,
                "request timeout",
                &details,
            ))
        };
        tokio::time::timeout(BODY_TIMEOUT, self.read_chunks(announced.unwrap_or(MAX_BODY), body))
            .await
            .map_err(late)?
    }

    /// Reads at most `limit` bytes. Most bodies consist of one chunk, which is not copied.
    async fn read_chunks(
        &self,
        limit: usize,
        body: impl HttpBody<Data = Bytes>,
    ) -> Result<BufferedBody, BodyError> {
        let mut room = BudgetReservation { used: Arc::clone(&self.0), reserved: 0 };
        let mut chunks = pin!(body.into_data_stream());
        let mut next = async |read: usize| match chunks.next().await {
            Some(Ok(chunk)) if chunk.len() <= limit - read => Ok(Some(chunk)),
            None => Ok(None),
            Some(_) => Err(BodyError::Refused(too_large())),
        };
        let first = next(0).await?.unwrap_or_default();
        if !room.try_grow_to(first.len()) {
            return Err(BodyError::OverBudget(first));
        }
        let Some(mut chunk) = next(first.len()).await? else {
            return Ok(BufferedBody { bytes: first, _reservation: room });
        };
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&first);
        drop(first);
        loop {
            let needed = bytes.len() + chunk.len();
            if needed > bytes.capacity() {
                // The capacity doubles, so that a body of many chunks is copied only a few times.
                // The reservation covers the entire capacity.
                let capacity = needed.max(2 * bytes.capacity()).min(limit.max(needed));
                if !room.try_grow_to(capacity) && !room.try_grow_to(needed) {
                    return Err(BodyError::OverBudget(bytes.freeze()));
                }
                bytes.reserve(room.reserved.max(needed) - bytes.len());
            }
            bytes.extend_from_slice(&chunk);
            match next(bytes.len()).await? {
                Some(further) => chunk = further,
                None => return Ok(BufferedBody { bytes: bytes.freeze(), _reservation: room }),
            }
        }
    }
}

fn too_large() -> ReviewError {
    let details = format!("an admission review must be complete and have at most {MAX_BODY} bytes");
    review_error(StatusCode::PAYLOAD_TOO_LARGE, "body too large", &details)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures::stream;

    use super::*;

    /// Returns a body that delivers `size` bytes in chunks of hyper's size, and then stalls.
    fn stalled_body(size: usize) -> Body {
        let chunks =
            (0..size / 16_384).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b' '; 16_384])));
        Body::from_stream(stream::iter(chunks.collect::<Vec<_>>()).chain(stream::pending()))
    }

    fn rejection_status(read: Result<BufferedBody, BodyError>) -> StatusCode {
        match read.err().unwrap() {
            BodyError::Refused(refusal) => refusal.status,
            BodyError::OverBudget(_) => panic!("the memory budget is exhausted"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_body_times_out() {
        let read = BodyReader::default().read_body(&HeaderMap::new(), stalled_body(0)).await;
        assert_eq!(rejection_status(read), StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_bodies_do_not_delay_small_body() {
        let (bodies, none) = (BodyReader::default(), HeaderMap::new());
        let mut slow = Vec::new();
        for size in [0, MAX_BODY - 16_384] {
            for _ in 0..8 {
                let bodies = bodies.clone();
                slow.push(tokio::spawn(async move {
                    bodies.read_body(&HeaderMap::new(), stalled_body(size)).await.err()
                }));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = tokio::time::Instant::now();
        for _ in 0..100 {
            assert!(bodies.read_body(&none, Body::from(vec![b' '; MAX_SMALL_BODY])).await.is_ok());
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "a small body waited");
        let full = slow.remove(slow.len() - 1).await.unwrap().unwrap();
        assert!(
            matches!(full, BodyError::OverBudget(prefix) if !prefix.is_empty()),
            "the last large body exceeds the budget"
        );
        for one in slow {
            one.await.unwrap();
        }
        assert_eq!(bodies.0.load(Ordering::Relaxed), 0, "a reservation was not released");
    }

    #[tokio::test(start_paused = true)]
    async fn budget_bounds_all_bodies_and_is_released() {
        let (bodies, none) = (BodyReader::default(), HeaderMap::new());
        let one = || bodies.read_body(&none, Body::from(vec![b' '; MAX_BODY]));
        let mut held = Vec::new();
        while let Ok(read) = one().await {
            held.push(read);
        }
        assert_eq!(held.len(), (BODY_BUDGET - SMALL_BODY_RESERVE) / MAX_BODY);
        held.pop();
        assert!(one().await.is_ok());
    }

    #[tokio::test]
    async fn chunked_body_is_read_completely_and_reserves_its_size() {
        let (bodies, none) = (BodyReader::default(), HeaderMap::new());
        let chunks: Vec<_> =
            (0..100_u8).map(|n| Ok::<_, Infallible>(Bytes::from(vec![n; 1000]))).collect();
        let read =
            bodies.read_body(&none, Body::from_stream(stream::iter(chunks))).await.ok().unwrap();
        assert_eq!((read.bytes.len(), read.bytes[99_999]), (100_000, 99));
        let held = bodies.0.load(Ordering::Relaxed);
        assert!((100_000..=200_000).contains(&held), "{held}");
        drop(read);
        assert_eq!(bodies.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn body_longer_than_content_length_is_rejected() {
        let headers =
            |length: usize| HeaderMap::from_iter([(header::CONTENT_LENGTH, length.into())]);
        let bodies = BodyReader::default();
        assert_eq!(
            rejection_status(bodies.read_body(&headers(MAX_BODY + 1), Body::from("x")).await),
            StatusCode::PAYLOAD_TOO_LARGE
        );
        assert_eq!(
            rejection_status(bodies.read_body(&headers(3), Body::from("longer")).await),
            StatusCode::PAYLOAD_TOO_LARGE
        );
        assert_eq!(
            bodies.read_body(&headers(1), Body::from("x")).await.ok().unwrap().bytes.len(),
            1
        );
    }
}
