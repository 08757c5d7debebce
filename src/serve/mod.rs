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
    api_contact::ApiContact,
    requests::{Component, CountingClient},
};
use tokio::{net::TcpListener, runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use self::{
    components::ServiceComponents,
    dependencies::SharedDependencies,
    election::LeaderSignals,
    startup::{Listeners, bind_listeners, build_client, log_addresses, refuse_overlap},
};
use crate::{
    api::pages::Pages,
    config::Config,
    intake,
    metrics::Metrics,
    server::{
        health::{self, ApiServerContact, HealthState},
        listener::{self, ListenerConfig},
        rotator::{self, CertResolver},
    },
    supervise::ComponentSet,
};

/// Runtimes of components that REST requests and the controller must not delay.
pub struct Runtimes {
    /// Runtime of the webhook listener.
    pub admission: Handle,
    /// Runtime of the leader election.
    pub election: Handle,
}

/// Serves until SIGTERM or SIGINT, or until a component fails, and returns the exit code of the
/// process. The REST listener serves the web pages too, unless a setting excludes them.
pub async fn serve(config: Config, runtimes: Runtimes, pages: Pages) -> anyhow::Result<ExitCode> {
    let metrics = Arc::new(Metrics::with_image_labels(config.metrics_images)?);
    let client = build_client().await?;
    let clients = CountingClient::new(client, metrics.kube_requests.clone(), ApiContact::default());
    if config.components.controller && !config.allow_overlap {
        refuse_overlap(&clients.for_component(Component::Startup), &config).await?;
    }
    let Listeners { webhook, api, health } = bind_listeners(&config, &runtimes.admission)?;
    let connections = build::connection_limits(&config);
    let (leads_out, leads) = watch::channel(false);
    let (bundle_out, bundle) = watch::channel(None);
    let (registered_out, registered) = watch::channel(false);
    let (caches_out, caches) = watch::channel(0);
    let (common, receiver) = SharedDependencies::new(&config, clients, metrics);
    let (stop, resign) = (common.stop.clone(), CancellationToken::new());
    let mut service = ServiceComponents::default();
    let parts = &mut service.others;

    let caches_needed = common.spawn_informers(&config, caches_out, parts);
    let signals = LeaderSignals { leads, bundle, caches, caches_needed };
    let health_state =
        common.spawn_health(&config, (health, connections.health), &signals, registered, parts);
    let current = common.spawn_certificate_rotation(&config, bundle_out, parts);
    if let Some(listener) = webhook {
        let mine = (listener, connections.webhook);
        common.spawn_webhook(&config, mine, Arc::clone(&current), &runtimes.admission, parts)?;
    }
    if let (Some(listener), Some(settings)) = (api, &config.api) {
        let pages = settings.ui.then_some(pages);
        let mine = (listener, connections.rest);
        common.spawn_rest(&config, (settings, pages), mine, (current, health_state), parts)?;
    }
    let client = common.clients.for_component(Component::Intake);
    let intake = intake::run(client, receiver, Arc::clone(&common.policy), stop.clone());
    parts.spawn("intake", intake);
    let senders = (leads_out, registered_out);
    common.spawn_election(&config, signals, senders, &runtimes.election, &resign, &mut service)?;

    log_addresses(&config);
    run_until_stopped(service, &stop, &resign).await
}

/// Waits for a signal or a failure, and shuts the components down. Returns the exit code.
async fn run_until_stopped(
    mut service: ServiceComponents,
    stop: &CancellationToken,
    resign: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let failure = service.run().await?;
    match &failure {
        None => tracing::info!("stopping"),
        Some(failure) => {
            tracing::error!(part = failure.component(), reason = %failure, "a component of the server has failed: the process exits");
        }
    }
    service.shut_down(stop, resign).await;
    Ok(if failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl SharedDependencies {
    /// Spawns the health listener, and the probe of the API server that it reports. Returns the
    /// state that it reports.
    fn spawn_health(
        &self,
        config: &Config,
        (listener, max_connections): (TcpListener, usize),
        signals: &LeaderSignals,
        registered: watch::Receiver<bool>,
        parts: &mut ComponentSet,
    ) -> HealthState {
        let (kubernetes_out, kubernetes) = watch::channel(ApiServerContact::initial());
        let by_url = config.webhook_url.is_some();
        let state = HealthState {
            kubernetes,
            leads: signals.leads.clone(),
            heartbeat: self.heartbeat.clone(),
            bundle: signals.bundle.clone(),
            synced_caches: signals.caches.clone(),
            required_caches: signals.caches_needed,
            registered: (by_url && config.components.controller).then_some(registered),
            registry: self.metrics.registry.clone(),
        };
        let router = health::router(state.clone());
        let how = ListenerConfig {
            max_connections,
            peer_share_percent: config.connections_per_address,
            ..ListenerConfig::default()
        };
        let stop = self.stop.clone();
        parts.spawn("health listener", listener::serve(listener, how, router, stop.clone()));
        let client = self.clients.for_component(Component::Health);
        let contact = self.clients.contact().clone();
        let probe = health::probe_api_server(client, contact, kubernetes_out, stop);
        parts.spawn("API server probe", probe);
        state
    }

    /// Spawns the rotation of the serving certificate, and returns its resolver.
    fn spawn_certificate_rotation(
        &self,
        config: &Config,
        bundle: watch::Sender<Option<String>>,
        parts: &mut ComponentSet,
    ) -> Arc<CertResolver> {
        let client = self.clients.for_component(Component::Certificates);
        let current = Arc::new(CertResolver::default());
        let keeper = rotator::run(
            build::certificate_source(config, &client),
            config.certificates.lifetimes,
            Arc::clone(&current),
            bundle,
            self.metrics.certificates.clone(),
            self.clients.contact().clone(),
            self.stop.clone(),
        );
        parts.spawn("certificate rotation", keeper);
        current
    }
}
