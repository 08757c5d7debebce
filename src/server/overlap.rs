//! Other installations that look at the same namespaces: two would make and work on the same tasks, and each would count the
//! other's workers as its own.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{Api, Client, ResourceExt, api::ListParams};

/// Label of the configurations of all installations, by the chart and by the server.
const OURS: &str = "app.kubernetes.io/part-of=prewarmer";
/// The webhook whose selector says which namespaces an installation looks at.
const TASKS: &str = "tasks.prewarm.io";
/// By this label every namespace can be selected by name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// An older installation that looks at the same namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The name of its webhook configuration.
    configuration: String,
    /// The only namespace that it looks at; all without.
    namespace: Option<String>,
}

impl std::fmt::Display for Overlap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let where_ =
            self.namespace.as_deref().map_or_else(|| "all namespaces".into(), |name| format!("namespace {name}"));
        write!(
            f,
            "another installation looks at {where_} already (ValidatingWebhookConfiguration {0}), and both would work on the same \
             tasks: give each its own namespace by --watch-namespace, uninstall one of them (where only its configuration is left: \
             kubectl delete validatingwebhookconfiguration {0}), or set --allow-overlap=true",
            self.configuration
        )
    }
}

/// Asks whether an installation that is older than the one of this name looks at the same namespaces. Where the question is not
/// answered there is no reason not to start.
pub async fn find(client: &Client, own: &str, watched: Option<&str>) -> Option<Overlap> {
    let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    match api.list(&ListParams::default().labels(OURS)).await {
        Ok(list) => overlap(&list.items, own, watched),
        Err(error) => {
            tracing::warn!(%error, "other installations could not be looked for: does another one look at the same namespaces?");
            None
        }
    }
}

/// The older one of two goes on, so that a newcomer cannot stop it by being there.
fn overlap(all: &[ValidatingWebhookConfiguration], own: &str, watched: Option<&str>) -> Option<Overlap> {
    let age = |one: &ValidatingWebhookConfiguration| (one.creation_timestamp().map(|time| time.0), one.name_any());
    let ours = all.iter().find(|one| one.name_any() == own).map(age);
    let is_older = |other: &&ValidatingWebhookConfiguration| ours.as_ref().is_none_or(|ours| age(other) < *ours);
    all.iter().filter(|one| one.name_any() != own).filter(is_older).find_map(|other| {
        let scope = scope_of(other)?;
        let namespace = match scope {
            Scope::Cluster => None,
            Scope::Namespace(name) => Some(name),
        };
        let same = namespace.is_none() || watched.is_none() || namespace.as_deref() == watched;
        same.then(|| Overlap { configuration: other.name_any(), namespace })
    })
}

/// The namespaces that an installation looks at.
enum Scope {
    Cluster,
    Namespace(String),
}

/// Reads the scope of an installation. `None`: no server has filled the configuration yet.
fn scope_of(configuration: &ValidatingWebhookConfiguration) -> Option<Scope> {
    let webhook = configuration.webhooks.iter().flatten().find(|webhook| webhook.name == TASKS)?;
    let expressions =
        webhook.namespace_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    let named = expressions
        .filter(|expression| expression.key == NAME_LABEL && expression.operator == "In")
        .find_map(|expression| expression.values.iter().flatten().next());
    Some(named.cloned().map_or(Scope::Cluster, Scope::Namespace))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::{
        config::{Cli, Command, PolicySettings},
        serve::policy,
        webhook::registration::{Address, Registration, webhook_configuration},
    };

    /// As a server of this name registers itself, `seconds` after the first.
    fn registered(name: &str, watched: Option<&str>, seconds: i64) -> ValidatingWebhookConfiguration {
        use clap::Parser;
        let Command::Extract(args) = Cli::parse_from(["prewarmer", "extract", "-f", "-"]).command else {
            panic!("extract")
        };
        let policy = Arc::new(policy(PolicySettings::check(&args.policy).unwrap(), "prewarmer", watched));
        let registration = Registration { name: name.into(), address: Address::Url("https://x".into()), timeout: 1 };
        let mut configuration = webhook_configuration(&registration, b"ca", &policy);
        let time = k8s_openapi::jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        configuration.metadata.creation_timestamp = Some(Time(time));
        configuration
    }

    fn found(all: &[ValidatingWebhookConfiguration], own: &str, watched: Option<&str>) -> Option<String> {
        overlap(all, own, watched).map(|overlap| overlap.configuration)
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
            assert_eq!(found(&all, "b", second).is_some(), overlaps, "{first:?} {second:?}");
            assert_eq!(found(&all, "a", first), None, "the older one goes on");
            assert_eq!(found(&all[..1], "b", second).is_some(), overlaps, "it has no configuration yet");
        }
    }

    #[test]
    fn what_nobody_has_filled_looks_at_nothing() {
        let mut empty = registered("a", None, 0);
        empty.webhooks = None;
        assert_eq!(found(&[empty], "b", None), None);
    }

    #[test]
    fn it_is_said_what_is_there_and_what_to_do() {
        let text = overlap(&[registered("prewarmer", None, 0)], "prewarmer-b", Some("shop")).unwrap().to_string();
        for word in
            ["all namespaces", "ValidatingWebhookConfiguration prewarmer)", "--watch-namespace", "--allow-overlap=true"]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
