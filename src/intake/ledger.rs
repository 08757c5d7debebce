//! What has been asked for lately, and by which tasks.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use super::keys::{Key, keys_of_task};
use crate::task::{OBSOLETE_ANNOTATION, Phase, PrewarmTask};

/// How long an image counts as asked for after its task has ended. Long enough for a rollback; short enough that an image
/// that the kubelet has collected in the meantime is warmed again at the next rollout.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Tasks kept, and with them some images each: about 10 MB. Above it those that have ended are forgotten, which costs a few
/// tasks that find their images present.
const MAX_TASKS: usize = 10_000;

/// Images of completed tasks that count no longer are dropped this often.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Names the workloads of a task, separated by commas.
pub const WORKLOADS_ANNOTATION: &str = "prewarm.io/workloads";
/// Counts the workloads that [`WORKLOADS_ANNOTATION`] has no room for.
pub const MORE_WORKLOADS_ANNOTATION: &str = "prewarm.io/more-workloads";
/// Says of a task that its workloads' images are rewritten by another webhook, and how.
pub const REWRITTEN_ANNOTATION: &str = "prewarm.io/rewritten-images";

/// `Kind/name` of the workloads that a task was made for, as far as it has room for them.
#[must_use]
pub fn workloads_of(task: &PrewarmTask) -> BTreeSet<String> {
    let named = task.annotations().get(WORKLOADS_ANNOTATION).map(String::as_str).unwrap_or_default();
    named.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// Whether a task covers nothing: it failed, was cancelled, or is not needed any more and will not be completed.
pub(super) fn is_void(task: &PrewarmTask) -> bool {
    let phase = task.phase();
    let obsolete = task.annotations().contains_key(OBSOLETE_ANNOTATION) && phase != Phase::Completed;
    obsolete || matches!(phase, Phase::Failed | Phase::Cancelled)
}

/// A task's namespace and name.
pub type TaskName = (String, String);

/// A task that was made by admission.
#[derive(Debug, Clone)]
pub struct Asked {
    keys: Vec<Key>,
    /// `Kind/name` of the workloads that asked for it.
    pub workloads: BTreeSet<String>,
    /// Whether these are all of them.
    whole: bool,
    /// None while it is open.
    until: Option<Instant>,
    since: Instant,
    /// It failed, was cancelled or is obsolete: it covers nothing.
    void: bool,
}

impl Asked {
    /// When it was first heard of.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    fn is_open(&self) -> bool {
        self.until.is_none() && !self.void
    }

    fn counts(&self, now: Instant) -> bool {
        !self.void && self.until.is_none_or(|until| now < until)
    }
}

#[derive(Debug, Default)]
struct Inner {
    tasks: HashMap<TaskName, Asked>,
    by_key: HashMap<Key, Vec<TaskName>>,
    pruned: Option<Instant>,
}

/// Images asked for lately, by where and with what, and the tasks that ask.
#[derive(Debug, Default)]
pub struct Ledger {
    inner: RwLock<Inner>,
}

impl Ledger {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all of these were asked for already.
    #[must_use]
    pub fn covers(&self, keys: &[Key], now: Instant) -> bool {
        let inner = self.read();
        keys.iter().all(|key| inner.covers(key, &HashSet::new(), now))
    }

    /// Whether each of these is covered, or was tried by a task since then and could not be had: it is not tried again before it
    /// is asked for again.
    #[must_use]
    pub fn covers_or_tried(&self, keys: &[Key], since: Instant, now: Instant) -> bool {
        let inner = self.read();
        let tried = |key: &Key| {
            let names = inner.by_key.get(key).into_iter().flatten();
            names.filter_map(|name| inner.tasks.get(name)).any(|asked| asked.since >= since)
        };
        keys.iter().all(|key| inner.covers(key, &HashSet::new(), now) || tried(key))
    }

    /// Those of `keys` that no task asks for, or only tasks of `besides`.
    pub(super) fn missing(&self, keys: &[Key], besides: &HashSet<TaskName>, now: Instant) -> HashSet<Key> {
        let inner = self.read();
        keys.iter().filter(|key| !inner.covers(key, besides, now)).copied().collect()
    }

    /// The open tasks of a namespace whose workloads are all among `workloads`, and what they ask for.
    pub(super) fn open_for(&self, namespace: &str, workloads: &BTreeSet<String>) -> Vec<(TaskName, Vec<Key>)> {
        let inner = self.read();
        let theirs = |(name, asked): &(&TaskName, &Asked)| {
            name.0 == namespace && asked.is_open() && asked.whole && asked.workloads.is_subset(workloads)
        };
        let found = inner.tasks.iter().filter(|(_, asked)| !asked.workloads.is_empty()).filter(theirs);
        found.map(|(name, asked)| (name.clone(), asked.keys.clone())).collect()
    }

