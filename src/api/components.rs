//! Components that the REST API is built from, and its settings.

use std::sync::Arc;

use kube::Client;
use prewarmer_core::workload::Policy;
use prewarmer_kube::store::{ScheduleStore, TaskStore};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use super::{
    auth::{Auth, Caller},
    budgets::CallerLimits,
    error::ApiError,
    metrics::ApiMetrics,
};
use crate::{
    cluster_context::ClusterContextStore,
    notify::NotificationPolicy,
    pod_start::{OutcomeTotals, PodStartMetrics},
    task_view,
};

/// Settings of the REST API.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Namespace of Prewarmer's own objects, and default namespace of tasks.
    pub namespace: String,
    /// Only namespace that this server watches; `None` for all.
    pub watched_namespace: Option<String>,
    /// Prefix of the names of Prewarmer's own objects.
    pub object_prefix: String,
    /// Origins of web pages that may call the API (CORS); `*` for all.
    pub origins: Vec<String>,
    /// Limits per caller.
    pub limits: CallerLimits,
}

/// Components that the REST API is built from.
pub struct ApiInner {
    /// Client of the API server.
    pub client: Client,
    /// Store of the tasks.
    pub catalog: TaskStore,
    /// Store of the schedules.
    pub schedules: ScheduleStore,
    /// Authentication and authorization of callers.
    pub auth: Auth,
    /// Policy that decides which workloads are warmed.
    pub policy: Arc<Policy>,
    /// Cluster context of workloads: namespaces, `RuntimeClasses` and autoscalers.
    pub context: ClusterContextStore,
    /// Check of the addresses that notifications may go to.
    pub guard: NotificationPolicy,
    /// Metrics of the REST API.
    pub metrics: ApiMetrics,
    /// Totals of pod starts, for the overview page.
    pub totals: OutcomeTotals,
    /// Settings of the REST API.
    pub settings: ApiSettings,
    /// Token that ends open watches at shutdown.
    pub stop: CancellationToken,
}

impl ApiInner {
    /// Creates the components of an API that no informer fills: with empty stores, the default
    /// policies, and metrics of its own registry.
    pub fn standalone(
        client: Client,
        auth: Auth,
        settings: ApiSettings,
    ) -> prometheus::Result<Self> {
        let registry = Registry::new();
        Ok(Self {
            client,
            catalog: TaskStore::new(task_view::render),
            schedules: ScheduleStore::default(),
            auth,
            policy: Arc::default(),
            context: ClusterContextStore::default(),
            guard: NotificationPolicy::default(),
            metrics: ApiMetrics::register(&registry)?,
            totals: OutcomeTotals::new(PodStartMetrics::register(&registry)?),
            settings,
            stop: CancellationToken::new(),
        })
    }

    /// Returns the namespace of a caller's calls that name none: the only one that its API token is
    /// valid in, otherwise the default namespace.
    pub(super) fn default_namespace_of<'a>(&'a self, caller: &'a Caller) -> &'a str {
        match (&self.settings.watched_namespace, caller.only_namespace()) {
            (None, Some(namespace)) => namespace,
            _ => self.default_namespace(),
        }
    }

    /// Returns the namespace of calls that name none.
    pub(super) fn default_namespace(&self) -> &str {
        self.settings.watched_namespace.as_deref().unwrap_or(&self.settings.namespace)
    }

    /// Rejects a namespace that this server does not watch: a task created there would never run.
    pub(super) fn check_namespace(&self, namespace: &str) -> Result<(), ApiError> {
        match &self.settings.watched_namespace {
            Some(watched) if watched != namespace => Err(ApiError::invalid_field(
                "namespace",
                format!("this server manages the namespace {watched} only"),
            )),
            _ => Ok(()),
        }
    }
}
