//! Puts `prewarmer serve` together.
//!
//! In: the settings. Out: every part of the service at work, until a signal.
//! The only room that knows all others.

mod build;
mod figures;
mod learner;
mod office;
mod rest;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use kube::Client;
use tokio::{net::TcpListener, runtime::Handle, signal::unix::SignalKind, sync::watch};
use tokio_util::sync::CancellationToken;

pub use self::build::{policy, token_secret_name};
use self::office::Office;
use crate::{
    api::{
        self, Api,
        auth::{self, Auth, Proxies, Tokens},
    },
    catalog::{Catalog, Schedules},
    config::{ApiConfig, Components, Config},
    egress::Cluster,
    intake::{self, ReviewHints, WatchHints},
    leader::{self, Heartbeat, Leadership, LeaseSettings, Standing},
    metrics::Metrics,
    notify::Poster,
    rollout,
    server::{
        clients,
        health::{self, Contact, Health},
        keeper::{self, Current},
        listener::{self, Serving},
        overlap, registration,
    },
    starts::Totals,
    supervise::{Failure, Parts},
    surroundings::{self, Surroundings},
    webhook::{self, WebhookState},
    workload::Policy,
};

/// All parts have ended by then, or are left: within the 30 s that a pod is given.
const SHUTDOWN: Duration = Duration::from_secs(25);

/// Runtimes for what must not wait for REST calls and for the controller.
pub struct Runtimes {
    /// Answers reviews.
    pub admission: Handle,
    /// Renews the Lease.
    pub election: Handle,
}

/// The parts at work, in the order in which they are ended.
#[derive(Default)]
struct Service {
    /// Act while this replica leads: they have ended before the Lease is released.
    leading: Parts,
    election: Parts,
    others: Parts,
}

impl Service {
    /// Waits for a signal, or for a part that fails before one.
    async fn run(&mut self) -> anyhow::Result<Option<Failure>> {
        tokio::select! {
            result = signalled() => result.map(|()| None),
            failure = self.leading.failed() => Ok(Some(failure)),
            failure = self.election.failed() => Ok(Some(failure)),
            failure = self.others.failed() => Ok(Some(failure)),
        }
    }

    /// Ends everything. The Lease is released when nothing acts as the leader any more; where something does not end, the
    /// Lease expires by itself.
    async fn end(&mut self, stop: &CancellationToken, resign: &CancellationToken) {
        stop.cancel();
        let ended = tokio::time::timeout(SHUTDOWN, async {
            let _ = self.leading.ended().await;
            resign.cancel();
            let _ = self.election.ended().await;
            let _ = self.others.ended().await;
        });
        if ended.await.is_err() {
            tracing::warn!("not everything ended in time");
        }
    }
}

