//! The schedules.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use kube::ResourceExt;
use tokio::sync::watch;

use super::{Key, entry::is_newer, gone::Gone};
use crate::schedule::PrewarmSchedule;

#[derive(Default)]
struct All {
    known: BTreeMap<Key, Arc<PrewarmSchedule>>,
    gone: Gone,
}

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
        self.0.1.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Takes a schedule as it is now; an older one than is known is left out.
    pub fn put(&self, schedule: PrewarmSchedule) {
        let version = schedule.resource_version().unwrap_or_default();
        self.change(|all| {
            if all.gone.has(&schedule.uid().unwrap_or_default()) {
                return;
            }
            let known = all.known.get(&key(&schedule)).filter(|known| known.uid() == schedule.uid());
            if known.is_none_or(|known| is_newer(&version, &known.resource_version().unwrap_or_default())) {
                all.known.insert(key(&schedule), Arc::new(schedule));
            }
        });
    }

    /// Forgets a schedule.
    pub fn remove(&self, schedule: &PrewarmSchedule) {
        self.change(|all| {
            all.gone.add(&schedule.uid().unwrap_or_default());
            if all.known.get(&key(schedule)).is_some_and(|known| known.uid() == schedule.uid()) {
                all.known.remove(&key(schedule));
            }
        });
    }

    /// Forgets all but these, at the end of a list.
    pub fn keep_only(&self, listed: &HashSet<Key>) {
        self.change(|all| all.known.retain(|key, _| listed.contains(key)));
    }

    /// All of them, by namespace and name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PrewarmSchedule>> {
        self.0.0.read().unwrap_or_else(PoisonError::into_inner).known.values().cloned().collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{schedule::PrewarmScheduleSpec, task::PrewarmTaskSpec};

    fn schedule(uid: &str, version: &str) -> PrewarmSchedule {
        let spec = PrewarmScheduleSpec::new("@daily".into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
        let mut schedule = PrewarmSchedule::new("nightly", spec);
        schedule.metadata.uid = Some(uid.into());
        schedule.metadata.resource_version = Some(version.into());
        schedule
    }

    /// The answer to our own write of its status may come after the watch has told that it was deleted.
    #[test]
    fn what_was_deleted_does_not_come_back() {
        let all = Schedules::default();
        all.put(schedule("u1", "5"));
        all.remove(&schedule("u1", "7"));
        all.put(schedule("u1", "6"));
        assert!(all.all().is_empty());
        all.put(schedule("u2", "8"));
        assert_eq!(all.named("nightly").len(), 1, "another of the same name is another");
    }
}
