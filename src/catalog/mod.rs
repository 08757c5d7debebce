//! The tasks and schedules as this replica knows them.
//!
//! In: what one watch of each tells, and what this replica has just written
//! itself. Out: tasks by name, in pages and as they change, each rendered once
//! into the JSON that every reader gets; the runs of schedules; the tasks whose
//! end is to be told. No I/O. May call `schedule` and `task`.

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod entry;
mod gone;
mod schedules;
mod shape;
mod state;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use self::{entry::is_newer, state::State};
pub use self::{
    entry::{Detail, Entry, Key},
    schedules::Schedules,
    shape::{
        FailedNodeDetail, FailureGroup, ImageDetail, Progress, RetryGrowth, Status, TaskView, amount_schema,
        failure_groups,
    },
    state::{Counts, Filter, Page},
};
use crate::task::PrewarmTask;

/// What a watcher of a task is given: the task as it is, or nothing when it was deleted.
pub type Seen = Option<Arc<Entry>>;

/// The tasks. Clones share them.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    state: RwLock<State>,
    /// Counted up with each change of a task that a schedule has made, or whose end is to be told.
    news: watch::Sender<u64>,
    /// Counted up with each change of any task.
    changes: watch::Sender<u64>,
    contact: RwLock<Contact>,
}

/// When the cluster was last heard of.
#[derive(Debug, Clone, Default)]
struct Contact {
    version: String,
    interrupted: Option<Instant>,
}

/// How fresh an answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// The newest resource version that was seen.
    pub version: String,
    /// How long ago the watch was interrupted; zero while it stands.
    pub age: Duration,
}

impl Default for Catalog {
    fn default() -> Self {
        Self(Arc::new(Inner {
            state: RwLock::default(),
            news: watch::Sender::new(0),
            changes: watch::Sender::new(0),
            contact: RwLock::default(),
        }))
    }
}

impl Catalog {
    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells those who follow all tasks, and where `told` those who follow runs and ends.
    fn changed(&self, told: bool) {
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
        if told {
            self.0.news.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a task as it is now; an older one than is known is left out.
    pub fn put(&self, task: &PrewarmTask) {
        let entry = Arc::new(Entry::of(task));
        self.heard(&entry.version);
        let told = entry.run.is_some() || entry.to_tell.is_some();
        self.write(|state| {
            let known = state.get(&entry.key);
            let newer = known.is_none_or(|known| known.uid != entry.uid || is_newer(&entry.version, &known.version));
            if newer && !state.is_gone(&entry.uid) {
                state.put(entry);
            }
        });
        self.changed(told);
    }

    /// Forgets a task.
    pub fn remove(&self, task: &PrewarmTask) {
        let key = Key::of(task);
        let gone = self.write(|state| {
            state.note_gone(task.metadata.uid.as_deref().unwrap_or_default());
            match state.get(&key) {
                Some(known) if Some(&*known.uid) == task.metadata.uid.as_deref() => state.remove(&key),
                _ => None,
            }
        });
        self.changed(gone.is_some_and(|entry| entry.run.is_some()));
    }

    /// Forgets all but these, at the end of a list.
    pub fn keep_only(&self, listed: &std::collections::HashSet<Key>) {
        let gone = self.write(|state| {
            let gone: Vec<Key> = state.keys().filter(|key| !listed.contains(*key)).cloned().collect();
            gone.iter().filter_map(|key| state.remove(key)).count()
        });
        if gone > 0 {
            self.changed(true);
        }
        self.contact(|contact| contact.interrupted = None);
    }

    fn contact(&self, change: impl FnOnce(&mut Contact)) {
        change(&mut self.0.contact.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn heard(&self, version: &str) {
        self.contact(|contact| {
            contact.interrupted = None;
            if is_newer(version, &contact.version) {
                version.clone_into(&mut contact.version);
            }
        });
    }

    /// The watch does not stand: from now on answers grow old.
    pub fn interrupted(&self) {
        self.contact(|contact| {
            contact.interrupted.get_or_insert_with(Instant::now);
        });
    }

    /// How fresh answers are.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        let contact = self.0.contact.read().unwrap_or_else(PoisonError::into_inner).clone();
        Freshness { version: contact.version, age: contact.interrupted.map(|at| at.elapsed()).unwrap_or_default() }
    }

    /// The task of that name in that namespace.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.read(|state| state.get(key).cloned())
    }

    /// The tasks of that name, in whatever namespace.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Arc<Entry>> {
        self.read(|state| state.named(name))
    }

    /// A page of tasks, newest first.
    #[must_use]
    pub fn list(&self, filter: &Filter<'_>) -> Page {
        self.read(|state| state.list(filter))
    }

    /// How many tasks there are in each status, of these namespaces.
    #[must_use]
    pub fn counts(&self, visible: &dyn Fn(&str) -> bool) -> Counts {
        self.read(|state| state.counts(visible))
    }

    /// A task as it changes, from now on. Nothing where there is none.
    #[must_use]
    pub fn subscribe(&self, key: &Key) -> Option<watch::Receiver<Seen>> {
        self.write(|state| state.subscribe(key))
    }

    /// The tasks that this schedule has made, in its own namespace.
    #[must_use]
    pub fn runs_of(&self, namespace: &str, schedule_uid: &str) -> Vec<Arc<Entry>> {
        self.read(|state| state.runs_of(namespace, schedule_uid))
    }

    /// The ended tasks whose end was not told to everybody yet.
    #[must_use]
    pub fn to_be_told(&self) -> Vec<Arc<PrewarmTask>> {
        self.read(State::to_be_told)
    }

    /// Tells of changes of any task.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Tells of changes of tasks that a schedule has made or whose end is to be told.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.0.news.subscribe()
    }
}

#[cfg(test)]
mod tests;
