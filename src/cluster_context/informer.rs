//! Informers for namespaces, runtime classes and autoscalers.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    marker::PhantomData,
    ops::ControlFlow,
};

use futures::future::BoxFuture;
use k8s_openapi::api::{core::v1::Namespace, node::v1::RuntimeClass};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::watcher::{self, Event},
};
use prewarmer_core::{
    slim::SlimAutoscaler,
    task::PREFIX,
    workload::{RuntimeClassScheduling, WorkloadIdentity},
};
use prewarmer_kube::{
    informer::{EventHandler, Informer, decode, interruption_kind},
    metrics::ObjectErrorMetrics,
    object_error::WorkKind,
};
use serde::de::DeserializeOwned;
use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;

use super::ClusterContextStore;
use crate::scope::scoped;

/// Returns the informers, which run until `stop`. With a `namespace`, only that Namespace and its
/// autoscalers are watched. `ready` counts the informers whose first list is complete.
#[must_use]
pub fn informers(
    around: &ClusterContextStore,
    client: &Client,
    namespace: Option<&str>,
    ready: &Sender<usize>,
    object_errors: &ObjectErrorMetrics,
    stop: &CancellationToken,
) -> Vec<BoxFuture<'static, ()>> {
    let with = InformerBuilder { around, client, namespace, ready, object_errors, stop };
    vec![with.namespaces(), with.runtime_classes(), with.autoscalers()]
}

/// Builder of the informers.
struct InformerBuilder<'a> {
    around: &'a ClusterContextStore,
    client: &'a Client,
    namespace: Option<&'a str>,
    ready: &'a Sender<usize>,
    object_errors: &'a ObjectErrorMetrics,
    stop: &'a CancellationToken,
}

impl InformerBuilder<'_> {
    fn namespaces(&self) -> BoxFuture<'static, ()> {
        let api = Api::<DeserializeGuard<PartialObjectMeta<Namespace>>>::all(self.client.clone());
        let mut informer = self.informer(api, "namespaces");
        if let Some(name) = self.namespace {
            informer = informer.fields(&format!("metadata.name={name}"));
        }
        let names = self.around.clone();
        let mut listed = HashSet::new();
        self.run(informer, move |change| match change {
            InformerEvent::Applied(namespace) => {
                listed.insert(namespace.name_any());
                names.set_namespace_exists(&namespace.name_any(), true);
                names.set_namespace_annotations(
                    &namespace.name_any(),
                    prewarm_annotations(namespace.annotations()),
                );
                Some(namespace.name_any())
            }
            InformerEvent::Deleted(name) => {
                names.set_namespace_exists(&name, false);
                names.set_namespace_annotations(&name, BTreeMap::new());
                None
            }
            InformerEvent::ListStarted => {
                listed = HashSet::new();
                None
            }
            InformerEvent::ListCompleted => {
                names.set_namespace_names(std::mem::take(&mut listed));
                None
            }
        })
    }

    fn runtime_classes(&self) -> BoxFuture<'static, ()> {
        let api = Api::<DeserializeGuard<RuntimeClass>>::all(self.client.clone());
        let classes = self.around.clone();
        self.run(self.informer(api, "runtimeclasses"), move |change| match change {
            InformerEvent::Applied(class) => {
                classes
                    .set_runtime_class(&class.name_any(), Some(runtime_class_scheduling(&class)));
                Some(class.name_any())
            }
            InformerEvent::Deleted(name) => {
                classes.set_runtime_class(&name, None);
                None
            }
            InformerEvent::ListStarted | InformerEvent::ListCompleted => None,
        })
    }

    fn autoscalers(&self) -> BoxFuture<'static, ()> {
        let api = scoped::<DeserializeGuard<SlimAutoscaler>>(self.client, self.namespace);
        let scalers = self.around.clone();
        self.run(self.informer(api, "horizontalpodautoscalers"), move |change| match change {
            InformerEvent::Applied(scaler) => {
                scalers.set_max_replicas(scale_target(&scaler), Some(scaler.spec.max_replicas));
                Some(scale_target(&scaler))
            }
            InformerEvent::Deleted(target) => {
                scalers.set_max_replicas(target, None);
                None
            }
            InformerEvent::ListStarted | InformerEvent::ListCompleted => None,
        })
    }

    fn informer<K>(&self, api: Api<K>, resource: &'static str) -> Informer<K>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        Informer::new(api, resource, WorkKind::Watch, self.object_errors)
    }

    /// Runs an informer with a handler that calls `note`.
    fn run<K, E>(
        &self,
        informer: Informer<DeserializeGuard<K>>,
        note: impl FnMut(InformerEvent<K, E>) -> Option<E> + Send + 'static,
    ) -> BoxFuture<'static, ()>
    where
        K: Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Send + 'static,
        E: PartialEq + Send + 'static,
    {
        let handler = EntriesHandler {
            note,
            entries: ObjectEntries::new(),
            ready: Some(self.ready.clone()),
            object_errors: self.object_errors.clone(),
            object: PhantomData::<fn(K)>,
        };
        Box::pin(informer.run(handler, self.stop.clone()))
    }
}

enum InformerEvent<K, E> {
    /// An object was created or changed; the handler returns the entry that it stored for it.
    Applied(K),
    /// The object of an entry was deleted.
    Deleted(E),
    /// A list of all objects starts.
    ListStarted,
    /// The list is complete: no other objects exist.
    ListCompleted,
}

