//! Objects with our labels that do not count, and what may come to count when its owner arrives. *Pure.*
//!
//! Somebody else decides how many there are, so of each only what is needed is kept, and only so many.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::observation::{SeenPod, Source};
use crate::worker::{WorkerFacts, provenance::Rejection};

/// Objects remembered, 40 bytes each: 2 MB. Of more only that there are more is known.
const MAX_FOREIGN: usize = 50_000;
/// Workers of tasks that are not known, and pods of Jobs that are not known, are kept from one namespace up to this number: a task
/// has 100 workers at once at most, and the watches differ by moments.
const MAX_WAITING_OF_ONE: usize = 200;
/// And from all: a kilobyte each, 2 MB.
const MAX_WAITING: usize = 2_000;

/// An object that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stranger {
    /// Namespace and name.
    pub(super) key: String,
    pub(super) reason: Rejection,
    /// The namespace and the UID of the task that it names, as one number.
    pub(super) claim: u64,
}

impl Stranger {
    pub(super) fn new(namespace: &str, name: &str, task_uid: &str, reason: Rejection) -> Self {
        Self { key: format!("{namespace}/{name}"), reason, claim: claim(namespace, task_uid) }
    }
}

fn claim(namespace: &str, task_uid: &str) -> u64 {
    number(&(namespace, task_uid))
}

fn number(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The objects that do not count, by the watch that shows them.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    known: HashMap<Source, HashMap<u64, (Rejection, u64)>>,
    /// How many name a task of a namespace.
    claims: HashMap<u64, usize>,
    number: usize,
    /// Whether there were more than are remembered.
    overflowed: bool,
}

impl Foreign {
    /// Notes an object; whether it is news.
    pub(super) fn put(&mut self, source: &Source, stranger: &Stranger) -> bool {
        let id = number(&stranger.key);
        let old = self.known.get_mut(source).and_then(|known| known.remove(&id));
        if let Some((_, claim)) = old {
            self.release(claim);
        } else if self.number >= MAX_FOREIGN {
            self.overflowed = true;
            return false;
        }
        self.known.entry(source.clone()).or_default().insert(id, (stranger.reason, stranger.claim));
        let claims = self.claims.entry(stranger.claim).or_default();
        *claims = claims.saturating_add(1);
        self.number = self.number.saturating_add(1);
        old.is_none()
    }

    /// The object is gone, or counts now.
    pub(super) fn remove(&mut self, source: &Source, key: &str) {
        if self.number == 0 {
            return;
        }
        if let Some((_, claim)) = self.known.get_mut(source).and_then(|known| known.remove(&number(&key))) {
            self.release(claim);
        }
    }

    /// Forgets what a watch has shown: it begins anew.
    pub(super) fn clear(&mut self, source: &Source) {
        for (_, claim) in self.known.remove(source).into_iter().flat_map(HashMap::into_values) {
            self.release(claim);
        }
        self.overflowed &= self.number >= MAX_FOREIGN;
    }

    fn release(&mut self, claim: u64) {
        self.number = self.number.saturating_sub(1);
        if let Some(count) = self.claims.get_mut(&claim) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.claims.remove(&claim);
            }
        }
    }

    /// Whether objects of others in the namespace carry the labels of this task's workers, as far as is known.
    pub(super) fn names(&self, namespace: &str, task_uid: &str) -> bool {
        self.overflowed || self.claims.contains_key(&claim(namespace, task_uid))
    }

    /// How many there are, by kind and reason.
    pub(super) fn counts(&self) -> BTreeMap<(&'static str, Rejection), usize> {
        let mut counts = BTreeMap::new();
        for (source, known) in &self.known {
            for (reason, _) in known.values() {
                let count: &mut usize = counts.entry((source.kind, *reason)).or_default();
                *count = count.saturating_add(1);
            }
        }
        counts
    }
}

/// What waits for its owner.
pub(super) trait Waits {
    fn namespace(&self) -> &str;
    /// Namespace and name.
    fn id(&self) -> String;
}

impl Waits for WorkerFacts {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn id(&self) -> String {
        self.key()
    }
}

impl Waits for Box<SeenPod> {
    fn namespace(&self) -> &str {
        &self.facts.namespace
    }

    fn id(&self) -> String {
        SeenPod::id(self)
    }
}

