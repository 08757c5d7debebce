//! The verdicts. *Pure.*

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::review::{Review, Verdict};
use crate::{
    intake::{Hint, keys_of_all},
    schedule,
    surroundings::Surroundings,
    task::{PrewarmTaskSpec, Problem, validate::validate},
    workload::{Kind, ObjectView, Policy, Verdict as Considered},
};

/// Warnings given at most, and the length of each, as the API server advises (it cuts at 4,096 bytes in all).
const MAX_WARNINGS: usize = 10;
const MAX_WARNING: usize = 240;

fn allowed(label: &'static str) -> Verdict {
    Verdict { label, ..Verdict::default() }
}

/// Always allows; gives the hint that follows, if one does.
pub(super) fn decide_workload(review: &Review<'_>, policy: &Policy, around: &Surroundings) -> (Verdict, Option<Hint>) {
    let request = &review.request;
    let wanted = matches!(request.operation.as_str(), "CREATE" | "UPDATE")
        && request.sub_resource.as_deref().unwrap_or_default().is_empty()
        && policy.covers(&request.namespace);
    let kind = policy.kinds.find_in(&request.kind.group, &request.kind.version, &request.kind.name).filter(|_| wanted);
    let Some(kind) = kind else { return (allowed("ignored"), None) };
    let Some(object) = request.object.and_then(|raw| kind.read(raw.get()).ok()) else {
        return (allowed("ignored"), None);
    };
    let (considered, warnings) = policy.consider(kind, &object, &request.namespace, around);
    let short = |warning: String| warning.chars().take(MAX_WARNING).collect();
    let warnings = warnings.into_iter().take(MAX_WARNINGS).map(short).collect();
    let verdict = |label| Verdict { label, warnings, denied: Vec::new() };
    match considered {
        Considered::Ignored(_) => (verdict("ignored"), None),
        Considered::OptedOut => (verdict("opted_out"), None),
        Considered::Wanted(workloads) if request.dry_run != Some(true) => {
            let hint = hint(review, kind, &object, workloads, policy, around);
            if hint.fresh().is_empty() { (verdict("unchanged"), None) } else { (verdict("hinted"), Some(hint)) }
        }
        Considered::Wanted(_) | Considered::Nothing => (verdict("unchanged"), None),
    }
}

fn hint(
    review: &Review<'_>,
    kind: &Arc<Kind>,
    object: &ObjectView,
    workloads: Vec<crate::workload::Workload>,
    policy: &Policy,
    around: &Surroundings,
) -> Hint {
    let request = &review.request;
    let mut hint = Hint::new(kind, &request.namespace, object, workloads);
    let old = request.old_object.and_then(|raw| kind.read(raw.get()).ok());
    if let Some(old) = old {
        let (before, _) = policy.consider(kind, &old, &request.namespace, around);
        hint.kept = keys_of_all(&before.workloads());
        hint.replaces = Some(old.metadata.resource_version);
    }
    hint
}

/// Denies a task or a schedule that cannot be meant, naming each mistake. What the schema says is the API server's to check.
pub(super) fn decide_task(review: &Review<'_>) -> Verdict {
    if !matches!(review.request.operation.as_str(), "CREATE" | "UPDATE") {
        return allowed("ignored");
    }
    let Some(raw) = review.request.object else { return allowed("ignored") };
    let problems = if review.request.kind.name == "PrewarmSchedule" {
        check(raw.get(), schedule::problems)
    } else {
        check(raw.get(), |spec: &PrewarmTaskSpec| validate(spec).err().unwrap_or_default())
    };
    if problems.is_empty() {
        return allowed("allowed");
    }
    Verdict { label: "denied", warnings: Vec::new(), denied: problems }
}

fn check<S: DeserializeOwned>(object: &str, judge: impl Fn(&S) -> Vec<Problem>) -> Vec<Problem> {
    #[derive(serde::Deserialize)]
    struct Object<S> {
        spec: S,
    }
    match serde_json::from_str::<Object<S>>(object) {
        Ok(object) => judge(&object.spec),
        Err(error) => vec![Problem::new("spec", "", &error.to_string())],
    }
}
