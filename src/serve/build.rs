//! Conversion of the settings of the program to those of its components.

use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Client;
use prewarmer_core::workload::Policy;
use prewarmer_kube::lease::LeaseSettings;

use super::rest;
use crate::{
    api::{ApiConfig, ApiSettings, auth::token_secret_name},
    config::Config,
    egress::{self, ClusterNetworks},
    metrics::Metrics,
    node_checks::{DiskCheck, NodeCheck, NodeChecks, NodeRanking, PrometheusCheck},
    notify::NotificationPolicy,
    server::{
        client_certs,
        file_limits::{self, ConnectionLimits},
        health, listener,
        rotator::CertificateSource,
    },
    webhook::registration::{Registration, WebhookAddress, webhook_configuration},
};

/// Builds the policy of the server, with the limits for workloads.
pub(super) fn served_policy(config: &Config) -> Policy {
    let settings = config.policy.clone();
    let own = settings.into_policy(&config.namespace, config.watch_namespace.as_deref());
    Policy { caps: Arc::clone(&config.controller.limits.caps), ..own }
}

pub(super) fn client_verifier(
    config: &Config,
) -> anyhow::Result<Option<Arc<client_certs::ReloadingClientVerifier>>> {
    let Some(clients) = &config.webhook.clients else { return Ok(None) };
    let opened = client_certs::ReloadingClientVerifier::open(&clients.ca_file, &clients.names);
    opened.map(Some).with_context(|| format!("--client-ca-file {}", clients.ca_file.display()))
}

pub(super) fn node_checks(
    config: &Config,
    client: &Client,
    cluster: &ClusterNetworks,
    metrics: &Metrics,
) -> anyhow::Result<NodeChecks> {
    let survey = NodeRanking::new(client.clone(), config.watch_namespace.clone());
    let mut checks: Vec<Box<dyn NodeCheck>> = vec![Box::new(survey)];
    if let Some(settings) = &config.node_checks.prometheus {
        checks.push(Box::new(
            PrometheusCheck::new(settings.clone())
                .context("the HTTP client for Prometheus could not be built")?,
        ));
    }
    if let Some(settings) = &config.node_checks.disk {
        let policy = egress::EgressPolicy::new(config.egress_deny.clone(), cluster.clone())
            .with_allowed(settings.allowed_networks.clone(), "--disk-check-allow");
        let metrics = metrics.node_checks.clone();
        let check = DiskCheck::new(settings.clone(), client.clone(), &policy, metrics);
        checks.push(Box::new(check.context("the HTTP client for registries could not be built")?));
    }
    Ok(NodeChecks::new(checks))
}

fn webhook_address(config: &Config) -> WebhookAddress {
    match &config.webhook_url {
        Some(url) => WebhookAddress::Url(url.to_string()),
        None => WebhookAddress::Service {
            namespace: config.namespace.clone(),
            name: config.service_name.clone(),
        },
    }
}

pub(super) fn certificate_source(config: &Config, client: &Client) -> CertificateSource {
    if let Some(files) = &config.certificates.files {
        return CertificateSource::Files(files.clone());
    }
    let host = config
        .webhook_url
        .as_ref()
        .and_then(|url| url.host())
        .map(|host| host.trim_matches(['[', ']']).to_owned());
    CertificateSource::ManagedCa {
        client: Box::new(client.clone()),
        namespace: config.namespace.clone(),
        secret: format!("{}-ca", config.object_name),
        names: server_names(config, host),
        manages_ca: config.components.controller,
    }
}

/// Returns the names of a certificate of the managed CA: those by which the API server calls the
/// webhook, and those by which clients call REST, which has a separate Service.
fn server_names(config: &Config, host: Option<String>) -> Vec<String> {
    let in_cluster = |service: &str| {
        let short = format!("{service}.{}", config.namespace);
        [format!("{short}.svc.cluster.local"), format!("{short}.svc"), short]
    };
    let mut names = match host {
        Some(host) => vec![host],
        None => in_cluster(&config.service_name).into(),
    };
    // REST is also called through a forwarded port.
    let local = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let rest = in_cluster(&config.object_name)
        .into_iter()
        .chain(config.api_names.iter().cloned())
        .chain(local);
    for name in rest {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Returns the holder identity: the name of the pod and a random suffix, so that a restarted
/// container has a new identity.
fn holder_identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "prewarmer".into());
    format!("{host}_{:08x}", rand::random::<u32>())
}

/// Raises the limit of open files, and returns the maximum number of connections of each listener
/// that fits in it.
pub(super) fn connection_limits(config: &Config) -> ConnectionLimits {
    let rest = if config.api.is_some() { rest::MAX_CONNECTIONS } else { 0 };
    let wanted = ConnectionLimits {
        webhook: listener::MAX_CONNECTIONS,
        rest,
        health: health::MAX_CONNECTIONS,
    };
    let limit = file_limits::raise_nofile_limit();
    let fitting = file_limits::fit_to_nofile_limit(wanted, limit);
    if fitting != wanted {
        tracing::warn!(
            ?limit,
            ?wanted,
            ?fitting,
            "the limit of open files (ulimit -n) is too low for all connections: the connection limits are reduced"
        );
    }
    fitting
}

/// Returns the webhook configuration as a function of the CA bundle.
pub(super) fn webhook_registration(
    config: &Config,
    policy: Arc<Policy>,
) -> impl Fn(&[u8]) -> ValidatingWebhookConfiguration + use<> {
    let registration = Registration {
        name: config.object_name.clone(),
        address: webhook_address(config),
        timeout_seconds: config.webhook.timeout_seconds,
    };
    move |ca: &[u8]| webhook_configuration(&registration, ca, &policy)
}

/// Returns namespace and name of the Secret of API tokens.
pub(super) fn token_secret(config: &Config) -> (String, String) {
    (config.namespace.clone(), token_secret_name(&config.object_name))
}

pub(super) fn notify_guard(config: &Config, cluster: &ClusterNetworks) -> NotificationPolicy {
    let policy = egress::EgressPolicy::new(config.egress_deny.clone(), cluster.clone());
    policy
        .with_allowed(config.notify.allow.clone(), "--notify-allow")
        .with_ports(config.notify.ports.clone())
        .into()
}

pub(super) fn api_settings(config: &Config, rest: &ApiConfig) -> ApiSettings {
    ApiSettings {
        namespace: config.namespace.clone(),
        watched_namespace: config.watch_namespace.clone(),
        object_prefix: config.object_name.clone(),
        origins: rest.origins.clone(),
        limits: rest.limits,
    }
}

pub(super) fn lease_settings(config: &Config) -> LeaseSettings {
    LeaseSettings {
        name: config.object_name.clone(),
        namespace: config.namespace.clone(),
        identity: holder_identity(),
    }
}
