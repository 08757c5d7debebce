//! What only the leader does: the controller, schedules, and what is told to the outside.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    catalog::{Catalog, Schedules},
    controller, egress,
    health::Checks,
    leader::{Heartbeat, Leadership, LeaseSettings, Term},
    metrics::Metrics,
    notify::{self, Poster},
    rollout, schedule, starts,
    supervise::{Failure, Parts},
};

/// While this replica leads, whether it still does is looked at this often, beside before each write.
const LOOK: Duration = Duration::from_millis(500);

/// At the beginning of a term the Lease is asked for; its work does not wait longer for that.
const PATIENCE: Duration = Duration::from_secs(2);
/// Notifications wait this long for the addresses of nodes, to which none may be sent.
const NODES: Duration = Duration::from_secs(60);

/// What is needed to lead.
pub(super) struct Office {
    pub(super) client: Client,
    pub(super) settings: controller::Settings,
    pub(super) checks: Arc<Checks>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) catalog: Catalog,
    pub(super) schedules: Schedules,
    pub(super) wanted: rollout::Wanted,
    pub(super) poster: Poster,
    pub(super) leadership: Leadership,
    pub(super) heartbeat: Heartbeat,
    /// Messages of each namespace in a minute.
    pub(super) notify_rate: NonZeroU32,
    /// How many caches have their first list, and how many have to.
    pub(super) caches: (watch::Receiver<usize>, usize),
    /// The installation's Lease: with it the workers go that no task can own.
    pub(super) lease: LeaseSettings,
    /// Whether REST is served, here or by another process.
    pub(super) has_api: bool,
}

impl Office {
    /// Does all of it whenever this replica leads. An error names the part that ended within a term.
    pub(super) async fn hold(
        mut self,
        mut leads: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        while let Some(term) = self.next_term(&mut leads, &stop).await {
            self.settings.worker.owner = self.owner().await;
            let _beating = self.heartbeat.begin();
            let parts = self.begin(&term);
            supervise(&term, leads.clone(), parts).await?;
        }
        Ok(())
    }

    /// Waits for a term. `None` when the process stops.
    async fn next_term(&self, leads: &mut watch::Receiver<bool>, stop: &CancellationToken) -> Option<Term> {
        loop {
            stop.run_until_cancelled(leads.wait_for(|leads| *leads)).await?.ok()?;
            if let Some(term) = self.leadership.begin(stop) {
                return Some(term);
            }
            stop.run_until_cancelled(tokio::time::sleep(LOOK)).await?;
        }
    }

    /// Asks for the UID of the Lease. Without an answer such workers have no owner, and end by their deadlines.
    async fn owner(&self) -> Option<OwnerReference> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.lease.namespace);
        match tokio::time::timeout(PATIENCE, leases.get(&self.lease.name)).await {
            Ok(Ok(lease)) => lease.owner_ref(&()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the Lease could not be read: workers in the own namespace have no owner");
                None
            }
            Err(_) => None,
        }
    }

    /// Starts the parts of a term.
    fn begin(&self, term: &Term) -> Parts {
        let mut parts = Parts::default();
        let (client, metrics, over) = (&self.client, &self.metrics, term.over());
        let (settings, checks) = (self.settings.clone(), Arc::clone(&self.checks));
        let (beat, metrics_of) = (self.heartbeat.clone(), Arc::clone(metrics));
        let controller = controller::run(client.clone(), settings, checks, metrics_of, beat, term.clone());
        parts.spawn_supervisor("controller", controller);
        let watcher = starts::Watcher {
            client: client.clone(),
            namespace: self.settings.namespace.clone(),
            wanted: self.wanted.clone(),
            metrics: Arc::clone(metrics),
        };
        parts.spawn("pod starts", within(term.clone(), starts::run(watcher, over.clone())));
        let (catalog, schedules) = (self.catalog.clone(), self.schedules.clone());
        let schedule = schedule::run(client.clone(), catalog, schedules, Arc::clone(metrics), over.clone());
        parts.spawn("schedules", within(term.clone(), self.when_known(schedule)));
        let services = egress::follow(client.clone(), self.settings.cluster.clone(), over.clone());
        parts.spawn("networks of Services", within(term.clone(), services));
        parts.spawn("notifications", within(term.clone(), self.when_known(self.notify(over.clone()))));
        if self.has_api {
            let sweep = api::sweep(client.clone(), self.settings.own_namespace.clone(), over.clone());
            parts.spawn("idempotency key sweep", within(term.clone(), self.when_known(sweep)));
        }
        parts
    }

    /// Sends notifications, once the cluster's own addresses are known.
    fn notify(&self, over: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let (cluster, rate) = (self.settings.cluster.clone(), self.notify_rate);
        let (client, catalog, metrics) = (self.client.clone(), self.catalog.clone(), Arc::clone(&self.metrics));
        let poster = self.poster.clone();
        async move {
            if tokio::time::timeout(NODES, cluster.has_nodes()).await.is_err() {
                tracing::warn!(
                    "the nodes are not known: notifications are sent without refusing public addresses of nodes and pods"
                );
            }
            notify::run(client, catalog, poster, rate, metrics, over).await;
        }
    }

    /// Runs `work` once the catalog is whole.
    fn when_known(&self, work: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        let (mut caches, needed) = self.caches.clone();
        async move {
            if caches.wait_for(|count| *count >= needed).await.is_ok() {
                work.await;
            }
        }
    }
}

async fn within(term: Term, work: impl Future<Output = ()>) {
    term.run(work).await;
}

/// Waits until the term is over and all its parts have ended. A part that ends before the term does ends it, and is an error.
async fn supervise(term: &Term, leads: watch::Receiver<bool>, mut parts: Parts) -> Result<(), Failure> {
    let first = tokio::select! {
        () = end_with_leadership(term, leads) => None,
        ended = parts.next() => ended,
    };
    let first = match first {
        Some(Ok(part)) if term.holds() => Some(Failure::Ended { part }),
        Some(Ok(_)) | None => None,
        Some(Err(failure)) => Some(failure),
    };
    term.end();
    let later = parts.ended().await;
    first.or(later).map_or(Ok(()), Err)
}

/// Ends the term when this replica does not lead any more.
async fn end_with_leadership(term: &Term, mut leads: watch::Receiver<bool>) {
    while term.holds() {
        tokio::select! {
            () = term.over().cancelled() => {}
            changed = leads.changed() => {
                // An error means that the election has ended, which ends the term too.
                if changed.is_err() {
                    term.end();
                }
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
