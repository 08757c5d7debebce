//! The verdicts. *Pure.*

use std::collections::{BTreeMap, BTreeSet};

use super::review::Review;
use crate::{
    task::{PrewarmTaskSpec, validate},
    worker::MANAGED_BY,
    workload::{ObjectView, Workload},
};

/// Owners whose pods and Jobs add nothing: their own objects came by here.
const KNOWN_CONTROLLERS: &[&str] = &["apps/v1", "batch/v1"];
/// Warnings given at most, and the length of each, as the API server advises (it cuts at 4,096 bytes in all).
const MAX_WARNINGS: usize = 10;
const MAX_WARNING: usize = 240;

/// What holds where no annotation says anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DefaultMode {
    /// All but opted-out workloads are warmed.
    #[default]
    OptOut,
    /// Only opted-in workloads are warmed.
    OptIn,
}

/// What counts.
#[derive(Debug, Clone, Default)]
pub struct WebhookSettings {
    /// What holds without annotations.
    pub default_mode: DefaultMode,
    /// Namespaces that are out.
    pub excluded_namespaces: BTreeSet<String>,
    /// The only namespace looked at, where set.
    pub watch_namespace: Option<String>,
}

/// The answer to a review.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// For metrics.
    pub(super) label: &'static str,
    /// What the user reads.
    pub(super) warnings: Vec<String>,
    /// Why not, if so.
    pub(super) denied: Option<String>,
}

fn allowed(label: &'static str) -> Verdict {
    Verdict { label, ..Verdict::default() }
}

/// Always allows; gives the workload that is to be warmed, if so.
pub(super) fn decide_workload(
    review: &Review,
    namespace: &BTreeMap<String, String>,
    settings: &WebhookSettings,
) -> (Verdict, Option<Workload>) {
    let request = &review.request;
    let wanted = matches!(request.operation.as_str(), "CREATE" | "UPDATE")
        && request.sub_resource.as_deref().unwrap_or_default().is_empty()
        && !settings.excluded_namespaces.contains(&request.namespace)
        && settings.watch_namespace.as_ref().is_none_or(|only| *only == request.namespace);
    let Some(object) = Review::view(request.object.as_deref()).filter(|_| wanted) else {
        return (allowed("ignored"), None);
    };
    if is_ours_or_known(&object) {
        return (allowed("ignored"), None);
    }
    let Some(mut workload) = Workload::read(&object, &request.namespace, namespace) else {
        return (allowed("ignored"), None);
    };
    let warnings = std::mem::take(&mut workload.warnings);
    let warnings = warnings.into_iter().take(MAX_WARNINGS).map(|w| w.chars().take(MAX_WARNING).collect()).collect();
    let verdict = |label| Verdict { label, warnings, denied: None };
    let enabled = workload.enabled.unwrap_or(settings.default_mode == DefaultMode::OptOut);
    if !enabled {
        return (verdict("opted_out"), None);
    }
    let old = Review::view(request.old_object.as_deref());
    let old = old.and_then(|old| Workload::read(&old, &request.namespace, namespace));
    let unchanged = old.is_some_and(|old| old.same_work(&workload));
    if request.dry_run == Some(true) || unchanged || workload.images.is_empty() {
        return (verdict("unchanged"), None);
    }
    (verdict("hinted"), Some(workload))
}

fn is_ours_or_known(object: &ObjectView) -> bool {
    let metadata = &object.metadata;
    let ours = metadata.labels.get(MANAGED_BY.0).is_some_and(|value| value == MANAGED_BY.1);
    let known = metadata.controller().is_some_and(|owner| KNOWN_CONTROLLERS.contains(&owner.api_version.as_str()));
    ours || known || metadata.deletion_timestamp.is_some()
}

/// Denies a task whose images cannot be meant, naming each. What the schema says is the API server's to check.
pub(super) fn decide_task(review: &Review) -> Verdict {
    #[derive(serde::Deserialize)]
    struct Task {
        spec: PrewarmTaskSpec,
    }
    if !matches!(review.request.operation.as_str(), "CREATE" | "UPDATE") {
        return allowed("ignored");
    }
    let Some(raw) = review.request.object.as_deref() else { return allowed("ignored") };
    let problems = match serde_json::from_str::<Task>(raw.get()) {
        Ok(task) => validate::validate(&task.spec).err(),
        Err(error) => Some(vec![format!("spec: {error}")]),
    };
    match problems {
        None => allowed("allowed"),
        Some(problems) => Verdict { label: "denied", warnings: Vec::new(), denied: Some(problems.join("; ")) },
    }
}
