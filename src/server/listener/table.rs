//! The open connections of a listener, and which of them are closed when there is no room for another.

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

/// A full listener closes this part of its connections at once, so that the search for them is not repeated for each further
/// one: 7 of 1,000.
const EVICTED: usize = 128;

/// How long a connection may do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From its start to its first request.
    pub first: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// While an answer is being sent and the peer takes nothing of it.
    pub stalled: Duration,
}

/// What is to be done with a connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// The peer is asked to send no further request.
    End,
    /// It is dropped.
    Drop,
}

/// An idle connection that was asked to end gets this much time for it.
const GRACE: Duration = Duration::from_secs(5);

/// What happens on a connection; written by its requests, read by the listener.
pub(super) struct Connection {
    peer: IpAddr,
    opened: Instant,
    under_way: AtomicUsize,
    has_begun: AtomicBool,
    has_completed: AtomicBool,
    upgraded: AtomicBool,
    /// Responses of which a part waits for the peer.
    waiting: AtomicUsize,
    /// Milliseconds from `opened` to the last beginning or end of a request, or part of a response that was taken.
    moved: AtomicU64,
    evicted: Notify,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Connection {
    pub(super) fn new(peer: IpAddr) -> Self {
        Self {
            peer,
            opened: Instant::now(),
            under_way: AtomicUsize::new(0),
            has_begun: AtomicBool::new(false),
            has_completed: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            evicted: Notify::new(),
        }
    }

    fn note(&self) {
        self.moved.store(millis(self.opened.elapsed()), Ordering::Relaxed);
    }

    /// Resolves when the listener needs the connection's place.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// What is to be done now.
    pub(super) fn due(&self, times: &Times) -> Due {
        let age = self.opened.elapsed();
        let still = age.saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)));
        let under_way = self.under_way.load(Ordering::Relaxed);
        let waits = self.waiting.load(Ordering::Relaxed) > 0;
        due(times, under_way, waits, self.has_begun.load(Ordering::Relaxed), still)
    }
}

/// *Pure.* `still`: how long nothing has moved.
fn due(times: &Times, under_way: usize, waits: bool, has_begun: bool, still: Duration) -> Due {
    match (under_way, has_begun) {
        (0, false) if still >= times.first => Due::Drop,
        (0, true) if still >= times.idle.saturating_add(GRACE) => Due::Drop,
        (0, true) if still >= times.idle => Due::End,
        (1.., _) if waits && still >= times.stalled => Due::Drop,
        _ => Due::Nothing,
    }
}

/// A request, from its head to the end of its response.
pub(super) struct UnderWay(Arc<Connection>);

impl UnderWay {
    pub(super) fn begin(connection: &Arc<Connection>) -> Self {
        connection.under_way.fetch_add(1, Ordering::Relaxed);
        connection.has_begun.store(true, Ordering::Relaxed);
        connection.note();
        Self(Arc::clone(connection))
    }

