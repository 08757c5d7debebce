//! Which replica leads: a Lease of `coordination.k8s.io/v1`.
//!
//! Every write carries the resource version that was read, so that of two
//! standbys one wins. Whether the holder is alive is judged by our own clock
//! since its record last changed, never by comparing clocks of two machines.

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

#[cfg(test)]
#[path = "tests.rs"]
mod elections;
mod heartbeat;
mod term;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::term::Moment;
pub use self::{
    heartbeat::{Beating, HUNG, Heartbeat},
    term::{Leadership, Term},
};
use crate::{
    metrics::Metrics,
    starts::{ANNOTATION, Totals},
};

/// A holder that is silent for this long has lost the Lease. With the pause before the next look, and the lists that come
/// before the first decision, a successor is at work within 15 s of the leader's death.
const DURATION: Duration = Duration::from_secs(9);
/// A leader that could not renew for this long steps down: 3 s before anyone else may take the Lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(6);
/// How often it is renewed or looked at, and up to half of it again at random, so that standbys do not act in step.
const RETRY: Duration = Duration::from_millis(1250);
/// One request may take this long; so several tries fit before the deadline.
const REQUEST: Duration = Duration::from_secs(2);
/// A replica whose work hung does not stand again for this long: any other has had its chance by then, even one that must
/// wait for the end of a Lease that could not be released.
const AFTER_HANG: Duration = Duration::from_secs(12);

/// Whose Lease, and where.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// The Lease's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// This replica.
    pub identity: String,
}

/// What was seen of the Lease, and when it last changed by our clock.
#[derive(Debug, Clone, PartialEq)]
struct Observed {
    holder: String,
    record: Option<(MicroTime, i32)>,
    changed: Instant,
}

/// What to do with the Lease. *Pure.*
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Take,
    Renew,
    Wait,
}

fn decide(observed: &Observed, me: &str, now: Instant) -> Action {
    if observed.holder == me {
        Action::Renew
    } else if observed.holder.is_empty() || now.duration_since(observed.changed) > DURATION {
        Action::Take
    } else {
        Action::Wait
    }
}

/// What the election tells, and what it goes by.
pub struct Standing {
    /// Whether this replica leads; tells changes.
    pub leads: watch::Sender<bool>,
    /// The same, with the age of the last renewal, for those who are about to write.
    pub leadership: Leadership,
    /// The heartbeat of the leader's work.
    pub heartbeat: Heartbeat,
}

