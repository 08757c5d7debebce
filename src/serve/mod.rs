//! Puts `prewarmer serve` together.
//!
//! In: the settings. Out: every part of the service at work, until a signal.
//! The only room that knows all others.

mod build;
mod learner;
mod office;
mod rest;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use kube::Client;
use tokio::{net::TcpListener, runtime::Handle, signal::unix::SignalKind, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use self::build::{policy, token_secret_name};
use self::office::Office;
use crate::{
    api::{
        self, Api,
        auth::{self, Auth, Proxies, Tokens},
    },
    catalog::{Catalog, Schedules},
    config::{ApiConfig, Config},
    intake::{self, ReviewHints, WatchHints},
    leader,
    metrics::Metrics,
    notify::Poster,
    rollout,
    server::{
        clients,
        health::{self, Health},
        keeper::{self, Current},
        listener::{self, Serving},
        registration,
    },
    starts::Totals,
    surroundings::{self, Surroundings},
    webhook::{self, WebhookState},
    workload::Policy,
};

/// All parts have ended by then, or are left: within the 30 s that a pod is given.
const SHUTDOWN: Duration = Duration::from_secs(25);

/// Serves until SIGTERM or SIGINT. Reviews are answered on `admission`, a runtime of their own.
pub async fn serve(config: Config, admission: Handle) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .map_err(|error| anyhow::anyhow!("no way to the cluster: set KUBECONFIG, or run in a pod ({error})"))?;
    let webhook_listener = admission.spawn(bind("--webhook-addr", config.webhook_addr)).await??;
    let health_listener = bind("--health-addr", config.health_addr).await?;
    let api_listener = match &config.api {
        Some(api) => Some(bind("--api-addr", api.addr).await?),
        None => None,
    };
    let metrics = Arc::new(Metrics::new()?);
    let (leads_out, leads) = watch::channel(false);
    let (bundle_out, bundle) = watch::channel(None);
    let (registered_out, registered) = watch::channel(false);
    let (kubernetes_out, kubernetes) = watch::channel(false);
    let (caches_out, caches) = watch::channel(0);
    let around = Surroundings::default();
    let (reviews, hints, receiver) = intake::channel(&metrics, build::intake_settings(&config), around.clone());
    let mut policy = build::policy(config.policy.clone(), &config.namespace, config.watch_namespace.as_deref());
    policy.caps = Arc::clone(&config.limits.caps);
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
        stop: CancellationToken::new(),
    };
    let stop = common.stop.clone();
    let mut parts = JoinSet::new();
    let caches_needed = common.learn(&config, caches_out, &mut parts);

    let by_url = config.webhook_url.is_some();
    let health = Health {
        kubernetes,
        leads: leads.clone(),
        bundle: bundle.clone(),
        caches: caches.clone(),
        caches_needed,
        registered: by_url.then_some(registered),
        metrics: Arc::clone(&metrics),
    };
    parts.spawn(listener::serve(health_listener, Serving::default(), health::router(health), stop.clone()));
    parts.spawn(health::probe(client.clone(), kubernetes_out, stop.clone()));

    let current = Arc::new(Current::default());
    let (source, lives) = (build::source(&config, &client), config.lifetimes);
    parts.spawn(keeper::keep(source, lives, Arc::clone(&current), bundle_out, Arc::clone(&metrics), stop.clone()));
    common.review(&config, webhook_listener, Arc::clone(&current), &admission, &mut parts)?;
    if let (Some(listener), Some(settings)) = (api_listener, &config.api) {
        common.rest(&config, settings, listener, current, &mut parts)?;
    }
    parts.spawn(intake::run(client.clone(), receiver, Arc::clone(&common.policy), stop.clone()));
    let desired = build::registration(&config, Arc::clone(&common.policy));
    let register =
        registration::keep(client.clone(), desired, bundle, leads.clone(), registered_out, by_url, stop.clone());
    parts.spawn(register);
    let rollouts = common.rollouts(config.coalesce_window);
    parts.spawn(watch_rollouts(rollouts, caches.clone(), caches_needed, leads.clone(), stop.clone()));
    parts.spawn(common.office(&config, (caches, caches_needed))?.hold(leads, stop.clone()));
    // The Lease is released last: the successor may begin when our controller has ended.
    let resign = CancellationToken::new();
    let figures = leader::Figures { metrics, totals: common.totals.clone() };
    let election = leader::run(client, build::lease(&config), figures, leads_out, resign.clone());
    let election = tokio::spawn(election);

    let rest = config.api.as_ref().map(|api| api.addr.to_string()).unwrap_or_default();
    tracing::info!(webhook = %config.webhook_addr, api = rest, health = %config.health_addr, "serving");
    signalled().await?;
    tracing::info!("stopping");
    stop.cancel();
    let ended = tokio::time::timeout(SHUTDOWN, async {
        while let Some(part) = parts.join_next().await {
            if let Err(error) = part {
                tracing::error!(%error, "a part ended badly");
            }
        }
        resign.cancel();
        election.await
    });
    if ended.await.is_err() {
        tracing::warn!("not everything ended in time");
    }
    Ok(())
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
    stop: CancellationToken,
}

