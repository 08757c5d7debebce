//! Index of recently requested images and of the tasks that pull them, to deduplicate hints.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use std::time::Instant;

use super::dedup_keys::{DedupKey, always_key, dedup_keys_of_task, is_always, is_wanted};
use crate::{
    annotations::{MORE_WORKLOADS_ANNOTATION, OBSOLETE_ANNOTATION, WORKLOADS_ANNOTATION},
    shrink_sparse,
    task::{Phase, PrewarmTask},
    timestamp,
};

/// Time for which a completed task still covers its images. Long enough for a rollback; short
/// enough that an image which the kubelet has garbage-collected since is warmed again at the next
/// rollout.
const COVERAGE_TTL: Duration = Duration::from_secs(3600);
/// Time for which a completed task covers an image that is pulled with `Always`. The tag may have
/// moved since, so that it is to be checked on the nodes again; workloads that use the same image and
/// are created one after another cause at most 12 checks of each node per hour.
pub const MOVING_TAG_COVERAGE: Duration = Duration::from_secs(300);
/// Maximum number of tasks in the index, each with some images: about 10 MB. Above it, all tasks
/// that are not open are removed. The cost is a few tasks whose images are already present.
const MAX_TASKS: usize = 10_000;
/// Interval at which completed tasks whose coverage has expired are removed.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// Returns the workloads that a task was created for as `Kind/name`, within the limit of the
/// annotation.
#[must_use]
pub fn workloads_of(task: &PrewarmTask) -> BTreeSet<String> {
    let named =
        task.annotations().get(WORKLOADS_ANNOTATION).map(String::as_str).unwrap_or_default();
    named.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// Reports whether a task covers no image: it failed, was cancelled, or became obsolete before it
/// completed.
#[must_use]
pub fn is_invalid(task: &PrewarmTask) -> bool {
    let phase = task.phase();
    let obsolete =
        task.annotations().contains_key(OBSOLETE_ANNOTATION) && phase != Phase::Completed;
    obsolete || matches!(phase, Phase::Failed | Phase::Cancelled)
}

/// Reports whether a completed task no longer covers one of its images, which it pulled with
/// `Always`.
#[must_use]
pub fn is_outdated(task: &PrewarmTask) -> bool {
    task.phase() == Phase::Completed
        && time_since_end(task) >= MOVING_TAG_COVERAGE
        && dedup_keys_of_task("", &task.spec).iter().any(is_always)
}

/// Namespace and name of a task.
pub type TaskName = (String, String);

/// Task created by admission.
#[derive(Debug, Clone)]
pub struct TrackedTask {
    keys: Vec<DedupKey>,
    /// Workloads that need the task, as `Kind/name`.
    pub workloads: BTreeSet<String>,
    /// True if `workloads` contains all workloads of the task.
    workloads_complete: bool,
    /// Time at which a completed task stops covering its images; `None` while the task is open.
    expires_at: Option<Instant>,
    first_seen: Instant,
    /// True if the task failed, was cancelled or is obsolete, and so covers no image.
    invalid: bool,
}

impl TrackedTask {
    /// Returns the time at which the index received the task first.
    #[must_use]
    pub fn first_seen(&self) -> Instant {
        self.first_seen
    }

    fn is_open(&self) -> bool {
        self.expires_at.is_none() && !self.invalid
    }

    /// Reports whether the task covers an image at this time that is to be pulled with `Always`, if
    /// `always` is set, or with the weaker policy.
    fn covers_at(&self, now: Instant, always: bool) -> bool {
        let early =
            if always { COVERAGE_TTL.saturating_sub(MOVING_TAG_COVERAGE) } else { Duration::ZERO };
        !self.invalid && self.expires_at.is_none_or(|until| now + early < until)
    }
}

#[derive(Debug, Default)]
struct DedupIndexState {
    tasks: HashMap<TaskName, TrackedTask>,
    by_key: HashMap<DedupKey, Vec<TaskName>>,
    last_prune: Option<Instant>,
}

/// Index of recently requested images by their keys, with the tasks that pull them.
#[derive(Debug, Default)]
pub struct DedupIndex {
    inner: RwLock<DedupIndexState>,
}

impl DedupIndex {
    fn read(&self) -> RwLockReadGuard<'_, DedupIndexState> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, DedupIndexState> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports whether tasks cover all of these keys.
    #[must_use]
    pub fn covers(&self, keys: &[DedupKey], now: Instant) -> bool {
        let inner = self.read();
        keys.iter().all(|key| inner.covers(key, &HashSet::new(), now))
    }

    /// Reports whether each key is covered, or belongs to a task received at or after `since`, even
    /// if that task failed. Such a key is not tried again before a new change requests it.
    #[must_use]
    pub fn covers_or_attempted(&self, keys: &[DedupKey], since: Instant, now: Instant) -> bool {
        let inner = self.read();
        let tried = |key: &DedupKey| {
            let mut names = inner.tasks_for(key);
            names.any(|name| inner.tasks.get(name).is_some_and(|asked| asked.first_seen >= since))
        };
        keys.iter().all(|key| inner.covers(key, &HashSet::new(), now) || tried(key))
    }

    /// Returns those of `keys` that no task outside `besides` covers.
    pub fn uncovered(
        &self,
        keys: &[DedupKey],
        besides: &HashSet<TaskName>,
        now: Instant,
    ) -> HashSet<DedupKey> {
        let inner = self.read();
        keys.iter().filter(|key| !inner.covers(key, besides, now)).copied().collect()
    }

    /// Returns the open tasks of a namespace whose workloads are all among `workloads`, with their
    /// keys.
    pub fn open_tasks_for(
        &self,
        namespace: &str,
        workloads: &BTreeSet<String>,
    ) -> Vec<(TaskName, Vec<DedupKey>)> {
        let inner = self.read();
        let theirs = |(name, asked): &(&TaskName, &TrackedTask)| {
            name.0 == namespace
                && asked.is_open()
                && asked.workloads_complete
                && asked.workloads.is_subset(workloads)
        };
        let found =
            inner.tasks.iter().filter(|(_, asked)| !asked.workloads.is_empty()).filter(theirs);
        found.map(|(name, asked)| (name.clone(), asked.keys.clone())).collect()
    }

    /// Returns the open tasks of a namespace whose list of workloads is complete and that serve no
    /// key in `wanted`.
    #[must_use]
    pub fn unneeded_tasks(
        &self,
        namespace: &str,
        wanted: &HashSet<DedupKey>,
    ) -> Vec<(TaskName, TrackedTask)> {
        let inner = self.read();
        let idle = |(name, asked): &(&TaskName, &TrackedTask)| {
            name.0 == namespace
                && asked.is_open()
                && asked.workloads_complete
                && !asked.keys.iter().any(|key| is_wanted(key, wanted))
        };
        inner.tasks.iter().filter(idle).map(|(name, asked)| (name.clone(), asked.clone())).collect()
    }

    /// Returns the namespaces with open tasks.
    #[must_use]
    pub fn namespaces_with_open_tasks(&self) -> BTreeSet<String> {
        let inner = self.read();
        inner
            .tasks
            .iter()
            .filter(|(_, asked)| asked.is_open())
            .map(|(name, _)| name.0.clone())
            .collect()
    }

    /// Inserts a task that is about to be created. `workloads_complete` states whether
    /// `workloads` contains all workloads of the task.
    pub fn insert(
        &self,
        task: TaskName,
        keys: Vec<DedupKey>,
        workloads: BTreeSet<String>,
        workloads_complete: bool,
        now: Instant,
    ) {
        self.write().insert(
            task,
            TrackedTask {
                keys,
                workloads,
                workloads_complete,
                expires_at: None,
                first_seen: now,
                invalid: false,
            },
        );
    }

    /// Invalidates a task that was marked as obsolete, so that it no longer covers its images.
    pub fn invalidate(&self, task: &TaskName) {
        if let Some(asked) = self.write().tasks.get_mut(task) {
            asked.invalid = true;
        }
    }

    /// Removes a task that was not created, or that was deleted before it ended.
    pub fn remove(&self, task: &TaskName) {
        self.write().remove(task);
    }

    /// Inserts or updates a task read from the API server, also one created by another replica or
    /// before a restart. A failed, cancelled or obsolete task covers no image.
    pub fn observe(&self, task: &PrewarmTask, now: Instant) {
        let name = (task.namespace().unwrap_or_default(), task.name_any());
        let phase = task.phase();
        let mut inner = self.write();
        let known = inner.tasks.get(&name);
        let until = (phase == Phase::Completed)
            .then(|| now + COVERAGE_TTL.saturating_sub(time_since_end(task)));
        let until = known.and_then(|known| known.expires_at).filter(|_| until.is_some()).or(until);
        let since = known.map_or(now, |known| known.first_seen);
        let asked = TrackedTask {
            keys: dedup_keys_of_task(&name.0, &task.spec),
            workloads: workloads_of(task),
            workloads_complete: !task.annotations().contains_key(MORE_WORKLOADS_ANNOTATION),
            expires_at: until,
            first_seen: since,
            invalid: is_invalid(task) || task.metadata.deletion_timestamp.is_some(),
        };
        inner.insert(name, asked);
        inner.prune(now);
    }

    /// Handles the deletion of a task. Images of a completed task stay warm and covered, and those of
    /// a failed one stay recorded as tried. An open task is removed, and so is a cancelled one whose
    /// images no workload needs any more.
    pub fn observe_deletion(&self, task: &PrewarmTask) {
        let phase = task.phase();
        let obsolete =
            task.annotations().contains_key(OBSOLETE_ANNOTATION) && phase == Phase::Cancelled;
        if !phase.is_terminal() || obsolete {
            self.remove(&(task.namespace().unwrap_or_default(), task.name_any()));
        }
    }
}

/// Returns the time since the end of a task; zero if it has no valid completion time.
fn time_since_end(task: &PrewarmTask) -> Duration {
    let end = task.status.as_ref().and_then(|status| status.completion_time.as_deref());
    let end = end.and_then(timestamp::parse);
    end.and_then(|end| Duration::try_from(Timestamp::now().duration_since(end)).ok())
        .unwrap_or_default()
}

impl DedupIndexState {
    fn covers(&self, key: &DedupKey, besides: &HashSet<TaskName>, now: Instant) -> bool {
        let always = is_always(key);
        let counts = |name: &TaskName| {
            let task = self.tasks.get(name);
            !besides.contains(name) && task.is_some_and(|task| task.covers_at(now, always))
        };
        self.tasks_for(key).any(counts)
    }

    /// Iterates over the tasks that pull the key's image with its policy or a stronger one.
    fn tasks_for(&self, key: &DedupKey) -> impl Iterator<Item = &TaskName> {
        let stronger = Some(always_key(key)).filter(|stronger| stronger != key);
        let keys = [Some(*key), stronger].into_iter().flatten();
        keys.filter_map(|key| self.by_key.get(&key)).flatten()
    }

    fn insert(&mut self, name: TaskName, asked: TrackedTask) {
        self.remove(&name);
        if self.tasks.len() >= MAX_TASKS {
            self.remove_where(|task| !task.is_open());
        }
        for key in &asked.keys {
            self.by_key.entry(*key).or_default().push(name.clone());
        }
        self.tasks.insert(name, asked);
    }

    /// Removes completed tasks whose coverage has expired, at most once per [`PRUNE_INTERVAL`].
    fn prune(&mut self, now: Instant) {
        if self.last_prune.is_some_and(|last| now < last + PRUNE_INTERVAL) {
            return;
        }
        self.last_prune = Some(now);
        self.remove_where(|task| task.expires_at.is_some_and(|expiry| expiry <= now));
        shrink_sparse(&mut self.tasks);
        shrink_sparse(&mut self.by_key);
    }

    fn remove_where(&mut self, matches: impl Fn(&TrackedTask) -> bool) {
        let names: Vec<TaskName> = self
            .tasks
            .iter()
            .filter(|(_, task)| matches(task))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &names {
            self.remove(name);
        }
    }

    fn remove(&mut self, name: &TaskName) {
        let Some(asked) = self.tasks.remove(name) else { return };
        for key in asked.keys {
            if let Some(names) = self.by_key.get_mut(&key) {
                names.retain(|known| known != name);
                if names.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{PrewarmTaskSpec, PrewarmTaskStatus, PullPolicy};

    fn task(name: &str, image: &str, phase: Phase) -> PrewarmTask {
        let mut task = PrewarmTask::new(name, PrewarmTaskSpec::new(vec![image.into()]));
        task.metadata.namespace = Some("shop".into());
        task.metadata.annotations =
            Some([(WORKLOADS_ANNOTATION.to_owned(), format!("Deployment/{name}"))].into());
        task.status = Some(PrewarmTaskStatus { phase, ..PrewarmTaskStatus::default() });
        task
    }

    fn keys(image: &str) -> Vec<DedupKey> {
        dedup_keys_of_task("shop", &PrewarmTaskSpec::new(vec![image.into()]))
    }

    #[test]
    fn deleted_tasks_without_effect_and_expired_tasks_are_removed() {
        let (index, now) = (DedupIndex::default(), Instant::now());
        let count = |index: &DedupIndex| index.read().tasks.len();
        let mut obsolete = task("a", "nginx", Phase::Cancelled);
        obsolete
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(OBSOLETE_ANNOTATION.into(), "why".into());
        index.observe(&obsolete, now);
        index.observe_deletion(&obsolete);
        assert_eq!(count(&index), 0, "no workload needs the images of an obsolete task");
        for (name, phase) in
            [("b", Phase::Cancelled), ("c", Phase::Failed), ("d", Phase::Completed)]
        {
            index.observe(&task(name, name, phase), now);
            index.observe_deletion(&task(name, name, phase));
        }
        assert_eq!(count(&index), 3, "their images were tried or are warm");
        index.observe(&task("e", "redis", Phase::Running), now + COVERAGE_TTL);
        assert_eq!(count(&index), 3, "the completed task has expired");
        assert!(!index.read().by_key.contains_key(&keys("d")[0]));
    }

    #[test]
    fn only_open_and_completed_tasks_cover() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        for (phase, covers) in [
            (Phase::Running, true),
            (Phase::Completed, true),
            (Phase::Failed, false),
            (Phase::Pending, true),
            (Phase::Cancelled, false),
        ] {
            ledger.observe(&task("a", "nginx", phase), now);
            assert_eq!(
                ledger.covers(&keys("docker.io/library/nginx:latest"), now),
                covers,
                "{phase:?}"
            );
        }
    }

    #[test]
    fn completed_task_covers_until_ttl_even_if_deleted() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        let done = task("a", "nginx:1", Phase::Completed);
        ledger.observe(&done, now);
        ledger.observe_deletion(&done);
        assert!(ledger.covers(&keys("nginx:1"), now + COVERAGE_TTL / 2));
        ledger.observe(&done, now + COVERAGE_TTL / 2);
        assert!(
            !ledger.covers(&keys("nginx:1"), now + COVERAGE_TTL),
            "a second event of the task does not extend the time"
        );
        let open = task("b", "redis:1", Phase::Running);
        ledger.observe(&open, now);
        ledger.observe_deletion(&open);
        assert!(!ledger.covers(&keys("redis:1"), now));
    }

    #[test]
    fn failed_task_counts_as_attempted() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        ledger.observe(&task("a", "nginx", Phase::Running), later);
        ledger.observe(&task("a", "nginx", Phase::Failed), later);
        assert!(!ledger.covers(&keys("nginx"), later));
        assert!(ledger.covers_or_attempted(&keys("nginx"), now, later), "since the change");
        assert!(
            !ledger.covers_or_attempted(&keys("nginx"), later + Duration::from_secs(1), later),
            "before the change"
        );
        assert!(!ledger.covers_or_attempted(&keys("redis"), now, later));
    }

    #[test]
    fn an_obsolete_task_covers_nothing() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        let mut old = task("a", "nginx", Phase::Running);
        ledger.observe(&old, now);
        old.metadata
            .annotations
            .get_or_insert_default()
            .insert(OBSOLETE_ANNOTATION.into(), "why".into());
        ledger.observe(&old, now);
        assert!(!ledger.covers(&keys("nginx"), now));
    }

    #[test]
    fn task_without_needed_images_is_unneeded() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        ledger.observe(&task("a", "nginx", Phase::Running), now);
        let unwanted = |wanted: &[DedupKey]| {
            ledger.unneeded_tasks("shop", &wanted.iter().copied().collect()).len()
        };
        assert_eq!((unwanted(&[]), unwanted(&keys("nginx")), unwanted(&keys("redis"))), (1, 0, 1));
        assert_eq!(ledger.open_tasks_for("shop", &["Deployment/a".to_owned()].into()).len(), 1);
        assert!(ledger.open_tasks_for("shop", &["Deployment/b".to_owned()].into()).is_empty());
        assert!(ledger.open_tasks_for("bank", &["Deployment/a".to_owned()].into()).is_empty());
    }

    #[test]
    fn a_moving_tag_is_covered_while_its_task_is_open_and_for_a_short_time_after() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        let moving = keys("nginx");
        assert!(is_always(&moving[0]));
        ledger.observe(&task("a", "nginx", Phase::Running), now);
        assert!(ledger.covers(&moving, now + COVERAGE_TTL), "the task is open");
        ledger.observe(&task("a", "nginx", Phase::Completed), now);
        assert!(ledger.covers(&moving, now + MOVING_TAG_COVERAGE.mul_f32(0.99)));
        assert!(!ledger.covers(&moving, now + MOVING_TAG_COVERAGE));
        let spec = PrewarmTaskSpec {
            image_pull_policy: Some(PullPolicy::IfNotPresent),
            ..PrewarmTaskSpec::new(vec!["nginx".into()])
        };
        let weaker = dedup_keys_of_task("shop", &spec);
        let later = now + COVERAGE_TTL.mul_f32(0.99);
        assert!(ledger.covers(&weaker, later), "present images are covered for longer");
        assert!(!ledger.covers(&weaker, now + COVERAGE_TTL));
        assert!(ledger.covers_or_attempted(&moving, now, later), "no second task for one change");
    }

    #[test]
    fn a_task_with_the_weaker_policy_does_not_cover_a_moving_tag() {
        let (ledger, now) = (DedupIndex::default(), Instant::now());
        let mut stored = task("a", "nginx", Phase::Running);
        stored.spec.image_pull_policy = Some(PullPolicy::IfNotPresent);
        ledger.observe(&stored, now);
        assert!(!ledger.covers(&keys("nginx"), now));
        assert!(ledger.covers(&dedup_keys_of_task("shop", &stored.spec), now));
        let unneeded = |wanted: Vec<DedupKey>| {
            ledger.unneeded_tasks("shop", &wanted.into_iter().collect()).len()
        };
        assert_eq!(unneeded(keys("nginx")), 1, "the workload needs the stronger policy");
        stored.spec.image_pull_policy = None;
        ledger.observe(&stored, now);
        let mut weaker = stored.spec.clone();
        weaker.image_pull_policy = Some(PullPolicy::IfNotPresent);
        assert_eq!(unneeded(dedup_keys_of_task("shop", &weaker)), 0);
    }

    #[test]
    fn only_completed_tasks_with_moving_tags_become_outdated() {
        let ended = |image: &str, phase, seconds: u64| {
            let mut task = task("a", image, phase);
            let end = Timestamp::now() - Duration::from_secs(seconds);
            task.status.as_mut().unwrap().completion_time = Some(end.to_string());
            is_outdated(&task)
        };
        assert!(ended("nginx", Phase::Completed, 301));
        assert!(!ended("nginx", Phase::Completed, 290));
        assert!(!ended("nginx", Phase::Running, 301));
        assert!(!ended("nginx:1", Phase::Completed, 4000));
    }
}
