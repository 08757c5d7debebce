//! The `ValidatingWebhookConfiguration`. *Pure.*

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MatchCondition, RuleWithOperations, ServiceReference, ValidatingWebhook, ValidatingWebhookConfiguration,
        WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
};

use super::{TASKS_PATH, WORKLOADS_PATH};
use crate::{
    worker::MANAGED_BY,
    workload::{Kind, Policy},
};

/// Seconds that admission of a task may wait for us at least: a task that is not checked here fails later.
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

/// What is registered, and how.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The configuration's name.
    pub name: String,
    /// How the API server reaches us.
    pub address: Address,
    /// Seconds that admission of a workload may wait for us. Our answers take well under a millisecond; a webhook that is
    /// down refuses at once, and only one that hangs costs this long.
    pub timeout: i32,
}

/// Match conditions in CEL, with their names. As seen on Kubernetes 1.36, they keep scale, status and annotation updates, the
/// pods and Jobs of controllers that we know, and all of ourselves within the API server.
fn conditions(policy: &Policy) -> Vec<MatchCondition> {
    let namespaces = policy.excluded_namespaces.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let custom = policy
        .kinds
        .custom()
        .map(|kind| format!(" || (o.apiVersion.startsWith('{}/') && o.kind == '{}')", kind.group, kind.kind));
    let custom: String = custom.collect();
    let changed = [
        "has(object.spec.template) ? object.spec.template != oldObject.spec.template",
        "has(object.spec.jobTemplate) ? object.spec.jobTemplate != oldObject.spec.jobTemplate",
    ];
    let other = "object.spec != oldObject.spec";
    let annotated = "object.metadata.?annotations.orValue({}) != oldObject.metadata.?annotations.orValue({}) && \
         (object.metadata.?annotations.orValue({}).exists(k, k.startsWith('prewarm.io/')) || \
         oldObject.metadata.?annotations.orValue({}).exists(k, k.startsWith('prewarm.io/')))";
    vec![
        condition("not-the-system", &format!("!(request.namespace in [{namespaces}])")),
        condition(
            "not-ours",
            &format!(
                "!has(object.metadata.labels) || !('{key}' in object.metadata.labels) || \
                 object.metadata.labels['{key}'] != '{value}'",
                key = MANAGED_BY.0,
                value = MANAGED_BY.1
            ),
        ),
        condition(
            "no-known-controller",
            &format!(
                "!has(object.metadata.ownerReferences) || !object.metadata.ownerReferences.exists(o, has(o.controller) && \
                 o.controller && (o.apiVersion == 'apps/v1' || o.apiVersion == 'batch/v1' || (o.apiVersion == 'v1' && \
                 o.kind in ['ReplicationController', 'Node']){custom}))"
            ),
        ),
        condition(
            "new-or-changed-template",
            &format!("request.operation == 'CREATE' || ({} : {} : {other}) || {annotated}", changed[0], changed[1]),
        ),
    ]
}

/// The configuration that has the API server call us.
#[must_use]
pub fn webhook_configuration(
    registration: &Registration,
    ca_bundle: &[u8],
    policy: &Policy,
) -> ValidatingWebhookConfiguration {
    let Registration { name, address, timeout } = registration;
    let workloads = ValidatingWebhook {
        name: "workloads.prewarm.io".into(),
        client_config: client(address, WORKLOADS_PATH, ca_bundle),
        rules: Some(policy.kinds.iter().map(|kind| rule_for(kind)).collect()),
        match_conditions: Some(conditions(policy)),
        side_effects: "NoneOnDryRun".into(),
        timeout_seconds: Some(*timeout),
        ..webhook(policy)
    };
    let tasks = ValidatingWebhook {
        name: "tasks.prewarm.io".into(),
        client_config: client(address, TASKS_PATH, ca_bundle),
        rules: Some(vec![
            rule("prewarm.io", "v1alpha1", &["CREATE"], "prewarmtasks"),
            rule("prewarm.io", "v1alpha1", &["CREATE", "UPDATE"], "prewarmschedules"),
        ]),
        side_effects: "None".into(),
        timeout_seconds: Some(TASKS_TIMEOUT.max(*timeout)),
        // Tasks are checked in the system's namespaces too.
        namespace_selector: Some(
            policy.watch_namespace.as_ref().map(|only| by_name("In", vec![only.clone()])).unwrap_or_default(),
        ),
        ..webhook(policy)
    };
    ValidatingWebhookConfiguration {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            // The chart's own object has it too; what else it says there is not ours.
            labels: Some([("app.kubernetes.io/part-of".to_owned(), "prewarmer".to_owned())].into()),
            ..ObjectMeta::default()
        },
        webhooks: Some(vec![workloads, tasks]),
    }
}

/// The template of a Job cannot be changed, and the images of a pod are being pulled already when they are.
fn rule_for(kind: &Kind) -> RuleWithOperations {
    let once = kind.is_pod() || (kind.group == "batch" && kind.kind == "Job");
    let operations: &[&str] = if once { &["CREATE"] } else { &["CREATE", "UPDATE"] };
    rule(&kind.group, &kind.version, operations, &kind.plural)
}

/// What both webhooks share. `Ignore`: nothing of ours may ever block anything.
fn webhook(policy: &Policy) -> ValidatingWebhook {
    ValidatingWebhook {
        admission_review_versions: vec!["v1".into()],
        failure_policy: Some("Ignore".into()),
        match_policy: Some("Equivalent".into()),
        namespace_selector: Some(namespaces(policy)),
        object_selector: Some(LabelSelector::default()),
        ..ValidatingWebhook::default()
    }
}

fn namespaces(policy: &Policy) -> LabelSelector {
    match &policy.watch_namespace {
        Some(only) => by_name("In", vec![only.clone()]),
        None => by_name("NotIn", policy.excluded_namespaces.iter().cloned().collect()),
    }
}

fn by_name(operator: &str, names: Vec<String>) -> LabelSelector {
    let requirement = LabelSelectorRequirement {
        key: "kubernetes.io/metadata.name".into(),
        operator: operator.into(),
        values: Some(names),
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

fn rule(group: &str, version: &str, operations: &[&str], resource: &str) -> RuleWithOperations {
    let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
    RuleWithOperations {
        api_groups: list(&[group]),
        api_versions: list(&[version]),
        operations: list(operations),
        resources: list(&[resource]),
        scope: Some("Namespaced".into()),
    }
}

fn condition(name: &str, expression: &str) -> MatchCondition {
    MatchCondition { name: name.into(), expression: expression.into() }
}