    /// A part of the response is on its way to the peer, or (`false`) was taken.
    pub(super) fn waits(&self, waits: bool) {
        if waits {
            self.0.waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.0.note();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.note();
        self.0.has_completed.store(true, Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of a connection in its listener. It is free again when all clones are dropped; in the extensions of a request,
/// so that a WebSocket keeps the place of the connection that it was.
#[derive(Clone)]
pub struct Place(Arc<Inner>);

struct Inner {
    table: Arc<Table>,
    id: u64,
    connection: Arc<Connection>,
}

impl Place {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.0.connection
    }

    /// The connection is no longer served by HTTP: the listener does not close it.
    pub fn upgraded(&self) {
        self.0.connection.upgraded.store(true, Ordering::Relaxed);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.table.lock().remove(self.id);
    }
}

#[derive(Default)]
struct Open {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
    peers: HashMap<IpAddr, usize>,
}

impl Open {
    fn remove(&mut self, id: u64) -> Option<Arc<Connection>> {
        let gone = self.all.remove(&id)?;
        if let Some(count) = self.peers.get_mut(&gone.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.peers.remove(&gone.peer);
            }
        }
        Some(gone)
    }

    fn of(&self, peer: IpAddr) -> usize {
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    /// Closes connections to make room for one of `peer`. False: none may be closed for it.
    fn make_room(&mut self, peer: IpAddr, only: Option<IpAddr>, many: usize) -> bool {
        let all = self.all.iter().filter(|(_, one)| only.is_none_or(|only| one.peer == only));
        let candidates = all.filter(|(_, one)| !one.upgraded.load(Ordering::Relaxed)).map(|(id, one)| Candidate {
            id: *id,
            of_peer: self.of(one.peer),
            idle: one.under_way.load(Ordering::Relaxed) == 0,
            completed: one.has_completed.load(Ordering::Relaxed),
            since: one.opened + Duration::from_millis(one.moved.load(Ordering::Relaxed)),
        });
        let victims = victims(candidates.collect(), self.of(peer), many);
        for id in &victims {
            if let Some(gone) = self.remove(*id) {
                gone.evicted.notify_one();
            }
        }
        !victims.is_empty()
    }
}

/// A connection that may have to give way.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u64,
    /// How many connections its peer has.
    of_peer: usize,
    /// Whether no request is under way.
    idle: bool,
    /// Whether a request was ever answered.
    completed: bool,
    /// When something last happened.
    since: Instant,
}

/// The connections to close for a newcomer whose peer has `own` connections. *Pure.*
///
/// Idle ones first: those that never completed a request, of the peers with most connections, the longest idle. Where none is
/// idle, one of a peer with more connections than the newcomer's gets closed, so that a peer that keeps requests under way on
/// every connection does not keep others out.
fn victims(mut candidates: Vec<Candidate>, own: usize, many: usize) -> Vec<u64> {
    let key = |one: &Candidate| (one.completed, Reverse(one.of_peer), one.since);
    let busiest = candidates.iter().filter(|one| one.of_peer > own.saturating_add(1)).min_by_key(|one| key(one));
    let busiest = busiest.map(|one| one.id);
    candidates.retain(|one| one.idle);
    if candidates.is_empty() {
        return busiest.into_iter().collect();
    }
    let many = many.clamp(1, candidates.len());
    candidates.select_nth_unstable_by_key(many.saturating_sub(1), key);
    candidates.iter().take(many).map(|one| one.id).collect()
}

/// The open connections.
pub(super) struct Table {
    most: usize,
    per_peer: usize,
    open: Mutex<Open>,
}

impl Table {
    /// For so many connections, and so many of one peer.
    pub(super) fn new(most: usize, per_peer: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), per_peer: per_peer.max(1), open: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection of this peer; others are closed for it where there is none. None: it is refused.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = peer.to_canonical();
        let mut open = self.lock();
        if open.of(peer) >= self.per_peer && !open.make_room(peer, Some(peer), self.per_peer / EVICTED) {
            return None;
        }
        if open.all.len() >= self.most && !open.make_room(peer, None, self.most / EVICTED) {
            return None;
        }
        let (id, connection) = (open.next, Arc::new(Connection::new(peer)));
        open.next = open.next.wrapping_add(1);
        open.all.insert(id, Arc::clone(&connection));
        let count = open.peers.entry(peer).or_default();
        *count = count.saturating_add(1);
        drop(open);
        Some(Place(Arc::new(Inner { table: Arc::clone(self), id, connection })))
    }

    /// Closes some idle connections: there are no file descriptors left.
    pub(super) fn shrink(&self) {
        let mut open = self.lock();
        let many = (open.all.len() / EVICTED).max(1);
        let _ = open.make_room(IpAddr::from([0, 0, 0, 0]), None, many);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn who_gives_way_first() {
        let now = Instant::now();
        let one = |id, of_peer, idle, completed, ago| Candidate {
            id,
            of_peer,
            idle,
            completed,
            since: now.checked_sub(Duration::from_secs(ago)).unwrap(),
        };
        let all = vec![
            one(1, 2, true, true, 100),
            one(2, 2, true, false, 1),
            one(3, 9, true, true, 5),
            one(4, 9, false, false, 50),
            one(5, 2, true, false, 3),
            one(6, 9, true, true, 7),
        ];
        assert_eq!(victims(all.clone(), 0, 1), [5], "the longest idle of those that never completed a request");
        let mut four = victims(all.clone(), 0, 4);
        four.sort_unstable();
        assert_eq!(four, [2, 3, 5, 6], "then those of the peer with most connections");
        let busy: Vec<_> = all.iter().map(|one| Candidate { idle: false, ..*one }).collect();
        assert_eq!(victims(busy.clone(), 0, 3), [4], "one of a peer with more, when none is idle");
        assert!(victims(busy, 8, 3).is_empty(), "none for a peer that has as many");
        assert!(victims(Vec::new(), 0, 3).is_empty());
    }

    #[test]
    fn a_full_table_takes_a_newcomer_and_closes_an_idle_one() {
        let table = Table::new(3, 3);
        let places: Vec<_> = (1..=3).map(|last| table.admit(peer(last)).unwrap()).collect();
        let busy = UnderWay::begin(places[0].connection());
        let fourth = table.admit(peer(4)).unwrap();
        assert_eq!(table.lock().all.len(), 3);
        assert!(table.lock().of(peer(1)) == 1 && table.lock().of(peer(4)) == 1);
        drop((busy, places, fourth));
        assert!(table.lock().all.is_empty() && table.lock().peers.is_empty());
    }

    #[test]
    fn a_peer_has_a_share() {
        let table = Table::new(4, 2);
        let places: Vec<_> = (0..2).map(|_| table.admit(peer(1)).unwrap()).collect();
        let busy: Vec<_> = places.iter().map(|place| UnderWay::begin(place.connection())).collect();
        assert!(table.admit(peer(1)).is_none(), "both of its connections are busy");
        assert!(table.admit(peer(2)).is_some());
        drop(busy);
        let third = table.admit(peer(1));
        assert!(third.is_some(), "one of its own was closed for it");
        assert_eq!(table.lock().of(peer(1)), 2);
    }

    #[test]
    fn an_upgraded_connection_is_not_closed() {
        let table = Table::new(1, 1);
        let place = table.admit(peer(1)).unwrap();
        place.upgraded();
        assert!(table.admit(peer(2)).is_none());
    }

    #[rstest]
    #[case(0, false, false, 9, Due::Nothing)]
    #[case(0, false, false, 10, Due::Drop)]
    #[case(0, false, true, 10, Due::Nothing)]
    #[case(0, false, true, 60, Due::End)]
    #[case(0, false, true, 65, Due::Drop)]
    #[case(1, false, true, 1000, Due::Nothing)]
    #[case(1, true, true, 29, Due::Nothing)]
    #[case(2, true, true, 30, Due::Drop)]
    fn how_long_what_is_waited_for(
        #[case] under_way: usize,
        #[case] waits: bool,
        #[case] begun: bool,
        #[case] seconds: u64,
        #[case] expected: Due,
    ) {
        let span = Duration::from_secs;
        let times = Times { first: span(10), idle: span(60), stalled: span(30) };
        assert_eq!(due(&times, under_way, waits, begun, span(seconds)), expected);
    }
}
