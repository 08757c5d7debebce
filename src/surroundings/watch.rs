//! Follows namespaces, runtime classes and autoscalers.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
};

use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::api::{core::v1::Namespace, node::v1::RuntimeClass};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Config, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;

use super::{Identity, Scheduling, Surroundings};
use crate::{reduced::ReducedAutoscaler, scope::scoped, task::PREFIX};

/// Objects per page of a first list.
const PAGE: u32 = 250;

/// Follows the cluster until `stop`. With a `namespace`, only its own annotations and autoscalers are read. `ready` tells
/// whether each first list is there.
#[must_use]
pub fn follow(
    around: &Surroundings,
    client: &Client,
    namespace: Option<&str>,
    ready: &Sender<usize>,
    stop: &CancellationToken,
) -> Vec<BoxFuture<'static, ()>> {
    let api = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
    let only = namespace.map(|name| Config::default().fields(&format!("metadata.name={name}")));
    let (names, classes, scalers) = (around.clone(), around.clone(), around.clone());
    let mut listed = HashSet::new();
    let namespaces = one(api, only.unwrap_or_default(), ready, stop, move |change| match change {
        Change::Put(namespace) => {
            listed.insert(namespace.name_any());
            names.note_name(&namespace.name_any(), true);
            names.set_namespace(&namespace.name_any(), ours(namespace.annotations()));
            Some(namespace.name_any())
        }
        Change::Drop(name) => {
            names.note_name(&name, false);
            names.set_namespace(&name, BTreeMap::new());
            None
        }
        Change::Begun => {
            listed = HashSet::new();
            None
        }
        Change::Listed => {
            names.set_names(std::mem::take(&mut listed));
            None
        }
    });
    let api = Api::<RuntimeClass>::all(client.clone());
    let runtime_classes = one(api, Config::default(), ready, stop, move |change| match change {
        Change::Put(class) => {
            classes.set_runtime_class(&class.name_any(), Some(scheduling(&class)));
            Some(class.name_any())
        }
        Change::Drop(name) => {
            classes.set_runtime_class(&name, None);
            None
        }
        Change::Begun | Change::Listed => None,
    });
    let api = scoped::<ReducedAutoscaler>(client, namespace);
    let autoscalers = one(api, Config::default(), ready, stop, move |change| match change {
        Change::Put(scaler) => {
            scalers.set_most_replicas(target(&scaler), Some(scaler.spec.max_replicas));
            Some(target(&scaler))
        }
        Change::Drop(target) => {
            scalers.set_most_replicas(target, None);
            None
        }
        Change::Begun | Change::Listed => None,
    });
    vec![namespaces, runtime_classes, autoscalers]
}

enum Change<K, E> {
    /// An object is there; what it has an entry for is to be returned.
    Put(K),
    /// The entry has no object any more.
    Drop(E),
    /// A list of all objects begins.
    Begun,
    /// The list has ended: what was put since it began is all there is.
    Listed,
}

/// Which object has which entry. An object may be given another entry, and may vanish while the watch is interrupted: then no event
/// tells of it, only its absence from the next list.
struct Entries<E> {
    known: HashMap<String, E>,
    /// While a list is under way: what was in it so far.
    listed: Option<HashSet<String>>,
}

impl<E: PartialEq> Entries<E> {
    fn new() -> Self {
        Self { known: HashMap::new(), listed: None }
    }

    /// Notes an object's entry. The one that it had before, if that was another.
    fn put(&mut self, object: String, entry: E) -> Option<E> {
        if let Some(listed) = &mut self.listed {
            listed.insert(object.clone());
        }
        let same = self.known.get(&object).is_some_and(|known| *known == entry);
        self.known.insert(object, entry).filter(|_| !same)
    }

    fn remove(&mut self, object: &str) -> Option<E> {
        self.known.remove(object)
    }

    /// A list begins.
    fn begin(&mut self) {
        self.listed = Some(HashSet::new());
    }

