//! How much a spec may hold.
//!
//! Every list, text and duration of the custom resources has an upper bound, in their schemas and here. The API server
//! enforces the schemas; objects that were stored under an older schema, or where somebody has changed it, meet the same
//! bounds when the engine takes them up, and end as failed with the reason `InvalidSpec`.
//!
//! An honest task has some kilobytes. With these bounds the largest has [`MAX_SPEC`], where the API server's own limit is
//! three times as much: what one namespace stores cannot fill the memory of a replica as long as the namespace has a quota
//! of objects (docs/install.md).

use std::{io, time::Duration};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, Toleration};
use serde::Serialize;
use serde_json::Value;

use super::{Notification, PrewarmTaskSpec, Problem, SecretKeyReference};

/// Longest span of a deadline: a week. Tasks take minutes; those of 5,000 nodes in small batches, hours.
pub const MAX_DEADLINE: Duration = Duration::from_secs(168 * 3600);
/// Longest time-out of a node, longest delay before a further try, and longest time for which workers are retained: a day.
pub const MAX_SPAN: Duration = Duration::from_secs(24 * 3600);
/// Shortest time-out and deadline.
pub const MIN_SPAN: Duration = Duration::from_secs(1);
/// Longest time for which an ended task is kept, in seconds: a year.
pub const MAX_TTL_SECONDS: u32 = 365 * 24 * 3600;
/// Most images.
pub const MAX_IMAGES: usize = 100;
/// Longest image reference, in bytes: a name of 255 with its registry, a tag of 128 and a digest of 135.
pub const MAX_IMAGE: usize = 520;
/// Most labels in `nodeSelector`.
pub const MAX_SELECTOR: usize = 64;
/// Longest key of a label: a prefix of 253, a slash, and a name of 63.
pub const MAX_KEY: usize = 317;
/// Longest value of a label.
pub const MAX_VALUE: usize = 63;
/// Longest name of an object, and of a node.
pub const MAX_NAME: usize = 253;
/// Longest operator, effect or format: all that are known are shorter.
pub const MAX_WORD: usize = 32;
/// Most terms of `nodeAffinity`.
pub const MAX_TERMS: usize = 20;
/// Most expressions of a term, and most fields.
pub const MAX_EXPRESSIONS: usize = 20;
/// Most values of all expressions together: some name each of a cluster's racks or hosts.
pub const MAX_VALUES: usize = 1000;
/// Most node names in the fields of all terms together: a task is made again for those nodes that it could not warm, which
/// may be all of the 5,000 that Kubernetes supports.
pub const MAX_NODE_NAMES: usize = 5000;
/// Most tolerations.
pub const MAX_TOLERATIONS: usize = 100;
/// Most pull secrets.
pub const MAX_PULL_SECRETS: usize = 20;
/// Most notifications.
pub const MAX_NOTIFY: usize = 10;
/// Longest address of a notification.
pub const MAX_URL: usize = 2048;
/// Longest spec, in bytes of JSON: 5,000 nodes with names of 63 are 330 KB, and 100 of the longest images 52 KB.
pub const MAX_SPEC: usize = 512 << 10;
/// Most nodes of a plan. With names of 50 bytes these are 1.3 MB, and etcd takes 1.5 MB.
pub const MAX_PLAN_NODES: usize = 25_000;
/// Most remarks of a plan on what could not be checked: one for each check, and one for each image.
pub const MAX_UNCHECKED: usize = 20;
/// Longest remark of a plan, in characters.
pub const MAX_REMARK: usize = 300;

