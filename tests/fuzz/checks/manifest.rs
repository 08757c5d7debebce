//! Manifests, as `prewarmer extract` and `POST /tasks:extract` read them.

use prewarmer_core::workload::{
    EmptyContext, ExtractError, Extraction, ManifestLimits, ParsedManifest,
};
use serde_json::Value;
use serde_saphyr::NonFiniteFloatPolicy;

use super::POLICY;

/// Namespace of the pods around the text, which no manifest of the corpus changes the context of.
const NAMESPACE: &str = "around-the-text";
/// Upper bound of the length of a finding, in bytes: the longest path and the longest message.
const MAX_FINDING: usize = 64 * 1024;

/// Reads a manifest with the limits of a server, and returns what was extracted. `None` when a limit
/// on the whole manifest is exceeded; that of the time must not be.
fn read(bytes: &[u8]) -> Option<Extraction> {
    let mut manifest = ParsedManifest::new(ManifestLimits::SERVER);
    let read = manifest.read("", bytes, &POLICY.kinds);
    let read = read.and_then(|()| manifest.extract(&POLICY, &EmptyContext, "default"));
    assert!(!matches!(read, Err(ExtractError::TooSlow(_))), "{} bytes took too long", bytes.len());
    read.ok()
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{containers: [{{name: c, image: '{name}:1'}}]}}\n"
    )
}

/// Checks bytes as a manifest. What cannot be read is named and costs only its own document, the
/// result is the same each time, and a document in JSON is read as in YAML.
pub fn manifest(bytes: &[u8]) {
    if let Some(found) = read(bytes) {
        assert_eq!(read(bytes).as_ref(), Some(&found), "another result");
        for finding in found.errors.iter().map(ToString::to_string) {
            assert!(finding.starts_with("document "), "{finding}");
            assert!(finding.len() <= MAX_FINDING, "a finding of {} bytes", finding.len());
        }
        for workload in &found.workloads {
            assert_eq!(!workload.specs.is_empty(), !workload.images.is_empty(), "{workload:?}");
            assert!(workload.images.is_empty() || workload.verdict == "wanted", "{workload:?}");
        }
        compare_json(bytes, &found);
    }
    let text = String::from_utf8_lossy(bytes);
    // A directive belongs to the document after it.
    if text.lines().any(|line| line.starts_with('%')) {
        return;
    }
    let around = format!("{}---\n{text}\n---\n{}", pod("first"), pod("last"));
    if let Some(found) = read(around.as_bytes()) {
        let images = found.workloads.iter().filter(|one| one.namespace == NAMESPACE);
        let images: Vec<&str> = images.flat_map(|one| &one.images).map(String::as_str).collect();
        assert!(images.starts_with(&["first:1"]) && images.ends_with(&["last:1"]), "{images:?}");
    }
}

/// Checks that a document that YAML was read from has the same workloads as JSON.
fn compare_json(bytes: &[u8], found: &Extraction) {
    let single = found.errors.is_empty() && found.warnings.is_empty();
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Lines that separate documents, and JSON objects, which may follow one another.
    if !single || text.contains("---") || text.contains("...") || text.trim_start().starts_with('{')
    {
        return;
    }
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    let json = serde_saphyr::from_str_with_options::<Value>(text, options);
    let Some(json) = json.ok().filter(Value::is_object) else { return };
    let Some(again) = read(json.to_string().as_bytes()) else { return };
    assert_eq!(again.workloads, found.workloads, "{json}");
    assert_eq!(again.skipped, found.skipped, "{json}");
    assert_eq!(again.errors, Vec::new(), "{json}");
}
