//! Leader election with a Lease of `coordination.k8s.io/v1`.
//!
//! Every write carries the resource version that was read, so that only one of two standbys
//! succeeds. A holder counts as alive while its record changes, measured by the local clock; clocks
//! of two machines are never compared.

// Values from the Lease, which other programs may write, must not cause a panic: arithmetic
// saturates, and access is checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

#[cfg(test)]
mod api_tests;
mod clock;
#[cfg(test)]
#[path = "tests.rs"]
mod elections;
mod heartbeat;
mod term;

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{clock::DualClockInstant, term::RENEW_DEADLINE};
pub use self::{
    heartbeat::{HUNG_AFTER, Heartbeat, HeartbeatGuard},
    term::{Leadership, Term},
};
use crate::{
    api_contact::ApiContact,
    api_error::ApiErrorKind,
    conflict::unless_conflict,
    metrics::LeaseMetrics,
    object_watch::{ObjectWatch, Observation},
};

/// Duration of the Lease: a holder that does not renew it for this long has lost it. Including the
/// pause before the next read and the lists before the first decision, a successor works within 15
/// s of the failure of a leader.
const LEASE_DURATION: Duration = Duration::from_secs(9);
/// Interval at which the leader renews the Lease, and at which a standby reads it where its watch
/// delivers no renewal, plus up to half of it at random, so that standbys do not act at the same
/// time.
const RETRY_PERIOD: Duration = Duration::from_millis(1250);
/// Timeout of one request. It is short enough for several attempts before the deadline.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Time without an event of the watch after which a standby reads the Lease itself: longer than the
/// longest pause between two renewals, 1.875 s, by the time of a slow request. Where the watch is
/// broken and the leader fails too, the successor takes over as if there were no watch.
const MAX_EVENT_GAP: Duration = Duration::from_secs(3);
/// Duration of one watch request of a standby. Reads detect a broken watch earlier.
const WATCH_PERIOD: Duration = Duration::from_secs(240);
/// Time for which a replica whose controller hung does not acquire the Lease. Any other replica can
/// acquire it within this time, even one that must wait for the expiry of a Lease that could not be
/// released.
const HANG_BACKOFF: Duration = Duration::from_secs(12);

/// Settings of the Lease.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// Name of the Lease.
    pub name: String,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Holder identity of this replica.
    pub identity: String,
}

/// Last observed record of the Lease, and the time of its last change by the local clock.
#[derive(Debug, Clone, PartialEq)]
struct ObservedLease {
    holder: String,
    record: Option<(MicroTime, i32)>,
    changed: Instant,
}

/// Action on the Lease.
#[derive(Debug, PartialEq, Eq)]
enum LeaseAction {
    Take,
    Renew,
    Wait,
}

fn lease_action(observed: &ObservedLease, me: &str, now: Instant) -> LeaseAction {
    if observed.holder == me {
        LeaseAction::Renew
    } else if observed.holder.is_empty() || now.duration_since(observed.changed) > LEASE_DURATION {
        LeaseAction::Take
    } else {
        LeaseAction::Wait
    }
}

/// Outputs of the election (`leads`, `leadership`) and its input (`heartbeat`).
pub struct ElectionHandles {
    /// Channel that receives each change of leadership of this replica.
    pub leads: watch::Sender<bool>,
    /// Leadership with the age of the last renewal, for checks immediately before a write.
    pub leadership: Leadership,
    /// Heartbeat of the controller loop.
    pub heartbeat: Heartbeat,
    /// Time of the last response of the API server.
    pub contact: ApiContact,
}

/// Takes part in the election until `stop`, then releases the Lease.
///
/// A replica whose controller hangs releases the Lease, and does not acquire it while the work of
/// an earlier term has not ended. The leader renews the Lease with one request; a standby watches it
/// and acquires it when it is released.
pub async fn run(
    client: Client,
    settings: LeaseSettings,
    annotation: impl LeaseAnnotation,
    metrics: LeaseMetrics,
    handles: ElectionHandles,
    stop: CancellationToken,
) {
    let leases = Api::<Lease>::namespaced(client, &settings.namespace);
    let mut election = Election {
        leases,
        settings,
        annotation,
        metrics,
        handles,
        observed: None,
        known: None,
        watch: None,
        last_work: Instant::now(),
        eligible_from: Instant::now(),
    };
    loop {
        election.step_down_if_hung();
        election.renew().await;
        election.publish();
        if stop.run_until_cancelled(election.pause()).await.is_none() {
            break;
        }
    }
    election.resign().await;
}

