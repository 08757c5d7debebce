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
use crate::{api_error::ApiErrorKind, metrics::LeaseMetrics};

/// Duration of the Lease: a holder that does not renew it for this long has lost it. Including the
/// pause before the next read and the lists before the first decision, a successor works within 15
/// s of the failure of a leader.
const LEASE_DURATION: Duration = Duration::from_secs(9);
/// Interval at which the Lease is renewed or read, plus up to half of it at random, so that
/// standbys do not act at the same time.
const RETRY_PERIOD: Duration = Duration::from_millis(1250);
/// Timeout of one request. It is short enough for several attempts before the deadline.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
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
}

/// Takes part in the election until `stop`, then releases the Lease.
///
/// A replica whose controller hangs releases the Lease, and does not acquire it while the work of
/// an earlier term has not ended.
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
        last_work: Instant::now(),
        eligible_from: Instant::now(),
    };
    loop {
        election.step_down_if_hung();
        election.renew().await;
        election.publish();
        let pause =
            RETRY_PERIOD.mul_f64(1.0 + rand::random::<f64>() / 2.0).min(election.renew_time_left());
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
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
        let me = self.settings.identity.clone();
        let Some(mut lease) = self.leases.get_opt(&self.settings.name).await? else {
            // Where this replica led, another may have acquired and deleted the Lease since: the
            // term ends first.
            if !self.may_hold() || self.leads() {
                return Ok(false);
            }
            let lease = Lease {
                metadata: annotate(
                    &self.annotation,
                    ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() },
                ),
                spec: Some(held_spec(&me, None)),
            };
            return write_succeeded(self.leases.create(&PostParams::default(), &lease).await);
        };
        let observed = self.observe(lease.spec.as_ref());
        let action = lease_action(&observed, &me, Instant::now());
        self.observed = Some(observed);
        let spec = match action {
            LeaseAction::Wait => {
                let annotations = lease.metadata.annotations.as_ref();
                self.annotation
                    .observe(annotations.and_then(|all| all.get(A::KEY)).map(String::as_str));
                return Ok(false);
            }
            // A leader that does not hold the Lease any more was suspended, and another replica has
            // led: the term ends first.
            LeaseAction::Take if self.leads() || !self.may_hold() => return Ok(false),
            LeaseAction::Renew if !self.may_hold() => released_spec(lease.spec.as_ref()),
            LeaseAction::Take | LeaseAction::Renew => held_spec(&me, lease.spec.as_ref()),
        };
        let holds = spec.holder_identity.as_deref() == Some(&*me);
        lease.metadata = annotate(&self.annotation, lease.metadata);
        lease.spec = Some(spec);
        Ok(write_succeeded(
            self.leases.replace(&self.settings.name, &PostParams::default(), &lease).await,
        )? && holds)
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

    async fn release(&self) -> kube::Result<()> {
        let mut lease = self.leases.get(&self.settings.name).await?;
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())
            == Some(&self.settings.identity)
        {
            lease.spec = Some(released_spec(lease.spec.as_ref()));
            self.leases.replace(&self.settings.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

/// Returns the record without a holder, so that any replica may take the Lease at once.
fn released_spec(spec: Option<&LeaseSpec>) -> LeaseSpec {
    LeaseSpec { holder_identity: Some(String::new()), ..spec.cloned().unwrap_or_default() }
}

/// Maps the result of a write: `false` for a conflict, which means that another replica wrote
/// first.
fn write_succeeded(result: kube::Result<Lease>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if ApiErrorKind::of(&error).is_conflict() => Ok(false),
        Err(error) => Err(error),
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
