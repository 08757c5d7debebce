//! The `ValidatingWebhookConfiguration`. Pure: no client, no clock, no I/O.

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MatchCondition, RuleWithOperations, ServiceReference, ValidatingWebhook,
        ValidatingWebhookConfiguration, WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
};
use prewarmer_core::{
    labels::{MANAGED_BY, NAMESPACE_NAME_LABEL, PART_OF},
    workload::{Policy, WorkloadKind},
};

use super::{TASKS_PATH, WORKLOADS_PATH};

/// Minimum timeout of the webhook for tasks and schedules, in seconds. Problems not found here make
/// a task fail later.
const MIN_TASKS_TIMEOUT: i32 = 5;

/// Address at which the API server calls the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookAddress {
    /// URL, such as `https://127.0.0.1:9443`.
    Url(String),
    /// Service on port 443.
    Service {
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        name: String,
    },
}

/// Parameters of the webhook configuration.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Name of the configuration object.
    pub name: String,
    /// Address at which the API server calls the webhook.
    pub address: WebhookAddress,
    /// Timeout of the webhook for workloads, in seconds. Answers take well below one millisecond. A
    /// webhook that is down refuses connections at once; only one that hangs delays admission so
    /// long.
    pub timeout_seconds: i32,
}

/// Returns named match conditions in CEL. They keep within the API server: updates of scale, status
/// and annotations; pods and Jobs of controllers that the policy covers; and our own objects.
/// Verified on Kubernetes 1.36.
fn match_conditions(policy: &Policy) -> Vec<MatchCondition> {
    let namespaces = policy
        .excluded_namespaces
        .iter()
        .map(|name| format!("'{name}'"))
        .collect::<Vec<_>>()
        .join(", ");
    let custom = policy.kinds.custom().map(|kind| {
        format!(" || (o.apiVersion.startsWith('{}/') && o.kind == '{}')", kind.group, kind.kind)
    });
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
        match_condition("not-the-system", &format!("!(request.namespace in [{namespaces}])")),
        match_condition(
            "not-ours",
            &format!(
                "!has(object.metadata.labels) || !('{key}' in object.metadata.labels) || \
                 object.metadata.labels['{key}'] != '{value}'",
                key = MANAGED_BY.0,
                value = MANAGED_BY.1
            ),
        ),
        match_condition(
            "no-known-controller",
            &format!(
                "!has(object.metadata.ownerReferences) || !object.metadata.ownerReferences.exists(o, has(o.controller) && \
                 o.controller && (o.apiVersion == 'apps/v1' || o.apiVersion == 'batch/v1' || (o.apiVersion == 'v1' && \
                 o.kind in ['ReplicationController', 'Node']){custom}))"
            ),
        ),
        match_condition(
            "new-or-changed-template",
            &format!(
                "request.operation == 'CREATE' || ({}{} : {} : {other}) || {annotated}",
                whole_spec_of_custom_kinds(policy, other),
                changed[0],
                changed[1]
            ),
        ),
    ]
}

/// Returns the start of a conditional expression in CEL: the whole spec is compared for kinds with
/// pod templates at other places than `spec.template`, which they may have too. Empty without such
/// kinds.
fn whole_spec_of_custom_kinds(policy: &Policy, comparison: &str) -> String {
    let kinds: Vec<String> = policy
        .kinds
        .custom()
        .filter(|kind| kind.has_templates_elsewhere())
        .map(|kind| {
            let (group, kind) = (&kind.group, &kind.kind);
            format!("object.apiVersion.startsWith('{group}/') && object.kind == '{kind}'")
        })
        .collect();
    if kinds.is_empty() {
        return String::new();
    }
    format!("({}) ? {comparison} : ", kinds.join(" || "))
}

