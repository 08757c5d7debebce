//! Admission reviews.

use prewarmer::cluster_context::ClusterContextStore;
use prewarmer_core::admission::{AdmissionReview, decide_task, decide_workload, serialize_answer};
use serde_json::Value;

use super::{POLICY, typed};

/// Upper bound of an admission response in bytes. Responses contain up to ten warnings of 240
/// characters, or the truncated list of a task's problems.
const MAX_ANSWER: usize = 1 << 20;
/// Upper bound of the warnings in a response.
const MAX_WARNINGS: usize = 10;

/// Checks bytes as a request of the webhook: the review of a workload or a task, or invalid input.
/// The response is for the same request, has at most ten warnings, and admits each workload. The
/// images that are read from an object are those of its Kubernetes type.
pub fn review(bytes: &[u8]) {
    let Ok(review) = AdmissionReview::parse(bytes) else { return };
    let decided = decide_workload(&review, &POLICY, &ClusterContextStore::default(), usize::MAX);
    let workload = decided.map(|(verdict, _)| verdict).unwrap_or_default();
    // The review skips what it does not read, such as invalid UTF-8 there, which `Value` rejects.
    let request = serde_json::from_slice::<Value>(bytes).ok();
    for (verdict, always_allowed) in [(workload, true), (decide_task(&review, &POLICY.caps), false)]
    {
        let bytes = serialize_answer(&review, &verdict);
        assert!(bytes.len() < MAX_ANSWER, "a response of {} bytes", bytes.len());
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let response = &answer["response"];
        if let Some(request) = &request {
            assert_eq!(response["uid"], request["request"]["uid"], "{answer}");
        }
        let allowed = response["allowed"].as_bool();
        assert!(allowed == Some(true) || !always_allowed && allowed == Some(false), "{answer}");
        assert!(allowed == Some(true) || response["status"]["message"].is_string(), "{answer}");
        let warnings = response["warnings"].as_array().map_or(0, Vec::len);
        assert!(warnings <= MAX_WARNINGS, "{warnings} warnings");
    }
    for object in ["/request/object", "/request/oldObject"] {
        if let Some(object) = request.as_ref().and_then(|request| request.pointer(object)) {
            typed::compare(object);
        }
    }
}
