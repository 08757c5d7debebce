//! Puts `prewarmer serve` together.
//!
//! In: the settings. Out: every part of the service at work, until a signal.
//! The only room that knows all others.

mod build;
mod callers;
mod learner;
mod office;

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
        auth::{Auth, Tokens},
    },
    catalog::{Catalog, Schedules},
    config::Config,
    intake, leader,
    metrics::Metrics,
    notify::Poster,
    rollout,
    server::{
        health::{self, Health},
        keeper::{self, Current},
        listener::{self, Serving},
        registration,
    },
    surroundings::{self, Surroundings},
    webhook::{self, WebhookState},
};

/// Connections to the REST API at once, most of them watches: with 20 to 40 KB each, 160 MB at the worst.
const API_CONNECTIONS: usize = 4096;
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
    let stop = CancellationToken::new();
    let mut parts = JoinSet::new();

    let (leads_out, leads) = watch::channel(false);
    let (bundle_out, bundle) = watch::channel(None);
    let (registered_out, registered) = watch::channel(false);
    let (kubernetes_out, kubernetes) = watch::channel(false);
    let (caches_out, caches) = watch::channel(0);
    let (hints, receiver) = intake::channel(&metrics);
    let around = Surroundings::default();
    let policy = Arc::new(build::policy(config.policy.clone(), &config.namespace, config.watch_namespace.as_deref()));

    let watched = config.watch_namespace.as_deref();
    let followers = surroundings::watch::follow(&around, &client, watched, &caches_out, &stop);
    // And the tasks and the schedules.
    let caches_needed = followers.len() + 2;
    for follower in followers {
        parts.spawn(follower);
    }
    let (catalog, schedules) = (Catalog::default(), Schedules::default());
    let tasks = learner::Tasks { hints: hints.clone(), around: around.clone(), catalog: catalog.clone() };
    let scope = || (client.clone(), config.watch_namespace.clone(), caches_out.clone(), stop.clone());
    let (c, n, r, s) = scope();
    parts.spawn(learner::learn(tasks, c, n, r, s));
    let (c, n, r, s) = scope();
    parts.spawn(learner::learn(schedules.clone(), c, n, r, s));

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
    let state = WebhookState {
        hints: hints.clone(),
        policy: Arc::clone(&policy),
        around: around.clone(),
        metrics: Arc::clone(&metrics),
    };
    let tls = listener::tls_config(Arc::<Current>::clone(&current), build::clients(&config)?)?;
    let how = Serving { tls: Some(tls), max_age: config.connection_age, ..Serving::default() };
    let webhook = admission.spawn(listener::serve(webhook_listener, how, webhook::router(state), stop.clone()));
    parts.spawn(async move {
        if let Err(error) = webhook.await {
            tracing::error!(%error, "the webhook ended badly");
        }
    });
    if let (Some(listener), Some(rest)) = (api_listener, &config.api) {
        let tokens = Tokens::default();
        parts.spawn(callers::follow_tokens(client.clone(), build::token_secret(&config), tokens.clone(), stop.clone()));
        let auth = Auth::new(rest.auth.then(|| client.clone()), tokens, rest.rate, Arc::clone(&metrics));
        parts.spawn(callers::forget(auth.clone(), stop.clone()));
        let api = Api::new(api::Inner {
            client: client.clone(),
            catalog: catalog.clone(),
            schedules: schedules.clone(),
            auth,
            policy: Arc::clone(&policy),
            around: around.clone(),
            guard: build::guard(&config),
            metrics: Arc::clone(&metrics),
            settings: build::api_settings(&config, rest),
            stop: stop.clone(),
        });
        let tls = if rest.tls { Some(listener::tls_config(current, None)?) } else { None };
        let how = Serving { tls, max_connections: API_CONNECTIONS, ..Serving::default() };
        parts.spawn(listener::serve(listener, how, api::router(api), stop.clone()));
    }
    let (intake, around_intake) = (build::intake_settings(&config), around.clone());
    parts.spawn(intake::run(client.clone(), receiver, intake, Arc::clone(&policy), around_intake, stop.clone()));
    let desired = build::registration(&config, Arc::clone(&policy));
    let register =
        registration::keep(client.clone(), desired, bundle, leads.clone(), registered_out, by_url, stop.clone());
    parts.spawn(register);

    let window = config.coalesce_window;
    let own = rollout::Watcher { client: client.clone(), policy, around, hints, window, metrics: Arc::clone(&metrics) };
    parts.spawn(watch_rollouts(own, caches.clone(), caches_needed, leads.clone(), stop.clone()));
    let (checks, settings) = (Arc::new(build::checks(&config, &client)?), build::controller_settings(&config));
    let poster = Poster::new(build::guard(&config)).context("no HTTP client for notifications")?;
    let office = Office {
        client: client.clone(),
        settings,
        checks,
        metrics: Arc::clone(&metrics),
        catalog,
        schedules,
        poster,
        caches: (caches.clone(), caches_needed),
    };
    parts.spawn(office.hold(leads, stop.clone()));
    // The Lease is released last: the successor may begin when our controller has ended.
    let resign = CancellationToken::new();
    let election = leader::run(client, build::lease(&config), metrics, leads_out, resign.clone());
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
