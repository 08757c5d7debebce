//! Table of the open connections of a listener, with limits in total and per peer, and eviction at
//! these limits.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Divisor of the number of connections that one eviction closes at a limit: 7 of 1,000. Several
/// are closed at once so that the search is not repeated for each new connection.
const EVICTION_DIVISOR: usize = 128;

/// Time that a connection has to send its first request before it may be evicted for a connection
/// of another peer. Without it a burst of connections evicts a client whose request has arrived and
/// was not read yet. It bounds the connections that a full listener accepts: 256 in 20 ms are
/// 12,800 per second.
pub(super) const EVICTION_GRACE: Duration = Duration::from_millis(20);

/// Timeouts of a connection without activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionTimeouts {
    /// Timeout from the accept to the first request.
    pub first_request: Duration,
    /// Idle timeout between two requests.
    pub idle: Duration,
    /// Timeout of a response of which the peer reads nothing.
    pub stalled: Duration,
}

/// Action on a connection after a check of its timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeoutAction {
    Keep,
    /// Graceful shutdown: the peer may send no further request.
    Shutdown,
    /// Immediate close.
    Close,
}

/// Time that an idle connection has to end after the start of a graceful shutdown, before it is
/// closed.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Activity of a connection, written by its requests and read by the listener.
pub(super) struct ConnectionState {
    peer: IpAddr,
    opened: Instant,
    requests_in_progress: AtomicUsize,
    has_begun: AtomicBool,
    has_completed: AtomicBool,
    upgraded: AtomicBool,
    /// Number of responses with a chunk that the peer has not read yet.
    pending_chunks: AtomicUsize,
    /// Time of the last activity, in milliseconds since `opened`: start or end of a request, or
    /// progress of a response.
    last_activity: AtomicU64,
    evicted: Notify,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl ConnectionState {
    pub(super) fn new(peer: IpAddr) -> Self {
        Self {
            peer,
            opened: Instant::now(),
            requests_in_progress: AtomicUsize::new(0),
            has_begun: AtomicBool::new(false),
            has_completed: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            pending_chunks: AtomicUsize::new(0),
            last_activity: AtomicU64::new(0),
            evicted: Notify::new(),
        }
    }

    fn touch(&self) {
        self.last_activity.store(millis(self.opened.elapsed()), Ordering::Relaxed);
    }

    /// Resolves when the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Returns the action that the timeouts require now.
    pub(super) fn timeout_action(&self, times: &ConnectionTimeouts) -> TimeoutAction {
        let age = self.opened.elapsed();
        let still =
            age.saturating_sub(Duration::from_millis(self.last_activity.load(Ordering::Relaxed)));
        let under_way = self.requests_in_progress.load(Ordering::Relaxed);
        let waits = self.pending_chunks.load(Ordering::Relaxed) > 0;
        timeout_action_after(times, under_way, waits, self.has_begun.load(Ordering::Relaxed), still)
    }
}

/// Returns the action that the timeouts require after `still` without activity.
fn timeout_action_after(
    times: &ConnectionTimeouts,
    under_way: usize,
    waits: bool,
    has_begun: bool,
    still: Duration,
) -> TimeoutAction {
    match (under_way, has_begun) {
        (0, false) if still >= times.first_request => TimeoutAction::Close,
        (0, true) if still >= times.idle.saturating_add(SHUTDOWN_GRACE) => TimeoutAction::Close,
        (0, true) if still >= times.idle => TimeoutAction::Shutdown,
        (1.., _) if waits && still >= times.stalled => TimeoutAction::Close,
        _ => TimeoutAction::Keep,
    }
}

/// Guard of a request in progress, from its head to the end of its response.
pub(super) struct RequestGuard(Arc<ConnectionState>);

impl RequestGuard {
    pub(super) fn begin(connection: &Arc<ConnectionState>) -> Self {
        connection.requests_in_progress.fetch_add(1, Ordering::Relaxed);
        connection.has_begun.store(true, Ordering::Relaxed);
        connection.touch();
        Self(Arc::clone(connection))
    }

