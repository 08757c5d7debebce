//! Assembly of `prewarmer serve`.
//!
//! Input: the settings. Output: all components of the service, which run until a signal. The only
//! module that depends on all others.

mod build;
mod components;
mod dependencies;
mod election;
mod leader_tasks;
mod lease_totals;
mod rest;
mod startup;
mod task_informer;

use std::{process::ExitCode, sync::Arc};

use prewarmer_kube::{
    lease::{Heartbeat, Leadership},
    requests::{Component, CountingClient},
    store::{ScheduleStore, TaskStore},
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use self::{
    components::ServiceComponents,
    dependencies::SharedDependencies,
    election::LeaderSignals,
    startup::{bind_listeners, build_client, log_addresses, refuse_overlap},
};
use crate::{
    cluster_context::ClusterContextStore,
    config::Config,
    controller::TaskFeed,
    egress::ClusterNetworks,
    intake,
    metrics::Metrics,
    pod_start::OutcomeTotals,
    server::{
        health::{self, ApiServerContact, HealthState},
        listener::{self, ListenerConfig},
        rotator::{self, CertResolver},
    },
    task_view,
};

/// Runtimes of components that REST requests and the controller must not delay.
pub struct Runtimes {
    /// Runtime of the webhook listener.
    pub admission: Handle,
    /// Runtime of the leader election.
    pub election: Handle,
}

/// Serves until SIGTERM or SIGINT, or until a component fails, and returns the exit code of the
/// process.
pub async fn serve(config: Config, runtimes: Runtimes) -> anyhow::Result<ExitCode> {
    let metrics = Arc::new(Metrics::new()?);
    let clients = CountingClient::new(build_client().await?, metrics.kube_requests.clone());
    let controller = config.components.controller;
    if controller && !config.allow_overlap {
        refuse_overlap(&clients.for_component(Component::Startup), &config).await?;
    }
    let listeners = bind_listeners(&config, &runtimes.admission)?;
    let (leads_out, leads) = watch::channel(false);
    let (bundle_out, bundle) = watch::channel(None);
    let (registered_out, registered) = watch::channel(false);
    let (kubernetes_out, kubernetes) = watch::channel(ApiServerContact::initial());
    let (caches_out, caches) = watch::channel(0);
    let around = ClusterContextStore::default();
    let (reviews, hints, receiver) = intake::channel(
        metrics.object_errors.clone(),
        metrics.intake.clone(),
        config.intake.clone(),
        around.clone(),
    );
    let policy = build::served_policy(&config);
    let common = SharedDependencies {
        clients,
        policy: Arc::new(policy),
        context: around,
        review_hints: reviews,
        watch_hints: hints,
        metrics: Arc::clone(&metrics),
        tasks: TaskFeed::default(),
        catalog: TaskStore::new(task_view::render),
        schedules: ScheduleStore::default(),
        image_refs: prewarmer_core::workload_watch::ImageRefs::default(),
        totals: OutcomeTotals::new(metrics.pod_start.clone()),
        leadership: Leadership::default(),
        heartbeat: Heartbeat::default(),
        cluster: ClusterNetworks::default(),
        stop: CancellationToken::new(),
    };
    let stop = common.stop.clone();
    let mut service = ServiceComponents::default();
    let parts = &mut service.others;
    let caches_needed = common.spawn_informers(&config, caches_out, parts);

    let by_url = config.webhook_url.is_some();
    let router = health::router(HealthState {
        kubernetes,
        leads: leads.clone(),
        heartbeat: common.heartbeat.clone(),
        bundle: bundle.clone(),
        synced_caches: caches.clone(),
        required_caches: caches_needed,
        registered: (by_url && controller).then_some(registered),
        registry: metrics.registry.clone(),
    });
    let connections = build::connection_limits(&config);
    let how = ListenerConfig {
        max_connections: connections.health,
        peer_share_percent: config.connections_per_address,
        ..ListenerConfig::default()
    };
    parts.spawn("health listener", listener::serve(listeners.health, how, router, stop.clone()));
    let client = |component| common.clients.for_component(component);
    let probe = health::probe_api_server(client(Component::Health), kubernetes_out, stop.clone());
    parts.spawn("API server probe", probe);

    let current = Arc::new(CertResolver::default());
    let source = build::certificate_source(&config, &client(Component::Certificates));
    let lives = config.certificates.lifetimes;
    let keeper = rotator::run(
        source,
        lives,
        Arc::clone(&current),
        bundle_out,
        metrics.certificates.clone(),
        stop.clone(),
    );
    parts.spawn("certificate rotation", keeper);
    if let Some(listener) = listeners.webhook {
        let mine = (listener, connections.webhook);
        common.spawn_webhook(&config, mine, Arc::clone(&current), &runtimes.admission, parts)?;
    }
    if let (Some(listener), Some(settings)) = (listeners.api, &config.api) {
        common.spawn_rest(&config, settings, (listener, connections.rest), current, parts)?;
    }
    let client = client(Component::Intake);
    let intake = intake::run(client, receiver, Arc::clone(&common.policy), stop.clone());
    parts.spawn("intake", intake);
    let resign = CancellationToken::new();
    let seen = LeaderSignals { leads, bundle, caches, caches_needed };
    let senders = (leads_out, registered_out);
    common.spawn_election(&config, seen, senders, &runtimes.election, &resign, &mut service)?;

    log_addresses(&config);
    let failure = service.run().await?;
    match &failure {
        None => tracing::info!("stopping"),
        Some(failure) => {
            tracing::error!(part = failure.component(), reason = %failure, "a component of the server has failed: the process exits");
        }
    }
    service.shut_down(&stop, &resign).await;
    Ok(if failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
