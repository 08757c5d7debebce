//! Tests of `table.yaml`, which maps manifests to expected results, and of inputs that are too
//! unusual or too large for it.

use std::{collections::BTreeSet, fmt::Write};

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::task::Amount;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    kinds: String,
    #[serde(default)]
    mode: String,
    #[serde(default, rename = "oneShot")]
    one_shot: String,
    #[serde(default)]
    around: Vec<Value>,
    manifest: Value,
    /// Reports whether the manifest is not a workload.
    #[serde(default)]
    skipped: bool,
    /// Workload as `Kind/name`, where it is not the object itself.
    identity: Option<String>,
    #[serde(default)]
    more: Vec<Expected>,
    #[serde(flatten)]
    expected: Expected,
}

#[derive(Deserialize)]
struct Expected {
    #[serde(default = "wanted")]
    verdict: String,
    reason: Option<String>,
    #[serde(default)]
    images: Vec<String>,
    #[serde(default, rename = "pullPolicies")]
    pull_policies: Value,
    #[serde(default, rename = "neverPulled")]
    never_pulled: Vec<String>,
    #[serde(default)]
    placement: Value,
    #[serde(default)]
    credentials: Value,
    nodes: Option<Amount>,
    #[serde(default)]
    warnings: Vec<String>,
}

fn wanted() -> String {
    "wanted".into()
}

fn policy_of_case(case: &Case) -> Policy {
    let further = case
        .kinds
        .split(',')
        .filter(|text| !text.is_empty())
        .map(|text| WorkloadKind::parse(text).unwrap());
    Policy {
        default_mode: if case.mode == "OptIn" { DefaultMode::OptIn } else { DefaultMode::OptOut },
        one_shot: if case.one_shot == "Warm" { OneShotMode::Warm } else { OneShotMode::Skip },
        excluded_namespaces: BTreeSet::from(["kube-system".to_owned()]),
        kinds: WorkloadKinds::with_custom(further.collect()),
        ..Policy::default()
    }
}

/// Returns a policy that warms one-shot pods too.
fn warming_all() -> Policy {
    Policy { one_shot: OneShotMode::Warm, ..Policy::default() }
}

fn load_cases() -> Vec<Case> {
    // `serde(flatten)` prevents `deny_unknown_fields` on `Expected`; `Case` is deserialized as one
    // struct.
    let values: Vec<Value> = serde_saphyr::from_str(include_str!("table.yaml")).unwrap();
    values.into_iter().map(|value| Case::deserialize(value).unwrap()).collect()
}

/// Returns an empty object for `null`.
fn null_as_empty_object(value: &Value) -> Value {
    if value.is_null() { json!({}) } else { value.clone() }
}

fn assert_extracted(name: &str, found: &Extracted, expected: &Expected) {
    assert_eq!(found.verdict, expected.verdict, "{name}: {found:?}");
    assert_eq!(found.reason, expected.reason.as_deref(), "{name}");
    assert_eq!(found.images, expected.images, "{name}");
    assert_eq!(found.never_pulled, expected.never_pulled, "{name}");
    assert_eq!(
        serde_json::to_value(&found.pull_policies).unwrap(),
        null_as_empty_object(&expected.pull_policies),
        "{name}"
    );
    assert_eq!(
        serde_json::to_value(&found.placement).unwrap(),
        null_as_empty_object(&expected.placement),
        "{name}"
    );
    assert_eq!(
        serde_json::to_value(&found.credentials).unwrap(),
        null_as_empty_object(&expected.credentials),
        "{name}"
    );
    let nodes =
        (found.verdict == "wanted").then(|| expected.nodes.clone().unwrap_or(Amount::Count(100)));
    assert_eq!(found.nodes, nodes, "{name}");
    let agree = found.warnings.len() == expected.warnings.len()
        && found
            .warnings
            .iter()
            .zip(&expected.warnings)
            .all(|(warning, start)| warning.starts_with(start));
    assert!(agree, "{name}: {:#?}", found.warnings);
}

#[test]
fn manifests_of_the_table() {
    let cases = load_cases();
    assert!(cases.len() >= 100, "{}", cases.len());
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have the same name");
    for case in &cases {
        let documents: Vec<String> =
            case.around.iter().chain([&case.manifest]).map(ToString::to_string).collect();
        let read = extract_documents(&documents.join("\n---\n"), &policy_of_case(case), "default");
        let Extraction { workloads: found, skipped, errors, .. } = read.unwrap();
        assert_eq!(errors, [], "{}", case.name);
        assert_eq!(skipped.len(), case.around.len() + usize::from(case.skipped), "{}", case.name);
        if case.skipped {
            assert_eq!(found, [], "{}", case.name);
            continue;
        }
        assert_eq!(found.len(), 1 + case.more.len(), "{}", case.name);
        for (found, expected) in found.iter().zip([&case.expected].into_iter().chain(&case.more)) {
            assert_extracted(&case.name, found, expected);
        }
    }
}

