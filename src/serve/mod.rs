//! Assembly of `prewarmer serve`.
//!
//! Input: the settings. Output: all components of the service, which run until a signal. The only
//! module that depends on all others.

mod build;
mod leader_tasks;
mod lease_totals;
mod rest;
mod task_informer;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use kube::{Client, core::DeserializeGuard};
use prewarmer_core::{schedule::PrewarmSchedule, task::PrewarmTask, workload::Policy};
use prewarmer_kube::{
    informer::Informer,
    lease::{self, ElectionHandles, Heartbeat, Leadership, LeaseSettings},
    object_error::WorkKind,
    requests::{Component, CountingClient},
    store::{ScheduleStore, TaskStore},
};
use tokio::{net::TcpListener, runtime::Handle, signal::unix::SignalKind, sync::watch};
use tokio_util::sync::CancellationToken;

use self::{leader_tasks::LeaderTasks, lease_totals::LeaseTotals};
use crate::{
    api::{
        self, Api, ApiConfig,
        auth::{self, ApiTokens, Auth, TrustedProxies},
    },
    cluster_context::{self, ClusterContextStore},
    config::{Components, Config},
    controller::TaskFeed,
    egress::ClusterNetworks,
    intake::{self, ReviewHints, WatchHints},
    metrics::Metrics,
    notify::WebhookClient,
    pod_start::OutcomeTotals,
    scope::scoped,
    server::{
        client_certs,
        health::{self, ApiServerContact, HealthState},
        listener::{self, ListenerConfig},
        overlap, registration,
        rotator::{self, CertResolver},
    },
    supervise::{ComponentFailure, ComponentSet},
    task_view,
    webhook::{self, WebhookState},
    workload_watch,
};

/// Time limit of the shutdown, after which components that have not ended are abandoned. It is less
/// than the 30 s of the default `terminationGracePeriodSeconds` of a pod.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

/// Runtimes of components that REST requests and the controller must not delay.
pub struct Runtimes {
    /// Runtime of the webhook listener.
    pub admission: Handle,
    /// Runtime of the leader election.
    pub election: Handle,
}

/// Running components, in the order of their shutdown.
#[derive(Default)]
struct ServiceComponents {
    /// Components that act while this replica leads. They end before the Lease is released.
    leading: ComponentSet,
    election: ComponentSet,
    others: ComponentSet,
}

impl ServiceComponents {
    /// Waits for a signal or for the first failure of a component.
    async fn run(&mut self) -> anyhow::Result<Option<ComponentFailure>> {
        tokio::select! {
            result = wait_for_signal() => result.map(|()| None),
            failure = self.leading.next_failure() => Ok(Some(failure)),
            failure = self.election.next_failure() => Ok(Some(failure)),
            failure = self.others.next_failure() => Ok(Some(failure)),
        }
    }

