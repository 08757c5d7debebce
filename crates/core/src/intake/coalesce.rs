//! Coalescing of confirmed hints into tasks: one task for each combination of namespace,
//! placement, credentials and options. Pure: no client, no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::time::Instant;

use super::{
    ConfirmedHint,
    dedup_index::{DedupIndex, MOVING_TAG_COVERAGE, TaskName},
    dedup_keys::{DedupKey, dedup_keys, dedup_keys_of_task, group_key, is_satisfied, is_wanted},
};
use crate::{
    image::ImageRef,
    task::{PrewarmTaskSpec, PullPolicy},
    workload::Workload,
};

/// Maximum number of images in one task, as in the schema of `spec.images`.
const MAX_IMAGES: usize = 100;
/// Maximum number of workloads named on a task. Names of up to 253 characters and kinds of up to
/// 63 characters take 80 KB of the 256 KB that Kubernetes allows for an object's annotations.
const MAX_WORKLOADS: usize = 250;

/// Images of a window that become the same tasks.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    /// Hash of the fields that the workloads have in common.
    fields: Vec<u8>,
    /// Pull policy of the task; `None`: those of the images' tags.
    pull_policy: Option<PullPolicy>,
}

/// Workloads of a group, each with the images that it needs.
type Members<'a> = Vec<(&'a Workload, Vec<&'a ImageRef>)>;

/// Task to create.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskDraft {
    /// Namespace of the task.
    pub namespace: String,
    /// Name of the task, derived from its content: equal work results in an equal name.
    pub name: String,
    /// Workloads that need the task, as `Kind/name`; at most 250.
    pub workloads: BTreeSet<String>,
    /// Number of further workloads that `workloads` does not contain.
    pub more_workloads: usize,
    /// Spec of the task.
    pub spec: PrewarmTaskSpec,
    /// Time at which the first of its hints was received.
    pub first_hint_at: Timestamp,
    /// Deduplication keys of the images.
    pub keys: Vec<DedupKey>,
}

/// Result of coalescing the hints of one window.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CoalescedTasks {
    /// Tasks to create.
    pub tasks: Vec<TaskDraft>,
    /// Obsolete open tasks of the same workloads, each with the reason.
    pub obsolete: Vec<(TaskName, String)>,
}

/// Coalesces hints into as few tasks as possible. When a workload requires other images than
/// before, its older tasks become obsolete if they are open and were created only for workloads of
/// these hints. Images of them that are still needed become part of the new tasks.
#[must_use]
pub fn coalesce_hints(
    hints: &[ConfirmedHint],
    ledger: &DedupIndex,
    now: Instant,
) -> CoalescedTasks {
    let superseded = superseded_tasks(hints, ledger);
    let names: HashSet<TaskName> = superseded.iter().map(|(name, _)| name.clone()).collect();
    let reopened: HashSet<DedupKey> = superseded.into_iter().flat_map(|(_, keys)| keys).collect();
    let reopened: HashSet<&DedupKey> = reopened.iter().collect();
    let mut groups: BTreeMap<Group, Members<'_>> = BTreeMap::new();
    for hint in hints {
        let kept: HashSet<&DedupKey> = hint.kept.iter().collect();
        for workload in &hint.workloads {
            let keys = dedup_keys(workload);
            let missing = ledger.uncovered(&keys, &names, now);
            let needed = |key: &DedupKey| {
                missing.contains(key) && (!is_satisfied(key, &kept) || is_satisfied(key, &reopened))
            };
            let images = workload.images_with_overrides().zip(&keys);
            let needed = images.filter(|(_, key)| needed(key)).map(|(image, _)| image);
            let mut by_policy: BTreeMap<Option<PullPolicy>, Vec<&ImageRef>> = BTreeMap::new();
            for (image, policy) in needed {
                by_policy.entry(policy).or_default().push(image);
            }
            for (pull_policy, images) in by_policy {
                let group = Group { fields: group_key(workload), pull_policy };
                groups.entry(group).or_default().push((workload, images));
            }
        }
    }
    let since = hints.iter().map(|hint| hint.since).min().unwrap_or_default();
    let tasks: Vec<TaskDraft> =
        groups.iter().flat_map(|(key, members)| task_drafts(key, members, since)).collect();
    let successor_of = |name: &TaskName| match tasks.iter().find(|task| task.namespace == name.0) {
        Some(task) => format!("superseded by {}", task.name),
        None => "its workloads now require other images".to_owned(),
    };
    let mut obsolete: Vec<(TaskName, String)> =
        names.into_iter().map(|name| (name.clone(), successor_of(&name))).collect();
    obsolete.retain(|(name, _)| {
        !tasks.iter().any(|task| task.namespace == name.0 && task.name == name.1)
    });
    obsolete.sort();
    CoalescedTasks { tasks, obsolete }
}