/// Serves until SIGTERM or SIGINT, or until a part fails: then the process is to end with the code that is returned.
pub async fn serve(config: Config, runtimes: Runtimes) -> anyhow::Result<ExitCode> {
    let client = connect().await?;
    let Components { admission, api, controller } = config.components;
    if controller && !config.allow_overlap {
        refuse_overlap(&client, &config).await?;
    }
    let webhook_listener = if admission {
        Some(runtimes.admission.spawn(bind("--webhook-addr", config.webhook_addr)).await??)
    } else {
        None
    };
    let health_listener = bind("--health-addr", config.health_addr).await?;
    let api_listener = match config.api.as_ref().filter(|_| api) {
        Some(api) => Some(bind("--api-addr", api.addr).await?),
        None => None,
    };
    let metrics = Arc::new(Metrics::new()?);
    let (leads_out, leads) = watch::channel(false);
    let (bundle_out, bundle) = watch::channel(None);
    let (registered_out, registered) = watch::channel(false);
    let (kubernetes_out, kubernetes) = watch::channel(Contact::none());
    let (caches_out, caches) = watch::channel(0);
    let around = Surroundings::default();
    let (reviews, hints, receiver) = intake::channel(&metrics, build::intake_settings(&config), around.clone());
    let policy = build::served_policy(&config);
    let common = Common {
        client: client.clone(),
        policy: Arc::new(policy),
        around,
        reviews,
        hints,
        metrics: Arc::clone(&metrics),
        catalog: Catalog::default(),
        schedules: Schedules::default(),
        wanted: rollout::Wanted::default(),
        totals: Totals::default(),
        leadership: Leadership::default(),
        heartbeat: Heartbeat::default(),
        cluster: Cluster::default(),
        stop: CancellationToken::new(),
    };
    let stop = common.stop.clone();
    let mut service = Service::default();
    let parts = &mut service.others;
    let caches_needed = common.learn(&config, caches_out, parts);

    let by_url = config.webhook_url.is_some();
    let health = Health {
        kubernetes,
        leads: leads.clone(),
        heartbeat: common.heartbeat.clone(),
        bundle: bundle.clone(),
        caches: caches.clone(),
        caches_needed,
        registered: (by_url && controller).then_some(registered),
        metrics: Arc::clone(&metrics),
    };
    let router = health::router(health);
    let connections = build::connections(&config);
    let how = Serving { max_connections: connections.health, per_peer: config.per_address, ..Serving::default() };
    parts.spawn("health listener", listener::serve(health_listener, how, router, stop.clone()));
    parts.spawn("API server probe", health::probe(client.clone(), kubernetes_out, stop.clone()));

    let current = Arc::new(Current::default());
    let (source, lives) = (build::source(&config, &client), config.lifetimes);
    let keeper = keeper::keep(source, lives, Arc::clone(&current), bundle_out, Arc::clone(&metrics), stop.clone());
    parts.spawn("certificate keeper", keeper);
    if let Some(listener) = webhook_listener {
        let mine = (listener, connections.webhook);
        common.review(&config, mine, Arc::clone(&current), &runtimes.admission, parts)?;
    }
    if let (Some(listener), Some(settings)) = (api_listener, &config.api) {
        common.rest(&config, settings, (listener, connections.rest), current, parts)?;
    }
    let intake = intake::run(client.clone(), receiver, Arc::clone(&common.policy), stop.clone());
    parts.spawn("intake", intake);
    let resign = CancellationToken::new();
    if controller {
        let seen = Seen { leads, bundle, caches, caches_needed };
        common.lead(&config, seen, registered_out, &mut service)?;
        let standing =
            Standing { leads: leads_out, leadership: common.leadership.clone(), heartbeat: common.heartbeat.clone() };
        let figures = leader::Figures { metrics, totals: common.totals.clone() };
        let election = elect(build::lease(&config), figures, standing, resign.clone());
        service.election.spawn_on("election", &runtimes.election, election);
    } else if api {
        let figures = figures::follow(client, build::lease(&config), common.totals.clone(), stop.clone());
        service.others.spawn("figures", figures);
    }

    let rest = config.api.as_ref().filter(|_| api).map(|api| api.addr.to_string()).unwrap_or_default();
    let webhook = if admission { config.webhook_addr.to_string() } else { String::new() };
    tracing::info!(webhook, api = rest, controller, health = %config.health_addr, "serving");
    let failure = service.run().await?;
    match &failure {
        None => tracing::info!("stopping"),
        Some(failure) => {
            tracing::error!(part = failure.part(), reason = %failure, "a part of the server has failed: the process ends");
        }
    }
    service.end(&stop, &resign).await;
    Ok(if failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Fails where an older installation looks at the same namespaces.
async fn refuse_overlap(client: &Client, config: &Config) -> anyhow::Result<()> {
    match overlap::find(client, &config.object_name, config.watch_namespace.as_deref()).await {
        Some(found) => Err(anyhow::anyhow!("{found}")),
        None => Ok(()),
    }
}

async fn connect() -> anyhow::Result<Client> {
    Client::try_default()
        .await
        .map_err(|error| anyhow::anyhow!("no way to the cluster: set KUBECONFIG, or run in a pod ({error})"))
}

/// Stands for election with a client of its own: requests of a client are sent on the runtime that made it.
async fn elect(lease: LeaseSettings, figures: leader::Figures, standing: Standing, resign: CancellationToken) {
    match connect().await {
        Ok(client) => leader::run(client, lease, figures, standing, resign).await,
        Err(error) => tracing::error!(%error, "no client for the Lease"),
    }
}

/// What tells a leader's parts when to act.
struct Seen {
    leads: watch::Receiver<bool>,
    bundle: watch::Receiver<Option<String>>,
    caches: watch::Receiver<usize>,
    caches_needed: usize,
}

/// What several parts need.
struct Common {
    client: Client,
    policy: Arc<Policy>,
    around: Surroundings,
    reviews: ReviewHints,
    hints: WatchHints,
    metrics: Arc<Metrics>,
    catalog: Catalog,
    schedules: Schedules,
    wanted: rollout::Wanted,
    totals: Totals,
    leadership: Leadership,
    heartbeat: Heartbeat,
    cluster: Cluster,
    stop: CancellationToken,
}

impl Common {
    /// Follows what surrounds workloads, tasks and, where they are of use, schedules. How many caches these are.
    fn learn(&self, config: &Config, ready: watch::Sender<usize>, parts: &mut Parts) -> usize {
        let watched = config.watch_namespace.as_deref();
        let followers = surroundings::watch::follow(&self.around, &self.client, watched, &ready, &self.stop);
        let schedules = config.components.api || config.components.controller;
        let needed = followers.len() + 1 + usize::from(schedules);
        for follower in followers {
            parts.spawn("surroundings watch", follower);
        }
        let (hints, around, catalog) = (self.hints.clone(), self.around.clone(), self.catalog.clone());
        let place = learner::Place {
            client: self.client.clone(),
            namespace: config.watch_namespace.clone(),
            ready,
            metrics: Arc::clone(&self.metrics),
        };
        let tasks = learner::Tasks { hints, around, catalog };
        parts.spawn("task watch", learner::learn(tasks, place.clone(), self.stop.clone()));
        if schedules {
            parts.spawn("schedule watch", learner::learn(self.schedules.clone(), place, self.stop.clone()));
        }
        needed
    }

    /// Does what only the leader does, whenever this process leads.
    fn lead(
        &self,
        config: &Config,
        seen: Seen,
        registered: watch::Sender<bool>,
        service: &mut Service,
    ) -> anyhow::Result<()> {
        let Seen { leads, bundle, caches, caches_needed } = seen;
        let (client, stop) = (self.client.clone(), self.stop.clone());
        let desired = build::registration(config, Arc::clone(&self.policy));
        let by_url = config.webhook_url.is_some();
        let register = registration::keep(client, desired, bundle, leads.clone(), registered, by_url, stop.clone());
        service.leading.spawn("webhook registration", register);
        let rollouts = self.rollouts(config.coalesce_window);
        let rollouts = watch_rollouts(rollouts, caches.clone(), caches_needed, leads.clone(), stop.clone());
        service.leading.spawn_supervisor("rollout watch", rollouts);
        let office = self.office(config, (caches, caches_needed))?.hold(leads, stop);
        service.leading.spawn_supervisor("leader's work", office);
        Ok(())
    }

    /// Answers reviews.
    fn review(
        &self,
        config: &Config,
        (listener, max_connections): (TcpListener, usize),
        current: Arc<Current>,
        admission: &Handle,
        parts: &mut Parts,
    ) -> anyhow::Result<()> {
        let state = WebhookState {
            hints: self.reviews.clone(),
            policy: Arc::clone(&self.policy),
            around: self.around.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let callers = build::clients(config)?;
        if let Some(callers) = &callers {
            parts.spawn("callers' CA watch", clients::keep(Arc::clone(callers), clients::REREAD, self.stop.clone()));
        }
        let tls = listener::tls_config(current, callers.map(|callers| callers as _))?;
        let (max_age, per_peer) = (config.connection_age, config.per_address);
        let how = Serving { tls: Some(tls), max_age, max_connections, per_peer, ..Serving::default() };
        let webhook = listener::serve(listener, how, webhook::router(state), self.stop.clone());
        parts.spawn_on("webhook listener", admission, webhook);
        Ok(())
    }

    /// Answers REST calls.
    fn rest(
        &self,
        config: &Config,
        settings: &ApiConfig,
        (listener, max_connections): (TcpListener, usize),
        current: Arc<Current>,
        parts: &mut Parts,
    ) -> anyhow::Result<()> {
        let (tokens, asked) = (Tokens::default(), settings.auth.then(|| self.client.clone()));
        let api = Api::new(api::Inner {
            client: self.client.clone(),
            catalog: self.catalog.clone(),
            schedules: self.schedules.clone(),
            auth: Auth::new(asked, tokens.clone(), settings.rate, Arc::clone(&self.metrics))
                .for_audiences(settings.audiences.clone())
                .behind(Proxies::new(settings.proxies.clone())),
            policy: Arc::clone(&self.policy),
            around: self.around.clone(),
            guard: build::guard(config, &self.cluster),
            metrics: Arc::clone(&self.metrics),
            totals: self.totals.clone(),
            settings: build::api_settings(config, settings),
            stop: self.stop.clone(),
        });
        let tls = if settings.tls { Some(listener::tls_config(current, None)?) } else { None };
        let (client, secret) = (self.client.clone(), build::token_secret(config));
        let (metrics, stop) = (Arc::clone(&self.metrics), self.stop.clone());
        let follow = async move { auth::follow(client, secret, tokens, &metrics, stop).await };
        parts.spawn("API token watch", follow);
        let how = Serving { tls, max_connections, per_peer: config.per_address, ..Serving::default() };
        parts.spawn("REST listener", rest::serve(listener, how, api, self.stop.clone()));
        Ok(())
    }

    fn rollouts(&self, window: Duration) -> rollout::Watcher {
        rollout::Watcher {
            client: self.client.clone(),
            policy: Arc::clone(&self.policy),
            around: self.around.clone(),
            hints: self.hints.clone(),
            window,
            wanted: self.wanted.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    fn office(&self, config: &Config, caches: (watch::Receiver<usize>, usize)) -> anyhow::Result<Office> {
        Ok(Office {
            client: self.client.clone(),
            settings: build::controller_settings(config, &self.cluster),
            checks: Arc::new(build::checks(config, &self.client, &self.cluster, &self.metrics)?),
            metrics: Arc::clone(&self.metrics),
            catalog: self.catalog.clone(),
            schedules: self.schedules.clone(),
            wanted: self.wanted.clone(),
            poster: Poster::new(build::guard(config, &self.cluster)).context("no HTTP client for notifications")?,
            notify_rate: config.notify_rate,
            leadership: self.leadership.clone(),
            heartbeat: self.heartbeat.clone(),
            caches,
            lease: build::lease(config),
            has_api: config.api.is_some(),
        })
    }
}

/// Watches workloads once all caches have their first lists.
async fn watch_rollouts(
    own: rollout::Watcher,
    mut caches: watch::Receiver<usize>,
    needed: usize,
    leads: watch::Receiver<bool>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let known = async { caches.wait_for(|count| *count >= needed).await.is_ok() };
    if stop.run_until_cancelled(known).await == Some(true) {
        return rollout::run(own, leads, stop).await;
    }
    Ok(())
}

async fn bind(flag: &'static str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}: cannot listen there"))
}

async fn signalled() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