impl Common {
    /// Follows what surrounds workloads, tasks and schedules. How many caches these are.
    fn learn(&self, config: &Config, ready: watch::Sender<usize>, parts: &mut JoinSet<()>) -> usize {
        let watched = config.watch_namespace.as_deref();
        let followers = surroundings::watch::follow(&self.around, &self.client, watched, &ready, &self.stop);
        let needed = followers.len() + 2;
        for follower in followers {
            parts.spawn(follower);
        }
        let (hints, around, catalog) = (self.hints.clone(), self.around.clone(), self.catalog.clone());
        let place = learner::Place { client: self.client.clone(), namespace: config.watch_namespace.clone(), ready };
        parts.spawn(learner::learn(learner::Tasks { hints, around, catalog }, place.clone(), self.stop.clone()));
        parts.spawn(learner::learn(self.schedules.clone(), place, self.stop.clone()));
        needed
    }

    /// Answers reviews.
    fn review(
        &self,
        config: &Config,
        listener: TcpListener,
        current: Arc<Current>,
        admission: &Handle,
        parts: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let state = WebhookState {
            hints: self.reviews.clone(),
            policy: Arc::clone(&self.policy),
            around: self.around.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let callers = build::clients(config)?;
        if let Some(callers) = &callers {
            parts.spawn(clients::keep(Arc::clone(callers), clients::REREAD, self.stop.clone()));
        }
        let tls = listener::tls_config(current, callers.map(|callers| callers as _))?;
        let how = Serving { tls: Some(tls), max_age: config.connection_age, ..Serving::default() };
        let webhook = admission.spawn(listener::serve(listener, how, webhook::router(state), self.stop.clone()));
        parts.spawn(async move {
            if let Err(error) = webhook.await {
                tracing::error!(%error, "the webhook ended badly");
            }
        });
        Ok(())
    }

    /// Answers REST calls.
    fn rest(
        &self,
        config: &Config,
        settings: &ApiConfig,
        listener: TcpListener,
        current: Arc<Current>,
        parts: &mut JoinSet<()>,
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
            guard: build::guard(config),
            metrics: Arc::clone(&self.metrics),
            totals: self.totals.clone(),
            settings: build::api_settings(config, settings),
            stop: self.stop.clone(),
        });
        let tls = if settings.tls { Some(listener::tls_config(current, None)?) } else { None };
        let (client, secret) = (self.client.clone(), build::token_secret(config));
        let (metrics, stop) = (Arc::clone(&self.metrics), self.stop.clone());
        parts.spawn(async move { auth::follow(client, secret, tokens, &metrics, stop).await });
        parts.spawn(rest::serve(listener, tls, api, self.stop.clone()));
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
            settings: build::controller_settings(config),
            checks: Arc::new(build::checks(config, &self.client)?),
            metrics: Arc::clone(&self.metrics),
            catalog: self.catalog.clone(),
            schedules: self.schedules.clone(),
            wanted: self.wanted.clone(),
            poster: Poster::new(build::guard(config)).context("no HTTP client for notifications")?,
            caches,
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
) {
    let known = async { caches.wait_for(|count| *count >= needed).await.is_ok() };
    if stop.run_until_cancelled(known).await == Some(true) {
        rollout::run(own, leads, stop).await;
    }
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
