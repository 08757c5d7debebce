//! Leader election, and the components that act while this replica leads.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use prewarmer_kube::{
    lease::{self, ElectionHandles, LeaseSettings},
    requests::{Component, CountingClient},
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    build,
    components::ServiceComponents,
    dependencies::SharedDependencies,
    leader_tasks::LeaderTasks,
    lease_totals::{self, LeaseTotals},
    startup::build_client,
};
use crate::{
    config::Config, metrics::Metrics, notify::WebhookClient, server::registration,
    supervise::ComponentFailure, workload_watch,
};

/// Signals that start and stop the components of the leader.
pub(super) struct LeaderSignals {
    pub(super) leads: watch::Receiver<bool>,
    pub(super) bundle: watch::Receiver<Option<String>>,
    pub(super) caches: watch::Receiver<usize>,
    pub(super) caches_needed: usize,
}

impl SharedDependencies {
    /// Spawns the leader's components and the election, or, in a process without the controller, the
    /// component that follows the outcome totals on the Lease. `senders` report leadership and the
    /// registration of the webhook.
    pub(super) fn spawn_election(
        &self,
        config: &Config,
        seen: LeaderSignals,
        senders: (watch::Sender<bool>, watch::Sender<bool>),
        election_runtime: &Handle,
        resign: &CancellationToken,
        service: &mut ServiceComponents,
    ) -> anyhow::Result<()> {
        let (leads, registered) = senders;
        let totals = self.totals.clone();
        if config.components.controller {
            self.spawn_leader_components(config, seen, registered, service)?;
            let handles = ElectionHandles {
                leads,
                leadership: self.leadership.clone(),
                heartbeat: self.heartbeat.clone(),
                contact: self.clients.contact().clone(),
            };
            let election = run_election(
                build::lease_settings(config),
                LeaseTotals { totals },
                Arc::clone(&self.metrics),
                handles,
                resign.clone(),
            );
            service.election.spawn_on("election", election_runtime, election);
        } else {
            let lease = build::lease_settings(config);
            let follow = lease_totals::follow(
                self.clients.for_component(Component::Rest),
                lease,
                totals,
                self.clients.contact().clone(),
                self.stop.clone(),
            );
            service.others.spawn("outcome totals", follow);
        }
        Ok(())
    }

    /// Spawns the components that act while this process leads.
    fn spawn_leader_components(
        &self,
        config: &Config,
        seen: LeaderSignals,
        registered: watch::Sender<bool>,
        service: &mut ServiceComponents,
    ) -> anyhow::Result<()> {
        let LeaderSignals { leads, bundle, caches, caches_needed } = seen;
        let client = self.clients.for_component(Component::Registration);
        let stop = self.stop.clone();
        let desired = build::webhook_registration(config, Arc::clone(&self.policy));
        let by_url = config.webhook_url.is_some();
        let register = registration::run(
            (client, self.clients.contact().clone()),
            desired,
            bundle,
            leads.clone(),
            registered,
            by_url,
            stop.clone(),
        );
        service.leading.spawn("webhook registration", register);
        let rollouts = self.workload_watcher(config.intake.coalesce_window);
        let rollouts = watch_workloads_when_synced(
            rollouts,
            caches.clone(),
            caches_needed,
            leads.clone(),
            stop.clone(),
        );
        service.leading.spawn_supervisor("workload watch", rollouts);
        let office = self.leader_tasks(config, (caches, caches_needed))?.run(leads, stop);
        service.leading.spawn_supervisor("leader tasks", office);
        Ok(())
    }

    fn workload_watcher(&self, window: Duration) -> workload_watch::WorkloadWatcher {
        workload_watch::WorkloadWatcher {
            client: self.clients.for_component(Component::WorkloadWatch),
            policy: Arc::clone(&self.policy),
            context: self.context.clone(),
            hints: self.watch_hints.clone(),
            window,
            image_refs: self.image_refs.clone(),
            object_errors: self.metrics.object_errors.clone(),
            metrics: self.metrics.workload_watch.clone(),
        }
    }

    fn leader_tasks(
        &self,
        config: &Config,
        caches: (watch::Receiver<usize>, usize),
    ) -> anyhow::Result<LeaderTasks> {
        Ok(LeaderTasks {
            clients: self.clients.clone(),
            tasks: self.tasks.clone(),
            settings: config.controller.clone(),
            networks: self.cluster.clone(),
            checks: Arc::new(build::node_checks(
                config,
                &self.clients.for_component(Component::NodeChecks),
                &self.cluster,
                &self.metrics,
            )?),
            metrics: Arc::clone(&self.metrics),
            catalog: self.catalog.clone(),
            schedules: self.schedules.clone(),
            image_refs: self.image_refs.clone(),
            webhook_client: WebhookClient::new(build::notify_guard(config, &self.cluster))
                .context("the HTTP client for notifications could not be built")?,
            notify_rate: config.notify.rate,
            leadership: self.leadership.clone(),
            heartbeat: self.heartbeat.clone(),
            caches,
            lease: build::lease_settings(config),
            has_api: config.api.is_some(),
        })
    }
}

/// Runs the election with a separate client, because the requests of a client run on the runtime
/// that created it.
async fn run_election(
    settings: LeaseSettings,
    totals: LeaseTotals,
    metrics: Arc<Metrics>,
    handles: ElectionHandles,
    resign: CancellationToken,
) {
    match build_client().await {
        Ok(client) => {
            let requests = metrics.kube_requests.clone();
            let clients = CountingClient::new(client, requests, handles.contact.clone());
            let client = clients.for_component(Component::Election);
            let metrics = metrics.lease.clone();
            lease::run(client, settings, totals, metrics, handles, resign).await;
        }
        Err(error) => {
            tracing::error!(%error, "the client for the leader election could not be built");
        }
    }
}

/// Runs the workload watch once all caches are synced.
async fn watch_workloads_when_synced(
    own: workload_watch::WorkloadWatcher,
    mut caches: watch::Receiver<usize>,
    needed: usize,
    leads: watch::Receiver<bool>,
    stop: CancellationToken,
) -> Result<(), ComponentFailure> {
    let known = async { caches.wait_for(|count| *count >= needed).await.is_ok() };
    if stop.run_until_cancelled(known).await == Some(true) {
        return workload_watch::run(own, leads, stop).await;
    }
    Ok(())
}
