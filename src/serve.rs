//! Puts `prewarmer serve` together.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context;
use futures::StreamExt;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use tokio::{net::TcpListener, signal::unix::SignalKind, sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    controller,
    health::{Check, Checks, DiskCheck, PrometheusCheck},
    intake::{self, HintSender, IntakeSettings},
    leader::{self, LeaseSettings},
    metrics::Metrics,
    server::{
        health::{self, Health},
        keeper::{self, Current, Source},
        listener, registration,
    },
    task::PrewarmTask,
    webhook::{
        self, Namespaces, WebhookSettings, WebhookState,
        registration::{Address, webhook_configuration},
    },
    worker::WorkerSettings,
};

/// Namespaces of the system, which are out.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// All parts have ended by then, or are left: within the 30 s that a pod is given.
const SHUTDOWN: Duration = Duration::from_secs(25);

/// Serves until SIGTERM or SIGINT.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .map_err(|error| anyhow::anyhow!("no way to the cluster: set KUBECONFIG, or run in a pod ({error})"))?;
    let webhook_listener = bind("--webhook-addr", config.webhook_addr).await?;
    let health_listener = bind("--health-addr", config.health_addr).await?;
    if let Some(address) = config.api_addr {
        tracing::warn!(%address, "--api-addr: this version serves no REST API; nothing listens there");
    }
    let metrics = Arc::new(Metrics::new()?);
    let stop = CancellationToken::new();
    let mut parts = JoinSet::new();

    let (leads_out, leads) = watch::channel(false);
    let (bundle_out, bundle) = watch::channel(None);
    let (registered_out, registered) = watch::channel(false);
    let (kubernetes_out, kubernetes) = watch::channel(false);
    let by_url = config.webhook_url.is_some();
    let health = Health {
        kubernetes,
        leads: leads.clone(),
        bundle: bundle.clone(),
        registered: by_url.then_some(registered),
        metrics: Arc::clone(&metrics),
    };
    parts.spawn(listener::serve(health_listener, None, health::router(health), stop.clone()));
    parts.spawn(health::probe(client.clone(), kubernetes_out, stop.clone()));

    let current = Arc::new(Current::default());
    let source = source(&config, &client);
    parts.spawn(keeper::keep(source, Arc::clone(&current), bundle_out, Arc::clone(&metrics), stop.clone()));
    let settings = Arc::new(webhook_settings(&config));
    let (hints, receiver) = intake::channel(&metrics);
    let namespaces = Namespaces::default();
    let state = WebhookState {
        hints: hints.clone(),
        settings: Arc::clone(&settings),
        namespaces: namespaces.clone(),
        metrics: Arc::clone(&metrics),
    };
    let tls = listener::tls_config(current)?;
    parts.spawn(listener::serve(webhook_listener, Some(tls), webhook::router(state), stop.clone()));
    if config.watch_namespace.is_none() {
        parts.spawn(namespaces.follow(client.clone(), stop.clone()));
    }
    let intake = IntakeSettings {
        window: config.coalesce_window,
        task_ttl: config.admission_task_ttl,
        retain: config.admission_retain,
    };
    parts.spawn(intake::run(client.clone(), receiver, intake, stop.clone()));
    parts.spawn(learn(client.clone(), config.watch_namespace.clone(), hints, stop.clone()));

    let address = address(&config);
    let name = config.object_name.clone();
    let desired = move |ca: &[u8]| webhook_configuration(&name, &address, ca, &settings);
    parts.spawn(registration::keep(
        client.clone(),
        desired,
        bundle,
        leads.clone(),
        registered_out,
        by_url,
        stop.clone(),
    ));
    let lease =
        LeaseSettings { name: config.object_name.clone(), namespace: config.namespace.clone(), identity: identity() };
    // The Lease is released last: the successor may begin when our controller has ended.
    let resign = CancellationToken::new();
    let election = tokio::spawn(leader::run(client.clone(), lease, Arc::clone(&metrics), leads_out, resign.clone()));
    let checks = Arc::new(checks(&config, &client)?);
    parts.spawn(lead(client, controller_settings(&config), checks, metrics, leads, stop.clone()));

    tracing::info!(webhook = %config.webhook_addr, health = %config.health_addr, "serving");
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

async fn bind(flag: &str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}: cannot listen there"))
}

