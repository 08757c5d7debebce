//! Reads bodies: within a size, a time, and a bound on the memory of all together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
};
use bytes::BytesMut;
use futures::StreamExt;

use super::{Refusal, refuse};

/// Largest review, in bytes. The API server takes requests of up to 3 MiB, and a review carries the object twice, new and
/// old: 2 × 3 MiB, and 2 MiB for escapes and the envelope.
pub(super) const MAX_BODY: usize = 8 * 1024 * 1024;
/// All bodies at once, in bytes: three of the largest and the small ones, or thousands of the usual 10 KB. A quarter of the
/// 128 MB to which tests/e2e/hostile.rs bounds the whole process.
const MAX_BODIES: usize = 32 * 1024 * 1024;
/// Bodies of up to this size are small: six times the usual one.
const SMALL: usize = 64 * 1024;
/// Room that only small bodies get, in bytes: 128 of the largest of them at once. However many large ones are under way or stand
/// still, small ones are read.
const FOR_SMALL: usize = 8 * 1024 * 1024;
/// A body that has not arrived by then comes from no API server: its own time-out is 30 s at most, and ours 1 s by default.
const PATIENCE: Duration = Duration::from_secs(5);

/// Room for bodies. Clones share it. A body takes room for what has arrived of it, and not for what it announces.
#[derive(Clone, Default)]
pub(super) struct Bodies(Arc<AtomicUsize>);

/// A body, and the room that it takes.
pub(super) struct Read {
    pub(super) bytes: Bytes,
    _room: Room,
}

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// Something is wrong with it.
    Refused(Refusal),
    /// There is no room for it. This is what had arrived of it.
    Full(Bytes),
}

/// Room of one body; free again when this is dropped.
struct Room {
    all: Arc<AtomicUsize>,
    taken: usize,
}

impl Room {
    /// Takes room for `size` bytes in all, if there is that much.
    fn grow(&mut self, size: usize) -> bool {
        let more = size.saturating_sub(self.taken);
        let most = if size <= SMALL { MAX_BODIES } else { MAX_BODIES - FOR_SMALL };
        let grown = |used: usize| used.checked_add(more).filter(|sum| *sum <= most);
        let fits = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if fits {
            self.taken += more;
        }
        fits
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

impl Bodies {
    /// Reads a body whole. Never waits for room.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Read, Unread> {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|size: usize| size > MAX_BODY) {
            return Err(Unread::Refused(too_large()));
        }
        let late = |_| {
            let details = format!("the body did not arrive within {} s", PATIENCE.as_secs());
            Unread::Refused(refuse(StatusCode::REQUEST_TIMEOUT, "request timeout", &details))
        };
        tokio::time::timeout(PATIENCE, self.read_in_room(announced.unwrap_or(MAX_BODY), body)).await.map_err(late)?
    }

    /// Reads at most `limit` bytes. Most bodies are one chunk, which is not copied.
    async fn read_in_room(&self, limit: usize, body: Body) -> Result<Read, Unread> {
        let mut room = Room { all: Arc::clone(&self.0), taken: 0 };
        let mut chunks = body.into_data_stream();
        let mut next = async |read: usize| match chunks.next().await {
            Some(Ok(chunk)) if chunk.len() <= limit - read => Ok(Some(chunk)),
            None => Ok(None),
            Some(_) => Err(Unread::Refused(too_large())),
        };
        let first = next(0).await?.unwrap_or_default();
        if !room.grow(first.len()) {
            return Err(Unread::Full(first));
        }
        let Some(mut chunk) = next(first.len()).await? else { return Ok(Read { bytes: first, _room: room }) };
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&first);
        drop(first);
        loop {
            let needed = bytes.len() + chunk.len();
            if needed > bytes.capacity() {
                // Doubled, so that a body of many chunks is copied a few times only; room is taken for all of it.
                let capacity = needed.max(2 * bytes.capacity()).min(limit.max(needed));
                if !room.grow(capacity) && !room.grow(needed) {
                    return Err(Unread::Full(bytes.freeze()));
                }
                bytes.reserve(room.taken.max(needed) - bytes.len());
            }
            bytes.extend_from_slice(&chunk);
            match next(bytes.len()).await? {
                Some(further) => chunk = further,
                None => return Ok(Read { bytes: bytes.freeze(), _room: room }),
            }
        }
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

    /// A body of which `size` bytes arrive, in chunks as hyper gives them, and no more.
    fn stalled(size: usize) -> Body {
        let chunks = (0..size / 16_384).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b' '; 16_384])));
        Body::from_stream(stream::iter(chunks.collect::<Vec<_>>()).chain(stream::pending()))
    }

    fn refused(read: Result<Read, Unread>) -> StatusCode {
        match read.err().unwrap() {
            Unread::Refused(refusal) => refusal.status,
            Unread::Full(_) => panic!("there was no room"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let read = Bodies::default().read(&HeaderMap::new(), stalled(0)).await;
        assert_eq!(refused(read), StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_stall_do_not_delay_a_small_one() {
        let (bodies, none) = (Bodies::default(), HeaderMap::new());
        let mut slow = Vec::new();
        for size in [0, MAX_BODY - 16_384] {
            for _ in 0..8 {
                let bodies = bodies.clone();
                slow.push(tokio::spawn(async move { bodies.read(&HeaderMap::new(), stalled(size)).await.err() }));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = tokio::time::Instant::now();
        for _ in 0..100 {
            assert!(bodies.read(&none, Body::from(vec![b' '; SMALL])).await.is_ok());
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "a small body waited");
        let full = slow.remove(slow.len() - 1).await.unwrap().unwrap();
        assert!(matches!(full, Unread::Full(prefix) if !prefix.is_empty()), "the last of the large ones finds no room");
        for one in slow {
            one.await.unwrap();
        }
        assert_eq!(bodies.0.load(Ordering::Relaxed), 0, "room was lost");
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_together_are_bounded_and_room_comes_back() {
        let (bodies, none) = (Bodies::default(), HeaderMap::new());
        let one = || bodies.read(&none, Body::from(vec![b' '; MAX_BODY]));
        let mut held = Vec::new();
        while let Ok(read) = one().await {
            held.push(read);
        }
        assert_eq!(held.len(), (MAX_BODIES - FOR_SMALL) / MAX_BODY);
        held.pop();
        assert!(one().await.is_ok());
    }

    #[tokio::test]
    async fn a_body_of_many_chunks_is_read_whole_and_takes_room_for_what_it_holds() {
        let (bodies, none) = (Bodies::default(), HeaderMap::new());
        let chunks: Vec<_> = (0..100_u8).map(|n| Ok::<_, Infallible>(Bytes::from(vec![n; 1000]))).collect();
        let read = bodies.read(&none, Body::from_stream(stream::iter(chunks))).await.ok().unwrap();
        assert_eq!((read.bytes.len(), read.bytes[99_999]), (100_000, 99));
        let held = bodies.0.load(Ordering::Relaxed);
        assert!((100_000..=200_000).contains(&held), "{held}");
        drop(read);
        assert_eq!(bodies.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_length_that_is_announced_is_believed_only_so_far() {
        let headers = |length: usize| HeaderMap::from_iter([(header::CONTENT_LENGTH, length.into())]);
        let bodies = Bodies::default();
        assert_eq!(refused(bodies.read(&headers(MAX_BODY + 1), Body::from("x")).await), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(refused(bodies.read(&headers(3), Body::from("longer")).await), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(bodies.read(&headers(1), Body::from("x")).await.ok().unwrap().bytes.len(), 1);
    }
}