    /// Stops all components. The Lease is released when no component acts as the leader any more.
    /// Where one does not end in time, the Lease is not released and expires.
    async fn shut_down(&mut self, stop: &CancellationToken, resign: &CancellationToken) {
        stop.cancel();
        let ended = tokio::time::timeout(SHUTDOWN_TIMEOUT, async {
            let _ = self.leading.join_all().await;
            resign.cancel();
            let _ = self.election.join_all().await;
            let _ = self.others.join_all().await;
        });
        if ended.await.is_err() {
            tracing::warn!("shutdown timed out: some components did not end");
        }
    }
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
    let listeners = bind_listeners(&config, &runtimes)?;
    let (leads_out, leads) = watch::channel(false);
    let (bundle_out, bundle) = watch::channel(None);
    let (registered_out, registered) = watch::channel(false);
    let (kubernetes_out, kubernetes) = watch::channel(ApiServerContact::initial());
    let (caches_out, caches) = watch::channel(0);
    let around = ClusterContextStore::default();
    let (reviews, hints, receiver) =
        intake::channel(&metrics, metrics.intake.clone(), config.intake.clone(), around.clone());
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
    common.spawn_election(&config, seen, senders, &runtimes, &resign, &mut service)?;

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

impl SharedDependencies {
    /// Spawns the leader's components and the election, or, in a process without the controller, the
    /// component that follows the outcome totals on the Lease. `senders` report leadership and the
    /// registration of the webhook.
    fn spawn_election(
        &self,
        config: &Config,
        seen: LeaderSignals,
        senders: (watch::Sender<bool>, watch::Sender<bool>),
        runtimes: &Runtimes,
        resign: &CancellationToken,
        service: &mut ServiceComponents,
    ) -> anyhow::Result<()> {
        let (leads, registered) = senders;
        let totals = self.totals.clone();
        let Components { api, controller, .. } = config.components;
        if controller {
            self.spawn_leader_components(config, seen, registered, service)?;
            let handles = ElectionHandles {
                leads,
                leadership: self.leadership.clone(),
                heartbeat: self.heartbeat.clone(),
            };
            let election = run_election(
                build::lease_settings(config),
                LeaseTotals { totals },
                Arc::clone(&self.metrics),
                handles,
                resign.clone(),
            );
            service.election.spawn_on("election", &runtimes.election, election);
        } else if api {
            let lease = build::lease_settings(config);
            let follow = lease_totals::follow(
                self.clients.for_component(Component::Rest),
                lease,
                totals,
                self.stop.clone(),
            );
            service.others.spawn("outcome totals", follow);
        }
        Ok(())
    }
}

/// Bound listeners; those of components that do not run are absent.
struct Listeners {
    webhook: Option<TcpListener>,
    api: Option<TcpListener>,
    health: TcpListener,
}

fn bind_listeners(config: &Config, runtimes: &Runtimes) -> anyhow::Result<Listeners> {
    let Components { admission, api, .. } = config.components;
    let webhook = if admission {
        // The runtime that accepts its connections polls the socket.
        let _runtime = runtimes.admission.enter();
        Some(bind("--webhook-addr", config.webhook_addr)?)
    } else {
        None
    };
    let health = bind("--health-addr", config.health_addr)?;
    let api = match config.api.as_ref().filter(|_| api) {
        Some(api) => Some(bind("--api-addr", api.addr)?),
        None => None,
    };
    Ok(Listeners { webhook, api, health })
}

fn log_addresses(config: &Config) {
    let Components { admission, api, controller } = config.components;
    let rest =
        config.api.as_ref().filter(|_| api).map(|api| api.addr.to_string()).unwrap_or_default();
    let webhook = if admission { config.webhook_addr.to_string() } else { String::new() };
    tracing::info!(webhook, api = rest, controller, health = %config.health_addr, "serving");
}

/// Fails when an older installation watches the same namespaces.
async fn refuse_overlap(client: &Client, config: &Config) -> anyhow::Result<()> {
    match overlap::find_older_installation(
        client,
        &config.object_name,
        config.watch_namespace.as_deref(),
    )
    .await
    {
        Some(found) => Err(anyhow::anyhow!("{found}")),
        None => Ok(()),
    }
}

async fn build_client() -> anyhow::Result<Client> {
    Client::try_default().await.map_err(|error| {
        anyhow::anyhow!(
            "no configuration for the cluster: set KUBECONFIG, or run in a pod ({error})"
        )
    })
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
            let clients = CountingClient::new(client, metrics.kube_requests.clone());
            let client = clients.for_component(Component::Election);
            let metrics = metrics.lease.clone();
            lease::run(client, settings, totals, metrics, handles, resign).await;
        }
        Err(error) => {
            tracing::error!(%error, "the client for the leader election could not be built");
        }
    }
}

/// Signals that start and stop the components of the leader.
struct LeaderSignals {
    leads: watch::Receiver<bool>,
    bundle: watch::Receiver<Option<String>>,
    caches: watch::Receiver<usize>,
    caches_needed: usize,
}

/// Dependencies that several components share.
struct SharedDependencies {
    clients: CountingClient,
    policy: Arc<Policy>,
    context: ClusterContextStore,
    review_hints: ReviewHints,
    watch_hints: WatchHints,
    metrics: Arc<Metrics>,
    tasks: TaskFeed,
    catalog: TaskStore,
    schedules: ScheduleStore,
    image_refs: prewarmer_core::workload_watch::ImageRefs,
    totals: OutcomeTotals,
    leadership: Leadership,
    heartbeat: Heartbeat,
    cluster: ClusterNetworks,
    stop: CancellationToken,
}