/// Returns the configuration that registers the webhook with the API server.
#[must_use]
pub fn webhook_configuration(
    registration: &Registration,
    ca_bundle: &[u8],
    policy: &Policy,
) -> ValidatingWebhookConfiguration {
    let Registration { name, address, timeout_seconds: timeout } = registration;
    let workloads = ValidatingWebhook {
        name: "workloads.prewarm.io".into(),
        client_config: client_config(address, WORKLOADS_PATH, ca_bundle),
        rules: Some(policy.kinds.iter().map(|kind| rule_for(kind)).collect()),
        match_conditions: Some(match_conditions(policy)),
        side_effects: "NoneOnDryRun".into(),
        timeout_seconds: Some(*timeout),
        ..webhook_defaults(policy)
    };
    let tasks = ValidatingWebhook {
        name: "tasks.prewarm.io".into(),
        client_config: client_config(address, TASKS_PATH, ca_bundle),
        rules: Some(vec![
            rule("prewarm.io", "v1alpha1", &["CREATE"], "prewarmtasks"),
            rule("prewarm.io", "v1alpha1", &["CREATE", "UPDATE"], "prewarmschedules"),
        ]),
        side_effects: "None".into(),
        timeout_seconds: Some(MIN_TASKS_TIMEOUT.max(*timeout)),
        // Tasks are checked in system namespaces too.
        namespace_selector: Some(
            policy
                .watch_namespace
                .as_ref()
                .map(|only| name_selector("In", vec![only.clone()]))
                .unwrap_or_default(),
        ),
        ..webhook_defaults(policy)
    };
    ValidatingWebhookConfiguration {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            // The object of the chart has this label too. Its other labels do not belong to the
            // server.
            labels: Some([(PART_OF.0.to_owned(), PART_OF.1.to_owned())].into()),
            ..ObjectMeta::default()
        },
        webhooks: Some(vec![workloads, tasks]),
    }
}

/// Returns the rule for a kind. Pods and Jobs are reviewed only on creation: a Job's template is
/// immutable, and the images of a changed pod are already being pulled.
fn rule_for(kind: &WorkloadKind) -> RuleWithOperations {
    let once = kind.is_pod() || (kind.group == "batch" && kind.kind == "Job");
    let operations: &[&str] = if once { &["CREATE"] } else { &["CREATE", "UPDATE"] };
    rule(&kind.group, &kind.version, operations, &kind.plural)
}

/// Returns the fields that both webhooks share. `Ignore` makes sure that a failure of the webhook
/// never blocks an object.
fn webhook_defaults(policy: &Policy) -> ValidatingWebhook {
    ValidatingWebhook {
        admission_review_versions: vec!["v1".into()],
        failure_policy: Some("Ignore".into()),
        match_policy: Some("Equivalent".into()),
        namespace_selector: Some(namespace_selector(policy)),
        object_selector: Some(LabelSelector::default()),
        ..ValidatingWebhook::default()
    }
}

fn namespace_selector(policy: &Policy) -> LabelSelector {
    match &policy.watch_namespace {
        Some(only) => name_selector("In", vec![only.clone()]),
        None => name_selector("NotIn", policy.excluded_namespaces.iter().cloned().collect()),
    }
}

fn name_selector(operator: &str, names: Vec<String>) -> LabelSelector {
    let requirement = LabelSelectorRequirement {
        key: NAMESPACE_NAME_LABEL.into(),
        operator: operator.into(),
        values: Some(names),
    };
    LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None }
}

fn client_config(address: &WebhookAddress, path: &str, ca_bundle: &[u8]) -> WebhookClientConfig {
    let ca_bundle = Some(ByteString(ca_bundle.to_vec()));
    match address {
        WebhookAddress::Url(base) => WebhookClientConfig {
            ca_bundle,
            url: Some(format!("{}{path}", base.trim_end_matches('/'))),
            service: None,
        },
        WebhookAddress::Service { namespace, name } => WebhookClientConfig {
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

fn match_condition(name: &str, expression: &str) -> MatchCondition {
    MatchCondition { name: name.into(), expression: expression.into() }
}
