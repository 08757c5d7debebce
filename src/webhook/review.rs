//! `AdmissionReview` `admission.k8s.io/v1`, as far as we look at it.

use std::borrow::Cow;

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
    #[serde(borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) request: Request<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) kind: Kind<'a>,
    #[serde(default, borrow)]
    pub(super) sub_resource: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) namespace: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) operation: Cow<'a, str>,
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
pub(super) struct Kind<'a> {
    #[serde(default, borrow)]
    pub(super) group: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(super) version: Cow<'a, str>,
    #[serde(rename = "kind", borrow)]
    pub(super) name: Cow<'a, str>,
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
/// Causes that a refusal lists at most, and the length of each: 24 KB with their fields, where a task may have thousands of
/// mistakes.
const MAX_CAUSES: usize = 20;
const MAX_CAUSE: usize = 1024;
/// The API server writes the UID of a review within its first bytes:
/// `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"...",`.
pub(super) const UID_WITHIN: usize = 512;
const BEFORE_UID: &[u8] = br#""request":{"uid":""#;
/// Longest UID: those of Kubernetes have 36 characters.
const MAX_UID: usize = 64;

/// The UID of a review of which only the beginning is there, where it is written as the API server does.
pub(super) fn uid_of(beginning: &[u8]) -> Option<&str> {
    let head = &beginning[..beginning.len().min(UID_WITHIN)];
    let start = head.windows(BEFORE_UID.len()).position(|part| part == BEFORE_UID)? + BEFORE_UID.len();
    let rest = &head[start..];
    let uid = std::str::from_utf8(&rest[..rest.iter().position(|byte| *byte == b'"')?]).ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!uid.is_empty() && uid.len() <= MAX_UID && uid.bytes().all(plain)).then_some(uid)
}

/// The answer that allows the review of this UID, and says nothing else.
pub(super) fn allowing(uid: &str) -> Vec<u8> {
    let response = Response { uid, allowed: true, warnings: &[], status: None };
    serde_json::to_vec(&Answer { api_version: API_VERSION, kind: "AdmissionReview", response }).unwrap_or_default()
}

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
    let short = |text: String, most: usize| -> String {
        if text.len() <= most { text } else { text.chars().take(most).chain(['…']).collect() }
    };
    let named = &problems[..problems.len().min(MAX_CAUSES)];
    let mut texts: Vec<String> = named.iter().map(|problem| short(problem.to_string(), MAX_CAUSE)).collect();
    if problems.len() > named.len() {
        texts.insert(0, format!("{} mistakes, of which these are the first {}", problems.len(), named.len()));
    }
    let cause = |problem: &Problem| json!({ "reason": "FieldValueInvalid", "field": short(problem.field.clone(), MAX_CAUSE), "message": short(problem.explained(), MAX_CAUSE) });
    let causes: Vec<Value> = named.iter().map(cause).collect();
    let message = short(texts.join("; "), MAX_MESSAGE);
    json!({ "code": 422, "reason": "Invalid", "message": message, "details": { "causes": causes } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_short_however_many_mistakes_there_are() {
        let problem = |n: usize| Problem::new(&format!("spec.tolerations[{n}]"), &"x".repeat(100_000), "no");
        let problems: Vec<Problem> = (0..5000).map(problem).collect();
        let refusal = refusal(&problems);
        assert_eq!(refusal["details"]["causes"].as_array().unwrap().len(), MAX_CAUSES);
        assert!(refusal["message"].as_str().unwrap().starts_with("5000 mistakes"), "{}", refusal["message"]);
        assert!(refusal.to_string().len() < 64 * 1024);
    }

    #[test]
    fn the_uid_is_found_at_the_beginning() {
        let begin = br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"705ab4f5-6393","kind":{"#;
        assert_eq!(uid_of(begin), Some("705ab4f5-6393"));
        for other in [
            &b"{"[..],
            br#"{"request":{"uid":"unfinished"#,
            br#"{"request":{"uid":"a\"b","#,
            br#"{"request":{"uid":"","#,
            br#"{"request":{"kind":{},"uid":"u","#,
        ] {
            assert_eq!(uid_of(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
