//! The tasks, by name and by age.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Entry, Key, Seen, Status, gone::Gone};
use crate::task::PrewarmTask;

/// The place of a task among all: by age, and among those of a second by name.
type Place = (Timestamp, Key);

/// Which tasks, and which part of them.
pub struct Filter<'a> {
    /// Only of this status.
    pub status: Option<Status>,
    /// Only tasks in whose name or images this stands, whatever its case.
    pub search: Option<&'a str>,
    /// Only of namespaces that this accepts.
    pub visible: &'a (dyn Fn(&str) -> bool + 'a),
    /// Only these and older ones.
    pub until: Option<(Timestamp, Key)>,
    /// How many at most.
    pub limit: usize,
    /// After how many.
    pub offset: usize,
}

/// A part of a list.
#[derive(Debug, Default)]
pub struct Page {
    /// The JSON of each task.
    pub tasks: Vec<Bytes>,
    /// How many tasks there are of that kind.
    pub total: usize,
    /// The place of the newest of them.
    pub newest: Option<(Timestamp, Key)>,
}

/// How many tasks there are in each status.
pub type Counts = BTreeMap<Status, usize>;

/// The tasks.
#[derive(Default)]
pub(super) struct State {
    tasks: HashMap<Key, Arc<Entry>>,
    by_age: BTreeMap<Place, Arc<Entry>>,
    by_name: BTreeSet<(Arc<str>, Arc<str>)>,
    /// By namespace and UID of the schedule: an owner is in its own namespace, whatever a task of another says.
    by_schedule: BTreeMap<(Arc<str>, String), BTreeSet<Key>>,
    untold: BTreeSet<Key>,
    watched: HashMap<Key, watch::Sender<Seen>>,
    gone: Gone,
}

fn place(entry: &Entry) -> Place {
    (entry.created, entry.key.clone())
}

impl State {
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.tasks.get(key)
    }

    /// Whether the task of this UID was deleted.
    pub(super) fn is_gone(&self, uid: &str) -> bool {
        self.gone.has(uid)
    }

    pub(super) fn note_gone(&mut self, uid: &str) {
        self.gone.add(uid);
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.tasks.keys()
    }

    pub(super) fn put(&mut self, entry: Arc<Entry>) {
        let key = entry.key.clone();
        self.unlink(&key);
        if let Some(run) = &entry.run {
            let owner = (Arc::clone(&key.namespace), run.schedule.clone());
            self.by_schedule.entry(owner).or_default().insert(key.clone());
        }
        if entry.to_tell.is_some() {
            self.untold.insert(key.clone());
        }
        self.by_name.insert((Arc::clone(&key.name), Arc::clone(&key.namespace)));
        self.by_age.insert(place(&entry), Arc::clone(&entry));
        if let Some(watchers) = self.watched.get(&key) {
            let watched = watchers.receiver_count() > 0;
            watchers.send_replace(Some(Arc::clone(&entry)));
            if !watched || entry.status.is_final() {
                self.watched.remove(&key);
            }
        }
        self.tasks.insert(key, entry);
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Entry>> {
        let gone = self.unlink(key);
        if let Some(watchers) = self.watched.remove(key) {
            watchers.send_replace(None);
        }
        gone
    }

    fn unlink(&mut self, key: &Key) -> Option<Arc<Entry>> {
        let old = self.tasks.remove(key)?;
        self.by_age.remove(&place(&old));
        self.by_name.remove(&(Arc::clone(&key.name), Arc::clone(&key.namespace)));
        self.untold.remove(key);
        if let Some(run) = &old.run {
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

    pub(super) fn named(&self, name: &str) -> Vec<Arc<Entry>> {
        let name: Arc<str> = name.into();
        let first = (Arc::clone(&name), Arc::from(""));
        let places = self.by_name.range(first..).take_while(|(one, _)| *one == name);
        let key =
            |(name, namespace): &(Arc<str>, Arc<str>)| Key { namespace: Arc::clone(namespace), name: Arc::clone(name) };
        places.filter_map(|one| self.tasks.get(&key(one)).cloned()).collect()
    }

    pub(super) fn list(&self, filter: &Filter<'_>) -> Page {
        let all: Box<dyn Iterator<Item = (&Place, &Arc<Entry>)>> = match &filter.until {
            Some(until) => Box::new(self.by_age.range(..=until.clone()).rev()),
            None => Box::new(self.by_age.iter().rev()),
        };
        let search = filter.search.map(str::to_lowercase);
        let fits = |entry: &Entry| {
            filter.status.is_none_or(|status| entry.status == status)
                && (filter.visible)(&entry.key.namespace)
                && search.as_ref().is_none_or(|text| entry.mentions(text))
        };
        let mut page = Page::default();
        for (place, entry) in all.filter(|(_, entry)| fits(entry)) {
            page.newest.get_or_insert_with(|| place.clone());
            if page.total >= filter.offset && page.tasks.len() < filter.limit {
                page.tasks.push(entry.json.clone());
            }
            page.total = page.total.saturating_add(1);
        }
        page
    }

    pub(super) fn counts(&self, visible: &dyn Fn(&str) -> bool) -> Counts {
        let mut counts: Counts = Status::ALL.into_iter().map(|status| (status, 0)).collect();
        for entry in self.tasks.values().filter(|entry| visible(&entry.key.namespace)) {
            let count = counts.entry(entry.status).or_default();
            *count = count.saturating_add(1);
        }
        counts
    }

    /// Of a task that has ended nothing is to come: it is not remembered who looks.
    pub(super) fn subscribe(&mut self, key: &Key) -> Option<watch::Receiver<Seen>> {
        let entry = self.tasks.get(key)?;
        if entry.status.is_final() {
            return Some(watch::Sender::new(Some(Arc::clone(entry))).subscribe());
        }
        let watchers = self.watched.entry(key.clone()).or_insert_with(|| watch::Sender::new(Some(Arc::clone(entry))));
        Some(watchers.subscribe())
    }

    pub(super) fn runs_of(&self, namespace: &str, schedule: &str) -> Vec<Arc<Entry>> {
        let keys = self.by_schedule.get(&(namespace.into(), schedule.to_owned())).into_iter().flatten();
        keys.filter_map(|key| self.tasks.get(key).cloned()).collect()
    }

    pub(super) fn to_be_told(&self) -> Vec<Arc<PrewarmTask>> {
        self.untold.iter().filter_map(|key| self.tasks.get(key)?.to_tell.clone()).collect()
    }
}