/// Objects that wait for their owner, by namespace, the oldest first. One namespace cannot push out what waits of others, unless
/// it has the fewest.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    of: HashMap<String, Vec<T>>,
    number: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { of: HashMap::new(), number: 0 }
    }
}

impl<T: Waits> Waiting<T> {
    /// Keeps an object, in the place of what was known of it.
    pub(super) fn put(&mut self, object: T) {
        self.remove(object.namespace(), &object.id());
        let namespace = object.namespace().to_owned();
        let of_one = self.of.entry(namespace).or_default();
        of_one.push(object);
        self.number = self.number.saturating_add(1);
        if of_one.len() > MAX_WAITING_OF_ONE {
            of_one.remove(0);
            self.number = self.number.saturating_sub(1);
        } else if self.number > MAX_WAITING
            && let Some(most) = self.of.values_mut().max_by_key(|of_one| of_one.len())
        {
            most.remove(0);
            self.number = self.number.saturating_sub(1);
        }
    }

    pub(super) fn remove(&mut self, namespace: &str, id: &str) {
        if self.number > 0 {
            self.take(namespace, |object| object.id() == id);
        }
    }

    /// Takes out what fits, of one namespace.
    pub(super) fn take(&mut self, namespace: &str, fits: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(of_one) = self.of.get_mut(namespace) else { return Vec::new() };
        let taken: Vec<T> = of_one.extract_if(.., |object| fits(object)).collect();
        self.number = self.number.saturating_sub(taken.len());
        if of_one.is_empty() {
            self.of.remove(namespace);
        }
        taken
    }

    /// Forgets all of the namespaces that a watch covers.
    pub(super) fn clear(&mut self, source: &Source) {
        self.of.retain(|namespace, _| !source.covers(namespace));
        self.number = self.of.values().map(Vec::len).sum();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(namespace: &str, name: &str) -> Stranger {
        Stranger::new(namespace, name, "uid", Rejection::Name)
    }

    #[test]
    fn each_is_counted_once_and_goes() {
        let (mut foreign, jobs) = (Foreign::default(), Source::all("jobs"));
        assert!(foreign.put(&jobs, &stranger("evil", "a")));
        assert!(!foreign.put(&jobs, &stranger("evil", "a")), "a change is no news");
        foreign.put(&Source::all("pods"), &stranger("evil", "a"));
        assert_eq!(foreign.counts(), [(("jobs", Rejection::Name), 1), (("pods", Rejection::Name), 1)].into());
        assert!(foreign.names("evil", "uid") && !foreign.names("shop", "uid") && !foreign.names("evil", "other"));
        foreign.remove(&jobs, "evil/a");
        assert!(foreign.names("evil", "uid"), "the pod still does");
        foreign.clear(&Source::all("pods"));
        assert!(!foreign.names("evil", "uid"));
        assert!(foreign.counts().values().all(|count| *count == 0));
    }

    #[test]
    fn of_too_many_it_is_known_that_there_are_more() {
        let (mut foreign, jobs) = (Foreign::default(), Source::all("jobs"));
        for n in 0..=MAX_FOREIGN {
            foreign.put(&jobs, &stranger("evil", &n.to_string()));
        }
        assert_eq!(foreign.number, MAX_FOREIGN);
        assert!(foreign.names("shop", "any"), "what was not kept may name any task");
        foreign.clear(&jobs);
        assert!(!foreign.names("shop", "any"));
    }

    #[test]
    fn those_who_wait_of_one_namespace_push_out_no_others() {
        let worker = |namespace: &str, n: usize| WorkerFacts {
            namespace: namespace.into(),
            name: n.to_string(),
            ..WorkerFacts::default()
        };
        let mut waiting = Waiting::default();
        waiting.put(worker("shop", 0));
        for n in 0..3 * MAX_WAITING_OF_ONE {
            waiting.put(worker("evil", n));
        }
        assert_eq!(waiting.len(), MAX_WAITING_OF_ONE + 1);
        for n in 0..2 * MAX_WAITING {
            waiting.put(worker(&format!("evil-{}", n % 20), n));
        }
        assert_eq!(waiting.len(), MAX_WAITING);
        assert_eq!(waiting.take("shop", |_| true).len(), 1);
        waiting.clear(&Source::all("jobs"));
        assert_eq!(waiting.len(), 0);
    }
}