/// Compares the parsers of the webhook (text) and of the watch (parsed JSON).
#[test]
fn text_and_value_parsers_agree() {
    for case in load_cases().iter().filter(|case| !case.skipped && case.around.is_empty()) {
        let policy = policy_of_case(case);
        let word = |field: &str| case.manifest[field].as_str().unwrap();
        let kind = policy.kinds.find_by_api_version(word("apiVersion"), word("kind")).unwrap();
        let namespace = case.manifest["metadata"]["namespace"].as_str().unwrap_or("default");
        let by_text = kind.parse_text(&case.manifest.to_string()).unwrap();
        let by_value = kind.parse_value(case.manifest.clone()).unwrap();
        let consider = |view: &ObjectView| policy.evaluate(kind, view, namespace, &EmptyContext);
        assert_eq!(consider(&by_text), consider(&by_value), "{}", case.name);
        let (verdict, _) = consider(&by_text);
        if let (Some(identity), [first, ..]) = (&case.identity, verdict.workloads().as_slice()) {
            assert_eq!(*identity, format!("{}/{}", first.kind, first.name), "{}", case.name);
        }
    }
}

#[test]
fn evaluates_an_object_of_one_megabyte() {
    let mut annotations = String::new();
    for n in 0..10_000 {
        write!(annotations, "\"example.io/{n}\": \"{}\",", "x".repeat(80)).unwrap();
    }
    let env = json!(
        (0..2000)
            .map(|n| json!({"name": format!("E{n}"), "value": "v".repeat(100)}))
            .collect::<Vec<_>>()
    );
    let text = format!(
        r#"{{"metadata": {{"name": "web", "annotations": {{{annotations} "prewarm.io/priority": "3"}}}},
            "spec": {{"template": {{"spec": {{"containers": [{{"name": "a", "image": "a:1", "env": {env}}}]}}}}}}}}"#
    );
    assert!(text.len() > 1 << 20);
    let policy = Policy::default();
    let kind = policy.kinds.find_by_api_version("apps/v1", "Deployment").unwrap();
    let view = kind.parse_text(&text).unwrap();
    let (verdict, warnings) = policy.evaluate(kind, &view, "shop", &EmptyContext);
    let workload = verdict.workloads().remove(0);
    assert_eq!((workload.images.len(), workload.options.priority, warnings.len()), (1, 3, 0));
}

#[test]
fn evaluates_300_containers() {
    let containers: Vec<Value> =
        (0..300).map(|n| json!({"name": format!("c{n}"), "image": format!("a:{n}")})).collect();
    let policy = warming_all();
    let kind = policy.kinds.find_by_api_version("v1", "Pod").unwrap();
    let view = kind
        .parse_value(json!({"metadata": {"name": "p"}, "spec": {"containers": containers}}))
        .unwrap();
    let (verdict, _) = policy.evaluate(kind, &view, "shop", &EmptyContext);
    assert_eq!(verdict.workloads()[0].images.len(), 300);
}

#[test]
fn malformed_objects_are_ignored() {
    let policy = Policy::default();
    let kind = policy.kinds.find_by_api_version("apps/v1", "Deployment").unwrap();
    for text in [
        "",
        "[]",
        "7",
        r#"{"spec": []}"#,
        r#"{"spec": {"template": [1]}}"#,
        r#"{"metadata": {"name": 7}}"#,
    ] {
        let view = kind.parse_text(text).unwrap_or_default();
        let (verdict, _) = policy.evaluate(kind, &view, "shop", &EmptyContext);
        assert_eq!(verdict, WarmDecision::Ignored("no pod template"), "{text}");
    }
}

#[test]
fn rewritten_images_are_matched_by_container() {
    let policy = Policy::default();
    let of = |kind: &str, api_version: &str, object: Value| {
        policy.kinds.find_by_api_version(api_version, kind).unwrap().parse_value(object).unwrap()
    };
    let containers =
        |image: &str| json!([{"name": "a", "image": image}, {"name": "b", "image": "same:1"}]);
    let deployment = of(
        "Deployment",
        "apps/v1",
        json!({"spec": {"template": {"spec": {"containers": containers("a:1")}}}}),
    );
    let pod = |image: &str| {
        let mut list = containers(image);
        list.as_array_mut().unwrap().push(json!({"name": "injected", "image": "proxy:1"}));
        of("Pod", "v1", json!({"spec": {"containers": list}}))
    };
    assert_eq!(rewritten_images(&deployment, &pod("docker.io/library/a:1")), []);
    let expected = ("a:1".to_owned(), "mirror.example/a:1".to_owned());
    assert_eq!(rewritten_images(&deployment, &pod("mirror.example/a:1")), [expected]);
}

