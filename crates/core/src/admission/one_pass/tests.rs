//! Tests of reading a review in one pass, compared with parsing its objects from their texts.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    admission::{decide_workload, serialize_answer},
    intake::Hint,
    workload::{EmptyContext, WorkloadKind},
};

fn policy() -> Policy {
    let custom = "example.com/v1/Web=spec.parts[*].template";
    let kinds = vec![WorkloadKind::parse(custom).unwrap()];
    Policy {
        kinds: crate::workload::WorkloadKinds::with_custom(kinds),
        excluded_namespaces: ["kube-system".to_owned()].into(),
        ..Policy::default()
    }
}

/// Returns the answer and the identity of the hint, with the hint.
fn decision(review: &AdmissionReview<'_>, policy: &Policy) -> (String, Option<Hint>) {
    let (verdict, hint) = decide_workload(review, policy, &EmptyContext, usize::MAX).unwrap();
    let answer = String::from_utf8(serialize_answer(review, &verdict)).unwrap();
    let identity = hint.as_ref().map(|hint| (hint.kind.kind.clone(), hint.name.clone()));
    (format!("{verdict:?} {answer} {identity:?}"), hint)
}

#[track_caller]
fn assert_same(text: &str) {
    let policy = policy();
    let slow = AdmissionReview::parse(text.as_bytes()).unwrap();
    let fast = AdmissionReview::parse_workload(text.as_bytes(), &policy).unwrap();
    let ((expected, hint), (found, same)) = (decision(&slow, &policy), decision(&fast, &policy));
    assert_eq!(found, expected);
    let is_equal = match (hint, same) {
        (Some(hint), Some(same)) => hint.is_equal_hint(&same),
        (hint, same) => hint.is_none() && same.is_none(),
    };
    assert!(is_equal, "another hint for {text}");
}

fn deployment(image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "7",
            "labels": {"a\"b": "c", "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"prewarm.io/priority": "7", "other": "\u{1F600}\n"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"spec": {"containers": [
                {"name": "c", "image": image, "imagePullPolicy": "Always"}]}}}})
}

fn review(operation: &str, object: &Value, old: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "r-1", "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "namespace": "shop", "operation": operation, "object": object, "oldObject": old}})
}

/// Returns the review with the fields of the request in this order.
fn in_order(review: &Value, fields: &[&str]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|name| format!("{name:?}:{}", review["request"][name])).collect();
    format!(
        r#"{{"request":{{{}}},"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}}"#,
        fields.join(",")
    )
}

const API_SERVER: [&str; 6] = ["uid", "kind", "namespace", "operation", "object", "oldObject"];

#[test]
fn recorded_reviews_are_read_alike() {
    let (folder, mut count) =
        (concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/review"), 0);
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if let Ok(text) = std::fs::read_to_string(&file)
            && AdmissionReview::parse(text.as_bytes()).is_ok()
        {
            assert_same(&text);
            count += 1;
        }
    }
    assert!(count >= 40, "{count} reviews in {folder}");
}

#[test]
fn order_of_fields_does_not_matter() {
    let update = review("UPDATE", &deployment("app:2"), &deployment("app:1"));
    assert_same(&in_order(&update, &API_SERVER));
    assert_same(&in_order(
        &update,
        &["oldObject", "object", "operation", "namespace", "kind", "uid"],
    ));
    assert_same(&in_order(
        &update,
        &["uid", "kind", "namespace", "operation", "oldObject", "object"],
    ));
    assert_same(&in_order(
        &update,
        &["object", "kind", "namespace", "operation", "oldObject", "uid"],
    ));
}

#[test]
fn objects_in_the_order_of_the_api_server_are_parsed_at_once() {
    let update = review("UPDATE", &deployment("app:2"), &deployment("app:1"));
    let text = in_order(&update, &API_SERVER);
    let read = read_in_one_pass(text.as_bytes(), &policy()).unwrap();
    assert!(matches!(read.request.object, ReviewedValue::View(_)));
    assert!(matches!(read.request.old_object, ReviewedValue::View(_)));
}

