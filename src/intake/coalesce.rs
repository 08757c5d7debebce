//! From hints to tasks: one for each namespace, placement, credentials and options. *Pure.*

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    Hint,
    keys::{Key, group_key, keys_of, keys_of_task},
    ledger::{Ledger, TaskName},
};
use crate::{image::Reference, task::PrewarmTaskSpec, workload::Workload};

/// Images in one task at most, as its schema says.
const MAX_IMAGES: usize = 100;
/// Workloads named on a task at most: names of 253 characters and kinds of 63 make 80 KB of the 256 KB that an object may
/// have of annotations.
const MAX_WORKLOADS: usize = 250;

/// A task to create.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTask {
    /// Its namespace.
    pub namespace: String,
    /// Its name: the same for the same work.
    pub name: String,
    /// The workloads that asked for it, as `Kind/name`, bounded.
    pub workloads: BTreeSet<String>,
    /// How many more there are.
    pub more_workloads: usize,
    /// What it does.
    pub spec: PrewarmTaskSpec,
    /// When the first of its hints came.
    pub since: Timestamp,
    pub(super) keys: Vec<Key>,
}

/// What follows from a window's hints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Tasks to create.
    pub tasks: Vec<PlannedTask>,
    /// Older tasks of the same workloads that are not needed any more, with the reason.
    pub obsolete: Vec<(TaskName, String)>,
}

/// Collects hints into as few tasks as possible. A workload that asks for other images than before makes its own older tasks
/// obsolete, where they are open and were for workloads of these hints alone; what it still needs of them is taken over.
#[must_use]
pub fn plan(hints: &[Hint], ledger: &Ledger, now: Instant) -> Plan {
    let superseded = superseded(hints, ledger);
    let names: HashSet<TaskName> = superseded.iter().map(|(name, _)| name.clone()).collect();
    let reopened: HashSet<Key> = superseded.into_iter().flat_map(|(_, keys)| keys).collect();
    let mut groups: BTreeMap<Vec<u8>, Vec<(&Workload, Vec<&Reference>)>> = BTreeMap::new();
    for hint in hints {
        let kept: HashSet<&Key> = hint.kept.iter().collect();
        for workload in &hint.workloads {
            let keys = keys_of(workload);
            let missing = ledger.missing(&keys, &names, now);
            let needed = |key: &Key| missing.contains(key) && (!kept.contains(key) || reopened.contains(key));
            let images: Vec<&Reference> =
                workload.images.iter().zip(&keys).filter(|(_, key)| needed(key)).map(|(image, _)| image).collect();
            if !images.is_empty() {
                groups.entry(group_key(workload)).or_default().push((workload, images));
            }
        }
    }
    let since = hints.iter().map(|hint| hint.since).min().unwrap_or_default();
    let tasks: Vec<PlannedTask> = groups.iter().flat_map(|(key, members)| tasks(key, members, since)).collect();
    let successor_of = |name: &TaskName| match tasks.iter().find(|task| task.namespace == name.0) {
        Some(task) => format!("superseded by {}", task.name),
        None => "its workloads ask for other images now".to_owned(),
    };
    let mut obsolete: Vec<(TaskName, String)> =
        names.into_iter().map(|name| (name.clone(), successor_of(&name))).collect();
    obsolete.retain(|(name, _)| !tasks.iter().any(|task| task.namespace == name.0 && task.name == name.1));
    obsolete.sort();
    Plan { tasks, obsolete }
}