/// Annotation of the Lease, whose value passes from leader to leader.
pub trait LeaseAnnotation: Send + Sync + 'static {
    /// Key of the annotation.
    const KEY: &'static str;

    /// Handles the value that was read while another replica holds the Lease; `None` when it is
    /// absent.
    fn observe(&self, value: Option<&str>);

    /// Returns the value to write. `value` is the one in the Lease.
    fn render(&self, value: Option<&str>) -> String;
}

/// Returns the metadata with the current value of the annotation.
fn annotate<A: LeaseAnnotation>(annotation: &A, mut metadata: ObjectMeta) -> ObjectMeta {
    let annotations = metadata.annotations.get_or_insert_default();
    let value = annotation.render(annotations.get(A::KEY).map(String::as_str));
    annotations.insert(A::KEY.to_owned(), value);
    metadata
}

struct Election<A> {
    leases: Api<Lease>,
    settings: LeaseSettings,
    annotation: A,
    metrics: LeaseMetrics,
    handles: ElectionHandles,
    observed: Option<ObservedLease>,
    /// Lease that is written at its version without a read: as the leader wrote it last, or as a
    /// standby observed its release.
    known: Option<Lease>,
    /// Watch of the Lease, while this replica does not lead.
    watch: Option<ObjectWatch<Lease>>,
    /// Time of the last check at which the heartbeat was current, or of the last change of
    /// leadership.
    last_work: Instant,
    /// Time before which this replica does not acquire the Lease.
    eligible_from: Instant,
}

impl<A: LeaseAnnotation> Election<A> {
    /// Acquires or renews the Lease, within the time for which this replica still leads.
    async fn renew(&mut self) {
        // The renewal counts from before the request. Other replicas count from when they observe
        // it, which is later.
        let begun = DualClockInstant::now();
        let held = tokio::time::timeout(
            REQUEST_TIMEOUT.min(self.renew_time_left()),
            self.try_acquire_or_renew(),
        )
        .await;
        let leadership = &self.handles.leadership;
        match held {
            Ok(Ok(true)) => leadership.record_renewal(begun),
            Ok(Ok(false)) => leadership.record_loss(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the Lease could not be read or written; it is retried");
            }
            Err(_) => tracing::warn!("the request for the Lease timed out; it is retried"),
        }
        if !leadership.is_current() {
            leadership.record_loss();
        }
    }

    /// Waits until the Lease is to be read, renewed or acquired.
    async fn pause(&mut self) {
        let jitter = 1.0 + rand::random::<f64>() / 2.0;
        let pause = RETRY_PERIOD.mul_f64(jitter).min(self.renew_time_left());
        if self.leads() {
            self.watch = None;
            tokio::time::sleep(pause).await;
        } else {
            self.follow(pause).await;
        }
    }

    /// Follows the Lease by its watch. Returns when this replica may acquire it, or after `pause`;
    /// after an event, when no other has arrived for [`MAX_EVENT_GAP`].
    async fn follow(&mut self, pause: Duration) {
        let mut watch = self.watch.take().unwrap_or_else(|| {
            let contact = self.handles.contact.clone();
            ObjectWatch::new(self.leases.clone(), &self.settings.name, WATCH_PERIOD, contact)
        });
        let mut left = pause;
        loop {
            let begun = Instant::now();
            match tokio::time::timeout(left, watch.next()).await {
                Ok(Ok(Observation::State(lease))) => {
                    if self.observe_event(lease.map(|lease| *lease)) {
                        break;
                    }
                    left = MAX_EVENT_GAP;
                    continue;
                }
                Ok(Ok(Observation::Unchanged)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the Lease could not be watched; it is read instead");
                }
                Err(_) => break,
            }
            left = left.saturating_sub(begun.elapsed());
        }
        self.watch = Some(watch);
    }

