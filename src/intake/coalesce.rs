//! From hints to tasks: one for each namespace, placement, credentials and options. *Pure.*

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::seen::group_key;
use crate::{
    image::Reference,
    task::{LocalReference, PrewarmTaskSpec},
    workload::Workload,
};

/// Images in one task at most, as its schema says.
const MAX_IMAGES: usize = 100;
/// Workloads named on a task at most; more of them would be a list that nobody reads.
const MAX_WORKLOADS: usize = 20;

/// A task to create.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTask {
    /// Its namespace.
    pub namespace: String,
    /// Its name: the same for the same work.
    pub name: String,
    /// The workloads that asked for it, as `Kind/name`, bounded.
    pub workloads: Vec<String>,
    /// What it does.
    pub spec: PrewarmTaskSpec,
}

/// The spec of a workload's group: everything but images.
pub(super) fn group_spec(workload: &Workload) -> PrewarmTaskSpec {
    let filled = |empty: bool| (!empty).then_some(());
    let placement = &workload.placement;
    let secrets = &workload.credentials.image_pull_secrets;
    let reference = |name: &String| LocalReference { name: name.clone() };
    PrewarmTaskSpec {
        node_selector: filled(placement.node_selector.is_empty()).map(|()| placement.node_selector.clone()),
        node_affinity: placement.node_affinity.clone(),
        tolerations: filled(placement.tolerations.is_empty()).map(|()| placement.tolerations.clone()),
        nodes: workload.options.nodes.clone(),
        batch_size: workload.options.batch_size.clone(),
        priority: workload.options.priority,
        timeout: workload.options.timeout.clone(),
        image_pull_secrets: filled(secrets.is_empty()).map(|()| secrets.iter().map(reference).collect()),
        service_account_name: workload.credentials.service_account_name.clone(),
        ..PrewarmTaskSpec::new(Vec::new())
    }
}

/// Collects hints into as few tasks as possible.
#[must_use]
pub fn coalesce(hints: &[Workload]) -> Vec<PlannedTask> {
    let mut groups: BTreeMap<Vec<u8>, Vec<&Workload>> = BTreeMap::new();
    for hint in hints.iter().filter(|hint| !hint.images.is_empty()) {
        groups.entry(group_key(&hint.namespace, &group_spec(hint))).or_default().push(hint);
    }
    groups.iter().flat_map(|(key, members)| tasks(key, members)).collect()
}

fn tasks(key: &[u8], members: &[&Workload]) -> Vec<PlannedTask> {
    let mut images: BTreeMap<&str, &Reference> = BTreeMap::new();
    for image in members.iter().flat_map(|member| &member.images) {
        images.entry(image.normalized()).or_insert(image);
    }
    let Some(first) = members.first() else { return Vec::new() };
    let mut workloads: Vec<String> = members.iter().map(|m| format!("{}/{}", m.kind, m.name)).collect();
    workloads.sort();
    workloads.dedup();
    workloads.truncate(MAX_WORKLOADS);
    let images: Vec<(&str, &Reference)> = images.into_iter().collect();
    let task = |part: &[(&str, &Reference)]| PlannedTask {
        namespace: first.namespace.clone(),
        name: name(key, part.iter().map(|(full, _)| *full)),
        workloads: workloads.clone(),
        spec: PrewarmTaskSpec {
            images: part.iter().map(|(_, image)| image.as_written().to_owned()).collect(),
            ..group_spec(first)
        },
    };
    images.chunks(MAX_IMAGES).map(task).collect()
}

fn name<'a>(key: &[u8], images: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(key);
    for image in images {
        hasher.update([0]);
        hasher.update(image.as_bytes());
    }
    named(&hasher.finalize())
}

/// The name of the task that follows one which failed or was cancelled.
pub(super) fn successor(name: &str, uid: &str) -> String {
    named(&Sha256::digest(format!("{name}\0{uid}")))
}

fn named(hash: &[u8]) -> String {
    format!("auto-{}", crate::hex(&hash[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(name: &str, images: &[&str]) -> Workload {
        let images = images.iter().map(|image| image.parse().unwrap()).collect();
        Workload {
            kind: "Deployment".into(),
            namespace: "shop".into(),
            name: name.into(),
            images,
            ..Workload::default()
        }
    }

    #[test]
    fn a_helm_upgrade_is_one_task() {
        let hints: Vec<Workload> = (0..30)
            .map(|n| hint(&format!("w{n}"), &[&format!("app:{n}"), "docker.io/library/proxy:1", "proxy:1"]))
            .collect();
        let tasks = coalesce(&hints);
        assert_eq!(tasks.len(), 1);
        assert_eq!(tasks[0].spec.images.len(), 31);
        assert_eq!(tasks[0].workloads.len(), MAX_WORKLOADS);
    }

    #[test]
    fn the_same_work_has_the_same_name_in_any_order() {
        let one = coalesce(&[hint("a", &["x:1", "y:1"]), hint("b", &["z:1"])]);
        let other = coalesce(&[hint("b", &["z:1", "docker.io/library/y:1"]), hint("a", &["x:1"])]);
        assert_eq!(one[0].name, other[0].name);
        assert_ne!(one[0].name, coalesce(&[hint("a", &["x:1"])])[0].name);
        assert_ne!(one[0].name, successor(&one[0].name, "uid"));
    }

    #[test]
    fn placement_credentials_and_namespace_keep_tasks_apart() {
        let mut placed = hint("a", &["x:1"]);
        placed.placement.node_selector.insert("pool".into(), "gpu".into());
        let mut secret = hint("a", &["x:1"]);
        secret.credentials.image_pull_secrets.push("s".into());
        let elsewhere = Workload { namespace: "bank".into(), ..hint("a", &["x:1"]) };
        assert_eq!(coalesce(&[hint("a", &["x:1"]), placed, secret, elsewhere]).len(), 4);
    }

    #[test]
    fn more_images_than_a_task_may_have_are_split() {
        let images: Vec<String> = (0..150).map(|n| format!("app:{n}")).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let sizes: Vec<usize> = coalesce(&[hint("a", &images)]).iter().map(|task| task.spec.images.len()).collect();
        assert_eq!(sizes, [100, 50]);
    }

    #[test]
    fn a_workload_without_images_is_no_task() {
        assert_eq!(coalesce(&[hint("a", &[])]), []);
    }
}