    /// Records that a chunk of the response waits for the peer, or (`false`) that the peer has read
    /// it.
    pub(super) fn set_chunk_pending(&self, waits: bool) {
        if waits {
            self.0.pending_chunks.fetch_add(1, Ordering::Relaxed);
        } else {
            self.0.pending_chunks.fetch_sub(1, Ordering::Relaxed);
        }
        self.0.touch();
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.touch();
        self.0.has_completed.store(true, Ordering::Relaxed);
        self.0.requests_in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Slot of a connection in the table of its listener. Dropping the last clone frees it. HTTP/1.1
/// requests have a clone in their extensions, so that a WebSocket keeps the slot of the connection
/// from which it was upgraded.
#[derive(Clone)]
pub(crate) struct ConnectionSlot(Arc<SlotInner>);

struct SlotInner {
    table: Arc<ConnectionTable>,
    id: u64,
    connection: Arc<ConnectionState>,
}

impl ConnectionSlot {
    pub(super) fn connection(&self) -> &Arc<ConnectionState> {
        &self.0.connection
    }

    /// Marks the connection as upgraded from HTTP, which excludes it from eviction.
    pub(crate) fn mark_upgraded(&self) {
        self.0.connection.upgraded.store(true, Ordering::Relaxed);
    }
}

impl Drop for SlotInner {
    fn drop(&mut self) {
        self.table.lock().remove(self.id);
    }
}

#[derive(Default)]
struct OpenConnections {
    next_id: u64,
    by_id: HashMap<u64, Arc<ConnectionState>>,
    count_by_peer: HashMap<IpAddr, usize>,
}

impl OpenConnections {
    fn remove(&mut self, id: u64) -> Option<Arc<ConnectionState>> {
        let gone = self.by_id.remove(&id)?;
        if let Some(count) = self.count_by_peer.get_mut(&gone.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.count_by_peer.remove(&gone.peer);
            }
        }
        Some(gone)
    }

    fn peer_count(&self, peer: IpAddr) -> usize {
        self.count_by_peer.get(&peer).copied().unwrap_or_default()
    }

    /// Evicts up to `many` connections, of the peer `only` where it is set, for a new one of
    /// `peer`. Spares connections without a completed request for `grace`.
    fn evict(
        &mut self,
        peer: IpAddr,
        only: Option<IpAddr>,
        many: usize,
        grace: Duration,
    ) -> Eviction {
        let all = self.by_id.iter().filter(|(_, one)| only.is_none_or(|only| one.peer == only));
        let candidates =
            all.filter(|(_, one)| !one.upgraded.load(Ordering::Relaxed)).map(|(id, one)| {
                EvictionCandidate {
                    id: *id,
                    peer_count: self.peer_count(one.peer),
                    idle: one.requests_in_progress.load(Ordering::Relaxed) == 0,
                    completed: one.has_completed.load(Ordering::Relaxed),
                    last_activity: one.opened
                        + Duration::from_millis(one.last_activity.load(Ordering::Relaxed)),
                }
            });
        let victims = select_victims(candidates.collect(), self.peer_count(peer), many);
        let Some(first) = victims.iter().map(|one| one.remaining_grace(grace)).min() else {
            return Eviction::Impossible;
        };
        for one in victims.iter().filter(|one| one.remaining_grace(grace).is_zero()) {
            if let Some(gone) = self.remove(one.id) {
                gone.evicted.notify_one();
            }
        }
        if first.is_zero() { Eviction::Evicted } else { Eviction::PossibleAfter(first) }
    }
}

/// Result of an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eviction {
    Evicted,
    /// All candidates are younger than the grace.
    PossibleAfter(Duration),
    /// Every connection is upgraded or has a request in progress.
    Impossible,
}

/// Decision on a new connection.
pub(super) enum Admission {
    Admitted(ConnectionSlot),
    /// The listener is full and no connection may be evicted yet: ask again after this time.
    Delayed(Duration),
    /// The limit of the listener or of the peer address is reached and no connection may be
    /// evicted.
    Refused,
}

/// Connection that may be evicted.
#[derive(Debug, Clone, Copy)]
struct EvictionCandidate {
    id: u64,
    /// Number of connections of its peer.
    peer_count: usize,
    /// `true`: no request is in progress.
    idle: bool,
    /// `true`: at least one request was answered.
    completed: bool,
    /// Time of the last activity.
    last_activity: Instant,
}

impl EvictionCandidate {
    fn remaining_grace(&self, grace: Duration) -> Duration {
        if !self.idle || self.completed {
            return Duration::ZERO;
        }
        grace.saturating_sub(self.last_activity.elapsed())
    }
}

/// Selects up to `many` connections to evict for a new connection whose peer has `own` connections.
///
/// Idle connections are evicted first: those without a completed request before others, then those
/// of the peers with most connections, then the longest idle. Where no connection is idle, one of a
/// peer with more connections than the new peer is evicted, so that a peer with a request in
/// progress on every connection cannot block others.
fn select_victims(
    mut candidates: Vec<EvictionCandidate>,
    own: usize,
    many: usize,
) -> Vec<EvictionCandidate> {
    let key = |one: &EvictionCandidate| (one.completed, Reverse(one.peer_count), one.last_activity);
    let busiest = candidates
        .iter()
        .filter(|one| one.peer_count > own.saturating_add(1))
        .min_by_key(|one| key(one))
        .copied();
    candidates.retain(|one| one.idle);
    if candidates.is_empty() {
        return busiest.into_iter().collect();
    }
    let many = many.clamp(1, candidates.len());
    candidates.select_nth_unstable_by_key(many.saturating_sub(1), key);
    candidates.truncate(many);
    candidates
}

/// Table of open connections.
pub(super) struct ConnectionTable {
    max_connections: usize,
    max_per_peer: usize,
    grace: Duration,
    open: Mutex<OpenConnections>,
}

impl ConnectionTable {
    /// Creates a table for `most` connections, of which one peer may have `per_peer`. Both are at
    /// least 1. A connection without a request is spared for `grace` when one of another peer
    /// arrives.
    pub(super) fn new(most: usize, per_peer: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            max_connections: most.max(1),
            max_per_peer: per_peer.max(1),
            grace,
            open: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates a slot for a connection of this peer, and evicts others at a limit.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Admission {
        let peer = peer.to_canonical();
        let mut open = self.lock();
        if open.peer_count(peer) >= self.max_per_peer {
            let many = self.max_per_peer / EVICTION_DIVISOR;
            if open.evict(peer, Some(peer), many, Duration::ZERO) == Eviction::Impossible {
                return Admission::Refused;
            }
        }
        if open.by_id.len() >= self.max_connections {
            match open.evict(peer, None, self.max_connections / EVICTION_DIVISOR, self.grace) {
                Eviction::Evicted => {}
                Eviction::PossibleAfter(delay) => return Admission::Delayed(delay),
                Eviction::Impossible => return Admission::Refused,
            }
        }
        let (id, connection) = (open.next_id, Arc::new(ConnectionState::new(peer)));
        open.next_id = open.next_id.wrapping_add(1);
        open.by_id.insert(id, Arc::clone(&connection));
        let count = open.count_by_peer.entry(peer).or_default();
        *count = count.saturating_add(1);
        drop(open);
        let slot = SlotInner { table: Arc::clone(self), id, connection };
        Admission::Admitted(ConnectionSlot(Arc::new(slot)))
    }

    /// Evicts some idle connections to release file descriptors.
    pub(super) fn evict_idle(&self) {
        let mut open = self.lock();
        let many = (open.by_id.len() / EVICTION_DIVISOR).max(1);
        let _ = open.evict(IpAddr::from([0, 0, 0, 0]), None, many, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn ids(victims: Vec<EvictionCandidate>) -> Vec<u64> {
        victims.into_iter().map(|one| one.id).collect()
    }

    fn admit(table: &Arc<ConnectionTable>, peer: IpAddr) -> Option<ConnectionSlot> {
        match table.admit(peer) {
            Admission::Admitted(slot) => Some(slot),
            Admission::Delayed(delay) => panic!("delayed by {delay:?}"),
            Admission::Refused => None,
        }
    }

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn eviction_order() {
        let now = Instant::now();
        let one = |id, of_peer, idle, completed, ago| EvictionCandidate {
            id,
            peer_count: of_peer,
            idle,
            completed,
            last_activity: now.checked_sub(Duration::from_secs(ago)).unwrap(),
        };
        let all = vec![
            one(1, 2, true, true, 100),
            one(2, 2, true, false, 1),
            one(3, 9, true, true, 5),
            one(4, 9, false, false, 50),
            one(5, 2, true, false, 3),
            one(6, 9, true, true, 7),
        ];
        assert_eq!(
            ids(select_victims(all.clone(), 0, 1)),
            [5],
            "the longest idle of those that never completed a request"
        );
        let mut four = ids(select_victims(all.clone(), 0, 4));
        four.sort_unstable();
        assert_eq!(four, [2, 3, 5, 6], "followed by those of the peer with most connections");
        let busy: Vec<_> =
            all.iter().map(|one| EvictionCandidate { idle: false, ..*one }).collect();
        assert_eq!(
            ids(select_victims(busy.clone(), 0, 3)),
            [4],
            "one of a peer with more connections, when none is idle"
        );
        assert!(select_victims(busy, 8, 3).is_empty(), "none for a peer with as many connections");
        assert!(select_victims(Vec::new(), 0, 3).is_empty());
    }

    #[test]
    fn a_full_table_evicts_an_idle_connection_for_a_new_one() {
        let table = ConnectionTable::new(3, 3, Duration::ZERO);
        let places: Vec<_> = (1..=3).map(|last| admit(&table, peer(last)).unwrap()).collect();
        let busy = RequestGuard::begin(places[0].connection());
        let fourth = admit(&table, peer(4)).unwrap();
        assert_eq!(table.lock().by_id.len(), 3);
        assert!(table.lock().peer_count(peer(1)) == 1 && table.lock().peer_count(peer(4)) == 1);
        drop((busy, places, fourth));
        assert!(table.lock().by_id.is_empty() && table.lock().count_by_peer.is_empty());
    }

    #[test]
    fn the_share_of_a_peer_is_limited() {
        let table = ConnectionTable::new(4, 2, Duration::ZERO);
        let places: Vec<_> = (0..2).map(|_| admit(&table, peer(1)).unwrap()).collect();
        let busy: Vec<_> =
            places.iter().map(|place| RequestGuard::begin(place.connection())).collect();
        assert!(admit(&table, peer(1)).is_none(), "both of its connections are busy");
        assert!(admit(&table, peer(2)).is_some());
        drop(busy);
        let third = admit(&table, peer(1));
        assert!(third.is_some(), "an idle connection of the same peer was evicted");
        assert_eq!(table.lock().peer_count(peer(1)), 2);
    }

    #[test]
    fn a_connection_that_was_just_opened_is_spared() {
        let grace = Duration::from_secs(60);
        let table = ConnectionTable::new(2, 1, grace);
        let places: Vec<_> = (1..=2).map(|last| admit(&table, peer(last)).unwrap()).collect();
        assert!(matches!(table.admit(peer(3)), Admission::Delayed(delay) if delay <= grace));
        assert_eq!(table.lock().by_id.len(), 2);
        assert!(admit(&table, peer(1)).is_some(), "one of the same peer replaces it at once");
        drop(RequestGuard::begin(places[1].connection()));
        assert!(admit(&table, peer(3)).is_some(), "one with a completed request is not spared");
    }

    #[test]
    fn an_upgraded_connection_is_not_closed() {
        let table = ConnectionTable::new(1, 1, Duration::ZERO);
        let place = admit(&table, peer(1)).unwrap();
        place.mark_upgraded();
        assert!(admit(&table, peer(2)).is_none());
    }

    #[rstest]
    #[case(0, false, false, 9, TimeoutAction::Keep)]
    #[case(0, false, false, 10, TimeoutAction::Close)]
    #[case(0, false, true, 10, TimeoutAction::Keep)]
    #[case(0, false, true, 60, TimeoutAction::Shutdown)]
    #[case(0, false, true, 65, TimeoutAction::Close)]
    #[case(1, false, true, 1000, TimeoutAction::Keep)]
    #[case(1, true, true, 29, TimeoutAction::Keep)]
    #[case(2, true, true, 30, TimeoutAction::Close)]
    fn timeouts_by_connection_state(
        #[case] under_way: usize,
        #[case] waits: bool,
        #[case] begun: bool,
        #[case] seconds: u64,
        #[case] expected: TimeoutAction,
    ) {
        let span = Duration::from_secs;
        let times =
            ConnectionTimeouts { first_request: span(10), idle: span(60), stalled: span(30) };
        assert_eq!(timeout_action_after(&times, under_way, waits, begun, span(seconds)), expected);
    }
}