    /// Handles the state of the Lease in an event; `None` when it does not exist. Reports whether
    /// this replica may acquire it.
    fn observe_event(&mut self, lease: Option<Lease>) -> bool {
        let action = self.next_action(lease.as_ref());
        let acquires = action != LeaseAction::Wait && self.may_hold();
        self.known = lease.filter(|_| acquires);
        acquires
    }

    /// Returns what to do with the Lease in this state; `None` when it does not exist. Observes the
    /// annotation of another holder.
    fn next_action(&mut self, lease: Option<&Lease>) -> LeaseAction {
        let observed = self.observe(lease.and_then(|lease| lease.spec.as_ref()));
        let action = lease_action(&observed, &self.settings.identity, Instant::now());
        self.observed = Some(observed);
        if action == LeaseAction::Wait {
            let annotations = lease.and_then(|lease| lease.metadata.annotations.as_ref());
            let value = annotations.and_then(|all| all.get(A::KEY)).map(String::as_str);
            self.annotation.observe(value);
        }
        action
    }

    /// Gives up leadership, and releases the Lease if this replica holds it.
    async fn resign(&mut self) {
        let led = self.leads();
        self.handles.leadership.record_loss();
        self.publish();
        if led {
            // A failed release only delays the successor by the duration of the Lease.
            let _ = tokio::time::timeout(REQUEST_TIMEOUT, self.release()).await;
        }
    }

    fn leads(&self) -> bool {
        self.handles.leadership.renewal_age().is_some()
    }

    /// Returns the time for which the leader may continue without a renewal; [`Duration::MAX`] on
    /// other replicas.
    fn renew_time_left(&self) -> Duration {
        let left =
            self.handles.leadership.renewal_age().and_then(|age| RENEW_DEADLINE.checked_sub(age));
        left.unwrap_or(Duration::MAX)
    }

    /// Publishes a change of leadership. An unchanged state is not published, because receivers act
    /// on each notification.
    fn publish(&mut self) {
        let leading = self.leads();
        if self.handles.leads.send_if_modified(|led| std::mem::replace(led, leading) != leading) {
            self.last_work = Instant::now();
            tracing::info!(identity = self.settings.identity, leading, "leadership");
        }
        self.metrics.leader.set(i64::from(leading));
    }

    /// Ends the leadership when the controller loop hangs or was never started. The next attempt
    /// releases the Lease.
    fn step_down_if_hung(&mut self) {
        let heartbeat = &self.handles.heartbeat;
        if heartbeat.age().is_some_and(|age| age < HUNG_AFTER) {
            self.last_work = Instant::now();
        }
        if self.leads() && (heartbeat.is_hung() || self.last_work.elapsed() >= HUNG_AFTER) {
            let limit = HUNG_AFTER.as_secs();
            tracing::error!(
                limit,
                "the controller loop has not completed an iteration within the limit (seconds): stepping down"
            );
            self.handles.leadership.record_loss();
            let now = Instant::now();
            self.eligible_from = now.checked_add(HANG_BACKOFF).unwrap_or(now);
            self.publish();
        }
    }

    /// Reports whether this replica may hold the Lease: it leads already, or no work of an earlier
    /// term is in progress and the waiting time after a hang is over.
    fn may_hold(&self) -> bool {
        let idle = self.handles.heartbeat.age().is_none();
        self.leads() || idle && Instant::now() >= self.eligible_from
    }

    /// Reads the Lease and acquires, renews or releases it. Reports whether this replica holds the
    /// Lease, and if it led, held it without interruption.
    async fn try_acquire_or_renew(&mut self) -> kube::Result<bool> {
        // In most cases the Lease has not changed since. After a conflict it is read: another
        // program may have added an annotation, or another replica may hold it.
        if let Some(known) = self.known.take().filter(|_| self.may_hold()) {
            match self.write_held(known).await {
                Err(error) if ApiErrorKind::of(&error).is_outdated() => {}
                written => return written.map(|()| true),
            }
        }
        let Some(lease) = self.leases.get_opt(&self.settings.name).await? else {
            // Where this replica led, another may have acquired and deleted the Lease since: the
            // term ends first.
            if !self.may_hold() || self.leads() {
                return Ok(false);
            }
            return self.create_held().await;
        };
        match self.next_action(Some(&lease)) {
            LeaseAction::Wait => Ok(false),
            // A leader that does not hold the Lease any more was suspended, and another replica has
            // led: the term ends first.
            LeaseAction::Take if self.leads() || !self.may_hold() => Ok(false),
            LeaseAction::Renew if !self.may_hold() => {
                self.write_released(lease).await?;
                Ok(false)
            }
            LeaseAction::Take | LeaseAction::Renew => {
                unless_conflict(self.write_held(lease).await).map(|written| written.is_some())
            }
        }
    }