/// Runs the controller whenever this replica leads.
async fn lead(
    client: Client,
    settings: controller::Settings,
    checks: Arc<Checks>,
    metrics: Arc<Metrics>,
    mut leads: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(leads.wait_for(|leads| *leads)).await.is_some_and(|result| result.is_ok()) {
        let term = stop.child_token();
        let mut deposed = leads.clone();
        let watched = async {
            // An error means that the election has ended, which ends the term too.
            let _ = deposed.wait_for(|leads| !leads).await;
            term.cancel();
        };
        let work =
            controller::run(client.clone(), settings.clone(), Arc::clone(&checks), Arc::clone(&metrics), term.clone());
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => {}
            () = watched => work.await,
        }
    }
}

/// Tells intake of the tasks that exist, so that replicas and restarts do not ask twice.
async fn learn(client: Client, namespace: Option<String>, hints: HintSender, stop: CancellationToken) {
    type Guarded = DeserializeGuard<PrewarmTask>;
    let api: Api<Guarded> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let config = watcher::Config::default().labels("prewarm.io/origin=admission");
    let mut stream = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
    while let Some(Some(event)) = stop.run_until_cancelled(stream.next()).await {
        match event {
            Ok(DeserializeGuard(Ok(task))) => hints.seen().learn(&task, Instant::now()),
            Ok(DeserializeGuard(Err(_))) => {}
            Err(error) => tracing::warn!(%error, "the watch of tasks was interrupted; it is taken up again"),
        }
    }
}

fn webhook_settings(config: &Config) -> WebhookSettings {
    let mut excluded: BTreeSet<String> = SYSTEM_NAMESPACES.iter().map(|name| (*name).to_owned()).collect();
    excluded.insert(config.namespace.clone());
    if let Some(watched) = &config.watch_namespace {
        excluded.remove(watched);
    }
    WebhookSettings {
        default_mode: config.default_mode,
        excluded_namespaces: excluded,
        watch_namespace: config.watch_namespace.clone(),
    }
}

fn controller_settings(config: &Config) -> controller::Settings {
    controller::Settings {
        worker: WorkerSettings {
            image: config.worker_image.clone(),
            priority_class: config.worker_priority_class.clone(),
            ttl: config.job_ttl,
            images_per_pod: config.images_per_pod,
        },
        max_concurrent_tasks: config.max_concurrent_tasks,
        namespace: config.watch_namespace.clone(),
        own_namespace: config.namespace.clone(),
        worker_namespace: config.worker_namespace,
        breaker: config.breaker,
        examine: config.prometheus.is_some() || config.disk.is_some(),
        max_workers: config.max_workers,
        registry_concurrency: config.registry_concurrency,
        known_for: config.known_for,
        max_retained: config.max_retained_workers,
    }
}

fn checks(config: &Config, client: &Client) -> anyhow::Result<Checks> {
    let mut checks: Vec<Box<dyn Check>> = Vec::new();
    if let Some(settings) = &config.prometheus {
        checks.push(Box::new(PrometheusCheck::new(settings.clone()).context("no HTTP client for Prometheus")?));
    }
    if let Some(settings) = &config.disk {
        checks.push(Box::new(DiskCheck::new(settings.clone(), client.clone())));
    }
    Ok(Checks::new(checks))
}

fn address(config: &Config) -> Address {
    match &config.webhook_url {
        Some(url) => Address::Url(url.to_string()),
        None => Address::Service { namespace: config.namespace.clone(), name: config.service_name.clone() },
    }
}

fn source(config: &Config, client: &Client) -> Source {
    if let Some(files) = &config.certificates {
        return Source::Files(files.clone());
    }
    let host =
        config.webhook_url.as_ref().and_then(|url| url.host()).map(|host| host.trim_matches(['[', ']']).to_owned());
    let service = format!("{}.{}.svc", config.service_name, config.namespace);
    let names = match host {
        Some(host) => vec![host],
        None => vec![format!("{service}.cluster.local"), service],
    };
    Source::Own {
        client: Box::new(client.clone()),
        namespace: config.namespace.clone(),
        secret: format!("{}-ca", config.object_name),
        names,
    }
}

/// The pod's name, and something that no earlier process of that name had.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "prewarmer".into());
    format!("{host}_{:08x}", rand::random::<u32>())
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
