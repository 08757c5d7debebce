//! Upper bounds of specs.
//!
//! Every list, string and duration of the custom resources has an upper bound, in the schemas and
//! here. The API server enforces the schemas. Objects that were stored under an older or a modified
//! schema are checked against the same bounds by the controller, and fail with the reason
//! `InvalidSpec`.
//!
//! A typical task has some kilobytes. With these bounds the largest has [`MAX_SPEC`]; the API
//! server's own limit is three times as large. A namespace with a quota of objects can therefore
//! not fill the memory of a replica (docs/install.md).

use std::{io, time::Duration};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, Toleration};
use serde::Serialize;
use serde_json::Value;

use super::{FieldError, Notification, PrewarmTaskSpec, SecretKeyReference};
use crate::dns;

/// Longest deadline: a week. Tasks take minutes; tasks on 5,000 nodes in small batches take hours.
pub const MAX_DEADLINE: Duration = Duration::from_secs(168 * 3600);
/// Longest time limit of a node, longest delay before a retry and longest `retain`: a day.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// Shortest time limit of a node and shortest deadline.
pub const MIN_DURATION: Duration = Duration::from_secs(1);
/// Longest time for which an ended task is kept, in seconds: a year.
pub const MAX_TTL_SECONDS: u32 = 365 * 24 * 3600;
/// Largest number of images.
pub const MAX_IMAGES: usize = 100;
/// Longest image reference, in bytes: a name of 255 with its registry, a tag of 128 and a digest of
/// 135.
pub const MAX_IMAGE_REFERENCE: usize = 520;
/// Largest number of labels in `nodeSelector`.
pub const MAX_SELECTOR: usize = 64;
/// Longest label key, in bytes: a prefix of 253, a slash, and a name of 63.
pub const MAX_LABEL_KEY: usize = 317;
/// Longest label value, and longest name in a label key, in bytes.
pub const MAX_LABEL_VALUE: usize = 63;
/// Longest name of an object or a node, in bytes.
pub const MAX_NAME: usize = dns::MAX_SUBDOMAIN;
/// Longest operator, effect or format, in bytes: all known ones are shorter.
pub const MAX_KEYWORD: usize = 32;
/// Largest number of terms of `nodeAffinity`.
pub const MAX_TERMS: usize = 20;
/// Largest number of expressions of a term, and of fields of a term.
pub const MAX_EXPRESSIONS: usize = 20;
/// Largest number of values of all expressions together: enough to list each rack or host of a
/// cluster.
pub const MAX_VALUES: usize = 1000;
/// Largest number of node names in the fields of all terms together. A retry creates a task for the
/// nodes that are not warm, which may be all of the 5,000 that Kubernetes supports.
pub const MAX_NODE_NAMES: usize = 5000;
/// Largest number of tolerations.
pub const MAX_TOLERATIONS: usize = 100;
/// Largest number of pull secrets.
pub const MAX_PULL_SECRETS: usize = 20;
/// Largest number of notifications.
pub const MAX_NOTIFICATIONS: usize = 10;
/// Longest URL of a notification, in bytes.
pub const MAX_URL: usize = 2048;
/// Longest spec, in bytes of JSON: 5,000 nodes with names of 63 bytes are 330 KB, and 100 of the
/// longest images 52 KB.
pub const MAX_SPEC: usize = 512 << 10;
/// Largest number of nodes of a plan. With names of 50 bytes they are 1.3 MB; etcd accepts 1.5 MB.
pub const MAX_PLAN_NODES: usize = 25_000;
/// Largest number of entries in `unchecked` of a plan: one for each check, and one for each image.
pub const MAX_UNCHECKED: usize = 20;
/// Longest text in `throttled` and `unchecked` of a plan, in characters.
pub const MAX_NOTE: usize = 300;

