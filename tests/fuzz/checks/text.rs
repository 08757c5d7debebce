//! Image references and annotations.

use std::collections::BTreeMap;

use prewarmer::cluster_context::ClusterContextStore;
use prewarmer_core::{
    image::{ImageRef, ImageRefError},
    task::Amount,
    workload::WarmDecision,
};
use serde_json::json;

use super::POLICY;

const NAMES: [&str; 8] = [
    "enabled",
    "images",
    "exclude-containers",
    "nodes",
    "batch-size",
    "priority",
    "timeout",
    "unknown",
];

/// Checks a text as an image reference. The parser accepts what the regular expression of the
/// distribution project accepts, with the same meaning, except letters of other alphabets in tags,
/// which are a defect of the expression.
pub fn reference(text: &str) {
    let parsed = text.parse::<ImageRef>();
    match text.trim().parse::<oci_spec::distribution::Reference>() {
        Err(_) => assert!(parsed.is_err(), "{parsed:?}"),
        Ok(expected) => match &parsed {
            Ok(reference) => assert_eq!(reference.normalized(), expected.whole()),
            Err(ImageRefError::Grammar(_)) => assert!(!text.is_ascii(), "{text:?} was rejected"),
            Err(_) => {}
        },
    }
    if let Ok(reference) = parsed {
        assert_eq!(reference.as_written(), text.trim());
        let again = reference.normalized().parse::<ImageRef>();
        assert_eq!(again.as_ref(), Ok(&reference), "the normalized form is the same reference");
        assert!(!reference.registry().is_empty() && !reference.repository().is_empty());
    }
}

/// Checks lines of a text as values of annotations on pod template, workload and namespace.
pub fn annotations(text: &str) {
    let mut layers = [(); 3].map(|()| BTreeMap::new());
    for (n, line) in text.lines().take(3 * NAMES.len()).enumerate() {
        layers[n / NAMES.len()]
            .insert(format!("prewarm.io/{}", NAMES[n % NAMES.len()]), line.to_owned());
    }
    let [template, workload, namespace] = layers;
    let around = ClusterContextStore::default();
    around.set_namespace_annotations("shop", namespace);
    let Some(kind) = POLICY.kinds.find_by_api_version("apps/v1", "Deployment") else {
        unreachable!("a built-in kind")
    };
    let spec = json!({"containers": [{"name": "c", "image": "nginx"}]});
    let object = json!({"metadata": {"name": "web", "annotations": workload},
        "spec": {"replicas": 3, "template": {"metadata": {"annotations": template}, "spec": spec}}});
    let view = kind.parse_value(object).unwrap_or_default();
    let (verdict, warnings) = POLICY.evaluate(kind, &view, "shop", &around);
    assert!(warnings.len() <= 200, "{} warnings", warnings.len());
    assert!(!matches!(verdict, WarmDecision::Ignored(_)), "{verdict:?}");
    for workload in verdict.workloads() {
        let options = &workload.options;
        assert!(
            workload.images.len() <= 101 && (1..=10).contains(&options.priority),
            "{workload:?}"
        );
        assert!(!matches!(options.nodes, Amount::Count(0)), "{workload:?}");
        assert!(!matches!(options.batch_size, Amount::Count(0 | 101..)), "{workload:?}");
    }
}