#[rstest]
#[case::sub_resource("subResource", json!("scale"))]
#[case::excluded_namespace("namespace", json!("kube-system"))]
#[case::deletion("operation", json!("DELETE"))]
#[case::other_kind("kind", json!({"group": "", "version": "v1", "kind": "ConfigMap"}))]
fn objects_that_are_not_handled_are_skipped(#[case] field: &str, #[case] value: Value) {
    let mut update = review("UPDATE", &deployment("app:2"), &deployment("app:1"));
    update["request"][field] = value;
    let mut fields = vec!["uid", "kind", "namespace", "operation", "object", "oldObject"];
    if field == "subResource" {
        fields.insert(2, field);
    }
    let text = in_order(&update, &fields);
    assert_same(&text);
    let read = read_in_one_pass(text.as_bytes(), &policy()).unwrap();
    assert!(matches!(read.request.object, ReviewedValue::Absent));
    assert!(matches!(read.request.old_object, ReviewedValue::Absent));
}

#[test]
fn the_old_object_of_an_ignored_one_is_skipped() {
    let mut object = deployment("app:2");
    object["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job",
        "name": "j", "controller": true}]);
    let text = in_order(&review("UPDATE", &object, &deployment("app:1")), &API_SERVER);
    assert_same(&text);
    let read = read_in_one_pass(text.as_bytes(), &policy()).unwrap();
    assert!(matches!(read.request.object, ReviewedValue::View(_)));
    assert!(matches!(read.request.old_object, ReviewedValue::Absent));
}

#[rstest]
#[case::null(json!(null))]
#[case::text(json!("x"))]
#[case::invalid_name(json!({"metadata": {"name": 7}}))]
#[case::invalid_image(json!({"metadata": {"name": "web", "uid": "u"},
    "spec": {"template": {"spec": {"containers": [{"image": {"a": 1}}]}}}}))]
#[case::null_fields(json!({"metadata": null, "spec": null}))]
fn invalid_objects_are_decided_alike(#[case] object: Value) {
    for (new, old) in [(&object, &json!(null)), (&deployment("app:1"), &object)] {
        assert_same(&in_order(&review("UPDATE", new, old), &API_SERVER));
    }
}

#[test]
fn objects_of_configured_kinds_are_read_alike() {
    let object = json!({"metadata": {"name": "web", "uid": "u"}, "spec": {"replicas": 2,
        "parts": [{"template": {"spec": {"containers": [{"name": "c", "image": "app:1"}]}}}]}});
    let mut create = review("CREATE", &object, &json!(null));
    create["request"]["kind"] = json!({"group": "example.com", "version": "v1", "kind": "Web"});
    let text = in_order(&create, &API_SERVER);
    assert_same(&text);
    let read = read_in_one_pass(text.as_bytes(), &policy()).unwrap();
    assert_eq!(decision(&read, &policy()).1.unwrap().new_keys().unwrap().len(), 1);
}

#[rstest]
#[case::repeated_object(r#""object":null"#)]
#[case::repeated_uid(r#""uid":"r-2""#)]
fn repeated_fields_are_refused_with_the_same_error(#[case] field: &str) {
    let text = in_order(&review("CREATE", &deployment("app:1"), &json!(null)), &API_SERVER);
    let text = text.replacen(r#"{"uid""#, &format!(r#"{{{field},"uid""#), 1);
    let slow = AdmissionReview::parse(text.as_bytes()).unwrap_err().to_string();
    let fast = AdmissionReview::parse_workload(text.as_bytes(), &policy()).unwrap_err();
    assert!(slow.contains("duplicate field"), "{slow}");
    assert_eq!(fast.to_string(), slow);
}

#[test]
fn text_after_a_review_is_refused() {
    let text = in_order(&review("CREATE", &deployment("app:1"), &json!(null)), &API_SERVER) + "{}";
    assert!(AdmissionReview::parse_workload(text.as_bytes(), &policy()).is_err());
}