    /// The open tasks of a namespace that know all their workloads, and ask for nothing of `wanted`.
    #[must_use]
    pub fn unwanted(&self, namespace: &str, wanted: &HashSet<Key>) -> Vec<(TaskName, Asked)> {
        let inner = self.read();
        let idle = |(name, asked): &(&TaskName, &Asked)| {
            name.0 == namespace && asked.is_open() && asked.whole && !asked.keys.iter().any(|key| wanted.contains(key))
        };
        inner.tasks.iter().filter(idle).map(|(name, asked)| (name.clone(), asked.clone())).collect()
    }

    /// The namespaces with open tasks.
    #[must_use]
    pub fn namespaces(&self) -> BTreeSet<String> {
        let inner = self.read();
        inner.tasks.iter().filter(|(_, asked)| asked.is_open()).map(|(name, _)| name.0.clone()).collect()
    }

    /// Notes that a task will ask for these.
    pub(super) fn mark(&self, task: TaskName, keys: Vec<Key>, workloads: BTreeSet<String>, whole: bool, now: Instant) {
        self.write().put(task, Asked { keys, workloads, whole, until: None, since: now, void: false });
    }

    /// The task counts no longer: it was marked as obsolete.
    pub fn void(&self, task: &TaskName) {
        if let Some(asked) = self.write().tasks.get_mut(task) {
            asked.void = true;
        }
    }

    /// The task was never made, or is gone with all that it had to do.
    pub(super) fn forget(&self, task: &TaskName) {
        self.write().remove(task);
    }

    /// Learns from a task that exists, whoever made it: another replica, or this one before a restart. One that failed, was
    /// cancelled or is obsolete covers nothing.
    pub fn learn(&self, task: &PrewarmTask, now: Instant) {
        let name = (task.namespace().unwrap_or_default(), task.name_any());
        let phase = task.phase();
        let mut inner = self.write();
        let known = inner.tasks.get(&name);
        let until = (phase == Phase::Completed).then(|| now + LIFETIME.saturating_sub(age(task)));
        let until = known.and_then(|known| known.until).filter(|_| until.is_some()).or(until);
        let since = known.map_or(now, |known| known.since);
        let asked = Asked {
            keys: keys_of_task(&name.0, &task.spec),
            workloads: workloads_of(task),
            whole: !task.annotations().contains_key(MORE_WORKLOADS_ANNOTATION),
            until,
            since,
            void: is_void(task) || task.metadata.deletion_timestamp.is_some(),
        };
        inner.put(name, asked);
        inner.prune(now);
    }

    /// A task was deleted. What it had warmed stays warm, and what it failed to warm was tried; what it had still to do, or what no
    /// workload needs, is not asked for any more.
    pub fn removed(&self, task: &PrewarmTask) {
        let phase = task.phase();
        let obsolete = task.annotations().contains_key(OBSOLETE_ANNOTATION) && phase == Phase::Cancelled;
        if !phase.is_terminal() || obsolete {
            self.forget(&(task.namespace().unwrap_or_default(), task.name_any()));
        }
    }
}

/// How long ago a task has ended.
fn age(task: &PrewarmTask) -> Duration {
    let end = task.status.as_ref().and_then(|status| status.completion_time.as_deref());
    let end = end.and_then(|time| time.parse::<Timestamp>().ok());
    end.and_then(|end| Duration::try_from(Timestamp::now().duration_since(end)).ok()).unwrap_or_default()
}

impl Inner {
    fn covers(&self, key: &Key, besides: &HashSet<TaskName>, now: Instant) -> bool {
        let counts = |name: &TaskName| !besides.contains(name) && self.tasks.get(name).is_some_and(|t| t.counts(now));
        self.by_key.get(key).is_some_and(|names| names.iter().any(counts))
    }

    fn put(&mut self, name: TaskName, asked: Asked) {
        self.remove(&name);
        if self.tasks.len() >= MAX_TASKS {
            self.remove_where(|asked| !asked.is_open());
        }
        for key in &asked.keys {
            self.by_key.entry(*key).or_default().push(name.clone());
        }
        self.tasks.insert(name, asked);
    }

    /// Drops completed tasks whose images count no longer.
    fn prune(&mut self, now: Instant) {
        if self.pruned.is_some_and(|last| now < last + PRUNE_EVERY) {
            return;
        }
        self.pruned = Some(now);
        self.remove_where(|asked| asked.until.is_some_and(|until| until <= now));
    }

