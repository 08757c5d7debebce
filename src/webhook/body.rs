//! Reads bodies: within a size, a time, and a bound on the memory of all together.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Refusal, refuse};

/// Largest review, in bytes. The API server takes requests of up to 3 MiB, and a review carries the object twice, new and
/// old: 2 × 3 MiB, and 2 MiB for escapes and the envelope.
pub(super) const MAX_BODY: usize = 8 * 1024 * 1024;
/// All bodies at once, in KiB: eight of the largest, or thousands of the usual 10 KB.
const MAX_BODIES: usize = 64 * 1024;
/// A body that has not arrived by then comes from no API server: its own time-out is 30 s at most, and ours 1 s by default.
const PATIENCE: Duration = Duration::from_secs(5);

/// Room for bodies. Clones share it.
#[derive(Clone)]
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BODIES)))
    }
}

/// A body, and the room that it takes.
pub(super) struct Read {
    pub(super) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Bodies {
    /// Reads a body whole. The refusal says what was wrong.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Read, Refusal> {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let size: usize = announced.unwrap_or(MAX_BODY);
        if size > MAX_BODY {
            return Err(too_large());
        }
        let late = |_| {
            let details = format!("the body did not arrive within {} s", PATIENCE.as_secs());
            refuse(StatusCode::REQUEST_TIMEOUT, "request timeout", &details)
        };
        tokio::time::timeout(PATIENCE, self.read_in_room(size, body)).await.map_err(late)?
    }

    async fn read_in_room(&self, size: usize, body: Body) -> Result<Read, Refusal> {
        let room = u32::try_from(size / 1024 + 1).unwrap_or(u32::MAX);
        let closed = |_| refuse(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the server is being stopped");
        let room = Arc::clone(&self.0).acquire_many_owned(room).await.map_err(closed)?;
        let bytes = axum::body::to_bytes(body, size).await.map_err(|_| too_large())?;
        Ok(Read { bytes, _room: room })
    }
}

fn too_large() -> Refusal {
    let details = format!("a review may have at most {MAX_BODY} bytes, and must arrive whole");
    refuse(StatusCode::PAYLOAD_TOO_LARGE, "body too large", &details)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let refusal = Bodies::default().read(&HeaderMap::new(), stalled).await.err().unwrap();
        assert_eq!(refusal.status, StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_together_are_bounded_and_room_comes_back() {
        let bodies = Bodies::default();
        let none = HeaderMap::new();
        let one = || bodies.read(&none, Body::from("x"));
        let mut held = Vec::new();
        while let Ok(read) = one().await {
            held.push(read);
        }
        assert_eq!(held.len(), MAX_BODIES * 1024 / MAX_BODY - 1);
        held.pop();
        assert!(one().await.is_ok());
    }

    #[tokio::test]
    async fn a_length_that_is_announced_is_believed_only_so_far() {
        let headers = |length: usize| HeaderMap::from_iter([(header::CONTENT_LENGTH, length.into())]);
        let bodies = Bodies::default();
        let refused = |read: Result<Read, Refusal>| read.err().unwrap().status;
        assert_eq!(refused(bodies.read(&headers(MAX_BODY + 1), Body::from("x")).await), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(refused(bodies.read(&headers(3), Body::from("longer")).await), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(bodies.read(&headers(1), Body::from("x")).await.ok().unwrap().bytes.len(), 1);
    }
}
