//! What must hold for any input. Shared by the fuzz targets, and by the test that replays their corpus.

use std::{collections::BTreeMap, sync::LazyLock};

use prewarmer::{
    image::Reference,
    surroundings::Surroundings,
    task::Amount,
    webhook::rehearse,
    workload::{Kind, Kinds, Policy, Verdict},
};
use serde_json::json;

const NAMES: [&str; 8] =
    ["enabled", "images", "exclude-containers", "nodes", "batch-size", "priority", "timeout", "stranger"];
/// Longest answer: ten warnings of 240 characters, or the mistakes of a task, of which the text is cut.
const MAX_ANSWER: usize = 1 << 20;

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let further = ["a.b/v1/C=spec.template", "a.b/v1/D=spec.list[*].template"];
    let further = further.iter().filter_map(|text| Kind::parse(text).ok()).collect();
    Policy { kinds: Kinds::with(further), ..Policy::default() }
});

/// Bytes as the webhook gets them: a review of a workload or a task, or anything else.
pub fn review(bytes: &[u8]) {
    for answer in rehearse(bytes, &POLICY, &Surroundings::default()) {
        assert!(answer.len() < MAX_ANSWER, "an answer of {} bytes", answer.len());
    }
}

/// A text as an image reference.
pub fn reference(text: &str) {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.as_written(), text.trim());
        let again = reference.normalized().parse::<Reference>();
        assert_eq!(again.as_ref(), Ok(&reference), "the full form is the same reference");
        assert!(!reference.registry().is_empty() && !reference.repository().is_empty());
    }
}

/// Lines as values of annotations, on template, workload and namespace.
pub fn annotations(text: &str) {
    let mut layers = [(); 3].map(|()| BTreeMap::new());
    for (n, line) in text.lines().take(3 * NAMES.len()).enumerate() {
        layers[n / NAMES.len()].insert(format!("prewarm.io/{}", NAMES[n % NAMES.len()]), line.to_owned());
    }
    let [template, workload, namespace] = layers;
    let around = Surroundings::default();
    around.set_namespace("shop", namespace);
    let Some(kind) = POLICY.kinds.find("apps/v1", "Deployment") else { unreachable!("a built-in kind") };
    let spec = json!({"containers": [{"name": "c", "image": "nginx"}]});
    let object = json!({"metadata": {"name": "web", "annotations": workload},
        "spec": {"replicas": 3, "template": {"metadata": {"annotations": template}, "spec": spec}}});
    let view = kind.read_value(object).unwrap_or_default();
    let (verdict, warnings) = POLICY.consider(kind, &view, "shop", &around);
    assert!(warnings.len() <= 200, "{} warnings", warnings.len());
    assert!(!matches!(verdict, Verdict::Ignored(_)), "{verdict:?}");
    for workload in verdict.workloads() {
        let options = &workload.options;
        assert!(workload.images.len() <= 101 && (1..=10).contains(&options.priority), "{workload:?}");
        assert!(!matches!(options.nodes, Amount::Count(0)), "{workload:?}");
        assert!(!matches!(options.batch_size, Amount::Count(0 | 101..)), "{workload:?}");
    }
}
