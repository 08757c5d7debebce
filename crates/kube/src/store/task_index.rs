//! Indexes of the tasks by name, age and schedule, and the subscriptions to them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use prewarmer_core::{
    shrink_sparse,
    task::{PrewarmTask, Status},
};
use tokio::sync::watch;

use super::{NamespacedName, TaskEntry, TaskUpdate, tombstones::Tombstones};

/// Sort key of a task: creation time, then namespace and name.
type AgeKey = (Timestamp, NamespacedName);

/// Filter and range of a list of tasks.
pub struct TaskFilter<'a> {
    /// Status of the tasks; `None` for all.
    pub status: Option<Status>,
    /// Text that the name or an image must contain, case-insensitive; `None` for all.
    pub search: Option<&'a str>,
    /// Predicate for the namespaces to include.
    pub visible: &'a (dyn Fn(&str) -> bool + 'a),
    /// Sort key of the newest task to include; `None` for all.
    pub until: Option<(Timestamp, NamespacedName)>,
    /// Largest number of tasks in the page.
    pub limit: usize,
    /// Number of matching tasks to skip.
    pub offset: usize,
}

/// Page of a list of tasks.
#[derive(Debug, Default)]
pub struct ListedTasks {
    /// JSON of each task.
    pub tasks: Vec<Bytes>,
    /// Number of matching tasks in all pages.
    pub total: usize,
    /// Sort key of the newest matching task.
    pub newest: Option<(Timestamp, NamespacedName)>,
}

/// Number of tasks by status.
pub type StatusCounts = BTreeMap<Status, usize>;

/// Tasks with their indexes.
#[derive(Default)]
pub(super) struct TaskIndex {
    tasks: HashMap<NamespacedName, Arc<TaskEntry>>,
    by_age: BTreeMap<AgeKey, Arc<TaskEntry>>,
    by_name: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Tasks by namespace and UID of their schedule. An owner reference is valid only within the
    /// owner's own namespace.
    by_schedule: BTreeMap<(Arc<str>, String), BTreeSet<NamespacedName>>,
    unnotified: BTreeSet<NamespacedName>,
    subscriptions: HashMap<NamespacedName, watch::Sender<TaskUpdate>>,
    tombstones: Tombstones,
}

fn age_key(entry: &TaskEntry) -> AgeKey {
    (entry.created, entry.key.clone())
}

impl TaskIndex {
    pub(super) fn get(&self, key: &NamespacedName) -> Option<&Arc<TaskEntry>> {
        self.tasks.get(key)
    }

    /// Reports whether the task with this UID was deleted recently.
    pub(super) fn is_deleted(&self, uid: &str) -> bool {
        self.tombstones.contains(uid)
    }