    /// The list is complete. The entries of objects that are not in it.
    fn end(&mut self) -> Vec<E> {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<String> = self.known.keys().filter(|object| !listed.contains(*object)).cloned().collect();
        gone.iter().filter_map(|object| self.known.remove(object)).collect()
    }
}

fn key<K: ResourceExt>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// One watch.
fn one<K, E>(
    api: Api<K>,
    config: Config,
    ready: &Sender<usize>,
    stop: &CancellationToken,
    mut note: impl FnMut(Change<K, E>) -> Option<E> + Send + 'static,
) -> BoxFuture<'static, ()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
    E: PartialEq + Send + 'static,
{
    let (ready, stop) = (ready.clone(), stop.clone());
    Box::pin(async move {
        let kind = K::plural(&K::DynamicType::default()).into_owned();
        let mut first = true;
        let mut entries = Entries::new();
        let mut stream = std::pin::pin!(watcher(api, config.page_size(PAGE)).default_backoff());
        while let Some(Some(event)) = stop.run_until_cancelled(stream.next()).await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => {
                    let key = key(&object);
                    if let Some(old) = note(Change::Put(object)).and_then(|entry| entries.put(key, entry)) {
                        note(Change::Drop(old));
                    }
                }
                Ok(Event::Delete(object)) => {
                    if let Some(old) = entries.remove(&key(&object)) {
                        note(Change::Drop(old));
                    }
                }
                Ok(Event::Init) => {
                    entries.begin();
                    note(Change::Begun);
                }
                Ok(Event::InitDone) => {
                    note(Change::Listed);
                    for old in entries.end() {
                        note(Change::Drop(old));
                    }
                    if std::mem::take(&mut first) {
                        ready.send_modify(|count| *count += 1);
                    }
                }
                Err(error) => {
                    tracing::warn!(%kind, %error, "a watch was interrupted; it is taken up again");
                    // An install for one namespace may have no right to read what is the cluster's: then it counts for nothing.
                    if is_forbidden(&error) && std::mem::take(&mut first) {
                        ready.send_modify(|count| *count += 1);
                    }
                }
            }
        }
    })
}

fn is_forbidden(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let (InitialListFailed(kube::Error::Api(status))
    | WatchStartFailed(kube::Error::Api(status))
    | WatchFailed(kube::Error::Api(status))
    | WatchError(status)) = error
    else {
        return false;
    };
    status.code == 403
}

fn ours(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.iter().filter(|(key, _)| key.starts_with(PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn scheduling(class: &RuntimeClass) -> Scheduling {
    let scheduling = class.scheduling.clone().unwrap_or_default();
    Scheduling {
        node_selector: scheduling.node_selector.unwrap_or_default(),
        tolerations: scheduling.tolerations.unwrap_or_default(),
    }
}

fn target(scaler: &ReducedAutoscaler) -> Identity {
    let target = &scaler.spec.scale_target_ref;
    (scaler.namespace().unwrap_or_default(), target.kind.clone(), target.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vanished_during_an_interruption_is_known_by_its_absence() {
        let mut entries = Entries::new();
        entries.begin();
        for name in ["a", "b"] {
            assert_eq!(entries.put(name.into(), name.to_owned()), None);
        }
        assert_eq!(entries.end(), Vec::<String>::new());
        assert_eq!(entries.put("c".into(), "c".into()), None);
        entries.begin();
        entries.put("a".into(), "a".into());
        let mut gone = entries.end();
        gone.sort();
        assert_eq!(gone, ["b", "c"]);
        assert_eq!(entries.remove("b"), None);
    }

    #[test]
    fn an_object_that_is_given_another_entry_loses_its_old_one() {
        let mut entries = Entries::new();
        entries.put("scaler".into(), "web");
        assert_eq!(entries.put("scaler".into(), "web"), None);
        assert_eq!(entries.put("scaler".into(), "api"), Some("web"));
        assert_eq!(entries.remove("scaler"), Some("api"));
    }
}