/// Adds a problem for each bound that the spec exceeds. The caller checks nothing else of such a
/// spec.
pub(super) fn check_bounds(spec: &PrewarmTaskSpec, problems: &mut Vec<FieldError>) {
    let size = json_size(spec);
    if size > MAX_SPEC {
        problems.push(bound_exceeded("spec", size, MAX_SPEC, "bytes of JSON"));
        return;
    }
    let mut check = BoundsChecker { problems };
    check.count("spec.images", spec.images.len(), MAX_IMAGES, "images");
    for (index, image) in spec.images.iter().enumerate().take(MAX_IMAGES) {
        check.length(&format!("spec.images[{index}]"), image, MAX_IMAGE_REFERENCE);
    }
    check.count(
        "spec.nodeSelector",
        spec.node_selector.as_ref().map_or(0, std::collections::BTreeMap::len),
        MAX_SELECTOR,
        "labels",
    );
    for (key, value) in spec.node_selector.iter().flatten().take(MAX_SELECTOR) {
        check.length("spec.nodeSelector", key, MAX_LABEL_KEY);
        check.length(&format!("spec.nodeSelector[{key}]"), value, MAX_LABEL_VALUE);
    }
    check.affinity(spec.node_affinity.as_ref());
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    check.count("spec.tolerations", tolerations.len(), MAX_TOLERATIONS, "tolerations");
    for (index, toleration) in tolerations.iter().enumerate().take(MAX_TOLERATIONS) {
        check.toleration(&format!("spec.tolerations[{index}]"), toleration);
    }
    let secrets = spec.image_pull_secrets.as_deref().unwrap_or_default();
    check.count("spec.imagePullSecrets", secrets.len(), MAX_PULL_SECRETS, "secrets");
    for (index, secret) in secrets.iter().enumerate().take(MAX_PULL_SECRETS) {
        check.length(&format!("spec.imagePullSecrets[{index}].name"), &secret.name, MAX_NAME);
    }
    check.length(
        "spec.serviceAccountName",
        spec.service_account_name.as_deref().unwrap_or_default(),
        MAX_NAME,
    );
    let notify = spec.notify.as_deref().unwrap_or_default();
    check.count("spec.notify", notify.len(), MAX_NOTIFICATIONS, "notifications");
    for (index, one) in notify.iter().enumerate().take(MAX_NOTIFICATIONS) {
        check.notification(&format!("spec.notify[{index}]"), one);
    }
    if let Some(ttl) = spec.ttl_seconds_after_finished.filter(|ttl| *ttl > MAX_TTL_SECONDS) {
        let ttl = usize::try_from(ttl).unwrap_or(usize::MAX);
        let most = usize::try_from(MAX_TTL_SECONDS).unwrap_or(usize::MAX);
        check.problems.push(bound_exceeded("spec.ttlSecondsAfterFinished", ttl, most, "seconds"));
    }
}

struct BoundsChecker<'a> {
    problems: &'a mut Vec<FieldError>,
}

impl BoundsChecker<'_> {
    fn count(&mut self, field: &str, count: usize, most: usize, what: &str) {
        if count > most {
            self.problems.push(bound_exceeded(field, count, most, what));
        }
    }

    fn length(&mut self, field: &str, text: &str, most: usize) {
        self.count(field, text.len(), most, "bytes");
    }

    fn affinity(&mut self, affinity: Option<&NodeSelector>) {
        let terms = affinity.map_or(&[][..], |affinity| &affinity.node_selector_terms);
        let at = "spec.nodeAffinity.nodeSelectorTerms";
        self.count(at, terms.len(), MAX_TERMS, "terms");
        let (mut values, mut names) = (0_usize, 0_usize);
        for (index, term) in terms.iter().enumerate().take(MAX_TERMS) {
            let rules = [
                ("matchExpressions", &term.match_expressions),
                ("matchFields", &term.match_fields),
            ];
            for (kind, rules) in rules {
                let rules = rules.as_deref().unwrap_or_default();
                self.count(&format!("{at}[{index}].{kind}"), rules.len(), MAX_EXPRESSIONS, "rules");
                for (rule_index, rule) in rules.iter().enumerate().take(MAX_EXPRESSIONS) {
                    let most = if kind == "matchFields" { MAX_NAME } else { MAX_LABEL_VALUE };
                    let count = self.requirement(
                        &format!("{at}[{index}].{kind}[{rule_index}]"),
                        rule,
                        most,
                    );
                    let sum = if kind == "matchFields" { &mut names } else { &mut values };
                    *sum = sum.saturating_add(count);
                }
            }
        }
        self.count(at, values, MAX_VALUES, "values of all matchExpressions together");
        self.count(at, names, MAX_NODE_NAMES, "values of all matchFields together");
    }

    /// Checks one requirement. Returns the number of its values.
    fn requirement(&mut self, at: &str, rule: &NodeSelectorRequirement, most: usize) -> usize {
        self.length(&format!("{at}.key"), &rule.key, MAX_LABEL_KEY);
        self.length(&format!("{at}.operator"), &rule.operator, MAX_KEYWORD);
        let values = rule.values.as_deref().unwrap_or_default();
        if let Some(long) = values.iter().find(|value| value.len() > most) {
            self.length(&format!("{at}.values"), long, most);
        }
        values.len()
    }

    fn toleration(&mut self, at: &str, toleration: &Toleration) {
        let parts = [
            ("key", &toleration.key, MAX_LABEL_KEY),
            ("operator", &toleration.operator, MAX_KEYWORD),
            ("value", &toleration.value, MAX_LABEL_VALUE),
            ("effect", &toleration.effect, MAX_KEYWORD),
        ];
        for (name, text, most) in parts {
            self.length(&format!("{at}.{name}"), text.as_deref().unwrap_or_default(), most);
        }
    }

    fn notification(&mut self, at: &str, one: &Notification) {
        self.length(&format!("{at}.url"), one.url.as_deref().unwrap_or_default(), MAX_URL);
        if let Some(source) = &one.url_from {
            let SecretKeyReference { name, key } = &source.secret_key_ref;
            self.length(&format!("{at}.urlFrom.secretKeyRef.name"), name, MAX_NAME);
            self.length(&format!("{at}.urlFrom.secretKeyRef.key"), key, MAX_NAME);
        }
        self.length(
            &format!("{at}.format"),
            one.format.as_deref().unwrap_or_default(),
            MAX_KEYWORD,
        );
        let secret = one.secret_ref.as_ref().map_or("", |secret| &secret.name);
        self.length(&format!("{at}.secretRef.name"), secret, MAX_NAME);
    }
}