    /// Creates the Lease for this replica. Reports whether it succeeded.
    async fn create_held(&mut self) -> kube::Result<bool> {
        let name = Some(self.settings.name.clone());
        let lease = Lease {
            metadata: annotate(&self.annotation, ObjectMeta { name, ..ObjectMeta::default() }),
            spec: Some(held_spec(&self.settings.identity, None)),
        };
        let created = self.leases.create(&PostParams::default(), &lease).await;
        self.known = unless_conflict(created)?;
        Ok(self.known.is_some())
    }

    /// Writes that this replica holds the Lease, at the version of `lease`.
    async fn write_held(&mut self, mut lease: Lease) -> kube::Result<()> {
        lease.metadata = annotate(&self.annotation, lease.metadata);
        lease.spec = Some(held_spec(&self.settings.identity, lease.spec.as_ref()));
        let name = &self.settings.name;
        self.known = Some(self.leases.replace(name, &PostParams::default(), &lease).await?);
        Ok(())
    }

    /// Writes that no replica holds the Lease, at the version of `lease`.
    async fn write_released(&mut self, mut lease: Lease) -> kube::Result<()> {
        lease.spec = Some(released_spec(lease.spec.as_ref()));
        let name = &self.settings.name;
        unless_conflict(self.leases.replace(name, &PostParams::default(), &lease).await).map(drop)
    }

    fn observe(&self, spec: Option<&LeaseSpec>) -> ObservedLease {
        let holder = spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let record = spec.and_then(|spec| {
            Some((spec.renew_time.clone()?, spec.lease_transitions.unwrap_or_default()))
        });
        match &self.observed {
            Some(known) if known.holder == holder && known.record == record => known.clone(),
            _ => ObservedLease { holder, record, changed: Instant::now() },
        }
    }

    async fn release(&mut self) -> kube::Result<()> {
        let lease = self.leases.get(&self.settings.name).await?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder == Some(&self.settings.identity) {
            self.write_released(lease).await?;
        }
        Ok(())
    }
}

/// Returns the record without a holder, so that any replica may take the Lease at once. Its
/// `renewTime` is the time of the release.
fn released_spec(spec: Option<&LeaseSpec>) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..spec.cloned().unwrap_or_default()
    }
}

fn held_spec(me: &str, old: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    let mine = old.filter(|spec| spec.holder_identity.as_deref() == Some(me));
    let transitions = old.and_then(|spec| spec.lease_transitions).unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        acquire_time: mine.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(if mine.is_some() {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(holder: &str, changed: Instant) -> ObservedLease {
        ObservedLease { holder: holder.into(), record: None, changed }
    }

    #[test]
    fn lease_action_by_holder_and_age() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lease_action(&observed("me", start), "me", after(60)), LeaseAction::Renew);
        assert_eq!(lease_action(&observed("", start), "me", after(0)), LeaseAction::Take);
        assert_eq!(lease_action(&observed("other", start), "me", after(9)), LeaseAction::Wait);
        assert_eq!(lease_action(&observed("other", start), "me", after(10)), LeaseAction::Take);
    }

    #[test]
    fn transitions_count_changes_of_holder() {
        let first = held_spec("a", None);
        let renewed = held_spec("a", Some(&first));
        let taken = held_spec("b", Some(&renewed));
        assert_eq!(first.lease_transitions, renewed.lease_transitions);
        assert_eq!(taken.lease_transitions, Some(2));
        assert_eq!(renewed.acquire_time, first.acquire_time);
    }
}