/// Returns the open tasks that were created only for workloads of these hints and that contain an
/// image no longer needed, each with its deduplication keys.
fn superseded_tasks(
    hints: &[ConfirmedHint],
    ledger: &DedupIndex,
) -> Vec<(TaskName, Vec<DedupKey>)> {
    let mut changed: BTreeMap<&str, (BTreeSet<String>, HashSet<DedupKey>)> = BTreeMap::new();
    for workload in hints.iter().flat_map(|hint| &hint.workloads) {
        let (titles, wanted) = changed.entry(&workload.namespace).or_default();
        titles.insert(kind_and_name(workload));
        wanted.extend(dedup_keys(workload));
    }
    let stale = |(namespace, (titles, wanted)): (&str, (BTreeSet<String>, HashSet<DedupKey>))| {
        let open = ledger.open_tasks_for(namespace, &titles);
        open.into_iter()
            .filter(|(_, keys)| keys.iter().any(|key| !is_wanted(key, &wanted)))
            .collect::<Vec<_>>()
    };
    changed.into_iter().flat_map(stale).collect()
}

fn kind_and_name(workload: &Workload) -> String {
    format!("{}/{}", workload.kind, workload.name)
}

fn task_drafts(group: &Group, members: &Members<'_>, since: Timestamp) -> Vec<TaskDraft> {
    let mut images: BTreeMap<&str, &ImageRef> = BTreeMap::new();
    for image in members.iter().flat_map(|(_, images)| images) {
        images.entry(image.normalized()).or_insert(image);
    }
    let Some((first, _)) = members.first() else { return Vec::new() };
    let all: BTreeSet<String> =
        members.iter().map(|(workload, _)| kind_and_name(workload)).collect();
    let workloads: BTreeSet<String> = all.iter().take(MAX_WORKLOADS).cloned().collect();
    let images: Vec<(&str, &ImageRef)> = images.into_iter().collect();
    let task = |part: &[(&str, &ImageRef)]| {
        let images = part.iter().map(|(_, image)| image.as_written().to_owned()).collect();
        let image_pull_policy = group.pull_policy;
        let spec = PrewarmTaskSpec { images, image_pull_policy, ..first.task_spec() };
        TaskDraft {
            namespace: first.namespace.clone(),
            name: task_name(group, part.iter().map(|(_, image)| *image)),
            more_workloads: all.len() - workloads.len(),
            workloads: workloads.clone(),
            first_hint_at: since,
            keys: dedup_keys_of_task(&first.namespace, &spec),
            spec,
        }
    };
    images.chunks(MAX_IMAGES).map(task).collect()
}

/// Returns the name of a task. It depends on the policy that applies to each image: a task that
/// pulls an image with `Always` has another name than one that does not.
fn task_name<'a>(group: &Group, images: impl Iterator<Item = &'a ImageRef>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(&group.fields);
    for image in images {
        hasher.update([0]);
        hasher.update(image.normalized().as_bytes());
        if PullPolicy::effective(group.pull_policy, image) == PullPolicy::Always {
            hasher.update([1]);
        }
    }
    name_from_hash(&hasher.finalize())
}

