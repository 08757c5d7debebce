//! The schedules.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use kube::ResourceExt;
use tokio::sync::watch;

use super::{Key, entry::is_newer};
use crate::schedule::PrewarmSchedule;

type All = BTreeMap<Key, Arc<PrewarmSchedule>>;

/// The schedules. Clones share them.
#[derive(Clone)]
pub struct Schedules(Arc<(RwLock<All>, watch::Sender<u64>)>);

impl Default for Schedules {
    fn default() -> Self {
        Self(Arc::new((RwLock::default(), watch::Sender::new(0))))
    }
}

fn key(schedule: &PrewarmSchedule) -> Key {
    Key::new(&schedule.namespace().unwrap_or_default(), &schedule.name_any())
}

impl Schedules {
    fn change(&self, change: impl FnOnce(&mut All)) {
        change(&mut self.0.0.write().unwrap_or_else(PoisonError::into_inner));
        self.0.1.send_modify(|count| *count += 1);
    }

    /// Takes a schedule as it is now; an older one than is known is left out.
    pub fn put(&self, schedule: PrewarmSchedule) {
        let version = schedule.resource_version().unwrap_or_default();
        self.change(|all| {
            let known = all.get(&key(&schedule)).filter(|known| known.uid() == schedule.uid());
            if known.is_none_or(|known| is_newer(&version, &known.resource_version().unwrap_or_default())) {
                all.insert(key(&schedule), Arc::new(schedule));
            }
        });
    }

    /// Forgets a schedule.
    pub fn remove(&self, schedule: &PrewarmSchedule) {
        self.change(|all| {
            if all.get(&key(schedule)).is_some_and(|known| known.uid() == schedule.uid()) {
                all.remove(&key(schedule));
            }
        });
    }

    /// Forgets all but these, at the end of a list.
    pub fn keep_only(&self, listed: &HashSet<Key>) {
        self.change(|all| all.retain(|key, _| listed.contains(key)));
    }

    /// All of them, by namespace and name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PrewarmSchedule>> {
        self.0.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Those of that name, in whatever namespace.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Arc<PrewarmSchedule>> {
        self.all().into_iter().filter(|schedule| schedule.metadata.name.as_deref() == Some(name)).collect()
    }

    /// Tells of changes.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.0.1.subscribe()
    }
}
