//! The `ValidatingWebhookConfiguration`. *Pure.*

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MatchCondition, RuleWithOperations, ServiceReference, ValidatingWebhook, ValidatingWebhookConfiguration,
        WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
};

use super::{TASKS_PATH, WORKLOADS_PATH, WebhookSettings};
use crate::worker::MANAGED_BY;

/// Seconds that admission of a workload may wait for us. Our answers take well under a millisecond; a webhook that is down
/// refuses at once, and only one that hangs costs this long.
const WORKLOADS_TIMEOUT: i32 = 2;
/// Seconds that admission of a task may wait for us.
const TASKS_TIMEOUT: i32 = 5;

/// How the API server reaches us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// By URL, such as `https://127.0.0.1:9443`.
    Url(String),
    /// By a Service on port 443.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Match conditions in CEL, with their names. As seen on Kubernetes 1.36, they keep scale, status and annotation updates,
/// and the pods and Jobs of the built-in controllers, within the API server.
const CONDITIONS: &[(&str, &str)] = &[
    (
        "not-ours",
        "!has(object.metadata.labels) || !('app.kubernetes.io/managed-by' in object.metadata.labels) || \
         object.metadata.labels['app.kubernetes.io/managed-by'] != 'prewarmer'",
    ),
    (
        "no-known-controller",
        "!has(object.metadata.ownerReferences) || !object.metadata.ownerReferences.exists(o, has(o.controller) && \
         o.controller && (o.apiVersion == 'apps/v1' || o.apiVersion == 'batch/v1'))",
    ),
    (
        "new-or-changed-template",
        "request.operation == 'CREATE' || (has(object.spec.template) ? object.spec.template != oldObject.spec.template : \
         has(object.spec.jobTemplate) ? object.spec.jobTemplate != oldObject.spec.jobTemplate : true) || \
         object.metadata.?annotations.orValue({}) != oldObject.metadata.?annotations.orValue({}) && \
         object.metadata.?annotations.orValue({}).exists(k, k.startsWith('prewarm.io/'))",
    ),
];

/// The configuration that has the API server call us.
#[must_use]
pub fn webhook_configuration(
    name: &str,
    address: &Address,
    ca_bundle: &[u8],
    settings: &WebhookSettings,
) -> ValidatingWebhookConfiguration {
    let workloads = ValidatingWebhook {
        name: "workloads.prewarm.io".into(),
        client_config: client(address, WORKLOADS_PATH, ca_bundle),
        rules: Some(vec![
            rule("apps", "v1", &["CREATE", "UPDATE"], &["deployments", "statefulsets", "daemonsets", "replicasets"]),
            rule("batch", "v1", &["CREATE", "UPDATE"], &["cronjobs"]),
            rule("batch", "v1", &["CREATE"], &["jobs"]),
            rule("", "v1", &["CREATE", "UPDATE"], &["replicationcontrollers"]),
            rule("", "v1", &["CREATE"], &["pods"]),
        ]),
        match_conditions: Some(CONDITIONS.iter().map(|(name, expression)| condition(name, expression)).collect()),
        side_effects: "NoneOnDryRun".into(),
        timeout_seconds: Some(WORKLOADS_TIMEOUT),
        ..webhook(settings)
    };
    let tasks = ValidatingWebhook {
        name: "tasks.prewarm.io".into(),
        client_config: client(address, TASKS_PATH, ca_bundle),
        rules: Some(vec![rule("prewarm.io", "v1alpha1", &["CREATE"], &["prewarmtasks"])]),
        side_effects: "None".into(),
        timeout_seconds: Some(TASKS_TIMEOUT),
        ..webhook(settings)
    };
    ValidatingWebhookConfiguration {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
            ..ObjectMeta::default()
        },
        webhooks: Some(vec![workloads, tasks]),
    }
}

/// What both webhooks share. `Ignore`: nothing of ours may ever block anything.
fn webhook(settings: &WebhookSettings) -> ValidatingWebhook {
    ValidatingWebhook {
        admission_review_versions: vec!["v1".into()],
        failure_policy: Some("Ignore".into()),
        match_policy: Some("Equivalent".into()),
        namespace_selector: Some(namespaces(settings)),
        object_selector: Some(LabelSelector::default()),
        ..ValidatingWebhook::default()
    }
}

fn namespaces(settings: &WebhookSettings) -> LabelSelector {
    let (operator, values) = match &settings.watch_namespace {
        Some(only) => ("In", vec![only.clone()]),
        None => ("NotIn", settings.excluded_namespaces.iter().cloned().collect()),
    };
    let requirement = LabelSelectorRequirement {
        key: "kubernetes.io/metadata.name".into(),
        operator: operator.into(),
        values: Some(values),
    };
    LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None }
}

fn client(address: &Address, path: &str, ca_bundle: &[u8]) -> WebhookClientConfig {
    let ca_bundle = Some(ByteString(ca_bundle.to_vec()));
    match address {
        Address::Url(base) => {
            WebhookClientConfig { ca_bundle, url: Some(format!("{}{path}", base.trim_end_matches('/'))), service: None }
        }
        Address::Service { namespace, name } => WebhookClientConfig {
            ca_bundle,
            url: None,
            service: Some(ServiceReference {
                namespace: namespace.clone(),
                name: name.clone(),
                path: Some(path.into()),
                port: Some(443),
            }),
        },
    }
}

fn rule(group: &str, version: &str, operations: &[&str], resources: &[&str]) -> RuleWithOperations {
    let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
    RuleWithOperations {
        api_groups: list(&[group]),
        api_versions: list(&[version]),
        operations: list(operations),
        resources: list(resources),
        scope: Some("Namespaced".into()),
    }
}

fn condition(name: &str, expression: &str) -> MatchCondition {
    MatchCondition { name: name.into(), expression: expression.into() }
}