/// Open tasks that were made for nobody but workloads of these hints, and of which something is not asked for any more.
fn superseded(hints: &[Hint], ledger: &Ledger) -> Vec<(TaskName, Vec<Key>)> {
    let mut changed: BTreeMap<&str, (BTreeSet<String>, HashSet<Key>)> = BTreeMap::new();
    for workload in hints.iter().flat_map(|hint| &hint.workloads) {
        let (titles, wanted) = changed.entry(&workload.namespace).or_default();
        titles.insert(title(workload));
        wanted.extend(keys_of(workload));
    }
    let stale = |(namespace, (titles, wanted)): (&str, (BTreeSet<String>, HashSet<Key>))| {
        let open = ledger.open_for(namespace, &titles);
        open.into_iter().filter(|(_, keys)| keys.iter().any(|key| !wanted.contains(key))).collect::<Vec<_>>()
    };
    changed.into_iter().flat_map(stale).collect()
}

fn title(workload: &Workload) -> String {
    format!("{}/{}", workload.kind, workload.name)
}

fn tasks(key: &[u8], members: &[(&Workload, Vec<&Reference>)], since: Timestamp) -> Vec<PlannedTask> {
    let mut images: BTreeMap<&str, &Reference> = BTreeMap::new();
    for image in members.iter().flat_map(|(_, images)| images) {
        images.entry(image.normalized()).or_insert(image);
    }
    let Some((first, _)) = members.first() else { return Vec::new() };
    let all: BTreeSet<String> = members.iter().map(|(workload, _)| title(workload)).collect();
    let workloads: BTreeSet<String> = all.iter().take(MAX_WORKLOADS).cloned().collect();
    let images: Vec<(&str, &Reference)> = images.into_iter().collect();
    let task = |part: &[(&str, &Reference)]| {
        let images = part.iter().map(|(_, image)| image.as_written().to_owned()).collect();
        let spec = PrewarmTaskSpec { images, ..first.group_spec() };
        PlannedTask {
            namespace: first.namespace.clone(),
            name: name(key, part.iter().map(|(full, _)| *full)),
            more_workloads: all.len() - workloads.len(),
            workloads: workloads.clone(),
            since,
            keys: keys_of_task(&first.namespace, &spec),
            spec,
        }
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

/// The name of the task that follows one which failed, was cancelled or became obsolete.
pub(super) fn successor(name: &str, uid: &str) -> String {
    named(&Sha256::digest(format!("{name}\0{uid}")))
}

fn named(hash: &[u8]) -> String {
    format!("auto-{}", crate::hex(&hash[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str, images: &[&str]) -> Workload {
        let images = images.iter().map(|image| image.parse().unwrap()).collect();
        Workload {
            kind: "Deployment".into(),
            namespace: "shop".into(),
            name: name.into(),
            images,
            ..Workload::default()
        }
    }

    fn of(workload: Workload) -> Hint {
        beyond(workload, Vec::new())
    }

    fn beyond(workload: Workload, kept: Vec<Key>) -> Hint {
        Hint::stored(&workload.namespace.clone(), Timestamp::now(), vec![workload], kept)
    }

    fn hint(name: &str, images: &[&str]) -> Hint {
        of(workload(name, images))
    }

    /// A change of a workload's images.
    fn change(name: &str, before: &[&str], after: &[&str]) -> Hint {
        beyond(workload(name, after), keys_of(&workload(name, before)))
    }

    fn fresh(hints: &[Hint]) -> Vec<PlannedTask> {
        plan(hints, &Ledger::default(), Instant::now()).tasks
    }

    fn images(task: &PlannedTask) -> Vec<&str> {
        task.spec.images.iter().map(String::as_str).collect()
    }

    fn remember(ledger: &Ledger, tasks: &[PlannedTask]) {
        for task in tasks {
            let name = (task.namespace.clone(), task.name.clone());
            ledger.mark(name, task.keys.clone(), task.workloads.clone(), task.more_workloads == 0, Instant::now());
        }
    }

    #[test]
    fn a_helm_upgrade_is_one_task() {
        let hints: Vec<Hint> = (0..30)
            .map(|n| hint(&format!("w{n}"), &[&format!("app:{n}"), "docker.io/library/proxy:1", "proxy:1"]))
            .collect();
        let tasks = fresh(&hints);
        assert_eq!(tasks.len(), 1);
        assert_eq!((tasks[0].spec.images.len(), tasks[0].workloads.len(), tasks[0].more_workloads), (31, 30, 0));
    }

    #[test]
    fn the_same_work_has_the_same_name_in_any_order() {
        let one = fresh(&[hint("a", &["x:1", "y:1"]), hint("b", &["z:1"])]);
        let other = fresh(&[hint("b", &["z:1", "docker.io/library/y:1"]), hint("a", &["x:1"])]);
        assert_eq!(one[0].name, other[0].name);
        assert_ne!(one[0].name, fresh(&[hint("a", &["x:1"])])[0].name);
        assert_ne!(one[0].name, successor(&one[0].name, "uid"));
    }

    #[test]
    fn placement_credentials_and_namespace_keep_tasks_apart() {
        let mut placed = workload("a", &["x:1"]);
        placed.placement.node_selector.insert("pool".into(), "gpu".into());
        let mut secret = workload("a", &["x:1"]);
        secret.credentials.image_pull_secrets.push("s".into());
        let elsewhere = Workload { namespace: "bank".into(), ..workload("a", &["x:1"]) };
        assert_eq!(fresh(&[hint("a", &["x:1"]), of(placed), of(secret), of(elsewhere)]).len(), 4);
    }

    #[test]
    fn more_images_than_a_task_may_have_are_split() {
        let images: Vec<String> = (0..150).map(|n| format!("app:{n}")).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let sizes: Vec<usize> = fresh(&[hint("a", &images)]).iter().map(|task| task.spec.images.len()).collect();
        assert_eq!(sizes, [100, 50]);
    }

    #[test]
    fn a_workload_without_images_is_no_task() {
        assert_eq!(fresh(&[hint("a", &[])]), []);
    }

    #[test]
    fn a_changed_image_warms_only_what_is_new() {
        let tasks = fresh(&[change("a", &["x:1", "y:1"], &["x:2", "y:1"])]);
        assert_eq!(images(&tasks[0]), ["x:2"]);
        let mut moved = workload("a", &["x:2", "y:1"]);
        moved.placement.node_selector.insert("pool".into(), "gpu".into());
        let moved = beyond(moved, keys_of(&workload("a", &["x:1", "y:1"])));
        assert_eq!(images(&fresh(&[moved])[0]), ["x:2", "y:1"], "elsewhere nothing is there");
    }

    #[test]
    fn a_rollout_makes_its_own_open_task_obsolete_and_takes_over_what_it_needs() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let first = fresh(&[hint("a", &["x:1", "y:1"])]);
        remember(&ledger, &first);
        let next = plan(&[change("a", &["x:1", "y:1"], &["x:2", "y:1"])], &ledger, now);
        assert_eq!(images(&next.tasks[0]), ["x:2", "y:1"]);
        let why = format!("superseded by {}", next.tasks[0].name);
        assert_eq!(next.obsolete, [(("shop".to_owned(), first[0].name.clone()), why)]);
    }

    #[test]
    fn a_task_that_others_wait_for_stays() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let first = fresh(&[hint("a", &["x:1"]), hint("b", &["z:1"])]);
        remember(&ledger, &first);
        let next = plan(&[change("a", &["x:1"], &["x:2"])], &ledger, now);
        assert_eq!((next.tasks.len(), next.obsolete.len()), (1, 0));
        let both = [change("a", &["x:1"], &["x:2"]), change("b", &["z:1"], &["z:2"])];
        assert_eq!(plan(&both, &ledger, now).obsolete.len(), 1);
    }

    #[test]
    fn a_further_image_leaves_the_open_task_alone() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        remember(&ledger, &fresh(&[hint("a", &["x:1"])]));
        let next = plan(&[change("a", &["x:1"], &["x:1", "y:1"])], &ledger, now);
        assert_eq!((images(&next.tasks[0]), next.obsolete.len()), (vec!["y:1"], 0));
    }
}