    fn remove_where(&mut self, matches: impl Fn(&Asked) -> bool) {
        let names: Vec<TaskName> =
            self.tasks.iter().filter(|(_, asked)| matches(asked)).map(|(name, _)| name.clone()).collect();
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
    use crate::task::{PrewarmTaskSpec, PrewarmTaskStatus};

    fn task(name: &str, image: &str, phase: Phase) -> PrewarmTask {
        let mut task = PrewarmTask::new(name, PrewarmTaskSpec::new(vec![image.into()]));
        task.metadata.namespace = Some("shop".into());
        task.metadata.annotations = Some([(WORKLOADS_ANNOTATION.to_owned(), format!("Deployment/{name}"))].into());
        task.status = Some(PrewarmTaskStatus { phase, ..PrewarmTaskStatus::default() });
        task
    }

    fn keys(image: &str) -> Vec<Key> {
        keys_of_task("shop", &PrewarmTaskSpec::new(vec![image.into()]))
    }

    #[test]
    fn open_and_completed_tasks_cover_and_others_do_not() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        for (phase, covers) in [
            (Phase::Running, true),
            (Phase::Completed, true),
            (Phase::Failed, false),
            (Phase::Pending, true),
            (Phase::Cancelled, false),
        ] {
            ledger.learn(&task("a", "nginx", phase), now);
            assert_eq!(ledger.covers(&keys("docker.io/library/nginx:latest"), now), covers, "{phase:?}");
        }
    }

    #[test]
    fn what_was_warmed_is_forgotten_after_a_while_and_counts_even_when_its_task_is_gone() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let done = task("a", "nginx", Phase::Completed);
        ledger.learn(&done, now);
        ledger.removed(&done);
        assert!(ledger.covers(&keys("nginx"), now + LIFETIME / 2));
        ledger.learn(&done, now + LIFETIME / 2);
        assert!(!ledger.covers(&keys("nginx"), now + LIFETIME), "told again, it does not live longer");
        let open = task("b", "redis", Phase::Running);
        ledger.learn(&open, now);
        ledger.removed(&open);
        assert!(!ledger.covers(&keys("redis"), now));
    }

    #[test]
    fn nothing_is_kept_of_deleted_tasks_that_count_no_longer() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let kept = |ledger: &Ledger| ledger.read().tasks.len();
        let mut obsolete = task("a", "nginx", Phase::Cancelled);
        obsolete.metadata.annotations.get_or_insert_default().insert(OBSOLETE_ANNOTATION.into(), "why".into());
        ledger.learn(&obsolete, now);
        ledger.removed(&obsolete);
        assert_eq!(kept(&ledger), 0, "no workload needs its images");
        for (name, phase) in [("b", Phase::Cancelled), ("c", Phase::Failed), ("d", Phase::Completed)] {
            ledger.learn(&task(name, name, phase), now);
            ledger.removed(&task(name, name, phase));
        }
        assert_eq!(kept(&ledger), 3, "they were tried, or are warm");
        ledger.learn(&task("e", "redis", Phase::Running), now + LIFETIME);
        assert_eq!((kept(&ledger), ledger.read().by_key.contains_key(&keys("d")[0])), (3, false), "its hour is over");
    }

    #[test]
    fn what_was_tried_and_failed_is_not_tried_again_at_once() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        ledger.learn(&task("a", "nginx", Phase::Running), later);
        ledger.learn(&task("a", "nginx", Phase::Failed), later);
        assert!(!ledger.covers(&keys("nginx"), later));
        assert!(ledger.covers_or_tried(&keys("nginx"), now, later), "since the change");
        assert!(!ledger.covers_or_tried(&keys("nginx"), later + Duration::from_secs(1), later), "before the change");
        assert!(!ledger.covers_or_tried(&keys("redis"), now, later));
    }

    #[test]
    fn an_obsolete_task_covers_nothing() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let mut old = task("a", "nginx", Phase::Running);
        ledger.learn(&old, now);
        old.metadata.annotations.get_or_insert_default().insert(OBSOLETE_ANNOTATION.into(), "why".into());
        ledger.learn(&old, now);
        assert!(!ledger.covers(&keys("nginx"), now));
    }

    #[test]
    fn a_task_is_unwanted_when_nobody_asks_for_any_of_its_images() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        ledger.learn(&task("a", "nginx", Phase::Running), now);
        let unwanted = |wanted: &[Key]| ledger.unwanted("shop", &wanted.iter().copied().collect()).len();
        assert_eq!((unwanted(&[]), unwanted(&keys("nginx")), unwanted(&keys("redis"))), (1, 0, 1));
        assert_eq!(ledger.open_for("shop", &["Deployment/a".to_owned()].into()).len(), 1);
        assert!(ledger.open_for("shop", &["Deployment/b".to_owned()].into()).is_empty());
        assert!(ledger.open_for("bank", &["Deployment/a".to_owned()].into()).is_empty());
    }
}