    pub(super) fn record_deletion(&mut self, uid: &str) {
        self.tombstones.insert(uid);
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &NamespacedName> {
        self.tasks.keys()
    }

    pub(super) fn put(&mut self, entry: Arc<TaskEntry>) {
        let key = entry.key.clone();
        self.unlink(&key);
        if let Some(run) = &entry.execution {
            let owner = (Arc::clone(&key.namespace), run.schedule.clone());
            self.by_schedule.entry(owner).or_default().insert(key.clone());
        }
        if entry.pending_notification.is_some() {
            self.unnotified.insert(key.clone());
        }
        self.by_name.insert((Arc::clone(&key.name), Arc::clone(&key.namespace)));
        self.by_age.insert(age_key(&entry), Arc::clone(&entry));
        if let Some(watchers) = self.subscriptions.get(&key) {
            let watched = watchers.receiver_count() > 0;
            watchers.send_replace(Some(Arc::clone(&entry)));
            if !watched || entry.status.is_final() {
                self.subscriptions.remove(&key);
            }
        }
        self.tasks.insert(key, entry);
    }

    pub(super) fn remove(&mut self, key: &NamespacedName) -> Option<Arc<TaskEntry>> {
        let gone = self.unlink(key);
        shrink_sparse(&mut self.tasks);
        if let Some(watchers) = self.subscriptions.remove(key) {
            watchers.send_replace(None);
        }
        gone
    }

    fn unlink(&mut self, key: &NamespacedName) -> Option<Arc<TaskEntry>> {
        let old = self.tasks.remove(key)?;
        self.by_age.remove(&age_key(&old));
        self.by_name.remove(&(Arc::clone(&key.name), Arc::clone(&key.namespace)));
        self.unnotified.remove(key);
        if let Some(run) = &old.execution {
            let owner = (Arc::clone(&key.namespace), run.schedule.clone());
            if let Some(runs) = self.by_schedule.get_mut(&owner) {
                runs.remove(key);
                if runs.is_empty() {
                    self.by_schedule.remove(&owner);
                }
            }
        }
        Some(old)
    }

    pub(super) fn by_name(&self, name: &str) -> Vec<Arc<TaskEntry>> {
        let name: Arc<str> = name.into();
        let first = (Arc::clone(&name), Arc::from(""));
        let places = self.by_name.range(first..).take_while(|(one, _)| *one == name);
        let key = |(name, namespace): &(Arc<str>, Arc<str>)| NamespacedName {
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
        };
        places.filter_map(|one| self.tasks.get(&key(one)).cloned()).collect()
    }

    pub(super) fn list(&self, filter: &TaskFilter<'_>) -> ListedTasks {
        let all: Box<dyn Iterator<Item = (&AgeKey, &Arc<TaskEntry>)>> = match &filter.until {
            Some(until) => Box::new(self.by_age.range(..=until.clone()).rev()),
            None => Box::new(self.by_age.iter().rev()),
        };
        let search = filter.search.map(str::to_lowercase);
        let fits = |entry: &TaskEntry| {
            filter.status.is_none_or(|status| entry.status == status)
                && (filter.visible)(&entry.key.namespace)
                && search.as_ref().is_none_or(|text| entry.matches_search(text))
        };
        let mut page = ListedTasks::default();
        for (place, entry) in all.filter(|(_, entry)| fits(entry)) {
            page.newest.get_or_insert_with(|| place.clone());
            if page.total >= filter.offset && page.tasks.len() < filter.limit {
                page.tasks.push(entry.json());
            }
            page.total = page.total.saturating_add(1);
        }
        page
    }

    pub(super) fn counts(&self, visible: &dyn Fn(&str) -> bool) -> StatusCounts {
        let mut counts: StatusCounts = Status::ALL.into_iter().map(|status| (status, 0)).collect();
        for entry in self.tasks.values().filter(|entry| visible(&entry.key.namespace)) {
            let count = counts.entry(entry.status).or_default();
            *count = count.saturating_add(1);
        }
        counts
    }

    /// Subscribes to a task. An ended task does not change any more, so that its subscription is
    /// not stored.
    pub(super) fn subscribe(
        &mut self,
        key: &NamespacedName,
    ) -> Option<watch::Receiver<TaskUpdate>> {
        let entry = self.tasks.get(key)?;
        if entry.status.is_final() {
            return Some(watch::Sender::new(Some(Arc::clone(entry))).subscribe());
        }
        let watchers = self
            .subscriptions
            .entry(key.clone())
            .or_insert_with(|| watch::Sender::new(Some(Arc::clone(entry))));
        Some(watchers.subscribe())
    }

    pub(super) fn executions_of(&self, namespace: &str, schedule: &str) -> Vec<Arc<TaskEntry>> {
        let keys =
            self.by_schedule.get(&(namespace.into(), schedule.to_owned())).into_iter().flatten();
        keys.filter_map(|key| self.tasks.get(key).cloned()).collect()
    }

    pub(super) fn pending_notifications(&self) -> Vec<Arc<PrewarmTask>> {
        self.unnotified
            .iter()
            .filter_map(|key| self.tasks.get(key)?.pending_notification.clone())
            .collect()
    }
}
