//! `AdmissionReview` `admission.k8s.io/v1`, as far as we look at it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

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
pub(super) struct Review<'a> {
    api_version: String,
    kind: String,
    #[serde(borrow)]
    pub(super) request: Request<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request<'a> {
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
    #[serde(borrow)]
    pub(super) object: Option<&'a RawValue>,
    #[serde(default)]
    #[serde(borrow)]
    pub(super) old_object: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Kind {
    #[serde(default)]
    pub(super) group: String,
    #[serde(default)]
    pub(super) version: String,
    #[serde(rename = "kind")]
    pub(super) name: String,
}

impl<'a> Review<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
}

/// The answer to a review, as JSON.
pub(super) fn response(review: &Review<'_>, verdict: &Verdict) -> Vec<u8> {
    let denied = !verdict.denied.is_empty();
    let answer = Answer {
        api_version: API_VERSION,
        kind: "AdmissionReview",
        response: Response {
            uid: &review.request.uid,
            allowed: !denied,
            warnings: &verdict.warnings,
            status: denied.then(|| refusal(&verdict.denied)),
        },
    };
    // Strings and booleans can always be written.
    serde_json::to_vec(&answer).unwrap_or_default()
}

fn refusal(problems: &[Problem]) -> Value {
    let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let message: String = text.chars().take(MAX_MESSAGE).collect();
    let cause = |problem: &Problem| json!({ "reason": "FieldValueInvalid", "field": problem.field, "message": problem.explained() });
    let causes: Vec<Value> = problems.iter().map(cause).collect();
    json!({ "code": 422, "reason": "Invalid", "message": message, "details": { "causes": causes } })
}
