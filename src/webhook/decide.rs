//! The verdicts. *Pure.*

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::review::{Review, Verdict};
use crate::{
    intake::{Claim, keys_of_all},
    schedule,
    surroundings::Surroundings,
    task::{
        PrewarmTaskSpec, Problem,
        caps::{self, Caps},
        validate::validate,
    },
    workload::{Kind, ObjectView, Policy, Verdict as Considered, Workload},
};

/// Warnings given at most, and the length of each, as the API server advises (it cuts at 4,096 bytes in all).
const MAX_WARNINGS: usize = 10;
const MAX_WARNING: usize = 240;

fn allowed(label: &'static str) -> Verdict {
    Verdict { label, ..Verdict::default() }
}

/// A workload of a review that may ask for something.
struct Found<'r> {
    kind: &'r Arc<Kind>,
    namespace: &'r str,
    object: ObjectView,
    dry_run: bool,
}

/// Finds the workload in a review, unless it is none of ours.
fn find<'r>(review: &'r Review<'_>, policy: &'r Policy) -> Option<Found<'r>> {
    let request = &review.request;
    let wanted = matches!(&*request.operation, "CREATE" | "UPDATE")
        && request.sub_resource.as_deref().unwrap_or_default().is_empty()
        && policy.covers(&request.namespace);
    let kind =
        policy.kinds.find_in(&request.kind.group, &request.kind.version, &request.kind.name).filter(|_| wanted)?;
    let object = request.object.and_then(|raw| kind.read(raw.get()).ok())?;
    Some(Found { kind, namespace: &request.namespace, object, dry_run: request.dry_run == Some(true) })
}

/// Always allows; gives the claim that follows, if one does. None: the object, or what it was before, names more than
/// `most_images`, and nothing was decided.
pub(super) fn decide_workload(
    review: &Review<'_>,
    policy: &Policy,
    around: &Surroundings,
    most_images: usize,
) -> Option<(Verdict, Option<Claim>)> {
    let Some(found) = find(review, policy) else { return Some((allowed("ignored"), None)) };
    if found.object.named_images() > most_images {
        return None;
    }
    let (considered, warnings) = policy.consider(found.kind, &found.object, found.namespace, around);
    let short = |warning: String| warning.chars().take(MAX_WARNING).collect();
    let warnings = warnings.into_iter().take(MAX_WARNINGS).map(short).collect();
    let verdict = |label| Verdict { label, warnings, denied: Vec::new() };
    Some(match considered {
        Considered::Ignored(_) => (verdict("ignored"), None),
        Considered::OptedOut => (verdict("opted_out"), None),
        Considered::Wanted(workloads) if !found.dry_run => {
            let old = request_old(review, found.kind);
            if old.as_ref().is_some_and(|old| old.named_images() > most_images) {
                return None;
            }
            match claim(&found, &workloads, old.as_ref(), policy, around) {
                None => (verdict("unidentified"), None),
                Some(claim) if claim.fresh().is_some_and(<[_]>::is_empty) => (verdict("unchanged"), None),
                Some(claim) => (verdict("hinted"), Some(claim)),
            }
        }
        Considered::Wanted(_) | Considered::Nothing => (verdict("unchanged"), None),
    })
}

fn request_old(review: &Review<'_>, kind: &Arc<Kind>) -> Option<ObjectView> {
    review.request.old_object.and_then(|raw| kind.read(raw.get()).ok())
}

fn claim(
    found: &Found<'_>,
    workloads: &[Workload],
    old: Option<&ObjectView>,
    policy: &Policy,
    around: &Surroundings,
) -> Option<Claim> {
    let claim = Claim::new(found.kind, found.namespace, &found.object)?;
    let Some(old) = old else { return Some(claim.asking(workloads, Vec::new())) };
    let (before, _) = policy.consider(found.kind, old, found.namespace, around);
    let kept = keys_of_all(&before.workloads());
    Some(claim.replacing(&old.metadata.resource_version).asking(workloads, kept))
}

/// A claim of the object alone: intake reads it from the API server, and finds what it asks for.
pub(super) fn identify(review: &Review<'_>, policy: &Policy) -> Option<Claim> {
    let found = find(review, policy).filter(|found| !found.dry_run)?;
    let claim = Claim::new(found.kind, found.namespace, &found.object)?;
    let old = request_old(review, found.kind);
    Some(match old {
        Some(old) => claim.replacing(&old.metadata.resource_version),
        None => claim,
    })
}

/// Denies a task or a schedule that cannot be meant, naming each mistake. What the schema says is the API server's to check.
/// What is more than the operator's limits is refused or a warning when the object is created: one that is there can still be
/// cancelled.
pub(super) fn decide_task(review: &Review<'_>, caps: &Caps) -> Verdict {
    if !matches!(&*review.request.operation, "CREATE" | "UPDATE") {
        return allowed("ignored");
    }
    let Some(raw) = review.request.object else { return allowed("ignored") };
    let new = review.request.operation == "CREATE";
    let mut warnings = Vec::new();
    let problems = if review.request.kind.name == "PrewarmSchedule" {
        check(raw.get(), schedule::problems)
    } else {
        check(raw.get(), |spec: &PrewarmTaskSpec| match validate(spec) {
            Err(problems) => problems,
            Ok(mut task) if new => {
                let problems = caps::check(caps, &task);
                let limited = caps::clamp(caps, &mut task).into_iter().chain(caps::priority(caps, spec.priority).1);
                warnings.extend(limited.map(|warning| format!("prewarmer: {warning}")));
                problems
            }
            Ok(_) => Vec::new(),
        })
    };
    if problems.is_empty() {
        return Verdict { warnings, ..allowed("allowed") };
    }
    Verdict { label: "denied", warnings, denied: problems }
}

fn check<S: DeserializeOwned>(object: &str, judge: impl FnOnce(&S) -> Vec<Problem>) -> Vec<Problem> {
    #[derive(serde::Deserialize)]
    struct Object<S> {
        spec: S,
    }
    match serde_json::from_str::<Object<S>>(object) {
        Ok(object) => judge(&object.spec),
        Err(error) => vec![Problem::new("spec", "", &error.to_string())],
    }
}
