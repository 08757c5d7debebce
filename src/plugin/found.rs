//! From the words of a command line and the objects of a cluster to what is to be warmed. *Pure.*

use serde_json::{Value, json};

use super::Failure;
use crate::{
    image::Reference,
    workload::{Extracted, Policy, extract_documents},
};

/// Kinds with a pod template, by the names that kubectl takes.
const KINDS: [(&[&str], &str, &str); 8] = [
    (&["deploy", "deployment", "deployments", "deployment.apps", "deployments.apps"], "apps/v1", "Deployment"),
    (&["sts", "statefulset", "statefulsets", "statefulset.apps", "statefulsets.apps"], "apps/v1", "StatefulSet"),
    (&["ds", "daemonset", "daemonsets", "daemonset.apps", "daemonsets.apps"], "apps/v1", "DaemonSet"),
    (&["rs", "replicaset", "replicasets", "replicaset.apps", "replicasets.apps"], "apps/v1", "ReplicaSet"),
    (&["rc", "replicationcontroller", "replicationcontrollers"], "v1", "ReplicationController"),
    (&["job", "jobs", "job.batch", "jobs.batch"], "batch/v1", "Job"),
    (&["cj", "cronjob", "cronjobs", "cronjob.batch", "cronjobs.batch"], "batch/v1", "CronJob"),
    (&["po", "pod", "pods"], "v1", "Pod"),
];

/// What a word of the command line means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An image.
    Image(String),
    /// A workload of the cluster.
    Workload { api_version: &'static str, kind: &'static str, name: String },
}

/// An image, unless it is `KIND/NAME` with a kind that kubectl knows. (An image of that name is meant with its registry before
/// it.)
pub(super) fn read(word: &str) -> Result<What, Failure> {
    if let Some((kind, name)) = word.split_once('/') {
        let known = KINDS.iter().find(|(names, ..)| names.contains(&kind.to_lowercase().as_str()));
        if let Some((_, api_version, kind)) = known.filter(|_| !name.contains(['/', ':', '@'])) {
            return Ok(What::Workload { api_version, kind, name: name.to_owned() });
        }
    }
    match word.parse::<Reference>() {
        Ok(_) => Ok(What::Image(word.to_owned())),
        Err(error) => Err(Failure::Usage(format!("{word:?} is neither an image nor KIND/NAME: {error}"))),
    }
}

/// One document of a workload and what surrounds it. Who owns the workload does not matter: it was asked for by name.
pub(super) fn document(mut workload: Value, around: Vec<Value>) -> String {
    if let Some(metadata) = workload.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("ownerReferences");
    }
    let items: Vec<Value> = around.into_iter().chain([workload]).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// What would be warmed for the workloads of a manifest; beside it, what is to be said of the rest.
pub(super) fn workloads(text: &str, namespace: &str) -> Result<(Vec<Extracted>, Vec<String>), Failure> {
    let read = extract_documents(text, &Policy::default(), namespace);
    let (found, _) = read.map_err(|error| Failure::Usage(error.to_string()))?;
    let (mut wanted, mut notes) = (Vec::new(), Vec::new());
    for one in found {
        notes.extend(one.warnings.iter().map(|warning| format!("{}: {warning}", one.workload)));
        if one.spec.is_some() {
            wanted.push(one);
            continue;
        }
        let why = match (one.verdict, one.reason) {
            ("opted_out", _) => "prewarm.io/enabled says that it is not to be warmed",
            (_, Some(reason)) => reason,
            _ => "it names no image",
        };
        notes.push(format!("{} is left out: {why}", one.workload));
    }
    Ok((wanted, notes))
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
    fn words(#[case] word: &str, #[case] kind: Option<&str>) {
        let found = match read(word).unwrap() {
            What::Image(_) => None,
            What::Workload { kind, .. } => Some(kind),
        };
        assert_eq!(found, kind);
    }

    #[test]
    fn nonsense_is_neither() {
        let failure = read("UPPER CASE").unwrap_err();
        assert!(failure.code() == 2 && failure.message().contains("neither an image nor KIND/NAME"));
    }

    #[test]
    fn a_workload_with_what_surrounds_it() {
        let owned = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]},
            "spec": {"containers": [{"name": "c", "image": "a:1"}]}});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "annotations": {"prewarm.io/priority": "9"}}});
        let (found, notes) = workloads(&document(owned, vec![namespace]), "default").unwrap();
        let spec = found[0].spec.as_ref().unwrap();
        assert_eq!((spec.priority, &spec.images, notes.len()), (9, &vec!["a:1".to_owned()], 0));
        let out = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w",
            "annotations": {"prewarm.io/enabled": "false"}}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a"}]}}}});
        let (found, notes) = workloads(&document(out, Vec::new()), "default").unwrap();
        assert!(found.is_empty() && notes[0].contains("Deployment/w is left out: prewarm.io/enabled"), "{notes:?}");
    }
}
