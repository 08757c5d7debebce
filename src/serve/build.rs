//! From the settings of the program to those of its parts.

use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Client;

use super::rest;
use crate::{
    api::{ApiSettings, Limits},
    config::{ApiConfig, Config, PolicySettings},
    controller,
    egress::{self, Cluster},
    health::{Check, Checks, DiskCheck, PrometheusCheck, Survey},
    intake::IntakeSettings,
    leader::LeaseSettings,
    metrics::Metrics,
    notify::Guard,
    server::{
        clients,
        files::{self, Connections},
        health,
        keeper::Source,
        listener,
    },
    webhook::registration::{Address, Registration, webhook_configuration},
    worker::WorkerSettings,
    workload::Policy,
};

/// Namespaces of the system, which are out.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Which workloads count, for a server in the namespace `own`.
#[must_use]
pub fn policy(settings: PolicySettings, own: &str, watched: Option<&str>) -> Policy {
    let out = SYSTEM_NAMESPACES.into_iter().chain([own]).filter(|name| watched != Some(name));
    Policy {
        default_mode: settings.default_mode,
        excluded_namespaces: out
            .filter(|name| !settings.include_namespaces.iter().any(|included| included == name))
            .map(str::to_owned)
            .collect(),
        watch_namespace: watched.map(str::to_owned),
        kinds: settings.kinds,
        auto_nodes: settings.auto_nodes,
        caps: Arc::default(),
    }
}

/// Which workloads count for the server, and what they may ask for.
pub(super) fn served_policy(config: &Config) -> Policy {
    let own = policy(config.policy.clone(), &config.namespace, config.watch_namespace.as_deref());
    Policy { caps: Arc::clone(&config.limits.caps), ..own }
}

pub(super) fn clients(config: &Config) -> anyhow::Result<Option<Arc<clients::Reloading>>> {
    let Some(clients) = &config.clients else { return Ok(None) };
    let opened = clients::Reloading::open(&clients.ca_file, &clients.names);
    opened.map(Some).with_context(|| format!("--client-ca-file {}", clients.ca_file.display()))
}

pub(super) fn controller_settings(config: &Config, cluster: &Cluster) -> controller::Settings {
    controller::Settings {
        worker: WorkerSettings {
            owner: None,
            service_account: config.worker_service_account.clone(),
            image: config.worker_image.clone(),
            priority_class: config.worker_priority_class.clone(),
            ttl: config.job_ttl,
            images_per_pod: config.images_per_pod,
        },
        max_concurrent_tasks: config.max_concurrent_tasks,
        namespace: config.watch_namespace.clone(),
        own_namespace: config.namespace.clone(),
        worker_namespace: config.worker_namespace,
        fallback_on_policy: config.fallback_on_policy,
        breaker: config.breaker,
        examine: config.prometheus.is_some() || config.disk.is_some(),
        max_workers: config.max_workers,
        limits: config.limits.clone(),
        registry_concurrency: config.registry_concurrency,
        known_for: config.known_for,
        public_registries: config.public_registries.clone(),
        max_retained: config.max_retained_workers,
        cluster: cluster.clone(),
    }
}