/// Where a spec is larger than allowed. Whoever calls this looks at nothing else of a spec that is.
pub(super) fn check(spec: &PrewarmTaskSpec, problems: &mut Vec<Problem>) {
    let size = size(spec);
    if size > MAX_SPEC {
        problems.push(too_much("spec", size, MAX_SPEC, "bytes of JSON"));
        return;
    }
    let mut check = Check { problems };
    check.count("spec.images", spec.images.len(), MAX_IMAGES, "images");
    for (index, image) in spec.images.iter().enumerate().take(MAX_IMAGES) {
        check.length(&format!("spec.images[{index}]"), image, MAX_IMAGE);
    }
    check.count(
        "spec.nodeSelector",
        spec.node_selector.as_ref().map_or(0, std::collections::BTreeMap::len),
        MAX_SELECTOR,
        "labels",
    );
    for (key, value) in spec.node_selector.iter().flatten().take(MAX_SELECTOR) {
        check.length("spec.nodeSelector", key, MAX_KEY);
        check.length(&format!("spec.nodeSelector[{key}]"), value, MAX_VALUE);
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
    check.length("spec.serviceAccountName", spec.service_account_name.as_deref().unwrap_or_default(), MAX_NAME);
    let notify = spec.notify.as_deref().unwrap_or_default();
    check.count("spec.notify", notify.len(), MAX_NOTIFY, "notifications");
    for (index, one) in notify.iter().enumerate().take(MAX_NOTIFY) {
        check.notification(&format!("spec.notify[{index}]"), one);
    }
    if let Some(ttl) = spec.ttl_seconds_after_finished.filter(|ttl| *ttl > MAX_TTL_SECONDS) {
        let ttl = usize::try_from(ttl).unwrap_or(usize::MAX);
        let most = usize::try_from(MAX_TTL_SECONDS).unwrap_or(usize::MAX);
        check.problems.push(too_much("spec.ttlSecondsAfterFinished", ttl, most, "seconds"));
    }
}

struct Check<'a> {
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn count(&mut self, field: &str, count: usize, most: usize, what: &str) {
        if count > most {
            self.problems.push(too_much(field, count, most, what));
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
            let rules = [("matchExpressions", &term.match_expressions), ("matchFields", &term.match_fields)];
            for (kind, rules) in rules {
                let rules = rules.as_deref().unwrap_or_default();
                self.count(&format!("{at}[{index}].{kind}"), rules.len(), MAX_EXPRESSIONS, "rules");
                for (rule_index, rule) in rules.iter().enumerate().take(MAX_EXPRESSIONS) {
                    let most = if kind == "matchFields" { MAX_NAME } else { MAX_VALUE };
                    let count = self.requirement(&format!("{at}[{index}].{kind}[{rule_index}]"), rule, most);
                    let sum = if kind == "matchFields" { &mut names } else { &mut values };
                    *sum = sum.saturating_add(count);
                }
            }
        }
        self.count(at, values, MAX_VALUES, "values of all matchExpressions together");
        self.count(at, names, MAX_NODE_NAMES, "values of all matchFields together");
    }

    /// How many values it has.
    fn requirement(&mut self, at: &str, rule: &NodeSelectorRequirement, most: usize) -> usize {
        self.length(&format!("{at}.key"), &rule.key, MAX_KEY);
        self.length(&format!("{at}.operator"), &rule.operator, MAX_WORD);
        let values = rule.values.as_deref().unwrap_or_default();
        if let Some(long) = values.iter().find(|value| value.len() > most) {
            self.length(&format!("{at}.values"), long, most);
        }
        values.len()
    }

    fn toleration(&mut self, at: &str, toleration: &Toleration) {
        let parts = [
            ("key", &toleration.key, MAX_KEY),
            ("operator", &toleration.operator, MAX_WORD),
            ("value", &toleration.value, MAX_VALUE),
            ("effect", &toleration.effect, MAX_WORD),
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
        self.length(&format!("{at}.format"), one.format.as_deref().unwrap_or_default(), MAX_WORD);
        let secret = one.secret_ref.as_ref().map_or("", |secret| &secret.name);
        self.length(&format!("{at}.secretRef.name"), secret, MAX_NAME);
    }
}

fn too_much(field: &str, found: usize, most: usize, what: &str) -> Problem {
    Problem::new(field, &format!("{found} {what}"), &format!("at most {most} are allowed"))
}

/// How long a value is as JSON, without writing it anywhere.
fn size(value: &impl Serialize) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // A spec is text, numbers and lists of them: JSON can say all of it.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

/// Bounds that the schema of a task's spec gets: where, which keyword, and how much. Those of its other fields are attributes
/// of the resource.
const OF_A_TASK: &[(&str, &str, usize)] = &[
    ("/nodeSelector", "maxProperties", MAX_SELECTOR),
    ("/nodeSelector/additionalProperties", "maxLength", MAX_VALUE),
    ("/nodeAffinity/properties/nodeSelectorTerms", "maxItems", MAX_TERMS),
    ("/tolerations", "maxItems", MAX_TOLERATIONS),
    ("/tolerations/items/properties/key", "maxLength", MAX_KEY),
    ("/tolerations/items/properties/operator", "maxLength", MAX_WORD),
    ("/tolerations/items/properties/value", "maxLength", MAX_VALUE),
    ("/tolerations/items/properties/effect", "maxLength", MAX_WORD),
    ("/imagePullSecrets", "maxItems", MAX_PULL_SECRETS),
    ("/imagePullSecrets/items/properties/name", "maxLength", MAX_NAME),
    ("/serviceAccountName", "maxLength", MAX_NAME),
    ("/notify/items/properties/format", "maxLength", MAX_WORD),
    ("/notify/items/properties/secretRef/properties/name", "maxLength", MAX_NAME),
];
/// Bounds of a term of `nodeAffinity`.
const OF_A_TERM: &[(&str, &str, usize)] = &[
    ("/matchExpressions", "maxItems", MAX_EXPRESSIONS),
    ("/matchExpressions/items/properties/key", "maxLength", MAX_KEY),
    ("/matchExpressions/items/properties/operator", "maxLength", MAX_WORD),
    ("/matchExpressions/items/properties/values", "maxItems", MAX_VALUES),
    ("/matchExpressions/items/properties/values/items", "maxLength", MAX_VALUE),
    ("/matchFields", "maxItems", MAX_EXPRESSIONS),
    ("/matchFields/items/properties/key", "maxLength", MAX_KEY),
    ("/matchFields/items/properties/operator", "maxLength", MAX_WORD),
    ("/matchFields/items/properties/values", "maxItems", MAX_NODE_NAMES),
    ("/matchFields/items/properties/values/items", "maxLength", MAX_NAME),
];
/// Bounds of a plan's spec.
const OF_A_PLAN: &[(&str, &str, usize)] = &[
    ("/nodes", "maxItems", MAX_PLAN_NODES),
    ("/nodes/items", "maxLength", MAX_NAME),
    ("/throttled", "maxLength", MAX_REMARK),
    ("/unchecked", "maxItems", MAX_UNCHECKED),
    ("/unchecked/items", "maxLength", MAX_REMARK),
    ("/ignored", "maxItems", super::resource::MAX_IGNORED_NODES),
    ("/ignored/items/properties/node", "maxLength", MAX_NAME),
    ("/ignored/items/properties/reason", "maxLength", MAX_VALUE),
];

/// Puts the bounds of a task into the schema of its spec.
pub fn bound_task(spec: &mut Value) {
    bound(spec, "/properties", OF_A_TASK);
    let term = "/properties/nodeAffinity/properties/nodeSelectorTerms/items/properties";
    bound(spec, term, OF_A_TERM);
}

/// Puts the bounds of a plan into the schema of its spec.
pub fn bound_plan(spec: &mut Value) {
    bound(spec, "/properties", OF_A_PLAN);
}

fn bound(schema: &mut Value, at: &str, bounds: &[(&str, &str, usize)]) {
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
    fn every_bound_has_its_place_in_the_schema() {
        let (task, plan) = (spec_schema(&PrewarmTask::crd()), spec_schema(&PrewarmPlan::crd()));
        let term = "/nodeAffinity/properties/nodeSelectorTerms/items/properties";
        let all = OF_A_TASK.iter().map(|(place, ..)| (&task, (*place).to_owned()));
        let all = all.chain(OF_A_TERM.iter().map(|(place, ..)| (&task, format!("{term}{place}"))));
        for (schema, place) in all.chain(OF_A_PLAN.iter().map(|(place, ..)| (&plan, (*place).to_owned()))) {
            assert!(schema.pointer(&format!("/properties{place}")).is_some(), "{place}");
        }
    }

    /// Fields that are added later must get a bound as well.
    #[test]
    fn nothing_in_a_spec_is_unbounded() {
        let (mut task, mut plan) = (spec_schema(&PrewarmTask::crd()), spec_schema(&PrewarmPlan::crd()));
        bound_task(&mut task);
        bound_plan(&mut plan);
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
    fn at_the_bound(#[case] fields: Value) {
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
    #[case(rules("matchExpressions", 21, 1, "v"), "spec.nodeAffinity.nodeSelectorTerms[0].matchExpressions", "20")]
    #[case(rules("matchExpressions", 20, 51, "v"), "spec.nodeAffinity.nodeSelectorTerms", "1000")]
    #[case(rules("matchFields", 1, 5001, "n"), "spec.nodeAffinity.nodeSelectorTerms", "5000")]
    #[case(rules("matchFields", 1, 5000, &"n".repeat(200)), "spec", "524288")]
    fn beyond_the_bound(#[case] fields: Value, #[case] field: &str, #[case] most: &str) {
        let problems = validate(&with(&fields)).unwrap_err();
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let named = problems.iter().any(|problem| problem.field == field && problem.reason.contains(most));
        assert!(named, "{texts:#?}");
        assert!(texts.iter().all(|text| text.len() < 1000), "messages are short: {texts:#?}");
    }
}
