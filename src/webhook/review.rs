//! `AdmissionReview` `admission.k8s.io/v1`, as far as we look at it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::task::Problem;

/// The only version there is, since Kubernetes 1.16.
const API_VERSION: &str = "admission.k8s.io/v1";
/// Kinds that the metrics name; all others are "other", so that nobody can invent labels.
const KINDS: &[&str] = &[
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicaSet",
    "ReplicationController",
    "Job",
    "CronJob",
    "Pod",
    "PrewarmTask",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review {
    api_version: String,
    kind: String,
    pub(super) request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    uid: String,
    pub(super) kind: Kind,
    #[serde(default)]
    pub(super) sub_resource: Option<String>,
    #[serde(default)]
    pub(super) namespace: String,
    pub(super) operation: String,
    #[serde(default)]
    pub(super) dry_run: Option<bool>,
    #[serde(default)]
    pub(super) object: Option<Box<serde_json::value::RawValue>>,
    #[serde(default)]
    pub(super) old_object: Option<Box<serde_json::value::RawValue>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Kind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
    #[serde(rename = "kind")]
    pub(super) name: String,
}

impl Kind {
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

impl Review {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let review: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
            return Err(format!("expected {API_VERSION} AdmissionReview, got {} {}", review.api_version, review.kind));
        }
        Ok(review)
    }

    pub(super) fn kind_label(&self) -> &'static str {
        KINDS.iter().find(|kind| **kind == self.request.kind.name).copied().unwrap_or("other")
    }
}

/// What a review comes to.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// For metrics.
    pub(super) label: &'static str,
    /// What the user reads.
    pub(super) warnings: Vec<String>,
    /// Why not, if so.
    pub(super) denied: Vec<Problem>,
}

/// Longest text of all mistakes together; each is a cause of its own beside it.
const MAX_MESSAGE: usize = 4096;

/// The answer to a review.
pub(super) fn response(review: &Review, verdict: &Verdict) -> Value {
    let mut response = json!({ "uid": review.request.uid, "allowed": verdict.denied.is_empty() });
    if !verdict.warnings.is_empty() {
        response["warnings"] = json!(verdict.warnings);
    }
    if !verdict.denied.is_empty() {
        let text = verdict.denied.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let message: String = text.chars().take(MAX_MESSAGE).collect();
        let cause = |problem: &Problem| json!({ "reason": "FieldValueInvalid", "field": problem.field, "message": problem.explained() });
        let causes: Vec<Value> = verdict.denied.iter().map(cause).collect();
        response["status"] =
            json!({ "code": 422, "reason": "Invalid", "message": message, "details": { "causes": causes } });
    }
    json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response })
}
