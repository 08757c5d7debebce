//! Short form of fuzzing: replays the corpus and tries random inputs.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "fuzz/checks/mod.rs"]
mod checks;

use std::{fs, path::Path};

use prewarmer_core::admission::AdmissionReview;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Reads the corpus files of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files: Vec<Vec<u8>> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(!files.is_empty(), "the corpus of {target} is missing");
    files
}

/// Fragments that are not requests end in the parser, and test nothing after it.
#[test]
fn most_reviews_of_the_corpus_are_requests() {
    let corpus = corpus("review");
    let requests = corpus.iter().filter(|bytes| AdmissionReview::parse(bytes).is_ok()).count();
    assert!(requests >= 50 && requests * 10 >= corpus.len() * 9, "{requests} of {}", corpus.len());
}

/// A recorded review with a hundred containers of 20 long variables each.
#[test]
fn review_of_a_megabyte_is_answered() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/review");
    let bytes = fs::read(folder.join("create-deployment-web.json")).unwrap();
    let mut review: Value = serde_json::from_slice(&bytes).unwrap();
    let containers = review
        .pointer_mut("/request/object/spec/template/spec/containers")
        .and_then(Value::as_array_mut)
        .unwrap();
    let variable = json!({"name": "V", "value": "0".repeat(400)});
    containers[0]["env"] = Value::Array(vec![variable; 20]);
    *containers = (0..100)
        .map(|n| {
            let mut container = containers[0].clone();
            container["name"] = json!(format!("c{n}"));
            container["image"] = json!(format!("registry.example/shop/large-{n}:1"));
            container
        })
        .collect();
    let large = review.to_string();
    assert!(large.len() > 800_000, "{} bytes", large.len());
    checks::review(large.as_bytes());
}

#[test]
fn corpus_is_replayed() {
    for bytes in corpus("review") {
        checks::review(&bytes);
    }
    for bytes in corpus("reference") {
        checks::reference(&String::from_utf8_lossy(&bytes));
    }
    for bytes in corpus("annotations") {
        checks::annotations(&String::from_utf8_lossy(&bytes));
    }
    for bytes in corpus("manifest") {
        checks::manifest(&bytes);
    }
    for bytes in corpus("rest") {
        checks::rest(&bytes);
    }
    for bytes in corpus("audit") {
        checks::audit(&bytes);
    }
    for bytes in corpus("reconcile") {
        checks::reconcile(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Mutates some bytes of a review from the corpus.
    #[test]
    fn mutated_reviews(at in any::<prop::sample::Index>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
        let corpus = corpus("review");
        let mut bytes = corpus[at.index(corpus.len())].clone();
        for (place, byte) in changes {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        checks::review(&bytes);
    }

    #[test]
    fn random_references(text in r"([a-zA-Z0-9.\[\]:-]{0,20}/)?[a-z0-9/._-]{0,30}(:[\w.]{0,20})?(@sha(256|512):[0-9a-f]{0,130})?|\PC{0,40}") {
        checks::reference(&text);
    }

    /// Runs one reconcile over tasks, nodes, workers and plans with arbitrary contents.
    #[test]
    fn reconcile_of_random_state(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        checks::reconcile(&bytes);
    }

    #[test]
    fn random_annotations(lines in prop::collection::vec(r"(true|false|auto|all|[0-9]{1,12}%?|[0-9]{0,5}(ms|s|m|h)|[a-z:/,]{0,30}|\PC{0,20})", 0..24)) {
        checks::annotations(&lines.join("\n"));
    }
}