#[test]
fn images_are_deduplicated_in_linear_time_and_limited() {
    let policy = warming_all();
    let kind = policy.kinds.find_by_api_version("v1", "Pod").unwrap();
    let read = |containers: Vec<String>, init: Vec<String>| {
        let text = format!(
            r#"{{"metadata":{{"name":"p"}},"spec":{{"containers":[{}],"initContainers":[{}]}}}}"#,
            containers.join(","),
            init.join(",")
        );
        let view = kind.parse_text(&text).unwrap();
        policy.evaluate(kind, &view, "shop", &EmptyContext)
    };
    let images = |from: usize, to: usize| {
        (from..to).map(|n| format!(r#"{{"image":"i{n}"}}"#)).collect::<Vec<_>>()
    };
    let begun = std::time::Instant::now();
    let (verdict, warnings) = read(images(0, 400_000), Vec::new());
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(verdict.workloads()[0].images.len(), MAX_IMAGES);
    assert!(warnings[0].contains("more than 1000 containers"), "{warnings:?}");
    let (verdict, warnings) = read(images(0, 600), images(600, 1100));
    assert_eq!(verdict.workloads()[0].images.len(), MAX_IMAGES);
    assert_eq!(warnings, ["prewarmer: more than 1000 images: 100 further images are not warmed"]);
    let same: Vec<String> = (0..900)
        .map(|n| {
            format!(
                r#"{{"image":"{}i{}"}}"#,
                if n % 2 == 0 { "" } else { "docker.io/library/" },
                n / 2 % 20
            )
        })
        .collect();
    let (verdict, warnings) = read(same, Vec::new());
    assert_eq!((verdict.workloads()[0].images.len(), warnings.len()), (20, 0));
}

#[test]
fn owner_reference_cannot_claim_a_known_kind() {
    let policy = warming_all();
    let kind = policy.kinds.find_by_api_version("v1", "Pod").unwrap();
    let of = |owner: &str| {
        let pod = json!({"metadata": {"name": "p", "ownerReferences": [
            {"apiVersion": "evil.example/v1", "kind": owner, "name": "web", "uid": "u", "controller": true}]},
            "spec": {"containers": [{"name": "c", "image": "a:1"}]}});
        let view = kind.parse_value(pod).unwrap();
        let (verdict, _) = policy.evaluate(kind, &view, "shop", &EmptyContext);
        let workload = verdict.workloads().remove(0);
        format!("{}/{}", workload.kind, workload.name)
    };
    assert_eq!(of("SparkApplication"), "SparkApplication/web");
    assert_eq!(of("Deployment"), "Pod/p");
}

/// Inputs that are small as text and would be large in memory.
#[test]
fn oversized_values_are_not_allocated() {
    let policy = Policy {
        kinds: WorkloadKinds::with_custom(vec![
            WorkloadKind::parse("a.b/v1/C=spec.list[*].template").unwrap(),
        ]),
        ..Policy::default()
    };
    let zeros = format!("[{}0]", "0,".repeat(200_000));
    for (api_version, kind, text) in [
        (
            "apps/v1",
            "Deployment",
            format!(r#"{{"spec":{{"replicas":{zeros},"selector":{zeros},"template":{{}}}}}}"#),
        ),
        (
            "apps/v1",
            "Deployment",
            format!(r#"{{"spec":{{"selector":{{"matchLabels":{zeros}}},"template":{{}}}}}}"#),
        ),
        ("a.b/v1", "C", format!(r#"{{"spec":{{"other":{zeros},"list":{zeros}}}}}"#)),
    ] {
        let kind = policy.kinds.find_by_api_version(api_version, kind).unwrap();
        let _ = kind.parse_text(&text);
    }
    let kind = policy.kinds.find_by_api_version("a.b/v1", "C").unwrap();
    let item = r#"{"replicas":2,"template":{"spec":{"containers":[{"image":"a:1"}]}}}"#;
    let text = format!(r#"{{"spec":{{"list":[{}]}}}}"#, vec![item; 150].join(","));
    let (verdict, warnings) =
        policy.evaluate(kind, &kind.parse_text(&text).unwrap(), "shop", &EmptyContext);
    assert_eq!(verdict.workloads().len(), 100);
    assert!(warnings[0].contains("100 pod templates"), "{warnings:?}");
    let terms = vec![r#"{"matchExpressions":[{"key":"a","operator":"Exists"}]}"#; 5000].join(",");
    let affinity = format!(
        r#"{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{terms}]}}}}}}"#
    );
    let kind = policy.kinds.find_by_api_version("v1", "Pod").unwrap();
    assert!(kind.parse_text(&format!(r#"{{"spec":{{"affinity":{affinity}}}}}"#)).is_err());
}