/// Returns the name of the task that checks the tags of an outdated one again. All replicas use the
/// same name within [`MOVING_TAG_COVERAGE`], so that they create one task; at the end of an interval
/// it can be two, of which the second finds the images present.
#[must_use]
pub fn renewal_name(name: &str, now: Timestamp) -> String {
    let interval = now.as_second().unsigned_abs() / MOVING_TAG_COVERAGE.as_secs();
    successor_name(name, &format!("renewal {interval}"))
}

/// Returns the name of the task that replaces a failed, cancelled or obsolete one.
#[must_use]
pub fn successor_name(name: &str, uid: &str) -> String {
    name_from_hash(&Sha256::digest(format!("{name}\0{uid}")))
}

fn name_from_hash(hash: &[u8]) -> String {
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

    fn hint_of(workload: Workload) -> ConfirmedHint {
        hint_with_previous_keys(workload, Vec::new())
    }

    fn hint_with_previous_keys(workload: Workload, kept: Vec<DedupKey>) -> ConfirmedHint {
        ConfirmedHint::from_stored(
            &workload.namespace.clone(),
            Timestamp::now(),
            vec![workload],
            kept,
        )
    }

    fn hint(name: &str, images: &[&str]) -> ConfirmedHint {
        hint_of(workload(name, images))
    }

    /// Returns the hint for a change of a workload's images.
    fn image_change(name: &str, before: &[&str], after: &[&str]) -> ConfirmedHint {
        hint_with_previous_keys(workload(name, after), dedup_keys(&workload(name, before)))
    }

    fn coalesced_without_index(hints: &[ConfirmedHint]) -> Vec<TaskDraft> {
        coalesce_hints(hints, &DedupIndex::default(), Instant::now()).tasks
    }

    fn images(task: &TaskDraft) -> Vec<&str> {
        task.spec.images.iter().map(String::as_str).collect()
    }

    fn insert_tasks(ledger: &DedupIndex, tasks: &[TaskDraft]) {
        for task in tasks {
            let name = (task.namespace.clone(), task.name.clone());
            ledger.insert(
                name,
                task.keys.clone(),
                task.workloads.clone(),
                task.more_workloads == 0,
                Instant::now(),
            );
        }
    }

    #[test]
    fn helm_upgrade_creates_one_task() {
        let hints: Vec<ConfirmedHint> = (0..30)
            .map(|n| {
                hint(
                    &format!("w{n}"),
                    &[&format!("app:{n}"), "docker.io/library/proxy:1", "proxy:1"],
                )
            })
            .collect();
        let tasks = coalesced_without_index(&hints);
        assert_eq!(tasks.len(), 1);
        assert_eq!(
            (tasks[0].spec.images.len(), tasks[0].workloads.len(), tasks[0].more_workloads),
            (31, 30, 0)
        );
    }

    #[test]
    fn task_name_is_independent_of_order() {
        let one = coalesced_without_index(&[hint("a", &["x:1", "y:1"]), hint("b", &["z:1"])]);
        let other = coalesced_without_index(&[
            hint("b", &["z:1", "docker.io/library/y:1"]),
            hint("a", &["x:1"]),
        ]);
        assert_eq!(one[0].name, other[0].name);
        assert_ne!(one[0].name, coalesced_without_index(&[hint("a", &["x:1"])])[0].name);
        assert_ne!(one[0].name, successor_name(&one[0].name, "uid"));
    }

    #[test]
    fn placement_credentials_and_namespace_separate_tasks() {
        let mut placed = workload("a", &["x:1"]);
        placed.placement.node_selector.insert("pool".into(), "gpu".into());
        let mut secret = workload("a", &["x:1"]);
        secret.credentials.image_pull_secrets.push("s".into());
        let elsewhere = Workload { namespace: "bank".into(), ..workload("a", &["x:1"]) };
        assert_eq!(
            coalesced_without_index(&[
                hint("a", &["x:1"]),
                hint_of(placed),
                hint_of(secret),
                hint_of(elsewhere)
            ])
            .len(),
            4
        );
    }

    #[test]
    fn images_above_limit_are_split() {
        let images: Vec<String> = (0..150).map(|n| format!("app:{n}")).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let sizes: Vec<usize> = coalesced_without_index(&[hint("a", &images)])
            .iter()
            .map(|task| task.spec.images.len())
            .collect();
        assert_eq!(sizes, [100, 50]);
    }

    #[test]
    fn workload_without_images_creates_no_task() {
        assert_eq!(coalesced_without_index(&[hint("a", &[])]), []);
    }

    #[test]
    fn changed_image_creates_task_with_new_images_only() {
        let tasks = coalesced_without_index(&[image_change("a", &["x:1", "y:1"], &["x:2", "y:1"])]);
        assert_eq!(images(&tasks[0]), ["x:2"]);
        let mut moved = workload("a", &["x:2", "y:1"]);
        moved.placement.node_selector.insert("pool".into(), "gpu".into());
        let moved = hint_with_previous_keys(moved, dedup_keys(&workload("a", &["x:1", "y:1"])));
        assert_eq!(
            images(&coalesced_without_index(&[moved])[0]),
            ["x:2", "y:1"],
            "images on other nodes do not count as present"
        );
    }

    #[test]
    fn rollout_makes_open_task_obsolete_and_keeps_needed_images() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        let first = coalesced_without_index(&[hint("a", &["x:1", "y:1"])]);
        insert_tasks(&ledger, &first);
        let next =
            coalesce_hints(&[image_change("a", &["x:1", "y:1"], &["x:2", "y:1"])], &ledger, now);
        assert_eq!(images(&next.tasks[0]), ["x:2", "y:1"]);
        let why = format!("superseded by {}", next.tasks[0].name);
        assert_eq!(next.obsolete, [(("shop".to_owned(), first[0].name.clone()), why)]);
    }

    #[test]
    fn task_of_other_workloads_is_not_obsolete() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        let first = coalesced_without_index(&[hint("a", &["x:1"]), hint("b", &["z:1"])]);
        insert_tasks(&ledger, &first);
        let next = coalesce_hints(&[image_change("a", &["x:1"], &["x:2"])], &ledger, now);
        assert_eq!((next.tasks.len(), next.obsolete.len()), (1, 0));
        let both = [image_change("a", &["x:1"], &["x:2"]), image_change("b", &["z:1"], &["z:2"])];
        assert_eq!(coalesce_hints(&both, &ledger, now).obsolete.len(), 1);
    }

    #[test]
    fn additional_image_does_not_make_open_task_obsolete() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        insert_tasks(&ledger, &coalesced_without_index(&[hint("a", &["x:1"])]));
        let next = coalesce_hints(&[image_change("a", &["x:1"], &["x:1", "y:1"])], &ledger, now);
        assert_eq!((images(&next.tasks[0]), next.obsolete.len()), (vec!["y:1"], 0));
    }

    /// Returns the hint for a workload whose images have the pull policy of their tags, except for
    /// the first `many`, which have this one.
    fn hint_with_policy(
        name: &str,
        images: &[&str],
        policy: PullPolicy,
        many: usize,
    ) -> ConfirmedHint {
        let pull_policies = (0..many).map(|index| (index, policy)).collect();
        hint_of(Workload { pull_policies, ..workload(name, images) })
    }

    #[test]
    fn each_pull_policy_is_a_task() {
        let hint = |policy| hint_with_policy("a", &["x:1", "y:1", "z"], policy, 1);
        let tasks = coalesced_without_index(&[hint(PullPolicy::Always)]);
        let found: Vec<_> =
            tasks.iter().map(|task| (images(task), task.spec.image_pull_policy)).collect();
        assert_eq!(found, [(vec!["y:1", "z"], None), (vec!["x:1"], Some(PullPolicy::Always))]);
        assert_ne!(tasks[0].name, tasks[1].name);
        assert_eq!(tasks[1].workloads, ["Deployment/a".to_owned()].into());
        let again = coalesced_without_index(&[hint(PullPolicy::Always)]);
        assert!(again.iter().zip(&tasks).all(|(again, task)| again.name == task.name));
    }

    #[test]
    fn names_state_the_policy_and_are_those_of_earlier_versions_without_always() {
        // The formula of versions that pulled every image with IfNotPresent.
        let earlier = |image: &str| {
            let mut hasher = Sha256::new();
            hasher.update(group_key(&workload("a", &[])));
            hasher.update([0]);
            hasher.update(image.parse::<ImageRef>().unwrap().normalized());
            name_from_hash(&hasher.finalize())
        };
        let name = |hint: ConfirmedHint| coalesced_without_index(&[hint])[0].name.clone();
        assert_eq!(name(hint("a", &["x:1"])), earlier("x:1"));
        assert_ne!(
            name(hint("a", &["x"])),
            earlier("x"),
            "a task of an earlier version is no substitute"
        );
        let with = |image, policy| name(hint_with_policy("a", &[image], policy, 1));
        assert_eq!(with("x", PullPolicy::IfNotPresent), earlier("x"));
        assert_ne!(with("x:1", PullPolicy::Always), earlier("x:1"));
    }

    #[test]
    fn a_stronger_policy_of_the_same_image_is_a_change_and_a_weaker_one_is_none() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        let plain = workload("a", &["x:1", "y:1"]);
        let always = Workload { pull_policies: [(0, PullPolicy::Always)].into(), ..plain.clone() };
        insert_tasks(&ledger, &coalesced_without_index(&[hint_of(plain.clone())]));
        let raised = hint_with_previous_keys(always.clone(), dedup_keys(&plain));
        let next = coalesce_hints(&[raised], &ledger, now);
        let found: Vec<_> = next.tasks.iter().map(images).collect();
        assert_eq!(found, [["y:1"], ["x:1"]], "the open task pulls x:1 with the weaker policy");
        assert_eq!(next.obsolete.len(), 1);
        let ledger = DedupIndex::default();
        insert_tasks(&ledger, &coalesced_without_index(&[hint_of(always.clone())]));
        let lowered = hint_with_previous_keys(plain.clone(), dedup_keys(&always));
        assert_eq!(lowered.new_keys(), [] as [DedupKey; 0]);
        let next = coalesce_hints(&[lowered, hint_of(plain)], &ledger, now);
        assert_eq!(next, CoalescedTasks::default());
    }

    #[test]
    fn a_second_hint_for_a_moving_tag_creates_no_task_while_the_first_is_open() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        insert_tasks(&ledger, &coalesced_without_index(&[hint("a", &["x"])]));
        let weaker = hint_with_policy("c", &["x"], PullPolicy::IfNotPresent, 1);
        let again = [hint("a", &["x"]), hint("b", &["docker.io/library/x:latest"]), weaker];
        assert_eq!(coalesce_hints(&again, &ledger, now).tasks, []);
        let ledger = DedupIndex::default();
        let weaker = hint_with_policy("a", &["x"], PullPolicy::IfNotPresent, 1);
        insert_tasks(&ledger, &coalesced_without_index(&[weaker]));
        assert_eq!(coalesce_hints(&[hint("b", &["x"])], &ledger, now).tasks.len(), 1);
    }

    #[test]
    fn renewals_have_one_name_per_interval() {
        let at = |second| renewal_name("auto-1", Timestamp::from_second(second).unwrap());
        assert_eq!(at(600), at(899));
        assert_ne!(at(600), at(900));
        assert_ne!(at(600), "auto-1");
    }
}
