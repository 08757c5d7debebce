//! Components that run on the leader only: controller, schedules, pod starts, notifications and
//! garbage collection.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Api, Resource};
use prewarmer_core::{controller::ControllerSettings, workload_watch::ImageRefs};
use prewarmer_kube::{
    lease::{Heartbeat, Leadership, LeaseSettings, Term},
    requests::{Component, CountingClient},
    store::{ScheduleStore, TaskStore},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    controller::{self, ControllerDependencies, TaskFeed},
    egress::{self, ClusterNetworks},
    metrics::Metrics,
    node_checks::NodeChecks,
    notify::{self, WebhookClient},
    pod_start, schedule,
    supervise::{ComponentFailure, ComponentSet},
};

/// Pause before a term is looked for again, where the leadership ended before its term began.
const TERM_RETRY: Duration = Duration::from_millis(500);
/// Least time after which the end of a term without a renewal is checked again.
const MIN_TERM_CHECK: Duration = Duration::from_millis(50);

/// Timeout of the read of the Lease at the start of a term.
const LEASE_READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum wait of notifications for the addresses of nodes, to which notifications are denied.
const NODE_ADDRESSES_TIMEOUT: Duration = Duration::from_secs(60);

/// Dependencies of the leader's components.
pub(super) struct LeaderTasks {
    pub(super) clients: CountingClient,
    /// Changes of tasks, from the informer of this replica.
    pub(super) tasks: TaskFeed,
    pub(super) settings: ControllerSettings,
    /// Addresses of the cluster, for the egress policy.
    pub(super) networks: ClusterNetworks,
    pub(super) checks: Arc<NodeChecks>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) catalog: TaskStore,
    pub(super) schedules: ScheduleStore,
    pub(super) image_refs: ImageRefs,
    pub(super) webhook_client: WebhookClient,
    pub(super) leadership: Leadership,
    pub(super) heartbeat: Heartbeat,
    /// Rate limit of notifications, per namespace and minute.
    pub(super) notify_rate: NonZeroU32,
    /// Number of synced caches, and the required number.
    pub(super) caches: (watch::Receiver<usize>, usize),
    /// Lease of the installation. It owns the workers that cannot be owned by a task, so that they
    /// are deleted with it.
    pub(super) lease: LeaseSettings,
    /// `true`: REST is served, by this or another process.
    pub(super) has_api: bool,
}

