//! Which replica leads: a Lease of `coordination.k8s.io/v1`.
//!
//! Every write carries the resource version that was read, so that of two
//! standbys one wins. Whether the holder is alive is judged by our own clock
//! since its record last changed, never by comparing clocks of two machines.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

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

/// Stands for election until `stop`, then hands over. `leads` tells whether this replica leads.
pub async fn run(
    client: Client,
    settings: LeaseSettings,
    figures: Figures,
    leads: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let metrics = Arc::clone(&figures.metrics);
    let leases = Api::<Lease>::namespaced(client, &settings.namespace);
    let mut election = Election { leases, settings, figures, observed: None, renewed: None };
    loop {
        // Counted from before the request: others count from when they see its effect, which is later.
        let begun = Instant::now();
        let held = tokio::time::timeout(REQUEST.min(election.left()), election.round()).await;
        match held {
            Ok(Ok(true)) => election.renewed = Some(begun),
            Ok(Ok(false)) => election.renewed = None,
            Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be read or written"),
            Err(_) => tracing::warn!("the API server did not answer about the Lease"),
        }
        let leading = election.renewed.is_some_and(|at| at.elapsed() < RENEW_DEADLINE);
        // Told only when it changes: whoever listens acts on each word.
        if leads.send_if_modified(|led| std::mem::replace(led, leading) != leading) {
            tracing::info!(identity = election.settings.identity, leading, "leadership");
        }
        metrics.leader.set(i64::from(leading));
        let pause = RETRY.mul_f64(1.0 + rand::random::<f64>() / 2.0).min(election.left());
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    leads.send_replace(false);
    metrics.leader.set(0);
    if election.renewed.is_some() {
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
    observed: Option<Observed>,
    renewed: Option<Instant>,
}

impl Election {
    /// How long a leader may go on without another renewal; no limit for others.
    fn left(&self) -> Duration {
        let left = |at: Instant| RENEW_DEADLINE.checked_sub(at.elapsed());
        self.renewed.and_then(left).unwrap_or(Duration::MAX)
    }

    /// One look, and one write where it is our turn. Whether we hold the Lease.
    async fn round(&mut self) -> kube::Result<bool> {
        let me = self.settings.identity.clone();
        let Some(mut lease) = self.leases.get_opt(&self.settings.name).await? else {
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
        if action == Action::Wait {
            let annotations = lease.metadata.annotations.as_ref();
            self.figures.totals.heard(annotations.and_then(|all| all.get(ANNOTATION)).map(String::as_str));
            return Ok(false);
        }
        lease.metadata = self.figures.annotated(lease.metadata);
        lease.spec = Some(record(&me, lease.spec.as_ref()));
        won(self.leases.replace(&self.settings.name, &PostParams::default(), &lease).await)
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
        let Some(spec) = &mut lease.spec else { return Ok(()) };
        if spec.holder_identity.as_deref() == Some(&self.settings.identity) {
            spec.holder_identity = Some(String::new());
            self.leases.replace(&self.settings.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
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