impl SharedDependencies {
    /// Spawns the informers of the cluster context, of tasks and, where REST or the controller
    /// needs them, of schedules. Returns the number of their caches.
    fn spawn_informers(
        &self,
        config: &Config,
        ready: watch::Sender<usize>,
        parts: &mut ComponentSet,
    ) -> usize {
        let watched = config.watch_namespace.as_deref();
        let client = self.clients.for_component(Component::Informers);
        let followers = cluster_context::informer::informers(
            &self.context,
            &client,
            watched,
            &ready,
            &self.metrics,
            &self.stop,
        );
        let schedules = config.components.api || config.components.controller;
        let needed = followers.len() + 1 + usize::from(schedules);
        for follower in followers {
            parts.spawn("cluster context watch", follower);
        }
        let (hints, around, catalog) =
            (self.watch_hints.clone(), self.context.clone(), self.catalog.clone());
        let indexes = task_informer::TaskIndexes { hints, context: around, store: catalog };
        let indexes = task_informer::IndexHandler::new(indexes, ready.clone(), &self.metrics);
        let tasks = Informer::new(
            scoped::<DeserializeGuard<PrewarmTask>>(&client, watched),
            "prewarmtasks",
            WorkKind::Store,
            &self.metrics.object_errors,
        );
        let handler = task_informer::TaskHandler::new(indexes, &self.tasks);
        parts.spawn("task watch", tasks.run(handler, self.stop.clone()));
        if schedules {
            let handler =
                task_informer::IndexHandler::new(self.schedules.clone(), ready, &self.metrics);
            let schedules = Informer::new(
                scoped::<DeserializeGuard<PrewarmSchedule>>(&client, watched),
                "prewarmschedules",
                WorkKind::Store,
                &self.metrics.object_errors,
            );
            parts.spawn("schedule watch", schedules.run(handler, self.stop.clone()));
        }
        needed
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
            client,
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

    /// Spawns the webhook listener.
    fn spawn_webhook(
        &self,
        config: &Config,
        (listener, max_connections): (TcpListener, usize),
        current: Arc<CertResolver>,
        admission: &Handle,
        parts: &mut ComponentSet,
    ) -> anyhow::Result<()> {
        let state = WebhookState {
            hints: self.review_hints.clone(),
            policy: Arc::clone(&self.policy),
            context: self.context.clone(),
            metrics: self.metrics.webhook.clone(),
        };
        let callers = build::client_verifier(config)?;
        if let Some(callers) = &callers {
            parts.spawn(
                "client CA reload",
                client_certs::reload_periodically(
                    Arc::clone(callers),
                    client_certs::RELOAD_INTERVAL,
                    self.stop.clone(),
                ),
            );
        }
        let tls = listener::tls_config(current, callers.map(|callers| callers as _))?;
        let (max_age, per_peer) = (config.webhook.connection_age, config.connections_per_address);
        let how = ListenerConfig {
            tls: Some(tls),
            max_age,
            max_connections,
            peer_share_percent: per_peer,
            ..ListenerConfig::default()
        };
        let webhook = listener::serve(listener, how, webhook::router(state), self.stop.clone());
        parts.spawn_on("webhook listener", admission, webhook);
        Ok(())
    }

    /// Spawns the REST listener.
    fn spawn_rest(
        &self,
        config: &Config,
        settings: &ApiConfig,
        (listener, max_connections): (TcpListener, usize),
        current: Arc<CertResolver>,
        parts: &mut ComponentSet,
    ) -> anyhow::Result<()> {
        let client = self.clients.for_component(Component::Rest);
        let (tokens, asked) = (ApiTokens::default(), settings.auth.then(|| client.clone()));
        let api = Api::new(api::ApiInner {
            client: client.clone(),
            catalog: self.catalog.clone(),
            schedules: self.schedules.clone(),
            auth: Auth::new(asked, tokens.clone(), settings.rate)
                .with_audiences(settings.audiences.clone())
                .with_trusted_proxies(TrustedProxies::new(settings.trusted_proxies.clone())),
            policy: Arc::clone(&self.policy),
            context: self.context.clone(),
            guard: build::notify_guard(config, &self.cluster),
            metrics: self.metrics.api.clone(),
            totals: self.totals.clone(),
            settings: build::api_settings(config, settings),
            stop: self.stop.clone(),
        });
        let tls = if settings.tls { Some(listener::tls_config(current, None)?) } else { None };
        let secret = build::token_secret(config);
        let (metrics, stop) = (self.metrics.api.clone(), self.stop.clone());
        let follow =
            async move { auth::watch_tokens(client, secret, tokens, &metrics, stop).await };
        parts.spawn("API token watch", follow);
        let how = ListenerConfig {
            tls,
            max_connections,
            peer_share_percent: config.connections_per_address,
            ..ListenerConfig::default()
        };
        parts.spawn("REST listener", rest::serve(listener, how, api, self.stop.clone()));
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
            metrics: Arc::clone(&self.metrics),
            workload_watch_metrics: self.metrics.workload_watch.clone(),
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

fn bind(flag: &'static str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    listener::bind(address)
        .with_context(|| format!("{flag} {address}: cannot listen on this address"))
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
