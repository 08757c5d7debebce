//! Stores of the tasks and schedules.
//!
//! Input: watch events of one informer per kind, and the objects that this replica has just written
//! itself. Output: tasks by name, as pages and as streams of changes, each rendered once into the
//! JSON that all readers get; the executions of schedules; the tasks with a pending notification.
//! No I/O.

// Values that other clients write must not cause a panic: sums saturate, and optional values are
// checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod detail;
mod entry;
mod schedules;
mod task_index;
mod texts;
mod tombstones;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use prewarmer_core::task::PrewarmTask;
use tokio::{sync::watch, time::Instant};

pub use self::{
    detail::TaskDetail,
    entry::{NamespacedName, TaskEntry, TaskUpdate},
    schedules::ScheduleStore,
    task_index::{ListedTasks, StatusCounts, TaskFilter},
    texts::RenderTask,
};
use self::{entry::is_at_least_as_new, task_index::TaskIndex, texts::TaskRenderer};

/// Store of the tasks. Clones share it.
#[derive(Clone)]
pub struct TaskStore(Arc<TaskStoreInner>);

struct TaskStoreInner {
    renderer: TaskRenderer,
    state: RwLock<TaskIndex>,
    /// Counter of changes of tasks that a schedule created or that have a pending notification.
    tracked_changes: watch::Sender<u64>,
    /// Counter of changes of any task.
    changes: watch::Sender<u64>,
    watch_state: RwLock<WatchState>,
}

/// State of the watch.
#[derive(Debug, Clone, Default)]
struct WatchState {
    version: String,
    interrupted_since: Option<Instant>,
}

/// Freshness of a response from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// Newest resource version that was received; empty before the first.
    pub version: String,
    /// Time since the watch was interrupted; zero while it is connected.
    pub age: Duration,
}

impl TaskStore {
    /// Creates an empty store, which renders each stored task once with `render`.
    #[must_use]
    pub fn new(render: RenderTask) -> Self {
        Self(Arc::new(TaskStoreInner {
            renderer: TaskRenderer::new(render),
            state: RwLock::default(),
            tracked_changes: watch::Sender::new(0),
            changes: watch::Sender::new(0),
            watch_state: RwLock::default(),
        }))
    }

    fn update<T>(&self, change: impl FnOnce(&mut TaskIndex) -> T) -> T {
        change(&mut self.0.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notifies the subscribers of all changes, and on `true` those of tasks with an execution or a
    /// pending notification.
    fn notify_changed(&self, tracked: bool) {
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
        if tracked {
            self.0.tracked_changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn with_index<T>(&self, query: impl FnOnce(&TaskIndex) -> T) -> T {
        query(&self.0.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stores a task, unless the store has a newer version of it or it was deleted.
    pub fn put(&self, task: &PrewarmTask) {
        let _ = self.put_entry(task);
    }

    /// Stores a task as [`Self::put`] does, and returns the entry of this version.
    #[must_use]
    pub fn put_entry(&self, task: &PrewarmTask) -> Arc<TaskEntry> {
        let entry = Arc::new(TaskEntry::from_task(task, &self.0.renderer));
        self.record_version(&entry.version);
        let tracked = entry.execution.is_some() || entry.pending_notification.is_some();
        self.update(|state| {
            let known = state.get(&entry.key);
            let newer = known.is_none_or(|known| {
                known.uid != entry.uid || is_at_least_as_new(&entry.version, &known.version)
            });
            if newer && !state.is_deleted(&entry.uid) {
                state.put(Arc::clone(&entry));
            }
        });
        self.notify_changed(tracked);
        entry
    }

    /// Removes a task, and records a tombstone for its UID.
    pub fn remove(&self, task: &PrewarmTask) {
        let key = NamespacedName::from_task(task);
        let gone = self.update(|state| {
            state.record_deletion(task.metadata.uid.as_deref().unwrap_or_default());
            match state.get(&key) {
                Some(known) if Some(&*known.uid) == task.metadata.uid.as_deref() => {
                    state.remove(&key)
                }
                _ => None,
            }
        });
        self.notify_changed(gone.is_some_and(|entry| entry.execution.is_some()));
    }

    /// Removes all tasks that are not in `listed`. Called at the end of a list.
    pub fn retain_listed(&self, listed: &std::collections::HashSet<NamespacedName>) {
        let gone = self.update(|state| {
            let gone: Vec<NamespacedName> =
                state.keys().filter(|key| !listed.contains(*key)).cloned().collect();
            gone.iter().filter_map(|key| state.remove(key)).count()
        });
        if gone > 0 {
            self.notify_changed(true);
        }
        self.update_watch_state(|contact| contact.interrupted_since = None);
    }

    fn update_watch_state(&self, change: impl FnOnce(&mut WatchState)) {
        change(&mut self.0.watch_state.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn record_version(&self, version: &str) {
        self.update_watch_state(|contact| {
            contact.interrupted_since = None;
            if is_at_least_as_new(version, &contact.version) {
                version.clone_into(&mut contact.version);
            }
        });
    }

    /// Records that the watch is interrupted. The age of responses grows from now on.
    pub fn mark_interrupted(&self) {
        self.update_watch_state(|contact| {
            contact.interrupted_since.get_or_insert_with(Instant::now);
        });
    }

    /// Returns the freshness of responses.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        let contact = self.0.watch_state.read().unwrap_or_else(PoisonError::into_inner).clone();
        Freshness {
            version: contact.version,
            age: contact.interrupted_since.map(|at| at.elapsed()).unwrap_or_default(),
        }
    }

    /// Returns a task by namespace and name.
    #[must_use]
    pub fn get(&self, key: &NamespacedName) -> Option<Arc<TaskEntry>> {
        self.with_index(|state| state.get(key).cloned())
    }

    /// Returns the tasks of a name in all namespaces.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Vec<Arc<TaskEntry>> {
        self.with_index(|state| state.by_name(name))
    }

    /// Returns a page of tasks, newest first.
    #[must_use]
    pub fn list(&self, filter: &TaskFilter<'_>) -> ListedTasks {
        self.with_index(|state| state.list(filter))
    }

    /// Counts the tasks by status, in the namespaces that `visible` accepts.
    #[must_use]
    pub fn counts(&self, visible: &dyn Fn(&str) -> bool) -> StatusCounts {
        self.with_index(|state| state.counts(visible))
    }

    /// Subscribes to the changes of a task; `None` when it does not exist.
    #[must_use]
    pub fn subscribe(&self, key: &NamespacedName) -> Option<watch::Receiver<TaskUpdate>> {
        self.update(|state| state.subscribe(key))
    }

    /// Returns the tasks that a schedule created, in its own namespace.
    #[must_use]
    pub fn executions_of(&self, namespace: &str, schedule_uid: &str) -> Vec<Arc<TaskEntry>> {
        self.with_index(|state| state.executions_of(namespace, schedule_uid))
    }

    /// Returns the ended tasks that have a pending notification.
    #[must_use]
    pub fn pending_notifications(&self) -> Vec<Arc<PrewarmTask>> {
        self.with_index(TaskIndex::pending_notifications)
    }

    /// Subscribes to changes of any task. The value is a counter.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Subscribes to changes of tasks that a schedule created or that have a pending notification.
    /// The value is a counter.
    #[must_use]
    pub fn tracked_changes(&self) -> watch::Receiver<u64> {
        self.0.tracked_changes.subscribe()
    }
}

#[cfg(test)]
mod tests;