/// Entries by object. An object may change its entry. An object that is deleted while the watch is
/// interrupted has no event; it is only missing from the next list.
struct ObjectEntries<E> {
    by_object: HashMap<String, E>,
    /// Objects seen in the current list; `None` outside a list.
    listed: Option<HashSet<String>>,
}

impl<E: PartialEq> ObjectEntries<E> {
    fn new() -> Self {
        Self { by_object: HashMap::new(), listed: None }
    }

    /// Stores an object's entry. Returns its previous entry if that was different.
    fn insert(&mut self, object: String, entry: E) -> Option<E> {
        self.mark_listed(&object);
        let same = self.by_object.get(&object).is_some_and(|known| *known == entry);
        self.by_object.insert(object, entry).filter(|_| !same)
    }

    /// Records that the current list contains the object.
    fn mark_listed(&mut self, object: &str) {
        if let Some(listed) = &mut self.listed {
            listed.insert(object.to_owned());
        }
    }

    fn remove(&mut self, object: &str) -> Option<E> {
        self.by_object.remove(object)
    }

    /// Starts a list.
    fn start_list(&mut self) {
        self.listed = Some(HashSet::new());
    }

    /// Completes the list. Returns the entries of objects that were not in it.
    fn complete_list(&mut self) -> Vec<E> {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<String> =
            self.by_object.keys().filter(|object| !listed.contains(*object)).cloned().collect();
        gone.iter().filter_map(|object| self.by_object.remove(object)).collect()
    }
}

fn object_key<K: ResourceExt>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// Handler that stores an entry for each object.
struct EntriesHandler<K, E, F> {
    note: F,
    entries: ObjectEntries<E>,
    /// Counter that is incremented when the first list is complete.
    ready: Option<Sender<usize>>,
    object_errors: ObjectErrorMetrics,
    object: PhantomData<fn(K)>,
}

impl<K, E, F> EntriesHandler<K, E, F> {
    fn report_ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready.send_modify(|count| *count += 1);
        }
    }
}

impl<K, E, F> EventHandler for EntriesHandler<K, E, F>
where
    K: Resource<DynamicType: Default> + 'static,
    E: PartialEq + Send + 'static,
    F: FnMut(InformerEvent<K, E>) -> Option<E> + Send + 'static,
{
    type Object = DeserializeGuard<K>;
    type Change = ();

    fn handle(&mut self, event: Event<Self::Object>) -> Option<()> {
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                let key = object_key(&object);
                self.entries.mark_listed(&key);
                let object = decode(object, &self.object_errors)?;
                if let Some(old) = (self.note)(InformerEvent::Applied(object))
                    .and_then(|entry| self.entries.insert(key, entry))
                {
                    (self.note)(InformerEvent::Deleted(old));
                }
            }
            Event::Delete(object) => {
                if let Some(old) = self.entries.remove(&object_key(&object)) {
                    (self.note)(InformerEvent::Deleted(old));
                }
            }
            Event::Init => {
                self.entries.start_list();
                (self.note)(InformerEvent::ListStarted);
            }
            Event::InitDone => {
                (self.note)(InformerEvent::ListCompleted);
                for old in self.entries.complete_list() {
                    (self.note)(InformerEvent::Deleted(old));
                }
                self.report_ready();
            }
        }
        None
    }

    async fn deliver(&mut self, (): ()) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn interrupted(&mut self, error: &watcher::Error) {
        // An installation for one namespace may lack the permission to list cluster-wide objects.
        // They are then treated as absent.
        if interruption_kind(error).is_forbidden() {
            self.report_ready();
        }
    }
}

fn prewarm_annotations(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations
        .iter()
        .filter(|(key, _)| key.starts_with(PREFIX))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn runtime_class_scheduling(class: &RuntimeClass) -> RuntimeClassScheduling {
    let scheduling = class.scheduling.clone().unwrap_or_default();
    RuntimeClassScheduling {
        node_selector: scheduling.node_selector.unwrap_or_default(),
        tolerations: scheduling.tolerations.unwrap_or_default(),
    }
}

fn scale_target(scaler: &SlimAutoscaler) -> WorkloadIdentity {
    let target = &scaler.spec.scale_target_ref;
    (scaler.namespace().unwrap_or_default(), target.kind.clone(), target.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_missing_from_a_list_are_deleted() {
        let mut entries = ObjectEntries::new();
        entries.start_list();
        for name in ["a", "b"] {
            assert_eq!(entries.insert(name.into(), name.to_owned()), None);
        }
        assert_eq!(entries.complete_list(), Vec::<String>::new());
        assert_eq!(entries.insert("c".into(), "c".into()), None);
        entries.start_list();
        entries.insert("a".into(), "a".into());
        let mut gone = entries.complete_list();
        gone.sort();
        assert_eq!(gone, ["b", "c"]);
        assert_eq!(entries.remove("b"), None);
    }

    #[test]
    fn new_entry_of_an_object_replaces_its_previous_one() {
        let mut entries = ObjectEntries::new();
        entries.insert("scaler".into(), "web");
        assert_eq!(entries.insert("scaler".into(), "web"), None);
        assert_eq!(entries.insert("scaler".into(), "api"), Some("web"));
        assert_eq!(entries.remove("scaler"), Some("api"));
    }
}
