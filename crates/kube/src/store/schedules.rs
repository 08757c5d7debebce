//! Store of the schedules.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use kube::ResourceExt;
use prewarmer_core::schedule::PrewarmSchedule;
use tokio::sync::watch;

use super::{NamespacedName, entry::is_at_least_as_new, tombstones::Tombstones};

#[derive(Default)]
struct ScheduleIndex {
    schedules: BTreeMap<NamespacedName, Arc<PrewarmSchedule>>,
    tombstones: Tombstones,
}

/// Store of the schedules. Clones share it.
#[derive(Clone)]
pub struct ScheduleStore(Arc<(RwLock<ScheduleIndex>, watch::Sender<u64>)>);

impl Default for ScheduleStore {
    fn default() -> Self {
        Self(Arc::new((RwLock::default(), watch::Sender::new(0))))
    }
}

fn key(schedule: &PrewarmSchedule) -> NamespacedName {
    NamespacedName::new(&schedule.namespace().unwrap_or_default(), &schedule.name_any())
}

impl ScheduleStore {
    fn update(&self, change: impl FnOnce(&mut ScheduleIndex)) {
        change(&mut self.0.0.write().unwrap_or_else(PoisonError::into_inner));
        self.0.1.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Stores a schedule, unless the store has a newer version of it or it was deleted.
    pub fn put(&self, schedule: PrewarmSchedule) {
        let version = schedule.resource_version().unwrap_or_default();
        self.update(|all| {
            if all.tombstones.contains(&schedule.uid().unwrap_or_default()) {
                return;
            }
            let known =
                all.schedules.get(&key(&schedule)).filter(|known| known.uid() == schedule.uid());
            if known.is_none_or(|known| {
                is_at_least_as_new(&version, &known.resource_version().unwrap_or_default())
            }) {
                all.schedules.insert(key(&schedule), Arc::new(schedule));
            }
        });
    }

    /// Removes a schedule, and records a tombstone for its UID.
    pub fn remove(&self, schedule: &PrewarmSchedule) {
        self.update(|all| {
            all.tombstones.insert(&schedule.uid().unwrap_or_default());
            if all.schedules.get(&key(schedule)).is_some_and(|known| known.uid() == schedule.uid())
            {
                all.schedules.remove(&key(schedule));
            }
        });
    }

    /// Removes all schedules that are not in `listed`. Called at the end of a list.
    pub fn retain_listed(&self, listed: &HashSet<NamespacedName>) {
        self.update(|all| all.schedules.retain(|key, _| listed.contains(key)));
    }

    /// Returns all schedules, sorted by namespace and name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PrewarmSchedule>> {
        self.0
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .schedules
            .values()
            .cloned()
            .collect()
    }

    /// Returns the schedules of a name in all namespaces.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Vec<Arc<PrewarmSchedule>> {
        self.all()
            .into_iter()
            .filter(|schedule| schedule.metadata.name.as_deref() == Some(name))
            .collect()
    }

    /// Subscribes to changes of any schedule. The value is a counter.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.1.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prewarmer_core::{schedule::PrewarmScheduleSpec, task::PrewarmTaskSpec};

    fn schedule(uid: &str, version: &str) -> PrewarmSchedule {
        let spec =
            PrewarmScheduleSpec::new("@daily".into(), PrewarmTaskSpec::new(vec!["a:1".into()]));
        let mut schedule = PrewarmSchedule::new("nightly", spec);
        schedule.metadata.uid = Some(uid.into());
        schedule.metadata.resource_version = Some(version.into());
        schedule
    }

    /// The response to a write of the status may arrive after the watch event of the deletion.
    #[test]
    fn late_response_does_not_restore_a_deleted_schedule() {
        let all = ScheduleStore::default();
        all.put(schedule("u1", "5"));
        all.remove(&schedule("u1", "7"));
        all.put(schedule("u1", "6"));
        assert!(all.all().is_empty());
        all.put(schedule("u2", "8"));
        assert_eq!(
            all.by_name("nightly").len(),
            1,
            "a schedule of the same name with another UID is stored"
        );
    }
}
