//! Wire format of `AdmissionReview` (`admission.k8s.io/v1`), limited to the fields in use.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{
    task::FieldError,
    workload::{ObjectView, OneShotReason, Policy, WorkloadKind},
};

/// Only supported version; it exists since Kubernetes 1.16.
const API_VERSION: &str = "admission.k8s.io/v1";
/// Kinds that are values of a metrics label. All others are "other", so that no client can create
/// label values.
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

/// Request of the API server to admit an object, with borrowed fields.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionReview<'a> {
    #[serde(borrow)]
    pub(super) api_version: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) request: AdmissionRequest<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdmissionRequest<'a> {
    #[serde(borrow)]
    pub(super) uid: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) kind: ReviewKind<'a>,
    #[serde(default, borrow)]
    pub(super) sub_resource: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) namespace: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) operation: Cow<'a, str>,
    #[serde(default)]
    pub(super) dry_run: Option<bool>,
    #[serde(default, borrow)]
    pub(super) object: ReviewedValue<'a>,
    #[serde(default, borrow)]
    pub(super) old_object: ReviewedValue<'a>,
}

/// Object of a review, parsed as far as the review was read.
#[derive(Debug, Default)]
pub(super) enum ReviewedValue<'a> {
    /// No object, or one that is not needed.
    #[default]
    Absent,
    /// Text of the object.
    Raw(&'a RawValue),
    /// Used fields of a workload.
    View(Box<ObjectView>),
}

impl<'de: 'a, 'a> Deserialize<'de> for ReviewedValue<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::<&RawValue>::deserialize(from)?.map_or(Self::Absent, Self::Raw))
    }
}

impl From<Option<ObjectView>> for ReviewedValue<'_> {
    fn from(view: Option<ObjectView>) -> Self {
        view.map_or(Self::Absent, |view| Self::View(Box::new(view)))
    }
}

impl ReviewedValue<'_> {
    /// Returns the used fields of an object of this kind, or `None` if there is no valid one.
    pub(super) fn view(&self, kind: &WorkloadKind) -> Option<Cow<'_, ObjectView>> {
        match self {
            Self::Absent => None,
            Self::Raw(raw) => kind.parse_text(raw.get()).ok().map(Cow::Owned),
            Self::View(view) => Some(Cow::Borrowed(view)),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ReviewKind<'a> {
    #[serde(default, borrow)]
    pub(super) group: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(super) version: Cow<'a, str>,
    #[serde(rename = "kind", borrow)]
    pub(super) name: Cow<'a, str>,
}

impl AdmissionRequest<'_> {
    /// Returns the kind of the workload, or `None` if the review is not one of a handled workload.
    pub(super) fn workload_kind<'p>(&self, policy: &'p Policy) -> Option<&'p Arc<WorkloadKind>> {
        let sub_resource = self.sub_resource.as_deref();
        self.kind.workload_kind(policy, &self.operation, sub_resource, &self.namespace)
    }
}

impl ReviewKind<'_> {
    pub(super) fn find<'p>(&self, policy: &'p Policy) -> Option<&'p Arc<WorkloadKind>> {
        policy.kinds.find_by_gvk(&self.group, &self.version, &self.name)
    }

    /// Returns the kind of a workload that is created or updated in a namespace which the policy
    /// covers.
    pub(super) fn workload_kind<'p>(
        &self,
        policy: &'p Policy,
        operation: &str,
        sub_resource: Option<&str>,
        namespace: &str,
    ) -> Option<&'p Arc<WorkloadKind>> {
        let wanted = matches!(operation, "CREATE" | "UPDATE")
            && sub_resource.unwrap_or_default().is_empty()
            && policy.covers_namespace(namespace);
        self.find(policy).filter(|_| wanted)
    }
}

/// Reason why bytes are not an `AdmissionReview`.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Bytes that are not JSON, or JSON without the required fields.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Object of another version or kind.
    #[error("expected {API_VERSION} AdmissionReview, got {api_version} {kind}")]
    Kind {
        /// API version of the object.
        api_version: String,
        /// Kind of the object.
        kind: String,
    },
}

impl<'a> AdmissionReview<'a> {
    /// Parses the body of a request. Objects in it are not parsed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        serde_json::from_slice::<Self>(bytes)?.checked()
    }

    /// Refuses a review of another version or kind.
    pub(super) fn checked(self) -> Result<Self, ParseError> {
        let review = self;
        if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
            let (api_version, kind) = (review.api_version.into_owned(), review.kind.into_owned());
            return Err(ParseError::Kind { api_version, kind });
        }
        Ok(review)
    }

    /// Returns the kind as the value of a metrics label.
    #[must_use]
    pub fn kind_label(&self) -> &'static str {
        KINDS.iter().find(|kind| **kind == self.request.kind.name).copied().unwrap_or("other")
    }
}

