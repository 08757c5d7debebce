//! Decisions about admission reviews.

use std::{borrow::Cow, sync::Arc};

use crate::{
    intake::{Hint, dedup_keys::is_always, dedup_keys_of_all},
    schedule::validate_spec,
    task::{
        FieldError, PrewarmTaskSpec,
        caps::{self, Caps},
        validate::validate,
    },
    workload::{
        ClusterContext, ObjectView, Policy, WarmDecision as Considered, Workload, WorkloadKind,
    },
};
use serde::de::DeserializeOwned;

use super::review::{AdmissionResponse, AdmissionReview, ReviewedValue};

/// Maximum number of warnings, and maximum length of each in characters, as the API server's
/// documentation advises. The API server truncates all warnings together at 4,096 bytes.
const MAX_WARNINGS: usize = 10;
const MAX_WARNING: usize = 240;

fn allow(label: &'static str) -> AdmissionResponse {
    AdmissionResponse { label, ..AdmissionResponse::default() }
}

/// Workload of a review that may need images.
struct ReviewedObject<'r> {
    kind: &'r Arc<WorkloadKind>,
    namespace: &'r str,
    object: Cow<'r, ObjectView>,
    dry_run: bool,
}

/// Returns the workload of a review, or `None` if the policy does not cover it.
fn reviewed_object<'r>(
    review: &'r AdmissionReview<'_>,
    policy: &'r Policy,
) -> Option<ReviewedObject<'r>> {
    let request = &review.request;
    let kind = request.workload_kind(policy)?;
    let object = request.object.view(kind)?;
    Some(ReviewedObject {
        kind,
        namespace: &request.namespace,
        object,
        dry_run: request.dry_run == Some(true),
    })
}

/// Decides a review of a workload, which is always allowed, and returns the resulting hint, if any.
/// Returns `None` without a decision if the object or its old version names more than `most_images`
/// images.
#[must_use]
pub fn decide_workload(
    review: &AdmissionReview<'_>,
    policy: &Policy,
    around: &dyn ClusterContext,
    most_images: usize,
) -> Option<(AdmissionResponse, Option<Hint>)> {
    let Some(found) = reviewed_object(review, policy) else {
        return Some((allow("ignored"), None));
    };
    if found.object.image_count() > most_images {
        return None;
    }
    let (considered, warnings) =
        policy.evaluate(found.kind, &found.object, found.namespace, around);
    let short = |warning: String| warning.chars().take(MAX_WARNING).collect();
    let warnings = warnings.into_iter().take(MAX_WARNINGS).map(short).collect();
    let verdict = |label| AdmissionResponse { label, warnings, ..AdmissionResponse::default() };
    Some(match considered {
        Considered::Ignored(_) => (verdict("ignored"), None),
        Considered::OptedOut => (verdict("opted_out"), None),
        Considered::OneShot(reason) => {
            let one_shot = (!found.dry_run).then_some(reason);
            (AdmissionResponse { one_shot, ..verdict("one_shot") }, None)
        }
        // The lookup of the object decides which of its images recur.
        Considered::Warm(workloads) | Considered::IfRecurring(_, workloads) if !found.dry_run => {
            let old = review.request.old_object.view(found.kind);
            if old.as_ref().is_some_and(|old| old.image_count() > most_images) {
                return None;
            }
            match hint_for(&found, &workloads, old.as_deref(), policy, around) {
                ReviewHint::Unidentified => (verdict("unidentified"), None),
                ReviewHint::Unchanged => (verdict("unchanged"), None),
                ReviewHint::New(claim) => (verdict("hinted"), Some(*claim)),
            }
        }
        Considered::Warm(_) | Considered::IfRecurring(..) | Considered::NoImages => {
            (verdict("unchanged"), None)
        }
    })
}

/// What a review of a workload with images results in.
enum ReviewHint {
    /// The object cannot be looked up.
    Unidentified,
    /// No image is new.
    Unchanged,
    New(Box<Hint>),
}

