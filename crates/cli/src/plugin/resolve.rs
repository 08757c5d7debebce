//! Resolution of command line arguments and manifests to images and workloads. Pure: no client, no
//! clock, no I/O.

use prewarmer_core::{
    image::ImageRef,
    workload::{Extracted, Extraction, OneShotMode, Policy, extract_documents},
};
use serde_json::{Value, json};

use super::error::CommandError;

/// Kinds with a pod template, by the names that kubectl accepts.
const KINDS: [(&[&str], &str, &str); 8] = [
    (
        &["deploy", "deployment", "deployments", "deployment.apps", "deployments.apps"],
        "apps/v1",
        "Deployment",
    ),
    (
        &["sts", "statefulset", "statefulsets", "statefulset.apps", "statefulsets.apps"],
        "apps/v1",
        "StatefulSet",
    ),
    (
        &["ds", "daemonset", "daemonsets", "daemonset.apps", "daemonsets.apps"],
        "apps/v1",
        "DaemonSet",
    ),
    (
        &["rs", "replicaset", "replicasets", "replicaset.apps", "replicasets.apps"],
        "apps/v1",
        "ReplicaSet",
    ),
    (&["rc", "replicationcontroller", "replicationcontrollers"], "v1", "ReplicationController"),
    (&["job", "jobs", "job.batch", "jobs.batch"], "batch/v1", "Job"),
    (&["cj", "cronjob", "cronjobs", "cronjob.batch", "cronjobs.batch"], "batch/v1", "CronJob"),
    (&["po", "pod", "pods"], "v1", "Pod"),
];

/// Image or workload that an argument names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WarmTarget {
    /// Image reference.
    Image(String),
    /// Workload in the cluster.
    Workload { api_version: &'static str, kind: &'static str, name: String },
}

/// Parses an argument as an image, unless it is `KIND/NAME` with a kind that kubectl knows. An
/// image with such a name must be given with its registry.
pub(super) fn parse_target(word: &str) -> Result<WarmTarget, CommandError> {
    if let Some((kind, name)) = word.split_once('/') {
        let known = KINDS.iter().find(|(names, ..)| names.contains(&kind.to_lowercase().as_str()));
        if let Some((_, api_version, kind)) = known.filter(|_| !name.contains(['/', ':', '@'])) {
            return Ok(WarmTarget::Workload { api_version, kind, name: name.to_owned() });
        }
    }
    match word.parse::<ImageRef>() {
        Ok(_) => Ok(WarmTarget::Image(word.to_owned())),
        Err(error) => {
            Err(CommandError::Usage(format!("{word:?} is neither an image nor KIND/NAME: {error}")))
        }
    }
}

/// Workload of the cluster, with the objects that decide together with it.
pub(super) struct FetchedWorkload {
    pub(super) object: Value,
    pub(super) context: Vec<Value>,
}

/// Returns one document with a workload and its cluster context.
pub(super) fn manifest_with_context(fetched: FetchedWorkload) -> String {
    let items: Vec<Value> = fetched.context.into_iter().chain([fetched.object]).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Returns the same document without owner references, because a workload that was requested by name
/// is always warmed.
pub(super) fn manifest_of_requested(mut fetched: FetchedWorkload) -> String {
    if let Some(metadata) = fetched.object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("ownerReferences");
    }
    manifest_with_context(fetched)
}

/// Returns the policy for workloads that were requested by name or by a manifest: those that run once
/// are warmed too.
pub(super) fn requested_policy() -> Policy {
    Policy { one_shot: OneShotMode::Warm, ..Policy::default() }
}

/// Returns the workloads of the manifest of one requested object, and notes about the others.
pub(super) fn extract_workloads(
    text: &str,
    namespace: &str,
) -> Result<(Vec<Extracted>, Vec<String>), CommandError> {
    extract_one(text, &requested_policy(), namespace).map(wanted)
}

/// Evaluates the manifest of one object, which must be readable.
pub(super) fn extract_one(
    text: &str,
    policy: &Policy,
    namespace: &str,
) -> Result<Extraction, CommandError> {
    let read = extract_documents(text, policy, namespace);
    let read = read.map_err(|error| CommandError::Failed(error.to_string()))?;
    match read.errors.first() {
        Some(error) => Err(CommandError::Failed(error.to_string())),
        None => Ok(read),
    }
}

/// Returns the workloads that would be warmed, and notes about the others and warnings.
pub(super) fn wanted(read: Extraction) -> (Vec<Extracted>, Vec<String>) {
    let warnings = read.warnings.iter().map(|warning| format!("warning: {warning}"));
    let (mut wanted, mut notes) = (Vec::new(), warnings.collect::<Vec<String>>());
    for one in read.workloads {
        notes.extend(one.warnings.iter().map(|warning| format!("{}: {warning}", one.workload)));
        let never = one.never_pulled.iter();
        notes.extend(never.map(|image| format!("{}: {}", one.workload, never_pulled_note(image))));
        if !one.specs.is_empty() {
            wanted.push(one);
            continue;
        }
        notes.push(format!("{} is skipped: {}", one.workload, skip_reason(&one)));
    }
    (wanted, notes)
}

/// Returns the reason why a workload is not warmed.
pub(super) fn skip_reason(one: &Extracted) -> &'static str {
    match (one.verdict, one.reason) {
        ("opted_out", _) => "opted out by prewarm.io/enabled",
        (_, Some(reason)) => reason,
        _ => "no images",
    }
}

/// Returns the note about an image that the kubelet never pulls.
fn never_pulled_note(image: &str) -> String {
    format!("image {image:?} is not warmed: its imagePullPolicy is Never")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("nginx", None)]
    #[case("library/nginx:1.27", None)]
    #[case("registry.example/job/x", None)]
    #[case("job/x:1", None)]
    #[case("deploy/web", Some("Deployment"))]
    #[case("Deployment/web", Some("Deployment"))]
    #[case("sts/db", Some("StatefulSet"))]
    #[case("cronjobs.batch/nightly", Some("CronJob"))]
    #[case("po/x", Some("Pod"))]
    fn targets_are_parsed(#[case] word: &str, #[case] kind: Option<&str>) {
        let found = match parse_target(word).unwrap() {
            WarmTarget::Image(_) => None,
            WarmTarget::Workload { kind, .. } => Some(kind),
        };
        assert_eq!(found, kind);
    }

    #[test]
    fn invalid_target_is_a_usage_error() {
        let failure = parse_target("UPPER CASE").unwrap_err();
        assert!(
            failure.exit_code() == 2
                && failure.message().contains("neither an image nor KIND/NAME")
        );
    }

    #[test]
    fn cluster_context_applies_to_a_workload() {
        let owned = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]},
            "spec": {"containers": [{"name": "c", "image": "a:1"}]}});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "annotations": {"prewarm.io/priority": "9"}}});
        let fetched = FetchedWorkload { object: owned, context: vec![namespace] };
        let (found, notes) = extract_workloads(&manifest_of_requested(fetched), "default").unwrap();
        let spec = &found[0].specs[0];
        assert_eq!((spec.priority, &spec.images, notes.len()), (9, &vec!["a:1".to_owned()], 0));
        let out = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w",
            "annotations": {"prewarm.io/enabled": "false"}}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a"}]}}}});
        let fetched = FetchedWorkload { object: out, context: Vec::new() };
        let (found, notes) = extract_workloads(&manifest_of_requested(fetched), "default").unwrap();
        assert!(
            found.is_empty()
                && notes[0].contains("Deployment/w is skipped: opted out by prewarm.io/enabled"),
            "{notes:?}"
        );
    }
}
