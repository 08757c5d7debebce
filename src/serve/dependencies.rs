//! Dependencies that several components share, and the components of every replica: informers and
//! listeners.

use std::sync::Arc;

use kube::core::DeserializeGuard;
use prewarmer_core::{schedule::PrewarmSchedule, task::PrewarmTask, workload::Policy};
use prewarmer_kube::{
    informer::Informer,
    lease::{Heartbeat, Leadership},
    object_error::WorkKind,
    requests::{Component, CountingClient},
    store::{ScheduleStore, TaskStore},
};
use tokio::{net::TcpListener, runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{build, rest, task_informer};
use crate::{
    api::{
        self, Api, ApiConfig,
        auth::{self, ApiTokens, Auth, TrustedProxies},
        pages::Pages,
    },
    cluster_context::{self, ClusterContextStore},
    config::Config,
    controller::TaskFeed,
    egress::ClusterNetworks,
    intake::{self, HintReceiver, ReviewHints, WatchHints},
    metrics::Metrics,
    pod_start::OutcomeTotals,
    scope::scoped,
    server::{
        client_certs,
        health::{HealthState, rest_routes},
        listener::{self, ListenerConfig},
        rotator::CertResolver,
    },
    supervise::ComponentSet,
    task_view,
    webhook::{Webhook, WebhookState},
};

/// Dependencies that several components share.
pub(super) struct SharedDependencies {
    pub(super) clients: CountingClient,
    pub(super) policy: Arc<Policy>,
    pub(super) context: ClusterContextStore,
    pub(super) review_hints: ReviewHints,
    pub(super) watch_hints: WatchHints,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: TaskFeed,
    pub(super) catalog: TaskStore,
    pub(super) schedules: ScheduleStore,
    pub(super) image_refs: prewarmer_core::workload_watch::ImageRefs,
    pub(super) totals: OutcomeTotals,
    pub(super) leadership: Leadership,
    pub(super) heartbeat: Heartbeat,
    pub(super) cluster: ClusterNetworks,
    pub(super) stop: CancellationToken,
}

impl SharedDependencies {
    /// Creates the dependencies, and the receiver of hints for the intake.
    pub(super) fn new(
        config: &Config,
        clients: CountingClient,
        metrics: Arc<Metrics>,
    ) -> (Self, HintReceiver) {
        let context = ClusterContextStore::default();
        let (review_hints, watch_hints, receiver) = intake::channel(
            metrics.object_errors.clone(),
            metrics.intake.clone(),
            config.intake.clone(),
            context.clone(),
        );
        let common = Self {
            clients,
            policy: Arc::new(build::served_policy(config)),
            context,
            review_hints,
            watch_hints,
            tasks: TaskFeed::default(),
            catalog: TaskStore::new(task_view::render),
            schedules: ScheduleStore::default(),
            image_refs: prewarmer_core::workload_watch::ImageRefs::default(),
            totals: OutcomeTotals::new(metrics.pod_start.clone()),
            metrics,
            leadership: Leadership::default(),
            heartbeat: Heartbeat::default(),
            cluster: ClusterNetworks::default(),
            stop: CancellationToken::new(),
        };
        (common, receiver)
    }

    /// Spawns the informers of the cluster context, of tasks and, where REST or the controller
    /// needs them, of schedules. Returns the number of their caches.
    pub(super) fn spawn_informers(
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
            &self.metrics.object_errors,
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
        let indexes =
            task_informer::IndexHandler::new(indexes, ready.clone(), &self.metrics.object_errors);
        let tasks = Informer::new(
            scoped::<DeserializeGuard<PrewarmTask>>(&client, watched),
            "prewarmtasks",
            WorkKind::Store,
            &self.metrics.object_errors,
        );
        let handler = task_informer::TaskHandler::new(indexes, &self.tasks);
        parts.spawn("task watch", tasks.run(handler, self.stop.clone()));
        if schedules {
            let handler = task_informer::IndexHandler::new(
                self.schedules.clone(),
                ready,
                &self.metrics.object_errors,
            );
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

    /// Spawns the webhook listener.
    pub(super) fn spawn_webhook(
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
        let webhook = Arc::new(Webhook::new(state));
        let webhook = listener::serve(listener, how, webhook, self.stop.clone());
        parts.spawn_on("webhook listener", admission, webhook);
        Ok(())
    }

    /// Spawns the REST listener, which serves the pages too if they are given.
    pub(super) fn spawn_rest(
        &self,
        config: &Config,
        (settings, pages): (&ApiConfig, Option<Pages>),
        (listener, max_connections): (TcpListener, usize),
        (current, health): (Arc<CertResolver>, HealthState),
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
        let contact = self.clients.contact().clone();
        let follow = async move {
            auth::watch_tokens(client, secret, tokens, &metrics, contact, stop).await;
        };
        parts.spawn("API token watch", follow);
        let how = ListenerConfig {
            tls,
            max_connections,
            peer_share_percent: config.connections_per_address,
            ..ListenerConfig::default()
        };
        let routes = (pages, rest_routes(health, settings.serves_metrics));
        parts.spawn("REST listener", rest::serve(listener, how, api, routes, self.stop.clone()));
        Ok(())
    }
}