fn hint_for(
    found: &ReviewedObject<'_>,
    workloads: &[Workload],
    old: Option<&ObjectView>,
    policy: &Policy,
    around: &dyn ClusterContext,
) -> ReviewHint {
    let Some(claim) = Hint::new(found.kind, found.namespace, &found.object) else {
        return ReviewHint::Unidentified;
    };
    // Most updates change neither the templates nor our annotations.
    if old.is_some_and(|old| found.object.is_same_workload(old)) {
        return ReviewHint::Unchanged;
    }
    let claim = match old {
        Some(old) => with_changes(claim, found, workloads, old, policy, around),
        None => claim.with_workloads(workloads, Vec::new()),
    };
    match claim.new_keys() {
        Some([]) => ReviewHint::Unchanged,
        _ => ReviewHint::New(Box::new(claim)),
    }
}

/// Returns the hint with the keys that the object needs, and with those that `old` needed before.
fn with_changes(
    claim: Hint,
    found: &ReviewedObject<'_>,
    workloads: &[Workload],
    old: &ObjectView,
    policy: &Policy,
    around: &dyn ClusterContext,
) -> Hint {
    let (before, _) = policy.evaluate(found.kind, old, found.namespace, around);
    let mut kept = dedup_keys_of_all(&before.workloads());
    if found.object.is_restart_of(old) {
        kept.retain(|key| !is_always(key));
    }
    claim.with_replaced_version(&old.metadata.resource_version).with_workloads(workloads, kept)
}

/// Creates a hint with only the identity of the object. Intake reads the object from the API server
/// and extracts its images.
#[must_use]
pub fn identity_hint(review: &AdmissionReview<'_>, policy: &Policy) -> Option<Hint> {
    let found = reviewed_object(review, policy).filter(|found| !found.dry_run)?;
    let claim = Hint::new(found.kind, found.namespace, &found.object)?;
    let old = review.request.old_object.view(found.kind);
    Some(match old {
        Some(old) => claim.with_replaced_version(&old.metadata.resource_version),
        None => claim,
    })
}

/// Denies an invalid task or schedule and names each problem. The API server checks the schema. The
/// operator's limits apply only on creation, as a denial or a warning, so that an existing task can
/// still be cancelled.
#[must_use]
pub fn decide_task(review: &AdmissionReview<'_>, caps: &Caps) -> AdmissionResponse {
    if !matches!(&*review.request.operation, "CREATE" | "UPDATE") {
        return allow("ignored");
    }
    let ReviewedValue::Raw(raw) = review.request.object else { return allow("ignored") };
    let new = review.request.operation == "CREATE";
    let mut warnings = Vec::new();
    let problems = if review.request.kind.name == "PrewarmSchedule" {
        check_spec(raw.get(), validate_spec)
    } else {
        check_spec(raw.get(), |spec: &PrewarmTaskSpec| match validate(spec) {
            Err(problems) => problems,
            Ok(mut task) if new => {
                let problems = caps::check_limits(caps, &task);
                let limited = caps::apply_limits(caps, &mut task)
                    .into_iter()
                    .chain(caps::effective_priority(caps, spec.priority).1);
                warnings.extend(limited.map(|warning| format!("prewarmer: {warning}")));
                problems
            }
            Ok(_) => Vec::new(),
        })
    };
    if problems.is_empty() {
        return AdmissionResponse { warnings, ..allow("allowed") };
    }
    AdmissionResponse {
        label: "denied",
        warnings,
        denied: problems,
        ..AdmissionResponse::default()
    }
}

fn check_spec<S: DeserializeOwned>(
    object: &str,
    judge: impl FnOnce(&S) -> Vec<FieldError>,
) -> Vec<FieldError> {
    #[derive(serde::Deserialize)]
    struct SpecOnly<S> {
        spec: S,
    }
    match serde_json::from_str::<SpecOnly<S>>(object) {
        Ok(object) => judge(&object.spec),
        Err(error) => vec![FieldError::new("spec", "", &error.to_string())],
    }
}
