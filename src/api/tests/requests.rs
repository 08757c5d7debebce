//! Tests of the decoding of requests against the `OpenAPI` document.

use prewarmer_core::task::NOTIFICATION_FORMATS;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    api::{
        decode::{KEYWORDS, TypeSchema},
        document, request, schedule_request,
    },
    notify::NotificationPolicy,
};

/// Returns each schema of a document that contains a keyword.
fn schemas_with<'a>(document: &'a Value, keyword: &str) -> Vec<&'a Value> {
    let own = document.get(keyword).map(|_| document);
    let parts: Vec<&Value> = match document {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    own.into_iter().chain(parts.into_iter().flat_map(|part| schemas_with(part, keyword))).collect()
}

/// Bodies are validated by the schemas that the document contains.
#[test]
fn bodies_are_validated_by_the_documented_schemas() {
    let served = document();
    let schema = TypeSchema::of::<schedule_request::ScheduleRequest>();
    let used = schema.document()["components"]["schemas"].as_object().unwrap();
    for name in ["ScheduleRequest", "TaskRequest", "NotifyRequest", "UrlSource", "Overlap"] {
        assert!(used.contains_key(name), "{name}");
    }
    for (name, schema) in used {
        assert_eq!(&served["components"]["schemas"][name], schema, "{name}");
    }
}

/// Returns the keywords of a schema and of its parts that are not known.
fn unknown_keywords(schema: &Value) -> Vec<String> {
    let Value::Object(fields) = schema else { return Vec::new() };
    let mut unknown: Vec<String> = Vec::new();
    for (keyword, value) in fields {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(named)) => {
                unknown.extend(named.values().flat_map(unknown_keywords));
            }
            ("oneOf", Value::Array(parts)) => {
                unknown.extend(parts.iter().flat_map(unknown_keywords));
            }
            ("items" | "additionalProperties" | "propertyNames", part) => {
                unknown.extend(unknown_keywords(part));
            }
            (known, _) if KEYWORDS.contains(&known) => {}
            (other, _) => unknown.push(other.to_owned()),
        }
    }
    unknown
}

/// A keyword that the validation does not know would be ignored.
#[test]
fn every_keyword_of_a_body_is_validated() {
    let schema = TypeSchema::of::<schedule_request::ScheduleRequest>();
    let used = schema.document()["components"]["schemas"].as_object().unwrap();
    let unknown: Vec<String> = used.values().flat_map(unknown_keywords).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn keywords_of_parts_are_checked() {
    let schema = json!({"oneOf": [{"items": {"properties": {"type": {"multipleOf": 2}}}}]});
    assert_eq!(unknown_keywords(&schema), ["multipleOf"]);
}

/// A pattern says little to a user.
#[test]
fn patterns_of_bodies_are_explained() {
    let schema = TypeSchema::of::<schedule_request::ScheduleRequest>();
    let patterns = schemas_with(schema.document(), "pattern");
    assert!(patterns.len() > 5, "{patterns:?}");
    let unexplained = patterns.iter().filter(|one| one["x-expected"].is_null());
    // Those of alternatives are explained together.
    let texts: Vec<&str> = unexplained.filter_map(|schema| schema["pattern"].as_str()).collect();
    let of_amounts = ["^(100|[1-9][0-9]?)%$", "^(all|auto|(100|[1-9][0-9]?)%|[1-9][0-9]{0,5})$"];
    assert_eq!(texts, of_amounts);
    let formats = NOTIFICATION_FORMATS;
    let (pattern, words) =
        (format!("^({})$", formats.join("|")), format!("one of {}", formats.join(", ")));
    let of_formats =
        patterns.iter().any(|one| one["pattern"] == pattern && one["x-expected"] == words);
    assert!(of_formats, "{patterns:?}");
}

fn amount() -> impl Strategy<Value = Value> {
    prop_oneof![
        (1..=100_u32).prop_map(Value::from),
        (1..=100_u32).prop_map(|n| json!(format!("{n}%")))
    ]
}

fn notification() -> impl Strategy<Value = Value> {
    let source = json!({"secretKeyRef": {"name": "hook", "key": "url"}});
    let address = prop_oneof![
        "[a-z]{1,8}".prop_map(|path| json!({"url": format!("https://hooks.example.com/{path}")})),
        Just(json!({"urlFrom": source})),
    ];
    let format = prop::option::of(prop::sample::select(NOTIFICATION_FORMATS.to_vec()));
    (address, format, prop::option::of("[a-z]{1,8}")).prop_map(|(mut one, format, secret)| {
        one["format"] = json!(format);
        one["secret"] = json!(secret);
        one
    })
}

fn valid_request() -> impl Strategy<Value = Value> {
    let duration = || prop::option::of((1..=59_u32).prop_map(|minutes| format!("{minutes}m")));
    let placement = (
        prop::collection::btree_set("[a-z]{1,8}:[0-9]{1,3}", 1..4),
        prop::option::of(amount()),
        prop::option::of(amount()),
        prop::option::of(prop::collection::btree_map("[a-z]{1,8}", "[a-z]{0,8}", 0..3)),
        prop::option::of(prop::sample::select(vec!["Barrier", "Rolling", "Doubling"])),
    );
    let retries = (
        prop::option::of(0..=5_u32),
        prop::option::of(prop::sample::select(vec!["linear", "exponential"])),
        prop::option::of(0..=86_400_u32),
        prop::option::of(1..=10_u32),
    );
    let others = (
        duration(),
        duration(),
        prop::option::of(prop::collection::vec("[a-z]{1,8}", 0..3)),
        prop::option::of(prop::sample::select(vec!["Job", "Pod"])),
        prop::option::of(prop::collection::vec(notification(), 0..3)),
        prop::option::of((0..=100_u32).prop_map(|n| format!("{n}%"))),
    );
    (placement, retries, others).prop_map(|(placement, retries, others)| {
        let (images, nodes, batch_size, labels, policy) = placement;
        let (limit, strategy, delay, priority) = retries;
        let (timeout, retain, secrets, worker, notify, threshold) = others;
        json!({"images": images, "nodes": nodes, "batchSize": batch_size, "nodeSelector": labels,
            "batchPolicy": policy, "maxRetries": limit, "retryStrategy": strategy, "retryDelay": delay,
            "priority": priority, "timeout": timeout, "retain": retain, "imagePullSecrets": secrets,
            "worker": worker, "notify": notify, "successThreshold": threshold})
    })
}

proptest! {
    /// The view of a spec as a request is a valid request of the same spec.
    #[test]
    fn valid_requests_survive_a_round_trip(body in valid_request()) {
        let guard = NotificationPolicy::default();
        let first = request::parse(body.clone(), &guard);
        prop_assert!(first.is_ok(), "{first:?}");
        let spec = first.unwrap().spec;
        let written = serde_json::to_value(request::TaskRequest::from_spec(&spec, "shop")).unwrap();
        prop_assert_eq!(&request::parse(written.clone(), &guard).unwrap().spec, &spec);
        let schedule = json!({"cronExpr": "@daily", "taskConfig": written});
        let parsed = schedule_request::parse(schedule, &guard).unwrap();
        prop_assert_eq!(&parsed.spec.task_template.spec, &spec);
        // Each field that was set is in the request that is written.
        for (name, value) in body.as_object().unwrap() {
            let is_kept = ["images", "nodes", "batchSize", "nodeSelector", "batchPolicy", "priority",
                "timeout", "retain", "imagePullSecrets", "worker", "successThreshold"].contains(&name.as_str());
            prop_assert!(value.is_null() || !is_kept || &written[name] == value, "{name}: {written}");
        }
    }
}
