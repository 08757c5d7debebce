//! Detection of other installations that watch the same namespaces. Two such installations create
//! and process the same tasks, and each counts the workers of the other as its own.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{Api, Client, ResourceExt, api::ListParams};
use prewarmer_core::labels::{self, NAMESPACE_NAME_LABEL, PART_OF};

/// Name of the webhook whose namespace selector contains the namespace scope of an installation.
const TASK_WEBHOOK: &str = "tasks.prewarm.io";

/// Older installation that watches the same namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstallationOverlap {
    /// Name of its webhook configuration.
    configuration: String,
    /// Namespace that it watches; `None`: all namespaces.
    namespace: Option<String>,
}

impl std::fmt::Display for InstallationOverlap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let where_ = self
            .namespace
            .as_deref()
            .map_or_else(|| "all namespaces".into(), |name| format!("namespace {name}"));
        write!(
            f,
            "another installation watches {where_} already (ValidatingWebhookConfiguration {0}), and both would process the same \
             tasks: set a different --watch-namespace for each, uninstall one of them (if only its configuration is left: \
             kubectl delete validatingwebhookconfiguration {0}), or set --allow-overlap=true",
            self.configuration
        )
    }
}

/// Searches for an installation that watches the same namespaces and is older than the one named
/// `own`. Returns `None` also where the configurations cannot be listed: that does not prevent the
/// start.
pub(crate) async fn find_older_installation(
    client: &Client,
    own: &str,
    watched: Option<&str>,
) -> Option<InstallationOverlap> {
    let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    match api.list(&ListParams::default().labels(&labels::selector(PART_OF))).await {
        Ok(list) => older_overlapping(&list.items, own, watched),
        Err(error) => {
            tracing::warn!(%error, "webhook configurations could not be listed: overlap with other installations is not checked");
            None
        }
    }
}

/// Returns an older installation with an overlapping namespace scope. Only older ones count, so
/// that a new installation cannot stop an existing one.
fn older_overlapping(
    all: &[ValidatingWebhookConfiguration],
    own: &str,
    watched: Option<&str>,
) -> Option<InstallationOverlap> {
    let age = |one: &ValidatingWebhookConfiguration| {
        (one.creation_timestamp().map(|time| time.0), one.name_any())
    };
    let ours = all.iter().find(|one| one.name_any() == own).map(age);
    let is_older = |other: &&ValidatingWebhookConfiguration| {
        ours.as_ref().is_none_or(|ours| age(other) < *ours)
    };
    all.iter().filter(|one| one.name_any() != own).filter(is_older).find_map(|other| {
        let scope = scope_of(other)?;
        let namespace = match scope {
            InstallationScope::Cluster => None,
            InstallationScope::Namespace(name) => Some(name),
        };
        let same = namespace.is_none() || watched.is_none() || namespace.as_deref() == watched;
        same.then(|| InstallationOverlap { configuration: other.name_any(), namespace })
    })
}

/// Namespace scope of an installation.
enum InstallationScope {
    Cluster,
    Namespace(String),
}

/// Parses the namespace scope from a webhook configuration. Returns `None` when no server has
/// filled the configuration yet.
fn scope_of(configuration: &ValidatingWebhookConfiguration) -> Option<InstallationScope> {
    let webhook =
        configuration.webhooks.iter().flatten().find(|webhook| webhook.name == TASK_WEBHOOK)?;
    let expressions = webhook
        .namespace_selector
        .iter()
        .flat_map(|selector| selector.match_expressions.iter().flatten());
    let named = expressions
        .filter(|expression| expression.key == NAMESPACE_NAME_LABEL && expression.operator == "In")
        .find_map(|expression| expression.values.iter().flatten().next());
    Some(named.cloned().map_or(InstallationScope::Cluster, InstallationScope::Namespace))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use prewarmer_core::workload::{DefaultMode, OneShotMode, PolicySettings, WorkloadKinds};

    use super::*;
    use crate::webhook::registration::{Registration, WebhookAddress, webhook_configuration};

    /// Returns the configuration that a server of this name registers, created at an offset of
    /// `seconds`.
    fn registered(
        name: &str,
        watched: Option<&str>,
        seconds: i64,
    ) -> ValidatingWebhookConfiguration {
        let settings = PolicySettings {
            default_mode: DefaultMode::OptOut,
            one_shot: OneShotMode::Skip,
            kinds: WorkloadKinds::default(),
            include_namespaces: Vec::new(),
            auto_nodes: 100,
        };
        let policy = Arc::new(settings.into_policy("prewarmer", watched));
        let registration = Registration {
            name: name.into(),
            address: WebhookAddress::Url("https://x".into()),
            timeout_seconds: 1,
        };
        let mut configuration = webhook_configuration(&registration, b"ca", &policy);
        let time = k8s_openapi::jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        configuration.metadata.creation_timestamp = Some(Time(time));
        configuration
    }

    fn overlapping_name(
        all: &[ValidatingWebhookConfiguration],
        own: &str,
        watched: Option<&str>,
    ) -> Option<String> {
        older_overlapping(all, own, watched).map(|overlap| overlap.configuration)
    }

    #[test]
    fn the_newer_of_two_that_overlap_does_not_start() {
        for (first, second, overlaps) in [
            (None, None, true),
            (None, Some("shop"), true),
            (Some("shop"), None, true),
            (Some("shop"), Some("shop"), true),
            (Some("shop"), Some("bank"), false),
        ] {
            let all = [registered("a", first, 0), registered("b", second, 1)];
            assert_eq!(
                overlapping_name(&all, "b", second).is_some(),
                overlaps,
                "{first:?} {second:?}"
            );
            assert_eq!(overlapping_name(&all, "a", first), None, "the older installation starts");
            assert_eq!(
                overlapping_name(&all[..1], "b", second).is_some(),
                overlaps,
                "the newer installation has no configuration yet"
            );
        }
    }

    #[test]
    fn an_empty_configuration_does_not_overlap() {
        let mut empty = registered("a", None, 0);
        empty.webhooks = None;
        assert_eq!(overlapping_name(&[empty], "b", None), None);
    }

    #[test]
    fn the_message_names_the_installation_and_the_remedies() {
        let text =
            older_overlapping(&[registered("prewarmer", None, 0)], "prewarmer-b", Some("shop"))
                .unwrap()
                .to_string();
        for word in [
            "all namespaces",
            "ValidatingWebhookConfiguration prewarmer)",
            "--watch-namespace",
            "--allow-overlap=true",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