fn bound_exceeded(field: &str, found: usize, most: usize, what: &str) -> FieldError {
    FieldError::new(field, &format!("{found} {what}"), &format!("at most {most} are allowed"))
}

/// Returns the length of a value as JSON, without storing the JSON.
fn json_size(value: &impl Serialize) -> usize {
    struct ByteCounter(usize);
    impl io::Write for ByteCounter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = ByteCounter(0);
    // A spec consists of text, numbers and lists of them, so serialising to JSON cannot fail.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

/// Bounds added to the schema of a task's spec: path, keyword and value. The bounds of its other
/// fields are attributes of the resource.
const TASK_BOUNDS: &[(&str, &str, usize)] = &[
    ("/nodeSelector", "maxProperties", MAX_SELECTOR),
    ("/nodeSelector/additionalProperties", "maxLength", MAX_LABEL_VALUE),
    ("/nodeAffinity/properties/nodeSelectorTerms", "maxItems", MAX_TERMS),
    ("/tolerations", "maxItems", MAX_TOLERATIONS),
    ("/tolerations/items/properties/key", "maxLength", MAX_LABEL_KEY),
    ("/tolerations/items/properties/operator", "maxLength", MAX_KEYWORD),
    ("/tolerations/items/properties/value", "maxLength", MAX_LABEL_VALUE),
    ("/tolerations/items/properties/effect", "maxLength", MAX_KEYWORD),
    ("/imagePullSecrets", "maxItems", MAX_PULL_SECRETS),
    ("/imagePullSecrets/items/properties/name", "maxLength", MAX_NAME),
    ("/serviceAccountName", "maxLength", MAX_NAME),
    ("/notify/items/properties/format", "maxLength", MAX_KEYWORD),
    ("/notify/items/properties/secretRef/properties/name", "maxLength", MAX_NAME),
];
/// Bounds of a term of `nodeAffinity`.
const TERM_BOUNDS: &[(&str, &str, usize)] = &[
    ("/matchExpressions", "maxItems", MAX_EXPRESSIONS),
    ("/matchExpressions/items/properties/key", "maxLength", MAX_LABEL_KEY),
    ("/matchExpressions/items/properties/operator", "maxLength", MAX_KEYWORD),
    ("/matchExpressions/items/properties/values", "maxItems", MAX_VALUES),
    ("/matchExpressions/items/properties/values/items", "maxLength", MAX_LABEL_VALUE),
    ("/matchFields", "maxItems", MAX_EXPRESSIONS),
    ("/matchFields/items/properties/key", "maxLength", MAX_LABEL_KEY),
    ("/matchFields/items/properties/operator", "maxLength", MAX_KEYWORD),
    ("/matchFields/items/properties/values", "maxItems", MAX_NODE_NAMES),
    ("/matchFields/items/properties/values/items", "maxLength", MAX_NAME),
];
/// Bounds of the spec of a plan.
const PLAN_BOUNDS: &[(&str, &str, usize)] = &[
    ("/nodes", "maxItems", MAX_PLAN_NODES),
    ("/nodes/items", "maxLength", MAX_NAME),
    ("/throttled", "maxLength", MAX_NOTE),
    ("/unchecked", "maxItems", MAX_UNCHECKED),
    ("/unchecked/items", "maxLength", MAX_NOTE),
    ("/ignored", "maxItems", super::MAX_IGNORED_NODES),
    ("/ignored/items/properties/node", "maxLength", MAX_NAME),
    ("/ignored/items/properties/reason", "maxLength", MAX_LABEL_VALUE),
];

/// Adds the bounds of a task to the schema of its spec.
pub fn add_task_bounds(spec: &mut Value) {
    add_bounds(spec, "/properties", TASK_BOUNDS);
    let term = "/properties/nodeAffinity/properties/nodeSelectorTerms/items/properties";
    add_bounds(spec, term, TERM_BOUNDS);
}

/// Adds the bounds of a plan to the schema of its spec.
pub fn add_plan_bounds(spec: &mut Value) {
    add_bounds(spec, "/properties", PLAN_BOUNDS);
}

fn add_bounds(schema: &mut Value, at: &str, bounds: &[(&str, &str, usize)]) {
    for (place, keyword, most) in bounds {
        if let Some(Value::Object(place)) = schema.pointer_mut(&format!("{at}{place}")) {
            place.insert((*keyword).to_owned(), (*most).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::task::{PrewarmPlan, PrewarmTask, validate::validate};

    fn spec_schema(definition: &impl Serialize) -> Value {
        let definition = serde_json::to_value(definition).unwrap();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
    }

    #[test]
    fn every_bound_matches_a_schema_field() {
        let (task, plan) = (spec_schema(&PrewarmTask::crd()), spec_schema(&PrewarmPlan::crd()));
        let term = "/nodeAffinity/properties/nodeSelectorTerms/items/properties";
        let all = TASK_BOUNDS.iter().map(|(place, ..)| (&task, (*place).to_owned()));
        let all =
            all.chain(TERM_BOUNDS.iter().map(|(place, ..)| (&task, format!("{term}{place}"))));
        for (schema, place) in
            all.chain(PLAN_BOUNDS.iter().map(|(place, ..)| (&plan, (*place).to_owned())))
        {
            assert!(schema.pointer(&format!("/properties{place}")).is_some(), "{place}");
        }
    }

    /// Fields that are added later must get a bound as well.
    #[test]
    fn every_schema_field_is_bounded() {
        let (mut task, mut plan) =
            (spec_schema(&PrewarmTask::crd()), spec_schema(&PrewarmPlan::crd()));
        add_task_bounds(&mut task);
        add_plan_bounds(&mut plan);
        let mut unbounded = Vec::new();
        find_unbounded(&task, "task", &mut unbounded);
        find_unbounded(&plan, "plan", &mut unbounded);
        assert_eq!(unbounded, Vec::<String>::new());
    }

    fn find_unbounded(schema: &Value, at: &str, found: &mut Vec<String>) {
        let bounded = |keyword: &str| schema.get(keyword).is_some() || schema.get("enum").is_some();
        let keyword = match schema["type"].as_str() {
            Some("string") => "maxLength",
            Some("array") => "maxItems",
            Some("object") if schema.get("additionalProperties").is_some() => "maxProperties",
            _ => "",
        };
        if !keyword.is_empty() && !bounded(keyword) {
            found.push(format!("{at} has no {keyword}"));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            find_unbounded(property, &format!("{at}.{name}"), found);
        }
        for part in ["items", "additionalProperties"] {
            if let Some(part) = schema.get(part) {
                find_unbounded(part, &format!("{at}[]"), found);
            }
        }
    }

    fn with(fields: &Value) -> PrewarmTaskSpec {
        let mut spec = json!({"images": ["nginx"]});
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn rules(kind: &str, rules: usize, values: usize, value: &str) -> Value {
        let operator = json!({"key": if kind == "matchFields" { "metadata.name" } else { "zone" }, "operator": "In",
            "values": vec![value; values]});
        json!({"nodeAffinity": {"nodeSelectorTerms": [{kind: vec![operator; rules]}]}})
    }

    #[rstest]
    #[case(json!({"retain": "24h"}))]
    #[case(json!({"deadline": "168h"}))]
    #[case(json!({"timeout": "24h"}))]
    #[case(json!({"ttlSecondsAfterFinished": 31_536_000}))]
    #[case(json!({"images": (0..100).map(|n| format!("a:{n}")).collect::<Vec<_>>()}))]
    #[case(rules("matchExpressions", 20, 50, "v"))]
    #[case(rules("matchFields", 1, 5000, "n"))]
    fn specs_at_the_bound_are_valid(#[case] fields: Value) {
        assert!(validate(&with(&fields)).is_ok());
    }

    #[rstest]
    #[case(json!({"retain": "24h1s"}), "spec.retain", "24h")]
    #[case(json!({"retain": "5124095576030430h59m"}), "spec.retain", "24h")]
    #[case(json!({"deadline": "168h1s"}), "spec.deadline", "168h")]
    #[case(json!({"deadline": "0s"}), "spec.deadline", "1s")]
    #[case(json!({"timeout": "25h"}), "spec.timeout", "24h")]
    #[case(json!({"timeout": "0s"}), "spec.timeout", "1s")]
    #[case(json!({"retry": {"delay": "25h"}}), "spec.retry.delay", "24h")]
    #[case(json!({"retry": {"limit": 4_000_000_000_u32}}), "spec.retry.limit", "5")]
    #[case(json!({"priority": 11}), "spec.priority", "10")]
    #[case(json!({"ttlSecondsAfterFinished": 31_536_001}), "spec.ttlSecondsAfterFinished", "31536000")]
    #[case(json!({"images": (0..101).map(|n| format!("a:{n}")).collect::<Vec<_>>()}), "spec.images", "100")]
    #[case(json!({"images": ["a".repeat(521)]}), "spec.images[0]", "520")]
    #[case(json!({"nodeSelector": (0..65).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>()}), "spec.nodeSelector", "64")]
    #[case(json!({"nodeSelector": {"k": "v".repeat(64)}}), "spec.nodeSelector[k]", "63")]
    #[case(json!({"tolerations": vec![json!({"operator": "Exists"}); 101]}), "spec.tolerations", "100")]
    #[case(json!({"tolerations": [{"key": "k".repeat(318), "operator": "Exists"}]}), "spec.tolerations[0].key", "317")]
    #[case(json!({"imagePullSecrets": vec![json!({"name": "s"}); 21]}), "spec.imagePullSecrets", "20")]
    #[case(json!({"serviceAccountName": "s".repeat(254)}), "spec.serviceAccountName", "253")]
    #[case(json!({"notify": vec![json!({"url": "https://a.example"}); 11]}), "spec.notify", "10")]
    #[case(json!({"notify": [{"url": format!("https://a.example/{}", "x".repeat(2048))}]}), "spec.notify[0].url", "2048")]
    #[case(json!({"nodeAffinity": {"nodeSelectorTerms": vec![json!({}); 21]}}), "spec.nodeAffinity.nodeSelectorTerms", "20")]
    #[case(
        rules("matchExpressions", 21, 1, "v"),
        "spec.nodeAffinity.nodeSelectorTerms[0].matchExpressions",
        "20"
    )]
    #[case(rules("matchExpressions", 20, 51, "v"), "spec.nodeAffinity.nodeSelectorTerms", "1000")]
    #[case(rules("matchFields", 1, 5001, "n"), "spec.nodeAffinity.nodeSelectorTerms", "5000")]
    #[case(rules("matchFields", 1, 5000, &"n".repeat(200)), "spec", "524288")]
    fn specs_beyond_the_bound_are_rejected(
        #[case] fields: Value,
        #[case] field: &str,
        #[case] most: &str,
    ) {
        let problems = validate(&with(&fields)).unwrap_err();
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let named =
            problems.iter().any(|problem| problem.field == field && problem.reason.contains(most));
        assert!(named, "{texts:#?}");
        assert!(texts.iter().all(|text| text.len() < 1000), "messages are short: {texts:#?}");
    }
}