impl LeaderTasks {
    /// Runs the components in each term until `stop`. Fails when a component ends within a term.
    pub(super) async fn run(
        mut self,
        mut leads: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> Result<(), ComponentFailure> {
        while let Some(term) = self.next_term(&mut leads, &stop).await {
            self.settings.worker.owner = self.lease_owner_reference().await;
            let _beating = self.heartbeat.begin();
            let parts = self.spawn_components(&term);
            supervise(&term, leads.clone(), parts).await?;
        }
        Ok(())
    }

    /// Waits for a term. Returns `None` when the process stops.
    async fn next_term(
        &self,
        leads: &mut watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Option<Term> {
        loop {
            stop.run_until_cancelled(leads.wait_for(|leads| *leads)).await?.ok()?;
            if let Some(term) = self.leadership.current_term(stop) {
                return Some(term);
            }
            stop.run_until_cancelled(tokio::time::sleep(TERM_RETRY)).await?;
        }
    }

    /// Reads the Lease and returns an owner reference to it. Without it, workers in the namespace
    /// of the installation have no owner and end by their deadlines.
    async fn lease_owner_reference(&self) -> Option<OwnerReference> {
        let client = self.clients.for_component(Component::Controller);
        let leases = Api::<Lease>::namespaced(client, &self.lease.namespace);
        match tokio::time::timeout(LEASE_READ_TIMEOUT, leases.get(&self.lease.name)).await {
            Ok(Ok(lease)) => lease.owner_ref(&()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the Lease could not be read: workers in the namespace of the installation get no owner reference");
                None
            }
            Err(_) => None,
        }
    }

    /// Spawns the components of a term.
    fn spawn_components(&self, term: &Term) -> ComponentSet {
        let mut parts = ComponentSet::default();
        let (metrics, over) = (&self.metrics, term.cancellation());
        let client = |component| self.clients.for_component(component);
        let dependencies = ControllerDependencies {
            client: client(Component::Controller),
            tasks: self.tasks.clone(),
            networks: self.networks.clone(),
            checks: Arc::clone(&self.checks),
            object_errors: metrics.object_errors.clone(),
            metrics: metrics.controller.clone(),
            heartbeat: self.heartbeat.clone(),
        };
        let controller = controller::run(dependencies, self.settings.clone(), term.clone());
        parts.spawn_supervisor("controller", controller);
        let watcher = pod_start::PodStartWatcher {
            client: client(Component::PodStarts),
            namespace: self.settings.namespace.clone(),
            image_refs: self.image_refs.clone(),
            object_errors: metrics.object_errors.clone(),
            metrics: metrics.pod_start.clone(),
        };
        parts.spawn(
            "pod starts",
            run_within_term(term.clone(), pod_start::run(watcher, over.clone())),
        );
        let (catalog, schedules) = (self.catalog.clone(), self.schedules.clone());
        let schedule = schedule::run(
            client(Component::Schedules),
            catalog,
            schedules,
            metrics.object_errors.clone(),
            metrics.schedule.clone(),
            over.clone(),
        );
        parts.spawn("schedules", run_within_term(term.clone(), self.when_synced(schedule)));
        let services = egress::follow_service_networks(
            client(Component::Egress),
            self.networks.clone(),
            metrics.object_errors.clone(),
            over.clone(),
        );
        parts.spawn("Service network watch", run_within_term(term.clone(), services));
        parts.spawn(
            "notifications",
            run_within_term(term.clone(), self.when_synced(self.notify(over.clone()))),
        );
        if self.has_api {
            let sweep = api::collect_expired_keys(
                client(Component::Rest),
                self.settings.own_namespace.clone(),
                over.clone(),
            );
            parts.spawn(
                "idempotency key garbage collection",
                run_within_term(term.clone(), self.when_synced(sweep)),
            );
        }
        parts
    }

    /// Sends notifications once the addresses of nodes are known, or after a maximum wait.
    fn notify(&self, over: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let (cluster, rate) = (self.networks.clone(), self.notify_rate);
        let client = self.clients.for_component(Component::Notifications);
        let object_errors = self.metrics.object_errors.clone();
        let (catalog, metrics) = (self.catalog.clone(), self.metrics.notify.clone());
        let poster = self.webhook_client.clone();
        async move {
            if tokio::time::timeout(NODE_ADDRESSES_TIMEOUT, cluster.wait_for_nodes()).await.is_err()
            {
                tracing::warn!(
                    "the nodes could not be listed in time: notifications to public addresses of nodes and pods are not denied"
                );
            }
            notify::run(client, catalog, poster, rate, object_errors, metrics, over).await;
        }
    }

    /// Runs `work` once all caches are synced.
    fn when_synced(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (mut caches, needed) = self.caches.clone();
        async move {
            if caches.wait_for(|count| *count >= needed).await.is_ok() {
                work.await;
            }
        }
    }
}

async fn run_within_term(term: Term, work: impl Future<Output = ()>) {
    term.run(work).await;
}

/// Waits until the term is over and all its components have ended. A component that ends earlier
/// ends the term, and is returned as an error.
async fn supervise(
    term: &Term,
    leads: watch::Receiver<bool>,
    mut parts: ComponentSet,
) -> Result<(), ComponentFailure> {
    let first = tokio::select! {
        () = end_with_leadership(term, leads) => None,
        ended = parts.next() => ended,
    };
    let first = match first {
        Some(Ok(part)) if term.is_active() => Some(ComponentFailure::Ended { part }),
        Some(Ok(_)) | None => None,
        Some(Err(failure)) => Some(failure),
    };
    term.end();
    let later = parts.join_all().await;
    first.or(later).map_or(Ok(()), Err)
}

/// Waits until the term is over, and ends it when the election has ended. Without renewals of the
/// Lease the term is over at a time that each renewal moves, so that it is checked then.
async fn end_with_leadership(term: &Term, mut leads: watch::Receiver<bool>) {
    while term.is_active() {
        tokio::select! {
            () = term.cancellation().cancelled() => {}
            changed = leads.changed() => {
                // An error means that the election has ended.
                if changed.is_err() {
                    term.end();
                }
            }
            () = tokio::time::sleep(term.time_left().max(MIN_TERM_CHECK)) => {}
        }
    }
}