pub(super) fn checks(
    config: &Config,
    client: &Client,
    cluster: &Cluster,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Checks> {
    let survey = Survey::new(client.clone(), config.watch_namespace.clone());
    let mut checks: Vec<Box<dyn Check>> = vec![Box::new(survey)];
    if let Some(settings) = &config.prometheus {
        checks.push(Box::new(PrometheusCheck::new(settings.clone()).context("no HTTP client for Prometheus")?));
    }
    if let Some(settings) = &config.disk {
        let policy = egress::Policy::new(config.egress_deny.clone(), cluster.clone())
            .allowing(settings.allow.clone(), "--disk-check-allow");
        let check = DiskCheck::new(settings.clone(), client.clone(), &policy, Arc::clone(metrics));
        checks.push(Box::new(check.context("no HTTP client for registries")?));
    }
    Ok(Checks::new(checks))
}

fn address(config: &Config) -> Address {
    match &config.webhook_url {
        Some(url) => Address::Url(url.to_string()),
        None => Address::Service { namespace: config.namespace.clone(), name: config.service_name.clone() },
    }
}

pub(super) fn source(config: &Config, client: &Client) -> Source {
    if let Some(files) = &config.certificates {
        return Source::Files(files.clone());
    }
    let host =
        config.webhook_url.as_ref().and_then(|url| url.host()).map(|host| host.trim_matches(['[', ']']).to_owned());
    Source::Own {
        client: Box::new(client.clone()),
        namespace: config.namespace.clone(),
        secret: format!("{}-ca", config.object_name),
        names: server_names(config, host),
        makes: config.components.controller,
    }
}

/// Returns the names of a self-made certificate: those by which the API server calls the webhook, and those by which REST is
/// called, which has a Service of its own.
fn server_names(config: &Config, host: Option<String>) -> Vec<String> {
    let in_cluster = |service: &str| {
        let short = format!("{service}.{}", config.namespace);
        [format!("{short}.svc.cluster.local"), format!("{short}.svc"), short]
    };
    let mut names = match host {
        Some(host) => vec![host],
        None => in_cluster(&config.service_name).into(),
    };
    // REST is called through a forwarded port too.
    let local = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let rest = in_cluster(&config.object_name).into_iter().chain(config.api_names.iter().cloned()).chain(local);
    for name in rest {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The pod's name, and something that no earlier process of that name had.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "prewarmer".into());
    format!("{host}_{:08x}", rand::random::<u32>())
}

pub(super) fn intake_settings(config: &Config) -> IntakeSettings {
    IntakeSettings {
        window: config.coalesce_window,
        task_ttl: config.admission_task_ttl,
        retain: config.admission_retain,
        lookups: config.lookups,
        creations: config.creations,
    }
}

/// Connections of the listeners, for which there are files. The limit of open files is raised first.
pub(super) fn connections(config: &Config) -> Connections {
    let rest = if config.api.is_some() { rest::MAX_CONNECTIONS } else { 0 };
    let wanted = Connections { webhook: listener::MAX_CONNECTIONS, rest, health: health::MAX_CONNECTIONS };
    let limit = files::raise();
    let fitting = files::fit(wanted, limit);
    if fitting != wanted {
        tracing::warn!(
            ?limit,
            ?wanted,
            ?fitting,
            "there are too few open files (ulimit -n) for all connections: fewer are taken"
        );
    }
    fitting
}

/// The configuration that is to be registered, as a function of the CA.
pub(super) fn registration(
    config: &Config,
    policy: Arc<Policy>,
) -> impl Fn(&[u8]) -> ValidatingWebhookConfiguration + use<> {
    let registration =
        Registration { name: config.object_name.clone(), address: address(config), timeout: config.webhook_timeout };
    move |ca: &[u8]| webhook_configuration(&registration, ca, &policy)
}

/// The Secret of API tokens: namespace and name.
pub(super) fn token_secret(config: &Config) -> (String, String) {
    (config.namespace.clone(), token_secret_name(&config.object_name))
}

/// The name of the Secret of API tokens, of an installation whose objects are named so.
#[must_use]
pub fn token_secret_name(object_name: &str) -> String {
    format!("{object_name}-api-tokens")
}

pub(super) fn guard(config: &Config, cluster: &Cluster) -> Guard {
    let policy = egress::Policy::new(config.egress_deny.clone(), cluster.clone());
    policy.allowing(config.notify_allow.clone(), "--notify-allow").at_ports(config.notify_ports.clone()).into()
}

pub(super) fn api_settings(config: &Config, rest: &ApiConfig) -> ApiSettings {
    ApiSettings {
        namespace: config.namespace.clone(),
        watched: config.watch_namespace.clone(),
        object_name: config.object_name.clone(),
        origins: rest.origins.clone(),
        ui: rest.ui,
        limits: Limits { watches: rest.watches, keys: rest.keys },
    }
}

pub(super) fn lease(config: &Config) -> LeaseSettings {
    LeaseSettings { name: config.object_name.clone(), namespace: config.namespace.clone(), identity: identity() }
}