/// Decision about a review.
#[derive(Debug, Default)]
pub struct AdmissionResponse {
    /// Value of the metrics label `verdict`.
    pub label: &'static str,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Reason why the workload counts as one-shot; `None` for other verdicts, and for dry runs.
    pub one_shot: Option<OneShotReason>,
    /// Problems that deny the object; empty if it is allowed.
    pub(super) denied: Vec<FieldError>,
}

/// Maximum length of the message with all problems, which are also listed as separate causes.
const MAX_MESSAGE: usize = 4096;
/// Maximum number of causes in a denial. With their fields they take 24 KB, where a task may have
/// thousands of problems.
const MAX_CAUSES: usize = 20;
const MAX_CAUSE: usize = 1024;
/// Number of bytes at the start of a review within which the API server writes the UID:
/// `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"...",`.
pub const UID_PREFIX_BYTES: usize = 512;
const UID_PREFIX: &[u8] = br#""request":{"uid":""#;
/// Maximum length of a UID. UIDs of Kubernetes have 36 characters.
const MAX_UID: usize = 64;

/// Returns the UID from the beginning of a review, if it is written in the API server's format.
#[must_use]
pub fn parse_uid(beginning: &[u8]) -> Option<&str> {
    let head = &beginning[..beginning.len().min(UID_PREFIX_BYTES)];
    let start =
        head.windows(UID_PREFIX.len()).position(|part| part == UID_PREFIX)? + UID_PREFIX.len();
    let rest = &head[start..];
    let uid = std::str::from_utf8(&rest[..rest.iter().position(|byte| *byte == b'"')?]).ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!uid.is_empty() && uid.len() <= MAX_UID && uid.bytes().all(plain)).then_some(uid)
}

/// Returns the answer that allows the review with this UID, without warnings.
#[must_use]
pub fn allow_response(uid: &str) -> Vec<u8> {
    let response = ReviewResponse { uid, allowed: true, warnings: &[], status: None };
    serde_json::to_vec(&ReviewAnswer {
        api_version: API_VERSION,
        kind: "AdmissionReview",
        response,
    })
    .unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReviewAnswer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: ReviewResponse<'a>,
}

#[derive(Serialize)]
struct ReviewResponse<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
}

/// Serializes the answer to a review as JSON.
#[must_use]
pub fn serialize_answer(review: &AdmissionReview<'_>, verdict: &AdmissionResponse) -> Vec<u8> {
    let denied = !verdict.denied.is_empty();
    let answer = ReviewAnswer {
        api_version: API_VERSION,
        kind: "AdmissionReview",
        response: ReviewResponse {
            uid: &review.request.uid,
            allowed: !denied,
            warnings: &verdict.warnings,
            status: denied.then(|| denial_status(&verdict.denied)),
        },
    };
    // The serialization of strings and booleans cannot fail.
    serde_json::to_vec(&answer).unwrap_or_default()
}

fn denial_status(problems: &[FieldError]) -> Value {
    let short = |text: String, most: usize| -> String {
        if text.len() <= most { text } else { text.chars().take(most).chain(['…']).collect() }
    };
    let named = &problems[..problems.len().min(MAX_CAUSES)];
    let mut texts: Vec<String> =
        named.iter().map(|problem| short(problem.to_string(), MAX_CAUSE)).collect();
    if problems.len() > named.len() {
        texts.insert(
            0,
            format!("{} problems; the first {} are listed", problems.len(), named.len()),
        );
    }
    let cause = |problem: &FieldError| json!({ "reason": "FieldValueInvalid", "field": short(problem.field.clone(), MAX_CAUSE), "message": short(problem.cause_message(), MAX_CAUSE) });
    let causes: Vec<Value> = named.iter().map(cause).collect();
    let message = short(texts.join("; "), MAX_MESSAGE);
    json!({ "code": 422, "reason": "Invalid", "message": message, "details": { "causes": causes } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_is_bounded_for_any_number_of_problems() {
        let problem = |n: usize| {
            FieldError::new(&format!("spec.tolerations[{n}]"), &"x".repeat(100_000), "no")
        };
        let problems: Vec<FieldError> = (0..5000).map(problem).collect();
        let refusal = denial_status(&problems);
        assert_eq!(refusal["details"]["causes"].as_array().unwrap().len(), MAX_CAUSES);
        assert!(
            refusal["message"].as_str().unwrap().starts_with("5000 problems"),
            "{}",
            refusal["message"]
        );
        assert!(refusal.to_string().len() < 64 * 1024);
    }

    #[test]
    fn uid_is_parsed_from_first_bytes() {
        let begin = br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"705ab4f5-6393","kind":{"#;
        assert_eq!(parse_uid(begin), Some("705ab4f5-6393"));
        for other in [
            &b"{"[..],
            br#"{"request":{"uid":"unfinished"#,
            br#"{"request":{"uid":"a\"b","#,
            br#"{"request":{"uid":"","#,
            br#"{"request":{"kind":{},"uid":"u","#,
        ] {
            assert_eq!(parse_uid(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