/// Stands for election until `stop`, then hands over.
///
/// The Lease is not held by a replica whose work hangs, and not obtained while the work of an earlier term has not ended.
pub async fn run(
    client: Client,
    settings: LeaseSettings,
    figures: Figures,
    standing: Standing,
    stop: CancellationToken,
) {
    let leases = Api::<Lease>::namespaced(client, &settings.namespace);
    let mut election = Election {
        leases,
        settings,
        figures,
        standing,
        observed: None,
        worked: Instant::now(),
        stands_from: Instant::now(),
    };
    loop {
        election.step_down_if_hung();
        // Counted from before the request: others count from when they see its effect, which is later.
        let begun = Moment::now();
        let held = tokio::time::timeout(REQUEST.min(election.left()), election.round()).await;
        let leadership = &election.standing.leadership;
        match held {
            Ok(Ok(true)) => leadership.renewed(begun),
            Ok(Ok(false)) => leadership.lost(),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be read or written"),
            Err(_) => tracing::warn!("the API server did not answer about the Lease"),
        }
        if !leadership.is_current() {
            leadership.lost();
        }
        election.tell();
        let pause = RETRY.mul_f64(1.0 + rand::random::<f64>() / 2.0).min(election.left());
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    let led = election.leads();
    election.standing.leadership.lost();
    election.tell();
    if led {
        // A hand-over that fails costs the successor the Lease's duration, nothing more.
        let _ = tokio::time::timeout(REQUEST, election.release()).await;
    }
}

/// What the Lease carries beside the leadership: the outcome figures since the installation.
pub struct Figures {
    /// The figures of this process.
    pub metrics: Arc<Metrics>,
    /// Their sums.
    pub totals: Totals,
}

impl Figures {
    /// What is to stand on the Lease of this leader.
    fn annotated(&self, mut metadata: ObjectMeta) -> ObjectMeta {
        let annotations = metadata.annotations.get_or_insert_default();
        let text = annotations.get(ANNOTATION).map(String::as_str);
        let text = self.totals.to_write(text, &self.metrics, Timestamp::now());
        annotations.insert(ANNOTATION.to_owned(), text);
        metadata
    }
}

struct Election {
    leases: Api<Lease>,
    settings: LeaseSettings,
    figures: Figures,
    standing: Standing,
    observed: Option<Observed>,
    /// When the leader's work was last seen to be under way, or this replica began to lead.
    worked: Instant,
    /// Before that, this replica does not stand.
    stands_from: Instant,
}

impl Election {
    fn leads(&self) -> bool {
        self.standing.leadership.age().is_some()
    }

    /// How long a leader may go on without another renewal; no limit for others.
    fn left(&self) -> Duration {
        let left = self.standing.leadership.age().and_then(|age| RENEW_DEADLINE.checked_sub(age));
        left.unwrap_or(Duration::MAX)
    }

    /// Tells whether this replica leads. Only changes are told: whoever listens acts on each.
    fn tell(&mut self) {
        let leading = self.leads();
        if self.standing.leads.send_if_modified(|led| std::mem::replace(led, leading) != leading) {
            self.worked = Instant::now();
            tracing::info!(identity = self.settings.identity, leading, "leadership");
        }
        self.figures.metrics.leader.set(i64::from(leading));
    }

    /// Gives leadership up when the leader's work hangs, or was never begun. The next round releases the Lease.
    fn step_down_if_hung(&mut self) {
        let heartbeat = &self.standing.heartbeat;
        if heartbeat.age().is_some_and(|age| age < HUNG) {
            self.worked = Instant::now();
        }
        if self.leads() && (heartbeat.is_hung() || self.worked.elapsed() >= HUNG) {
            let limit = HUNG.as_secs();
            tracing::error!(limit, "the controller has completed no round within the limit, in seconds: stepping down");
            self.standing.leadership.lost();
            let now = Instant::now();
            self.stands_from = now.checked_add(AFTER_HANG).unwrap_or(now);
            self.tell();
        }
    }

    /// Whether this replica may hold the Lease: not while work of an earlier term is still under way, or hangs.
    fn may_hold(&self) -> bool {
        let idle = self.standing.heartbeat.age().is_none();
        self.leads() || idle && Instant::now() >= self.stands_from
    }

    /// One look, and one write where it is our turn. Whether we hold the Lease, and have held it without a gap if we led.
    async fn round(&mut self) -> kube::Result<bool> {
        let me = self.settings.identity.clone();
        let Some(mut lease) = self.leases.get_opt(&self.settings.name).await? else {
            // Where it was ours, somebody else may have led, and deleted it.
            if !self.may_hold() || self.leads() {
                return Ok(false);
            }
            let lease = Lease {
                metadata: self
                    .figures
                    .annotated(ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() }),
                spec: Some(record(&me, None)),
            };
            return won(self.leases.create(&PostParams::default(), &lease).await);
        };
        let observed = self.observe(lease.spec.as_ref());
        let action = decide(&observed, &me, Instant::now());
        self.observed = Some(observed);
        let spec = match action {
            Action::Wait => {
                let annotations = lease.metadata.annotations.as_ref();
                self.figures.totals.heard(annotations.and_then(|all| all.get(ANNOTATION)).map(String::as_str));
                return Ok(false);
            }
            // A leader whose Lease is not its own any more was suspended, and somebody else has led: the term is over first.
            Action::Take if self.leads() || !self.may_hold() => return Ok(false),
            Action::Renew if !self.may_hold() => released(lease.spec.as_ref()),
            Action::Take | Action::Renew => record(&me, lease.spec.as_ref()),
        };
        let holds = spec.holder_identity.as_deref() == Some(&*me);
        lease.metadata = self.figures.annotated(lease.metadata);
        lease.spec = Some(spec);
        Ok(won(self.leases.replace(&self.settings.name, &PostParams::default(), &lease).await)? && holds)
    }

    fn observe(&self, spec: Option<&LeaseSpec>) -> Observed {
        let holder = spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let record = spec.and_then(|spec| Some((spec.renew_time.clone()?, spec.lease_transitions.unwrap_or_default())));
        match &self.observed {
            Some(known) if known.holder == holder && known.record == record => known.clone(),
            _ => Observed { holder, record, changed: Instant::now() },
        }
    }

    async fn release(&self) -> kube::Result<()> {
        let mut lease = self.leases.get(&self.settings.name).await?;
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.settings.identity) {
            lease.spec = Some(released(lease.spec.as_ref()));
            self.leases.replace(&self.settings.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

/// The record without a holder: whoever sees it first may take the Lease.
fn released(spec: Option<&LeaseSpec>) -> LeaseSpec {
    LeaseSpec { holder_identity: Some(String::new()), ..spec.cloned().unwrap_or_default() }
}

/// A conflict means that another replica was quicker.
fn won(result: kube::Result<Lease>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn record(me: &str, old: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    let mine = old.filter(|spec| spec.holder_identity.as_deref() == Some(me));
    let transitions = old.and_then(|spec| spec.lease_transitions).unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: mine.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(if mine.is_some() { transitions } else { transitions.saturating_add(1) }),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(holder: &str, changed: Instant) -> Observed {
        Observed { holder: holder.into(), record: None, changed }
    }

    #[test]
    fn who_may_take_the_lease() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(decide(&observed("me", start), "me", after(60)), Action::Renew);
        assert_eq!(decide(&observed("", start), "me", after(0)), Action::Take);
        assert_eq!(decide(&observed("other", start), "me", after(9)), Action::Wait);
        assert_eq!(decide(&observed("other", start), "me", after(10)), Action::Take);
    }

    #[test]
    fn transitions_count_changes_of_holder() {
        let first = record("a", None);
        let renewed = record("a", Some(&first));
        let taken = record("b", Some(&renewed));
        assert_eq!(first.lease_transitions, renewed.lease_transitions);
        assert_eq!(taken.lease_transitions, Some(2));
        assert_eq!(renewed.acquire_time, first.acquire_time);
    }
}
